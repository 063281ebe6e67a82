//! That tasks of one group have not been given more of a device than there is.

use super::info::TaskInfo;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// What rounding may add to shares of one.
const TOLERANCE: f64 = 1e-6;

/// Fails, alike in every task, where tasks hold more of a device than all of it. Devices are told apart by their UUIDs, which
/// are the same in every container, else by host and address.
pub(super) fn check(infos: &[TaskInfo]) -> Result<()> {
    let mut held: BTreeMap<String, Vec<(usize, f64)>> = BTreeMap::new();
    for info in infos {
        for (device, share) in &info.resources.devices {
            let identity = match &device.uuid {
                Some(uuid) => uuid.clone(),
                None => format!("{} {} of host {}", device.resource, device.address, info.host),
            };
            held.entry(identity).or_default().push((info.partition, *share));
        }
    }
    for (device, holders) in held {
        let sum: f64 = holders.iter().map(|(_, share)| share).sum();
        if let (true, Some(&(last, _))) = (sum > 1.0 + TOLERANCE, holders.last()) {
            let names: Vec<String> =
                holders.iter().map(|(task, share)| format!("task {task} ({share})")).collect();
            let text =
                format!("{device} is given to {}, which is more than there is of it", names.join(", "));
            return Err(Error::new(ErrorKind::Configuration, text)
                .blame(last)
                .remedy("give each task devices of its own, or shares that add up to 1 at most"));
        }
    }
    Ok(())
}
