//! Forming a group: the rows of the failure catalogue that happen before the first collective.

mod support;

use ringfold::ErrorKind;
use ringfold::bootstrap::{CallbackExchange, Joined, join, join_with};
use ringfold::config::{Config, Job};
use ringfold::error::CauseKind;
use ringfold::observe::Poison;
use ringfold::transport::control::frame::{self, Frame};
use ringfold::transport::control::{ControlLink, Hello, LinkConfig, Refusal, Server};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use support::member::Member;
use support::{LONG, Raw, config, group, hello, join_ranks, launcher, on_ranks, poisoned, unused_address};

const BEAT: Duration = Duration::from_secs(2);

fn check_group(group: &[Joined]) {
    let world = group.len();
    for (rank, joined) in group.iter().enumerate() {
        assert_eq!((joined.rank, joined.world), (rank, world));
        assert_eq!(joined.peers, group[0].peers, "everybody knows the same");
        assert_eq!(joined.peers.len(), world);
        assert_eq!(joined.peers[rank].address, joined.listener.local_addr().unwrap());
        assert!(joined.peers[rank].address.ip().is_loopback(), "nobody listens further than needed");
        assert_eq!(joined.world_id, group[0].world_id);
        assert!(!joined.poison.is_set());
    }
}

#[test]
fn a_group_forms_over_a_store_that_rank_0_hosts() {
    let store = unused_address();
    let group = on_ranks(4, |rank| join(&config(rank, 4).with_store(&*store)).unwrap());
    check_group(&group);
    assert!(group[0].server.is_some() && group[1].server.is_none());
    assert_eq!(group[2].link.host_rank(), Some(0));
}

/// Also those that could.
#[test]
#[cfg(not(feature = "mpi"))]
fn without_mpi_every_rank_is_told_how_to_have_it() {
    use ringfold::config::BackendChoice;
    let store = unused_address();
    let errors = on_ranks(3, |rank| {
        let config = config(rank, 3).with_store(&*store).with_backend(BackendChoice::MpiP2p);
        ringfold::Communicator::connect(&config).unwrap_err()
    });
    for (rank, error) in errors.into_iter().enumerate() {
        assert_eq!((error.kind(), error.rank()), (ErrorKind::Unsupported, Some(rank)), "{error}");
        assert!(error.what_to_do().is_some_and(|remedy| remedy.contains("--features mpi")), "{error}");
    }
}

#[test]
fn a_group_forms_under_a_launcher() {
    let (server, group) = group(3, BEAT);
    check_group(&group);
    assert_eq!(group[0].link.host_rank(), None);
    drop(group);
    let start = Instant::now();
    while !server.is_finished() {
        assert!(start.elapsed() < LONG, "the store ends when all have left");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.verdict(), None);
}

#[test]
fn a_lone_rank_needs_nothing() {
    let joined = join(&Config::default()).unwrap();
    check_group(&[joined]);
}

#[test]
fn ranks_of_mpirun_on_one_host_find_each_other() {
    let job = Job::Name(format!("bootstrap test {}", std::process::id()));
    for _ in 0..3 {
        let group = on_ranks(3, |rank| {
            let mut config = config(rank, 3).with_world_id(0).with_local(rank, 3);
            config.job = Some(job.clone());
            join(&config).unwrap()
        });
        check_group(&group);
        assert_ne!(group[0].world_id, 0);
    }
}

#[test]
fn without_a_store_ranks_elsewhere_are_told_what_to_set() {
    let error = join(&config(1, 4).with_local(1, 2)).unwrap_err();
    assert_eq!((error.kind(), error.rank()), (ErrorKind::Configuration, Some(1)));
    assert!(error.to_string().contains("RINGFOLD_STORE=host:port"), "{error}");
}

/// An all-gather among threads, as an engine would bring it; counts its uses.
struct Engine {
    messages: Mutex<Vec<Vec<u8>>>,
    uses: Mutex<usize>,
    barrier: Barrier,
}

impl Engine {
    fn new(world: usize) -> Self {
        Engine {
            messages: Mutex::new(vec![Vec::new(); world]),
            uses: Mutex::new(0),
            barrier: Barrier::new(world),
        }
    }

    fn all_gather(&self, rank: usize, message: &[u8]) -> Vec<Vec<u8>> {
        self.messages.lock().unwrap()[rank] = message.to_vec();
        *self.uses.lock().unwrap() += 1;
        self.barrier.wait();
        self.messages.lock().unwrap().clone()
    }
}

#[test]
fn a_users_all_gather_is_enough_and_is_used_once() {
    let engine = Engine::new(4);
    let group = on_ranks(4, |rank| {
        let mut exchange =
            CallbackExchange::new(rank, 4, |message: &[u8]| Ok(engine.all_gather(rank, message)));
        join_with(&mut exchange, &Config::default()).unwrap()
    });
    check_group(&group);
    assert_eq!(*engine.uses.lock().unwrap(), 4);
}

#[test]
fn ranks_on_several_hosts_must_not_listen_on_loopback() {
    let engine = Engine::new(2);
    let errors = on_ranks(2, |rank| {
        let mut exchange = CallbackExchange::new(rank, 2, |message: &[u8]| {
            let mut all = engine.all_gather(rank, message);
            // The other one's record, as it would look from another host.
            let there = String::from_utf8(all[1 - rank].clone()).unwrap();
            all[1 - rank] = there.replace("\"host_id\":\"", "\"host_id\":\"elsewhere ").into_bytes();
            Ok(all)
        });
        join_with(&mut exchange, &config(rank, 2)).unwrap_err()
    });
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("RINGFOLD_INTERFACE"), "{error}");
    }
}

/// Row 20, and what belongs to it: the refusal is typed and says why, and the group forms all the same.
#[test]
fn strangers_are_refused_and_the_group_forms() {
    let server = launcher(2, BEAT);
    let good = hello(0, 2);
    let cases = [
        (Hello { versions: (5, 9), ..good.clone() }, Refusal::Version, "versions 5 to 9"),
        (Hello { world_id: 8, ..good.clone() }, Refusal::WorldId, "world id 8"),
        (Hello { generation: 2, ..good.clone() }, Refusal::Generation, "generation 2"),
        (Hello { world: 3, ..good.clone() }, Refusal::WorldSize, "world size 3"),
        (Hello { rank: 2, ..good.clone() }, Refusal::Rank, "rank 2"),
    ];
    for (hello, reason, says) in &cases {
        let mut raw = Raw::hello(server.address(), hello);
        let Some(Frame::Refuse { reason: given, text }) = raw.next() else {
            panic!("a refusal of {hello:?}")
        };
        assert_eq!(given, *reason);
        assert!(text.contains(says), "{text}");
        assert_eq!(raw.next(), None, "and the connection closes");
    }
    let mut raw = Raw::connect(server.address());
    raw.write(b"GET / HTTP/1.0\r\n\r\n");
    assert!(matches!(raw.next(), Some(Frame::Refuse { reason: Refusal::Magic, .. })));
    check_group(&join_ranks(&server, 2, &[0, 1], BEAT));
}

#[test]
fn a_refusal_is_a_bootstrap_error_with_the_stores_words() {
    let server = launcher(2, BEAT);
    let store = server.address().to_string();
    let start = Instant::now();
    let late = config(1, 2).with_store(store).with_launcher_hosts_store(true).with_generation(2);
    let error = join(&late).unwrap_err();
    assert_eq!((error.kind(), error.rank()), (ErrorKind::Bootstrap, Some(1)));
    assert!(error.to_string().contains("generation 2, and this store to generation 3"), "{error}");
    assert!(start.elapsed() < LONG / 2, "there is no use in trying again");
}

/// Row 22.
#[test]
fn a_missing_rank_is_named_when_the_deadline_passes() {
    let store = unused_address();
    let deadline = Duration::from_millis(400);
    let errors = on_ranks(3, |rank| {
        // Ranks 1 and 3 of 5 never come.
        let config = config([0, 2, 4][rank], 5).with_store(&*store).with_init_deadline(deadline);
        let start = Instant::now();
        let error = join(&config).unwrap_err();
        assert!(start.elapsed() < deadline + LONG / 4);
        error
    });
    for error in errors {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Bootstrap, Some(1)), "{error}");
        assert!(error.to_string().contains("ranks 1 and 3 never connected"), "{error}");
    }
}

/// Row 22, where the others have more patience than rank 0, whose process ends.
#[test]
fn a_host_that_gives_up_says_for_whom_it_has_waited() {
    let store = unused_address();
    let host = Member::start_with(0, 3, &store, BEAT, Duration::from_millis(300));
    let error = join(&config(1, 3).with_world_id(0).with_generation(0).with_store(&*store)).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Bootstrap, Some(2)), "{error}");
    assert!(error.to_string().contains("rank 2 never connected"), "{error}");
    assert!(host.line().contains("rank 2 never connected"));
}

#[test]
fn a_store_that_is_not_there_is_named_with_the_rank() {
    let store = unused_address();
    let config = config(1, 2).with_store(&*store).with_init_deadline(Duration::from_millis(200));
    let error = join(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bootstrap);
    assert!(error.to_string().contains(&store) && error.to_string().contains("rank 1"), "{error}");
}

fn link(server: &Server, rank: usize, world: usize) -> ringfold::Result<ControlLink> {
    let times = LinkConfig { heartbeat_deadline: BEAT, timeout: LONG };
    ControlLink::connect(server.address(), hello(rank, world), times, Arc::new(Poison::new()))
}

/// Row 23, on one process's links; with real processes in `failures.rs`.
#[test]
fn the_second_with_one_rank_is_refused() {
    let server = launcher(2, BEAT);
    let first = link(&server, 0, 2).unwrap();
    let error = link(&server, 0, 2).unwrap_err();
    assert_eq!((error.kind(), error.rank()), (ErrorKind::Bootstrap, Some(0)));
    assert!(error.to_string().contains("connected already as rank 0 (pid"), "{error}");
    let other = link(&server, 1, 2).unwrap();
    let messages = on_ranks(2, |rank| [&first, &other][rank].all_gather(&[rank as u8], LONG).unwrap());
    assert_eq!(messages, [[[0], [1]], [[0], [1]]]);
    assert_eq!(server.verdict(), None);
    drop(first);
    let error = link(&server, 0, 2).unwrap_err();
    assert!(error.to_string().contains("was here before"), "{error}");
}

/// Rows 17 and 18.
#[test]
fn scans_silence_and_garbage_do_not_disturb() {
    let server = launcher(3, BEAT);
    let address = server.address();
    let silent: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut partial = Raw::connect(address);
    partial.write(&hello(1, 3).encode()[..100]);
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let group = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(17);
            while !done.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(address) {
                    let bytes: Vec<u8> = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
                    let _ = stream.write_all(&bytes);
                }
            }
        });
        let group = join_ranks(&server, 3, &[0, 1, 2], BEAT);
        done.store(true, Ordering::Relaxed);
        group
    });
    let took = start.elapsed();
    check_group(&group);
    assert!(took < LONG / 2, "it took {took:?}");
    // A silent connection has a second, and is then closed though the store lives on.
    for stream in silent {
        assert_eq!(Raw::new(stream).next(), None);
    }
    assert_eq!(partial.next(), None);
    assert!(start.elapsed() > Duration::from_millis(900));
    assert!(!group[0].poison.is_set() && !server.is_finished());
}

/// Row 19: the length alone is enough, nothing is allocated or waited for.
#[test]
fn a_huge_length_ends_the_link_at_once() {
    let (server, group) = {
        let server = launcher(2, BEAT);
        let mut raw = Raw::rank(server.address(), 1, 2);
        let first = link(&server, 0, 2).unwrap();
        let mut bytes = frame::encode(&Frame::Contribute { round: 0, message: vec![] });
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        raw.write(&bytes);
        assert_eq!(raw.next(), None);
        (server, first)
    };
    let (cause, _) = poisoned(group.poison());
    assert_eq!((cause.kind, cause.culprit), (CauseKind::Unreachable, 1));
    assert!(cause.detail.contains("4294967295 bytes"), "{}", cause.detail);
    assert_eq!(server.verdict(), Some(&cause));
}

#[test]
fn an_exchange_with_one_who_has_left_fails_at_once() {
    let server = launcher(2, BEAT);
    let (stays, leaves) = (link(&server, 0, 2).unwrap(), link(&server, 1, 2).unwrap());
    drop(leaves);
    let start = Instant::now();
    let error = stays.all_gather(b"hello?", LONG).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Closed, Some(1)));
    assert!(start.elapsed() < LONG / 4);
}

#[test]
fn messages_of_any_allowed_length_are_gathered_round_after_round() {
    let (_server, group) = group(3, BEAT);
    let got = on_ranks(3, |rank| {
        let mut all = Vec::new();
        for length in [0, 1, 1000, 64 * 1024] {
            all.push(group[rank].link.all_gather(&vec![rank as u8; length], LONG).unwrap());
        }
        let error = group[rank].link.all_gather(&vec![0; 64 * 1024 + 1], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        all
    });
    for all in got {
        for (round, length) in all.iter().zip([0, 1, 1000, 64 * 1024]) {
            let wanted: Vec<Vec<u8>> = (0..3).map(|rank| vec![rank; length]).collect();
            assert!(*round == wanted);
        }
    }
}

/// The body of a process that `mpirun` starts; nothing when it is run as a test.
#[test]
fn member() {
    support::member::run();
}

/// Real launchers, where they are installed: directly and through a shell.
#[test]
fn mpirun_needs_no_store() {
    for (command, options) in
        [("mpirun.mpich", &["-n", "3"][..]), ("mpirun.openmpi", &["--oversubscribe", "-n", "3"][..])]
    {
        for through_a_shell in [false, true] {
            let said = support::member::under_mpirun(command, options, through_a_shell);
            assert_eq!(said.matches("joined").count(), 3, "{command}: {said}");
            assert_eq!(said.matches("left").count(), 3, "{command}: {said}");
        }
    }
}
