//! A group from the command line: it is run, and signals are passed on to it.

use crate::account::{account, told};
use ringfold::launch::{Around, Launch, Signal};
use ringfold::task::{GroupHandle, TaskGroup};
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

/// Says something while ranks run, with whoever stands in the way out of it.
fn say_beside(around: Option<&Arc<Around>>, what: impl std::fmt::Display) {
    match around {
        Some(around) => around(&mut || say(&what)),
        None => say(what),
    }
}

/// Runs a program as a group that is tried once.
pub(crate) fn conduct(launch: &Launch) -> ExitCode {
    conduct_group(TaskGroup::new(launch.ranks()), launch, None, || ())
}

/// Runs a program as a group, passes signals on to its ranks, waits, says what failed. The exit status to end with. What is said
/// meanwhile goes by `around`; what is to be done when all ranks have ended is done before anything is said of that.
pub(crate) fn conduct_group(
    group: TaskGroup,
    launch: &Launch,
    around: Option<Arc<Around>>,
    ended: impl FnOnce(),
) -> ExitCode {
    let signals = match Signals::new(FORWARDED.into_iter().filter(|&signal| !is_ignored(signal))) {
        Ok(signals) => signals,
        Err(error) => {
            say(format_args!("catching signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let beside = around.clone();
    let group = group.on_retry(move |failure, pause| {
        let next = format!("attempt {} begins in {pause:?}", failure.attempt + 1);
        say_beside(beside.as_ref(), format_args!("attempt {}: {}; {next}", failure.attempt, told(failure)));
    });
    let asked = Arc::new(AtomicI32::new(0));
    let (of_thread, handle) = (Arc::clone(&asked), group.handle());
    std::thread::spawn(move || forward(signals, &handle, around.as_ref(), &of_thread));
    let result = group.run_program(launch);
    ended();
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(account(&error, asked.load(Ordering::Relaxed))),
    }
}

/// Passes signals on until this process ends. Remembers in `asked` the first that asks to end.
fn forward(mut signals: Signals, ranks: &GroupHandle, around: Option<&Arc<Around>>, asked: &AtomicI32) {
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
                    say_beside(around, "interrupted; interrupt again to kill the ranks");
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

/// Whether this process has been told, by whoever started it (nohup, a shell in the background), to ignore a signal:
/// then it goes on doing so, and so do the ranks.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
