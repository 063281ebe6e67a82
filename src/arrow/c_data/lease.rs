//! Whose an array is: the caller's while it is lent, ours once it was taken.

use super::abi::{ArrowArray, Structure};
use crate::error::{Error, Result};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Field;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What every buffer of an imported array holds on to: a copy of the top structure, which the callback is called with where the
/// array was taken.
pub(super) struct Owner {
    array: ArrowArray,
    taken: AtomicBool,
}

// SAFETY: the structure in it is read by nobody until it is released, which happens once, by whoever drops the last reference;
// `lend` asks for callbacks that may be called on any thread.
unsafe impl Send for Owner {}
// SAFETY: as above; shared references reach the flag alone, an atomic.
unsafe impl Sync for Owner {}

impl Owner {
    /// # Safety
    /// The pointer is to a structure that can be read.
    pub(super) unsafe fn copy_of(array: *const ArrowArray) -> Self {
        // SAFETY: as the caller promises; the copy is released only where the original says that it was moved.
        Owner { array: unsafe { ptr::read(array) }, taken: AtomicBool::new(false) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if *self.taken.get_mut() {
            // SAFETY: the original was marked as moved, so this copy is the structure; nobody else refers to its memory any more.
            unsafe { self.array.release() };
        }
    }
}

/// The right to move a lent array. Dropping it gives the array back.
///
/// No array over lent memory is to outlive a lease that is dropped. Where one does all the same, the structure is moved instead of
/// given back (its `release` becomes NULL, as if it had been taken), so that nothing ever refers to freed memory;
/// [`in_use`](Lease::in_use) tells beforehand.
///
/// A lease may go to another thread.
#[must_use = "an array that is not taken stays the caller's"]
pub struct Lease {
    original: *mut ArrowArray,
    /// None once the array was taken.
    owner: Option<Arc<Owner>>,
}

// SAFETY: the structure is left alone by others until the lease is taken or dropped, as `lend` asks.
unsafe impl Send for Lease {}

impl Lease {
    pub(super) fn new(original: *mut ArrowArray, owner: Owner) -> Self {
        Lease { original, owner: Some(Arc::new(owner)) }
    }

    /// What buffers are to hold on to.
    pub(super) fn owner(&self) -> &Arc<Owner> {
        self.owner.as_ref().expect("a lease that was not taken has an owner")
    }

    /// Moves the array: marks the caller's structure as released, and has its callback called when the last reference to its
    /// memory goes, which may be at once.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the structure is not what was lent any more, since it was lent twice
    /// and taken by the other lease, or released: it is left as it is, and what was imported must not be used.
    pub fn take(mut self) -> Result<()> {
        let owner = self.owner.take().expect("a lease that was not taken has an owner");
        if self.claim(&owner) {
            return Ok(());
        }
        Err(Error::invalid("the array was moved or released while it was lent")
            .remedy("pass each structure once, and leave it alone until the operation has ended"))
    }

    /// Whether something still refers to the lent memory: an array, a slice of one, a buffer.
    pub fn in_use(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| Arc::strong_count(owner) > 1)
    }

    /// Makes the copy the structure, if the original is still there.
    fn claim(&self, owner: &Owner) -> bool {
        // SAFETY: the caller of `lend` promised that the structure stays where it is until the lease is taken or dropped.
        let original = unsafe { &mut *self.original };
        let same = original.release.map(|release| release as usize)
            == owner.array.release.map(|release| release as usize)
            && original.private_data == owner.array.private_data;
        if same {
            original.release = None;
            // The reference that is dropped after this orders it before the owner's drop.
            owner.taken.store(true, Ordering::Relaxed);
        }
        same
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        // The last reference is unwrapped with what other threads did to theirs before, so that reading has ended.
        if let Err(owner) = Arc::try_unwrap(owner)
            && self.claim(&owner)
        {
            tracing::warn!(
                "an imported array outlives its lease: the structure was moved instead of given back"
            );
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("array", &self.original).field("in_use", &self.in_use()).finish()
    }
}

/// A lent array. Its fields go in this order when it is dropped, the lease last.
#[derive(Debug)]
pub struct Lent {
    /// The array, over the caller's memory.
    pub array: ArrayRef,
    /// Name, type, nullability and metadata.
    pub field: Field,
    /// What the caller's structure is taken by.
    pub lease: Lease,
}

impl Lent {
    /// Moves the array out of the caller's structure ([`Lease::take`]).
    ///
    /// # Errors
    /// As [`Lease::take`].
    pub fn take(self) -> Result<(ArrayRef, Field)> {
        let Lent { array, field, lease } = self;
        lease.take()?;
        Ok((array, field))
    }

    /// The array as a record batch over the same memory, which is to be dropped before the lease.
    ///
    /// # Errors
    /// As [`to_batch`](super::to_batch).
    pub fn batch(&self) -> Result<RecordBatch> {
        super::to_batch(&self.array, &self.field)
    }
}
