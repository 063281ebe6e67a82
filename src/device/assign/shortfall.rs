//! Why tasks do not fit, and how many of them would.

use super::super::inventory::Inventory;
use super::super::misfit::{Misfit, Shortage};
use super::super::request::{CPU, TaskRequest};
use super::classes::{Classes, Want};
use super::room::Room;
use super::{greedy, may_fit, search};

/// Up to so many tasks all ways are tried to find out how many would fit.
const FEW: usize = 16;

pub(super) fn tell(
    inventory: &Inventory,
    requests: &[TaskRequest],
    classes: &Classes,
    room: &Room,
) -> Misfit {
    let proved = !may_fit(room, classes) || search::all_ways(room.clone(), classes).is_ok();
    let alike = classes.list.len() == 1;
    let fit = if alike { divided(room, classes) } else { first_ones(requests, inventory) };
    let mut shortages = resources(inventory, classes, room);
    shortages.extend(simple(inventory, classes, room));
    // What is short by itself is the reason; where nothing is, all of it is.
    if shortages.iter().any(|shortage| shortage.short) {
        shortages.retain(|shortage| shortage.short);
    }
    Misfit::new(requests, alike, shortages, fit, proved, inventory.found().to_vec())
}

/// How many tasks of the one class fit.
fn divided(room: &Room, classes: &Classes) -> usize {
    let class = &classes.list[0];
    let most = class.tasks.len();
    let fit = (0..room.hosts.len()).map(|host| room.capacity(host, &class.need, most)).sum::<usize>();
    fit.min(most)
}

/// How many tasks fit, from the first on.
fn first_ones(requests: &[TaskRequest], inventory: &Inventory) -> usize {
    let fits = |count: usize| {
        let classes = Classes::of(&requests[..count]);
        let room = Room::of(inventory, &classes.resources);
        let greedily = || greedy::packed(room.clone(), &classes, None);
        let searched = || count <= FEW && may_fit(&room, &classes);
        greedily().is_some() || searched() && matches!(search::all_ways(room.clone(), &classes), Ok(Some(_)))
    };
    let (mut fit, mut too_many) = (0, requests.len());
    while fit + 1 < too_many {
        let middle = fit.midpoint(too_many);
        if fits(middle) { fit = middle } else { too_many = middle }
    }
    fit
}

fn resources(inventory: &Inventory, classes: &Classes, room: &Room) -> Vec<Shortage> {
    let total = classes.total();
    let of_resource = |(resource, name): (usize, &String)| {
        let devices: Vec<_> = inventory.devices().filter(|device| device.resource == *name).collect();
        let call = |held: bool| {
            devices
                .iter()
                .filter(|device| device.held == held)
                .map(|device| device.called().to_owned())
                .collect()
        };
        let free: Vec<String> = call(false);
        let asked = classes.list.iter().flat_map(|class| {
            let amounts = class.need.wants.iter().zip(&class.amounts);
            amounts
                .filter(|(want, _)| want.resource == resource)
                .map(|(_, amount)| amount * class.tasks.len() as f64)
        });
        let short = match &classes.list[..] {
            [class] => {
                let tasks = class.tasks.len();
                let room_for = |want: &Want| -> usize {
                    (0..room.hosts.len()).map(|host| room.capacity_of(host, want, tasks)).sum()
                };
                class.need.wants.iter().any(|want| want.resource == resource && room_for(want) < tasks)
            }
            _ => {
                let mut only = classes.total();
                only.cpus = 0;
                only.memory = 0;
                only.shares.iter_mut().enumerate().for_each(|(other, share)| {
                    *share = if other == resource { total.shares[resource] } else { 0 };
                });
                room.is_below(&only)
            }
        };
        Shortage {
            resource: name.clone(),
            asked: asked.sum(),
            free: free.len() as f64,
            names: free,
            held: call(true),
            short,
        }
    };
    classes.resources.iter().enumerate().map(of_resource).collect()
}

/// CPUs and memory, where they are asked for and known.
fn simple(inventory: &Inventory, classes: &Classes, room: &Room) -> Vec<Shortage> {
    let total = classes.total();
    let hosts = inventory.hosts();
    let cpus: Option<f64> = hosts.iter().map(super::super::host::Host::cpu_capacity).sum();
    let memory: Option<f64> = hosts.iter().map(|host| host.memory.map(|bytes| bytes as f64)).sum();
    let limited = |of_cpus: bool| match &classes.list[..] {
        [class] => {
            let mut need = class.need.clone();
            need.wants.clear();
            if of_cpus {
                need.memory = 0
            } else {
                need.cpus = 0
            }
            let tasks = class.tasks.len();
            (0..room.hosts.len()).map(|host| room.capacity(host, &need, tasks)).sum::<usize>() < tasks
        }
        _ => {
            let mut only = classes.total();
            only.shares.fill(0);
            if of_cpus {
                only.memory = 0
            } else {
                only.cpus = 0
            }
            room.is_below(&only)
        }
    };
    let told = |resource: &str, asked: f64, free: f64, short: bool| Shortage {
        resource: resource.to_owned(),
        asked,
        free,
        names: Vec::new(),
        held: Vec::new(),
        short,
    };
    let cpus = cpus.filter(|_| total.cpus > 0);
    let memory = memory.filter(|_| total.memory > 0);
    let cpus = cpus.map(|free| told(Shortage::CPUS, total.cpus as f64 / CPU as f64, free, limited(true)));
    let memory = memory.map(|free| told(Shortage::MEMORY, total.memory as f64, free, limited(false)));
    cpus.into_iter().chain(memory).collect()
}
