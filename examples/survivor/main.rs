//! A training that survives the death of a task: the digits, learnt by four processes, one of which is killed in the middle.
//!
//!     cargo run --release --example survivor
//!
//! The group is tried again, goes on from its last checkpoint, and ends with the weights of a training that nothing has
//! disturbed, to the bit. What the tasks tell meanwhile is shown by the process that has started them.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::{Signal, raise};
use ringfold::launch::{Input, Launch, Output};
use ringfold::task::{TaskContext, TaskGroup};
use ringfold::{Communicator, ReduceOp};

#[path = "../digits/data.rs"]
#[allow(dead_code, reason = "the other example uses all of it")]
mod data;
#[path = "../digits/model.rs"]
#[allow(dead_code, reason = "the other example uses all of it")]
mod model;

use data::Digits;
use model::{Descent, Training, accuracy};

/// The digits that come with the source.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.arrow");

/// How many tasks train.
const TASKS: usize = 4;

/// Which of them is killed in the first attempt, and after how many steps.
const VICTIM: (usize, usize) = (2, 130);

/// How many steps lie between two checkpoints.
const INTERVAL: usize = 50;

/// Where the tasks keep what they share, as their group tells them.
const PLACE: &str = "place";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    // This program is its own tasks: they find who they are in their environment.
    let result = if env::args().nth(1).as_deref() == Some("task") { train() } else { conduct() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("survivor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Trains with a group that loses a task, and with one that does not, and compares.
fn conduct() -> Result<()> {
    let place = env::temp_dir().join(format!("ringfold-survivor-{}", std::process::id()));
    fs::create_dir_all(&place)?;
    let result = compare(&place);
    fs::remove_dir_all(&place)?;
    result
}

fn compare(place: &Path) -> Result<()> {
    let program = Launch::new(TASKS).program(env::current_exe()?).arg("task");
    let program = program.output(Output::Prefixed).input(Input::Null);
    let weights = |name: &str, victim: &str| -> Result<(Vec<u8>, u32)> {
        let place = place.join(name);
        fs::create_dir(&place)?;
        let group = TaskGroup::new(TASKS)
            .max_attempts(3)
            .property(PLACE, place.to_string_lossy())
            .property("victim", victim)
            .on_retry(|failure, pause| println!("{failure}; the next attempt begins in {pause:?}"));
        let completed = group.run_program(&program)?;
        Ok((fs::read(place.join("weights"))?, completed.attempts))
    };
    let (disturbed, attempts) = weights("disturbed", &VICTIM.0.to_string())?;
    let (undisturbed, _) = weights("undisturbed", "nobody")?;
    println!(
        "{attempts} attempts; the weights are those of a training that nothing has disturbed: {}",
        disturbed == undisturbed
    );
    if attempts != 2 || disturbed != undisturbed {
        return Err("the training has not survived".into());
    }
    let rows = Digits::read(Path::new(DATA))?.split()?.test;
    let training = Training { weights: numbers(&disturbed), ..Training::default() };
    println!("test accuracy {:.3}", accuracy(&training.trained()?.weights, &rows));
    Ok(())
}

/// What a task does.
fn train() -> Result<()> {
    let task = TaskContext::from_env()?;
    let comm = task.communicator()?;
    let place = PathBuf::from(task.local_property(PLACE).ok_or("it is not told where to keep checkpoints")?);
    let victim = task.local_property("victim").and_then(|victim| victim.parse().ok());
    let rows = Digits::read(Path::new(DATA))?.split()?.train.share(task.partition_id(), task.num_tasks());

    let descent = Descent::default();
    let mut training = resume(&comm, &place)?;
    if task.partition_id() == 0 {
        println!("attempt {} begins after step {}", task.attempt_number(), training.taken);
    }
    while training.taken < descent.steps {
        let mut reduce = |sums: &_| Ok(comm.all_reduce_record_batch(sums, ReduceOp::Sum)?);
        training.advance(&mut reduce, &rows, descent)?;
        if task.attempt_number() == 0 && victim == Some(task.partition_id()) && training.taken == VICTIM.1 {
            raise(Signal::SIGKILL)?;
        }
        if task.partition_id() == 0 && training.taken % INTERVAL == 0 {
            save(&place.join("checkpoint"), &bytes(&training))?;
        }
    }
    task.barrier()?;
    if task.partition_id() == 0 {
        save(
            &place.join("weights"),
            &training.weights.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<u8>>(),
        )?;
    }
    Ok(())
}

/// The training as the last checkpoint has it, the same for all tasks.
fn resume(comm: &Communicator, place: &Path) -> Result<Training> {
    let mut training = Training::default();
    let mut all = numbers(&bytes(&training));
    if comm.rank() == 0
        && let Ok(saved) = fs::read(place.join("checkpoint"))
    {
        all = numbers(&saved);
    }
    comm.broadcast(&mut all, 0)?;
    let (weights, rest) = all.split_at(training.weights.len());
    let (velocity, rest) = rest.split_at(training.velocity.len());
    training.weights.copy_from_slice(weights);
    training.velocity.copy_from_slice(velocity);
    (training.taken, training.loss) = (rest[0] as usize, rest[1]);
    Ok(training)
}

/// A training as bytes.
fn bytes(training: &Training) -> Vec<u8> {
    let Training { taken, weights, velocity, loss } = training;
    let all = weights.iter().chain(velocity).copied().chain([*taken as f64, *loss]);
    all.flat_map(f64::to_le_bytes).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(8).map(|chunk| f64::from_le_bytes(std::array::from_fn(|i| chunk[i]))).collect()
}

/// Writes a file that is there whole or not at all.
fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, bytes)?;
    Ok(fs::rename(unfinished, path)?)
}
