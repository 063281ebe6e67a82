//! What holds for all machines, requests and policies.

use super::machines::{all, machine, request, requests};
use super::oracle::{fits, hold_to_account};
use proptest::prelude::*;
use proptest::sample::select;
use ringfold::device::{
    Assigned, Assignment, Device, Discovery, Entry, Host, Inventory, Path, Placement, Policy, TaskRequest,
    assign,
};

/// More cases than usual where `PROPTEST_CASES` asks for them.
fn config(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    ProptestConfig { cases: cases.max(usual.cases), ..usual }
}

fn policy() -> impl Strategy<Value = Policy> {
    (select(Placement::ALL.to_vec()), any::<bool>())
        .prop_map(|(placement, pin)| Policy::new(placement).pinned(pin))
}

/// Who has got which device, by UUID.
fn who(assignment: &Assignment) -> Vec<(String, Vec<String>)> {
    let of = |task: &Assigned| task.devices.iter().map(|(device, _)| device.key()).collect();
    assignment.tasks.iter().map(|task| (task.host.clone(), of(task))).collect()
}

/// What the links between two tasks cost, and what they cost within one, by the public account of ways.
fn between(inventory: &Inventory, one: &Assigned, other: &Assigned) -> u64 {
    if one.host != other.host {
        return Path::Network.cost();
    }
    let pairs = one.devices.iter().flat_map(|(a, _)| other.devices.iter().map(move |(b, _)| (a, b)));
    let cost = |(a, b): (&Device, &Device)| inventory.path(&a.key(), &b.key()).unwrap().cost();
    pairs.map(cost).min().unwrap_or(Path::Node.cost())
}

fn within(inventory: &Inventory, task: &Assigned) -> u64 {
    let all = task.devices.iter().enumerate();
    let pairs = all.flat_map(|(index, a)| task.devices[index + 1..].iter().map(move |b| (&a.0, &b.0)));
    pairs.map(|(a, b)| inventory.path(&a.key(), &b.key()).unwrap().cost()).sum()
}

fn around(inventory: &Inventory, assignment: &Assignment, ring: &[usize]) -> u64 {
    let next = ring.iter().cycle().skip(1);
    let pairs = ring.iter().zip(next);
    pairs.map(|(&one, &other)| between(inventory, &assignment.tasks[one], &assignment.tasks[other])).sum()
}

fn check_ring(inventory: &Inventory, assignment: &Assignment) {
    let ring = assignment.ring();
    let plain: Vec<usize> = (0..assignment.tasks.len()).collect();
    let mut sorted = ring.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, plain, "a ring goes through every task once");
    assert!(ring.first().is_none_or(|&first| first == 0));
    let cost = around(inventory, assignment, &ring);
    assert!(cost <= around(inventory, assignment, &plain), "the order of the tasks is cheaper");
    let inside: u64 = assignment.tasks.iter().map(|task| within(inventory, task)).sum();
    assert_eq!(assignment.cost(), cost + inside);
}

fn check_cpus(inventory: &Inventory, requests: &[TaskRequest], assignment: &Assignment) {
    for (task, request) in assignment.tasks.iter().zip(requests) {
        let host = inventory.hosts().iter().find(|host| host.name == task.host).unwrap();
        let all = host.cpus();
        assert!(task.cpus.iter().all(|cpu| all.contains(cpu)));
        assert!(task.cpus.is_sorted() && task.cpus.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(task.cpus.is_empty(), all.is_empty());
        if request.cpus > 0.0 && !all.is_empty() {
            assert_eq!(task.cpus.len(), (request.cpus.ceil() as usize).min(all.len()));
        }
    }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn everybody_gets_what_was_asked_for_or_nobody_does(
        inventory in machine(3, 6), requests in requests(6), policy in policy()
    ) {
        match assign(&inventory, &requests, &policy) {
            Ok(assignment) => {
                hold_to_account(&inventory, &requests, &assignment);
                check_ring(&inventory, &assignment);
                if policy.pin {
                    check_cpus(&inventory, &requests, &assignment);
                } else {
                    prop_assert!(assignment.tasks.iter().all(|task| task.cpus.is_empty()));
                }
            }
            Err(misfit) => {
                prop_assert!(misfit.fit < requests.len() && misfit.tasks == requests.len());
                prop_assert!(assign(&inventory, &requests[..misfit.fit], &policy).is_ok());
            }
        }
    }

    #[test]
    fn what_is_refused_does_not_fit(inventory in machine(2, 3), requests in requests(5), policy in policy()) {
        let assigned = assign(&inventory, &requests, &policy);
        prop_assert_eq!(assigned.is_ok(), fits(&inventory, &requests));
        if let Err(misfit) = assigned {
            prop_assert!(misfit.proved);
            prop_assert!(fits(&inventory, &requests[..misfit.fit]));
            prop_assert!(!fits(&inventory, &requests[..misfit.fit + 1]), "{misfit}: one more would");
        }
    }

    #[test]
    fn the_order_of_a_listing_does_not_matter(
        inventory in machine(3, 6), requests in requests(5), policy in policy(), seed in any::<u64>()
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let shuffled = inventory.hosts().iter().map(|host| {
            let mut devices = host.devices.clone();
            random.shuffle(&mut devices);
            // Another container counts in another order; and links are told by UUID.
            let uuid = |address: &String| {
                host.devices.iter().find(|device| device.address == *address).unwrap().key()
            };
            let mut other = Host::new(&host.name);
            other.nodes.clone_from(&host.nodes);
            (other.cpu_limit, other.memory) = (host.cpu_limit, host.memory);
            for link in &host.links {
                other = other.with_link(uuid(&link.between.1), uuid(&link.between.0), link.lanes);
            }
            for (address, device) in devices.iter_mut().enumerate() {
                device.address = address.to_string();
            }
            other.with_devices(devices)
        });
        let mut hosts: Vec<Host> = shuffled.collect();
        random.shuffle(&mut hosts);
        let other = Inventory::of(hosts).unwrap();
        match (assign(&inventory, &requests, &policy), assign(&other, &requests, &policy)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(who(&one), who(&other));
                prop_assert_eq!((one.ring(), one.cost()), (other.ring(), other.cost()));
            }
            (Err(one), Err(other)) => prop_assert_eq!(one.to_string(), other.to_string()),
            (one, other) => prop_assert!(false, "{:?}, and {:?}", one, other),
        }
    }

    #[test]
    fn linked_costs_no_more_than_pack(inventory in machine(3, 8), requests in requests(6)) {
        let cost = |placement| assign(&inventory, &requests, &Policy::new(placement)).ok().map(|of| of.cost());
        let (linked, pack) = (cost(Placement::Linked), cost(Placement::Pack));
        prop_assert_eq!(linked.is_some(), pack.is_some());
        prop_assert!(linked <= pack);
    }

    #[test]
    fn what_is_visible_is_what_was_assigned(inventory in machine(1, 6), request in request(), begin in 6..12usize) {
        let Ok(assignment) = assign(&inventory, &[request], &Policy::default()) else { return Ok(()) };
        let task = &assignment.tasks[0];
        let addresses = task.addresses("gpu");
        // By UUID: what it sees is what it has.
        let Some(text) = task.visible(None) else {
            prop_assert!(addresses.is_empty());
            return Ok(());
        };
        let seen = Inventory::discover(&Discovery::Visible(text)).unwrap();
        let mut uuids: Vec<String> = seen.devices().map(Device::key).collect();
        let gpus = task.devices.iter().map(|(device, _)| device).filter(|device| device.resource == "gpu");
        let mut own: Vec<String> = gpus.map(Device::key).collect();
        uuids.sort();
        own.sort();
        prop_assert_eq!(uuids, own);
        // By index into a list that exists.
        let list: Vec<String> = (begin..begin + 6).map(|index| index.to_string()).collect();
        let text = task.visible(Some(&list.join(","))).unwrap();
        let expected: Vec<Entry> =
            addresses.iter().map(|address| Entry::Index(begin + address.parse::<usize>().unwrap())).collect();
        prop_assert_eq!(Entry::list(&text), expected);
    }
}

#[test]
fn described_machines_are_linked_no_worse_than_packed() {
    for (name, inventory) in all() {
        for tasks in 1..=8 {
            for amount in [0.5, 1.0, 2.0, 4.0] {
                let requests = vec![TaskRequest::new().amount("gpu", amount); tasks];
                let of = |placement| assign(&inventory, &requests, &Policy::new(placement)).ok();
                let assignments = Placement::ALL.map(of);
                for assignment in assignments.iter().flatten() {
                    hold_to_account(&inventory, &requests, assignment);
                    check_ring(&inventory, assignment);
                }
                let [pack, _, linked] = assignments.map(|assignment| assignment.map(|of| of.cost()));
                assert!(linked <= pack && linked.is_some() == pack.is_some(), "{name}, {tasks} x {amount}");
            }
        }
    }
}
