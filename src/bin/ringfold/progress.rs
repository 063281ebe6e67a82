//! How far a group is, on standard error: a bar for each task on a terminal, elsewhere a line now and then.

use crate::conduct::say;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringfold::launch::Around;
use ringfold::task::monitor::{Changes, Monitor, Snapshot, State, TaskView};
use ringfold::{Error, Result};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long changes gather before they are shown.
const GATHER: Duration = Duration::from_millis(100);

/// How often bars move while nothing is told: clocks go on.
const TICK: Duration = Duration::from_secs(1);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// The most bars for single tasks.
const BARS: usize = 32;

/// The most numbers of its own that a bar shows.
const METRICS: usize = 3;

/// A thread that shows how far a group is, until this is dropped.
pub(crate) struct Display {
    changes: Changes,
    bars: Option<MultiProgress>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    pub(crate) fn start(monitor: &Monitor) -> Result<Display> {
        let target = ProgressDrawTarget::stderr();
        let bars = (!target.is_hidden()).then(|| MultiProgress::with_draw_target(target));
        let (changes, monitor) = (monitor.changes(), monitor.clone());
        let (of_thread, shown) = (changes.clone(), bars.clone());
        let thread = std::thread::Builder::new()
            .name("ringfold-progress".into())
            .spawn(move || match shown {
                Some(bars) => draw(&of_thread, &monitor, &bars),
                None => write(&of_thread, &monitor),
            })
            .map_err(|error| Error::io("starting the thread that shows progress", error))?;
        Ok(Display { changes, bars, thread: Some(thread) })
    }

    /// What has lines written above the bars.
    pub(crate) fn around(&self) -> Arc<Around> {
        match self.bars.clone() {
            Some(bars) => Arc::new(move |write| bars.suspend(write)),
            None => Arc::new(|write| write()),
        }
    }
}

impl Drop for Display {
    /// The last state is shown, and stays.
    fn drop(&mut self) {
        self.changes.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps bars up to date until there are no more changes: first the group's, since a terminal that is not high enough is
/// shown the first ones.
fn draw(changes: &Changes, monitor: &Monitor, bars: &MultiProgress) {
    let group = bars.add(ProgressBar::no_length());
    group.set_style(style("{wide_msg}"));
    let tasks = monitor.tasks();
    let width = tasks.saturating_sub(1).to_string().len();
    let mut shown: Vec<TaskBar> = (0..tasks.min(BARS)).map(|task| TaskBar::new(task, width, bars)).collect();
    let mut clock = Clock::new();
    while changes.wait(TICK).is_some() {
        let now = monitor.snapshot();
        let mut text = format!("{}, {}", summary(&now), clock.tell(&now));
        if tasks > shown.len() {
            text += &format!("; {} more tasks are not shown", tasks - shown.len());
        }
        group.set_message(text);
        shown.iter_mut().zip(&now.tasks).for_each(|(bar, view)| bar.show(view));
        changes.pause(GATHER);
    }
    // Abandoned bars stay as they are.
    group.abandon();
    shown.iter().for_each(|bar| bar.bar.abandon());
}

/// Writes a line now and then, for each attempt, and in the end.
fn write(changes: &Changes, monitor: &Monitor) {
    let mut clock = Clock::new();
    let mut next = Instant::now() + LINE;
    let (mut told, mut attempt) = (String::new(), 0);
    loop {
        let goes_on = changes.wait(next.saturating_duration_since(Instant::now())).is_some();
        let now = monitor.snapshot();
        let text = summary(&now);
        let time = clock.tell(&now);
        if (!goes_on || Instant::now() >= next || now.attempt != attempt) && text != told {
            say(format_args!("{text}, {time}"));
            (told, attempt, next) = (text, now.attempt, Instant::now() + LINE);
        }
        if !goes_on {
            return;
        }
        if Instant::now() >= next {
            next += LINE;
        }
        changes.pause(GATHER);
    }
}

/// The group in a few words.
fn summary(now: &Snapshot) -> String {
    let mut text = format!("attempt {}: ", now.attempt);
    if let Some(fraction) = now.fraction() {
        text += &format!("{:.0}%, ", (fraction * 100.0).floor());
    }
    let states = ["waiting", "running", "succeeded", "failed"].map(|state| (now.count(state), state));
    let states: Vec<String> = states
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} of {} {state}", now.tasks.len()))
        .collect();
    text + &states.join(", ")
}

/// How long an attempt has taken, and may take.
struct Clock {
    attempt: u32,
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        Clock { attempt: 0, start: Instant::now() }
    }

    fn tell(&mut self, now: &Snapshot) -> String {
        if now.attempt != self.attempt {
            *self = Clock { attempt: now.attempt, start: Instant::now() };
        }
        let elapsed = self.start.elapsed();
        let mut text = HumanDuration(Duration::from_secs(elapsed.as_secs())).to_string();
        // Before a hundredth is done nobody can tell.
        if let Some(fraction) = now.fraction().filter(|fraction| (0.01..1.0).contains(fraction)) {
            let left = Duration::from_secs((elapsed.as_secs_f64() * (1.0 / fraction - 1.0)) as u64);
            if left > Duration::ZERO {
                text += &format!(", about {} left", HumanDuration(left));
            }
        }
        text
    }
}

/// The bar of one task.
struct TaskBar {
    bar: ProgressBar,
    /// Whether it is one of which the end is known.
    measured: Option<bool>,
}

impl TaskBar {
    fn new(task: usize, width: usize, bars: &MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::no_length());
        bar.set_style(style("{prefix} {wide_msg}"));
        bar.set_prefix(format!("[{task:>width$}]"));
        TaskBar { bar, measured: None }
    }

    fn show(&mut self, view: &TaskView) {
        let progress = view.report.progress();
        let measured = progress.map(|progress| progress.total > 0);
        if measured != self.measured {
            self.measured = measured;
            self.bar.set_style(style(match measured {
                Some(true) => "{prefix} [{bar:24}] {wide_msg}",
                _ => "{prefix} {wide_msg}",
            }));
        }
        let mut words = Vec::new();
        if let Some(progress) = progress {
            let unit = if progress.unit.is_empty() { String::new() } else { format!(" {}", progress.unit) };
            words.push(match progress.fraction() {
                Some(fraction) => {
                    let percent = (fraction * 100.0).floor();
                    format!("{percent:>3.0}% {}/{}{unit}", progress.done, progress.total)
                }
                None => format!("{}{unit}", progress.done),
            });
        }
        match &view.state {
            State::Running if progress.is_some() => {}
            State::Failed(reason) => words.push(format!("failed: {reason}")),
            state => words.push(state.as_str().to_owned()),
        }
        words.extend(
            view.report.metrics().iter().take(METRICS).map(|(name, value)| format!("{name}={value:.4}")),
        );
        if !view.report.message().is_empty() {
            words.push(view.report.message().to_owned());
        }
        self.bar.set_message(words.join("  "));
        if let Some(progress) = progress.filter(|progress| progress.total > 0) {
            self.bar.set_length(progress.total);
            self.bar.set_position(progress.done.min(progress.total));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is sound").progress_chars("=> ")
}
