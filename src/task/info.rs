//! What is known of tasks: by whoever starts them, and by each other.

use crate::config::Config;
use crate::device::Assigned;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a task is told of itself when it starts: by its group, by `ringfold run` through the environment
/// (`RINGFOLD_TASK`, as JSON), or by the engine that it is started by.
///
/// ```
/// use ringfold::task::TaskDescription;
/// let told: TaskDescription = r#"{"attempt": 1, "properties": {"user": "ann"}}"#.parse()?;
/// assert_eq!((told.attempt, told.properties["user"].as_str()), (1, "ann"));
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TaskDescription {
    /// Which attempt of the group this is, counted from 0.
    pub attempt: u32,
    /// How many attempts there are at most; 0 where that is not known.
    pub max_attempts: u32,
    /// What whoever starts the group says to all tasks, by name.
    pub properties: BTreeMap<String, String>,
    /// The devices that are this task's, and the CPUs near them.
    pub resources: Assigned,
    /// All tasks in the order in which a ring follows the links of their devices; empty where nobody says.
    pub ring: Vec<usize>,
}

impl TaskDescription {
    /// The description of a task's attempt, which tells nothing else yet.
    pub fn new(attempt: u32) -> Self {
        TaskDescription { attempt, ..TaskDescription::default() }
    }

    /// What the configuration says, or nothing.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where that is no description.
    pub(super) fn of(config: &Config) -> Result<Self> {
        match &config.task {
            Some(text) => text.parse(),
            // Where nobody counts attempts, generations do.
            None => Ok(TaskDescription::new(config.generation)),
        }
    }

    /// The form that [`parse`](str::parse) reads.
    pub fn to_json(&self) -> String {
        // Names, numbers and strings: nothing that JSON could refuse.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl std::str::FromStr for TaskDescription {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            let text = format!("the description of the task is not understood: {error}");
            Error::new(ErrorKind::Configuration, text).remedy(
                "give RINGFOLD_TASK a JSON object with attempt, properties and resources, or unset it",
            )
        })
    }
}

/// A task of the group, as all of them know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its partition, which is its rank.
    pub partition: usize,
    /// The name of its host.
    pub host: String,
    /// Its process.
    pub process: u32,
    /// The number that an engine gave this attempt at the task, where there is one.
    pub attempt_id: Option<u64>,
    /// The devices that are its own.
    pub resources: Assigned,
}

impl TaskInfo {
    /// This process as a task.
    pub(super) fn here(partition: usize, attempt_id: Option<u64>, resources: Assigned) -> Self {
        let host = crate::transport::control::hostname();
        TaskInfo { partition, host, process: std::process::id(), attempt_id, resources }
    }

    pub(super) fn decode(message: &[u8], partition: usize) -> Result<Self> {
        let told: TaskInfo = serde_json::from_slice(message).map_err(|error| unknown(partition, &error))?;
        if told.partition == partition { Ok(told) } else { Err(unknown(partition, &"another partition")) }
    }
}

fn unknown(partition: usize, what: &dyn std::fmt::Display) -> Error {
    let text = format!("task {partition} told of itself in a form that this version does not know: {what}");
    Error::new(ErrorKind::Bootstrap, text).blame(partition).remedy("run the same version in every task")
}
