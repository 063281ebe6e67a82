//! Arrays on devices, as the C Device Data interface describes them. Those of the CPU can be read.

use super::abi::{ArrowDeviceArray, ArrowSchema};
use super::lease::Lent;
use super::lend;
use crate::error::{Error, Result};
use std::fmt;

/// A type of device, by its number in the [C Device Data
/// interface](https://arrow.apache.org/docs/format/CDeviceDataInterface.html).
///
/// ```
/// use ringfold::arrow::c_data::DeviceType;
/// assert_eq!(DeviceType::CPU.to_string(), "CPU");
/// assert_eq!(DeviceType(2).to_string(), "CUDA");
/// assert_eq!(DeviceType(99).to_string(), "device type 99");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceType(pub i32);

impl DeviceType {
    /// Memory of the CPU.
    pub const CPU: Self = DeviceType(1);
    /// Memory of a GPU of NVIDIA.
    pub const CUDA: Self = DeviceType(2);
    /// Memory of the CPU that CUDA has pinned.
    pub const CUDA_HOST: Self = DeviceType(3);
    /// Memory that CUDA moves between CPU and GPU.
    pub const CUDA_MANAGED: Self = DeviceType(13);
    /// Memory of a GPU of AMD.
    pub const ROCM: Self = DeviceType(10);

    /// The specification's name, if it has one for this number.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "CPU",
            2 => "CUDA",
            3 => "CUDA_HOST",
            4 => "OPENCL",
            7 => "VULKAN",
            8 => "METAL",
            9 => "VPI",
            10 => "ROCM",
            11 => "ROCM_HOST",
            12 => "EXT_DEV",
            13 => "CUDA_MANAGED",
            14 => "ONEAPI",
            15 => "WEBGPU",
            16 => "HEXAGON",
            _ => return None,
        })
    }
}

impl fmt::Display for DeviceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "device type {}", self.0),
        }
    }
}

/// Lends an array by the C Device Data interface: as [`lend`](super::lend), of the array in it.
///
/// # Errors
/// As [`lend`](super::lend); [`Unsupported`](crate::ErrorKind::Unsupported), with the device's name, where the buffers are not in the
/// memory of the CPU, or where there is an event to wait for.
///
/// # Safety
/// As [`lend`](super::lend).
pub unsafe fn lend_device(array: *mut ArrowDeviceArray, schema: *const ArrowSchema) -> Result<Lent> {
    if array.is_null() || !array.is_aligned() {
        return Err(Error::invalid(format!("the device array is no structure's address: {array:p}"))
            .remedy("pass the address of a struct ArrowDeviceArray"));
    }
    // SAFETY: it is there and aligned; the rest is the caller's promise.
    let (device, id, event) = unsafe { ((*array).device_type, (*array).device_id, (*array).sync_event) };
    let device = DeviceType(device);
    if device != DeviceType::CPU {
        return Err(Error::unsupported(format!("the array lies on {device} (device {id})"))
            .remedy("copy it to the memory of the CPU, and pass that as device type 1"));
    }
    if !event.is_null() {
        return Err(Error::unsupported(
            "the array on the CPU has an event to wait for (sync_event is not NULL)",
        )
        .remedy("wait for it, and pass NULL"));
    }
    // SAFETY: the array is the first part of the structure; the rest is the caller's promise.
    unsafe { lend(&raw mut (*array).array, schema) }
}
