//! Conformance across processes: pairwise-sampled settings of `ringfold perf`, whose ranks are real processes
//! and which compares every element of every result with the oracle, out of place and in place.

#[path = "calls/pairwise.rs"]
mod pairwise;

use ringfold::plan::Reach;
use ringfold::{Algorithm, Collective, DType, ReduceOp};
use std::process::{Command, Stdio};

/// Sizes in bytes: one element, odd numbers of elements, more than a staging buffer, more than a slice.
const SIZES: [&str; 5] = ["8", "104", "8200", "300K", "2500K"];
const WORLDS: [usize; 5] = [1, 2, 3, 4, 7];
const BACKENDS: [&str; 2] = ["shm", "tcp"];
const MODES: [&[&str]; 3] = [&[], &["--fresh"], &["--order", "fixed"]];

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
        let output = command.env("RINGFOLD_DEADLINE", "60s").stdin(Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
        let right = out.lines().filter(|line| line.contains("\"wrong\":0")).count();
        assert_eq!((right, out.lines().count()), (2, 2), "{command:?}:\n{out}");
    }
}
