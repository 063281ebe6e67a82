//! The order in which a ring goes through the tasks, so that it follows the links.

use super::super::links::{Path, Ways};
use super::room::Seat;

/// Up to so many tasks of a host their order is improved by trying.
const TRIED: usize = 64;

/// The order, which begins with task 0, and what all links cost: around the ring, and among the devices of each task.
pub(super) fn order(seats: &[Seat], ways: &Ways) -> (Vec<usize>, u64) {
    let inside: u64 = seats.iter().map(|seat| within(seat, ways)).sum();
    let plain: Vec<usize> = (0..seats.len()).collect();
    let plain_cost = around(&plain, seats, ways);
    let mut ring = grouped(seats, ways);
    if let Some(first) = ring.iter().position(|&task| task == 0) {
        ring.rotate_left(first);
    }
    // Both ways around cost the same: the one that begins with the lower number is the order.
    if ring.len() > 2 && ring[1] > ring[ring.len() - 1] {
        ring[1..].reverse();
    }
    let cost = around(&ring, seats, ways);
    if cost < plain_cost { (ring, cost + inside) } else { (plain, plain_cost + inside) }
}

/// Host by host, along the links.
fn grouped(seats: &[Seat], ways: &Ways) -> Vec<usize> {
    let mut ring: Vec<usize> = (0..seats.len()).collect();
    ring.sort_by_cached_key(|&task| {
        let seat = &seats[task];
        (seat.host, seat.devices.first().map(|&(device, _)| ways.nearness(device)), task)
    });
    let one_host = seats.iter().all(|seat| seat.host == seats[0].host);
    let mut begin = 0;
    while begin < ring.len() {
        let host = seats[ring[begin]].host;
        let end = begin + ring[begin..].iter().take_while(|&&task| seats[task].host == host).count();
        if end - begin <= TRIED {
            improve(&mut ring[begin..end], seats, ways, one_host);
        }
        begin = end;
    }
    ring
}

/// Turns parts around as long as that makes the order cheaper (2-opt); `closed` counts the way back.
fn improve(order: &mut [usize], seats: &[Seat], ways: &Ways, closed: bool) {
    let count = order.len();
    if count < 3 {
        return;
    }
    let costs: Vec<Vec<u64>> =
        order.iter().map(|&a| order.iter().map(|&b| between(&seats[a], &seats[b], ways)).collect()).collect();
    let mut at: Vec<usize> = (0..count).collect();
    for _ in 0..count {
        let mut better = false;
        for first in 0..count - 1 {
            for last in first + 1..count {
                // What joins the part to what is before and behind it, where there is something.
                let before = if first > 0 { Some(at[first - 1]) } else { closed.then(|| at[count - 1]) };
                let behind = if last + 1 < count { Some(at[last + 1]) } else { closed.then(|| at[0]) };
                if closed && first == 0 && last == count - 1 {
                    continue;
                }
                let join = |one: Option<usize>, other: usize| one.map_or(0, |one| costs[one][other]);
                let now = join(before, at[first]) + join(behind, at[last]);
                let then = join(before, at[last]) + join(behind, at[first]);
                if then < now {
                    at[first..=last].reverse();
                    better = true;
                }
            }
        }
        if !better {
            break;
        }
    }
    let sorted = order.to_vec();
    order.iter_mut().zip(at).for_each(|(place, index)| *place = sorted[index]);
}

fn around(ring: &[usize], seats: &[Seat], ways: &Ways) -> u64 {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).map(|(&one, &other)| between(&seats[one], &seats[other], ways)).sum()
}

/// What the best way between two tasks costs.
fn between(one: &Seat, other: &Seat, ways: &Ways) -> u64 {
    if one.host != other.host {
        return Path::Network.cost();
    }
    let pairs = one.devices.iter().flat_map(|&(a, _)| other.devices.iter().map(move |&(b, _)| (a, b)));
    // Tasks without devices meet in the memory of their host.
    pairs.map(|(a, b)| ways.cost(a, b)).min().unwrap_or(Path::Node.cost())
}

/// What the ways among a task's own devices cost.
fn within(seat: &Seat, ways: &Ways) -> u64 {
    let devices = seat.devices.iter().enumerate();
    devices.flat_map(|(index, a)| seat.devices[index + 1..].iter().map(|b| ways.cost(a.0, b.0))).sum()
}
