//! Who gets what.

use super::cpulist;
use super::description::{Device, GPU};
use super::visible::Entry;
use crate::error::{Error, ErrorKind, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// What one task has got. Plain data, which can be sent to the task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Assigned {
    /// The host that it is to run on; empty where nobody says.
    #[serde(default)]
    pub host: String,
    /// Its devices, each with what it has of it: 1 for all of it.
    #[serde(default)]
    pub devices: Vec<(Device, f64)>,
    /// The CPUs that it is to run on, near its devices; none where tasks are not pinned.
    #[serde(default, with = "cpulist")]
    pub cpus: Vec<usize>,
}

impl Assigned {
    /// The addresses of its devices of a resource: Spark's word for them.
    pub fn addresses(&self, resource: &str) -> Vec<&str> {
        self.of(resource).map(|device| device.address.as_str()).collect()
    }

    /// The names of the resources that it has something of, in order.
    pub fn resources(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.devices.iter().map(|(device, _)| device.resource.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn of(&self, resource: &str) -> impl Iterator<Item = &Device> {
        self.devices.iter().map(|(device, _)| device).filter(move |device| device.resource == resource)
    }

    /// Pins a process, which runs on this host, to its CPUs: by the number of a process its first thread, and by 0 the thread that calls.
    /// Threads and processes that are started by that one afterwards are pinned alike. Does nothing where there are no CPUs.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) where the system refuses: no such process, or none of the CPUs may be used.
    pub fn pin(&self, process: u32) -> Result<()> {
        if self.cpus.is_empty() {
            return Ok(());
        }
        let mut set = CpuSet::new();
        let all = self.cpus.iter().try_for_each(|&cpu| set.set(cpu));
        all.and_then(|()| sched_setaffinity(Pid::from_raw(process as i32), &set))
            .map_err(|error| Error::io(format!("pinning to CPUs {}", cpulist::show(&self.cpus)), error))
    }

    /// The value of `CUDA_VISIBLE_DEVICES` by which it sees its GPUs and no others; `None` where it has none, and where
    /// [`try_visible`](Assigned::try_visible) says that there is no such value.
    pub fn visible(&self, existing: Option<&str>) -> Option<String> {
        self.try_visible(existing).ok().flatten()
    }

    /// The same, saying why there is none. `existing` is the value that the process which assigns has itself.
    ///
    /// With a list that exists its own entries are passed on. A device is found in it by its UUID, else by the
    /// [`entry`](Device::entry) by which it was found itself; where neither is known its address is an index into the list, as Spark has it.
    /// Without a list a GPU goes by its UUID, which means the same to every process whatever order it
    /// counts devices in; where that is not known, by its entry, else by its address. An AMD
    /// device does not go by its UUID, since HIP, which reads the same variable, takes indices only.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) where the list that exists does not have a device.
    ///
    /// ```
    /// use ringfold::device::{Device, Host, Inventory, Policy, TaskRequest, assign};
    /// let gpus = ["0", "1"].map(|address| Device::new("gpu", address));
    /// let machine = Inventory::of([Host::new("a").with_devices(gpus)]).unwrap();
    /// let assignment = assign(&machine, &vec![TaskRequest::new().amount("gpu", 1.0); 2], &Policy::default()).unwrap();
    /// assert_eq!(assignment.tasks[1].visible(None).unwrap(), "1");
    /// assert_eq!(assignment.tasks[1].visible(Some("4,6")).unwrap(), "6");
    /// assert!(assignment.tasks[1].try_visible(Some("4")).is_err());
    /// ```
    pub fn try_visible(&self, existing: Option<&str>) -> Result<Option<String>> {
        let existing = existing.map(Entry::list);
        let mut entries = Vec::new();
        for device in self.of(GPU) {
            let entry = match &existing {
                None if device.vendor.as_deref() == Some("amd") => device.listed().to_owned(),
                None => device.uuid.as_deref().unwrap_or_else(|| device.listed()).to_owned(),
                Some(list) => entry_of(device, list)?,
            };
            entries.push(entry);
        }
        Ok((!entries.is_empty()).then(|| entries.join(",")))
    }
}

/// The entry of a list that means a device.
fn entry_of(device: &Device, list: &[Entry]) -> Result<String> {
    let by_uuid = device.uuid.as_ref().and_then(|uuid| list.iter().find(|entry| entry.means(uuid)));
    let by_entry =
        |own: &str| Entry::list(own).first().and_then(|own| list.iter().find(|entry| *entry == own));
    let by_index = || device.address.parse::<usize>().ok().and_then(|index| list.get(index));
    // An entry at the index that names another device is not meant.
    let fits = |entry: &&Entry| device.uuid.is_none() || matches!(entry, Entry::Index(_));
    // Where the device has an entry its address is an index into the list of that one, which may be another.
    let otherwise = || device.entry.as_deref().map_or_else(|| by_index().filter(fits), by_entry);
    by_uuid.or_else(otherwise).map(Entry::to_string).ok_or_else(|| {
        let all: Vec<String> = list.iter().map(Entry::to_string).collect();
        let called = device.uuid.as_deref().unwrap_or_else(|| device.listed());
        let text = format!("CUDA_VISIBLE_DEVICES is {:?}, which does not have {called}", all.join(","));
        Error::new(ErrorKind::InvalidArgument, text).remedy(
            "ask for devices of that list by its own entries, or look for devices where it counts (auto), or unset it",
        )
    })
}

/// Who gets what, for all tasks of a group.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Assignment {
    /// What each task has got, in the order of the requests.
    pub tasks: Vec<Assigned>,
    ring: Vec<usize>,
    cost: u64,
}

impl Assignment {
    pub(super) fn new(tasks: Vec<Assigned>, ring: Vec<usize>, cost: u64) -> Assignment {
        Assignment { tasks, ring, cost }
    }

    /// The tasks in the order in which a ring should go through them: it follows the links, begins with task 0, and costs no
    /// more than the order of the tasks.
    pub fn ring(&self) -> Vec<usize> {
        self.ring.clone()
    }

    /// What all links cost that the tasks use: around the [`ring`](Assignment::ring), and among the devices of each task; in the units
    /// of [`Path::cost`](super::Path::cost).
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Every device that somebody has got, once.
    pub fn devices(&self) -> Vec<&Device> {
        let mut seen = rustc_hash::FxHashSet::default();
        let all = self.tasks.iter().flat_map(|task| task.devices.iter().map(|(device, _)| device));
        all.filter(|device| seen.insert(device.key())).collect()
    }
}
