//! `ringfold perf` for real: started by itself, by Open MPI and by MPICH.

use serde_json::Value;
use std::process::{Command, Output, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{:?}: {error}; `bash tests/all.sh` installs what the tests need", command.get_program())
    })
}

/// The rows of a successful run, each checked for what every row promises.
fn rows(output: Output, ranks: u64, collective: &str) -> Vec<Value> {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{collective}: {:?}\n{out}\n{err}", output.status);
    let rows: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
        .collect();
    for row in &rows {
        let fields: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let mut promised = vec![
            "collective",
            "backend",
            "algorithm",
            "ranks",
            "dtype",
            "op",
            "size_bytes",
            "count",
            "in_place",
            "time_us",
            "algbw_gb_s",
            "busbw_gb_s",
            "wrong",
        ];
        promised.sort_unstable();
        let mut found = fields.clone();
        found.sort_unstable();
        assert_eq!(found, promised);
        assert_eq!(row["collective"], collective);
        assert!(["shm", "tcp"].contains(&row["backend"].as_str().unwrap()), "{row}");
        assert_eq!(row["ranks"], ranks);
        assert_eq!(row["wrong"], 0);
        assert!(row["in_place"].is_boolean());
        assert!(row["time_us"].as_f64().unwrap() > 0.0);
    }
    rows
}

const SHORT: [&str; 7] = ["-b", "8", "-e", "64K", "--iters", "3", "--json"];

#[test]
fn every_collective_is_measured_and_right() {
    for collective in [
        "all_reduce",
        "reduce",
        "reduce_scatter",
        "all_gather",
        "broadcast",
        "gather",
        "scatter",
        "all_to_all",
    ] {
        let out =
            output(Command::new(RINGFOLD).args(["perf", collective, "-n", "3", "--root", "2"]).args(SHORT));
        let rows = rows(out, 3, collective);
        // 8, 32, ... 32 KiB, each out of place and in place.
        assert_eq!(rows.len(), 14, "{collective}");
        assert_eq!(rows[0]["size_bytes"], 8);
        assert_eq!(rows[0]["count"], 2);
        assert_eq!((&rows[0]["in_place"], &rows[1]["in_place"]), (&Value::Bool(false), &Value::Bool(true)));
        let op = rows[0]["op"].as_str().unwrap();
        assert_eq!(op, if collective.contains("reduce") { "sum" } else { "none" });
    }
    let out = output(Command::new(RINGFOLD).args(["perf", "barrier", "-n", "2"]).args(SHORT));
    assert_eq!(rows(out, 2, "barrier").len(), 2);
}

#[test]
fn types_reductions_algorithms_and_fresh_operands() {
    for more in [
        &["--dtype", "bf16", "--op", "mean", "--fresh"][..],
        &["--dtype", "i8", "--op", "prod", "--algorithm", "direct"],
        &["--dtype", "u64", "--op", "bitxor", "--algorithm", "halving_doubling"],
        &["--dtype", "f16", "--op", "max", "--algorithm", "ring", "--seconds", "0"],
        &["--dtype", "f64", "--order", "fixed"],
        &["--dtype", "i32", "--backend", "shm"],
        &["--dtype", "i32", "--backend", "tcp"],
    ] {
        let out =
            output(Command::new(RINGFOLD).args(["perf", "all_reduce", "-n", "3"]).args(SHORT).args(more));
        let rows = rows(out, 3, "all_reduce");
        assert_eq!(rows[0]["dtype"], more[1], "{more:?}");
        if let Some(at) = more.iter().position(|word| *word == "--algorithm") {
            assert!(rows.iter().all(|row| row["algorithm"] == more[at + 1]));
        }
        // Ranks of one host share memory unless something else is asked for.
        let asked = more.iter().position(|word| *word == "--backend").map_or("shm", |at| more[at + 1]);
        assert!(rows.iter().all(|row| row["backend"] == asked), "{more:?}");
    }
}

#[test]
fn the_table_has_the_columns_of_nccl_tests() {
    let out =
        output(Command::new(RINGFOLD).args(["perf", "all_reduce", "-n", "2", "-e", "128", "--iters", "2"]));
    let text = String::from_utf8(out.stdout).unwrap();
    for column in ["size", "count", "type", "redop", "root", "time", "algbw", "busbw", "#wrong"] {
        assert!(text.contains(column), "{column} is missing:\n{text}");
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "the table does not align:\n{text}");
}

fn under(mpirun: &str, options: &[&str]) {
    let out = output(
        Command::new(mpirun)
            .args(options)
            .args(["-n", "4", RINGFOLD, "perf", "all_reduce"])
            .args(SHORT)
            // Open MPI asks to be asked before it runs as root, as tests in a container do.
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    );
    assert_eq!(rows(out, 4, "all_reduce").len(), 14);
}

#[test]
fn open_mpi_starts_it() {
    under("mpirun.openmpi", &["--oversubscribe"]);
}

#[test]
fn mpich_starts_it() {
    under("mpirun.mpich", &[]);
}

#[test]
fn without_a_driver_nccl_says_what_was_looked_for() {
    let mut command = Command::new(RINGFOLD);
    command
        .args(["perf", "all_reduce", "-n", "2", "--backend", "nccl"])
        .env("RINGFOLD_CUDA", "/nowhere/cuda.so");
    let out = output(&mut command);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && !err.contains("panicked"), "{err}");
    assert!(
        err.contains("the CUDA driver's library is not to be had: looked for /nowhere/cuda.so ("),
        "{err}"
    );
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    for (words, telling) in [
        (&["all_reduce", "-n", "0"][..], "no ranks"),
        (&["all_reduce", "-n", "2", "--backend", "nccl"], "the backend nccl cannot be had"),
        (
            &["all_reduce", "-n", "2", "--backend", "mpi"],
            if cfg!(feature = "mpi") { "MPI" } else { "--features mpi" },
        ),
        (&["all_reduce", "-n", "2", "--backend", "pigeon"], "[possible values: auto, shm, hierarchical, tcp"),
        (
            &["all_reduce", "-n", "2", "--backend", "mpi-p2p"],
            if cfg!(feature = "mpi") { "MPI does not know" } else { "--features mpi" },
        ),
        (&["all_reduce", "-n", "2", "--op", "bitor"], "not defined for f32"),
        (&["broadcast", "-n", "2", "--algorithm", "pairwise"], "does not do broadcast"),
        (&["all_reduce", "-n", "2", "-b", "1M", "-e", "1K"], "-b be at most -e"),
        (&["all_reduce", "-n", "2", "-e", "1X"], "no size"),
        (&["allreduce", "-n", "2"], "no collective is called"),
        (&["reduce", "-n", "2", "--root", "2"], "root 2"),
        (&["all_reduce", "-n", "2", "--seconds", "-1"], ""),
    ] {
        let out = output(Command::new(RINGFOLD).arg("perf").args(words));
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{words:?}");
        assert!(err.contains(telling), "{words:?}: {err}");
        assert!(!err.contains("panicked"), "{words:?}: {err}");
    }
}
