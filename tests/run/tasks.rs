//! `ringfold run` as a barrier task group: attempts, devices, what tasks are told.

use crate::{run, said};

#[test]
fn a_group_is_tried_again_and_every_failure_is_told() {
    let script = r#"
        case "$RINGFOLD_GENERATION$RINGFOLD_RANK" in
            01) exit 3 ;;
            10) kill -9 $$ ;;
            *) sleep 0.2; echo "attempt $RINGFOLD_GENERATION" ;;
        esac"#;
    let told = said(&mut run(&["-n", "2", "--max-attempts", "3", "--backoff", "10ms"], script));
    assert_eq!(told.code, Some(0), "{told:?}");
    let last: Vec<String> = told.lines().into_iter().filter(|line| line.ends_with("attempt 2")).collect();
    assert_eq!(last, ["[0] attempt 2", "[1] attempt 2"]);
    assert!(told.err.contains("attempt 0: rank 1 (pid "), "{told:?}");
    assert!(told.err.contains("exited with status 3; attempt 1 begins in 10ms"), "{told:?}");
    assert!(told.err.contains("attempt 1: rank 0 (pid "), "{told:?}");
    assert!(told.err.contains("was killed by signal 9 (SIGKILL); attempt 2 begins in 20ms"), "{told:?}");
}

#[test]
fn the_status_is_that_of_the_last_attempt() {
    let said = said(&mut run(
        &["-n", "2", "--max-attempts", "2", "--backoff", "1ms"],
        "exit $((3 + RINGFOLD_GENERATION))",
    ));
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("no attempt is left after 2"), "{said:?}");
}

#[test]
fn ranks_see_their_own_devices_and_what_all_are_told() {
    let script = r#"echo "$CUDA_VISIBLE_DEVICES in $RINGFOLD_TASK""#;
    let arguments = [
        "-n",
        "4",
        "--devices",
        "4,6",
        "--gpus-per-task",
        "0.5",
        "--share-devices",
        "--property",
        "user=ann",
    ];
    let mut command = run(&arguments, script);
    command.env_remove("CUDA_VISIBLE_DEVICES");
    let said = said(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}");
    for (rank, line) in said.lines().iter().enumerate() {
        let (own, device) = (format!("[{rank}] "), ["4", "6"][rank / 2]);
        assert!(line.starts_with(&format!("{own}{device} in {{")), "{line}");
        assert!(line.contains(r#""user":"ann""#) && line.contains(r#""attempt":0"#), "{line}");
    }
}

#[test]
fn ranks_that_do_not_fit_are_refused_with_what_would() {
    let refused = said(&mut run(
        &["-n", "3", "--devices", "0,1", "--gpus-per-task", "1", "--max-attempts", "9"],
        "echo started",
    ));
    assert_eq!((refused.code, refused.text().as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("3 tasks ask for 1 gpu each, and there are 2"), "{refused:?}");
    assert!(refused.err.contains("2 tasks would fit"), "{refused:?}");
    for wrong in [
        &["--gpus-per-task", "1.5"][..],
        &["--gpus-per-task", "-1"],
        &["--resource", "gpu"],
        &["--resource", "gpu=many"],
        &["--devices", "all", "--gpus-per-task", "1"],
        &["--devices", "file:/nowhere.json"],
        &["--max-attempts", "0"],
        &["--placement", "nowhere"],
    ] {
        let said = said(&mut run(&[&["-n", "1"], wrong].concat(), "echo started"));
        assert!(said.code.is_some_and(|code| code == 1 || code == 2), "{wrong:?}: {said:?}");
        assert!(said.text().is_empty() && !said.err.contains("panicked"), "{wrong:?}: {said:?}");
    }
}

#[test]
fn flags_that_there_are_not_are_no_programs() {
    for wrong in ["--retries", "--proggress", "--gpus"] {
        let mut command = std::process::Command::new(crate::RINGFOLD);
        command.args(["run", "-n", "1", wrong, "3", "--", "true"]);
        let refused = said(&mut command);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains("unexpected argument"), "{refused:?}");
    }
    // Those of the program are its own.
    let mut command = std::process::Command::new(crate::RINGFOLD);
    command.args(["run", "-n", "1", "echo", "--retries", "-n", "3"]);
    assert_eq!(said(&mut command).text(), "[0] --retries -n 3\n");
}

#[test]
fn what_one_attempt_would_read_is_not_lost_to_the_next() {
    let mut command =
        run(&["-n", "1", "--max-attempts", "2", "--backoff", "1ms"], "read line; echo \"<$line>\"; exit 1");
    command.stdin(std::process::Stdio::piped());
    let mut child = crate::start(&mut command);
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a\nb\n").unwrap();
    let told = crate::finish(child);
    assert_eq!(told.text(), "[0] <>\n[0] <>\n", "{told:?}");
}

#[test]
fn who_is_behind_a_failure_comes_first() {
    let script = r#"[ $RINGFOLD_RANK = 1 ] && exit 0; sleep 0.3; exit 5"#;
    let told = said(&mut run(&["-n", "2"], script));
    assert_eq!(told.code, Some(5), "{told:?}");
    assert!(told.err.starts_with("ringfold: rank 0 (pid "), "{told:?}");
}

#[test]
fn an_interruption_between_attempts_is_no_status_of_a_rank() {
    let child = crate::start(&mut run(&["-n", "1", "--max-attempts", "5", "--backoff", "60s"], "exit 3"));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    let told = crate::finish(child);
    assert_eq!(told.code, Some(130), "{told:?}");
    assert!(!told.err.contains("no attempt is left"), "{told:?}");
}
