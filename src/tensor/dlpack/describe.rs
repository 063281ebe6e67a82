//! From a structure to a description that has been checked.

use super::structures::{DLDataType, DLTensor};
use crate::error::{Error, Result};
use crate::tensor::layout::Layout;
use crate::tensor::{DType, Device, TensorMut, TensorRef};
use std::ptr::NonNull;

/// The most extents a tensor may have: as many as any framework gives one.
pub const MOST_EXTENTS: usize = 64;

/// What a structure describes, copied out of it: nothing looks at the structure again.
#[derive(Debug, Clone)]
pub(super) struct Described {
    first: *mut u8,
    layout: Layout,
    is_read_only: bool,
}

impl Described {
    /// Looks at all that can be looked at without touching the elements.
    ///
    /// # Safety
    /// Shape and strides are NULL or have `ndim` numbers.
    pub(super) unsafe fn read(tensor: &DLTensor, is_read_only: bool) -> Result<Self> {
        let extents = match usize::try_from(tensor.ndim) {
            Ok(extents) if extents <= MOST_EXTENTS => extents,
            _ => {
                let text = format!("a DLPack tensor of {} extents", tensor.ndim);
                return Err(Error::invalid(text).remedy(format!("pass one of 0 to {MOST_EXTENTS}")));
            }
        };
        // SAFETY: the caller's promise.
        let (shape, strides) =
            unsafe { (list("shape", tensor.shape, extents)?, list("strides", tensor.strides, extents)?) };
        let shape = shape.ok_or_else(|| {
            Error::invalid(format!("the shape of a DLPack tensor of {extents} extents is NULL"))
        })?;
        let shape: Vec<usize> = shape
            .iter()
            .map(|&extent| {
                usize::try_from(extent)
                    .map_err(|_| Error::invalid(format!("a DLPack tensor has the extent {extent}")))
            })
            .collect::<Result<_>>()?;
        let strides: Option<Vec<isize>> =
            strides.map(|strides| strides.iter().map(|&stride| stride as isize).collect());
        let (dtype, device) = (dtype(tensor.dtype)?, device(tensor)?);
        let layout = Layout::new(dtype, &shape, strides.as_deref(), device)?;
        let first = first(tensor, &layout)?;
        Ok(Described { first, layout, is_read_only })
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// # Safety
    /// As [`TensorRef::from_raw`].
    pub(super) unsafe fn view<'a>(&self) -> TensorRef<'a> {
        // SAFETY: handed on to the caller.
        unsafe { TensorRef::laid(self.first, self.layout.clone()) }
    }

    /// # Errors
    /// As [`Imported::view_mut`](super::Imported::view_mut).
    ///
    /// # Safety
    /// As [`TensorMut::from_raw`], where it is not read-only.
    pub(super) unsafe fn view_mut<'a>(&self) -> Result<TensorMut<'a>> {
        if self.is_read_only {
            return Err(Error::invalid(
                "a DLPack tensor that its producer gave out as read-only is to be written",
            )
            .remedy(
                "ask the producer for a copy (`copy=True` in Python), or pass another tensor as the output",
            ));
        }
        self.layout.check_apart("DLPack tensor")?;
        // SAFETY: handed on to the caller.
        Ok(unsafe { TensorMut::laid(self.first, self.layout.clone()) })
    }
}

/// A list of as many numbers as there are extents; `None` where it is NULL and there are some.
///
/// # Safety
/// It is NULL or has so many numbers, as long as `'a` lives.
unsafe fn list<'a>(what: &str, numbers: *const i64, count: usize) -> Result<Option<&'a [i64]>> {
    match numbers {
        _ if count == 0 => Ok(Some(&[])),
        numbers if numbers.is_null() => Ok(None),
        numbers if !numbers.is_aligned() => Err(Error::invalid(format!(
            "the {what} of a DLPack tensor lie at {numbers:?}, which is no address of numbers"
        ))),
        // SAFETY: the caller's promise, and it is aligned.
        numbers => Ok(Some(unsafe { std::slice::from_raw_parts(numbers, count) })),
    }
}

fn dtype(given: DLDataType) -> Result<DType> {
    let dtype = match (given.code, given.bits) {
        _ if given.lanes != 1 => None,
        (0, 8) => Some(DType::I8),
        (0, 16) => Some(DType::I16),
        (0, 32) => Some(DType::I32),
        (0, 64) => Some(DType::I64),
        (1, 8) => Some(DType::U8),
        (1, 16) => Some(DType::U16),
        (1, 32) => Some(DType::U32),
        (1, 64) => Some(DType::U64),
        (2, 16) => Some(DType::F16),
        (2, 32) => Some(DType::F32),
        (2, 64) => Some(DType::F64),
        (4, 16) => Some(DType::BF16),
        _ => None,
    };
    dtype.ok_or_else(|| {
        let remedy = match given.code {
            _ if given.lanes != 1 => "view it as a tensor with one extent more",
            5 => "view it as its real and imaginary parts",
            6 => "view it as uint8, and reduce by min, max or a bitwise operation",
            _ => "convert it to one of the integer or float types",
        };
        Error::unsupported(format!("a DLPack tensor of the element type {}", given.name())).remedy(remedy)
    })
}

pub(super) fn dtype_code(dtype: DType) -> DLDataType {
    let code = match dtype {
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
        DType::F16 | DType::F32 | DType::F64 => 2,
        DType::BF16 => 4,
    };
    DLDataType { code, bits: dtype.size() as u8 * 8, lanes: 1 }
}

fn device(tensor: &DLTensor) -> Result<Device> {
    let given = tensor.device;
    match (given.device_type, u32::try_from(given.device_id)) {
        (1 | 3, _) => Ok(Device::Host),
        (2, Ok(number)) => Ok(Device::Cuda(number)),
        (2, Err(_)) => Err(Error::invalid(format!("a DLPack tensor on the CUDA device {}", given.device_id))),
        _ => Err(Error::unsupported(format!("a DLPack tensor on {}", given.name()))
            .remedy("copy it to host memory first")),
    }
}

/// The address of the first element.
fn first(tensor: &DLTensor, layout: &Layout) -> Result<*mut u8> {
    if layout.count == 0 {
        return Ok(NonNull::<u64>::dangling().as_ptr().cast());
    }
    let count = layout.count;
    if tensor.data.is_null() {
        return Err(Error::invalid(format!("the data of a DLPack tensor of {count} elements is NULL")));
    }
    let (before, behind) = layout.reached();
    let data = tensor.data.addr();
    // All that is reached has an address, and none is that of nothing.
    let first = usize::try_from(tensor.byte_offset).ok().and_then(|offset| data.checked_add(offset));
    let fits = first.is_some_and(|first| first > before && first.checked_add(behind).is_some());
    if !fits {
        let text = format!(
            "a DLPack tensor at {:#x} with a byte_offset of {} reaches {before} bytes before its first element and {behind} \
             behind: no memory does",
            data, tensor.byte_offset
        );
        return Err(Error::invalid(text));
    }
    Ok(tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize))
}
