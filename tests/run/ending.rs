//! How a launch ends, and what is left of it.

use crate::scene::{Place, told};
use crate::{
    LONG, RINGFOLD, await_lines, children, eventually, finish, mark, marked, run, said, send, start, state,
};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn the_first_failure_decides_and_the_others_are_ended() {
    let said = said(&mut run(&["-n", "3"], "[ $RANK = 1 ] && exit 3; sleep 300"));
    assert_eq!(said.code, Some(3), "{said:?}");
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(lines[0].starts_with("ringfold: rank 1 (pid "), "{lines:?}");
    assert!(lines[0].ends_with(") exited with status 3"), "{lines:?}");
    assert_eq!(lines[1], "ringfold: ranks 0 and 2 ended when told to");
}

#[test]
fn a_signal_is_named() {
    let said = said(&mut run(&["-n", "2"], "[ $RANK = 0 ] && kill -9 $$; sleep 300"));
    assert_eq!(said.code, Some(137), "{said:?}");
    assert!(said.err.contains("was killed by signal 9 (SIGKILL)"), "{}", said.err);
}

#[test]
fn others_have_time_to_end_by_themselves() {
    // A failure that others survive by 100 ms, which is less than they have.
    let said = said(&mut run(&["-n", "2"], "[ $RANK = 0 ] && exit 4; sleep 0.1; echo done; exit 5"));
    assert_eq!(said.code, Some(4), "{said:?}");
    // On a machine that is busy enough it may have been told to end before it could.
    assert!(said.text() == "[1] done\n" || said.err.contains("told to"), "{said:?}");
}

#[test]
fn a_rank_that_does_not_end_is_asked_and_then_killed() {
    let script = r#"case $RANK in
        0) until [ -e "$READY/1" ] && [ -e "$READY/2" ]; do sleep 0.01; done; exit 6;;
        1) trap 'echo asked; exit 0' TERM;;
        2) trap '' TERM;;
    esac
    : > "$READY/$RANK"
    while :; do sleep 0.05; done"#;
    let directory = std::env::temp_dir().join(format!("ringfold-run-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let start = Instant::now();
    let said = said(&mut run(&["-n", "3", "--env", &format!("READY={}", directory.display())], script));
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(said.code, Some(6), "{said:?}");
    assert_eq!(said.text(), "[1] asked\n");
    assert!(said.err.contains("rank 1 exited with status 0; rank 2 ended when told to"), "{}", said.err);
    assert!(start.elapsed() >= Duration::from_millis(2250), "{:?}", start.elapsed());
}

/// Holds how ranks have ended to how they do, again and again. Before Linux 6.15 it is not known where somebody else was told.
fn are_known(told: &str) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let remembers = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
    println!("{told} ({release:?})");
    let statuses = told.trim_matches(['[', ']']).split(", ");
    let known = ["Exited(0)", "Exited(3)", "Killed(9)"].into_iter().cycle();
    for (status, known) in statuses.zip(known) {
        assert!(status == known || (!remembers && status == "Unknown"), "{told}");
    }
}

#[test]
fn the_ends_of_children_that_the_system_forgets_are_known() {
    let place = Place::new("forgotten");
    are_known(&told("forgotten children", &place, &mark("forgotten")));
    let restored = told("remembered children", &place, &mark("remembered"));
    assert_eq!(restored, "[Exited(0), Exited(3), Killed(9)]", "on any system");

    // The command remembers, and its ranks inherit that.
    let script = "grep -q '^SigIgn:.*[13579bdf]....$' /proc/self/status && exit 9; exit 4";
    let mut command = run(&["-n", "1"], script);
    // SAFETY: ignoring a signal is a system call.
    unsafe { command.pre_exec(|| Ok(signal(Signal::SIGCHLD, SigHandler::SigIgn).map(drop)?)) };
    let said = said(&mut command);
    assert_eq!(said.code, Some(4), "{said:?}");
}

#[test]
fn the_ends_of_children_that_somebody_else_reaps_are_known() {
    let place = Place::new("reaped");
    are_known(&told("reaped children", &place, &mark("reaped")));
}

#[test]
fn a_stopped_rank_is_ended_too() {
    let script = "[ $RANK = 1 ] && kill -STOP $$; sleep 0.3; exit 1";
    let said = said(&mut run(&["-n", "2"], script));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("rank 1 ended when told to"), "{}", said.err);
}

#[test]
fn time_can_be_up() {
    let said = said(&mut run(&["-n", "2", "--timeout", "200ms"], "sleep 300"));
    assert_eq!(said.code, Some(124), "{said:?}");
    assert!(said.err.contains("--timeout"), "{}", said.err);
    let bad = crate::said(&mut run(&["-n", "2", "--timeout", "soon"], "sleep 300"));
    assert_eq!(bad.code, Some(2));
    assert!(bad.err.contains("500ms, 2s, 30min"), "{}", bad.err);
}

#[test]
fn programs_that_cannot_be_started_are_named() {
    let ringfold = |program: &str| said(Command::new(RINGFOLD).args(["run", "-n", "2", "--", program]));
    let missing = ringfold("no-such-program");
    assert_eq!(missing.code, Some(127));
    assert!(missing.err.contains("no-such-program: No such file"), "{}", missing.err);
    assert!(missing.err.contains("PATH"), "{}", missing.err);
    assert_eq!(ringfold("./no/such/program").code, Some(127));

    let plain = std::env::temp_dir().join(format!("ringfold-plain-{}", std::process::id()));
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = ringfold(plain.to_str().unwrap());
    fs::remove_file(&plain).unwrap();
    assert_eq!(refused.code, Some(126), "{refused:?}");
    assert!(refused.err.contains("chmod +x"), "{}", refused.err);

    let nobody = said(Command::new(RINGFOLD).args(["run", "-n", "0", "--", "true"]));
    assert_eq!(nobody.code, Some(2));
}

#[test]
fn what_ranks_leave_may_finish_and_is_then_ended() {
    let mark = mark("leave");
    let script = "(sleep 0.1; echo late) & [ $RANK = 1 ] && { sleep 300 & }; exit 0";
    let said = said(&mut run(&["-n", "2", "--env", &mark], script));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.lines(), ["[0] late", "[1] late"]);
    assert!(marked(&mark).is_empty(), "nothing is left when the launcher has ended");
}

#[test]
fn what_left_the_launch_on_purpose_does_not_hold_it_up() {
    let mark = mark("daemon");
    // It holds the pipes of its rank: the end does not wait for theirs.
    let said = said(&mut run(&["-n", "1", "--env", &mark], "setsid sleep 300 & echo started"));
    assert_eq!((said.code, said.text().as_str()), (Some(0), "[0] started\n"));
    let start = Instant::now();
    while let Some(&pid) = marked(&mark).first() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL);
        assert!(start.elapsed() < LONG);
    }
}

#[test]
fn a_launcher_that_is_killed_leaves_nothing() {
    let mark = mark("killed");
    // Each rank has a child and that one has another, and none of them would end by itself.
    let script = "trap '' HUP TERM; sh -c 'sleep 300 & wait' & echo up; wait";
    let mut child = start(&mut run(&["-n", "3", "--env", &mark], script));
    let reader = await_lines(&mut child, 3, "up");
    eventually("all have started", || marked(&mark).len() == 9);
    let started = children(child.id());
    assert_eq!(started.len(), 4, "three ranks and a guard");
    child.kill().unwrap();
    let said = finish(child);
    assert_eq!(said.signal, Some(9));
    eventually("nothing is left", || marked(&mark).is_empty());
    eventually("no guard either", || started.iter().all(|&pid| matches!(state(pid), None | Some('Z'))));
    drop(reader);
}

#[test]
fn a_guard_that_is_killed_is_no_failure() {
    let mut child =
        start(&mut run(&["-n", "1"], "echo up; while [ -e /proc/$PPID/fd ]; do sleep 0.05; done"));
    let reader = await_lines(&mut child, 1, "up");
    let guard = children(child.id()).into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"ringfold-guard")
    });
    let guard = nix::unistd::Pid::from_raw(guard.expect("there is one") as i32);
    nix::sys::signal::kill(guard, Signal::SIGKILL).unwrap();
    send(&child, Signal::SIGTERM);
    let said = finish(child);
    assert_eq!(said.code, Some(143), "{said:?}");
    drop(reader);
}
