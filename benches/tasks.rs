//! Barrier task groups: how long a barrier and an all-gather of short messages take, among threads and among processes; how soon a group
//! is at work again after one of its tasks is killed; what a group of processes costs from beginning to end; how soon one that
//! does not fit is refused.
//!
//! `cargo bench --bench tasks` prints the figures. Tasks that are processes are this program started again; they write what they
//! measure into a directory of the bench's.

use nix::time::{ClockId, clock_gettime};
use ringfold::launch::{Input, Launch, Output};
use ringfold::task::{TaskContext, TaskGroup};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SCENE: &str = "RINGFOLD_TEST_SCENE";
const PLACE: &str = "RINGFOLD_TEST_PLACE";

/// Microseconds of a clock that is the same in all processes.
fn now() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3
}

/// Median and 99th percentile.
fn sorted(mut all: Vec<f64>) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[(all.len() * 99).div_ceil(100) - 1])
}

/// How long a task's calls take, in microseconds.
fn time_of(times: usize, call: impl Fn()) -> (f64, f64) {
    (0..times / 10).for_each(|_| call());
    sorted(
        (0..times)
            .map(|_| {
                let begun = Instant::now();
                call();
                begun.elapsed().as_secs_f64() * 1e6
            })
            .collect(),
    )
}

fn measure(scene: &str, task: &TaskContext) -> (f64, f64) {
    match scene {
        "barrier" => time_of(5000, || task.barrier().unwrap()),
        "all_gather" => time_of(2000, || drop(task.all_gather_bytes([7u8; 64]).unwrap())),
        _ => panic!("no such scene: {scene}"),
    }
}

/// What a process does.
fn play(scene: &str) {
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let task = TaskContext::from_env().unwrap();
    match scene {
        "nothing" => task.barrier().unwrap(),
        "killed" => {
            task.barrier().unwrap();
            if task.attempt_number() == 0 {
                if task.partition_id() == 2 {
                    std::thread::sleep(Duration::from_millis(20));
                    fs::write(place.join("killed"), now().to_string()).unwrap();
                    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
                }
                if task.barrier().is_err() {
                    std::process::exit(1);
                }
            } else if task.partition_id() == 0 {
                fs::write(place.join("at work"), now().to_string()).unwrap();
            }
        }
        _ => {
            let (median, p99) = measure(scene, &task);
            if task.partition_id() == 0 {
                fs::write(place.join("told"), format!("{median} {p99}")).unwrap();
            }
        }
    }
}

fn program(scene: &str, tasks: usize, place: &Path) -> Launch {
    let own = std::env::current_exe().unwrap();
    Launch::new(tasks)
        .program(own)
        .env(SCENE, scene)
        .env(PLACE, place)
        .output(Output::Null)
        .input(Input::Null)
}

fn numbers(path: PathBuf) -> Vec<f64> {
    let text = fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn row(what: &str, (median, p99): (f64, f64), unit: &str) {
    println!("{what:<58} {median:>10.1} {p99:>10.1} {unit}");
}

fn main() {
    if let Ok(scene) = std::env::var(SCENE) {
        return play(&scene);
    }
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let place = std::env::temp_dir().join(format!("ringfold-bench-tasks-{}", std::process::id()));
    fs::create_dir_all(&place).unwrap();
    println!("{:<58} {:>10} {:>10}", "", "median", "p99");
    for (scene, tasks) in
        [("barrier", 2), ("barrier", 4), ("barrier", 8), ("all_gather", 4), ("all_gather", 8)]
    {
        let what = if scene == "barrier" { scene } else { "all_gather of 64 B" };
        let told = TaskGroup::new(tasks).run(|task| Ok::<_, ringfold::Error>(measure(scene, task))).unwrap();
        row(&format!("{what}, {tasks} threads"), told[0], "us");
        TaskGroup::new(tasks).run_program(&program(scene, tasks, &place)).unwrap();
        let told = numbers(place.join("told"));
        row(&format!("{what}, {tasks} processes"), (told[0], told[1]), "us");
    }
    let restarts = (0..50).map(|_| {
        let group = TaskGroup::new(4).max_attempts(2);
        assert_eq!(group.run_program(&program("killed", 4, &place)).unwrap().attempts, 2);
        (numbers(place.join("at work"))[0] - numbers(place.join("killed"))[0]) / 1e3
    });
    row("from a killed task to all four past the next barrier", sorted(restarts.collect()), "ms");
    let groups = (0..100).map(|_| {
        let begun = Instant::now();
        TaskGroup::new(4).run_program(&program("nothing", 4, &place)).unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    });
    row("a group of four processes from beginning to end", sorted(groups.collect()), "ms");
    let refusals = (0..50).map(|_| {
        let begun = Instant::now();
        TaskGroup::new(4).gpus_per_task(1e6).run(|_| Ok::<_, ringfold::Error>(())).unwrap_err();
        begun.elapsed().as_secs_f64() * 1e3
    });
    row("a group that does not fit is refused", sorted(refusals.collect()), "ms");
    fs::remove_dir_all(place).unwrap();
}
