//! Tensors that are given out.

use super::MOST_EXTENTS;
use super::describe::dtype_code;
use super::structures::{DLDevice, DLManagedTensorVersioned, DLPackVersion, DLTensor, MAJOR, MINOR};
use crate::error::{Error, Result};
use crate::tensor::layout::Layout;
use crate::tensor::{Device, Element};
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
    /// The extents and behind them the strides.
    _numbers: Box<[i64]>,
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
        let count = Layout::new(T::DTYPE, shape, None, Device::Host)?.count;
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
        let mut numbers = numbers.into_boxed_slice();
        let (at, ndim) = (numbers.as_mut_ptr(), shape.len());
        let list = |from: usize| if ndim == 0 { std::ptr::null_mut() } else { at.wrapping_add(from) };
        let tensor = DLTensor {
            data: std::ptr::null_mut(),
            device: DLDevice::HOST,
            ndim: ndim as i32,
            dtype: dtype_code(T::DTYPE),
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
        let (exported, elements) = unsafe {
            (*kept).managed.manager_ctx = kept.cast();
            (Exported(NonNull::new_unchecked(&raw mut (*kept).managed)), &mut (&mut (*kept).owner)[..])
        };
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
