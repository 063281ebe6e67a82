//! Finding, assigning and claiming in one.

use super::assign::assign;
use super::assignment::Assignment;
use super::claim::{Claim, Gate, Refusal};
use super::discovery::Discovery;
use super::host::Host;
use super::inventory::Inventory;
use super::policy::Policy;
use super::request::TaskRequest;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// Devices that are assigned and held.
#[derive(Debug)]
#[non_exhaustive]
pub struct Allotment {
    /// Who gets what.
    pub assignment: Assignment,
    /// What holds it against other groups, until it is dropped.
    pub claim: Claim,
    /// What there was, with what others held.
    pub inventory: Inventory,
}

/// Finds devices, looks which of them nobody else holds, assigns those, and takes them.
///
/// Groups do this one after another in a directory (see [`default_directory`](super::default_directory)), so two that start
/// at once both succeed where there is enough for both. Where somebody who knows nothing of that locks a device
/// between look and claim, it looks again. Waits for other groups' looking, `patience` at most, and never for their ending. The time of
/// discovery scripts comes on top: five seconds each at most. Where CPUs and memory alone are asked for there is nothing to hold,
/// and the directory is not looked at.
///
/// # Errors
/// [`Refusal::Misfit`] where what is free is not enough: it says what others hold. [`Refusal::Held`] where devices were lost to others
/// until the patience was at its end. [`Refusal::Error`] where devices could not be looked for, or the directory
/// cannot be used.
///
/// ```
/// use ringfold::device::{Discovery, Inventory, Policy, Refusal, TaskRequest, allot};
/// use std::time::Duration;
/// let directory = std::env::temp_dir().join(format!("ringfold-doc-allot-{}", std::process::id()));
/// let machine = Discovery::Given(Inventory::of_addresses("gpu", ["0", "1"])?);
/// let task = [TaskRequest::new().amount("gpu", 1.0)];
/// let patience = Duration::from_secs(1);
/// let one = allot(&machine, &directory, &task, &Policy::default(), patience).unwrap();
/// let other = allot(&machine, &directory, &task, &Policy::default(), patience).unwrap();
/// assert_ne!(one.assignment, other.assignment);
/// let refused = allot(&machine, &directory, &task, &Policy::default(), patience).unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "1 task asks for 1 gpu, and there are none free (2 are held by other groups): no task would fit"
/// );
/// # std::fs::remove_dir_all(directory).unwrap();
/// # Ok::<(), ringfold::Error>(())
/// ```
pub fn allot(
    discovery: &Discovery,
    directory: &Path,
    requests: &[TaskRequest],
    policy: &Policy,
    patience: Duration,
) -> Result<Allotment, Refusal> {
    take(Inventory::discover(discovery)?, directory, requests, policy, patience)
}

/// The same for a group that starts on this host with processes that have this as their `CUDA_VISIBLE_DEVICES`. So a single host is
/// this one, whatever a description calls it, and its devices are held as this host's.
pub(crate) fn allot_here(
    discovery: &Discovery,
    directory: &Path,
    requests: &[TaskRequest],
    policy: &Policy,
    patience: Duration,
    visible: Option<&str>,
) -> Result<Allotment, Refusal> {
    let inventory = Inventory::discover_for(discovery, visible)?.on(&Host::own_name());
    take(inventory, directory, requests, policy, patience)
}

fn take(
    mut inventory: Inventory,
    directory: &Path,
    requests: &[TaskRequest],
    policy: &Policy,
    patience: Duration,
) -> Result<Allotment, Refusal> {
    if !requests.iter().any(|request| request.amounts.values().any(|&amount| amount != 0.0)) {
        let assignment = assign(&inventory, requests, policy)?;
        return Ok(Allotment { assignment, claim: Claim::none(), inventory });
    }
    let until = Instant::now() + patience;
    loop {
        let gate = Gate::pass(directory, until.saturating_duration_since(Instant::now()))?;
        Claim::mark_inside(directory, &mut inventory, policy.sharing)?;
        let assignment = assign(&inventory, requests, policy)?;
        match Claim::take_inside(directory, &assignment, policy.sharing) {
            Ok(claim) => return Ok(Allotment { assignment, claim, inventory }),
            Err(Refusal::Held(_)) if Instant::now() < until => {}
            Err(refusal) => return Err(refusal),
        }
        drop(gate);
        std::thread::sleep(PAUSE);
    }
}
