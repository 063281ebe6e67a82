//! What ranks say when something goes wrong, with real processes, over shared memory and over TCP.
//!
//! Each test starts this binary again, once a rank, to play a scene; the ranks tell what their last call returned.

mod support;

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork};
use ringfold::config::environment;
use ringfold::{Check, Communicator, Error, Options, ReduceOp};
use std::time::{Duration, Instant};
use support::process::{Group, HANG, Process, hear, own_address, rank as rank_command, tell, tell_end};
use support::unused_address;

const SCENE: &str = "RINGFOLD_TEST_SCENE";

/// How late somebody is whom others wait for with next to no use of a CPU.
const LATE: Duration = Duration::from_secs(1);

/// A group that plays a scene. The store lives in this process, as under a launcher.
fn start(scene: &str, world: usize, heartbeat: Duration) -> Group {
    let mut group = Group::begin(world, heartbeat);
    for rank in 0..world {
        add(&mut group, scene, rank, world, heartbeat, &[]);
    }
    group
}

/// One more process, with these variables on top.
fn add(
    group: &mut Group,
    scene: &str,
    rank: usize,
    world: usize,
    heartbeat: Duration,
    more: &[(&str, &str)],
) {
    group.add(rank, world, |command| {
        command.env(SCENE, scene).env(environment::HEARTBEAT, format!("{}ms", heartbeat.as_millis()));
        command.envs(more.iter().copied());
    });
}

/// All of this holds over shared memory, which is what ranks of one host have, and over TCP.
#[test]
fn everything_again_over_tcp() {
    support::everything_again(environment::BACKEND, "tcp", "everything_again_over_tcp");
}

/// And over the memory of each of two hosts and TCP between them.
#[test]
fn everything_again_on_two_hosts() {
    support::process::everything_again_on_hosts(2);
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Some(scene) = std::env::var_os(SCENE) else { return };
    let comm = match Communicator::from_env() {
        Ok(comm) => comm,
        Err(error) => return tell_end(Err(error)),
    };
    let on_hosts = own_address().is_some() && comm.world_size() > 2;
    assert!(!on_hosts || comm.backend() == "hierarchical", "it goes by {}", comm.backend());
    play(scene.to_str().unwrap(), comm);
}

fn play(scene: &str, comm: Communicator) {
    let (rank, world) = (comm.rank(), comm.world_size());
    let odd = rank == 2;
    // Everybody has met everybody before anything goes wrong.
    comm.barrier().unwrap();
    let mut data = vec![rank as f32; 300_000];
    match scene {
        "nothing more" => tell("fine||"),
        "reduce for ever" => {
            tell("at work");
            tell_end((0..).try_for_each(|_| comm.all_reduce(&mut data, ReduceOp::Max)));
        }
        "reduce for ever, with a fork" => {
            if odd {
                keep_descriptors();
            }
            tell("at work");
            tell_end((0..).try_for_each(|_| comm.all_reduce(&mut data, ReduceOp::Max)));
        }
        "share for ever, then keep" => {
            let mut tensor = comm.allocate::<f32>(8 << 20).unwrap();
            tell("at work");
            let end = (0..).try_for_each(|_| comm.all_reduce(&mut tensor, ReduceOp::Max));
            // From here on it is this rank's alone.
            tensor.fill(7.0);
            tell_end(end);
            if !odd {
                hear();
                let kept = tensor.iter().all(|&value| value == 7.0);
                tell(if kept { "kept||" } else { "spoilt||" });
            }
        }
        "broadcast for ever" => {
            tell("at work");
            tell_end((0..).try_for_each(|_| comm.broadcast(&mut data, 0)));
        }
        "compute, then reduce" => {
            if odd {
                // Longer than the heartbeat deadline, without a call of the library.
                let end = Instant::now() + Duration::from_millis(1500);
                while Instant::now() < end {
                    std::hint::black_box(data.iter().sum::<f32>());
                }
            }
            tell_end(comm.all_reduce(&mut data, ReduceOp::Max));
        }
        "count differs" => {
            let mut mine = vec![1u32; if odd { 1001 } else { 1000 }];
            let result = comm.all_reduce(&mut mine, ReduceOp::Sum);
            assert!(mine.iter().all(|&value| value == 1), "memory has changed");
            tell_end(result);
        }
        "type differs" => {
            let result = if odd {
                comm.all_reduce(&mut [1u32; 1000], ReduceOp::Sum)
            } else {
                comm.all_reduce(&mut [1.0f32; 1000], ReduceOp::Sum)
            };
            tell_end(result);
        }
        "reduction differs" => {
            let op = if odd { ReduceOp::Max } else { ReduceOp::Sum };
            tell_end(comm.reduce_scatter(&vec![1i64; 10 * world], &mut [0; 10], op));
        }
        "root differs, strictly" => {
            let mut mine = vec![rank as u8; 100];
            let strict = comm.with(Options::new().check(Check::Strict));
            let result = strict.broadcast(&mut mine, usize::from(odd));
            assert!(mine.iter().all(|&value| value == rank as u8), "memory has changed");
            tell_end(result);
        }
        "root differs" => {
            let mut mine = vec![rank as u8; 100];
            let first = comm.broadcast(&mut mine, usize::from(odd));
            tell_end(first.and_then(|()| comm.barrier()));
        }
        "counts between a pair differ" => {
            let sends: Vec<usize> = (0..world).map(|to| if odd && to == 0 { 3 } else { 2 }).collect();
            let input = vec![0u16; sends.iter().sum()];
            let first = comm.all_to_all_v(&input, &sends, &mut vec![0; 2 * world], &vec![2; world]);
            tell_end(first.and_then(|()| comm.barrier()));
        }
        "one skips a call" => {
            if !odd {
                comm.all_reduce(&mut data, ReduceOp::Max).unwrap_or_else(|error| {
                    tell_end(Err(error));
                    std::process::exit(0);
                });
            }
            tell_end(comm.barrier());
        }
        "one never comes" => {
            if odd {
                hear();
                return;
            }
            let hurried = comm.with(Options::new().deadline(Duration::from_millis(700)));
            tell_end(hurried.all_reduce(&mut data, ReduceOp::Max));
        }
        "one waits for a message" => {
            // Two seconds, in which a rank that waits uses next to no CPU.
            if rank == 0 {
                let before = cpu_time();
                comm.recv(&mut [0u8; 4], 1).unwrap();
                let used = cpu_time() - before;
                tell(if used < Duration::from_millis(200) { "fine||" } else { "busy||" });
            } else if rank == 1 {
                std::thread::sleep(Duration::from_secs(2));
                comm.send(&[1u8; 4], 0).unwrap();
                tell("fine||");
            } else {
                tell_end(comm.with(Options::new().deadline(Duration::from_secs(30))).send_recv(
                    &[0u8],
                    rank,
                    &mut [1u8],
                    rank,
                ));
            }
        }
        "one comes late to every call" => {
            let mut tensor = comm.allocate::<f32>(300_000).unwrap();
            let wait = |name: &str, call: &mut dyn FnMut() -> Result<(), Error>| {
                if odd {
                    std::thread::sleep(LATE);
                }
                let before = cpu_time();
                call().unwrap();
                let used = cpu_time() - before;
                if !odd && used > LATE / 10 {
                    tell(format!("busy||{name}: {used:?}"));
                }
            };
            wait("barrier", &mut || comm.barrier());
            wait("all_reduce of little", &mut || comm.all_reduce(&mut [1u64], ReduceOp::Sum));
            wait("all_reduce of much", &mut || comm.all_reduce(&mut data, ReduceOp::Max));
            wait("broadcast", &mut || comm.broadcast(&mut data, 2));
            wait("all_reduce of shared tensors", &mut || comm.all_reduce(&mut tensor, ReduceOp::Max));
            wait("a started all_reduce", &mut || {
                comm.start_all_reduce(vec![1f32; 300_000], ReduceOp::Max)?.wait().map(|_| ())
            });
            tell("fine||");
        }
        "one leaves before it has met anybody" => {
            if !odd {
                tell_end(comm.recv(&mut [0u8; 4], 2));
            }
        }
        "one leaves" => {
            if !odd {
                tell_end(comm.all_reduce(&mut data, ReduceOp::Max));
            }
        }
        "one panics" => {
            if odd {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _leaving = comm;
                    panic!("as the scene says");
                }));
                return;
            }
            tell_end(comm.all_reduce(&mut data, ReduceOp::Max));
        }
        "one aborts" => {
            let handle = comm.abort_handle();
            if odd {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(200));
                    handle.abort("enough");
                });
            }
            tell("at work");
            let mut result = Ok(());
            while result.is_ok() {
                result =
                    if odd { comm.recv(&mut [0u8], 0) } else { comm.all_reduce(&mut data, ReduceOp::Max) };
            }
            tell_end(result);
        }
        other => panic!("no scene is called {other}"),
    }
}

/// Forks a process off that has all of this one's descriptors for as long as anybody may say something to it.
fn keep_descriptors() {
    let input = std::io::stdin();
    // SAFETY: what is forked off makes two system calls, and allocates nothing.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        let _ = nix::unistd::read(&input, &mut [0u8]);
        // SAFETY: it ends the process, which shares nothing that would have to be given back.
        unsafe { nix::libc::_exit(0) };
    }
}

/// What this process has used of its CPUs.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let part = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    part(usage.user_time()) + part(usage.system_time())
}

/// Only where a deadline is tested does anything depend on how soon silence is noticed.
const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn a_killed_rank_is_named_by_every_survivor() {
    let group = start("reduce for ever", 4, PATIENT);
    group.all_at_work();
    group.ranks[2].signal(Signal::SIGKILL);
    for told in group.all_blame([0, 1, 3], "peer dead", 2) {
        assert!(told.text.contains("all_reduce #") && told.text.contains("is on host"), "{}", told.text);
        assert!(told.text.contains("to do:"), "{}", told.text);
        // Where memory is shared the kernel tells of it, too; which of the two the store hears of first is a race.
        let shared = std::env::var_os(environment::BACKEND).is_none_or(|backend| backend != "tcp");
        let by_the_kernel = told.text.contains("the kernel says that its process has ended");
        let by_the_link = told.text.contains("without a goodbye");
        assert!(by_the_link || shared && by_the_kernel, "{}", told.text);
    }
}

/// Where memory is shared the kernel tells of a death, and needs no link that ends: here a process that was forked off has it still.
#[test]
fn of_a_killed_rank_the_kernel_tells_where_its_link_does_not_end() {
    let mut group = Group::begin(4, PATIENT);
    // Where there are several hosts, those who share its memory tell the others.
    let backend = if own_address().is_some() { "hierarchical" } else { "shm" };
    for rank in 0..4 {
        let shared = [(environment::BACKEND, backend)];
        add(&mut group, "reduce for ever, with a fork", rank, 4, PATIENT, &shared);
    }
    group.all_at_work();
    group.ranks[2].signal(Signal::SIGKILL);
    for told in group.all_blame([0, 1, 3], "peer dead", 2) {
        assert!(told.text.contains("the kernel says that its process has ended"), "{}", told.text);
    }
}

#[test]
fn a_killed_host_of_the_store_is_named_too() {
    let mut group = Group::without_store();
    let mut address = unused_address();
    if let Some(own) = own_address() {
        address = address.replace("127.0.0.1", &own.to_string());
    }
    for rank in 0..3 {
        let mut command = rank_command(rank, 3, &address);
        command.env(SCENE, "broadcast for ever").env(environment::STORE_HOST, "rank0");
        command.env(environment::HEARTBEAT, format!("{}ms", PATIENT.as_millis()));
        group.ranks.push(Process::start(&mut command));
    }
    group.all_at_work();
    group.ranks[0].signal(Signal::SIGKILL);
    group.all_blame([1, 2], "peer dead", 0);
}

/// Row 4 and 5: silence is not death, and who was silent learns that the group went on without it.
#[test]
fn a_stopped_rank_is_unresponsive_and_learns_of_it() {
    let group = start("reduce for ever", 4, Duration::from_millis(500));
    group.all_at_work();
    group.ranks[1].signal(Signal::SIGSTOP);
    group.all_blame([0, 2, 3], "peer unresponsive", 1);
    group.ranks[1].signal(Signal::SIGCONT);
    group.all_blame([1], "peer unresponsive", 1);
}

/// Row 5: who was stopped in the midst of writing into everybody's tensors goes on with it, and writes into nobody's memory.
#[test]
fn who_is_continued_writes_into_no_memory_of_those_who_went_on() {
    for _ in 0..3 {
        let mut group = start("share for ever, then keep", 3, Duration::from_millis(500));
        group.all_at_work();
        group.ranks[2].signal(Signal::SIGSTOP);
        group.all_blame([0, 1], "peer unresponsive", 2);
        group.ranks[2].signal(Signal::SIGCONT);
        group.all_blame([2], "peer unresponsive", 2);
        for rank in [0, 1] {
            group.ranks[rank].say("go");
            assert_eq!(group.ranks[rank].end().kind, "kept");
        }
    }
}

/// Row 6.
#[test]
fn a_rank_that_computes_is_not_taken_for_a_silent_one() {
    let group = start("compute, then reduce", 4, Duration::from_millis(500));
    for rank in 0..4 {
        assert_eq!(group.ranks[rank].end().kind, "fine");
    }
}

/// Row 20.
#[test]
fn a_process_of_another_launch_generation_or_world_is_refused_and_the_group_forms() {
    let mut group = Group::begin(2, PATIENT);
    for (name, value) in
        [(environment::GENERATION, "5"), (environment::WORLD_ID, "7"), (environment::WORLD_SIZE, "3")]
    {
        add(&mut group, "nothing more", 1, 2, PATIENT, &[(name, value)]);
    }
    for stranger in 0..3 {
        let told = group.ranks[stranger].end();
        assert_eq!(told.kind, "bootstrap", "{}", told.text);
        assert!(told.text.contains("refuse"), "{}", told.text);
    }
    for rank in 0..2 {
        add(&mut group, "nothing more", rank, 2, PATIENT, &[]);
    }
    assert_eq!((group.ranks[3].end().kind.as_str(), group.ranks[4].end().kind.as_str()), ("fine", "fine"));
}

/// Row 22.
#[test]
fn a_process_that_was_never_started_is_listed() {
    let mut group = Group::begin(4, PATIENT);
    for rank in [0, 1, 3] {
        let hurried = [(environment::INIT_DEADLINE, "1500ms")];
        add(&mut group, "nothing more", rank, 4, PATIENT, &hurried);
    }
    for index in 0..3 {
        let told = group.ranks[index].end();
        assert_eq!(told.kind, "bootstrap", "{}", told.text);
        assert!(told.text.contains("rank 2"), "{}", told.text);
    }
}

/// Row 23.
#[test]
fn a_process_started_twice_is_refused_the_second_time() {
    let mut group = Group::begin(3, PATIENT);
    for rank in [0, 1, 1] {
        add(&mut group, "nothing more", rank, 3, PATIENT, &[]);
    }
    // Which of the two is the second is theirs to settle; the one that is refused ends at once.
    let end = Instant::now() + HANG;
    let refused = loop {
        let told = (1..3).find_map(|index| Some((index, group.ranks[index].line_already()?)));
        match told {
            Some(told) => break told,
            None => assert!(Instant::now() < end, "nobody is refused"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(refused.1.starts_with("bootstrap|") && refused.1.contains("connected already"), "{}", refused.1);
    add(&mut group, "nothing more", 2, 3, PATIENT, &[]);
    for index in [0, 3 - refused.0, 3] {
        assert_eq!(group.ranks[index].end().kind, "fine");
    }
}

/// Row 24.
#[test]
fn what_differs_is_told_by_every_rank() {
    for (scene, field) in [
        ("count differs", "count differs"),
        ("type differs", "element type differs"),
        ("reduction differs", "reduction differs"),
        ("root differs, strictly", "root differs"),
    ] {
        let group = start(scene, 4, PATIENT);
        let told = group.all_blame(0..4, "mismatch", 2);
        for told in &told {
            assert!(told.text.contains(field), "{scene}: {}", told.text);
            assert!(told.text.contains("rank 2"), "{scene}: {}", told.text);
        }
    }
}

/// Row 24, where the promise is weaker.
#[test]
fn without_strict_checks_every_rank_knows_at_its_next_call() {
    for scene in ["root differs", "counts between a pair differ"] {
        let group = start(scene, 4, PATIENT);
        for rank in 0..4 {
            let told = group.ranks[rank].end();
            assert_eq!(told.kind, "mismatch", "{scene}, rank {rank}: {}", told.text);
        }
    }
}

/// Row 25.
#[test]
fn a_skipped_call_is_a_mismatch_or_a_deadline() {
    let group = start("one skips a call", 4, PATIENT);
    for told in group.all_blame(0..4, "mismatch", 2) {
        assert!(told.text.contains("differs"), "{}", told.text);
    }
    let mut group = start("one never comes", 4, PATIENT);
    for told in group.all_blame([0, 1, 3], "deadline passed", 2) {
        assert!(told.text.contains("waited 700ms"), "{}", told.text);
    }
    group.ranks[2].say("go");
}

#[test]
fn a_rank_that_leaves_or_panics_is_named() {
    let group = start("one leaves", 4, PATIENT);
    group.all_blame([0, 1, 3], "peer closed", 2);
    let group = start("one panics", 4, PATIENT);
    group.all_blame([0, 1, 3], "user panic", 2);
}

#[test]
fn a_rank_that_waits_for_a_message_sleeps() {
    let group = start("one waits for a message", 4, PATIENT);
    for rank in 0..4 {
        assert_eq!(group.ranks[rank].end().kind, "fine", "rank {rank}");
    }
}

/// The same in every kind of call.
#[test]
fn ranks_that_wait_for_a_late_one_sleep() {
    let group = start("one comes late to every call", 4, PATIENT);
    for rank in 0..4 {
        let told = group.ranks[rank].end();
        assert_eq!(told.kind, "fine", "rank {rank}: {}", told.text);
    }
}

#[test]
fn a_rank_that_left_without_ever_having_been_needed_is_named() {
    let group = start("one leaves before it has met anybody", 4, PATIENT);
    group.all_blame([0, 1, 3], "peer closed", 2);
}

/// Row 34.
#[test]
fn an_abort_ends_every_call() {
    let group = start("one aborts", 4, PATIENT);
    group.all_at_work();
    for told in group.all_blame(0..4, "aborted", 2) {
        assert!(told.text.contains("enough"), "{}", told.text);
    }
}
