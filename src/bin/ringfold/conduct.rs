//! A launch from the command line: its signals, its last words, its exit status.

use ringfold::ErrorKind;
use ringfold::error::CauseKind;
use ringfold::launch::{Launch, Outcome, Signal, Signaller, StartError, Status};
use signal_hook::consts::signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Those that are passed on to the ranks.
const FORWARDED: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT];

/// Says something on standard error, where the command's name stands out if colours are understood.
pub(crate) fn say(what: impl std::fmt::Display) {
    let name = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    anstream::eprintln!("{name}ringfold:{name:#} {what}");
}

/// Starts the ranks, passes signals on to them, waits, says what failed. The exit status to end with.
pub(crate) fn conduct(launch: Launch) -> ExitCode {
    conduct_and(launch, || (), || ())
}

/// The same, with something to do when all ranks have started, and when all have ended, before anything is said of that.
pub(crate) fn conduct_and(launch: Launch, started: impl FnOnce(), ended: impl FnOnce()) -> ExitCode {
    let signals = match Signals::new(FORWARDED.into_iter().filter(|&signal| !is_ignored(signal))) {
        Ok(signals) => signals,
        Err(error) => {
            say(format_args!("catching signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let running = match launch.start() {
        Ok(running) => running,
        Err(error) => {
            say(&error);
            return ExitCode::from(refusal(&error));
        }
    };
    started();
    let asked = Arc::new(AtomicI32::new(0));
    let (of_thread, signaller) = (Arc::clone(&asked), running.signaller());
    std::thread::spawn(move || forward(signals, &signaller, &of_thread));
    let outcome = running.wait();
    ended();
    tell(&outcome, asked.load(Ordering::Relaxed));
    ExitCode::from(outcome.code())
}

/// The exit status of a shell for a program that it cannot start.
fn refusal(error: &StartError) -> u8 {
    match error.program() {
        Some(io::ErrorKind::NotFound) => 127,
        Some(_) => 126,
        None => 1,
    }
}

/// Passes signals on until this process ends. Remembers in `asked` the first that asks to end.
fn forward(mut signals: Signals, ranks: &Signaller, asked: &AtomicI32) {
    let mut interrupts = 0;
    for number in signals.forever() {
        let Ok(signal) = Signal::try_from(number) else { continue };
        if matches!(number, SIGHUP | SIGINT | SIGQUIT | SIGTERM) {
            let _ = asked.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
        }
        interrupts += i32::from(number == SIGINT);
        match (number, interrupts) {
            (SIGINT, 1) => {
                ranks.signal(signal);
                if io::stderr().is_terminal() {
                    say("interrupted; interrupt again to kill the ranks");
                }
            }
            (SIGINT, 2) => ranks.signal(Signal::SIGKILL),
            // The ranks are dead. What keeps this process is a reader of its output that does not read.
            (SIGINT, _) => std::process::exit(128 + SIGINT),
            (SIGTSTP, _) => {
                ranks.signal(signal);
                let _ = emulate_default_handler(SIGTSTP);
            }
            _ => ranks.signal(signal),
        }
    }
}

/// Says what became of the ranks, unless there is nothing to say.
fn tell(outcome: &Outcome, asked: i32) {
    if outcome.timed_out {
        say("the ranks were ended: the time of --timeout was up");
    }
    let Some(failure) = &outcome.first_failure else { return };
    if outcome.timed_out && outcome.ended.contains(&failure.rank) {
        return;
    }
    if asked != 0 && (failure.status == Status::Killed(asked) || outcome.ended.contains(&failure.rank)) {
        return; // what was asked for
    }
    say(failure);
    if let Some(cause) = &failure.cause
        && (cause.kind, cause.culprit) != (CauseKind::PeerDead, failure.rank)
    {
        let kind: ErrorKind = cause.kind.error_kind();
        say(format_args!("the group failed: {kind}: {}", cause.detail));
    }
    if let Some(others) = outcome.others() {
        say(others);
    }
}

/// Whether this process has been told, by whoever started it (nohup, a shell in the background), to ignore a signal:
/// then it goes on doing so, and so do the ranks.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
