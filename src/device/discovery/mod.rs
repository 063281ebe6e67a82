//! Where devices are looked for.

mod amd;
mod nvml;
mod script;

use super::description::{Device, GPU};
use super::host::Host;
use super::inventory::Inventory;
use super::visible::Entry;
use crate::config::{Config, environment};
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Where devices are looked for: plain data. Written as text (see [`parse`](Discovery::parse)) it is the key `devices` of a
/// configuration.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Discovery {
    /// By NVIDIA's library, else in AMD's part of sysfs; of these, where `CUDA_VISIBLE_DEVICES` is set, what it makes visible.
    #[default]
    Auto,
    /// By NVIDIA's library (NVML), which is loaded where it is there: all devices, visible or not. Needs the feature `nvml`.
    Nvml,
    /// In AMD's part of sysfs: all devices.
    Amd,
    /// By a discovery script of Spark's kind, which says of the resource `gpu` what there is:
    /// `{"name": "gpu", "addresses": ["0", "1"]}`. It has five seconds, by which a group begins later or is refused later.
    Script(PathBuf),
    /// By such scripts for several resources: the name of each, and the script. They run one after another.
    Scripts(Vec<(String, PathBuf)>),
    /// As it is given. A single host of which no CPUs are told gets those of this one; its GPUs of which addresses alone are told are
    /// those at these places of `CUDA_VISIBLE_DEVICES`, where that is set.
    Given(Inventory),
    /// What a text says in the manner of `CUDA_VISIBLE_DEVICES`, whether there is a driver or not.
    Visible(String),
    /// Nowhere: there are none.
    None,
}

impl Discovery {
    /// What a configuration says, by the key `devices`; [`Auto`](Discovery::Auto) where it says nothing.
    ///
    /// # Errors
    /// As [`parse`](Discovery::parse).
    pub fn of(config: &Config) -> Result<Discovery> {
        config.devices.as_deref().map_or(Ok(Discovery::Auto), Discovery::parse)
    }

    /// Reads what may be written: `auto`, `none`, `nvml`, `amd`, `script:/path`, `file:/path` of a described machine, or a list in
    /// the manner of `CUDA_VISIBLE_DEVICES`, such as `0,1` or `GPU-8932f937`. Reads the file, and runs no script.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) for anything else, and for a file that does not describe a machine.
    ///
    /// ```
    /// use ringfold::device::Discovery;
    /// assert_eq!(Discovery::parse("script:/opt/gpus.sh").unwrap(), Discovery::Script("/opt/gpus.sh".into()));
    /// assert_eq!(Discovery::parse("0,1").unwrap(), Discovery::Visible("0,1".into()));
    /// for wrong in ["all", "0-3", "0,0", "0,", "0,GPU-8932f937"] {
    ///     assert!(Discovery::parse(wrong).is_err());
    /// }
    /// ```
    pub fn parse(text: &str) -> Result<Discovery> {
        let text = text.trim();
        Ok(match text {
            "auto" => Discovery::Auto,
            "none" => Discovery::None,
            "nvml" => Discovery::Nvml,
            "amd" => Discovery::Amd,
            _ => match text.split_once(':') {
                Some(("script", path)) if !path.is_empty() => Discovery::Script(path.into()),
                Some(("file", path)) if !path.is_empty() => {
                    Discovery::Given(Inventory::read(Path::new(path))?)
                }
                // CUDA takes a list as far as it understands it; who writes one here wants all of it.
                _ if is_whole(text) => Discovery::Visible(text.to_owned()),
                _ => {
                    return Err(Error::new(ErrorKind::Configuration, format!("devices are {text:?}"))
                        .remedy(
                            "give auto, none, nvml, amd, script:/path, file:/path, or a list of indices or UUIDs such as \
                             0,1: each once, and no ranges",
                        ));
                }
            },
        })
    }
}

/// Whether a list of visible devices is one in all its parts.
fn is_whole(text: &str) -> bool {
    let entries = Entry::list(text);
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    parts.len() == entries.len() && entries.iter().zip(parts).all(|(entry, part)| entry.to_string() == part)
}

/// The NUMA node that is nearest to what is at a PCI address.
fn numa_of(root: &Path, pci: &str) -> Option<usize> {
    let path = root.join("bus/pci/devices").join(pci).join("numa_node");
    // -1 where the firmware does not say.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Devices of one host, the links between them, and how they were found.
#[derive(Debug, Default)]
struct Found {
    devices: Vec<Device>,
    links: Vec<(String, String, u32)>,
    how: String,
}

impl Inventory {
    /// Looks for devices. What is found always has this host's CPUs (those that this process may use), its NUMA nodes, and the
    /// memory that can be had. Blocks while scripts run, five seconds each at most.
    ///
    /// That there are no devices is no error: [`found`](Inventory::found) says why. Under [`Auto`](Discovery::Auto) so is a driver that does
    /// not work.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where a script cannot be run, fails, or says something that Spark would not take
    /// either; [`Deadline`](ErrorKind::Deadline) where it does not end; [`Unsupported`](ErrorKind::Unsupported) where NVML or AMD is asked
    /// for by name and cannot be asked.
    ///
    /// ```
    /// use ringfold::device::{Discovery, Inventory};
    /// let here = Inventory::discover(&Discovery::Visible("GPU-8932f937,GPU-1c1d4f0e".into()))?;
    /// assert_eq!(here.devices().count(), 2);
    /// assert!(!here.hosts()[0].cpus().is_empty());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn discover(discovery: &Discovery) -> Result<Inventory> {
        Inventory::discover_for(discovery, environment::visible_devices().as_deref())
    }

    /// The same for processes that have this as their `CUDA_VISIBLE_DEVICES`.
    pub(super) fn discover_for(discovery: &Discovery, visible: Option<&str>) -> Result<Inventory> {
        let host = Host::here();
        let found = match discovery {
            Discovery::Auto => return auto(host, visible),
            Discovery::Nvml => nvml::look().map_err(|why| asked_for("NVML", &why))?,
            Discovery::Amd => amd::look(Path::new("/sys")).map_err(|why| asked_for("AMD", &why))?,
            Discovery::Script(path) => scripts(&[(GPU.to_owned(), path.clone())], visible)?,
            Discovery::Scripts(list) => scripts(list, visible)?,
            Discovery::Visible(text) => {
                let list = Entry::list(text);
                let mut found = nvml::look().map_or_else(|_| invented(&list), |all| seen(all, &list));
                found.how = format!("visible devices {text:?}: {}", found.how);
                found
            }
            Discovery::Given(inventory) => return Ok(inventory.clone().at(host, visible)),
            Discovery::None => Found { how: "devices are not looked for".to_owned(), ..Found::default() },
        };
        with(host, found, Vec::new())
    }

    /// Reads a described machine from a file in JSON.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where the file cannot be read, is no JSON, or contradicts itself.
    pub fn read(path: &Path) -> Result<Inventory> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Configuration, format!("{}: {error}", path.display()))
                .remedy("give a file that describes a machine in JSON, as examples/data/dgx.json does")
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }

    /// A single host without CPUs is taken to be this one, and what a single host has to be what is visible here.
    fn at(self, here: Host, visible: Option<&str>) -> Inventory {
        let found = self.found().to_vec();
        let mut hosts = self.hosts().to_vec();
        if let [host] = &mut hosts[..] {
            if let Some(text) = visible {
                name_by(&mut host.devices, &Entry::list(text));
            }
            if host.nodes.is_empty() {
                host.nodes = here.nodes;
                host.cpu_limit = host.cpu_limit.or(here.cpu_limit);
                host.memory = host.memory.or(here.memory);
            }
        }
        // It was in order before, and nothing that could be wrong has been added.
        Inventory::of(hosts).map_or(self, |inventory| inventory.told(found))
    }
}

fn asked_for(what: &str, why: &str) -> Error {
    Error::unsupported(format!("devices by {what}: {why}"))
        .remedy("see that the driver works, or look elsewhere for devices")
}

fn with(host: Host, found: Found, mut why: Vec<String>) -> Result<Inventory> {
    why.push(found.how);
    let host = host.with_devices(found.devices);
    let linked =
        found.links.into_iter().fold(host, |host, (one, other, lanes)| host.with_link(one, other, lanes));
    Ok(Inventory::of([linked])?.told(why))
}

fn auto(host: Host, visible: Option<&str>) -> Result<Inventory> {
    let mut why = Vec::new();
    for look in [nvml::look as fn() -> _, || amd::look(Path::new("/sys"))] {
        match look() {
            Ok(mut found) => {
                if let Some(text) = visible {
                    found = seen(found, &Entry::list(text));
                    found.how = format!(
                        "{}, of which CUDA_VISIBLE_DEVICES={text:?} shows {}",
                        found.how,
                        found.devices.len()
                    );
                }
                return with(host, found, why);
            }
            Err(none) => why.push(none),
        }
    }
    Ok(Inventory::of([host])?.told(why))
}

/// The devices that a list shows, whose addresses are then indices into it. It ends, as for CUDA, where it says something that is
/// not there, or not clear.
fn seen(all: Found, list: &[Entry]) -> Found {
    let mut devices: Vec<Device> = Vec::new();
    for entry in list {
        let index = |device: &&Device| match entry {
            Entry::Index(index) => device.address == index.to_string(),
            other => device.uuid.as_ref().is_some_and(|uuid| other.means(uuid)),
        };
        let mut meant = all.devices.iter().filter(index);
        let (Some(device), None) = (meant.next(), meant.next()) else { break };
        let address = devices.len().to_string();
        devices.push(Device { address, entry: Some(entry.to_string()), ..device.clone() });
    }
    let is_there = |uuid: &String| devices.iter().any(|device| device.uuid.as_ref() == Some(uuid));
    let links = all.links.into_iter().filter(|(one, other, _)| is_there(one) && is_there(other));
    let links = links.collect();
    Found { devices, links, how: all.how }
}

/// The devices of a list of which nobody knows more.
fn invented(list: &[Entry]) -> Found {
    let device = |(address, entry): (usize, &Entry)| {
        let device = Device::new(GPU, address.to_string()).with_entry(entry.to_string());
        match entry {
            Entry::Index(_) => device,
            Entry::Gpu(uuid) | Entry::Slice(uuid) => device.with_uuid(uuid),
        }
    };
    let devices = list.iter().enumerate().map(device).collect();
    Found { devices, links: Vec::new(), how: "nothing else is known of them".to_owned() }
}

/// Names those GPUs of which addresses alone are known by the entries of a list into which these are indices: what they are held by
/// is then what every group of the host calls them.
fn name_by(devices: &mut [Device], list: &[Entry]) {
    let unnamed =
        |device: &&mut Device| device.resource == GPU && device.uuid.is_none() && device.entry.is_none();
    for device in devices.iter_mut().filter(unnamed) {
        let at = (0..list.len()).find(|at| device.address == at.to_string());
        let Some(entry) = at.map(|at| &list[at]) else { continue };
        device.entry = Some(entry.to_string());
        if let Entry::Gpu(uuid) | Entry::Slice(uuid) = entry {
            device.uuid = Some(uuid.clone());
        }
    }
}

/// What scripts tell, with what the driver knows of the GPUs among it.
fn scripts(list: &[(String, PathBuf)], visible: Option<&str>) -> Result<Found> {
    let visible = visible.map(Entry::list);
    let mut found = Found::default();
    let mut how = Vec::new();
    for (resource, path) in list {
        let addresses = script::addresses(resource, path)?;
        how.push(format!("{}: {} {resource}", path.display(), addresses.len()));
        let mut devices: Vec<Device> =
            addresses.iter().map(|address| Device::new(resource, address)).collect();
        let known =
            (resource == GPU && !devices.is_empty()).then(nvml::look).and_then(std::result::Result::ok);
        match known.and_then(|all| known_by(all, &devices, visible.as_deref())) {
            Some(known) => {
                found.devices.extend(known.devices);
                found.links.extend(known.links);
            }
            None => {
                name_by(&mut devices, visible.as_deref().unwrap_or_default());
                found.devices.extend(devices);
            }
        }
    }
    found.how = how.join("; ");
    Ok(found)
}

/// The same devices as the driver knows them, by index (into the list of visible devices, where there is one) or by UUID; `None` where one
/// is not among them.
fn known_by(all: Found, devices: &[Device], visible: Option<&[Entry]>) -> Option<Found> {
    let all = match visible {
        Some(list) => seen(all, list),
        None => all,
    };
    let known = |device: &Device| {
        let mut same = all
            .devices
            .iter()
            .filter(|known| known.address == device.address || known.uuid.as_ref() == Some(&device.address));
        let known = same.next()?;
        Some(Device { address: device.address.clone(), ..known.clone() })
    };
    let devices: Vec<Device> = devices.iter().map(known).collect::<Option<_>>()?;
    let is_there = |uuid: &String| devices.iter().any(|device| device.uuid.as_ref() == Some(uuid));
    let links =
        all.links.iter().filter(|(one, other, _)| is_there(one) && is_there(other)).cloned().collect();
    Some(Found { devices, links, how: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Found {
        let gpu = |index: usize, uuid: &str| Device::new(GPU, index.to_string()).with_uuid(uuid);
        let devices = vec![
            gpu(0, "GPU-aa1"),
            gpu(1, "GPU-aa2"),
            gpu(2, "GPU-b"),
            Device::new(GPU, "3.0").with_uuid("MIG-c"),
        ];
        Found { devices, links: vec![("GPU-aa1".into(), "GPU-b".into(), 4)], how: String::new() }
    }

    #[test]
    fn a_list_shows_what_it_names_and_ends_where_it_is_wrong() {
        let shown = |text: &str| -> Vec<(String, String)> {
            let found = seen(machine(), &Entry::list(text));
            found.devices.into_iter().map(|device| (device.address, device.uuid.unwrap())).collect()
        };
        let pairs = |uuids: &[&str]| -> Vec<(String, String)> {
            uuids.iter().enumerate().map(|(index, uuid)| (index.to_string(), (*uuid).to_owned())).collect()
        };
        assert_eq!(shown("2,0"), pairs(&["GPU-b", "GPU-aa1"]));
        assert_eq!(shown("2,7,0"), pairs(&["GPU-b"]));
        assert_eq!(shown("GPU-b,GPU-aa,GPU-aa1"), pairs(&["GPU-b"]), "not clear which");
        assert_eq!(shown("GPU-aa2"), pairs(&["GPU-aa2"]));
        assert_eq!(shown("MIG-c"), pairs(&["MIG-c"]));
        assert_eq!(shown("-1"), []);
        assert_eq!(seen(machine(), &Entry::list("0,2")).links.len(), 1);
        assert_eq!(seen(machine(), &Entry::list("0,1")).links.len(), 0);
    }

    #[test]
    fn what_cannot_be_found_out_stays_as_it_was_said() {
        let found = invented(&Entry::list("4,7"));
        assert_eq!(found.devices[1], Device::new(GPU, "1").with_entry("7"));
        let found = invented(&Entry::list("MIG-x"));
        assert_eq!(found.devices[0].uuid.as_deref(), Some("MIG-x"));
        assert!(known_by(machine(), &[Device::new(GPU, "9")], None).is_none());
    }
}
