//! One host: its CPUs, NUMA nodes and memory, with the devices that are in it.

use super::cpulist;
use super::description::Device;
use super::links::Link;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Node {
    /// Its number.
    pub id: usize,
    /// Its CPUs; in a description a list such as `0-7,16-23`.
    #[serde(with = "cpulist")]
    pub cpus: Vec<usize>,
}

impl Node {
    /// The node with this number and these CPUs.
    pub fn new(id: usize, cpus: impl IntoIterator<Item = usize>) -> Node {
        Node { id, cpus: cpus.into_iter().collect() }
    }
}

/// A host by what can be had of it: plain data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Host {
    /// What tells it apart from others.
    pub name: String,
    /// Its NUMA nodes with the CPUs that can be had; none where nothing is said of CPUs, which then are no limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// How much of the CPUs may be used at a time, where that is less than all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// The memory that can be had, in bytes; no limit where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Pairs of its devices that are joined by links of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

impl Host {
    /// A host of which nothing else is known.
    pub fn new(name: impl Into<String>) -> Host {
        Host { name: name.into(), ..Host::default() }
    }

    /// This host, with the CPUs that this process may use (by its affinity and its control groups), their NUMA nodes, and the
    /// memory that can be had. Devices are not looked for.
    pub fn here() -> Host {
        let name = Host::own_name();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let nodes = nodes(Path::new("/sys/devices/system/node"), allowed(&status));
        let cpus: usize = nodes.iter().map(|node| node.cpus.len()).sum();
        // This one knows of quotas, and rounds them down.
        let quota = std::thread::available_parallelism().map_or(cpus, usize::from);
        let cpu_limit = (quota < cpus).then_some(quota as f64);
        Host { name, nodes, cpu_limit, memory: crate::memory::available(), ..Host::default() }
    }

    /// What this host is called.
    pub(super) fn own_name() -> String {
        nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Sets the NUMA nodes.
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = Node>) -> Self {
        self.nodes = nodes.into_iter().collect();
        self
    }

    /// Sets how much of the CPUs may be used at a time.
    pub fn with_cpu_limit(mut self, cpus: f64) -> Self {
        self.cpu_limit = Some(cpus);
        self
    }

    /// Sets the memory that can be had, in bytes.
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Adds devices.
    pub fn with_devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.devices.extend(devices);
        self
    }

    /// Adds links between two devices, by UUID or by address.
    pub fn with_link(mut self, one: impl Into<String>, other: impl Into<String>, lanes: u32) -> Self {
        self.links.push(Link { between: (one.into(), other.into()), lanes });
        self
    }

    /// All CPUs that can be had, in order.
    pub fn cpus(&self) -> Vec<usize> {
        let mut cpus: Vec<usize> = self.nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus
    }

    /// How much of CPUs can be had; `None` where nothing is said of them.
    pub fn cpu_capacity(&self) -> Option<f64> {
        let all = (!self.nodes.is_empty()).then(|| self.cpus().len() as f64);
        match (all, self.cpu_limit) {
            (Some(all), Some(limit)) => Some(all.min(limit)),
            (all, limit) => all.or(limit),
        }
    }
}

/// The CPUs that a process may use, as its status tells.
fn allowed(status: &str) -> Vec<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.and_then(cpulist::parse).unwrap_or_else(|| {
        // Nothing better is known than their number.
        (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
    })
}

/// The NUMA nodes that a directory of sysfs tells of, with those of the allowed CPUs that they have. CPUs of no node
/// make one node, number 0: so it is where the kernel knows of none.
fn nodes(directory: &Path, allowed: Vec<usize>) -> Vec<Node> {
    let mut rest = allowed;
    let mut nodes = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok()) else {
            continue;
        };
        let text = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        let mut cpus = cpulist::parse(&text).unwrap_or_default();
        cpus.retain(|cpu| rest.binary_search(cpu).is_ok());
        rest.retain(|cpu| cpus.binary_search(cpu).is_err());
        if !cpus.is_empty() {
            nodes.push(Node { id, cpus });
        }
    }
    nodes.sort_by_key(|node| node.id);
    if !rest.is_empty() {
        match nodes.first_mut().filter(|node| node.id == 0) {
            Some(node) => {
                node.cpus.append(&mut rest);
                node.cpus.sort_unstable();
            }
            None => nodes.insert(0, Node { id: 0, cpus: rest }),
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_cpus_and_memory() {
        let host = Host::here();
        assert!(!host.cpus().is_empty() && host.cpu_capacity().unwrap() >= 1.0);
        assert!(host.memory.unwrap() > 1 << 20);
        assert_eq!(host.cpus(), allowed(&fs::read_to_string("/proc/self/status").unwrap()));
    }

    #[test]
    fn nodes_have_what_is_allowed_of_their_cpus() {
        let root = std::env::temp_dir().join(format!("ringfold-nodes-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join("cpulist"), text).unwrap();
        };
        write("node0", "0-3\n");
        write("node1", "4-7\n");
        write("node2", "\n");
        write("has_cpu", "0-1\n");
        let allowed = allowed("Name:\tx\nCpus_allowed_list:\t1-5,9\n");
        assert_eq!(nodes(&root, allowed), [Node::new(0, [1, 2, 3, 9]), Node::new(1, [4, 5])]);
        assert_eq!(nodes(&root, vec![5]), [Node::new(1, [5])]);
        assert_eq!(nodes(&root.join("none"), vec![2, 3]), [Node::new(0, [2, 3])]);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_limit_below_the_cpus_counts() {
        let host = Host::new("a").with_nodes([Node::new(0, 0..4), Node::new(1, 4..8)]);
        assert_eq!(host.cpu_capacity(), Some(8.0));
        assert_eq!(host.clone().with_cpu_limit(2.5).cpu_capacity(), Some(2.5));
        assert_eq!(host.with_cpu_limit(9.0).cpu_capacity(), Some(8.0));
        assert_eq!(Host::new("b").cpu_capacity(), None);
    }
}
