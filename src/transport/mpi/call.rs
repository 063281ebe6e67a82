//! MPI's functions, each with its return code checked.
//!
//! Each takes the [`Turn`] of whoever calls it, so that no two threads are in MPI through this library at once, and nobody is
//! before its beginning or after its end.

use super::library::Turn;
use crate::error::{Error, ErrorKind};
use mpi_sys as raw;
use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;

/// A code that MPI has returned, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    function: &'static str,
    class: c_int,
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with an error of class {}: {}", self.function, self.class, self.text)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::Io, refusal.to_string())
    }
}

pub(crate) type Checked<T> = std::result::Result<T, Refusal>;

/// Fails where a return code is not that of success.
pub(super) fn check(function: &'static str, code: c_int) -> Checked<()> {
    if code == raw::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let (mut class, mut length) = (code, 0);
    let mut text = [0u8; raw::MPI_MAX_ERROR_STRING as usize];
    // SAFETY: the text is as long as MPI may write, and MPI allows both at any time between beginning and end, where codes
    // come from.
    let told = unsafe {
        raw::MPI_Error_class(code, &mut class);
        raw::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &mut length)
    };
    let length = if told == raw::MPI_SUCCESS as c_int { length.max(0) as usize } else { 0 };
    let text = String::from_utf8_lossy(&text[..length.min(text.len())]).trim().to_owned();
    let text = if text.is_empty() { format!("code {code}") } else { text };
    Err(Refusal { function, class, text })
}

/// A communicator of MPI's. A handle is a number or an address that any thread may pass to MPI.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Comm(pub(super) raw::MPI_Comm);

// SAFETY: a handle is an opaque value; what is behind it is MPI's, which at the thread levels that are accepted here may be
// called by any thread, one at a time.
unsafe impl Send for Comm {}
// SAFETY: as above: a shared handle can only be copied.
unsafe impl Sync for Comm {}

/// Something that MPI has been asked to do. Not to be forgotten before it is done where there is a buffer in it.
pub(crate) struct Request(raw::MPI_Request);

// SAFETY: as for communicators.
unsafe impl Send for Request {}

/// A message that MPI has found and put aside for whoever receives it.
pub(super) struct Found {
    message: raw::MPI_Message,
    pub(super) bytes: usize,
}

impl Comm {
    /// `MPI_COMM_WORLD`.
    pub(super) fn world() -> Comm {
        // SAFETY: a constant of the C shim, which has it from MPI's header.
        Comm(unsafe { raw::RSMPI_COMM_WORLD })
    }

    pub(super) fn rank(self, _: &Turn) -> Checked<usize> {
        let mut rank = 0;
        // SAFETY: MPI runs, which the turn says; the place for the answer is there.
        check("MPI_Comm_rank", unsafe { raw::MPI_Comm_rank(self.0, &mut rank) })?;
        Ok(rank.max(0) as usize)
    }

    pub(super) fn size(self, _: &Turn) -> Checked<usize> {
        let mut size = 0;
        // SAFETY: as in `rank`.
        check("MPI_Comm_size", unsafe { raw::MPI_Comm_size(self.0, &mut size) })?;
        Ok(size.max(0) as usize)
    }

    /// Lets errors on this communicator be returned; gives back what was done about them before.
    pub(super) fn return_errors(self, _: &Turn) -> Checked<raw::MPI_Errhandler> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: as in `rank`; the first call has written the handler where it succeeds, which is checked before it is read.
        unsafe {
            check("MPI_Comm_get_errhandler", raw::MPI_Comm_get_errhandler(self.0, before.as_mut_ptr()))?;
            check("MPI_Comm_set_errhandler", raw::MPI_Comm_set_errhandler(self.0, raw::RSMPI_ERRORS_RETURN))?;
            Ok(before.assume_init())
        }
    }

    /// Puts back what was done about errors before.
    pub(super) fn restore(self, mut handler: raw::MPI_Errhandler, _: &Turn) -> Checked<()> {
        // SAFETY: the handler is one that `MPI_Comm_get_errhandler` gave, whose reference is given back once.
        unsafe {
            let code = raw::MPI_Comm_set_errhandler(self.0, handler);
            check("MPI_Errhandler_free", raw::MPI_Errhandler_free(&mut handler))?;
            check("MPI_Comm_set_errhandler", code)
        }
    }

    /// Begins to duplicate this communicator, of whose ranks all do. The duplicate may be used once the request is done, and
    /// `place` must stay where it is until then.
    ///
    /// # Safety
    /// `place` must be valid for a write until the request is done.
    pub(super) unsafe fn duplicate(self, place: *mut raw::MPI_Comm, _: &Turn) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        // SAFETY: the caller vouches for the place.
        let code = unsafe { raw::MPI_Comm_idup(self.0, place, request.as_mut_ptr()) };
        check("MPI_Comm_idup", code)?;
        // SAFETY: a call that succeeds has written it.
        Ok(Request(unsafe { request.assume_init() }))
    }

    /// The highest tag of a message.
    pub(super) fn highest_tag(self, _: &Turn) -> Checked<usize> {
        let (mut value, mut there) = (std::ptr::null_mut::<c_int>(), 0);
        // SAFETY: MPI writes the address of an integer of its own, which it keeps.
        let code = unsafe {
            raw::MPI_Comm_get_attr(
                Comm::world().0,
                raw::MPI_TAG_UB as c_int,
                (&raw mut value).cast::<c_void>(),
                &mut there,
            )
        };
        check("MPI_Comm_get_attr", code)?;
        // What the standard demands at least.
        const LEAST: usize = 32767;
        if there == 0 || value.is_null() {
            return Ok(LEAST);
        }
        // SAFETY: as above.
        Ok(unsafe { *value }.max(0) as usize)
    }

    /// Begins to send bytes; done when they are on their way and, where `matched`, when their receiver has asked for them.
    ///
    /// # Safety
    /// The bytes must stay as they are until the request is done.
    pub(super) unsafe fn send(
        self,
        bytes: *const u8,
        length: usize,
        to: usize,
        tag: usize,
        matched: bool,
        _: &Turn,
    ) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        let (length, to, tag) = (length as c_int, to as c_int, tag as c_int);
        let begin = if matched { raw::MPI_Issend } else { raw::MPI_Isend };
        // SAFETY: the caller vouches for the bytes.
        let code =
            unsafe { begin(bytes.cast(), length, raw::RSMPI_UINT8_T, to, tag, self.0, request.as_mut_ptr()) };
        check(if matched { "MPI_Issend" } else { "MPI_Isend" }, code)?;
        // SAFETY: a call that succeeds has written it.
        Ok(Request(unsafe { request.assume_init() }))
    }

    /// Puts aside the next message, where there is one already. `None` for sender or tag is any.
    pub(super) fn find(self, from: Option<usize>, tag: Option<usize>, _: &Turn) -> Checked<Option<Found>> {
        let (mut there, mut count) = (0, 0);
        let (mut message, mut status) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: all places are there; what a call that succeeds has written is read only where it says that a message is
        // there.
        unsafe {
            let from = from.map_or(raw::RSMPI_ANY_SOURCE, |from| from as c_int);
            let tag = tag.map_or(raw::RSMPI_ANY_TAG, |tag| tag as c_int);
            let code =
                raw::MPI_Improbe(from, tag, self.0, &mut there, message.as_mut_ptr(), status.as_mut_ptr());
            check("MPI_Improbe", code)?;
            if there == 0 {
                return Ok(None);
            }
            let code = raw::MPI_Get_count(status.as_ptr(), raw::RSMPI_UINT8_T, &mut count);
            check("MPI_Get_count", code)?;
            Ok(Some(Found { message: message.assume_init(), bytes: count.max(0) as usize }))
        }
    }

    /// Begins to wait for all ranks.
    pub(super) fn barrier(self, _: &Turn) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        // SAFETY: no memory is involved but the place of the request, which a call that succeeds has written.
        unsafe {
            check("MPI_Ibarrier", raw::MPI_Ibarrier(self.0, request.as_mut_ptr()))?;
            Ok(Request(request.assume_init()))
        }
    }

    /// Begins to gather `length` bytes of each rank on all ranks.
    ///
    /// # Safety
    /// `own` must be readable for `length` bytes and stay so, `all` writable for as many of each rank and touched by nobody,
    /// until the request is done.
    pub(super) unsafe fn all_gather(
        self,
        own: *const u8,
        all: *mut u8,
        length: usize,
        _: &Turn,
    ) -> Checked<Request> {
        let (mut request, length) = (MaybeUninit::uninit(), length as c_int);
        // SAFETY: the caller vouches for the memory.
        unsafe {
            let code = raw::MPI_Iallgather(
                own.cast(),
                length,
                raw::RSMPI_UINT8_T,
                all.cast(),
                length,
                raw::RSMPI_UINT8_T,
                self.0,
                request.as_mut_ptr(),
            );
            check("MPI_Iallgather", code)?;
            Ok(Request(request.assume_init()))
        }
    }
}

impl Found {
    /// Begins to receive the message.
    ///
    /// # Safety
    /// `into` must be writable for [`bytes`](Found::bytes) and touched by nobody until the request is done.
    pub(super) unsafe fn receive(mut self, into: *mut u8, _: &Turn) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        let length = self.bytes as c_int;
        // SAFETY: the message was found and not received yet, since this takes it; the caller vouches for the memory.
        unsafe {
            let code = raw::MPI_Imrecv(
                into.cast(),
                length,
                raw::RSMPI_UINT8_T,
                &mut self.message,
                request.as_mut_ptr(),
            );
            check("MPI_Imrecv", code)?;
            Ok(Request(request.assume_init()))
        }
    }
}

impl Request {
    /// The request with this handle.
    pub(super) fn of(handle: raw::MPI_Request) -> Request {
        Request(handle)
    }

    /// Whether it is done; MPI has let go of everything then.
    #[inline]
    pub(crate) fn is_done(&mut self, _: &Turn) -> Checked<bool> {
        let mut done = 0;
        // SAFETY: the request is MPI's, or the null that MPI has put in its place, which is done.
        let code = unsafe { raw::MPI_Test(&mut self.0, &mut done, raw::RSMPI_STATUS_IGNORE) };
        check("MPI_Test", code)?;
        Ok(done != 0)
    }
}
