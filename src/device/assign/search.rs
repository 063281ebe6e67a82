//! All ways of seating tasks that ask for different things, within a bound on the work.
//!
//! Tasks of a class are alike, so each sits on no earlier host than the one before; hosts that have the same left are alike,
//! so one of them is tried; so are devices of a host that have the same left. A state that has failed is not entered again.

use super::super::request::ONE;
use super::classes::{Class, Classes, Need};
use super::room::{Room, Seat};
use rustc_hash::FxHashSet;

/// How much is looked at, in devices and hosts, before the search gives up.
const WORK: usize = 4_000_000;

/// So many tasks at most, since each takes a part of the stack.
const DEEPEST: usize = 200;

/// The search gave up: nobody knows whether there is a way.
#[derive(Debug)]
pub(super) struct GaveUp;

struct Search<'a> {
    room: Room,
    /// The tasks in the order in which they are seated, each with its class.
    tasks: Vec<(&'a Class, usize)>,
    seats: Vec<Seat>,
    failed: FxHashSet<Vec<u64>>,
    states: usize,
}

/// A way, if there is one.
pub(super) fn all_ways(room: Room, classes: &Classes) -> Result<Option<Vec<Seat>>, GaveUp> {
    let tasks: Vec<_> =
        classes.list.iter().flat_map(|class| class.tasks.iter().map(move |&task| (class, task))).collect();
    let states = WORK / (room.left.len() + room.hosts.len() + 1);
    let seats = vec![Seat::default(); classes.tasks];
    // It goes as deep as there are tasks.
    if tasks.len() > DEEPEST.min(states) {
        return Err(GaveUp);
    }
    let mut search = Search { room, tasks, seats, failed: FxHashSet::default(), states };
    Ok(search.seat(0, 0)?.then_some(search.seats))
}

impl Search<'_> {
    /// Seats the tasks from this one on, the next of its class from a host on.
    fn seat(&mut self, at: usize, from: usize) -> Result<bool, GaveUp> {
        let Some(&(class, _)) = self.tasks.get(at) else { return Ok(true) };
        let state = self.state(at, from);
        if self.failed.contains(&state) {
            return Ok(false);
        }
        self.states = self.states.checked_sub(1).ok_or(GaveUp)?;
        let mut tried: FxHashSet<Vec<u64>> = FxHashSet::default();
        for host in from..self.room.hosts.len() {
            if self.room.fits(host, &class.need) && tried.insert(self.left_of(host)) {
                let mut chosen = Vec::new();
                if self.devices(at, host, &class.need, &mut chosen)? {
                    return Ok(true);
                }
            }
        }
        self.failed.insert(state);
        Ok(false)
    }

    /// Chooses devices for one want after the other, then goes on with the next task.
    fn devices(
        &mut self,
        at: usize,
        host: usize,
        need: &Need,
        chosen: &mut Vec<Vec<usize>>,
    ) -> Result<bool, GaveUp> {
        let Some(want) = need.wants.get(chosen.len()) else {
            let (class, task) = self.tasks[at];
            self.seats[task] = self.room.take(host, class, chosen);
            let same = self.tasks.get(at + 1).is_some_and(|(next, _)| std::ptr::eq(*next, class));
            let done = self.seat(at + 1, if same { host } else { 0 })?;
            if !done {
                self.room.give_back(host, class, chosen);
            }
            return Ok(done);
        };
        let able = self.room.hosts[host].pools[want.resource].devices.iter().copied();
        let mut able: Vec<usize> = able.filter(|&device| self.room.left[device] >= want.share).collect();
        if want.share == ONE {
            able.truncate(want.devices);
            chosen.push(able);
            let done = self.devices(at, host, need, chosen)?;
            chosen.pop();
            return Ok(done);
        }
        able.sort_by_key(|&device| self.room.left[device]);
        able.dedup_by_key(|device| self.room.left[*device]);
        for device in able {
            chosen.push(vec![device]);
            let done = self.devices(at, host, need, chosen)?;
            chosen.pop();
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is left of a host, in such a form that what is alike is equal.
    fn left_of(&self, host: usize) -> Vec<u64> {
        let hall = &self.room.hosts[host];
        let mut all = vec![hall.cpus, hall.memory];
        for pool in &hall.pools {
            let begin = all.len();
            all.extend(pool.devices.iter().map(|&device| self.room.left[device]));
            all[begin..].sort_unstable();
            all.push(u64::MAX);
        }
        all
    }

    fn state(&self, at: usize, from: usize) -> Vec<u64> {
        let mut state = vec![at as u64, from as u64];
        for host in 0..self.room.hosts.len() {
            state.extend(self.left_of(host));
        }
        state
    }
}
