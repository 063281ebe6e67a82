//! Machines that do not exist, and what is asked of them.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use ringfold::device::{Device, Host, Inventory, Node, TaskRequest};
use std::path::Path;

/// One of the described machines of the examples.
pub(crate) fn described(name: &str) -> Inventory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data").join(name);
    Inventory::read(&path).unwrap()
}

/// Two GPUs in three slices each.
pub(crate) fn slices() -> Inventory {
    let slice = |gpu: usize, index: usize| {
        Device::new("gpu", format!("{gpu}:{index}"))
            .with_uuid(format!("MIG-{gpu}{index}"))
            .with_parent(format!("GPU-{gpu}"))
            .with_memory(20 << 30)
            .with_pci(format!("0000:{gpu}7:00.0"))
            .with_numa(gpu)
    };
    let devices = (0..6).map(|number| slice(number / 3, number % 3));
    let nodes = [Node::new(0, 0..8), Node::new(1, 8..16)];
    Inventory::of([Host::new("cut").with_nodes(nodes).with_devices(devices)]).unwrap()
}

/// Hosts that differ in everything.
pub(crate) fn mixed() -> Inventory {
    let gpus = |host: &str, count: usize| {
        let host = host.to_owned();
        (0..count)
            .map(move |index| Device::new("gpu", index.to_string()).with_uuid(format!("GPU-{host}{index}")))
    };
    let fpga = Device::new("fpga", "f0").with_numa(1);
    Inventory::of([
        Host::new("big").with_nodes([Node::new(0, 0..32)]).with_memory(1 << 40).with_devices(gpus("big", 8)),
        Host::new("small")
            .with_nodes([Node::new(0, 0..2)])
            .with_memory(4 << 30)
            .with_devices(gpus("small", 2)),
        Host::new("odd").with_nodes([Node::new(0, [0, 1]), Node::new(1, [4, 5])]).with_devices([fpga]),
        Host::new("quota")
            .with_nodes([Node::new(0, 0..8)])
            .with_cpu_limit(1.5)
            .with_devices(gpus("quota", 3)),
    ])
    .unwrap()
}

pub(crate) fn all() -> Vec<(&'static str, Inventory)> {
    vec![
        ("dgx", described("dgx.json")),
        ("bridges", described("bridges.json")),
        ("slices", slices()),
        ("mixed", mixed()),
    ]
}

fn maybe(what: &str, some: usize) -> impl Strategy<Value = Option<String>> + use<> {
    let what = what.to_owned();
    prop_oneof![1 => Just(None), 2 => (0..some).prop_map(move |number| Some(format!("{what}{number}")))]
}

/// Devices, the number of which is their UUID's.
fn device() -> impl Strategy<Value = Device> {
    let kind = prop_oneof![4 => Just("gpu"), 1 => Just("fpga")];
    let numa = proptest::option::of(0..3usize);
    (
        kind,
        numa,
        maybe("fabric", 2),
        maybe("switch", 3),
        maybe("GPU-parent", 2),
        proptest::bool::weighted(0.15),
    )
        .prop_map(|(kind, numa, fabric, switch, parent, held)| {
            let mut device = Device::new(kind, "").with_held(held);
            (device.numa, device.fabric, device.switch) = (numa, fabric, switch);
            device.parent = parent.filter(|_| kind == "gpu");
            device
        })
}

fn host(devices: usize) -> impl Strategy<Value = Host> {
    let devices = proptest::collection::vec(device(), 0..=devices);
    let limit = proptest::option::of((1..12u32).prop_map(|halves| f64::from(halves) / 2.0));
    let links = proptest::collection::vec((any::<Index>(), any::<Index>(), 1..5u32), 0..4);
    let memory = proptest::option::of(0..9u64);
    (devices, proptest::collection::vec(0..5usize, 0..3), limit, memory, links).prop_map(
        |(devices, nodes, limit, memory, links)| {
            let mut host = Host::new("");
            let mut first = 0;
            for (id, cpus) in nodes.into_iter().enumerate() {
                host.nodes.push(Node::new(id, first..first + cpus));
                first += cpus;
            }
            host.cpu_limit = limit;
            host.memory = memory;
            let count = devices.len();
            host.devices = devices;
            for (one, other, lanes) in links {
                if count > 0 && one.index(count) != other.index(count) {
                    // By address, which is the place in the list.
                    host =
                        host.with_link(one.index(count).to_string(), other.index(count).to_string(), lanes);
                }
            }
            host
        },
    )
}

/// Machines with at most so many hosts, each with at most so many devices.
pub(crate) fn machine(hosts: usize, devices: usize) -> impl Strategy<Value = Inventory> {
    proptest::collection::vec(host(devices), 1..=hosts).prop_map(|mut hosts| {
        let mut number = 0;
        for (index, host) in hosts.iter_mut().enumerate() {
            host.name = format!("host{index}");
            for (address, device) in host.devices.iter_mut().enumerate() {
                device.address = address.to_string();
                device.uuid = Some(format!("GPU-{number:03}"));
                number += 1;
            }
        }
        Inventory::of(hosts).unwrap()
    })
}

/// What a task may ask for.
pub(crate) fn request() -> impl Strategy<Value = TaskRequest> {
    let amount = || select(vec![0.0, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.0, 2.0, 3.0]);
    let fpga = prop_oneof![4 => Just(0.0), 1 => amount()];
    let cpus = select(vec![0.0, 0.0, 0.5, 1.0, 1.0, 2.0]);
    let memory = prop_oneof![2 => Just(0), 1 => 1..4u64];
    (amount(), fpga, cpus, memory).prop_map(|(gpu, fpga, cpus, memory)| {
        TaskRequest::new().amount("gpu", gpu).amount("fpga", fpga).cpus(cpus).memory(memory)
    })
}

/// What tasks ask for: each something else, or all the same.
pub(crate) fn requests(most: usize) -> impl Strategy<Value = Vec<TaskRequest>> {
    prop_oneof![
        proptest::collection::vec(request(), 0..=most),
        (request(), 1..=most).prop_map(|(request, count)| vec![request; count]),
    ]
}
