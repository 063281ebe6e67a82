//! What calls return, and the text that a caller may ask for.

use crate::guard::cut;
use crate::sized::initialise;
use core::{Error, ErrorKind};
use std::borrow::Cow;
use std::ffi::c_char;

/// What a call returns. 18 to 255 are reserved for other errors; no status is negative.
pub type rf_status = i32;
/// Done.
pub const RF_OK: rf_status = 0;
/// An argument cannot be right. Nothing was sent and nothing has changed.
pub const RF_INVALID_ARGUMENT: rf_status = 1;
/// The call is sound, but this library, backend or algorithm cannot do it. Nothing was sent.
pub const RF_UNSUPPORTED: rf_status = 2;
/// The configuration is incomplete or contradicts itself.
pub const RF_CONFIGURATION: rf_status = 3;
/// The group could not be formed.
pub const RF_BOOTSTRAP: rf_status = 4;
/// The operating system refused something that is not about a peer.
pub const RF_IO: rf_status = 5;
/// Ranks asked for different things.
pub const RF_MISMATCH: rf_status = 6;
/// A peer's process has ended without saying goodbye.
pub const RF_PEER_DEAD: rf_status = 7;
/// A peer gives no sign of life.
pub const RF_UNRESPONSIVE: rf_status = 8;
/// A peer cannot be reached by the network.
pub const RF_UNREACHABLE: rf_status = 9;
/// A peer left the group while others still needed it.
pub const RF_CLOSED: rf_status = 10;
/// The deadline of the operation passed.
pub const RF_DEADLINE: rf_status = 11;
/// The group was aborted.
pub const RF_ABORTED: rf_status = 12;
/// A user's reduction failed.
pub const RF_USER_FAILURE: rf_status = 13;
/// A peer sent bytes that are no frame of this protocol.
pub const RF_PROTOCOL: rf_status = 14;
/// Another thread is in a call of this communicator. Nothing was sent.
pub const RF_CONCURRENT: rf_status = 15;
/// What was asked about is not complete. No error.
pub const RF_PENDING: rf_status = 16;
/// The library has a fault. Release the handle, and report what stands on the standard error.
pub const RF_INTERNAL: rf_status = 17;
/// Something that the machine is asked for is not there: a driver, a library, a device. Nothing was sent.
pub const RF_UNAVAILABLE: rf_status = 18;

/// What can be done about a status. 6 to 255 are reserved.
pub type rf_kind = i32;
/// There is nothing to be done.
pub const RF_KIND_NONE: rf_kind = 0;
/// The call was refused: nothing has changed, and the group is sound. Call it differently.
pub const RF_KIND_REFUSED: rf_kind = 1;
/// No group was formed.
pub const RF_KIND_SETUP: rf_kind = 2;
/// The operating system refused this rank something. The group is sound.
pub const RF_KIND_SYSTEM: rf_kind = 3;
/// The group has failed, and every later call returns the first cause. Form a new one.
pub const RF_KIND_FAILED: rf_kind = 4;
/// The library has a fault.
pub const RF_KIND_INTERNAL: rf_kind = 5;

/// The longest text of an error, in bytes, with the zero at its end.
pub const RF_ERROR_TEXT: usize = 1024;
/// The longest name of a host.
pub const RF_ERROR_HOST: usize = 256;
/// The longest name of a collective.
pub const RF_ERROR_COLLECTIVE: usize = 32;

/// An error in full: who, what, why, and what to do. The caller sets `size` (`RF_ERROR_INIT`, or rf_error_init); a call that
/// gets it writes the rest, after a success as well, and looks at nothing else in it. Each call takes NULL instead. Where `size` cannot
/// be, the call returns RF_INVALID_ARGUMENT and nothing is written.
#[repr(C)]
#[derive(Clone)]
pub struct rf_error {
    /// sizeof(rf_error), set by the caller.
    pub size: u32,
    /// What the call returned.
    pub status: rf_status,
    /// What can be done about it.
    pub kind: rf_kind,
    /// 0.
    pub reserved: i32,
    /// The rank that reports it, or -1.
    pub rank: i64,
    /// The rank that is to blame, or -1.
    pub peer: i64,
    /// The number of the operation, from 0 in each communicator, or -1.
    pub sequence: i64,
    /// The generation of the group, or -1.
    pub generation: i64,
    /// The host of the rank that is to blame, or "".
    pub host: [c_char; RF_ERROR_HOST],
    /// The collective, or "".
    pub collective: [c_char; RF_ERROR_COLLECTIVE],
    /// All of it in words, and what to do.
    pub text: [c_char; RF_ERROR_TEXT],
}

impl rf_error {
    pub(crate) const fn new() -> Self {
        rf_error {
            size: size_of::<rf_error>() as u32,
            status: RF_OK,
            kind: RF_KIND_NONE,
            reserved: 0,
            rank: -1,
            peer: -1,
            sequence: -1,
            generation: -1,
            host: [0; RF_ERROR_HOST],
            collective: [0; RF_ERROR_COLLECTIVE],
            text: [0; RF_ERROR_TEXT],
        }
    }

    /// All but the texts as after a success.
    pub(crate) fn clear(&mut self) {
        (self.status, self.kind, self.reserved) = (RF_OK, RF_KIND_NONE, 0);
        (self.rank, self.peer, self.sequence, self.generation) = (-1, -1, -1, -1);
        (self.host[0], self.collective[0], self.text[0]) = (0, 0, 0);
    }

    pub(crate) fn fill(&mut self, fault: &Fault) {
        self.clear();
        self.status = fault.status;
        self.kind = if fault.sound { RF_KIND_REFUSED } else { kind(fault.status) };
        put(&mut self.text, &fault.to_string());
        let Some(error) = &fault.error else { return };
        let number = |value: Option<usize>| value.map_or(-1, |value| value as i64);
        (self.rank, self.peer) = (number(error.rank()), number(error.culprit()));
        self.sequence = error.sequence().map_or(-1, |sequence| sequence as i64);
        self.generation = error.generation().map_or(-1, i64::from);
        put(&mut self.host, error.host().unwrap_or_default());
        put(&mut self.collective, error.collective().unwrap_or_default());
    }
}

/// Puts as much of a text as there is room for, up to the end of a character, and a zero.
pub(crate) fn put(room: &mut [c_char], text: &str) {
    let Some(most) = room.len().checked_sub(1) else { return };
    let fits = cut(text, most);
    for (place, byte) in room.iter_mut().zip(fits.bytes()) {
        *place = byte.cast_signed();
    }
    room[fits.len()] = 0;
}

const fn kind(status: rf_status) -> rf_kind {
    match status {
        RF_OK | RF_PENDING => RF_KIND_NONE,
        RF_INVALID_ARGUMENT | RF_UNSUPPORTED | RF_CONCURRENT => RF_KIND_REFUSED,
        RF_CONFIGURATION | RF_BOOTSTRAP => RF_KIND_SETUP,
        RF_IO | RF_UNAVAILABLE => RF_KIND_SYSTEM,
        RF_INTERNAL => RF_KIND_INTERNAL,
        _ => RF_KIND_FAILED,
    }
}

/// Why a call does not return RF_OK.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) status: rf_status,
    error: Option<Error>,
    text: Cow<'static, str>,
    /// The group is as it was, whatever the status says.
    sound: bool,
}

impl Fault {
    pub(crate) fn new(status: rf_status, text: impl Into<String>) -> Self {
        Fault { status, error: None, text: Cow::Owned(text.into()), sound: false }
    }

    /// One whose text is always the same.
    pub(crate) const fn told(status: rf_status, text: &'static str) -> Self {
        Fault { status, error: None, text: Cow::Borrowed(text), sound: false }
    }

    /// An argument that cannot be right.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Fault::new(RF_INVALID_ARGUMENT, format!("invalid argument: {}", text.into()))
    }

    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Fault::new(RF_UNSUPPORTED, format!("unsupported: {}", text.into()))
    }

    /// The same of a call that found out, before anything happened, that ranks differ: the group goes on.
    #[cfg(feature = "arrow")]
    pub(crate) fn of_a_sound_group(self) -> Self {
        Fault { sound: self.status == RF_MISMATCH, ..self }
    }

    /// As an error that other ranks can be told.
    #[cfg(feature = "arrow")]
    pub(crate) fn into_error(self) -> Error {
        if let Some(error) = self.error {
            return error;
        }
        let kind = match self.status {
            RF_UNSUPPORTED => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidArgument,
        };
        let text = self.text.trim_start_matches("invalid argument: ").trim_start_matches("unsupported: ");
        match text.split_once("; to do: ") {
            Some((what, remedy)) => Error::new(kind, what).remedy(remedy),
            None => Error::new(kind, text),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => error.fmt(f),
            None => f.write_str(&self.text),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidArgument => RF_INVALID_ARGUMENT,
            ErrorKind::Unsupported => RF_UNSUPPORTED,
            ErrorKind::Configuration => RF_CONFIGURATION,
            ErrorKind::Bootstrap => RF_BOOTSTRAP,
            ErrorKind::Io => RF_IO,
            ErrorKind::Mismatch => RF_MISMATCH,
            ErrorKind::PeerDead => RF_PEER_DEAD,
            ErrorKind::Unresponsive => RF_UNRESPONSIVE,
            ErrorKind::Unreachable => RF_UNREACHABLE,
            ErrorKind::Closed => RF_CLOSED,
            ErrorKind::Deadline => RF_DEADLINE,
            ErrorKind::Aborted => RF_ABORTED,
            ErrorKind::UserPanic => RF_USER_FAILURE,
            ErrorKind::Protocol => RF_PROTOCOL,
            ErrorKind::Internal => RF_INTERNAL,
            ErrorKind::Unavailable => RF_UNAVAILABLE,
            // A kind that this crate does not know.
            _ => RF_INTERNAL,
        };
        Fault { status, error: Some(error), text: Cow::Borrowed(""), sound: false }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// The name of a status in lower case, such as "peer dead"; "unknown" for a number that is none. Lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn rf_status_name(status: rf_status) -> *const c_char {
    let name = match status {
        RF_OK => c"ok",
        RF_INVALID_ARGUMENT => c"invalid argument",
        RF_UNSUPPORTED => c"unsupported",
        RF_CONFIGURATION => c"configuration",
        RF_BOOTSTRAP => c"bootstrap",
        RF_IO => c"input/output",
        RF_MISMATCH => c"mismatch",
        RF_PEER_DEAD => c"peer dead",
        RF_UNRESPONSIVE => c"peer unresponsive",
        RF_UNREACHABLE => c"peer unreachable",
        RF_CLOSED => c"peer closed",
        RF_DEADLINE => c"deadline passed",
        RF_ABORTED => c"aborted",
        RF_USER_FAILURE => c"user failure",
        RF_PROTOCOL => c"protocol",
        RF_CONCURRENT => c"concurrent use",
        RF_PENDING => c"pending",
        RF_INTERNAL => c"internal",
        RF_UNAVAILABLE => c"resources unavailable",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// Makes an rf_error ready to be passed. `size` is the caller's sizeof(rf_error); RF_INVALID_ARGUMENT where that cannot be.
///
/// # Safety
/// `error` is NULL, which is refused, or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_error_init(error: *mut rf_error, size: u32) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { initialise(error, size, &rf_error::new()) }
}
