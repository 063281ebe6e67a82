//! Messages of ranks to the store's host: the newest one, few of them, the last ahead of the goodbye.

use crate::support::{LONG, Raw, hello, on_ranks, poisoned};
use ringfold::error::CauseKind;
use ringfold::observe::Poison;
use ringfold::transport::control::frame::{self, Frame};
use ringfold::transport::control::{
    ControlLink, Ear, Hello, LinkConfig, Server, TELL_LIMIT, TELL_PAUSE, VERSIONS,
};
use ringfold::{Communicator, Config, ErrorKind, bootstrap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_secs(10);

type Heard = (usize, Vec<u8>);

/// A store that passes on what it hears.
fn store(world: usize) -> (Server, Receiver<Heard>) {
    let (say, heard) = channel();
    let say = Mutex::new(say);
    let ear = Ear::new(Arc::new(move |rank, message: &[u8]| {
        let _ = say.lock().unwrap().send((rank, message.to_vec()));
    }));
    (bootstrap::host_and_hear(world, 7, 3, BEAT, Some(ear)).unwrap(), heard)
}

fn link_as(address: SocketAddr, hello: Hello) -> ControlLink {
    let times = LinkConfig { heartbeat_deadline: BEAT, timeout: LONG };
    ControlLink::connect(address, hello, times, Arc::new(Poison::new())).unwrap()
}

#[test]
fn what_a_rank_tells_is_heard_and_the_last_of_it_before_it_leaves() {
    let (server, heard) = store(2);
    let links = [0, 1].map(|rank| link_as(server.address(), hello(rank, 2)));
    assert!(links[1].reporter().tells());
    links[1].reporter().tell(b"first".to_vec()).unwrap();
    assert_eq!(heard.recv_timeout(LONG).unwrap(), (1, b"first".to_vec()));
    links[0].reporter().tell(Vec::new()).unwrap();
    assert_eq!(heard.recv_timeout(LONG).unwrap(), (0, Vec::new()));
    // Not sent for a while yet, so that the newest takes its place.
    for number in 0..1000 {
        links[1].reporter().tell(format!("{number}").into_bytes()).unwrap();
    }
    let reporter = links[1].reporter();
    drop(links);
    let mut last = heard.recv_timeout(LONG).unwrap();
    while let Ok(more) = heard.recv_timeout(Duration::from_millis(200)) {
        last = more;
    }
    assert_eq!(last, (1, b"999".to_vec()));
    reporter.tell(b"after the goodbye".to_vec()).unwrap();
    assert!(heard.recv_timeout(2 * TELL_PAUSE).is_err());
    assert_eq!(server.verdict(), None);
}

#[test]
fn messages_are_few_however_often_a_rank_tells() {
    let (server, heard) = store(1);
    let link = link_as(server.address(), hello(0, 1));
    let reporter = link.reporter();
    let (start, asked) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&asked);
    reporter.tell_by(Arc::new(move || Some(counts.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec())));
    while start.elapsed() < Duration::from_millis(700) {
        reporter.news();
    }
    drop(link);
    let most = 3 + (start.elapsed().as_millis() / TELL_PAUSE.as_millis()) as usize;
    assert!((2..=most).contains(&asked.load(Ordering::Relaxed)), "{asked:?} of {most} at most");
    let mut messages = Vec::new();
    while let Ok((0, message)) = heard.recv_timeout(Duration::from_millis(200)) {
        messages.push(usize::from_le_bytes(message.try_into().unwrap()));
    }
    assert!(messages.is_sorted() && messages.len() <= most, "{messages:?}");
    assert_eq!(
        messages.last(),
        Some(&(asked.load(Ordering::Relaxed) - 1)),
        "the last one before the goodbye"
    );
}

#[test]
fn a_source_that_says_the_same_again_is_not_sent_and_one_that_changes_by_itself_is() {
    let (server, heard) = store(1);
    let link = link_as(server.address(), hello(0, 1));
    let state = Arc::new(Mutex::new(b"one".to_vec()));
    let of_source = Arc::clone(&state);
    link.reporter().tell_by(Arc::new(move || Some(of_source.lock().unwrap().clone())));
    assert_eq!(heard.recv_timeout(LONG).unwrap().1, b"one");
    link.reporter().news();
    assert!(heard.recv_timeout(Duration::from_millis(1300)).is_err(), "nothing is new");
    *state.lock().unwrap() = b"two".to_vec();
    assert_eq!(heard.recv_timeout(LONG).unwrap().1, b"two", "nobody has said so, and it is told");
    *state.lock().unwrap() = vec![0; TELL_LIMIT + 1];
    link.reporter().news();
    link.reporter().tell_by(Arc::new(|| panic!("on purpose")));
    link.reporter().news();
    assert!(heard.recv_timeout(Duration::from_millis(300)).is_err());
    link.reporter().tell_by(Arc::new(|| Some(b"sound".to_vec())));
    assert_eq!(heard.recv_timeout(LONG).unwrap().1, b"sound");
}

#[test]
fn a_message_that_is_too_long_is_refused_by_either_end() {
    let (server, heard) = store(2);
    let link = link_as(server.address(), hello(0, 2));
    let error = link.reporter().tell(vec![0; TELL_LIMIT + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    link.reporter().tell(vec![1; TELL_LIMIT]).unwrap();
    assert_eq!(heard.recv_timeout(LONG).unwrap(), (0, vec![1; TELL_LIMIT]));
    let mut raw = Raw::rank(server.address(), 1, 2);
    raw.say(&Frame::Tell { message: vec![0; TELL_LIMIT + 1] });
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::Unreachable, 1), "{}", cause.detail);
    assert!(cause.detail.contains("makes no sense"), "{}", cause.detail);
}

#[test]
fn an_ear_that_panics_is_told_no_more_and_the_group_goes_on() {
    let counts = Arc::new(AtomicUsize::new(0));
    let of_ear = Arc::clone(&counts);
    let ear = Ear::new(Arc::new(move |_, _: &[u8]| {
        of_ear.fetch_add(1, Ordering::Relaxed);
        panic!("on purpose");
    }));
    let server = bootstrap::host_and_hear(2, 7, 3, BEAT, Some(ear)).unwrap();
    let links = [0, 1].map(|rank| link_as(server.address(), hello(rank, 2)));
    for link in &links {
        link.reporter().tell(b"hello".to_vec()).unwrap();
    }
    let gathered = on_ranks(2, |rank| links[rank].all_gather(&[rank as u8], LONG).unwrap());
    assert_eq!(gathered, [[[0], [1]], [[0], [1]]]);
    drop(links);
    assert_eq!(counts.load(Ordering::Relaxed), 1);
    assert_eq!(server.verdict(), None);
}

/// A rank of before there were such messages.
#[test]
fn an_older_rank_is_welcome_and_must_not_tell() {
    let (server, heard) = store(2);
    let old = |rank| Hello { versions: (1, 1), ..hello(rank, 2) };
    let link = link_as(server.address(), old(0));
    assert!(!link.reporter().tells());
    link.reporter().tell(b"unheard".to_vec()).unwrap();
    link.reporter().tell_by(Arc::new(|| Some(b"unheard".to_vec())));
    link.reporter().news();
    let mut raw = Raw::hello(server.address(), &old(1));
    assert!(matches!(raw.next(), Some(Frame::Welcome { version: 1, .. })));
    raw.say(&Frame::Tell { message: b"by the wrong version".to_vec() });
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::Unreachable, 1), "{}", cause.detail);
    assert!(heard.try_recv().is_err());
}

/// A store of before there were such messages, which would take one for garbage.
#[test]
fn an_older_store_is_told_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let old = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut said = [0; Hello::SIZE];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(Hello::decode(&said).unwrap().versions, VERSIONS);
        let welcome = Frame::Welcome { version: 1, heartbeat: 10_000, host_rank: None };
        stream.write_all(&frame::encode(&welcome)).unwrap();
        let mut raw = Raw::new(stream);
        std::iter::from_fn(|| raw.next().filter(|frame| *frame != Frame::Goodbye)).collect::<Vec<_>>()
    });
    let link = link_as(address, hello(0, 1));
    link.reporter().tell(b"unheard".to_vec()).unwrap();
    link.reporter().tell_by(Arc::new(|| Some(b"unheard".to_vec())));
    link.reporter().news();
    std::thread::sleep(2 * TELL_PAUSE);
    drop(link);
    assert_eq!(old.join().unwrap(), []);
}

/// Groups whose store is in rank 0's process, and threads: nobody hears, and nothing goes wrong.
#[test]
fn where_nobody_hears_reporters_are_without_effect() {
    use ringfold::task::monitor::Reporter;
    let alone = Communicator::local(1).remove(0);
    let reporter = Reporter::of(&alone);
    assert!(!reporter.is_heard());
    reporter.progress(1, 2);
    alone.barrier().unwrap();
    assert_eq!(reporter.report().counters().unwrap().operations["barrier"].completed, 1);
    let own_store = Communicator::connect(&Config::default().with_rank(0).with_world_size(1)).unwrap();
    let reporter = Reporter::of(&own_store);
    reporter.progress(1, 2);
    assert!(reporter.metric("not a name", 0.0).is_err());
    own_store.barrier().unwrap();
    drop(own_store);
    reporter.progress(2, 2);
    assert_eq!(reporter.report().progress().unwrap().done, 2);
}
