//! The command in a build that is linked with an MPI.

use crate::mpirun::{Run, launcher};
use ringfold::transport::mpi::version;
use serde_json::Value;
use std::process::Command;

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// What it prints.
fn printed(command: &mut Command) -> String {
    let output = command.env_remove("RINGFOLD_BACKEND").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What JSON says of a backend.
fn row<'j>(told: &'j Value, backend: &str) -> &'j Value {
    let rows = told["backends"].as_array().unwrap();
    rows.iter().find(|row| row["backend"] == backend).unwrap_or_else(|| panic!("no {backend} in {told}"))
}

#[test]
fn info_says_which_mpi_this_is() {
    let table = printed(Command::new(RINGFOLD).arg("info"));
    let told: Value =
        serde_json::from_str(&printed(Command::new(RINGFOLD).args(["info", "--json"]))).unwrap();
    let here = format!("under the mpirun of {}", version());
    for backend in ["mpi", "mpi-p2p"] {
        let line = table.lines().find(|line| line.trim_start().starts_with(&format!("{backend} "))).unwrap();
        assert!(line.contains(" yes ") && line.contains(&here) && line.contains("possible"), "{table}");
        let row = row(&told, backend);
        assert_eq!(
            (row["state"].as_str(), row["here"].as_str()),
            (Some("possible"), Some(&here[..])),
            "{told}"
        );
        assert!(row["why"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    }
    assert_eq!(row(&told, "shm")["state"], "chosen", "{told}");
}

#[test]
fn info_says_what_ranks_of_an_mpi_have_agreed_on() {
    for backend in ["mpi", "mpi-p2p"] {
        let mut launcher = launcher(Run::is_open_mpi(), 2, &[], RINGFOLD);
        let output = launcher.args(["info", "--group", "--json"]).env("RINGFOLD_BACKEND", backend).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_str(text.trim()).unwrap();
        let row = row(&told, backend);
        assert_eq!((&row["state"], &row["here"]), (&"chosen".into(), &"2 ranks have agreed on it".into()));
    }
}
