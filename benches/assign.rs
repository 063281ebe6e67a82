//! What assignments cost: 1,000 tasks on 10,000 devices by each policy, on many hosts and on one, and refusing them.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringfold::device::{Device, Host, Inventory, Node, Placement, Policy, TaskRequest, assign};
use std::hint::black_box;
use std::time::Duration;

const DEVICES: usize = 10_000;
const TASKS: usize = 1_000;

/// Hosts with so many devices each, half of them on each NUMA node.
fn machine(of_host: usize, switched: bool) -> Inventory {
    let hosts = (0..DEVICES / of_host).map(|host| {
        let device = move |at: usize| {
            let device = Device::new("gpu", at.to_string())
                .with_uuid(format!("GPU-{host:05}-{at:05}"))
                .with_numa(2 * at / of_host);
            if switched { device.with_fabric("nvswitch") } else { device.with_switch((at / 2).to_string()) }
        };
        let node = |id: usize| Node::new(id, (0..8 * of_host).skip(4 * of_host * id).take(4 * of_host));
        Host::new(format!("host{host:05}"))
            .with_nodes([node(0), node(1)])
            .with_memory((256 << 30) * of_host as u64)
            .with_devices((0..of_host).map(device))
    });
    Inventory::of(hosts).unwrap()
}

fn assigned(c: &mut Criterion) {
    let machines = [
        ("1250 hosts of 8, NVSwitch", machine(8, true)),
        ("1250 hosts of 8, PCIe", machine(8, false)),
        ("one host", machine(DEVICES, false)),
    ];
    let whole = TaskRequest::new().cpus(4.0).memory(16 << 30).amount("gpu", 1.0);
    let mixed: Vec<TaskRequest> =
        (0..TASKS).map(|task| whole.clone().amount("gpu", [0.25, 0.5, 1.0, 2.0, 4.0][task % 5])).collect();
    let requests = [
        ("one each", vec![whole.clone(); TASKS]),
        ("half each", vec![whole.clone().amount("gpu", 0.5); TASKS]),
        ("five kinds", mixed),
    ];
    for (name, machine) in &machines {
        let mut group = c.benchmark_group(format!("1000 tasks, 10000 devices, {name}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for (what, requests) in &requests {
            for placement in Placement::ALL {
                let policy = Policy::new(placement).pinned(true);
                group.bench_function(BenchmarkId::new(*what, placement), |b| {
                    b.iter(|| assign(black_box(machine), requests, &policy).unwrap());
                });
            }
        }
        group.finish();
    }
    let mut group = c.benchmark_group("a refusal");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let (_, machine) = &machines[0];
    let alike = vec![whole.clone().amount("gpu", 8.0); 1251];
    let mut different = vec![TaskRequest::new().amount("gpu", 5.0); 1000];
    different.extend(vec![TaskRequest::new().amount("gpu", 3.0); 1501]);
    for (what, requests) in [("1251 tasks that are alike", alike), ("2501 tasks of two kinds", different)] {
        group.bench_function(what, |b| {
            b.iter(|| assign(black_box(machine), &requests, &Policy::default()).unwrap_err());
        });
    }
    group.finish();
}

criterion_group!(benches, assigned);
criterion_main!(benches);
