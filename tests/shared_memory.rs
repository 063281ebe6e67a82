//! Groups that share memory, and why others do not.

mod support;

use nix::libc;
use ringfold::config::{BackendChoice, environment};
use ringfold::tensor::TensorMut;
use ringfold::{Communicator, ErrorKind, ReduceOp};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use support::{config, on_ranks, unused_address};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// Connects ranks that want these backends.
fn connect(wishes: &[BackendChoice]) -> Vec<ringfold::Result<Communicator>> {
    let store = unused_address();
    on_ranks(wishes.len(), |rank| {
        Communicator::connect(&config(rank, wishes.len()).with_store(&*store).with_backend(wishes[rank]))
    })
}

#[test]
fn ranks_of_one_host_share_memory_unless_one_asks_for_tcp() {
    use BackendChoice::{Auto, Shm, Tcp};
    for (wishes, backend) in [
        ([Auto, Auto, Auto], "shm"),
        ([Auto, Shm, Auto], "shm"),
        ([Auto, Auto, Tcp], "tcp"),
        ([Tcp; 3], "tcp"),
    ] {
        let ranks = connect(&wishes);
        std::thread::scope(|scope| {
            for comm in ranks {
                scope.spawn(move || {
                    let comm = comm.unwrap();
                    assert_eq!(comm.backend(), backend, "{wishes:?}");
                    let mut sum = [1u32; 1000];
                    comm.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
                    assert_eq!(sum, [3; 1000]);
                });
            }
        });
    }
}

/// Rooted operations let ranks run ahead of each other, the others bring them together again.
#[test]
fn little_of_all_kinds_in_any_order_is_right() {
    let ranks = connect(&[BackendChoice::Shm; 3]);
    std::thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                let comm = comm.unwrap();
                let (rank, world) = (comm.rank() as u32, comm.world_size() as u32);
                // The same on all ranks; whether one dawdles is its own affair.
                let (mut order, mut own) =
                    (fastrand::Rng::with_seed(3), fastrand::Rng::with_seed(rank.into()));
                for turn in 0..4000u32 {
                    let (root, len) = (order.usize(..3), order.usize(1..90));
                    let value = |of: u32| turn * 10 + of;
                    let all: u32 = (0..world).map(value).sum();
                    let mine = vec![value(rank); len];
                    let mut out = vec![0; len];
                    match order.u32(..8) {
                        0 => {
                            comm.all_reduce_into(&mine, &mut out, ReduceOp::Sum).unwrap();
                            assert!(out.iter().all(|sum| *sum == all), "{turn}");
                        }
                        1 => {
                            comm.reduce_into(&mine, &mut out, ReduceOp::Sum, root).unwrap();
                            let here = if root == rank as usize { all } else { 0 };
                            assert!(out.iter().all(|sum| *sum == here), "{turn}");
                        }
                        2..=4 => {
                            let mut data = mine;
                            comm.broadcast(&mut data, root).unwrap();
                            assert!(data.iter().all(|one| *one == value(root as u32)), "{turn}");
                        }
                        5 => {
                            let mut all = vec![0; 3 * len];
                            comm.all_gather(&mine, &mut all).unwrap();
                            let ranks = all.chunks(len).zip(0..);
                            ranks.for_each(|(block, of)| assert!(block.iter().all(|one| *one == value(of))));
                        }
                        6 => {
                            let blocks: Vec<u32> =
                                (0..3).flat_map(|to| vec![value(rank) + to; len]).collect();
                            comm.scatter(&blocks, &mut out, root).unwrap();
                            assert!(out.iter().all(|one| *one == value(root as u32) + rank), "{turn}");
                        }
                        _ => comm.barrier().unwrap(),
                    }
                    if own.u8(..) == 0 {
                        std::thread::sleep(std::time::Duration::from_micros(50));
                    }
                }
            });
        }
    });
}

#[test]
fn what_somebody_did_who_has_run_ahead_is_still_told() {
    let ranks = connect(&[BackendChoice::Shm; 2]);
    std::thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                let comm = comm.unwrap();
                let error = if comm.rank() == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    comm.reduce(&mut [1.0f32; 4], ReduceOp::Sum, 0).unwrap_err()
                } else {
                    let calls = std::iter::repeat_with(|| comm.reduce(&mut [1.0f32; 3], ReduceOp::Sum, 0));
                    calls.take(100).find_map(Result::err).unwrap()
                };
                assert_eq!(error.kind(), ErrorKind::Mismatch);
                assert!(error.to_string().contains("count differs: 4 on rank 0, 3 on rank 1"), "{error}");
            });
        }
    });
}

#[test]
fn who_insists_on_shared_memory_is_told_who_does_not_want_it() {
    let ranks = connect(&[BackendChoice::Shm, BackendChoice::Tcp]);
    // Both of them: a group of the others would fail at its first call.
    for (rank, comm) in ranks.iter().enumerate() {
        let error = comm.as_ref().unwrap_err();
        assert_eq!((error.kind(), error.rank()), (ErrorKind::Configuration, Some(rank)));
        assert!(error.to_string().contains("rank 0 asks for the backend shm, and rank 1 for tcp"), "{error}");
    }
}

/// A measurement under a limit of the shell.
fn limited(limit: &str, backend: &str) -> (bool, String, String) {
    let line = format!(
        "ulimit {limit}; exec '{RINGFOLD}' perf all_reduce -n 2 -b 1M -e 1M --iters 2 --json --backend {backend}"
    );
    let out = Command::new("bash")
        .args(["-c", &line])
        .env(environment::LOG, "info")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn without_shared_memory_tcp_serves_and_the_log_says_why() {
    // A file of shared memory has a length, too, and beyond the limit comes a signal.
    let (fine, out, err) = limited("-f 1024", "auto");
    assert!(fine, "{out}{err}");
    assert!(
        out.lines().count() == 2 && out.lines().all(|line| line.contains("\"backend\":\"tcp\"")),
        "{out}"
    );
    assert!(err.contains("no shared memory") && err.contains("ulimit -f"), "{err}");

    let (fine, out, err) = limited("-f 1024", "shm");
    assert!(!fine, "{out}");
    assert!(err.contains("the backend shm cannot be had") && err.contains("ulimit -f"), "{err}");
}

#[test]
fn little_address_space_is_enough() {
    let (fine, out, err) = limited("-v 2000000", "auto");
    assert!(fine, "{out}{err}");
    assert!(out.contains("\"backend\":\"shm\""), "{out}{err}");
}

#[test]
fn what_can_be_had_is_tried_by_info() {
    let info = |line: &str| {
        let out = Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().find(|line| line.trim_start().starts_with("shm")).unwrap().to_owned()
    };
    assert!(info(&format!("exec '{RINGFOLD}' info")).contains("yes"));
    assert!(info(&format!("ulimit -f 1024; exec '{RINGFOLD}' info")).contains(" no "));
}

/// Forbids a command, and whatever it starts, to read other processes' memory, as the filter of a container does.
fn forbid_reading(command: &mut Command) {
    let (load, equal, answer) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0x15, libc::BPF_RET);
    let line = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let filter = [
        line(load, 0, 0),
        line(equal, 1, libc::SYS_process_vm_readv as u32),
        line(answer, 0, refuse),
        line(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: plain system calls, which read the program while they last.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// What is told by a command of ringfold's, with a filter or without: whether it was content, its output and its log.
fn told(words: &[&str], filtered: bool) -> (bool, String, String) {
    let mut command = Command::new(RINGFOLD);
    command.args(words).env(environment::LOG, "info").stdin(Stdio::null());
    if filtered {
        forbid_reading(&mut command);
    }
    let out = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

/// Whether ranks may read each other's memory, `info` says as a group finds it; and who forbids it.
#[test]
fn info_says_whether_ranks_may_read_each_others_memory_and_why_not() {
    const GATHER: [&str; 9] = ["perf", "all_gather", "-n", "3", "-b", "1M", "-e", "1M", "--json"];
    for filtered in [false, true] {
        let (fine, info, err) = told(&["info"], filtered);
        assert!(fine, "{info}{err}");
        let from = info.lines().skip_while(|line| !line.trim_start().starts_with("by reading"));
        let row: String = from.take_while(|line| !line.starts_with('─')).collect();
        let may = row.contains(" yes ");
        assert!(may != row.contains(" no "), "{row}");

        let pull = [&GATHER[..], &["--algorithm", "pull", "--iters", "2"]].concat();
        let (pulls, out, err) = told(&pull, filtered);
        assert_eq!(pulls, may, "{row}\n{out}{err}");
        assert!(pulls || err.contains("may read each other's memory"), "{err}");

        let (fine, out, err) = told(&[&GATHER[..], &["--iters", "2"]].concat(), filtered);
        assert!(fine && out.lines().count() == 2, "{out}{err}");
        assert!(out.lines().all(|line| line.contains("\"wrong\":0") && line.contains("\"backend\":\"shm\"")));
        assert_eq!(err.contains("cannot read the memory of rank"), !may, "{err}");
        if filtered {
            assert!(!may && row.contains("seccomp") && err.contains("seccomp"), "{row}\n{err}");
        } else if !may {
            println!("NOT TRIED: `pull`, for {row}");
        }
    }
}

#[test]
fn what_is_forked_off_does_not_leave_in_its_parents_name() {
    for backend in [BackendChoice::Shm, BackendChoice::Tcp] {
        let ranks = connect(&[backend; 3]);
        let together = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for comm in ranks {
                let together = &together;
                scope.spawn(move || {
                    let comm = comm.unwrap();
                    let mut sum = [1u32; 70_000];
                    comm.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
                    together.wait();
                    if comm.rank() == 0 {
                        // SAFETY: the child only drops what is here, and leaves without running anything else.
                        match unsafe { nix::unistd::fork() }.unwrap() {
                            nix::unistd::ForkResult::Child => {
                                drop(comm);
                                // SAFETY: it returns to nobody.
                                unsafe { nix::libc::_exit(0) }
                            }
                            nix::unistd::ForkResult::Parent { child } => {
                                nix::sys::wait::waitpid(child, None).unwrap();
                            }
                        }
                    }
                    together.wait();
                    for _ in 0..3 {
                        comm.all_reduce(&mut sum, ReduceOp::Max).unwrap();
                    }
                    assert_eq!(sum, [3; 70_000]);
                    drop(comm.duplicate().unwrap());
                    comm.barrier().unwrap();
                });
            }
        });
    }
}

/// Who has gone on has raised its flags for something else: that it did something else before is told all the same.
#[test]
fn a_rank_that_is_late_is_not_deceived_by_those_who_have_gone_on() {
    for count in [4, 1000, 20_000] {
        let failed = on(support::communicators(2), |comm| {
            comm.barrier().unwrap();
            let mut data = vec![1.0 + comm.rank() as f32; count];
            if comm.rank() == 0 {
                // The root hears of nobody, and goes on.
                let first = comm.broadcast(&mut data, 0);
                return first.and(comm.broadcast(&mut data, 0)).is_err();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            let error = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{count}: {error}");
            assert!(data.iter().all(|value| *value == 2.0), "{count}: it has changed");
            true
        });
        assert!(failed[1]);
    }
}

/// Little is exchanged without going through the steps of its plan, which a batch goes through: the bits are the same. The
/// lengths lie around those at which a slot goes into the line of its stamp, in the lines behind it, and elsewhere.
#[test]
fn what_is_exchanged_in_line_has_the_bits_of_its_plan() {
    for world in [2, 3] {
        on(support::communicators(world), |comm| {
            let mine = |len: usize, turn: usize| -> Vec<f32> {
                (0..len).map(|i| 1.0 / (1 + 7 * i + 3 * comm.rank() + turn) as f32).collect()
            };
            for turn in 0..2 {
                for len in [0, 1, 2, 13, 14, 15, 16, 64, 65, 511, 512, 513, 1025] {
                    for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Min] {
                        let (mut whole, mut cut) = (mine(len, turn), mine(len, turn));
                        let mut apart = vec![0.0; len];
                        comm.all_reduce_into(&whole, &mut apart, op).unwrap();
                        comm.all_reduce(&mut whole, op).unwrap();
                        let (front, back) = cut.split_at_mut(len / 2);
                        let mut pieces = [TensorMut::from_slice(front), TensorMut::from_slice(back)];
                        comm.all_reduce_batch(&mut pieces, op).unwrap();
                        let bits =
                            |data: &[f32]| data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&whole), bits(&cut), "{op} of {len} by {world}");
                        assert_eq!(bits(&apart), bits(&cut), "{op} of {len} by {world}, out of place");
                        assert!(
                            op != ReduceOp::Sum || len == 0 || whole != mine(len, turn),
                            "nothing was added"
                        );
                    }
                    comm.barrier().unwrap();
                }
            }
        });
    }
}

/// Runs a function on a thread for each communicator, and gives the results in rank order.
fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
