//! Which backend a group of real processes takes, what it says of the others, and that what one rank cannot have is the same error
//! on all of them, before anything has moved.

mod support;

use ringfold::backend::choose::CANDIDATES;
use ringfold::config::{BackendChoice, environment};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{config, on_ranks, unused_address};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// What one rank has said: its output, its errors.
type Said = (String, String);

/// Lets ranks that are processes form a group, each after commands of its own, and gives what each of them has said of it.
fn ranks(name: &str, setup: &[&str]) -> Vec<Said> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("choosing-{name}"));
    drop(fs::remove_dir_all(&directory));
    fs::create_dir_all(&directory).unwrap();
    let cases: String = setup.iter().enumerate().map(|(rank, line)| format!("{rank}) {line};; ")).collect();
    let at = directory.display();
    // Each ends well, so that none is ended for another's sake before it has spoken.
    let line = format!(
        "case $RINGFOLD_RANK in {cases} esac; \
         '{RINGFOLD}' info --group --json >'{at}'/out.$RINGFOLD_RANK 2>'{at}'/err.$RINGFOLD_RANK; exit 0"
    );
    let out = Command::new(RINGFOLD)
        .args(["run", "-n", &setup.len().to_string(), "--", "bash", "-c", &line])
        .env(environment::LOG, "info")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    let read =
        |what: &str, rank: usize| fs::read_to_string(directory.join(format!("{what}.{rank}"))).unwrap();
    (0..setup.len()).map(|rank| (read("out", rank), read("err", rank))).collect()
}

/// Requires that every rank has an error of this kind, which says so much.
fn all_refuse(name: &str, setup: &[&str], kind: &str, says: &[&str]) {
    for (rank, (out, err)) in ranks(name, setup).into_iter().enumerate() {
        assert!(out.is_empty(), "{name}: rank {rank}: {out}");
        let error = err.lines().find(|line| line.starts_with("ringfold: ")).unwrap_or_default();
        for says in [&[kind][..], says].concat() {
            assert!(error.contains(says), "{name}: rank {rank} does not say {says:?}: {err}");
        }
        assert!(error.contains("to do: "), "{name}: {error}");
    }
}

#[test]
fn memory_that_one_rank_cannot_share_is_an_error_of_all_who_insist() {
    let setup = [
        "export RINGFOLD_BACKEND=shm",
        "export RINGFOLD_BACKEND=shm; ulimit -f 1024",
        "export RINGFOLD_BACKEND=shm",
    ];
    all_refuse("shm", &setup, "unsupported", &["the backend shm cannot be had: on rank 1: ", "ulimit -f"]);
    // Also of those who leave it open.
    let setup = ["ulimit -f 1024", "export RINGFOLD_BACKEND=shm"];
    all_refuse("shm-rank-0", &setup, "unsupported", &["cannot be had: on rank 0: ", "ulimit -f"]);
}

#[test]
fn an_interface_that_one_rank_has_not_is_an_error_of_all() {
    let tcp = "export RINGFOLD_BACKEND=tcp";
    let deaf = "export RINGFOLD_BACKEND=tcp RINGFOLD_INTERFACE=nowhere7";
    let says = ["the backend tcp cannot be had: on rank 2: ", "nowhere7", "RINGFOLD_INTERFACE"];
    all_refuse("tcp", &[tcp, tcp, deaf], "unsupported", &says);
    // Whatever is chosen, there has to be one.
    let says = ["no backend can be had: on rank 1: ", "nowhere7"];
    all_refuse("auto-deaf", &["true", "export RINGFOLD_INTERFACE=nowhere7"], "configuration", &says);
}

#[test]
fn libraries_that_are_not_there_are_an_error_of_all() {
    for word in ["mpi", "mpi-p2p", "nccl"] {
        if cfg!(feature = "mpi") && word != "nccl" {
            continue; // tests/mpi has these
        }
        let set = format!("export RINGFOLD_BACKEND={word}");
        let says = format!("the backend {word} cannot be had: on rank 0: ");
        all_refuse(&format!("all-{word}"), &[&set, &set], "unsupported", &[&says]);
    }
}

#[test]
fn libraries_are_asked_for_by_all_or_none() {
    for word in ["mpi", "mpi-p2p", "nccl"] {
        let set = format!("export RINGFOLD_BACKEND={word}");
        let says = format!("rank 1 asks for the backend {word}, and rank 0 for another");
        all_refuse(&format!("one-{word}"), &["true", &set, &set], "configuration", &[&says]);
    }
}

#[test]
fn ranks_that_ask_for_different_backends_are_all_told_who() {
    let setup = ["export RINGFOLD_BACKEND=tcp", "true", "export RINGFOLD_BACKEND=shm"];
    let says = ["rank 0 asks for the backend tcp, and rank 2 for shm"];
    all_refuse("unlike", &setup, "configuration", &says);
}

/// The backend that all have agreed on, and the reasons against the others, by what rank 0 says.
fn agreed(name: &str, setup: &[&str]) -> (String, Vec<(String, String)>) {
    let said = ranks(name, setup);
    let told: Value = serde_json::from_str(&said[0].0).unwrap_or_else(|_| panic!("{name}: {said:?}"));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = told["backends"].as_array().unwrap();
    assert_eq!(rows[0]["state"], "chosen");
    let over: Vec<_> = rows[1..]
        .iter()
        .map(|row| {
            assert_eq!(row["state"], "passed_over");
            (text(row, "backend"), text(row, "why"))
        })
        .collect();
    assert_eq!(over.len(), CANDIDATES.len() - 1, "{over:?}");
    // The log of every rank has the same reasons.
    for (_, err) in &said {
        let line = err.lines().find(|line| line.contains("the backend has been chosen")).unwrap_or_default();
        let plain = line.replace('\\', "");
        for (backend, why) in &over {
            let reason = format!("{backend}: {why}").replace('\\', "");
            assert!(plain.contains(&reason), "{name}: {reason} is not in {err}");
        }
    }
    (text(&rows[0], "backend"), over)
}

#[test]
fn what_is_passed_over_has_a_reason_which_all_ranks_know() {
    let (taken, over) = agreed("free", &["true", "true", "true"]);
    assert_eq!(taken, "shm");
    assert_eq!(over[0], ("hierarchical".to_owned(), "all ranks are on one host".to_owned()));
    assert_eq!(over[1], ("tcp".to_owned(), "shm comes first, and can be had".to_owned()));
    assert!(over[4].0 == "nccl" && over[4].1.contains("libnccl.so.2"), "{over:?}");

    let (taken, over) = agreed("limited", &["true", "ulimit -f 1024"]);
    assert_eq!((taken.as_str(), over[0].0.as_str()), ("tcp", "shm"));
    assert!(over[0].1.starts_with("on rank 1: ") && over[0].1.contains("ulimit -f"), "{over:?}");

    let (taken, over) = agreed("asked", &["true", "export RINGFOLD_BACKEND=tcp"]);
    assert_eq!(taken, "tcp");
    assert!(over.iter().all(|(_, why)| why == "rank 1 asks for tcp"), "{over:?}");
}

#[test]
fn a_communicator_tells_what_was_passed_over_and_so_do_its_groups() {
    let store = unused_address();
    on_ranks(2, |rank| {
        let config = config(rank, 2).with_store(&*store).with_backend(BackendChoice::Tcp);
        let comm = ringfold::Communicator::connect(&config).unwrap();
        let told: Vec<String> = comm.passed_over().iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "shm: rank 0 asks for tcp");
        assert_eq!(comm.duplicate().unwrap().passed_over(), comm.passed_over());
    });
    assert!(ringfold::Communicator::local(1)[0].passed_over().is_empty());
}

/// What `info` says of a backend.
fn info(line: &str, backend: &str) -> (String, String, String) {
    let line = format!("{line}; exec '{RINGFOLD}' info --json");
    let out = Command::new("bash").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    let rows = told["backends"].as_array().unwrap();
    assert_eq!(rows.len(), CANDIDATES.len() + 1);
    let row = rows.iter().find(|row| row["backend"] == backend).unwrap();
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    (text("state"), text("here"), text("why"))
}

#[test]
fn info_says_of_each_backend_what_becomes_of_it_and_why() {
    assert_eq!(info("true", "shm").0, "chosen");
    let (state, _, why) = info("true", "tcp");
    assert_eq!((state.as_str(), why.as_str()), ("possible", "shm comes first, and can be had"));
    let (state, here, _) = info("ulimit -f 1024", "shm");
    assert!(state == "passed_over" && here.contains("ulimit -f"), "{here}");
    assert_eq!(info("ulimit -f 1024", "tcp").0, "chosen");
    let (state, _, why) = info("export RINGFOLD_BACKEND=tcp", "shm");
    assert_eq!((state.as_str(), why.as_str()), ("possible", "tcp is asked for"));
    assert_eq!(info("export RINGFOLD_BACKEND=tcp", "tcp").0, "chosen");
    assert_eq!(info("true", "channel").0, "possible");
    if !cfg!(feature = "mpi") {
        let (state, here, why) = info("export RINGFOLD_BACKEND=mpi", "mpi");
        assert!(state == "passed_over" && here.contains("this build has no MPI"), "{here}");
        assert!(why.contains("error on every rank"), "{why}");
    }
    // For people it is the same in a table.
    let out = Command::new(RINGFOLD).arg("info").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let row = |backend: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{backend} ")));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert!(row("shm").contains("chosen") && row("tcp").contains("possible"), "{text}");
}
