//! Groups whose tasks an engine has started: by its own all-gather, and by what launchers leave in the environment.

use crate::programs::Place;
use ringfold::bootstrap::CallbackExchange;
use ringfold::task::{TaskContext, TaskDescription};
use ringfold::{Config, ErrorKind, Result};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

/// An engine's all-gather among threads that stand for its tasks.
struct Engine {
    messages: Mutex<Vec<Vec<u8>>>,
    all: Barrier,
}

impl Engine {
    fn new(tasks: usize) -> Engine {
        Engine { messages: Mutex::new(vec![Vec::new(); tasks]), all: Barrier::new(tasks) }
    }

    fn all_gather(&self, task: usize, message: &[u8]) -> Vec<Vec<u8>> {
        self.messages.lock().unwrap()[task] = message.to_vec();
        self.all.wait();
        let all = self.messages.lock().unwrap().clone();
        self.all.wait();
        all
    }
}

fn config() -> Config {
    Config::default().with_init_deadline(Duration::from_secs(20)).with_deadline(Duration::from_secs(20))
}

/// What tasks make of an engine that has given them these numbers.
fn joined<T: Send>(ids: &[Option<u64>], body: impl Fn(Result<TaskContext>) -> T + Sync) -> Vec<T> {
    join(ids, |_| TaskDescription::new(3), body)
}

/// What tasks make of an engine that tells them this of themselves.
pub(crate) fn joined_with<T: Send>(
    tasks: usize,
    description: impl Fn(usize) -> TaskDescription + Sync,
    body: impl Fn(Result<TaskContext>) -> T + Sync,
) -> Vec<T> {
    join(&vec![None; tasks], description, body)
}

fn join<T: Send>(
    ids: &[Option<u64>],
    description: impl Fn(usize) -> TaskDescription + Sync,
    body: impl Fn(Result<TaskContext>) -> T + Sync,
) -> Vec<T> {
    let engine = Engine::new(ids.len());
    std::thread::scope(|scope| {
        let task = |(task, &id): (usize, &Option<u64>)| {
            let (engine, body, description) = (&engine, &body, &description);
            scope.spawn(move || {
                let gather = |message: &[u8]| Ok(engine.all_gather(task, message));
                let mut exchange = CallbackExchange::new(task, ids.len(), gather);
                let config = id.map_or(config(), |id| config().with_attempt_id(id));
                body(TaskContext::with_exchange(&mut exchange, &config, description(task)))
            })
        };
        let tasks: Vec<_> = ids.iter().enumerate().map(task).collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    })
}

#[test]
fn the_generation_is_the_highest_attempt_id_of_an_engine() {
    let ids = [Some(17), Some(15), Some(16)];
    let told = joined(&ids, |task| {
        let task = task.unwrap();
        task.barrier().unwrap();
        let ids: Vec<_> = task.task_infos().iter().map(|info| info.attempt_id).collect();
        (task.partition_id(), task.generation(), task.attempt_number(), ids)
    });
    let expected: Vec<_> = (0..3).map(|task| (task, 17, 3, ids.to_vec())).collect();
    assert_eq!(told, expected);
}

#[test]
fn without_attempt_ids_there_is_no_such_generation() {
    assert_eq!(joined(&[None, None], |task| task.unwrap().generation()), [0, 0]);
}

#[test]
fn attempt_ids_that_cannot_be_are_told_of_by_all() {
    for (ids, kind, culprit) in [
        ([Some(4), None, Some(5)], ErrorKind::Configuration, 1),
        ([Some(4), Some(5), Some(4)], ErrorKind::Bootstrap, 2),
    ] {
        for error in joined(&ids, |task| task.map(drop).unwrap_err()) {
            assert_eq!((error.kind(), error.culprit()), (kind, Some(culprit)), "{error}");
        }
    }
}

#[test]
fn two_attempts_at_once_do_not_meet() {
    // The first attempt hangs, and the engine has begun a second one beside it.
    let (first, second) = (Barrier::new(4), Barrier::new(4));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            joined(&[Some(1), Some(2)], |task| {
                let task = task.unwrap();
                first.wait();
                second.wait();
                assert_eq!(task.all_gather("old").unwrap(), ["old"; 2]);
            })
        });
        scope.spawn(|| {
            joined(&[Some(3), Some(4)], |task| {
                first.wait();
                let task = task.unwrap();
                assert_eq!(
                    (task.generation(), task.all_gather("new").unwrap()),
                    (4, vec!["new".to_owned(); 2])
                );
                second.wait();
            })
        });
    });
}

#[test]
fn processes_that_mpirun_has_started_join() {
    for launcher in [
        &["mpirun.mpich", "-n", "3"][..],
        &["mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "-n", "3"],
    ] {
        let place = Place::new("mpirun");
        let output = place.command(launcher, "introduce").output().unwrap();
        assert!(output.status.success(), "{launcher:?}: {}", String::from_utf8_lossy(&output.stderr));
        let expected: Vec<String> =
            (0..3).map(|task| format!("{task} of 3: 3 processes, sum 6, nobody, true")).collect();
        assert_eq!(place.notes(), expected, "{launcher:?}");
    }
}

/// Starts the same as every task, each with these variables and no other launcher's, and waits for all.
fn under_variables(place: &Place, of_task: impl Fn(usize) -> Vec<(&'static str, String)>) {
    let start = |task: usize| {
        let mut command = place.command(&["env"], "introduce");
        command.envs(of_task(task)).spawn().unwrap()
    };
    let tasks: Vec<_> = (0..3).map(start).collect();
    for mut task in tasks {
        assert!(task.wait().unwrap().success());
    }
}

/// What [`introduce`](crate::programs) notes in three tasks that nobody has told anything else.
fn are_introduced(place: &Place) {
    let expected: Vec<String> =
        (0..3).map(|task| format!("{task} of 3: 3 processes, sum 6, nobody, true")).collect();
    assert_eq!(place.notes(), expected);
}

#[test]
fn processes_with_slurms_variables_join() {
    let place = Place::new("slurm");
    under_variables(&place, |task| {
        vec![
            ("SLURM_PROCID", task.to_string()),
            ("SLURM_STEP_NUM_TASKS", "3".into()),
            ("SLURM_STEP_TASKS_PER_NODE", "3".into()),
            ("SLURM_LOCALID", task.to_string()),
            ("SLURM_JOB_ID", std::process::id().to_string()),
            ("SLURM_STEP_ID", "7".into()),
            ("SLURM_STEP_NODELIST", "whatever-it-is-called".into()),
        ]
    });
    are_introduced(&place);
}

#[test]
fn pods_of_an_indexed_job_join() {
    let place = Place::new("pods");
    let store = crate::support::unused_address();
    under_variables(&place, |task| {
        vec![
            ("JOB_COMPLETION_INDEX", task.to_string()),
            ("RINGFOLD_WORLD_SIZE", "3".into()),
            ("RINGFOLD_STORE", store.clone()),
            ("RINGFOLD_INTERFACE", "lo".into()),
        ]
    });
    are_introduced(&place);
}

#[test]
fn processes_that_torchrun_has_started_join() {
    let place = Place::new("torchrun");
    let address = crate::support::unused_address();
    let port = address.rsplit(':').next().unwrap();
    // Redirected and shown: with Python 3.11 old versions fail on the default.
    let launcher = ["torchrun", "--nproc_per_node", "3", "--master_addr", "127.0.0.1", "--master_port", port];
    let launcher = [&launcher[..], &["-r", "1", "-t", "1", "--no_python"]].concat();
    let output = place.command(&launcher, "introduce").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    are_introduced(&place);
}
