//! What networks and strangers do to a group of real processes: rows 10 to 12, 16 to 19, 33, 34, 36 and 38 of the
//! catalogue of failures.

mod group;
mod proxy;
mod strangers;
#[path = "../support/mod.rs"]
mod support;

use group::{PATIENT, add, alone, as_rank, behind_proxies};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use proxy::Weather;
use ringfold::config::environment;
use ringfold::{Communicator, Options, ReduceOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::process::{Group, hear, tell, tell_end};

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    if let Some((scene, comm)) = as_rank() {
        play(&scene, comm);
    }
}

/// Ranks of one host share memory unless they are told otherwise.
#[test]
fn everything_again_over_tcp() {
    support::everything_again(environment::BACKEND, "tcp", "everything_again_over_tcp");
}

static INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
}

/// Before the group forms.
fn prepare(scene: &str) {
    if scene == "work in a storm" {
        let action = SigAction::new(SigHandler::Handler(interrupted), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only adds to an atomic number.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        tell("ready");
        hear();
    }
}

/// Sums, each of which is right if it is said to be there, until one is not.
fn sums_without_end(comm: &Communicator, options: Options) -> ringfold::Result<()> {
    let (with, world) = (comm.with(options), comm.world_size() as i32);
    let input: Vec<i32> = (0..4 << 20).map(|i| i % 1000 + comm.rank() as i32).collect();
    let mut sums = vec![0; input.len()];
    loop {
        with.all_reduce_into(&input, &mut sums, ReduceOp::Sum)?;
        let expected = (0..).map(|i| i % 1000 * world + world * (world - 1) / 2);
        assert!(sums.iter().zip(expected).all(|(&sum, expected)| sum == expected));
        sums.fill(-1);
    }
}

/// Every kind of call, some rounds of it, with results that are checked.
fn work(comm: &Communicator, rounds: usize, largest: usize) -> ringfold::Result<()> {
    let (rank, world) = (comm.rank() as u64, comm.world_size() as u64);
    let sum: u64 = (0..world).sum();
    for round in 0..rounds {
        for len in [1, 7, largest] {
            let mut data: Vec<u64> = (0..len as u64).map(|i| i + rank).collect();
            comm.all_reduce(&mut data, ReduceOp::Sum)?;
            assert!(data.iter().zip(0..).all(|(&x, i)| x == world * i + sum), "round {round}");
            let mut all = vec![0; len * world as usize];
            comm.all_gather(&vec![rank as u16; len], &mut all)?;
            assert!(all.chunks_exact(len).zip(0..).all(|(block, r)| block.iter().all(|&x| x == r)));
            let mut seed = vec![rank as u8; len];
            comm.broadcast(&mut seed, round % world as usize)?;
            assert_eq!(seed, vec![(round % world as usize) as u8; len]);
            let started = comm.start_all_reduce(vec![1i32; len], ReduceOp::Sum)?;
            assert_eq!(started.wait()?, vec![world as i32; len]);
        }
        comm.barrier()?;
    }
    Ok(())
}

fn play(scene: &str, comm: Communicator) {
    match scene {
        "work" => tell_end(work(&comm, 10, 5000)),
        "work a little" => tell_end(work(&comm, 1, 300)),
        "work in a storm" => {
            let result = work(&comm, 30, 50_000);
            assert!(INTERRUPTIONS.load(Ordering::Relaxed) > 100, "there was no storm");
            tell_end(result);
        }
        "reduce a lot" => {
            let result = sums_without_end(&comm, Options::new());
            // The group stays spoilt, by the same cause.
            let again = comm.barrier().unwrap_err();
            let first = result.as_ref().unwrap_err();
            assert_eq!((again.kind(), again.culprit()), (first.kind(), first.culprit()));
            tell_end(result);
        }
        "reduce with a deadline" => {
            let begun = Instant::now();
            let result = sums_without_end(&comm, Options::new().deadline(Duration::from_millis(1500)));
            assert!(begun.elapsed() < Duration::from_secs(30), "far beyond the deadline");
            tell_end(result);
        }
        "stay" => {
            tell("at work");
            hear();
            tell_end(comm.barrier());
        }
        "aborted in any state" => aborted_in_any_state(&comm),
        "a reduction panics" => {
            let me = comm.rank();
            let op = ReduceOp::custom("picky", true, move |a: i64, b: i64| {
                assert!(me != 1, "no {a} and {b}");
                a + b
            });
            tell_end(comm.all_reduce(&mut [7i64; 1000], &op));
        }
        other => panic!("no scene is called {other}"),
    }
}

/// One rank's other thread aborts after a while that the scene is told; all are busy with calls of many kinds, or with
/// none.
fn aborted_in_any_state(comm: &Communicator) {
    let pause: u64 = hear().parse().unwrap();
    let (rank, world) = (comm.rank(), comm.world_size());
    let aborted = Arc::new(AtomicBool::new(false));
    if rank == 1 {
        let (handle, aborted) = (comm.abort_handle(), Arc::clone(&aborted));
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(pause));
            aborted.store(true, Ordering::SeqCst);
            handle.abort("enough");
        });
    }
    let mut large = vec![0.0f32; 1 << 20];
    let mut all = vec![0u8; 1000 * world];
    let result = (0u64..).try_for_each(|round| {
        match round % 7 {
            0 => comm.all_reduce(&mut large, ReduceOp::Max),
            1 => comm.all_reduce(&mut large[..2], ReduceOp::Max),
            2 => comm.all_gather(&vec![1u8; 1000], &mut all),
            3 => comm.start_all_reduce(vec![1u8; 300_000], ReduceOp::Sum)?.wait().map(|_| ()),
            4 => comm.barrier(),
            // In no call at all, or in one that has just begun.
            5 => {
                std::thread::sleep(Duration::from_micros(pause % 700));
                Ok(())
            }
            _ => comm.reduce(&mut large[..70_000], ReduceOp::Max, 2),
        }
    });
    tell_end(result);
}

/// Row 12: reads and writes of one byte.
#[test]
fn bytes_that_come_one_by_one_make_the_same_results() {
    behind_proxies("work a little", &[Weather::Drizzle; 3]).all_fine();
}

#[test]
fn a_proxy_by_itself_changes_nothing() {
    behind_proxies("work", &[Weather::Fair; 3]).all_fine();
}

/// All ranks tell of one cause: one of these kinds, one of these culprits.
fn all_tell_alike(group: &Group, world: usize, kinds: &[&str], culprits: &[usize]) {
    let told: Vec<_> = (0..world).map(|rank| group.ranks[rank].end()).collect();
    for (rank, one) in told.iter().enumerate() {
        assert!(kinds.contains(&one.kind.as_str()), "rank {rank}: {} ({})", one.text, one.kind);
        assert!(one.culprit.is_some_and(|culprit| culprits.contains(&culprit)), "rank {rank}: {}", one.text);
        assert_eq!((&one.kind, one.culprit), (&told[0].kind, told[0].culprit), "ranks tell differently");
    }
}

/// Somewhere in the middle of a large message, which is in the middle of a frame.
const MIDDLE: usize = 5_000_001;

/// Rows 10 and 11: a reset, or an end, in the middle of a frame.
#[test]
fn a_connection_that_breaks_in_the_middle_of_a_frame_fails_every_rank_alike() {
    for weather in [Weather::ResetAfter(MIDDLE), Weather::CloseAfter(MIDDLE)] {
        let group = behind_proxies("reduce a lot", &[Weather::Fair, weather, Weather::Fair]);
        all_tell_alike(&group, 3, &["peer closed", "peer unreachable"], &[0, 1, 2]);
    }
}

/// Row 16: a peer, or the way to it, takes nothing any more.
#[test]
fn a_window_that_stays_shut_ends_with_the_deadline() {
    let weather = [Weather::Fair, Weather::StuckAfter(MIDDLE), Weather::Fair];
    let group = behind_proxies("reduce with a deadline", &weather);
    all_tell_alike(&group, 3, &["deadline passed"], &[0, 1, 2]);
}

/// Rows 17 to 19: scans, silence and absurd lengths, at the store and at every rank, while the group forms and works.
#[test]
fn strangers_at_every_door_disturb_nobody() {
    let mut group = Group::begin(3, PATIENT);
    let crowd = strangers::Crowd::at(group.store());
    // The group forms only with its last rank, long after the strangers have come.
    add(&mut group, "work", 0, 3);
    add(&mut group, "work", 1, 3);
    let doors = strangers::doors_of(&[group.ranks[0].id() as i32, group.ranks[1].id() as i32], 2);
    let crowds: Vec<_> = doors.into_iter().map(strangers::Crowd::at).collect();
    std::thread::sleep(Duration::from_millis(300));
    add(&mut group, "work", 2, 3);
    group.all_fine();
    assert!(crowd.visits() > 20, "{} visits only", crowd.visits());
    for crowd in &crowds {
        assert!(crowd.visits() > 5, "{} visits only", crowd.visits());
    }
}

/// Row 33: every system call of every thread is interrupted again and again.
#[test]
fn a_storm_of_signals_is_not_noticed() {
    let mut group = Group::begin(3, PATIENT);
    for rank in 0..3 {
        add(&mut group, "work in a storm", rank, 3);
    }
    for rank in 0..3 {
        assert_eq!(group.ranks[rank].line(), "ready");
    }
    let over = Arc::new(AtomicBool::new(false));
    let pids: Vec<i32> = (0..3).map(|rank| group.ranks[rank].id() as i32).collect();
    let storm = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                pids.iter().for_each(|&pid| strangers::interrupt_all_threads(pid));
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    for rank in 0..3 {
        group.ranks[rank].say("go");
    }
    group.all_fine();
    over.store(true, Ordering::Relaxed);
    storm.join().unwrap();
}

/// Row 34: an abort from another thread, whatever the ranks are doing.
#[test]
fn an_abort_returns_from_every_state() {
    for pause in [0, 30, 200, 1000, 3000, 9000, 20_000, 50_000] {
        let mut group = Group::begin(3, PATIENT);
        for rank in 0..3 {
            add(&mut group, "aborted in any state", rank, 3);
        }
        for rank in 0..3 {
            group.ranks[rank].say(&pause.to_string());
        }
        all_tell_alike(&group, 3, &["aborted"], &[1]);
    }
}

/// Row 36: the process that everybody meets at dies, before the group has formed and after.
#[test]
fn the_death_of_the_host_is_told_within_bounds() {
    let forming = alone("stay", 4, 0..3, Duration::from_secs(50));
    // Rank 3 never comes; the others are known to the store once their control links are there.
    strangers::wait_for_connections(forming.ranks[0].id() as i32, 3);
    // A connection is there before its hello has been read.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    forming.ranks[0].signal(Signal::SIGKILL);
    for rank in 1..3 {
        let told = forming.ranks[rank].end();
        assert!(["peer dead", "bootstrap"].contains(&told.kind.as_str()), "{}", told.text);
        assert!(told.text.contains("rank 0") || told.text.contains("store"), "{}", told.text);
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "told by the deadline only");

    let mut formed = alone("stay", 3, 0..3, Duration::from_secs(30));
    for rank in 0..3 {
        assert_eq!(formed.ranks[rank].line(), "at work");
    }
    formed.ranks[0].signal(Signal::SIGKILL);
    for rank in 1..3 {
        formed.ranks[rank].say("go");
        let told = formed.ranks[rank].end();
        assert_eq!((told.kind.as_str(), told.culprit), ("peer dead", Some(0)), "{}", told.text);
    }
}

/// Row 38, the panic in a user's reduction.
#[test]
fn a_panic_in_a_reduction_is_told_to_every_process() {
    let mut group = Group::begin(3, PATIENT);
    for rank in 0..3 {
        add(&mut group, "a reduction panics", rank, 3);
    }
    all_tell_alike(&group, 3, &["user panic"], &[1]);
}
