//! Signals to the launcher are signals to the ranks.

use crate::{await_lines, children, eventually, finish, mark, marked, run, send, start, state};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::io::Read;
use std::os::unix::process::CommandExt;

/// Ranks that say `up`, then each signal that they get, and end with a status after one of them.
const LOOP: &str = r#"for s in INT TERM HUP QUIT; do trap "echo $s; exit 7" $s; done
for s in USR1 USR2; do trap "echo $s" $s; done
echo up; while :; do sleep 0.02; done"#;

#[test]
fn signals_are_passed_on() {
    for (number, name) in [
        (Signal::SIGINT, "INT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
    ] {
        let mut child = start(&mut run(&["-n", "2"], LOOP));
        let mut reader = await_lines(&mut child, 2, "up");
        send(&child, number);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let said = finish(child);
        assert_eq!(said.code, Some(7), "{name}: {said:?}");
        let mut lines: Vec<&str> = rest.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [format!("[0] {name}"), format!("[1] {name}")]);
    }
}

#[test]
fn user_signals_reach_the_ranks_and_not_their_helpers() {
    // `sleep` would die of it. A `wait` would not end where the signal came just before it.
    let script = "trap 'echo heard; heard=1' USR1; sleep 300 & helper=$!; echo up
        until [ $heard ]; do sleep 0.02; done; kill -0 $helper && echo alive; trap '' TERM; kill $helper; exit 0";
    let mut child = start(&mut run(&["-n", "2"], script));
    let mut reader = await_lines(&mut child, 2, "up");
    send(&child, Signal::SIGUSR1);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let said = finish(child);
    assert_eq!(said.code, Some(0), "{said:?}");
    let mut lines: Vec<&str> = rest.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] alive", "[0] heard", "[1] alive", "[1] heard"]);
}

#[test]
fn an_interrupt_ends_what_does_not_mind() {
    let mut child = start(&mut run(&["-n", "2"], "echo up; sleep 300"));
    let reader = await_lines(&mut child, 2, "up");
    send(&child, Signal::SIGINT);
    let said = finish(child);
    assert_eq!(said.code, Some(130), "{said:?}");
    assert_eq!(said.err, "", "what was asked for is no failure");
    drop(reader);
}

#[test]
fn a_second_interrupt_kills() {
    let mark = mark("interrupt");
    let script = "trap '' INT TERM; echo up; while :; do sleep 0.05; done";
    let mut child = start(&mut run(&["-n", "2", "--env", &mark], script));
    let reader = await_lines(&mut child, 2, "up");
    send(&child, Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!marked(&mark).is_empty(), "one is not enough");
    send(&child, Signal::SIGINT);
    let said = finish(child);
    assert_eq!(said.code, Some(137), "{said:?}");
    assert!(marked(&mark).is_empty());
    drop(reader);
}

#[test]
fn what_is_ignored_stays_ignored() {
    let script = "echo up; while [ ! -e $DONE ]; do sleep 0.02; done; echo through";
    let done = std::env::temp_dir().join(format!("ringfold-hup-{}", std::process::id()));
    let mut command = run(&["-n", "1", "--env", &format!("DONE={}", done.display())], script);
    command.stdout(std::process::Stdio::piped());
    // SAFETY: ignoring a signal is a system call.
    unsafe { command.pre_exec(|| Ok(signal(Signal::SIGHUP, SigHandler::SigIgn).map(drop)?)) };
    let mut child = command.spawn().unwrap();
    let mut reader = await_lines(&mut child, 1, "up");
    send(&child, Signal::SIGHUP);
    std::fs::write(&done, "").unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let said = finish(child);
    std::fs::remove_file(&done).unwrap();
    assert_eq!((said.code, rest.as_str()), (Some(0), "[0] through\n"));
}

#[test]
fn a_stop_stops_all_and_a_continue_continues_all() {
    let mark = mark("stop");
    let mut child = start(&mut run(&["-n", "2", "--env", &mark], LOOP));
    let reader = await_lines(&mut child, 2, "up");
    let ranks: Vec<u32> =
        children(child.id()).into_iter().filter(|pid| marked(&mark).contains(pid)).collect();
    assert_eq!(ranks.len(), 2);
    send(&child, Signal::SIGTSTP);
    let launcher = child.id();
    let all = || ranks.iter().chain([&launcher]);
    // A shell that is just starting something waits for a child that is stopped itself, before that is another program.
    let is_stopped = |pid: u32| match state(pid) {
        Some('D') => children(pid).into_iter().any(|child| state(child) == Some('T')),
        state => state == Some('T'),
    };
    eventually("all are stopped", || all().all(|&pid| is_stopped(pid)));
    send(&child, Signal::SIGCONT);
    eventually("all go on", || all().all(|&pid| state(pid).is_some_and(|state| state != 'T')));
    send(&child, Signal::SIGTERM);
    assert_eq!(finish(child).code, Some(7));
    drop(reader);
}
