//! A barrier task group in threads: tasks that start together, meet, and are tried again as one.
//!
//!     cargo run --release --example barrier_group
//!
//! Four tasks sum the primes below a million, each over its share of the numbers. In the first attempt one of them fails half way:
//! the others learn of it in what they call next, and the whole group is tried again.

use ringfold::ReduceOp;
use ringfold::task::monitor::{Changes, Monitor, State};
use ringfold::task::{TaskContext, TaskGroup};
use std::error::Error;
use std::time::Duration;

/// Below which numbers are looked at.
const LIMIT: u64 = 1_000_000;

/// How many primes there are below, and what they add up to.
const EXPECTED: [u64; 2] = [78_498, 37_550_402_023];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let monitor = Monitor::new(4);
    let changes = monitor.changes();
    let watcher = std::thread::spawn(move || watch(&changes));
    let found = TaskGroup::new(4)
        .monitor(&monitor)
        .max_attempts(3)
        .property("limit", LIMIT.to_string())
        .on_retry(|failure, pause| println!("{failure}; the next attempt begins in {pause:?}"))
        .run(count)?;
    for change in monitor.snapshot().tasks {
        println!("task {}: {} in attempt {}", change.task, change.state.as_str(), change.attempt);
    }
    drop(monitor);
    watcher.join().map_err(|_| "the watcher has panicked")?;
    for (task, found) in found.iter().enumerate() {
        println!("task {task}: {} primes, sum {}", found[0], found[1]);
    }
    if found.iter().any(|found| *found != EXPECTED) {
        return Err(format!("{EXPECTED:?} are expected").into());
    }
    Ok(())
}

/// Says now and then how far the tasks are, until all have succeeded.
fn watch(changes: &Changes) {
    let mut done = [0; 4];
    while done.iter().any(|&percent| percent < 100) {
        for view in changes.wait(Duration::from_secs(1)).unwrap_or_default() {
            let percent =
                view.report.progress().and_then(|progress| progress.fraction()).unwrap_or(0.0) * 100.0;
            if view.state == State::Succeeded {
                done[view.task] = 100;
            } else if percent as usize >= done[view.task] % 100 + 25 {
                done[view.task] = percent as usize;
                println!("task {}: {percent:.0} % in attempt {}", view.task, view.attempt);
            }
        }
    }
}

/// What one task does: the primes of all tasks, and their sum.
fn count(task: &TaskContext) -> Result<[u64; 2]> {
    let limit: u64 = task.local_property("limit").ok_or("no limit is set")?.parse()?;
    let (own, tasks) = (task.partition_id() as u64, task.num_tasks() as u64);
    let names = task.all_gather(format!("{} on {}", task.partition_id(), task.task_infos()[0].host))?;
    if own == 0 {
        println!("attempt {}: tasks {}", task.attempt_number(), names.join(", "));
    }

    let mut found = [0, 0];
    for number in (own..limit).step_by(tasks as usize).filter(|&number| is_prime(number)) {
        found = [found[0] + 1, found[1] + number];
        task.progress(number, limit);
        // A thread cannot be ended from outside: it looks now and then whether it is still wanted.
        if found[0] % 1000 == 0 && task.cancellation().is_cancelled() {
            return Err("told to end".into());
        }
        if task.attempt_number() == 0 && own == 3 && number > limit / 2 {
            return Err("this attempt is out of luck".into());
        }
    }
    task.barrier()?;
    task.communicator()?.all_reduce(&mut found, ReduceOp::Sum)?;
    Ok(found)
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}
