//! Memory that the other ranks of the host can see.

use crate::comm::rf_comm;
use crate::error::{Fault, Result, rf_error, rf_status};
use crate::guard::guarded;
use crate::handle::{Handle, Place};
use core::{Registered, SharedTensor};
use std::ffi::c_void;
use std::ops::DerefMut;

/// Memory that the other ranks of the host can see: operations whose ranks all pass such are the fastest. Others look into it, or
/// write what it is to receive, while its rank is in a call that was given it, and at no other time. May be kept
/// longer than the communicator.
pub struct rf_memory {
    inner: Inner,
}

enum Inner {
    Allocated(SharedTensor<u8>),
    Registered(Registered<'static, u8>),
}

impl Handle for rf_memory {
    const NAME: &'static str = "the memory";
}

fn bytes_of(count: u64) -> Result<usize> {
    let bytes = usize::try_from(count).ok().filter(|&bytes| bytes <= isize::MAX as usize);
    bytes.ok_or_else(|| Fault::invalid(format!("{count} bytes of memory")))
}

/// Zeroed memory of so many bytes that the other ranks of the host can see, page-aligned unless there are none; ordinary memory where the group shares
/// none (rf_memory_is_shared). `*data` and `*out` are written on success only. Asked for too much, it is refused and nobody is
/// killed.
///
/// # Safety
/// `comm` is a communicator; `data` and `out` can be written; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_allocate(
    comm: *mut rf_comm,
    bytes: u64,
    data: *mut *mut c_void,
    out: *mut *mut rf_memory,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (comm, data, out) = unsafe {
            (
                rf_comm::get(comm)?,
                Place::new("the place of the address", data)?,
                Place::new("the place of the memory", out)?,
            )
        };
        let bytes = bytes_of(bytes)?;
        let mut tensor = comm.group().call(|c| Ok(c.allocate::<u8>(bytes)?))?;
        data.put(tensor.deref_mut().as_mut_ptr().cast());
        out.put(rf_memory { inner: Inner::Allocated(tensor) }.give());
        Ok(())
    })
}

/// Makes memory of the caller's visible to the other ranks of the host, in its place and with its contents, until it is released.
/// It has to be whole pages of 4096 bytes, private and of no file. Nothing changes where the group shares no memory.
///
/// # Safety
/// `comm` is a communicator; `data` is `bytes` of initialised memory, which is not unmapped, and which nobody touches while this
/// runs; `out` can be written; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_register(
    comm: *mut rf_comm,
    data: *mut c_void,
    bytes: u64,
    out: *mut *mut rf_memory,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (comm, out) = unsafe { (rf_comm::get(comm)?, Place::new("the place of the memory", out)?) };
        let bytes = bytes_of(bytes)?;
        if data.is_null() {
            return Err(Fault::invalid("the memory to register is NULL"));
        }
        // SAFETY: it is the caller's memory, for as long as the handle lives.
        let slice: &'static mut [u8] = unsafe { std::slice::from_raw_parts_mut(data.cast(), bytes) };
        // SAFETY: the caller does not unmap it before the handle is released.
        let registered = comm.group().call(|c| Ok(unsafe { c.register(slice) }?))?;
        out.put(rf_memory { inner: Inner::Registered(registered) }.give());
        Ok(())
    })
}

/// Whether the other ranks of the host can see it: 1 or 0. Not where the group shares no memory, and not after a failure for which it
/// was taken out of sharing.
///
/// # Safety
/// `memory` is NULL or a memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_memory_is_shared(memory: *const rf_memory) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { rf_memory::get(memory) }.map_or(0, |memory| {
        i32::from(match &memory.inner {
            Inner::Allocated(tensor) => tensor.is_shared(),
            Inner::Registered(registered) => registered.is_shared(),
        })
    })
}

/// Gives allocated memory back, and makes registered memory ordinary again, with its contents. RF_IO where the system refuses that
/// for registered memory: then nothing has changed, and the handle can be released again. NULL is ignored.
///
/// # Safety
/// `memory` is NULL or a memory that no operation uses any more; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_memory_release(memory: *mut rf_memory, error: *mut rf_error) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promise: nobody else has it.
        if let Some(rf_memory { inner: Inner::Registered(registered) }) = unsafe { memory.as_mut() } {
            registered.unregister()?;
        }
        // SAFETY: as above.
        drop(unsafe { rf_memory::take(memory) });
        Ok(())
    })
}
