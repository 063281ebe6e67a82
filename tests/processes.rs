//! Conformance across processes: pairwise-sampled settings of `ringfold perf`, whose ranks are real processes
//! and which compares every element of every result with the oracle, out of place and in place.

#[path = "calls/pairwise.rs"]
mod pairwise;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use ringfold::plan::Reach;
use ringfold::{Algorithm, Collective, DType, ReduceOp};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Sizes in bytes: one element, odd numbers of elements, more than a staging buffer, more than a slice.
const SIZES: [&str; 5] = ["8", "104", "8200", "300K", "2500K"];
const WORLDS: [usize; 6] = [1, 2, 3, 4, 7, 8];
const BACKENDS: [&str; 2] = ["shm", "tcp"];
/// All that there are, or one for all ranks, which then wait in other ways.
const CPUS: [&str; 2] = ["all", "one"];
const MODES: [&[&str]; 3] = [&[], &["--fresh"], &["--order", "fixed"]];

/// One of the CPUs of this process.
fn one_cpu() -> CpuSet {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let first = (0..CpuSet::count()).find(|&cpu| all.is_set(cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    one
}

#[test]
fn every_two_settings_meet_in_a_group_of_processes() {
    let algorithms: Vec<Option<Algorithm>> =
        Algorithm::within(Reach::Memory).map(Some).chain([None]).collect();
    let values = [
        Collective::ALL.len(),
        DType::ALL.len(),
        ReduceOp::ALL.len(),
        algorithms.len(),
        SIZES.len(),
        WORLDS.len(),
        MODES.len(),
        BACKENDS.len(),
        CPUS.len(),
    ];
    // By the places of the parameters above; the lower place comes first.
    let possible = |p: usize, a: usize, q: usize, b: usize| match (p, q) {
        (0, 2) => Collective::ALL[a].reduces() || b == 0,
        // Not every size has blocks of one length, which is what bruck and those in shared memory want of all_to_all.
        (0, 3) => algorithms[b].is_none_or(|algorithm| {
            algorithm.collectives().contains(&Collective::ALL[a])
                && (Collective::ALL[a] != Collective::AllToAll
                    || algorithm.name() != "bruck" && algorithm.needs() == Reach::Messages)
        }),
        (1, 2) => ReduceOp::ALL[b].supports(DType::ALL[a]),
        (2, 3) => {
            a == 0
                || algorithms[b].is_none_or(|algorithm| algorithm.collectives().iter().any(|c| c.reduces()))
        }
        // Not every algorithm makes the fixed order for every number of ranks; the table knows.
        (3, 6) => b != 2 || algorithms[a].is_none(),
        (3, 7) => BACKENDS[b] == "shm" || algorithms[a].is_none_or(|a| a.needs() == Reach::Messages),
        _ => true,
    };
    let rows = pairwise::rows(&values, possible, 20);
    assert!(rows.len() > 90, "{} rows", rows.len());
    for row in rows {
        let (collective, world) = (Collective::ALL[row[0]], WORLDS[row[5]]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfold"));
        command
            .args(["perf", collective.as_str(), "-n", &world.to_string(), "--iters", "1", "--json"])
            .args(["--dtype", DType::ALL[row[1]].as_str(), "--op", ReduceOp::ALL[row[2]].as_str()])
            .args(["-b", SIZES[row[4]], "-e", SIZES[row[4]], "--root", &(world / 2).to_string()])
            .args(MODES[row[6]])
            .args(["--backend", BACKENDS[row[7]]]);
        if let Some(algorithm) = algorithms[row[3]] {
            command.args(["--algorithm", algorithm.name()]);
        }
        if CPUS[row[8]] == "one" {
            let one = one_cpu();
            let bind = move || Ok(sched_setaffinity(Pid::from_raw(0), &one)?);
            // SAFETY: between fork and exec it makes one system call, and allocates nothing.
            unsafe { command.pre_exec(bind) };
        }
        let output = command.env("RINGFOLD_DEADLINE", "60s").stdin(Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{command:?} on {} CPUs: {}\n{out}{err}",
            CPUS[row[8]],
            output.status
        );
        let right = out.lines().filter(|line| line.contains("\"wrong\":0")).count();
        assert_eq!((right, out.lines().count()), (2, 2), "{command:?} on {} CPUs:\n{out}", CPUS[row[8]]);
    }
}
