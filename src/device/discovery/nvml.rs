//! NVIDIA's devices, by the driver's own library.

use super::Found;

#[cfg(not(feature = "nvml"))]
pub(super) fn look() -> Result<Found, String> {
    Err("NVML: left out of this build (the feature nvml)".to_owned())
}

#[cfg(feature = "nvml")]
pub(super) fn look() -> Result<Found, String> {
    asked::look(nvml_wrapper::Nvml::init())
}

#[cfg(feature = "nvml")]
mod asked {
    use super::super::super::description::{Device, GPU};
    use super::Found;
    use nvml_wrapper::enum_wrappers::device::TopologyLevel;
    use nvml_wrapper::error::NvmlError;
    use nvml_wrapper::{Device as Handle, Nvml};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// No GPU has more links.
    const LINKS: u32 = 18;

    /// All devices; or why there are none. What the driver does not tell of a device is left out.
    pub(super) fn look(nvml: Result<Nvml, NvmlError>) -> Result<Found, String> {
        let nvml = nvml.map_err(|error| match error {
            NvmlError::LibloadingError(error) => format!("NVML: there is no NVIDIA driver ({error})"),
            error => format!("NVML: {error}"),
        })?;
        let count = nvml.device_count().map_err(|error| format!("NVML: {error}"))?;
        let handles: Vec<Handle> = (0..count).filter_map(|index| nvml.device_by_index(index).ok()).collect();
        if handles.is_empty() {
            return Err("NVML: the NVIDIA driver is there, and no device".to_owned());
        }
        let switches = switches(&nvml, &handles);
        let mut gpus: Vec<Device> =
            handles.iter().enumerate().map(|(index, handle)| gpu(index, handle)).collect();
        for (gpu, switch) in gpus.iter_mut().zip(switches) {
            gpu.switch = switch.map(|first| format!("pcie-{first}"));
        }
        let links = links(&handles, &mut gpus);
        let mut devices = Vec::new();
        for (gpu, handle) in gpus.into_iter().zip(&handles) {
            match slices(&gpu, handle) {
                slices if slices.is_empty() => devices.push(gpu),
                slices => devices.extend(slices),
            }
        }
        let driver = nvml.sys_driver_version().unwrap_or_else(|_| "unknown".to_owned());
        let how = format!("NVML: {} by driver {driver}", devices.len());
        let is_there = |uuid: &String| devices.iter().any(|device| device.uuid.as_ref() == Some(uuid));
        let links = links.into_iter().filter(|(one, other, _)| is_there(one) && is_there(other)).collect();
        Ok(Found { devices, links, how })
    }

    fn gpu(index: usize, handle: &Handle) -> Device {
        let mut device = Device::new(GPU, index.to_string()).with_entry(index.to_string());
        device.vendor = Some("nvidia".to_owned());
        device.uuid = handle.uuid().ok();
        device.name = handle.name().ok();
        device.memory = handle.memory_info().ok().map(|memory| memory.total);
        device.pci = handle.pci_info().ok().map(|pci| address(&pci.bus_id));
        // The node of its memory is another thing (nvmlDeviceGetNumaNodeId): where the CPUs are near, the PCI bus says.
        device.numa = device.pci.as_deref().and_then(|pci| super::super::numa_of(Path::new("/sys"), pci));
        device
    }

    /// A PCI address as the kernel writes it: NVML's has a longer domain, and capitals.
    fn address(bus_id: &str) -> String {
        let lower = bus_id.to_ascii_lowercase();
        match lower.split_once(':') {
            Some((domain, rest)) if domain.len() > 4 && domain.starts_with("0000") => {
                format!("{}:{rest}", &domain[domain.len() - 4..])
            }
            _ => lower,
        }
    }

    /// Of each GPU the first one that is behind the same PCIe switch, where there is another.
    fn switches(nvml: &Nvml, handles: &[Handle]) -> Vec<Option<usize>> {
        let near = |one: &Handle, other: &Handle| {
            let level = nvml.topology_common_ancestor(one, other);
            matches!(level, Ok(TopologyLevel::Internal | TopologyLevel::Single | TopologyLevel::Multiple))
        };
        let mut first: Vec<Option<usize>> = vec![None; handles.len()];
        for one in 0..handles.len() {
            for other in one + 1..handles.len() {
                if near(&handles[one], &handles[other]) {
                    let group = first[one].unwrap_or(one);
                    first[one] = Some(group);
                    first[other].get_or_insert(group);
                }
            }
        }
        first
    }

    /// The pairs that are joined by links, by UUID. Links that lead elsewhere than to a GPU lead to switches, which join all.
    fn links(handles: &[Handle], gpus: &mut [Device]) -> Vec<(String, String, u32)> {
        let mut pairs: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for (one, handle) in handles.iter().enumerate() {
            for link in (0..LINKS).map(|link| handle.link_wrapper_for(link)) {
                if !matches!(link.is_active(), Ok(true)) {
                    continue;
                }
                let Ok(remote) = link.remote_pci_info() else { continue };
                let remote = address(&remote.bus_id);
                match gpus.iter().position(|gpu| gpu.pci.as_ref() == Some(&remote)) {
                    // Both ends tell of it.
                    Some(other) if one < other => *pairs.entry((one, other)).or_insert(0) += 1,
                    Some(_) => {}
                    None => gpus[one].fabric = Some("nvswitch".to_owned()),
                }
            }
        }
        let uuid = |gpu: usize| gpus[gpu].uuid.clone();
        pairs
            .into_iter()
            .filter_map(|((one, other), lanes)| Some((uuid(one)?, uuid(other)?, lanes)))
            .collect()
    }

    /// The slices of a GPU that is cut. Its own UUID says which GPU they are of.
    fn slices(gpu: &Device, handle: &Handle) -> Vec<Device> {
        // Not every driver tells whether a GPU is cut; one that is not has no slices.
        let most = handle.mig_device_count().unwrap_or(0);
        let each = (0..most).filter_map(|index| Some((index, handle.mig_device_by_index(index).ok()?)));
        let slice = |(index, slice): (u32, Handle)| {
            let mut device = Device::new(GPU, format!("{}:{index}", gpu.address)).with_vendor("nvidia");
            device.uuid = Some(slice.uuid().ok()?);
            device.name = slice.name().ok().or_else(|| gpu.name.clone());
            device.memory = slice.memory_info().ok().map(|memory| memory.total);
            device.parent.clone_from(&gpu.uuid);
            (device.pci, device.numa, device.switch) = (gpu.pci.clone(), gpu.numa, gpu.switch.clone());
            Some(device)
        };
        each.filter_map(slice).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn addresses_are_the_kernels() {
            assert_eq!(address("00000000:3B:00.0"), "0000:3b:00.0");
            assert_eq!(address("0001:3B:00.0"), "0001:3b:00.0");
            assert_eq!(address("00010000:3B:00.0"), "00010000:3b:00.0");
        }

        #[test]
        fn without_a_library_there_is_a_reason() {
            let why = look(Nvml::builder().lib_path("/no/such/library.so".as_ref()).init()).unwrap_err();
            assert!(why.contains("no NVIDIA driver") && why.contains("/no/such/library.so"), "{why}");
        }
    }
}
