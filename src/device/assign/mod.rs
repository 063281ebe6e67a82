//! The pure function from an inventory, requests and a policy to an assignment.
//!
//! Tasks that ask for the same are a *class*. With one class the question is a division, host by host and device by device, and its
//! answer is exact. With several it is a packing, which is searched: first greedily, the largest first; then, where that
//! fails and the totals do not forbid it, through all ways of doing it, within a bound (`search.rs`).

mod chain;
mod classes;
mod greedy;
mod pin;
mod ring;
mod room;
mod search;
mod shortfall;

use super::assignment::{Assigned, Assignment};
use super::inventory::Inventory;
use super::links::Ways;
use super::misfit::Misfit;
use super::policy::{Placement, Policy};
use super::request::TaskRequest;
use classes::Classes;
use room::{Room, Seat};

/// Gives each task what it asks for, or says why that cannot be: all of it or nothing. Pure, and deterministic: it depends on
/// what there is, not on who lists it in which order. Devices that others hold are not given.
///
/// Under [`Placement::Linked`] the links cost no more than under [`Placement::Pack`], by [`Assignment::cost`].
///
/// # Errors
/// A [`Misfit`]: what was asked, what there is, and how many of the tasks would fit. One is also returned for requests that
/// cannot be right. With requests that differ it may, for large groups, be one that a longer search would have avoided:
/// [`Misfit::proved`] tells.
///
/// ```
/// use ringfold::device::{Device, Host, Inventory, Placement, Policy, TaskRequest, assign};
/// let gpus = (0..4).map(|index| Device::new("gpu", index.to_string()).with_numa(index / 2));
/// let machine = Inventory::of([Host::new("a").with_devices(gpus)]).unwrap();
/// let tasks = vec![TaskRequest::new().amount("gpu", 1.0); 2];
/// let spread = assign(&machine, &tasks, &Policy::new(Placement::Spread)).unwrap();
/// assert_eq!(spread.tasks[1].addresses("gpu"), ["2"]);
/// let linked = assign(&machine, &tasks, &Policy::new(Placement::Linked)).unwrap();
/// assert_eq!(linked.tasks[1].addresses("gpu"), ["1"]);
/// ```
pub fn assign(
    inventory: &Inventory,
    requests: &[TaskRequest],
    policy: &Policy,
) -> Result<Assignment, Misfit> {
    if let Some((task, error)) = invalid(requests) {
        return Err(Misfit::of_invalid(task, requests.len(), error));
    }
    let classes = Classes::of(requests);
    let room = Room::of(inventory, &classes.resources);
    let ways = inventory.ways();
    let Some(seats) = seats(&room, &classes, &ways, policy.placement) else {
        return Err(shortfall::tell(inventory, requests, &classes, &room));
    };
    let (ring, cost) = ring::order(&seats, &ways);
    let cpus =
        if policy.pin { pin::near(inventory, requests, &seats) } else { vec![Vec::new(); seats.len()] };
    let devices: Vec<_> = inventory.devices().collect();
    let tasks = seats.iter().zip(cpus).map(|(seat, cpus)| Assigned {
        host: inventory.hosts()[seat.host].name.clone(),
        devices: seat.devices.iter().map(|&(device, share)| (devices[device].clone(), share)).collect(),
        cpus,
    });
    Ok(Assignment::new(tasks.collect(), ring, cost))
}

fn invalid(requests: &[TaskRequest]) -> Option<(usize, crate::error::Error)> {
    // Most tasks ask for what the one before did.
    let mut checked: Option<&TaskRequest> = None;
    for (task, request) in requests.iter().enumerate() {
        if checked != Some(request) {
            if let Err(error) = request.check() {
                return Some((task, error));
            }
            checked = Some(request);
        }
    }
    None
}

/// Where each task sits, in the order of the tasks.
fn seats(room: &Room, classes: &Classes, ways: &Ways, placement: Placement) -> Option<Vec<Seat>> {
    match placement {
        Placement::Pack => packed(room, classes),
        Placement::Spread => greedy::spread(room.clone(), classes).or_else(|| packed(room, classes)),
        Placement::Linked => {
            let linked = greedy::packed(room.clone(), classes, Some(ways));
            // What it costs is compared whichever way it was found, so that it is never more.
            let both = linked.into_iter().chain(packed(room, classes));
            both.min_by_key(|seats| ring::order(seats, ways).1)
        }
    }
}

fn packed(room: &Room, classes: &Classes) -> Option<Vec<Seat>> {
    greedy::packed(room.clone(), classes, None).or_else(|| match may_fit(room, classes) {
        true => search::all_ways(room.clone(), classes).ok().flatten(),
        false => None,
    })
}

/// Whether a search can find anything: with one class there is nothing that was not seen, and totals may forbid it.
fn may_fit(room: &Room, classes: &Classes) -> bool {
    classes.list.len() > 1 && !room.is_below(&classes.total())
}
