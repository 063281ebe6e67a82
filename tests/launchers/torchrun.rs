//! A real torchrun.

use crate::{PERF, RINGFOLD, check_rows, finish, free_port};
use std::process::{Command, Stdio};

/// Runs a program as two ranks under torchrun, which has to succeed. What rank 0 wrote to its standard output.
fn under_torchrun(options: &[&str], program: &[&str]) -> String {
    let port = free_port().to_string();
    let mut command = Command::new("torchrun");
    // Old versions know no dashes in names. Redirected and shown: with Python 3.11 old ones fail on the default, none.
    command.args(["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", &port]);
    command.args(["-r", "1", "-t", "1"]).args(options).arg("--no_python").args(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("torchrun: {error}; `bash tests/all.sh` installs what the tests need");
    });
    let output = finish(child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let lines = out.lines().filter_map(|line| line.strip_prefix("[default0]:"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn torchrun_starts_it() {
    let mut program = vec![RINGFOLD];
    program.extend(PERF);
    check_rows(&under_torchrun(&[], &program), 2);
}

#[test]
fn a_restart_is_a_new_generation() {
    // Rank 1 fails at first, while rank 0 waits for it; torchrun ends that and starts both again.
    let script = format!(
        "if [ $TORCHELASTIC_RESTART_COUNT = 0 ] && [ $RANK = 1 ]; then sleep 1; exit 3; fi
         [ $TORCHELASTIC_RESTART_COUNT = 0 ] || {RINGFOLD} info | sed -n 's/^ *rank /# rank /p'
         exec {RINGFOLD} {}",
        PERF.join(" ")
    );
    let said = under_torchrun(&["--max_restarts", "1"], &["sh", "-c", &script]);
    let (told, rows): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with('#'));
    assert_eq!(told.len(), 1, "{said}");
    assert!(told[0].contains("0 of 2, generation 1"), "{said}");
    check_rows(&rows.join("\n"), 2);
}
