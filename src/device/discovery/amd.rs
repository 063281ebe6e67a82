//! AMD's devices, as the kernel's driver (KFD) tells of them in sysfs.

use super::super::description::{Device, GPU};
use super::{Found, numa_of};
use rustc_hash::FxHashMap;
use std::fs;
use std::path::Path;

/// The numbers that a file of properties has.
fn properties(path: &Path) -> FxHashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Directories with numbers as their names, in order.
fn numbered(directory: &Path) -> Vec<usize> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<usize> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// All devices, of which sysfs is at `root`; or why there are none.
pub(super) fn look(root: &Path) -> Result<Found, String> {
    let nodes = root.join("class/kfd/kfd/topology/nodes");
    if !nodes.is_dir() {
        return Err("AMD: there is no driver (kfd)".to_owned());
    }
    let mut devices: Vec<Device> = Vec::new();
    for node in numbered(&nodes) {
        let node = nodes.join(node.to_string());
        let of = properties(&node.join("properties"));
        let number = |name: &str| of.get(name).copied().filter(|&number| number > 0);
        // CPUs are nodes as well, and what this process may not use tells nothing.
        if number("simd_count").is_none() {
            continue;
        }
        let index = devices.len().to_string();
        let mut device = Device::new(GPU, &*index).with_entry(index).with_vendor("amd");
        device.uuid = number("unique_id").map(|id| format!("GPU-{id:016x}"));
        let name = fs::read_to_string(node.join("name")).unwrap_or_default();
        device.name = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
        let banks = numbered(&node.join("mem_banks")).into_iter().map(|bank| {
            let of = properties(&node.join(format!("mem_banks/{bank}/properties")));
            // Types 1 and 2 are the device's own memory.
            let own = matches!(of.get("heap_type"), Some(1 | 2));
            of.get("size_in_bytes").copied().filter(|_| own).unwrap_or(0)
        });
        device.memory = Some(banks.sum()).filter(|&bytes| bytes > 0);
        if let Some(&location) = of.get("location_id") {
            let (domain, bus) = (of.get("domain").copied().unwrap_or(0), location >> 8 & 0xff);
            let pci = format!("{domain:04x}:{bus:02x}:{:02x}.{}", location >> 3 & 0x1f, location & 7);
            device.numa = numa_of(root, &pci);
            device.pci = Some(pci);
        }
        device.fabric = number("hive_id").map(|hive| format!("xgmi-{hive:x}"));
        devices.push(device);
    }
    match devices.len() {
        0 => Err("AMD: the driver is there, and no device".to_owned()),
        count => Ok(Found { devices, links: Vec::new(), how: format!("AMD: {count} by sysfs") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invented_machine_is_read() {
        let root = std::env::temp_dir().join(format!("ringfold-kfd-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(look(&root).unwrap_err().contains("no driver"));
        write("class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 64\nsimd_count 0\n");
        assert!(look(&root).unwrap_err().contains("no device"));
        for (node, bus, id) in [(1, 0x63, 11u64), (2, 0x83, 12)] {
            let at = |rest: &str| format!("class/kfd/kfd/topology/nodes/{node}/{rest}");
            let text = format!(
                "simd_count 440\ndomain 0\nlocation_id {}\nunique_id {id}\nhive_id 255\nvendor_id 4098\n",
                bus << 8
            );
            write(&at("properties"), &text);
            write(&at("name"), "aldebaran\n");
            write(&at("mem_banks/0/properties"), "heap_type 1\nsize_in_bytes 68702699520\n");
            write(&at("mem_banks/1/properties"), "heap_type 0\nsize_in_bytes 5\n");
        }
        write("bus/pci/devices/0000:63:00.0/numa_node", "1\n");
        write("bus/pci/devices/0000:83:00.0/numa_node", "-1\n");
        let found = look(&root).unwrap();
        let second = Device::new(GPU, "1")
            .with_entry("1")
            .with_uuid("GPU-000000000000000c")
            .with_name("aldebaran")
            .with_vendor("amd")
            .with_memory(68_702_699_520)
            .with_pci("0000:83:00.0")
            .with_fabric("xgmi-ff");
        assert_eq!(found.devices[1], second);
        assert_eq!((found.devices[0].pci.as_deref(), found.devices[0].numa), (Some("0000:63:00.0"), Some(1)));
        fs::remove_dir_all(&root).unwrap();
    }
}
