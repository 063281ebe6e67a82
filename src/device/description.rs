//! One device.

use serde::{Deserialize, Serialize};

/// The resource whose devices `CUDA_VISIBLE_DEVICES` is about.
pub(super) const GPU: &str = "gpu";

fn gpu() -> String {
    GPU.to_owned()
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One device, by what is known of it. Plain data.
///
/// A GPU of which a MIG slice is made is no device itself: its slices are, and have it as their [`parent`](Device::parent).
///
/// ```
/// use ringfold::device::Device;
/// let device = Device::new("gpu", "0").with_uuid("GPU-8932f937").with_memory(80 << 30).with_numa(1);
/// assert_eq!(device.key(), "GPU-8932f937");
/// assert_eq!(Device::new("fpga", "f1").on_host("a").key(), "a fpga f1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Device {
    /// What it is, in the word that tasks ask for it by: `gpu`, unless something else is said.
    #[serde(default = "gpu")]
    pub resource: String,
    /// How this process calls it, in Spark's word: of a GPU the index among those that this process sees.
    pub address: String,
    /// What it is called everywhere, in every container: `GPU-…`, or `MIG-…` for a slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who makes it: `nvidia`, `amd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Its own memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its PCI address, as `0000:17:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// The NUMA node whose memory and CPUs are nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<usize>,
    /// The UUID of the GPU that a MIG slice is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The fabric (NVSwitches, XGMI) by which it reaches all devices of its host that are on the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// The PCIe switch that it is behind, which others of its host may share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// The entry of a list of visible devices by which it was found, or by which the driver itself counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The host that it is in. An [`Inventory`](super::Inventory) says this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Whether another group holds it, so that it is not to be had.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
}

impl Device {
    /// A device of which nothing else is known.
    pub fn new(resource: impl Into<String>, address: impl Into<String>) -> Device {
        Device {
            resource: resource.into(),
            address: address.into(),
            uuid: None,
            name: None,
            vendor: None,
            memory: None,
            pci: None,
            numa: None,
            parent: None,
            fabric: None,
            switch: None,
            entry: None,
            host: String::new(),
            held: false,
        }
    }

    /// Says what it is called everywhere.
    pub fn with_uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// Says what product it is.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says who makes it.
    pub fn with_vendor(mut self, vendor: impl Into<String>) -> Self {
        self.vendor = Some(vendor.into());
        self
    }

    /// Says how many bytes of memory it has.
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Says its PCI address.
    pub fn with_pci(mut self, address: impl Into<String>) -> Self {
        self.pci = Some(address.into());
        self
    }

    /// Says which NUMA node is nearest.
    pub fn with_numa(mut self, node: usize) -> Self {
        self.numa = Some(node);
        self
    }

    /// Says which GPU it is a slice of, by UUID.
    pub fn with_parent(mut self, uuid: impl Into<String>) -> Self {
        self.parent = Some(uuid.into());
        self
    }

    /// Says which fabric it is on.
    pub fn with_fabric(mut self, fabric: impl Into<String>) -> Self {
        self.fabric = Some(fabric.into());
        self
    }

    /// Says which PCIe switch it is behind.
    pub fn with_switch(mut self, switch: impl Into<String>) -> Self {
        self.switch = Some(switch.into());
        self
    }

    /// Says by which entry of a list of visible devices it is found.
    pub fn with_entry(mut self, entry: impl Into<String>) -> Self {
        self.entry = Some(entry.into());
        self
    }

    /// Says which host it is in.
    pub fn on_host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Says whether another group holds it.
    pub fn with_held(mut self, held: bool) -> Self {
        self.held = held;
        self
    }

    /// What tells it apart from all others: its UUID; where it has none, host, resource, and how the driver calls it.
    pub fn key(&self) -> String {
        match &self.uuid {
            Some(uuid) => uuid.clone(),
            None => {
                let Device { host, resource, .. } = self;
                format!("{host} {resource} {}", self.listed())
            }
        }
    }

    /// What a list of visible devices without UUIDs calls it.
    pub(super) fn listed(&self) -> &str {
        self.entry.as_deref().unwrap_or(&self.address)
    }

    /// How messages call it: by UUID, else by address.
    pub(super) fn called(&self) -> &str {
        self.uuid.as_deref().unwrap_or(&self.address)
    }

    /// Whether it is a slice of a GPU. Slices have no links of their own.
    pub fn is_slice(&self) -> bool {
        self.parent.is_some()
    }

    /// The order of an inventory, which is the same in every container: by PCI address, else by UUID, else as
    /// this process calls it.
    pub(super) fn order(&self) -> impl Ord + use<> {
        let natural = (self.address.len(), self.address.clone());
        let pci = self.pci.as_ref().map(|pci| pci.to_ascii_lowercase());
        let resource = self.resource.clone();
        (resource, pci.is_none(), pci, self.uuid.is_none(), self.uuid.clone(), natural)
    }
}
