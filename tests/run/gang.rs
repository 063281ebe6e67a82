//! All ranks or none: whatever keeps one from being made, prepared or executed, and whoever stops half-way.

use crate::scene::{LEAVE_A_FILE, Place, RANKS, a_cpu, nothing_is_left, told, too_much_for};
use crate::{LONG, RINGFOLD, children, eventually, finish, mark, marked, run, said, start};
use nix::sys::signal::Signal;
use ringfold::launch::{Launch, Output, Status};
use ringfold::{Error, ErrorKind};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is said of a launch that nothing of came to be.
fn refused(scene: &str) -> String {
    let (place, mark) = (Place::new(&scene.replace(' ', "-")), mark(scene));
    let told = told(scene, &place, &mark);
    println!("{told}");
    assert_eq!(place.files(), 0, "{told}");
    nothing_is_left(&mark);
    told
}

#[test]
fn none_executes_where_one_cannot_be_made() {
    let processes = refused("few processes");
    assert!(processes.contains("as rank ") && processes.contains("ulimit -u"), "{processes}");
    assert!(processes.starts_with("Io None transient: true"), "{processes}");
    assert!(!processes.contains("as rank 0"), "some had been made: {processes}");
    let files = refused("few files");
    assert!(files.contains("as rank ") && files.contains("ulimit -n"), "{files}");
    assert!(files.starts_with("Io None transient: true"), "{files}");
    assert!(!files.contains("as rank 0"), "some had been made: {files}");
}

#[test]
fn none_executes_where_one_cannot_be_prepared() {
    let cpus = refused("no CPUs");
    assert!(
        cpus.starts_with("Io None transient: false") && cpus.contains("preparing rank 20 (sh): binding it"),
        "{cpus}"
    );
    let signal = refused("no signal");
    assert!(signal.contains("preparing rank ") && signal.contains("die with its launcher"), "{signal}");
}

#[test]
fn a_program_that_is_not_there_costs_no_process() {
    let told = refused("no processes");
    assert!(
        told.starts_with("Io Some(NotFound) transient: false") && told.contains("no-such-program"),
        "{told}"
    );
}

#[test]
fn the_others_end_where_one_cannot_execute() {
    let (place, mark) = (Place::new("execute"), mark("execute"));
    let (name, value) = mark.split_once('=').unwrap();
    let launch = || Launch::new(4).output(Output::Null).env(name, value).env("PLACE", place.path());
    // Rank 2, and only this, is refused by the system.
    let launch_of_one = launch().program("sh").args(["-c", LEAVE_A_FILE]);
    let error = too_much_for(2, launch_of_one).start().unwrap_err();
    assert_eq!((error.program(), error.is_transient()), (None, false));
    let text = error.to_string();
    assert!(text.contains("as rank 2: Argument list too long") && text.contains("128 KiB"), "{text}");
    nothing_is_left(&mark);

    let program = place.path().join("program");
    let error_of = |text: &str| {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        launch().program(&program).start().unwrap_err()
    };
    let missing = error_of("#!/no/such/interpreter\n");
    assert_eq!(missing.program(), Some(io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("interpreter"), "{missing}");
    // Somebody is writing it.
    fs::copy("/bin/true", &program).unwrap();
    let writer = File::options().append(true).open(&program).unwrap();
    let busy = launch().program(&program).start().unwrap_err();
    assert!(busy.to_string().contains("busy") && busy.is_transient(), "{busy}");
    drop(writer);
    nothing_is_left(&mark);
    assert!(launch().program(&program).start().unwrap().wait().success());
}

#[test]
fn a_file_without_a_first_line_is_the_shell_s() {
    let place = Place::new("shell");
    let program = place.path().join("program");
    fs::write(&program, "[ \"$1\" = 'one argument' ] && [ $# = 2 ] && exit $((RANK + 5))").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let launch = Launch::new(2).program(&program).args(["one argument", "another"]).output(Output::Null);
    let outcome = launch.start().unwrap().wait();
    assert_eq!(outcome.statuses, [Status::Exited(5), Status::Exited(6)]);
}

#[test]
fn standard_streams_that_are_closed_are_no_trap() {
    let place = Place::new("closed");
    assert_eq!(told("no standard input", &place, &mark("closed")), "[Exited(0), Exited(0)] 2");
    assert_eq!(fs::read_to_string(place.path().join("1")).unwrap(), "1  end\n");
}

#[test]
fn variables_and_cpus_of_one_rank_arrive() {
    let place = Place::new("own");
    let script = "{ echo $SHARED $OWN $RANK; sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status; } \
                  > \"$PLACE/$RANK\"";
    let cpu = a_cpu();
    let launch = Launch::new(3).program("sh").args(["-c", script]).env("PLACE", place.path());
    let launch = launch.env("SHARED", "all").env_of(1, "SHARED", "one").env_of(1, "OWN", "yes");
    let launch = launch.env_of(1, "RANK", "9").pin(1, [cpu]).output(Output::Null);
    assert!(launch.clone().start().unwrap().wait().success());
    let said = |rank: usize| fs::read_to_string(place.path().join(rank.to_string())).unwrap();
    assert_eq!(said(1), format!("one yes 1\n{cpu}\n"));
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    for rank in [0, 2] {
        assert_eq!(said(rank), format!("all {rank}\n{own}\n"), "as this thread");
    }
    // Its own PATH, where the program is looked for.
    let none = launch.clone().env_of(2, "PATH", "/no/such/directory").start().unwrap_err();
    assert_eq!(none.program(), Some(io::ErrorKind::NotFound));

    for (launch, word) in [
        (launch.clone().pin(0, [1023]), "CPU 1023"),
        (launch.clone().pin(0, [cpu, 5000]), "CPU 5000"),
        (launch.clone().pin(0, []), "no CPU at all"),
        (launch.clone().pin(3, [cpu]), "rank 3"),
        (launch.clone().env_of(7, "A", "b"), "rank 7"),
        (launch.clone().env("A=B", "c"), "A=B"),
        (launch.clone().env_of(0, "", "c"), "name"),
        (launch.clone().env("A", "b\0c"), "byte 0"),
        (launch.clone().arg("a\0b"), "byte 0"),
    ] {
        let error = Error::from(launch.start().unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn what_is_too_long_is_refused_before_anything_executes() {
    let place = Place::new("long");
    let launch =
        || Launch::new(3).output(Output::Null).program("sh").args(["-c", ": > \"$PLACE/$RANK\"", "name"]);
    let launch = || launch().env("PLACE", place.path());
    // With the name, '=' and a last byte that is 0: as much as there may be.
    let most = (128 << 10) - "LONG=".len() - 1;
    let variable = |length| launch().env_of(2, "LONG", "x".repeat(length)).start();
    let argument = |length| launch().arg("x".repeat(length)).start();
    for (error, words) in [
        (variable(most + 1), "the variable LONG of rank 2 has 131073 bytes"),
        (argument(128 << 10), "the argument 4 of sh has 131073 bytes"),
    ] {
        let error = error.unwrap_err();
        assert!(!error.is_transient());
        let error = Error::from(error);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(place.files(), 0);
    assert!(variable(most).unwrap().wait().success());
    assert!(argument((128 << 10) - 1).unwrap().wait().success());
    assert_eq!(place.files(), 3);
}

#[test]
fn ranks_of_a_launch_within_a_launch_are_told_of_their_own_only() {
    let place = Place::new("nested");
    assert_eq!(told("outer", &place, &mark("nested")), "no no no 0, its no no 1, no 8 no 2, ");
}

#[test]
fn ranks_begin_with_signals_and_descriptors_as_other_programs_do() {
    let texts = |command: &[&str]| {
        let plain = said(Command::new(command[0]).args(&command[1..]));
        let rank = said(Command::new(RINGFOLD).args(["run", "-n", "1", "--no-prefix", "--"]).args(command));
        assert_eq!((plain.code, rank.code), (Some(0), Some(0)), "{plain:?} {rank:?}");
        (plain.text(), rank.text())
    };
    let (plain, rank) = texts(&["ls", "/proc/self/fd"]);
    assert_eq!(rank, plain);
    // Of the program itself: a shell blocks signals now and then.
    let (plain, rank) = texts(&["grep", "^Sig", "/proc/self/status"]);
    let bits = |text: &str, name| {
        let field = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(field.trim(), 16).unwrap()
    };
    let bit = |signal| 1 << (signal as u64 - 1);
    let background = bit(Signal::SIGTTIN) | bit(Signal::SIGTTOU);
    assert_eq!(bits(&rank, "SigBlk:"), bits(&plain, "SigBlk:"));
    assert_eq!(bits(&rank, "SigIgn:"), bits(&plain, "SigIgn:") | background);
    assert_eq!(bits(&rank, "SigIgn:") & bit(Signal::SIGPIPE), 0);
    assert_eq!(bits(&rank, "SigCgt:"), bits(&plain, "SigCgt:"));
}

/// A launcher is stopped at any moment of its start. Then either all ranks execute without it, or none does.
#[test]
fn a_launcher_that_is_stopped_half_way_has_started_all_or_none() {
    let mut at_gate = 0;
    let mut random = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let mut tries = 0;
    while tries < 10 || at_gate < 3 {
        assert!(begun.elapsed() < LONG, "{at_gate} of {tries} were stopped while ranks waited");
        tries += 1;
        let (place, mark) = (Place::new(&format!("stop-{tries}")), mark("stop"));
        let ranks = RANKS.to_string();
        let variable = format!("PLACE={}", place.path().display());
        let mut command = run(&["-n", &ranks, "--env", &variable], LEAVE_A_FILE);
        let (name, value) = mark.split_once('=').unwrap();
        let child = start(command.env(name, value));
        std::thread::sleep(Duration::from_micros(random.u64(1000..20_000)));
        crate::send(&child, Signal::SIGSTOP);
        let mut waiting = None;
        eventually("all ranks that there are wait, or all ranks execute", || {
            waiting = all_at_gate(child.id());
            waiting.is_some() || place.files() == RANKS
        });
        at_gate += usize::from(waiting.is_some_and(|ranks| ranks > 0));
        crate::send(&child, Signal::SIGKILL);
        assert_eq!(finish(child).signal, Some(9));
        eventually("nothing is left", || marked(&mark).is_empty());
        assert_eq!(place.files(), if waiting.is_some() { 0 } else { RANKS });
    }
    println!("{at_gate} of {tries} were stopped while ranks waited");
}

/// How many processes of a launcher that is stopped there are, the guard aside, if all are copies of it that wait.
fn all_at_gate(launcher: u32) -> Option<usize> {
    let line = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ranks = children(launcher).into_iter().filter(|&pid| !line(pid).starts_with(b"ringfold-guard"));
    let ranks: Vec<u32> = ranks.collect();
    let waits = |&pid: &u32| line(pid) == line(launcher) && crate::state(pid) == Some('S');
    let stopped = crate::state(launcher) == Some('T');
    (stopped && ranks.iter().all(waits)).then_some(ranks.len())
}
