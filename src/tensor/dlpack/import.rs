//! Tensors that others give out.

use super::describe::Described;
use super::structures::{DLManagedTensor, DLManagedTensorVersioned, IS_COPIED, MAJOR, READ_ONLY};
use crate::error::{Error, Result};
use crate::tensor::{TensorMut, TensorRef};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A tensor that somebody else has given out, taken over: its memory is used where it is, and its deleter called, once, when
/// this is dropped.
///
/// What the structure says is checked and copied when it is taken over, so that views cost next to nothing.
/// It can be sent to other threads and read from several, and may be dropped on any.
#[derive(Debug)]
pub struct Imported {
    described: Described,
    is_copied: bool,
    /// Dropped with this, by which its deleter is called.
    _managed: Managed,
}

// SAFETY: whoever has made it promised that memory and deleter can be used on any thread; the rest is plain data. What is
// written is written through a `TensorMut`, which borrows it exclusively.
unsafe impl Send for Imported {}
// SAFETY: as above: what a shared one gives out is only read.
unsafe impl Sync for Imported {}

impl Imported {
    /// Takes a tensor over.
    ///
    /// ```
    /// use ringfold::tensor::dlpack::{Exported, Imported};
    /// use ringfold::{Communicator, ReduceOp};
    /// let given = Exported::new(vec![1.0f32; 6], &[2, 3])?.into_raw();
    /// // SAFETY: nobody else has it.
    /// let mut tensor = unsafe { Imported::from_raw(given)? };
    /// let comm = Communicator::local(1).remove(0);
    /// comm.all_reduce_dyn(tensor.view_mut()?, ReduceOp::Sum)?;
    /// assert_eq!(tensor.view().shape(), [2, 3]);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what cannot be right: a pointer that is NULL or not aligned where
    /// something has to be, a negative extent, more than [`MOST_EXTENTS`](super::MOST_EXTENTS) of them, a size, a stride or an
    /// offset beyond what memory there can be. [`Unsupported`](crate::ErrorKind::Unsupported) for another major version than
    /// [`MAJOR`], for element types that are none of [`DType`](crate::DType), and for devices that are neither the host nor
    /// CUDA's. The tensor is the caller's as before then, and its deleter has not been called.
    ///
    /// # Safety
    /// `managed` is NULL or points to a structure as the specification demands, which nobody else uses from now on. Until its
    /// deleter is called, the memory that it describes is there and initialised; nobody else writes it, nor reads it where it is
    /// written through this. Memory and deleter can be used on any thread.
    pub unsafe fn from_raw(managed: *mut DLManagedTensorVersioned) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (described, flags) = unsafe { versioned(managed) }?;
        let managed = NonNull::new(managed).expect("what was described is there");
        Ok(Imported { described, is_copied: flags & IS_COPIED != 0, _managed: Managed::Versioned(managed) })
    }

    /// Takes over a tensor in the older form, without version and flags. It counts as writable, since nothing tells.
    ///
    /// # Errors
    /// As [`from_raw`](Self::from_raw).
    ///
    /// # Safety
    /// As there.
    pub unsafe fn from_raw_unversioned(managed: *mut DLManagedTensor) -> Result<Self> {
        let there = there(managed)?;
        // SAFETY: it is there and aligned; all else is the caller's promise.
        let described = unsafe { Described::read(&(*managed).dl_tensor, false) }?;
        Ok(Imported { described, is_copied: false, _managed: Managed::Unversioned(there) })
    }

    /// The tensor, to be read.
    pub fn view(&self) -> TensorRef<'_> {
        // SAFETY: whoever has made this promised that the memory is there until the deleter is called, and written by nobody
        // else; and it is not written through this while it is borrowed.
        unsafe { self.described.view() }
    }

    /// The tensor, to be written.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where its producer gave it out as read-only, or where its strides
    /// make one of two elements, as those of a tensor do that was broadcast.
    pub fn view_mut(&mut self) -> Result<TensorMut<'_>> {
        // SAFETY: as in `view`, and it is borrowed exclusively.
        unsafe { self.described.view_mut() }
    }

    /// Whether its producer forbids writing.
    pub fn is_read_only(&self) -> bool {
        self.described.is_read_only()
    }

    /// Whether its producer has made a copy for this, by what it says.
    pub fn is_copied(&self) -> bool {
        self.is_copied
    }
}

/// A tensor that somebody else has given out and keeps: for a call that uses it and gives nothing back, such as those of
/// the C ABI.
#[derive(Debug)]
pub struct Borrowed<'a> {
    described: Described,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Borrowed<'a> {
    /// Looks at a tensor.
    ///
    /// # Errors
    /// As [`Imported::from_raw`].
    ///
    /// # Safety
    /// `managed` is NULL or points to a structure as the specification demands. As long as `'a` lives, the memory that it
    /// describes is there and initialised; nobody else writes it, nor reads it where it is written through this.
    pub unsafe fn from_raw(managed: *const DLManagedTensorVersioned) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (described, _) = unsafe { versioned(managed) }?;
        Ok(Borrowed { described, memory: PhantomData })
    }

    /// The tensor, to be read.
    pub fn view(&self) -> TensorRef<'_> {
        // SAFETY: promised by whoever has made this.
        unsafe { self.described.view() }
    }

    /// The tensor, to be written.
    ///
    /// # Errors
    /// As [`Imported::view_mut`].
    pub fn view_mut(&mut self) -> Result<TensorMut<'_>> {
        // SAFETY: as above, and it is borrowed exclusively.
        unsafe { self.described.view_mut() }
    }

    /// The same for as long as the memory is lent.
    ///
    /// # Errors
    /// As [`Imported::view_mut`].
    pub fn into_view_mut(self) -> Result<TensorMut<'a>> {
        // SAFETY: as above, and nobody has this any more.
        unsafe { self.described.view_mut() }
    }

    /// The tensor, to be read for as long as the memory is lent.
    pub fn into_view(self) -> TensorRef<'a> {
        // SAFETY: as above.
        unsafe { self.described.view() }
    }
}

/// A structure that is there.
fn there<T>(managed: *const T) -> Result<NonNull<T>> {
    match NonNull::new(managed.cast_mut()) {
        Some(there) if there.is_aligned() => Ok(there),
        Some(_) => Err(Error::invalid(format!("a DLPack tensor at {managed:?}, which is no address of one"))),
        None => Err(Error::invalid("the DLPack tensor is NULL")),
    }
}

/// What a structure describes, and its flags.
///
/// # Safety
/// It is NULL or as the specification demands.
unsafe fn versioned(managed: *const DLManagedTensorVersioned) -> Result<(Described, u64)> {
    let at = there(managed)?.as_ptr();
    // SAFETY: it is there and aligned, and begins with its version, whatever that is.
    let version = unsafe { (&raw const (*at).version).read() };
    if version.major != MAJOR {
        let text = format!("a DLPack tensor of version {}.{}", version.major, version.minor);
        let remedy = format!("ask the producer for version {MAJOR} (`max_version=({MAJOR}, 0)` in Python)");
        return Err(Error::unsupported(text).remedy(remedy));
    }
    // SAFETY: by its version, the rest is there, too; shape and strides are the caller's promise.
    unsafe {
        let flags = (*at).flags;
        Ok((Described::read(&(*at).dl_tensor, flags & READ_ONLY != 0)?, flags))
    }
}

/// A structure that was taken over.
#[derive(Debug)]
enum Managed {
    Versioned(NonNull<DLManagedTensorVersioned>),
    Unversioned(NonNull<DLManagedTensor>),
}

impl Drop for Managed {
    fn drop(&mut self) {
        // SAFETY: the structure was taken over, and this is its end: nobody has a view any more.
        unsafe {
            match *self {
                Managed::Versioned(managed) => {
                    if let Some(deleter) = managed.as_ref().deleter {
                        deleter(managed.as_ptr());
                    }
                }
                Managed::Unversioned(managed) => {
                    if let Some(deleter) = managed.as_ref().deleter {
                        deleter(managed.as_ptr());
                    }
                }
            }
        }
    }
}
