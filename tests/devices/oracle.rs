//! What holds of every assignment, and by trying everything whether there is one.

use ringfold::device::{Assignment, Inventory, TaskRequest};
use std::collections::BTreeMap;

/// Spark's units, in which ten tenths are one.
const ONE: u64 = 10_000_000_000_000_000;

fn units(amount: f64) -> u64 {
    (amount * ONE as f64) as u64
}

/// Panics where a task has not got exactly what it asked for, or something is given twice.
pub(crate) fn hold_to_account(inventory: &Inventory, requests: &[TaskRequest], assignment: &Assignment) {
    assert_eq!(assignment.tasks.len(), requests.len());
    let mut shares: BTreeMap<String, u64> = BTreeMap::new();
    let mut hosts: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
    for (task, request) in assignment.tasks.iter().zip(requests) {
        let host = inventory.hosts().iter().find(|host| host.name == task.host).expect("the host is there");
        let (cpus, memory) = hosts.entry(&host.name).or_default();
        *cpus += request.cpus;
        *memory += request.memory;
        let mut got: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut keys = Vec::new();
        for (device, share) in &task.devices {
            assert!(host.devices.contains(device), "{device:?} is none of {}", host.name);
            assert!(!device.held, "{device:?} is held by others");
            got.entry(&device.resource).or_default().push(*share);
            *shares.entry(device.key()).or_default() += units(*share);
            keys.push(device.key());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), task.devices.len(), "a task has a device twice");
        let asked = request.amounts.iter().filter(|&(_, &amount)| amount > 0.0);
        let asked: BTreeMap<&str, Vec<f64>> = asked
            .map(|(name, &amount)| {
                (name.as_str(), if amount < 1.0 { vec![amount] } else { vec![1.0; amount as usize] })
            })
            .collect();
        assert_eq!(got, asked);
    }
    for (device, units) in shares {
        assert!(units <= ONE, "{device} is given more than once");
    }
    for host in inventory.hosts() {
        let (cpus, memory) = hosts.get(host.name.as_str()).copied().unwrap_or_default();
        assert!(host.cpu_capacity().is_none_or(|most| cpus <= most + 1e-9), "{cpus} CPUs of {}", host.name);
        assert!(host.memory.is_none_or(|most| memory <= most), "{memory} bytes of {}", host.name);
    }
}

/// What is left of a host: CPUs in halves, memory, and of each device by resource.
#[derive(Clone)]
struct Left {
    halves: Option<u64>,
    memory: Option<u64>,
    devices: Vec<(String, u64)>,
}

/// Whether there is any way, by trying every host and every device for every task in turn.
pub(crate) fn fits(inventory: &Inventory, requests: &[TaskRequest]) -> bool {
    let hosts = inventory.hosts().iter().map(|host| Left {
        halves: host.cpu_capacity().map(|cpus| (cpus * 2.0) as u64),
        memory: host.memory,
        devices: host
            .devices
            .iter()
            .map(|device| (device.resource.clone(), if device.held { 0 } else { ONE }))
            .collect(),
    });
    any_host(&hosts.collect::<Vec<_>>(), requests)
}

fn any_host(hosts: &[Left], requests: &[TaskRequest]) -> bool {
    let Some((request, rest)) = requests.split_first() else { return true };
    (0..hosts.len()).any(|index| {
        let mut hosts = hosts.to_vec();
        let halves = (request.cpus * 2.0) as u64;
        let host = &mut hosts[index];
        let take = |left: &mut Option<u64>, much: u64| match left {
            Some(there) if *there < much => false,
            Some(there) => {
                *there -= much;
                true
            }
            None => true,
        };
        if !take(&mut host.halves, halves) || !take(&mut host.memory, request.memory) {
            return false;
        }
        let amounts = request.amounts.iter().filter(|&(_, &amount)| amount > 0.0);
        let wants: Vec<(&str, f64)> = amounts.map(|(name, &amount)| (name.as_str(), amount)).collect();
        any_devices(&hosts, index, &wants, rest)
    })
}

fn any_devices(hosts: &[Left], index: usize, wants: &[(&str, f64)], rest: &[TaskRequest]) -> bool {
    let Some((&(name, amount), others)) = wants.split_first() else { return any_host(hosts, rest) };
    let of_name = |left: u64| {
        (0..hosts[index].devices.len()).filter(move |&at| {
            let device = &hosts[index].devices[at];
            device.0 == name && device.1 >= left
        })
    };
    if amount >= 1.0 {
        // Devices that nobody has anything of are alike.
        let whole: Vec<usize> = of_name(ONE).take(amount as usize).collect();
        if whole.len() < amount as usize {
            return false;
        }
        let mut hosts = hosts.to_vec();
        whole.iter().for_each(|&at| hosts[index].devices[at].1 = 0);
        return any_devices(&hosts, index, others, rest);
    }
    of_name(units(amount)).any(|at| {
        let mut hosts = hosts.to_vec();
        hosts[index].devices[at].1 -= units(amount);
        any_devices(&hosts, index, others, rest)
    })
}
