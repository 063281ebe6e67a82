//! The table of guarantees: that each of its cells has tests, that these are there, and those that no other file has.

mod support;

use ringfold::backend::choose::CANDIDATES;
use ringfold::{Communicator, ErrorKind, Options, ReduceOp, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const COLUMNS: [&str; 7] = [
    "backend",
    "order of reduction",
    "fingerprint",
    "deadline",
    "abort",
    "security",
    "what a failure leaves behind",
];

/// The cells of a line of a table.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split(" | ").map(str::trim).collect()
}

/// What is wrong with a table; `is_test` tells whether a file has a test of a name.
fn faults(page: &str, is_test: &dyn Fn(&str, &str) -> bool) -> Vec<String> {
    let mut lines = page.lines().filter(|line| line.starts_with('|'));
    let header = lines.next().map(cells).unwrap_or_default();
    let mut faults = Vec::new();
    if header != COLUMNS {
        faults.push(format!("the columns are {header:?}"));
    }
    let mut seen = BTreeSet::new();
    for line in lines.skip(1) {
        let cells = cells(line);
        let backend = cells[0].trim_matches('`');
        let known = backend == "channel" || CANDIDATES.iter().any(|one| one.choice.as_str() == backend);
        if !known || !seen.insert(backend) || cells.len() != COLUMNS.len() {
            faults.push(format!("{backend}: no backend, there twice, or {} cells", cells.len()));
        }
        for (column, cell) in COLUMNS.iter().zip(&cells).skip(1) {
            let named: Vec<&str> =
                cell.split("(`").skip(1).map(|rest| rest.split("`)").next().unwrap_or_default()).collect();
            if named.is_empty() || !cell.ends_with("`)") || cell.starts_with("(`") {
                faults.push(format!("{backend}, {column}: a cell is a promise, and tests behind it"));
            }
            for name in named {
                let there = name.rsplit_once("::").is_some_and(|(file, test)| is_test(file, test));
                if !there {
                    faults.push(format!("{backend}, {column}: there is no test {name}"));
                }
            }
        }
    }
    for needed in ["channel", "shm", "hierarchical", "tcp", "mpi-p2p", "mpi", "nccl"] {
        if !seen.contains(needed) {
            faults.push(format!("{needed} has no row"));
        }
    }
    faults
}

/// Whether a file of this repository, without its ending, has a test of this name.
fn is_test(file: &str, test: &str) -> bool {
    let inside = (file.starts_with("tests/") || file.starts_with("src/")) && !file.contains("..");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{file}.rs"));
    let Some(text) = inside.then(|| fs::read_to_string(path).ok()).flatten() else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with(&format!("fn {test}("))) else {
        return false;
    };
    // Between the mark and the function there may be other attributes.
    lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]")
}

const PAGE: &str = include_str!("../src/backend/guarantees.md");

#[test]
fn every_cell_is_backed_by_tests_that_are_there() {
    let faults = faults(PAGE, &is_test);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        assert!(text.contains("src/backend/guarantees.md"), "{page} does not lead to the table");
    }
}

#[test]
fn a_cell_without_a_test_would_be_seen() {
    assert!(is_test("tests/guarantees", "a_cell_without_a_test_would_be_seen"));
    assert!(!is_test("tests/guarantees", "cells") && !is_test("tests/guarantees", "nowhere"));
    assert!(!is_test("tests/../tests/guarantees", "a_cell_without_a_test_would_be_seen"));
    let spoilt = |from: &str, to: &str, says: &str| {
        let page = PAGE.replacen(from, to, 1);
        assert_ne!(page, PAGE, "{from} is not there");
        let faults = faults(&page, &is_test);
        assert!(faults.iter().any(|fault| fault.contains(says)), "{from}: {faults:?}");
    };
    spoilt("tests/guarantees::threads", "tests/guarantees::no_threads", "there is no test");
    spoilt(" (`tests/guarantees::threads_open_no_door`)", "", "channel, security: a cell is a promise");
    spoilt("bytes stay within", "(`tests/house::x`) bytes stay within", "there is no test tests/house::x");
    spoilt("| `tcp` |", "| `pigeon` |", "pigeon: no backend");
    spoilt("| `tcp` |", "| `shm` |", "there twice");
    spoilt("| deadline |", "| patience |", "the columns");
    spoilt("| plain text", "| more | plain text", "8 cells");
}

/// Groups are formed one at a time here, since some tests look at the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Forms a group by each of the backends, and runs a function on a thread for each rank.
fn on_every_backend<T: Send>(
    world: usize,
    body: impl Fn(&Communicator) -> T + Sync,
    mut look: impl FnMut(&str, Vec<T>),
) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for form in [Communicator::local, support::communicators, support::over_sockets] {
        let group = form(world);
        let name = group[0].backend();
        look(name, on(group, &body));
    }
}

fn on<T: Send>(group: Vec<Communicator>, body: &(impl Fn(&Communicator) -> T + Sync)) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(&comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn an_abort_ends_the_calls_of_every_rank() {
    let calls: [fn(&Communicator) -> Result<()>; 4] = [
        |comm| comm.all_reduce(&mut vec![1.0f32; 300_000], ReduceOp::Sum),
        |comm| comm.barrier(),
        |comm| comm.broadcast(&mut [1u8; 9], 2),
        |comm| comm.start_all_reduce(vec![1i64; 5], ReduceOp::Sum)?.wait().map(drop),
    ];
    for call in calls {
        let body = |comm: &Communicator| {
            if comm.rank() == 2 {
                // The others wait for this one.
                std::thread::sleep(Duration::from_millis(20));
                comm.abort_handle().abort("enough");
                return (comm.barrier().unwrap_err(), Duration::ZERO);
            }
            let start = Instant::now();
            let with = |()| comm.with(Options::new().deadline(support::LONG)).barrier();
            (call(comm).and_then(with).unwrap_err(), start.elapsed())
        };
        on_every_backend(3, body, |backend, told| {
            for (error, took) in told {
                assert_eq!(
                    (error.kind(), error.culprit()),
                    (ErrorKind::Aborted, Some(2)),
                    "{backend}: {error}"
                );
                assert!(error.to_string().contains("enough"), "{backend}: {error}");
                // Long before any deadline.
                assert!(took < support::LONG, "{backend}");
            }
        });
    }
}

#[test]
fn after_a_failure_memory_is_left_alone_and_every_call_has_the_first_cause() {
    const COUNT: usize = 200_000;
    let body = |comm: &Communicator| {
        if comm.rank() == 1 {
            // It is there, and comes too late.
            std::thread::sleep(Duration::from_millis(400));
            let (mine, mut all) = (vec![9.0f32; COUNT], vec![0.0; 3 * COUNT]);
            return comm.all_gather(&mine, &mut all).unwrap_err();
        }
        let input: Vec<f32> = (0..COUNT).map(|i| (i + comm.rank()) as f32).collect();
        let (before, mut output) = (input.clone(), vec![-1.0f32; 3 * COUNT]);
        let late = comm.with(Options::new().deadline(Duration::from_millis(200)));
        let first = late.all_gather(&input, &mut output).unwrap_err();
        assert!(input == before, "{}: an input has changed", comm.backend());
        let then = output.clone();
        std::thread::sleep(Duration::from_millis(400));
        assert!(output == then, "{}: something was written after the call", comm.backend());
        let all = comm.all_reduce(&mut output, ReduceOp::Sum).unwrap_err();
        assert_eq!((all.kind(), all.culprit()), (first.kind(), first.culprit()));
        assert!(output == then, "{}: a call that failed at once has written", comm.backend());
        let started = comm.start_barrier().and_then(|pending| pending.wait().map(drop)).unwrap_err();
        assert_eq!((started.kind(), started.culprit()), (first.kind(), first.culprit()));
        assert_eq!(comm.failure().map(|cause| cause.culprit), first.culprit());
        first
    };
    on_every_backend(3, body, |backend, told| {
        for error in told {
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(1)), "{backend}: {error}");
        }
    });
}

/// Where the descriptors of this process lead.
fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

/// The mappings of this process that others may share.
fn shared_mappings() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_shared = |line: &&str| line.split_whitespace().nth(1).is_some_and(|flags| flags.ends_with('s'));
    maps.lines().filter(is_shared).map(str::to_owned).collect()
}

#[test]
fn threads_open_no_door() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sockets =
        || descriptors().iter().filter(|to| to.starts_with("socket:") || to.contains("memfd")).count();
    let (before, shared) = (sockets(), shared_mappings().len());
    let told = on(Communicator::local(3), &|comm: &Communicator| {
        comm.all_reduce(&mut vec![1.0f32; 100_000], ReduceOp::Sum).unwrap();
        comm.start_barrier().unwrap().wait().unwrap();
        let now = (sockets(), shared_mappings().len());
        comm.barrier().unwrap();
        now
    });
    assert_eq!(told, [(before, shared); 3]);
}

#[test]
fn shared_memory_has_no_name() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains("ringfold");
    let named = || fs::read_dir("/dev/shm").map_or(0, |entries| entries.flatten().filter(is_ours).count());
    let before = named();
    on(support::communicators(3), &|comm: &Communicator| {
        comm.all_reduce(&mut vec![1.0f32; 100_000], ReduceOp::Sum).unwrap();
        let shared: Vec<String> =
            shared_mappings().into_iter().filter(|line| line.contains("ringfold")).collect();
        assert!(!shared.is_empty());
        assert!(
            shared.iter().all(|line| line.contains("/memfd:") && line.ends_with("(deleted)")),
            "{shared:?}"
        );
        assert_eq!(named(), before);
        comm.barrier().unwrap();
    });
}
