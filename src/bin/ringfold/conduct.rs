//! A launch from the command line: its signals, its last words, its exit status.

use ringfold::ErrorKind;
use ringfold::error::CauseKind;
use ringfold::launch::{Launch, Outcome, Signal, StartError, Status};
use ringfold::task::{GroupError, GroupHandle, TaskFailure, TaskGroup};
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

/// Runs a program as a group that is tried once.
pub(crate) fn conduct(launch: &Launch) -> ExitCode {
    conduct_group(TaskGroup::new(launch.ranks()), launch, || ())
}

/// Runs a program as a group, passes signals on to its ranks, waits, says what failed. The exit status to end with. What is to be
/// done when all ranks have ended is done before anything is said of that.
pub(crate) fn conduct_group(group: TaskGroup, launch: &Launch, ended: impl FnOnce()) -> ExitCode {
    let signals = match Signals::new(FORWARDED.into_iter().filter(|&signal| !is_ignored(signal))) {
        Ok(signals) => signals,
        Err(error) => {
            say(format_args!("catching signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let group = group.on_retry(|failure, pause| {
        say(format_args!("{}; attempt {} begins in {pause:.1?}", told(failure), failure.attempt + 1));
    });
    let asked = Arc::new(AtomicI32::new(0));
    let (of_thread, handle) = (Arc::clone(&asked), group.handle());
    std::thread::spawn(move || forward(signals, &handle, &of_thread));
    let result = group.run_program(launch);
    ended();
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(account(&error, asked.load(Ordering::Relaxed))),
    }
}

/// A failure, of a rank as this command calls it.
fn told(failure: &TaskFailure) -> String {
    let TaskFailure { partition, process, kind, message, attempt, .. } = failure;
    let words = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("attempt {attempt}: rank {partition} (pid {process}) {kind}{words}")
}

/// Says why there is no result. The exit status that tells the same.
fn account(error: &GroupError, asked: i32) -> u8 {
    if let Some(start) = error.start_error() {
        say(start);
        return refusal(start);
    }
    if let Some(outcome) = error.outcome() {
        if error.failures().len() > 1 {
            say(format_args!("no attempt is left after {}", error.failures().len()));
        }
        tell(outcome, asked);
        return outcome.code();
    }
    if error.is_cancelled() && asked != 0 {
        return 128u8.saturating_add(u8::try_from(asked).unwrap_or(127));
    }
    say(error);
    1
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
fn forward(mut signals: Signals, ranks: &GroupHandle, asked: &AtomicI32) {
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
