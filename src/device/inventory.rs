//! What there is: the hosts, with their devices in an order that does not depend on who lists them.

use super::description::Device;
use super::host::Host;
use super::links::{Path, Ways};
use crate::error::{Error, ErrorKind, Result};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

/// The hosts that tasks can be placed on, with CPUs, memory and devices. Send and Sync.
///
/// Hosts are in the order of their names, and devices in the order of their PCI addresses, else of their UUIDs; so two
/// containers that see the same devices under other addresses make the same assignments.
///
/// It can be written to and read from JSON, which is how a machine is described: see the module's example. What is read is
/// checked as by [`of`](Inventory::of).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Described")]
pub struct Inventory {
    hosts: Vec<Host>,
    /// How devices were looked for, and why there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    found: Vec<String>,
}

/// An inventory as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    hosts: Vec<Host>,
    #[serde(default)]
    found: Vec<String>,
}

impl TryFrom<Described> for Inventory {
    type Error = Error;

    fn try_from(described: Described) -> Result<Inventory> {
        let mut inventory = Inventory::of(described.hosts)?;
        inventory.found = described.found;
        Ok(inventory)
    }
}

fn wrong(text: String) -> Error {
    Error::new(ErrorKind::Configuration, text).remedy("mend the description of the machine")
}

impl Inventory {
    /// The inventory of these hosts.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where two hosts have one name, two devices one UUID, or two of a host one address; where a
    /// CPU is on two nodes of its host; where a limit is no number from 0; where a link is between devices that are not there.
    pub fn of(hosts: impl IntoIterator<Item = Host>) -> Result<Inventory> {
        let mut hosts: Vec<Host> = hosts.into_iter().collect();
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(pair) = hosts.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(wrong(format!("there are two hosts called {:?}", pair[0].name)));
        }
        let mut uuids = FxHashSet::default();
        for host in &mut hosts {
            check(host, &mut uuids)?;
            host.nodes.sort_by_key(|node| node.id);
            for node in &mut host.nodes {
                node.cpus.sort_unstable();
            }
            host.devices.sort_by_cached_key(Device::order);
            for device in &mut host.devices {
                device.host.clone_from(&host.name);
            }
        }
        Ok(Inventory { hosts, found: Vec::new() })
    }

    /// A host with devices of which only the addresses are known: what a list in a configuration says.
    ///
    /// # Errors
    /// As [`of`](Inventory::of).
    pub fn of_addresses(
        resource: &str,
        addresses: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Inventory> {
        let devices = addresses.into_iter().map(|address| Device::new(resource, address));
        Inventory::of([Host::here().with_devices(devices)])
    }

    /// The hosts, in the order of their names.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All devices, host by host.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.hosts.iter().flat_map(|host| &host.devices)
    }

    /// How devices were looked for, in words: what was found where, and why there are none.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// The same where a single host is called by this name.
    pub(super) fn on(mut self, name: &str) -> Self {
        if let [host] = &mut self.hosts[..] {
            name.clone_into(&mut host.name);
            host.devices.iter_mut().for_each(|device| name.clone_into(&mut device.host));
        }
        self
    }

    /// Adds how devices were looked for.
    pub(super) fn told(mut self, found: Vec<String>) -> Self {
        self.found.extend(found);
        self
    }

    /// The best way between two devices, by UUID or, on one host, by address; `None` where one is not there.
    pub fn path(&self, one: &str, other: &str) -> Option<Path> {
        let at = |called: &str| self.devices().position(|device| is_called(device, called));
        Some(self.ways().path(at(one)?, at(other)?))
    }

    /// Says of every device whether another group holds it.
    pub fn mark_held(&mut self, mut held: impl FnMut(&Device) -> bool) {
        for device in self.hosts.iter_mut().flat_map(|host| &mut host.devices) {
            device.held = held(device);
        }
    }

    /// The ways between the devices, by their places in [`devices`](Inventory::devices).
    pub(super) fn ways(&self) -> Ways {
        let numbered = self.hosts.iter().enumerate();
        let devices =
            numbered.flat_map(|(host, of)| of.devices.iter().map(move |device| (host as u32, device)));
        let mut pairs = Vec::new();
        let mut first = 0;
        for host in &self.hosts {
            if !host.links.is_empty() {
                let places = places(host);
                for link in &host.links {
                    let (a, b) = (places.get(link.between.0.as_str()), places.get(link.between.1.as_str()));
                    pairs.extend(a.zip(b).map(|(a, b)| (first + a, first + b, link.lanes)));
                }
            }
            first += host.devices.len();
        }
        Ways::new(devices, pairs.into_iter())
    }
}

fn is_called(device: &Device, called: &str) -> bool {
    device.uuid.as_deref() == Some(called) || device.address == called
}

/// Where each device of a host is, by UUID and by address.
fn places(host: &Host) -> FxHashMap<&str, usize> {
    let mut places = FxHashMap::default();
    for (place, device) in host.devices.iter().enumerate() {
        places.entry(device.address.as_str()).or_insert(place);
    }
    for (place, device) in host.devices.iter().enumerate() {
        if let Some(uuid) = &device.uuid {
            places.insert(uuid.as_str(), place);
        }
    }
    places
}

fn check(host: &Host, uuids: &mut FxHashSet<String>) -> Result<()> {
    let name = &host.name;
    let mut addresses = FxHashSet::default();
    for device in &host.devices {
        if device.resource.is_empty() || device.address.is_empty() {
            return Err(wrong(format!("{name:?} has a device without a resource or an address")));
        }
        if !addresses.insert((&device.resource, &device.address)) {
            let Device { resource, address, .. } = device;
            return Err(wrong(format!("{name:?} has two {resource} devices with the address {address:?}")));
        }
        if let Some(uuid) = device.uuid.as_ref().filter(|&uuid| !uuids.insert(uuid.clone())) {
            return Err(wrong(format!("there are two devices with the UUID {uuid:?}")));
        }
    }
    let mut cpus = FxHashSet::default();
    if let Some(twice) = host.nodes.iter().flat_map(|node| &node.cpus).find(|&&cpu| !cpus.insert(cpu)) {
        return Err(wrong(format!("{name:?} has CPU {twice} twice")));
    }
    if let Some(limit) = host.cpu_limit.filter(|limit| !limit.is_finite() || *limit < 0.0) {
        return Err(wrong(format!("{name:?} has a limit of {limit} CPUs")));
    }
    let places = places(host);
    let ends = host.links.iter().flat_map(|link| [&link.between.0, &link.between.1]);
    match ends.into_iter().find(|end| !places.contains_key(end.as_str())) {
        Some(end) => Err(wrong(format!("{name:?} has a link to {end:?}, which is none of its devices"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Node;

    #[test]
    fn the_order_is_that_of_the_hardware() {
        let gpu = |address: &str, pci: &str| Device::new("gpu", address).with_pci(pci);
        let addresses = |hosts: Vec<Host>| -> Vec<String> {
            Inventory::of(hosts).unwrap().devices().map(|device| device.address.clone()).collect()
        };
        let one = Host::new("a").with_devices([gpu("0", "0000:9a:00.0"), gpu("1", "0000:17:00.0")]);
        assert_eq!(addresses(vec![one]), ["1", "0"]);
        let plain = ["10", "9", "0"].map(|address| Device::new("gpu", address));
        let hosts =
            vec![Host::new("b").with_devices(plain), Host::new("a").with_devices([Device::new("gpu", "x")])];
        assert_eq!(addresses(hosts), ["x", "0", "9", "10"]);
    }

    #[test]
    fn descriptions_that_contradict_themselves_are_refused() {
        let gpu = |address: &str| Device::new("gpu", address);
        let refused = |hosts: Vec<Host>, why: &str| {
            let error = Inventory::of(hosts).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.message().contains(why), "{error}");
        };
        refused(vec![Host::new("a"), Host::new("a")], "two hosts");
        refused(vec![Host::new("a").with_devices([gpu("0"), gpu("0")])], "the address \"0\"");
        let same = [gpu("0").with_uuid("u"), gpu("1").with_uuid("u")];
        refused(vec![Host::new("a").with_devices(same)], "the UUID \"u\"");
        refused(vec![Host::new("a").with_devices([gpu("")])], "without");
        refused(vec![Host::new("a").with_nodes([Node::new(0, [1]), Node::new(1, [1])])], "CPU 1 twice");
        refused(vec![Host::new("a").with_cpu_limit(f64::NAN)], "NaN");
        refused(vec![Host::new("a").with_devices([gpu("0")]).with_link("0", "1", 4)], "\"1\"");
        let unknown = serde_json::from_str::<Inventory>(r#"{"hosts": [], "gpus": 3}"#);
        assert!(unknown.unwrap_err().to_string().contains("gpus"));
    }

    #[test]
    fn a_description_is_what_it_was_after_a_round_trip() {
        let host = Host::new("a").with_nodes([Node::new(0, 0..4)]).with_memory(1 << 40).with_cpu_limit(3.5);
        let devices = [Device::new("gpu", "0").with_uuid("GPU-x").with_fabric("f"), Device::new("gpu", "1")];
        let inventory = Inventory::of([host.with_devices(devices).with_link("0", "1", 4)]).unwrap();
        let text = serde_json::to_string(&inventory).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&text).unwrap(), inventory);
        assert_eq!(inventory.path("GPU-x", "1"), Some(Path::NvLink(4)));
        assert_eq!(inventory.path("GPU-x", "2"), None);
    }
}
