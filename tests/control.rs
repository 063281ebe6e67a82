//! Watching over a group: deaths, silence, verdicts and goodbyes, with real sockets and real processes.

mod support;

use ringfold::ErrorKind;
use ringfold::bootstrap::join;
use ringfold::error::{Cause, CauseKind};
use ringfold::observe::Poison;
use ringfold::transport::control::frame::{self, Frame};
use ringfold::transport::control::{ControlLink, Hello, LinkConfig, Server};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::member::Member;
use support::{LONG, Raw, config, group, hello, join_ranks, launcher, on_ranks, poisoned, unused_address};

/// A heartbeat deadline that does not pass by accident.
const BEAT: Duration = Duration::from_secs(10);
/// One that passes soon.
const SHORT: Duration = Duration::from_millis(300);

fn cause(kind: CauseKind, sequence: u64, culprit: usize, reporter: usize) -> Cause {
    Cause { generation: 3, sequence, kind, culprit, reporter, detail: format!("{reporter} blames {culprit}") }
}

#[test]
fn a_link_that_closes_without_a_goodbye_is_a_death_that_everybody_hears_of() {
    let server = launcher(4, BEAT);
    let who = Hello { pid: 4711, host: "a".into(), ..hello(2, 4) };
    let mut raw = Raw::hello(server.address(), &who);
    assert!(matches!(raw.next(), Some(Frame::Welcome { .. })));
    // The raw rank never joins in; the others have links of their own.
    let links: Vec<ControlLink> = [0, 1, 3].into_iter().map(|rank| link(&server, rank, 4)).collect();
    drop(raw);
    let start = Instant::now();
    for link in &links {
        let (cause, _) = poisoned(link.poison());
        assert_eq!((cause.kind, cause.culprit), (CauseKind::PeerDead, 2));
        assert_eq!(
            cause.detail,
            "rank 2 (pid 4711 on host a) died: its control link closed without a goodbye"
        );
        assert_eq!(Some(&cause), server.verdict());
    }
    assert!(start.elapsed() < Duration::from_secs(2), "far sooner than any heartbeat: {:?}", start.elapsed());
    let error = links[0].all_gather(b"x", LONG).unwrap_err();
    assert_eq!((error.kind(), error.culprit(), error.rank()), (ErrorKind::PeerDead, Some(2), Some(0)));
}

/// Row 10, on the control link.
#[test]
fn a_link_that_is_reset_in_the_middle_of_a_frame_is_a_death() {
    let server = launcher(2, BEAT);
    let mut raw = Raw::rank(server.address(), 1, 2);
    let other = link(&server, 0, 2);
    raw.write(&frame::encode(&Frame::Contribute { round: 0, message: vec![1; 100] })[..50]);
    socket2::SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    let (cause, _) = poisoned(other.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::PeerDead, 1), "{}", cause.detail);
}

fn link(server: &Server, rank: usize, world: usize) -> ControlLink {
    let times = LinkConfig { heartbeat_deadline: BEAT, timeout: LONG };
    ControlLink::connect(server.address(), hello(rank, world), times, Arc::new(Poison::new())).unwrap()
}

#[test]
fn a_rank_that_gives_no_sign_of_life_is_unresponsive() {
    let server = launcher(3, SHORT);
    let _raw = Raw::rank(server.address(), 1, 3);
    let start = Instant::now();
    let links = [link(&server, 0, 3), link(&server, 2, 3)];
    for link in &links {
        let (cause, _) = poisoned(link.poison());
        assert_eq!((cause.kind, cause.culprit), (CauseKind::Unresponsive, 1), "{}", cause.detail);
        assert!(cause.detail.contains("no sign of life for 300ms"), "{}", cause.detail);
    }
    assert!(start.elapsed() >= SHORT - Duration::from_millis(50));
    // A waiting exchange fails with the verdict.
    assert_eq!(links[0].all_gather(b"", LONG).unwrap_err().kind(), ErrorKind::Unresponsive);
}

#[test]
fn heartbeats_keep_an_idle_group_alive() {
    let (server, group) = group(3, Duration::from_millis(200));
    std::thread::sleep(Duration::from_millis(700));
    assert!(group.iter().all(|joined| !joined.poison.is_set()));
    assert_eq!(server.verdict(), None);
}

#[test]
fn goodbyes_are_no_failures() {
    let (server, mut group) = group(3, BEAT);
    group[1].link.goodbye();
    group[1].link.goodbye();
    assert_eq!(group[1].link.all_gather(b"", LONG).unwrap_err().kind(), ErrorKind::Closed);
    let start = Instant::now();
    drop(group.remove(1));
    assert!(start.elapsed() < Duration::from_millis(150), "dropping after a goodbye waits for nothing");
    std::thread::sleep(Duration::from_millis(60));
    assert!(!group[0].poison.is_set() && !group[1].poison.is_set());
    assert_eq!(server.verdict(), None);
}

#[test]
fn all_ranks_hear_the_same_verdict_whoever_reports_what() {
    let (server, group) = group(4, BEAT);
    // Rank 2 differs from its neighbours; others only notice that they wait in vain.
    let told = [
        cause(CauseKind::Deadline, 7, 3, 0),
        cause(CauseKind::Mismatch, 7, 2, 1),
        cause(CauseKind::Mismatch, 7, 1, 2),
        cause(CauseKind::Mismatch, 7, 2, 3),
    ];
    for (joined, cause) in group.iter().zip(&told) {
        joined.link.reporter().report(cause);
    }
    let verdicts: Vec<Cause> = group.iter().map(|joined| poisoned(&joined.poison).0).collect();
    for verdict in &verdicts {
        assert_eq!(verdict, &told[1], "the mismatch wins, and rank 2 is in most pairs");
    }
    assert_eq!(server.verdict(), Some(&told[1]));
    // What comes later changes nothing.
    group[0].link.reporter().report(&cause(CauseKind::PeerDead, 0, 3, 0));
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(group[1].poison.cause(), Some(&told[1]));
    assert_eq!(server.verdict(), Some(&told[1]));
}

#[test]
fn a_death_outweighs_what_it_leads_to() {
    let server = launcher(3, BEAT);
    let raw = Raw::rank(server.address(), 2, 3);
    let links = [link(&server, 0, 3), link(&server, 1, 3)];
    // The neighbour notices first, and would have rank 1 blamed for being late.
    links[0].reporter().report(&cause(CauseKind::Closed, 5, 2, 0));
    links[0].reporter().report(&cause(CauseKind::Deadline, 4, 1, 0));
    drop(raw);
    for link in &links {
        let (cause, _) = poisoned(link.poison());
        assert_eq!((cause.kind, cause.culprit), (CauseKind::PeerDead, 2));
    }
}

#[test]
fn a_reporter_is_the_one_who_reports_and_details_are_cut() {
    let (server, group) = group(2, BEAT);
    let long = Cause { detail: "long ".repeat(1000), ..cause(CauseKind::Abort, 1, 0, 77) };
    group[1].link.reporter().report(&long);
    let (verdict, _) = poisoned(&group[0].poison);
    assert_eq!((verdict.culprit, verdict.reporter), (0, 1));
    assert_eq!(verdict.detail.len(), Cause::DETAIL_LIMIT);
    assert_eq!(server.verdict(), Some(&verdict));
}

#[test]
fn who_comes_late_still_hears_the_verdict() {
    let server = launcher(3, BEAT);
    let links = [link(&server, 0, 3), link(&server, 1, 3)];
    links[0].reporter().report(&cause(CauseKind::UserPanic, 2, 0, 0));
    let (verdict, _) = poisoned(links[1].poison());
    let late = link(&server, 2, 3);
    assert_eq!(poisoned(late.poison()).0, verdict);
    let mut raw_late = Raw::hello(server.address(), &hello(2, 3));
    assert!(matches!(raw_late.next(), Some(Frame::Refuse { .. })), "once");
}

#[test]
fn a_report_after_the_verdict_is_answered_with_the_verdict() {
    let server = launcher(2, BEAT);
    let mut raw = Raw::rank(server.address(), 1, 2);
    let first = cause(CauseKind::Abort, 2, 1, 1);
    raw.say(&Frame::Report(first.clone()));
    assert_eq!(raw.next(), Some(Frame::Verdict(first.clone())));
    raw.say(&Frame::Report(cause(CauseKind::PeerDead, 0, 0, 1)));
    assert_eq!(raw.next(), Some(Frame::Verdict(first)));
    raw.say(&Frame::Report(Cause { culprit: 2, ..cause(CauseKind::PeerDead, 0, 0, 1) }));
    assert_eq!(raw.next(), None, "no such rank to blame");
}

#[test]
fn the_launcher_may_tell_what_became_of_a_child() {
    let (server, group) = group(2, BEAT);
    let killed =
        Cause { detail: "killed by signal 9".into(), ..cause(CauseKind::PeerDead, 0, 1, Cause::STORE) };
    server.report(killed.clone());
    assert_eq!(poisoned(&group[0].poison).0, killed);
}

#[test]
fn the_store_outlives_its_host_rank() {
    let store = unused_address();
    let mut group = on_ranks(3, |rank| join(&config(rank, 3).with_store(&*store)).unwrap());
    drop(group.remove(0));
    std::thread::sleep(Duration::from_millis(60));
    assert!(group.iter().all(|joined| !joined.poison.is_set()), "its host has left in good order");
    group[0].link.reporter().report(&cause(CauseKind::Abort, 9, 2, 1));
    let first = poisoned(&group[0].poison).0;
    assert_eq!(poisoned(&group[1].poison).0, first, "and it still serves the others");
    drop(group);
    let start = Instant::now();
    while std::net::TcpStream::connect(&store).is_ok() {
        assert!(start.elapsed() < LONG, "with the last one it ends");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A store that says welcome, and then what the test wants.
fn false_store(host_rank: Option<u32>, heartbeat: Duration) -> (Raw, ControlLink) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let link = scope.spawn(move || {
            let times = LinkConfig { heartbeat_deadline: heartbeat, timeout: LONG };
            ControlLink::connect(address, hello(1, 3), times, Arc::new(Poison::new())).unwrap()
        });
        let mut store = Raw::new(listener.accept().unwrap().0);
        store.say(&Frame::Welcome { version: 1, heartbeat: heartbeat.as_millis() as u32, host_rank });
        (store, link.join().unwrap())
    })
}

#[test]
fn the_loss_of_the_store_is_the_death_of_its_host() {
    let (store, link) = false_store(Some(0), BEAT);
    drop(store);
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit, cause.reporter), (CauseKind::PeerDead, 0, 1), "{}", cause.detail);
    let (store, link) = false_store(None, BEAT);
    drop(store);
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::PeerDead, Cause::STORE));
    assert_eq!(link.all_gather(b"", LONG).unwrap_err().culprit(), None);
}

#[test]
fn a_silent_store_is_an_unresponsive_host() {
    let (mut store, link) = false_store(Some(0), SHORT);
    let start = Instant::now();
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::Unresponsive, 0), "{}", cause.detail);
    assert!(start.elapsed() < SHORT * 4, "{:?}", start.elapsed());
    // Should it wake up, it finds a reason and a goodbye, not a death.
    let mut hello = [0u8; Hello::SIZE];
    std::io::Read::read_exact(&mut store.stream, &mut hello).unwrap();
    assert_eq!(store.next(), Some(Frame::Report(cause)));
    assert_eq!(store.next(), Some(Frame::Goodbye));
    assert_eq!(store.next(), None);
}

#[test]
fn a_store_whose_host_has_left_may_go() {
    let (mut store, link) = false_store(Some(0), BEAT);
    store.say(&Frame::HostLeft);
    drop(store);
    std::thread::sleep(Duration::from_millis(60));
    assert!(!link.poison().is_set());
    assert_eq!(link.all_gather(b"", LONG).unwrap_err().kind(), ErrorKind::Closed);
    // With nobody to ask, what this rank sees is what it goes by.
    let seen = cause(CauseKind::Closed, 3, 2, 1);
    link.reporter().report(&seen);
    assert_eq!(link.poison().cause(), Some(&seen));
}

#[test]
fn a_store_that_talks_nonsense_is_given_up() {
    let (mut store, link) = false_store(Some(0), BEAT);
    store.write(&[0xff; 64]);
    let (cause, _) = poisoned(link.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::Unreachable, 0), "{}", cause.detail);
}

#[test]
fn leaving_a_store_that_does_not_listen_is_bounded() {
    let (_store, link) = false_store(Some(0), BEAT);
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
fn ranks_that_nobody_reads_from_are_told_no_more_than_fits() {
    // A rank that asks and never reads: the store stops listening to it, and nobody else notices.
    let server = launcher(2, SHORT);
    let mut raw = Raw::rank(server.address(), 1, 2);
    raw.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let query = frame::encode(&Frame::Query { round: 0 }).repeat(1000);
    let other = link(&server, 0, 2);
    let start = Instant::now();
    while std::io::Write::write_all(&mut raw.stream, &query).is_ok() {
        assert!(start.elapsed() < LONG, "the store takes in questions without end");
    }
    let (cause, _) = poisoned(other.poison());
    assert_eq!(cause.culprit, 1, "{}", cause.detail);
}

/// Rows 1 and 36 with real processes.
#[test]
fn a_killed_process_is_named_by_all_survivors() {
    for victim in [1, 0] {
        let store = unused_address();
        let members: Vec<Member> = (0..3).map(|rank| Member::start(rank, 3, &store, BEAT)).collect();
        members.iter().for_each(|m| assert_eq!(m.line(), "joined"));
        members[victim].signal(nix::sys::signal::Signal::SIGKILL);
        for rank in (0..3).filter(|&rank| rank != victim) {
            assert_eq!(members[rank].line(), format!("PeerDead {victim}"));
        }
    }
}

/// Rows 4 and 5: the survivors name the stopped one, and it learns so when it goes on.
#[test]
fn a_stopped_process_is_named_and_learns_of_it() {
    for victim in [2, 0] {
        let store = unused_address();
        let members: Vec<Member> =
            (0..3).map(|rank| Member::start(rank, 3, &store, Duration::from_millis(500))).collect();
        members.iter().for_each(|m| assert_eq!(m.line(), "joined"));
        members[victim].signal(nix::sys::signal::Signal::SIGSTOP);
        for rank in (0..3).filter(|&rank| rank != victim) {
            assert_eq!(members[rank].line(), format!("Unresponsive {victim}"));
        }
        members[victim].signal(nix::sys::signal::Signal::SIGCONT);
        assert_eq!(members[victim].line(), format!("Unresponsive {victim}"));
    }
}

/// A whole machine that stands still, or a whole job that is stopped: nobody is to blame.
#[test]
fn a_group_that_is_stopped_as_a_whole_goes_on() {
    use nix::sys::signal::Signal;
    let store = unused_address();
    let beat = Duration::from_millis(500);
    let mut members: Vec<Member> = (0..3).map(|rank| Member::start(rank, 3, &store, beat)).collect();
    members.iter().for_each(|m| assert_eq!(m.line(), "joined"));
    members.iter().for_each(|m| m.signal(Signal::SIGSTOP));
    std::thread::sleep(beat * 3);
    members.iter().rev().for_each(|m| m.signal(Signal::SIGCONT));
    std::thread::sleep(beat * 2);
    members.iter_mut().for_each(Member::leave);
}

#[test]
fn processes_that_leave_in_any_order_do_not_fail() {
    for first in [0, 2] {
        let store = unused_address();
        let mut members: Vec<Member> = (0..3).map(|rank| Member::start(rank, 3, &store, BEAT)).collect();
        members.iter().for_each(|m| assert_eq!(m.line(), "joined"));
        members[first].leave();
        std::thread::sleep(Duration::from_millis(100));
        for rank in (0..3).filter(|&rank| rank != first) {
            members[rank].leave();
        }
    }
}

/// The body of a [`Member`]'s process; nothing when it is run as a test.
#[test]
fn member() {
    support::member::run();
}

#[test]
fn a_group_of_threads_can_form_many_times() {
    for _ in 0..20 {
        let server = launcher(3, BEAT);
        let joined = join_ranks(&server, 3, &[0, 1, 2], BEAT);
        assert!(joined.iter().all(|j| !j.poison.is_set()));
    }
}
