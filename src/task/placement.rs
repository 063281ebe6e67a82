//! Where the tasks of a group go.

use super::group::TaskGroup;
use crate::config::environment;
use crate::device::{Assigned, Claim, TaskRequest, allot_here, default_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::launch::Launch;
use std::time::Duration;

/// How long to wait for other groups that are looking for devices, too.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where each task goes, and what holds its devices for as long as the group runs.
pub(super) struct Placed {
    pub(super) tasks: Vec<Assigned>,
    /// The tasks in the order in which a ring follows the links of their devices; empty where there are none.
    pub(super) ring: Vec<usize>,
    /// The list of visible devices that processes would have by themselves.
    pub(super) visible: Option<String>,
    _claim: Option<Claim>,
}

/// Compares what is asked for with what there is, and takes it. Does not look where nothing is asked for. What tasks see is what the
/// launch says, where they are processes, else what this process sees.
pub(super) fn place(group: &TaskGroup, program: Option<&Launch>) -> Result<Placed> {
    if group.tasks == 0 || u32::try_from(group.tasks).is_err() {
        let told = Error::invalid(format!("a group of {} tasks", group.tasks));
        return Err(told.remedy("let it have 1 or more"));
    }
    if let Some(monitor) = group.monitor.as_ref().filter(|monitor| monitor.tasks() != group.tasks) {
        let text = format!("a monitor of {} tasks for a group of {}", monitor.tasks(), group.tasks);
        return Err(Error::invalid(text).remedy("make a monitor of as many tasks"));
    }
    group.request.check()?;
    if asks_for_nothing(&group.request) {
        let tasks = vec![Assigned::default(); group.tasks];
        return Ok(Placed { tasks, ring: Vec::new(), visible: None, _claim: None });
    }
    let own = program.and_then(|program| program.variable(environment::CUDA_VISIBLE_DEVICES));
    let own = own.map(|list| list.to_string_lossy().into_owned());
    let visible = own.or_else(environment::visible_devices);
    let directory = group.config.device_claims.clone().unwrap_or_else(default_directory);
    let requests = vec![group.request.clone(); group.tasks];
    let allotted =
        allot_here(&group.discovery, &directory, &requests, &group.policy, PATIENCE, visible.as_deref())?;
    let ring = allotted.assignment.ring();
    let tasks = allotted.assignment.tasks;
    if let Some(other) = tasks.iter().find(|task| task.host != tasks[0].host) {
        let text =
            format!("tasks would go to {} and {}, and they start on one host", tasks[0].host, other.host);
        return Err(Error::new(ErrorKind::Configuration, text)
            .remedy("describe the host that the group starts on, and no other"));
    }
    Ok(Placed { tasks, ring, visible, _claim: Some(allotted.claim) })
}

fn asks_for_nothing(request: &TaskRequest) -> bool {
    request.cpus == 0.0 && request.memory == 0 && request.amounts.values().all(|&amount| amount == 0.0)
}
