//! Tasks that ask for the same, and what that is in numbers.

use super::super::request::{ONE, TaskRequest, cpu_units, share};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// What one task needs. CPUs and shares are in whole units.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Need {
    pub(super) cpus: u64,
    pub(super) memory: u64,
    pub(super) wants: Vec<Want>,
}

/// What it needs of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Want {
    /// Its place among the names of resources.
    pub(super) resource: usize,
    /// How many devices.
    pub(super) devices: usize,
    /// How much of each: all of it, or of a single device a part.
    pub(super) share: u64,
}

impl Want {
    fn of(resource: usize, amount: f64) -> Want {
        match amount < 1.0 {
            true => Want { resource, devices: 1, share: share(amount) },
            false => Want { resource, devices: amount as usize, share: ONE },
        }
    }
}

/// Tasks with one need.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) need: Need,
    /// The amounts as they were asked for, want by want.
    pub(super) amounts: Vec<f64>,
    pub(super) tasks: Vec<usize>,
}

/// All tasks, the most demanding first.
#[derive(Debug)]
pub(super) struct Classes {
    /// The names of the resources that are asked for.
    pub(super) resources: Vec<String>,
    pub(super) list: Vec<Class>,
    /// How many tasks there are.
    pub(super) tasks: usize,
}

impl Classes {
    /// Of requests that are right.
    pub(super) fn of(requests: &[TaskRequest]) -> Classes {
        let asked =
            |request: &TaskRequest| request.amounts.clone().into_iter().filter(|&(_, amount)| amount > 0.0);
        let mut names = BTreeSet::new();
        let mut last = None;
        let mut list: Vec<Class> = Vec::new();
        for request in requests.iter().filter(|&request| last.replace(request) != Some(request)) {
            names.extend(asked(request).map(|(name, _)| name));
        }
        let resources: Vec<String> = names.into_iter().collect();
        let place = |name: &String| resources.binary_search(name).unwrap_or_default();
        let mut known: FxHashMap<Need, usize> = FxHashMap::default();
        let mut last: Option<(&TaskRequest, usize)> = None;
        for (task, request) in requests.iter().enumerate() {
            let class = match last {
                Some((same, class)) if same == request => class,
                _ => {
                    let wants = asked(request).map(|(name, amount)| Want::of(place(&name), amount)).collect();
                    let need = Need { cpus: cpu_units(request.cpus), memory: request.memory, wants };
                    let next = list.len();
                    let class = *known.entry(need.clone()).or_insert(next);
                    if class == next {
                        let amounts = asked(request).map(|(_, amount)| amount).collect();
                        list.push(Class { need, amounts, tasks: Vec::new() });
                    }
                    class
                }
            };
            last = Some((request, class));
            list[class].tasks.push(task);
        }
        list.sort_by_cached_key(|class| {
            let need = &class.need;
            let devices = need.wants.iter().filter(|want| want.share == ONE).map(|want| want.devices).max();
            let share = need.wants.iter().map(|want| want.share).max();
            (Reverse(devices), Reverse(share), Reverse(need.cpus), Reverse(need.memory), class.tasks[0])
        });
        Classes { resources, list, tasks: requests.len() }
    }

    /// What all of them need together.
    pub(super) fn total(&self) -> Total {
        let mut total = Total { cpus: 0, memory: 0, shares: vec![0; self.resources.len()] };
        for Class { need, tasks, .. } in &self.list {
            let times = |amount: u64| u128::from(amount) * tasks.len() as u128;
            total.cpus += times(need.cpus);
            total.memory += times(need.memory);
            for want in &need.wants {
                total.shares[want.resource] += times(want.share) * want.devices as u128;
            }
        }
        total
    }
}

/// Amounts of many tasks together.
#[derive(Debug)]
pub(super) struct Total {
    pub(super) cpus: u128,
    pub(super) memory: u128,
    pub(super) shares: Vec<u128>,
}
