//! Arrays on devices, as the C Device Data interface describes them. Those of the CPU can be read, those of CUDA's devices be
//! described.

use super::abi::{ArrowDeviceArray, ArrowSchema};
use super::lease::Lent;
use super::place::Place;
use super::{array, lend, read_schema};
use crate::arrow::column::number;
use crate::error::{Error, Result};
use crate::tensor::{Device, TensorRef};
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
/// memory of the CPU, pinned by CUDA or not, or where there is an event to wait for.
///
/// # Safety
/// As [`lend`](super::lend).
pub unsafe fn lend_device(array: *mut ArrowDeviceArray, schema: *const ArrowSchema) -> Result<Lent> {
    // SAFETY: the caller's promise.
    let (device, id) = unsafe { place_of(array) }?;
    if device != DeviceType::CPU && device != DeviceType::CUDA_HOST {
        return Err(Error::unsupported(format!("the array lies on {device} (device {id})"))
            .remedy("copy it to the memory of the CPU, and pass that as device type 1"));
    }
    // SAFETY: the array is the first part of the structure; the rest is the caller's promise.
    unsafe { lend(&raw mut (*array).array, schema) }
}

/// Describes an array of numbers without nulls by the C Device Data interface, wherever it is: as a tensor to be read, on
/// [`Device::Cuda`] where the array is there. Nothing is taken over, and nothing on the device is looked at.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where array or schema contradict the specification;
/// [`Unsupported`](crate::ErrorKind::Unsupported) for types that are no numbers, arrays that have nulls or do not tell, devices that
/// are neither the CPU's nor CUDA's, or where there is an event to wait for.
///
/// # Safety
/// `array` and `schema` are NULL or point to structures as the specification demands. As long as `'a` lives, the memory that the
/// array describes is there, initialised, and written by nobody.
pub unsafe fn view_device<'a>(
    array: *const ArrowDeviceArray,
    schema: *const ArrowSchema,
) -> Result<TensorRef<'a>> {
    // SAFETY: the caller's promise.
    let (device, id) = unsafe { place_of(array) }?;
    let place = match (device, u32::try_from(id)) {
        (DeviceType::CPU | DeviceType::CUDA_HOST, _) => Device::Host,
        (DeviceType::CUDA, Ok(ordinal)) => Device::Cuda(ordinal),
        (DeviceType::CUDA, Err(_)) => {
            return Err(Error::invalid(format!("the array lies on CUDA device {id}")));
        }
        _ => {
            return Err(Error::unsupported(format!("the array lies on {device} (device {id})"))
                .remedy("copy it to the memory of the CPU or of a CUDA device"));
        }
    };
    let root = Place::root("array");
    // SAFETY: `place_of` has seen that it is there; the rest is the caller's promise.
    let (field, inner) = unsafe {
        array::look(&raw const (*array).array, &root)?;
        (read_schema(schema)?, &(*array).array)
    };
    let dtype = number(field.data_type()).ok_or_else(|| {
        root.unsupported(format!("{} is no type of numbers", field.data_type()))
            .remedy("pass one array for each column of numbers")
    })?;
    if inner.n_buffers != 2 || inner.buffers.is_null() || !inner.buffers.is_aligned() {
        return Err(root.invalid(format!(
            "{} buffers of an array of {}",
            inner.n_buffers,
            field.data_type()
        )));
    }
    // SAFETY: there are two, says the structure, and the caller that it is right.
    let (validity, values) = unsafe { (*inner.buffers, *inner.buffers.add(1)) };
    if inner.null_count != 0 && !validity.is_null() {
        return Err(root
            .unsupported("it has nulls, or does not tell")
            .remedy("fill them, and say that there are none"));
    }
    let count = usize::try_from(inner.length).ok();
    let offset = usize::try_from(inner.offset).ok().and_then(|offset| offset.checked_mul(dtype.size()));
    let (Some(count), Some(offset)) = (count, offset) else {
        return Err(root.invalid(format!("length {} and offset {}", inner.length, inner.offset)));
    };
    if values.is_null() && count > 0 {
        return Err(root.invalid(format!("NULL in the place of {count} values")));
    }
    let first = values.cast::<u8>().wrapping_add(offset);
    // SAFETY: the caller's promise.
    unsafe { TensorRef::from_raw(first, dtype, &[count], None, place) }
}

/// Where an array is that nobody has to wait for: its type of device, and which one.
///
/// # Safety
/// It is NULL or a structure.
unsafe fn place_of(array: *const ArrowDeviceArray) -> Result<(DeviceType, i64)> {
    if array.is_null() || !array.is_aligned() {
        return Err(Error::invalid(format!("the device array is no structure's address: {array:p}"))
            .remedy("pass the address of a struct ArrowDeviceArray"));
    }
    // SAFETY: it is there and aligned; the rest is the caller's promise.
    let (device, id, event) = unsafe { ((*array).device_type, (*array).device_id, (*array).sync_event) };
    if !event.is_null() {
        return Err(Error::unsupported("the array has an event to wait for (sync_event is not NULL)")
            .remedy("wait for it, and pass NULL"));
    }
    Ok((DeviceType(device), id))
}
