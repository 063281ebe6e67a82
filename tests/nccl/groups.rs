//! Communicators over NCCL: how they form, what is refused, how they divide, fail and end. Ranks are threads that join by a store.

use super::stand_in::{Age, StandIn};
use super::support::{config, launcher, on_ranks};
use ringfold::config::BackendChoice;
use ringfold::{Communicator, Config, ErrorKind, Options, Result};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const HEARTBEAT: Duration = Duration::from_secs(5);
/// Shorter than the deadline of an operation, and longer than anything takes when all is well.
const LONG: Duration = Duration::from_secs(20);

pub(crate) fn choice(stand_in: &StandIn, rank: usize, world: usize) -> Config {
    config(rank, world)
        .with_launcher_hosts_store(true)
        .with_heartbeat_deadline(HEARTBEAT)
        .with_backend(BackendChoice::Nccl)
        .with_nccl(&stand_in.nccl)
        .with_cuda(&stand_in.cuda)
        .with_cuda_device(rank as u32)
}

/// Runs a function on each rank of a group.
pub(crate) fn group<T: Send>(
    stand_in: &StandIn,
    world: usize,
    change: impl Fn(usize, Config) -> Config + Sync,
    body: impl Fn(Result<Communicator>) -> T + Sync,
) -> Vec<T> {
    let server = launcher(world, HEARTBEAT);
    let store = server.address().to_string();
    on_ranks(world, |rank| {
        let config = change(rank, choice(stand_in, rank, world).with_store(&*store));
        body(Communicator::connect(&config))
    })
}

pub(crate) fn same(_: usize, config: Config) -> Config {
    config
}

#[test]
fn a_group_forms_and_its_ranks_meet() {
    let stand_in = StandIn::new();
    group(&stand_in, 3, same, |comm| {
        let comm = comm.unwrap();
        assert_eq!((comm.backend(), comm.world_size()), ("nccl", 3));
        for _ in 0..3 {
            comm.barrier().unwrap();
        }
        comm.start_barrier().unwrap().wait().unwrap();
        let counters = comm.counters();
        assert_eq!(counters.of(ringfold::Collective::Barrier).completed, 4);
    });
    let log = stand_in.nccl_log();
    let count = |name: &str| log.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(
        (count("ncclGetUniqueId"), count("ncclCommInitRankConfig"), count("ncclCommDestroy")),
        (1, 3, 3)
    );
    assert_eq!(stand_in.left(), 0);
}

#[test]
fn two_ranks_on_one_gpu_are_told_before_nccl_is_asked() {
    let stand_in = StandIn::new();
    let errors = group(
        &stand_in,
        3,
        |rank, config| config.with_cuda_device([0, 1, 0][rank]),
        |comm| comm.expect_err("two share a GPU"),
    );
    for error in errors {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(2)));
        let text = error.to_string();
        assert!(text.contains("ranks 0 and 2 are on one GPU, GPU-01010101-"), "{text}");
        assert!(text.contains("at 0000:01:00.0") && text.contains("RINGFOLD_CUDA_DEVICE"), "{text}");
    }
    assert_eq!(stand_in.nccl_log(), [""; 0], "NCCL was not asked for anything");
}

#[test]
fn a_rank_without_a_library_is_named_by_all_and_tells_what_it_looked_for() {
    let stand_in = StandIn::new();
    let errors = group(
        &stand_in,
        2,
        |rank, config| if rank == 1 { config.with_nccl("/nowhere/libnccl.so.2") } else { config },
        |comm| comm.expect_err("rank 1 has no NCCL"),
    );
    for (rank, error) in errors.iter().enumerate() {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Unsupported, Some(1)), "{error}");
        let text = error.to_string();
        assert!(text.contains("the backend nccl cannot be had: on rank 1: "), "{rank}: {text}");
        assert!(text.contains("/nowhere/libnccl.so.2 ("), "{rank}: {text}");
    }
}

#[test]
fn ranks_that_ask_for_different_backends_are_told() {
    let stand_in = StandIn::new();
    let errors = group(
        &stand_in,
        2,
        |rank, config| if rank == 1 { config.with_backend(BackendChoice::Tcp) } else { config },
        |comm| comm.expect_err("they differ"),
    );
    for error in errors {
        assert!(
            error.to_string().contains("rank 0 asks for the backend nccl, and rank 1 for tcp"),
            "{error}"
        );
    }
}

fn divide(age: Age) {
    let stand_in = StandIn::of(age);
    group(&stand_in, 4, same, |comm| {
        let comm = comm.unwrap();
        // Two groups, and a rank that joins none.
        let color = [Some(7), Some(9), Some(7), None][comm.rank()];
        let part = comm.split(color, -(comm.rank() as i64)).unwrap();
        assert_eq!(part.is_some(), color.is_some());
        if let Some(part) = &part {
            let expected = [(1, 2), (0, 1), (0, 2)][comm.rank()];
            assert_eq!((part.rank(), part.world_size(), part.backend()), (expected.0, expected.1, "nccl"));
            part.barrier().unwrap();
            let again = part.duplicate().unwrap();
            again.barrier().unwrap();
        }
        comm.barrier().unwrap();
        let pair = comm.group(&[3, 1]).unwrap();
        assert_eq!(pair.is_some(), comm.rank() % 2 == 1);
        if let Some(pair) = pair {
            pair.barrier().unwrap();
        }
        comm.barrier().unwrap();
    });
    let log = stand_in.nccl_log();
    let count = |name: &str| log.iter().filter(|line| line.starts_with(name)).count();
    if age == Age::New {
        // 4 ranks split twice; then the parts divide themselves.
        assert_eq!((count("ncclCommSplit"), count("ncclGetUniqueId")), (4 + 3 + 4, 1), "{log:?}");
        assert!(log.iter().any(|line| line == "ncclCommSplit(r3, color -1, key 0)"), "{log:?}");
    } else {
        assert_eq!((count("ncclCommSplit"), count("ncclGetUniqueId")), (0, 1 + 2 + 2 + 1), "{log:?}");
    }
    assert_eq!(stand_in.left(), 0);
}

#[test]
fn a_group_divides_by_nccls_own_means() {
    divide(Age::New);
}

#[test]
fn a_group_divides_where_nccl_cannot() {
    divide(Age::Middle);
}

#[test]
fn an_absent_rank_is_blamed_at_the_deadline_and_not_those_who_wait() {
    let stand_in = StandIn::new();
    let all = Barrier::new(3);
    let errors = group(&stand_in, 3, same, |comm| {
        let comm = comm.unwrap();
        let with = comm.with(Options::new().deadline(Duration::from_millis(300)));
        let error = (comm.rank() != 1).then(|| with.barrier().unwrap_err());
        all.wait();
        error
    });
    for error in errors.into_iter().flatten() {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(1)), "{error}");
    }
}

#[test]
fn an_abort_from_another_thread_ends_every_ranks_call() {
    let stand_in = StandIn::new();
    stand_in.set("hang", 1);
    let begin = Instant::now();
    let errors = group(&stand_in, 2, same, |comm| {
        let comm = comm.unwrap();
        let (handle, first) = (comm.abort_handle(), comm.rank() == 0);
        let aborter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            if first {
                handle.abort("enough");
            }
        });
        let error = comm.barrier().unwrap_err();
        aborter.join().unwrap();
        error
    });
    for error in errors {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Aborted, Some(0)), "{error}");
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
    let aborts = stand_in.nccl_log().iter().filter(|line| line.starts_with("ncclCommAbort")).count();
    assert_eq!(aborts, 2);
}

#[test]
fn a_rank_that_leaves_early_does_not_hold_the_others_up() {
    let stand_in = StandIn::new();
    let begin = Instant::now();
    group(&stand_in, 2, same, |comm| {
        let comm = comm.unwrap();
        comm.barrier().unwrap();
        if comm.rank() == 1 {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// A trace tells of operations of NCCL's, too.
#[test]
fn operations_are_written_down() {
    let stand_in = StandIn::new();
    let folder = std::env::temp_dir().join(format!("ringfold-nccl-trace-{}", std::process::id()));
    group(&stand_in, 1, |_, config| config.with_trace(&folder), |comm| comm.unwrap().barrier().unwrap());
    let text: String = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(text.contains("barrier") && text.contains("\"nccl\""), "{text}");
}

/// The command, by the names in the environment.
#[test]
fn the_command_finds_both_libraries() {
    let stand_in = StandIn::new();
    let run = |words: &[&str], cuda: &std::path::Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringfold"));
        command.args(words).env("RINGFOLD_NCCL", &stand_in.nccl).env("RINGFOLD_CUDA", cuda);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout))
    };
    let (well, out) = run(&["info"], &stand_in.cuda);
    assert!(well && out.contains("NCCL 2.32.3, CUDA devices: 4"), "{out}");
    let (well, out) = run(&["info"], std::path::Path::new("/nowhere/cuda"));
    assert!(well && out.contains("NCCL 2.32.3 is here") && out.contains("/nowhere/cuda"), "{out}");
}

/// Nothing of ringfold's travels ahead of NCCL's bytes: the store compares what ranks have begun, and tells all of them.
#[test]
fn ranks_that_call_different_things_are_told_what_differs() {
    let differ = |name: &str, field: &str, calls: [fn(&Communicator) -> Result<()>; 2]| {
        let stand_in = StandIn::new();
        let begun = Instant::now();
        let errors = group(&stand_in, 3, same, |comm| {
            let comm = comm.unwrap();
            comm.barrier().unwrap();
            let first = calls[usize::from(comm.rank() == 1)](&comm).err();
            // Who was through with its own before all were compared meets it next.
            first.unwrap_or_else(|| {
                loop {
                    if let Err(error) = comm.barrier() {
                        break error;
                    }
                }
            })
        });
        assert!(begun.elapsed() < LONG, "{name}: long before the deadline");
        for error in errors {
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(1)), "{name}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("{field} differs")), "{name}: {text}");
        }
    };
    fn reduce(comm: &Communicator, len: usize) -> Result<()> {
        comm.with(Options::new().staging(true)).all_reduce(&mut vec![1.0f32; len], ringfold::ReduceOp::Sum)
    }
    let long: fn(&Communicator) -> Result<()> = |comm| reduce(comm, 1000);
    differ("another collective", "collective", [long, |comm| comm.barrier()]);
    differ("another length", "count", [long, |comm| reduce(comm, 999)]);
    differ(
        "another type",
        "element type",
        [long, |comm| {
            comm.with(Options::new().staging(true)).all_reduce(&mut [1i32; 1000], ringfold::ReduceOp::Sum)
        }],
    );
}
