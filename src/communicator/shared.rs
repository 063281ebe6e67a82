//! Shared tensors: a rank's memory that the other ranks of its host can see.

use super::Communicator;
use crate::error::{Error, Result};
use crate::memory::Pages;
use crate::tensor::Element;
use crate::transport::shm::{Allocation, Registration, whole_pages};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A tensor in memory that the other ranks of the host can see, made by [`Communicator::allocate`]: a slice, for every verb.
///
/// Others look into it, or write what it is to receive, while its rank is in a call that was given it, and at no other time.
/// It can be kept longer than the communicator it came from, and keeps the memory that the world shares for that long.
///
/// After a failure of the group it is still this rank's, with contents as the verb that failed says. It may not be
/// [shared](SharedTensor::is_shared) any more then.
pub struct SharedTensor<T> {
    memory: Memory,
    len: usize,
    elements: PhantomData<T>,
}

enum Memory {
    /// Of no elements.
    Nothing,
    Private(Pages),
    Shared(Allocation),
}

impl<T> SharedTensor<T> {
    /// Whether the other ranks of the host can see it: not where the group shares no memory, not after a failure for which it
    /// was taken out of sharing, and not where it has no elements.
    pub fn is_shared(&self) -> bool {
        matches!(&self.memory, Memory::Shared(memory) if memory.is_shared())
    }

    fn address(&self) -> *mut T {
        match &self.memory {
            Memory::Nothing => NonNull::dangling().as_ptr(),
            Memory::Private(memory) => memory.address().cast(),
            Memory::Shared(memory) => memory.address().cast(),
        }
    }
}

impl<T: Element> Deref for SharedTensor<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory is this value's, page-aligned and long enough; zeroed at first, and any bit pattern is an
        // element. Other processes map it, too, and by the protocol touch it only while this rank is in an operation that was
        // given it: such a one borrows this value or owns it, exclusively where others write, and ends when they are
        // done, or, where it fails, after what they were to write has been isolated. So while a reference lives nobody
        // else writes.
        unsafe { std::slice::from_raw_parts(self.address(), self.len) }
    }
}

impl<T: Element> DerefMut for SharedTensor<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.len) }
    }
}

impl<T> fmt::Debug for SharedTensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTensor")
            .field("len", &self.len)
            .field("is_shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}

/// Memory of the caller's that the other ranks of the host can see, by [`Communicator::register`] or
/// [`Communicator::with_registered`]: a slice, for every verb. Dropping it makes it ordinary memory again, where it is
/// and with its contents.
///
/// Where the system refuses that, for want of memory, the drop logs a warning and leaves the pages as they are: valid, and with
/// their contents. Who wants to know calls [`unregister`](Registered::unregister).
pub struct Registered<'a, T> {
    /// None where the group shares no memory.
    registration: Option<Registration>,
    data: NonNull<T>,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`.
unsafe impl<T: Send> Send for Registered<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Registered<'_, T> {}

impl<T> Registered<'_, T> {
    /// Whether the other ranks of the host can see it: not where the group shares no memory, not after it was
    /// [unregistered](Registered::unregister), and not after a failure for which it was taken out of sharing.
    pub fn is_shared(&self) -> bool {
        self.registration.as_ref().is_some_and(Registration::is_shared)
    }

    /// Makes it ordinary memory again, as dropping does. It can still be used. Nothing happens a second time.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses. The memory is valid all the same, with its contents, and this
    /// can be called again.
    pub fn unregister(&mut self) -> Result<()> {
        match &mut self.registration {
            Some(registration) => registration.give_back(),
            None => Ok(()),
        }
    }
}

impl<T: Element> Deref for Registered<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: it stands for the slice that was borrowed, whose pages others can see now. When they touch these: as in
        // `SharedTensor::deref`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Element> DerefMut for Registered<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T> fmt::Debug for Registered<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("len", &self.len)
            .field("is_shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}

/// Memory that the other ranks of the host can see.
impl Communicator {
    /// A tensor of zeroes in memory that the other ranks of the host can see, page-aligned; in ordinary memory where the group
    /// shares none, so that a program need not know. [`SharedTensor::is_shared`] tells.
    ///
    /// Its memory is taken at once, and given back when it is dropped, before or after the communicator. A process that is
    /// forked off sees the same memory, and what it writes there its parent sees.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut gradients = comm.allocate::<f32>(1000)?;
    /// gradients.fill(2.0);
    /// comm.all_reduce(&mut gradients, ReduceOp::Sum)?;
    /// assert_eq!(gradients[..], [2.0; 1000]);
    /// assert!(!gradients.is_shared(), "threads share no segment");
    /// // Started operations own it while they run.
    /// let gradients = comm.start_all_reduce(gradients, ReduceOp::Mean)?.wait()?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is not so much memory: asked for far too much, it is refused and nobody is
    /// killed. The first cause of the group's failure, after one.
    pub fn allocate<T: Element>(&self, len: usize) -> Result<SharedTensor<T>> {
        self.unspoilt("allocate")?;
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let memory = match (bytes, self.kind.ground()) {
            (Some(0), _) => Ok(Memory::Nothing),
            (Some(bytes), Some(ground)) => ground.allocate(bytes).map(Memory::Shared),
            (Some(bytes), None) => Pages::zeroed(bytes).map(Memory::Private),
            (None, _) => {
                let text = format!("taking {len} elements of {} bytes", size_of::<T>());
                Err(Error::io(text, std::io::ErrorKind::OutOfMemory))
            }
        };
        let memory = memory.map_err(|error| self.line.complete(error))?;
        Ok(SharedTensor { memory, len, elements: PhantomData })
    }

    /// Makes memory that the caller has already visible to the other ranks of the host, in its place and with its contents,
    /// until what this returns is dropped; then it is ordinary memory again. Nothing changes where the group shares
    /// no memory.
    ///
    /// It has to be whole pages: an address and a length in bytes that are multiples of [`PAGE`](crate::memory::PAGE), private
    /// and of no file. [`allocate`](Communicator::allocate) gives memory without such conditions. Pages are copied twice,
    /// once in and once out, and change on the way: memory whose pages some device has pinned is not for this.
    /// A process that is forked off sees it shared, and what it writes there its parent sees, until it drops its
    /// `Registered` and has a copy of its own.
    ///
    /// [`with_registered`](Communicator::with_registered) is the same without a promise to be made.
    ///
    /// ```
    /// use ringfold::memory::{PAGE, Pages};
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let pages = Pages::zeroed(PAGE)?;
    /// // SAFETY: the pages are this function's own, aligned, and any bits are numbers.
    /// let data = unsafe { std::slice::from_raw_parts_mut(pages.address().cast::<u64>(), PAGE / 8) };
    /// // SAFETY: it is dropped before the pages are.
    /// let mut tensor = unsafe { comm.register(data)? };
    /// tensor.fill(3);
    /// comm.all_reduce(&mut tensor, ReduceOp::Sum)?;
    /// tensor.unregister()?;
    /// assert!(!tensor.is_shared() && tensor.iter().all(|&x| x == 3));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for other memory than that, and for what is shared already;
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for it. The first cause of the group's failure, after one.
    /// The memory is as it was then.
    ///
    /// # Safety
    /// The memory is not unmapped or mapped anew before the `Registered` has been dropped, or unregistered without an error: so it is not
    /// to be forgotten ([`std::mem::forget`]) unless the memory is kept for ever.
    pub unsafe fn register<'a, T: Element>(&self, data: &'a mut [T]) -> Result<Registered<'a, T>> {
        self.unspoilt("register")?;
        let (at, bytes) = (NonNull::from(&mut *data).cast::<u8>(), size_of_val(data));
        let made = whole_pages(at.addr().get(), bytes).and_then(|()| {
            // SAFETY: the memory is borrowed for as long as the `Registered` lives, which gives it back at its end; that it does,
            // before the memory is unmapped, is the caller's promise.
            self.kind.ground().map(|ground| unsafe { ground.register(at, bytes) }).transpose()
        });
        let registration = made.map_err(|error| self.line.complete(error))?;
        Ok(Registered { registration, data: at.cast(), len: data.len(), borrowed: PhantomData })
    }

    /// Runs a function with memory of the caller's that the other ranks of the host can see meanwhile. See
    /// [`register`](Communicator::register).
    ///
    /// ```
    /// # use ringfold::memory::{PAGE, Pages};
    /// use ringfold::{Communicator, ErrorKind, ReduceOp};
    /// # let pages = Pages::zeroed(PAGE)?;
    /// # // SAFETY: the pages are this function's own, aligned, and any bits are numbers.
    /// # let data = unsafe { std::slice::from_raw_parts_mut(pages.address().cast::<u64>(), PAGE / 8) };
    /// let comm = Communicator::local(1).remove(0);
    /// comm.with_registered(data, |tensor| comm.all_reduce(tensor, ReduceOp::Max))??;
    /// let refused = comm.with_registered(&mut data[1..], |_| ());
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Communicator::register), and then the function is not run.
    pub fn with_registered<T: Element, R>(
        &self,
        data: &mut [T],
        body: impl FnOnce(&mut Registered<'_, T>) -> R,
    ) -> Result<R> {
        // SAFETY: it is dropped below, after the function or when that panics, while the memory is still borrowed.
        let mut registered = unsafe { self.register(data) }?;
        Ok(body(&mut registered))
    }

    /// Fails where the group has.
    fn unspoilt(&self, doing: &'static str) -> Result<()> {
        let Some(cause) = self.failure() else { return Ok(()) };
        let place = self.sequencer.borrow().place();
        Err(self.line.complete(cause.to_error(self.line.rank, doing, place)))
    }
}
