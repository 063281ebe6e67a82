//! Devices in an order in which each is near the one before: what tasks are seated along under `linked`.

use super::super::links::Ways;
use super::super::request::ONE;
use super::classes::Want;
use super::room::Room;

/// Up to so many devices, chains from each of them are compared.
const THOROUGH: usize = 24;

/// The order in which a host's devices are given to so many tasks with one want, all devices that can be used at all; and
/// what the links cost along it, as far as it is needed and back.
pub(super) fn best(room: &Room, host: usize, want: &Want, tasks: usize, ways: &Ways) -> (Vec<usize>, u64) {
    let pool = &room.hosts[host].pools[want.resource];
    let mut usable: Vec<usize> =
        pool.devices.iter().copied().filter(|&device| room.left[device] >= want.share).collect();
    usable.sort_by_cached_key(|&device| ways.nearness(device));
    // What of the order is needed.
    let needed = |order: &[usize]| -> usize {
        if want.share == ONE {
            return want.devices.saturating_mul(tasks).min(order.len());
        }
        let mut room_for = 0;
        for (index, &device) in order.iter().enumerate() {
            room_for += (room.left[device] / want.share) as usize;
            if room_for >= tasks {
                return index + 1;
            }
        }
        order.len()
    };
    if usable.len() <= THOROUGH { grown(&usable, needed, ways) } else { cut(usable, needed, ways) }
}

/// From each device a chain is grown by the nearest that is left, which of equals is the one nearest to all before.
fn grown(usable: &[usize], needed: impl Fn(&[usize]) -> usize, ways: &Ways) -> (Vec<usize>, u64) {
    let count = usable.len();
    let costs: Vec<Vec<u64>> =
        usable.iter().map(|&a| usable.iter().map(|&b| ways.cost(a, b)).collect()).collect();
    let mut best: Option<(Vec<usize>, u64)> = None;
    for seed in 0..count {
        let mut order = vec![seed];
        let mut to_all = costs[seed].clone();
        while order.len() < count {
            let last = &costs[order[order.len() - 1]];
            let left = (0..count).filter(|index| !order.contains(index));
            let Some(next) = left.min_by_key(|&index| (last[index], to_all[index], index)) else { break };
            order.push(next);
            to_all.iter_mut().zip(&costs[next]).for_each(|(sum, cost)| *sum += cost);
        }
        let devices: Vec<usize> = order.iter().map(|&index| usable[index]).collect();
        let needed = needed(&devices);
        let used = &order[..needed];
        let around = used.windows(2).map(|pair| costs[pair[0]][pair[1]]).sum::<u64>();
        let back = used.last().map_or(0, |&last| costs[last][used[0]]);
        if best.as_ref().is_none_or(|(_, cost)| around + back < *cost) {
            best = Some((devices, around + back));
        }
    }
    best.unwrap_or_default()
}

/// Of many devices the order by nearness is taken, turned so that it begins where the part that is needed costs the least.
fn cut(mut usable: Vec<usize>, needed: impl Fn(&[usize]) -> usize, ways: &Ways) -> (Vec<usize>, u64) {
    let length = needed(&usable);
    let steps: Vec<u64> = usable.windows(2).map(|pair| ways.cost(pair[0], pair[1])).collect();
    let mut around: u64 = steps[..length.saturating_sub(1)].iter().sum();
    let mut best = (u64::MAX, 0);
    for start in 0..=usable.len() - length {
        if start > 0 && length > 1 {
            around = around + steps[start + length - 2] - steps[start - 1];
        }
        let back = if length == 0 { 0 } else { ways.cost(usable[start + length - 1], usable[start]) };
        best = best.min((around + back, start));
    }
    usable.rotate_left(best.1);
    (usable, best.0)
}
