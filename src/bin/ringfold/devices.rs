//! The part of `ringfold info` that is about devices, CPUs and NUMA nodes.

use comfy_table::{Table, presets};
use ringfold::device::{Device, Discovery, Inventory, Path};
use ringfold::{Config, Result};

/// What there is where the configuration says to look.
pub(crate) fn look() -> Result<Inventory> {
    Inventory::discover(&Discovery::of(&Config::from_env()?)?)
}

/// How devices were looked for, the NUMA nodes, and the memory.
pub(crate) fn rows(machine: &Inventory) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for host in machine.hosts() {
        for node in &host.nodes {
            rows.push(("NUMA node", format!("{}: CPUs {}", node.id, list(&node.cpus))));
        }
        if let Some(limit) = host.cpu_limit {
            rows.push(("CPU limit", format!("{limit} at a time")));
        }
        if let Some(memory) = host.memory {
            rows.push(("memory", format!("{} that can be had", gib(memory))));
        }
    }
    let count = match machine.devices().count() {
        0 => "none".to_owned(),
        count => count.to_string(),
    };
    let how = match machine.found() {
        [] => "as they are described".to_owned(),
        found => found.join("\n"),
    };
    rows.push(("devices", format!("{count}; {how}")));
    rows
}

/// Each device; `None` where there is none.
pub(crate) fn table(machine: &Inventory) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["device", "what it is", "memory", "node", "PCI", "UUID", "best links"]);
    let devices: Vec<&Device> = machine.devices().collect();
    for device in &devices {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        table.add_row([
            format!("{} {}", device.resource, device.address),
            text(&device.name),
            device.memory.map(gib).unwrap_or_default(),
            device.numa.map(|node| node.to_string()).unwrap_or_default(),
            text(&device.pci),
            text(&device.uuid),
            links(machine, device, &devices),
        ]);
    }
    (!devices.is_empty()).then_some(table)
}

/// The devices to which the best way leads, and what it is.
fn links(machine: &Inventory, of: &Device, devices: &[&Device]) -> String {
    let name = |device: &Device| device.uuid.clone().unwrap_or_else(|| device.address.clone());
    let others = devices.iter().filter(|other| other.host == of.host && other.key() != of.key());
    let ways: Vec<(Path, &str)> = others
        .filter_map(|other| Some((machine.path(&name(of), &name(other))?, other.address.as_str())))
        .collect();
    let Some(best) = ways.iter().map(|(way, _)| *way).min_by_key(|way| way.cost()) else {
        return String::new();
    };
    let to: Vec<&str> = ways.iter().filter(|(way, _)| *way == best).map(|&(_, address)| address).collect();
    format!("{best}: {}", to.join(", "))
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Numbers in runs.
fn list(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|one, next| one + 1 == *next);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}
