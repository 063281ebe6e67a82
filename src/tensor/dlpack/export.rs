//! Tensors that are given out.

use super::MOST_EXTENTS;
use super::describe::dtype_code;
use super::structures::{DLDevice, DLManagedTensorVersioned, DLPackVersion, DLTensor, MAJOR, MINOR};
use crate::error::{Error, Result};
use crate::tensor::layout::Layout;
use crate::tensor::{DType, Device, Element};
use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// A tensor to be given out, with whatever owns its memory: a `Vec`, a [`SharedTensor`](crate::SharedTensor), a boxed slice.
///
/// It is given away by [`into_raw`](Exported::into_raw), and who gets it calls its deleter, on any thread; dropped before
/// that, it calls the deleter itself.
#[derive(Debug)]
pub struct Exported(NonNull<DLManagedTensorVersioned>);

// SAFETY: it owns the structure and what that keeps, which is Send.
unsafe impl Send for Exported {}

/// A structure with all that it points to.
struct Kept<O> {
    managed: DLManagedTensorVersioned,
    /// The extents and behind them the strides. No box: to move one says that nobody else points there.
    _numbers: Vec<i64>,
    owner: O,
}

impl Exported {
    /// A dense row-major tensor of this shape over the elements of `owner`, which are neither copied nor moved. Writable.
    ///
    /// ```
    /// use ringfold::tensor::dlpack::Exported;
    /// let tensor = Exported::new(vec![half::bf16::ONE; 6], &[2, 3])?;
    /// let capsule = tensor.into_raw(); // now for who calls its deleter
    /// # // SAFETY: it has one, and nobody else has the structure.
    /// # unsafe { ((*capsule).deleter.unwrap())(capsule) };
    /// assert!(Exported::new(vec![1u8; 5], &[2, 3]).is_err());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the shape has another number of elements or more than
    /// [`MOST_EXTENTS`] extents; the owner is dropped then.
    pub fn new<T: Element, O>(owner: O, shape: &[usize]) -> Result<Self>
    where
        O: DerefMut<Target = [T]> + Send + 'static,
    {
        let (exported, kept, count) = Self::kept(owner, T::DTYPE, shape, DLDevice::HOST)?;
        // SAFETY: it was made just now, and belongs to what is returned.
        let elements = unsafe { &mut (&mut (*kept).owner)[..] };
        let has = elements.len();
        if count != has {
            let text =
                format!("a shape of {shape:?} has {count} elements, what is to be given out has {has}");
            return Err(Error::invalid(text).remedy("pass a shape of as many elements"));
        }
        if count > 0 {
            // The owner does not move from here on, and nobody touches it until it is dropped; so its elements stay where it
            // says that they are.
            let data = elements.as_mut_ptr().cast();
            // SAFETY: as above; what is borrowed of it is another field, and not used any more.
            unsafe { (*kept).managed.dl_tensor.data = data };
        }
        Ok(exported)
    }

    /// A dense row-major tensor of this shape in memory that something else describes: of a CUDA device, or of the host, pinned
    /// or not. Writable.
    ///
    /// ```
    /// use ringfold::tensor::DType;
    /// use ringfold::tensor::dlpack::{DLDevice, Exported};
    /// let mut pinned = vec![1.0f32; 6].into_boxed_slice(); // or what CUDA has pinned
    /// let first = pinned.as_mut_ptr().cast();
    /// // SAFETY: the elements lie in the box, which does not move them.
    /// let tensor = unsafe { Exported::from_raw(pinned, first, DType::F32, &[2, 3], DLDevice::CUDA_HOST)? };
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a shape that fits no memory or has more than
    /// [`MOST_EXTENTS`] extents, or a NULL pointer to some elements; [`Unsupported`](crate::ErrorKind::Unsupported) for other devices
    /// than the host's and CUDA's. The owner is dropped then.
    ///
    /// # Safety
    /// As long as `owner` lives, wherever it is moved, there are the elements from `pointer` on in memory of the device,
    /// initialised, and nobody else writes them, nor reads them where they are written by who gets the tensor.
    pub unsafe fn from_raw<O: Send + 'static>(
        owner: O,
        pointer: *mut u8,
        dtype: DType,
        shape: &[usize],
        device: DLDevice,
    ) -> Result<Self> {
        if !matches!(device.device_type, 1..=3) {
            return Err(Error::unsupported(format!("giving out a tensor on {}", device.name()))
                .remedy("give out memory of the host or of a CUDA device"));
        }
        let (exported, kept, count) = Self::kept(owner, dtype, shape, device)?;
        if count > 0 && pointer.is_null() {
            return Err(Error::invalid(format!("{count} elements at NULL are to be given out")));
        }
        // SAFETY: it was made just now, and belongs to what is returned.
        unsafe {
            (*kept).managed.dl_tensor.data = if count > 0 { pointer.cast() } else { std::ptr::null_mut() }
        };
        Ok(exported)
    }

    /// A structure without elements yet, and how many there are to be.
    fn kept<O: Send + 'static>(
        owner: O,
        dtype: DType,
        shape: &[usize],
        device: DLDevice,
    ) -> Result<(Self, *mut Kept<O>, usize)> {
        let count = Layout::new(dtype, shape, None, Device::Host)?.count;
        let extents: std::result::Result<Vec<i64>, _> =
            shape.iter().map(|&extent| i64::try_from(extent)).collect();
        let mut numbers = match extents {
            Ok(extents) if extents.len() <= MOST_EXTENTS => extents,
            _ => {
                let text = format!(
                    "a tensor of {} extents, the largest of them {:?}",
                    shape.len(),
                    shape.iter().max()
                );
                return Err(Error::invalid(text).remedy(format!("give it at most {MOST_EXTENTS}")));
            }
        };
        // Of an empty tensor any strides are right.
        let mut stride = 1i64;
        let mut strides = vec![0; shape.len()];
        for (place, extent) in strides.iter_mut().zip(&numbers).rev() {
            *place = stride;
            stride = stride.saturating_mul(*extent);
        }
        numbers.extend(strides);
        let (at, ndim) = (numbers.as_mut_ptr(), shape.len());
        let list = |from: usize| if ndim == 0 { std::ptr::null_mut() } else { at.wrapping_add(from) };
        let tensor = DLTensor {
            data: std::ptr::null_mut(),
            device,
            ndim: ndim as i32,
            dtype: dtype_code(dtype),
            shape: list(0),
            strides: list(ndim),
            byte_offset: 0,
        };
        let managed = DLManagedTensorVersioned {
            version: DLPackVersion { major: MAJOR, minor: MINOR },
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(free::<O>),
            flags: 0,
            dl_tensor: tensor,
        };
        let kept = Box::into_raw(Box::new(Kept { managed, _numbers: numbers, owner }));
        // SAFETY: it was made just now, and from here on belongs to what is returned.
        let exported = unsafe {
            (*kept).managed.manager_ctx = kept.cast();
            Exported(NonNull::new_unchecked(&raw mut (*kept).managed))
        };
        Ok((exported, kept, count))
    }

    /// Gives the tensor away. Whoever gets it calls its deleter, once, when it is not needed any more; if nobody does, its
    /// memory stays for ever.
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        let managed = self.0.as_ptr();
        std::mem::forget(self);
        managed
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // SAFETY: the structure is this one's own, and has a deleter.
        unsafe {
            if let Some(deleter) = self.0.as_ref().deleter {
                deleter(self.0.as_ptr());
            }
        }
    }
}

/// The deleter.
///
/// # Safety
/// The structure was made by [`Exported::new`] with such an owner, and nobody uses it any more.
unsafe extern "C" fn free<O>(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: the context is the box that it lies in.
    let kept = unsafe { Box::from_raw((*managed).manager_ctx.cast::<Kept<O>>()) };
    // Nothing unwinds into who has called this.
    if catch_unwind(AssertUnwindSafe(|| drop(kept))).is_err() {
        tracing::error!("the owner of a tensor that was given out by DLPack panicked at its end");
    }
}
