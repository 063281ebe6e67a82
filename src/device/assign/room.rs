//! What is left while tasks are seated.

use super::super::inventory::Inventory;
use super::super::request::{CPU, ONE};
use super::classes::{Class, Need, Total, Want};

/// Where a task sits.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    /// Its host, by number.
    pub(super) host: usize,
    /// Its devices, by number, with what it has of each.
    pub(super) devices: Vec<(usize, f64)>,
}

/// What is left of all hosts. Devices have the numbers of their places in the inventory.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) hosts: Vec<Hall>,
    /// What is left of each device.
    pub(super) left: Vec<u64>,
    /// The NUMA node of each device.
    pub(super) nodes: Vec<Option<usize>>,
}

/// What is left of a host.
#[derive(Debug, Clone)]
pub(super) struct Hall {
    pub(super) cpus: u64,
    pub(super) memory: u64,
    /// Its devices, resource by resource.
    pub(super) pools: Vec<Pool>,
    /// How many tasks sit here.
    pub(super) tasks: usize,
}

/// The devices of one resource that one host has.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    pub(super) devices: Vec<usize>,
    /// How many of them nobody has anything of.
    pub(super) whole: usize,
    /// The most that one of them has left.
    most: u64,
}

impl Room {
    pub(super) fn of(inventory: &Inventory, resources: &[String]) -> Room {
        let mut room = Room { hosts: Vec::new(), left: Vec::new(), nodes: Vec::new() };
        for host in inventory.hosts() {
            let mut pools = vec![Pool::default(); resources.len()];
            for device in &host.devices {
                if let Ok(resource) = resources.binary_search(&device.resource) {
                    pools[resource].devices.push(room.left.len());
                }
                room.left.push(if device.held { 0 } else { ONE });
                room.nodes.push(device.numa);
            }
            let cpus = host.cpu_capacity().map_or(u64::MAX, |cpus| (cpus * CPU as f64).round() as u64);
            let mut hall = Hall { cpus, memory: host.memory.unwrap_or(u64::MAX), pools, tasks: 0 };
            hall.pools.iter_mut().for_each(|pool| pool.count(&room.left));
            room.hosts.push(hall);
        }
        room
    }

    /// Whether a host has what one more task needs.
    pub(super) fn fits(&self, host: usize, need: &Need) -> bool {
        let hall = &self.hosts[host];
        need.cpus <= hall.cpus
            && need.memory <= hall.memory
            && need.wants.iter().all(|want| hall.pools[want.resource].has(want))
    }

    /// How many tasks of one need a host has room for, `most` at most.
    pub(super) fn capacity(&self, host: usize, need: &Need, most: usize) -> usize {
        let hall = &self.hosts[host];
        let of = |left: u64, each: u64| {
            left.checked_div(each).map_or(most, |times| times.min(most as u64) as usize)
        };
        let simple = of(hall.cpus, need.cpus).min(of(hall.memory, need.memory));
        need.wants.iter().fold(simple, |least, want| match least {
            0 => 0,
            _ => least.min(self.capacity_of(host, want, most)),
        })
    }

    /// The same of one resource.
    pub(super) fn capacity_of(&self, host: usize, want: &Want, most: usize) -> usize {
        let pool = &self.hosts[host].pools[want.resource];
        if want.share == ONE {
            return (pool.whole / want.devices.max(1)).min(most);
        }
        let mut tasks = 0;
        for &device in &pool.devices {
            tasks += (self.left[device] / want.share) as usize;
            if tasks >= most {
                return most;
            }
        }
        tasks
    }

    /// Seats a task on devices of a host, which have what it takes of them: want by want.
    pub(super) fn take(&mut self, host: usize, class: &Class, devices: &[Vec<usize>]) -> Seat {
        let hall = &mut self.hosts[host];
        // Where nothing is said there is no limit, and there has to be none afterwards.
        if hall.cpus != u64::MAX {
            hall.cpus -= class.need.cpus;
        }
        if hall.memory != u64::MAX {
            hall.memory -= class.need.memory;
        }
        hall.tasks += 1;
        let mut seat = Seat { host, devices: Vec::new() };
        for ((want, chosen), &amount) in class.need.wants.iter().zip(devices).zip(&class.amounts) {
            let pool = &mut hall.pools[want.resource];
            for &device in chosen {
                pool.whole -= usize::from(self.left[device] == ONE);
                self.left[device] -= want.share;
                seat.devices.push((device, amount.min(1.0)));
            }
            // As long as one is whole it is the one that has the most.
            if pool.whole == 0 {
                pool.count(&self.left);
            }
        }
        seat
    }

    /// Takes back what [`take`](Room::take) has done.
    pub(super) fn give_back(&mut self, host: usize, class: &Class, devices: &[Vec<usize>]) {
        let hall = &mut self.hosts[host];
        if hall.cpus != u64::MAX {
            hall.cpus += class.need.cpus;
        }
        if hall.memory != u64::MAX {
            hall.memory += class.need.memory;
        }
        hall.tasks -= 1;
        for (want, chosen) in class.need.wants.iter().zip(devices) {
            for &device in chosen {
                self.left[device] += want.share;
            }
            hall.pools[want.resource].count(&self.left);
        }
    }

    /// Whether all hosts together have less than this.
    pub(super) fn is_below(&self, total: &Total) -> bool {
        let sum = |of: fn(&Hall) -> u64| self.hosts.iter().map(|hall| u128::from(of(hall))).sum::<u128>();
        let share = |resource: usize| {
            let devices = self.hosts.iter().flat_map(|hall| &hall.pools[resource].devices);
            devices.map(|&device| u128::from(self.left[device])).sum::<u128>()
        };
        sum(|hall| hall.cpus) < total.cpus
            || sum(|hall| hall.memory) < total.memory
            || total.shares.iter().enumerate().any(|(resource, &asked)| share(resource) < asked)
    }
}

impl Pool {
    fn count(&mut self, left: &[u64]) {
        (self.whole, self.most) = (0, 0);
        for &device in &self.devices {
            self.whole += usize::from(left[device] == ONE);
            self.most = self.most.max(left[device]);
        }
    }

    fn has(&self, want: &Want) -> bool {
        if want.share == ONE { self.whole >= want.devices } else { self.most >= want.share }
    }
}
