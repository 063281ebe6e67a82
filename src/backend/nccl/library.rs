//! NCCL's library: its functions, raw, and what the version that was found can do.
//!
//! Names, types and numbers are those of NVIDIA's `nccl.h`, which adds to them and never changes them. The table is one of our
//! own: the crates that bind NCCL link it, panic where it is missing, or do not look for `libnccl.so.2`, which is the only name
//! that NVIDIA's packages have.

use crate::cuda::{Dynamic, Search, table};
use crate::error::{Error, ErrorKind, Result};
use crate::reduce::ReduceOp;
use crate::tensor::DType;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub(super) type Code = c_int;
/// A communicator of NCCL's.
pub(super) type Raw = *mut c_void;
type Stream = *mut c_void;
/// An address on the device.
type Address = u64;

pub(super) const SUCCESS: Code = 0;
const UNHANDLED_CUDA_ERROR: Code = 1;
const SYSTEM_ERROR: Code = 2;
const INTERNAL_ERROR: Code = 3;
const INVALID_ARGUMENT: Code = 4;
const INVALID_USAGE: Code = 5;
pub(super) const REMOTE_ERROR: Code = 6;
pub(super) const IN_PROGRESS: Code = 7;
const TIMEOUT: Code = 8;

/// The color of a rank that joins no group of a split.
pub(super) const NO_COLOR: c_int = -1;

/// The name of a group to be made, which all its ranks need.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub(super) [u8; UniqueId::BYTES]);

impl UniqueId {
    /// How long one is.
    pub const BYTES: usize = 128;

    /// Its bytes, to be given to other ranks.
    pub fn to_bytes(self) -> [u8; UniqueId::BYTES] {
        self.0
    }

    /// The name with these bytes, which another rank has given.
    pub fn from_bytes(bytes: [u8; UniqueId::BYTES]) -> UniqueId {
        UniqueId(bytes)
    }
}

impl fmt::Debug for UniqueId {
    /// Not the name itself: who knows it can join.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId")
    }
}

/// `ncclConfig_t` as version 2.14 has it. Later versions take it for what it says it is, and all that it does not have by their
/// defaults.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Configuration {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// Where later versions have another number: as if nobody had said it.
    undefined: c_int,
}

impl Configuration {
    /// Calls that return before they are done, and are asked about afterwards.
    pub(super) fn non_blocking() -> Configuration {
        Configuration {
            size: size_of::<Configuration>(),
            magic: 0xcafe_beef,
            version: 21400,
            blocking: 0,
            undefined: c_int::MIN,
        }
    }
}

table! {
    /// The functions.
    pub(super) struct Functions is "NCCL";
    required {
        c"ncclGetVersion" get_version(*mut c_int) -> Code;
        c"ncclGetErrorString" get_error_string(Code) -> *const c_char;
        c"ncclGetUniqueId" get_unique_id(*mut UniqueId) -> Code;
        c"ncclCommDestroy" comm_destroy(Raw) -> Code;
        c"ncclCommAbort" comm_abort(Raw) -> Code;
        c"ncclCommGetAsyncError" comm_get_async_error(Raw, *mut Code) -> Code;
        c"ncclAllReduce" all_reduce(Address, Address, usize, c_int, c_int, Raw, Stream) -> Code;
        c"ncclReduce" reduce(Address, Address, usize, c_int, c_int, c_int, Raw, Stream) -> Code;
        c"ncclBroadcast" broadcast(Address, Address, usize, c_int, c_int, Raw, Stream) -> Code;
        c"ncclAllGather" all_gather(Address, Address, usize, c_int, Raw, Stream) -> Code;
        c"ncclReduceScatter" reduce_scatter(Address, Address, usize, c_int, c_int, Raw, Stream) -> Code;
        c"ncclSend" send(Address, usize, c_int, c_int, Raw, Stream) -> Code;
        c"ncclRecv" recv(Address, usize, c_int, c_int, Raw, Stream) -> Code;
        c"ncclGroupStart" group_start() -> Code;
        c"ncclGroupEnd" group_end() -> Code;
    }
    optional {
        c"ncclGetLastError" get_last_error(Raw) -> *const c_char;
        c"ncclCommInitRankConfig" comm_init_rank_config(*mut Raw, c_int, UniqueId, c_int, *mut Configuration) -> Code;
        c"ncclCommFinalize" comm_finalize(Raw) -> Code;
        c"ncclCommSplit" comm_split(Raw, c_int, c_int, *mut Raw, *mut Configuration) -> Code;
        c"ncclAlltoAll" all_to_all(Address, Address, usize, c_int, Raw, Stream) -> Code;
    }
}

/// NVIDIA's NCCL, found. Cheap to clone; Send and Sync.
///
/// ```
/// use ringfold::backend::nccl::Library;
/// match Library::find(None) {
///     Ok(nccl) => println!("NCCL {} at {}", nccl.version(), nccl.place()),
///     Err(error) => assert!(error.to_string().contains("libnccl.so.2")),
/// }
/// ```
#[derive(Clone)]
pub struct Library(Arc<Loaded>);

struct Loaded {
    functions: Functions,
    place: String,
    code: i32,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("place", &self.0.place).field("version", &self.version()).finish()
    }
}

/// A version of NCCL. Written as NVIDIA writes it: 2.18.5.
///
/// ```
/// use ringfold::backend::nccl::Version;
/// assert_eq!(Version::from_code(21805).to_string(), "2.18.5");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: i32,
    /// The second.
    pub minor: i32,
    /// The third.
    pub patch: i32,
}

impl Version {
    /// The version of a number in which `ncclGetVersion` tells it: 2804 is 2.8.4, 21805 is 2.18.5.
    pub fn from_code(code: i32) -> Version {
        let thousands = if code < 10_000 { 1_000 } else { 10_000 };
        Version { major: code / thousands, minor: code % thousands / 100, patch: code % 100 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Library {
    /// Finds the library: the given file, else `libnccl.so.2` by the system's loader. Nothing else is searched: where it lies among
    /// Python's packages, name it, or let Python load it first.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) with what was looked for, where, and why it failed; or with the functions that what
    /// was found lacks.
    pub fn find(given: Option<&Path>) -> Result<Library> {
        let library = Dynamic::find(&Search {
            what: "NCCL's library",
            given,
            names: &["libnccl.so.2", "libnccl.so"],
            variable: "RINGFOLD_NCCL",
            remedy: "install NVIDIA's NCCL (libnccl2, or the Python package nvidia-nccl-cu12)",
        })?;
        let functions = Functions::load(&library)?;
        let place = library.place.clone();
        // It stays: see `cuda`.
        std::mem::forget(library);
        let mut code = 0;
        // SAFETY: the number is this function's.
        let told = unsafe { (functions.get_version)(&mut code) };
        let loaded = Library(Arc::new(Loaded { functions, place, code }));
        loaded.check("ncclGetVersion", told)?;
        Ok(loaded)
    }

    /// Where the library was found, as the loader was asked for it.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// Its version.
    pub fn version(&self) -> Version {
        Version::from_code(self.0.code)
    }

    /// What the library says of a result code.
    pub fn error_string(&self, code: i32) -> String {
        // SAFETY: any number may be asked about; the text stays.
        let text = unsafe { (self.raw().get_error_string)(code) };
        words(text).unwrap_or_else(|| format!("result {code}"))
    }

    /// A name for a new group. One rank makes it and gives it to the others.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) where NCCL refuses: where it finds no network interface, for one.
    pub fn unique_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: the name is this function's.
        let code = unsafe { (self.raw().get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// Whether it makes groups and ends them without blocking: from 2.14.
    pub fn is_non_blocking(&self) -> bool {
        self.raw().comm_init_rank_config.is_some() && self.raw().comm_finalize.is_some()
    }

    /// Whether it divides groups by itself: from 2.18.
    pub fn splits(&self) -> bool {
        self.raw().comm_split.is_some()
    }

    /// Whether it has an all_to_all of its own: from 2.28.
    pub fn has_all_to_all(&self) -> bool {
        self.raw().all_to_all.is_some()
    }

    /// The number of an element type, where it reduces that.
    pub(super) fn dtype(&self, dtype: DType) -> Option<c_int> {
        Some(match dtype {
            DType::I8 => 0,
            DType::U8 => 1,
            DType::I32 => 2,
            DType::U32 => 3,
            DType::I64 => 4,
            DType::U64 => 5,
            DType::F16 => 6,
            DType::F32 => 7,
            DType::F64 => 8,
            // From 2.10, which also is older than what a group needs.
            DType::BF16 if self.0.code >= 21000 => 9,
            _ => return None,
        })
    }

    /// Fails where it cannot reduce so.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported).
    pub fn check_reduction(&self, op: ReduceOp, dtype: DType) -> Result<()> {
        if self.dtype(dtype).is_none() {
            let text = format!("NCCL {} does not reduce {dtype}", self.version());
            return Err(Error::unsupported(text)
                .remedy("use another type, such as i32 or f32, or a backend of the host"));
        }
        if reduction(op).is_none() {
            let text = format!("NCCL {} has no {op}", self.version());
            return Err(
                Error::unsupported(text).remedy("use sum, prod, min, max or mean, or a backend of the host")
            );
        }
        Ok(())
    }

    pub(super) fn raw(&self) -> &Functions {
        &self.0.functions
    }

    /// Fails where a result is neither success nor that it goes on; tells whether it is success.
    #[inline]
    pub(super) fn check(&self, function: &'static str, code: Code) -> std::result::Result<bool, Refusal> {
        match code {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            _ => Err(self.refusal(function, code, std::ptr::null_mut())),
        }
    }

    /// A failed function of a communicator, in NCCL's words.
    #[cold]
    pub(super) fn refusal(&self, function: &'static str, code: Code, comm: Raw) -> Refusal {
        let name = match code {
            UNHANDLED_CUDA_ERROR => "ncclUnhandledCudaError",
            SYSTEM_ERROR => "ncclSystemError",
            INTERNAL_ERROR => "ncclInternalError",
            INVALID_ARGUMENT => "ncclInvalidArgument",
            INVALID_USAGE => "ncclInvalidUsage",
            REMOTE_ERROR => "ncclRemoteError",
            TIMEOUT => "ncclTimeout",
            _ => "a result that this version does not know",
        };
        let mut text = format!("{function} failed with {name} ({})", self.error_string(code));
        // SAFETY: the communicator is null or one of NCCL's, which it may look at after a failure; the text is read at once.
        let last = self.raw().get_last_error.and_then(|ask| words(unsafe { ask(comm) }));
        if let Some(last) = last.filter(|last| !last.is_empty()) {
            text.push_str(": ");
            text.push_str(&last);
        }
        Refusal { code, text }
    }
}

/// A function of NCCL's that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Refusal {
    /// Whether it is about the way to other ranks, not about this one.
    pub(super) fn is_of_the_network(&self) -> bool {
        matches!(self.code, SYSTEM_ERROR | REMOTE_ERROR | TIMEOUT)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::Io, refusal.text).remedy("set NCCL_DEBUG=WARN, and see what NCCL says")
    }
}

impl From<crate::cuda::Failure> for Refusal {
    fn from(failure: crate::cuda::Failure) -> Refusal {
        Refusal { code: UNHANDLED_CUDA_ERROR, text: failure.to_string() }
    }
}

/// The number of a reduction, where NCCL has it.
pub(super) fn reduction(op: ReduceOp) -> Option<c_int> {
    Some(match op {
        ReduceOp::Sum => 0,
        ReduceOp::Prod => 1,
        ReduceOp::Max => 2,
        ReduceOp::Min => 3,
        ReduceOp::Mean => 4,
        _ => return None,
    })
}

/// A text of NCCL's, on one line.
fn words(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: NCCL's texts end with a zero and stay for now.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_both_ways_of_writing() {
        assert_eq!(Version::from_code(2804).to_string(), "2.8.4");
        assert_eq!(Version::from_code(21805).to_string(), "2.18.5");
        assert_eq!(Version::from_code(23203).to_string(), "2.32.3");
        assert!(Version::from_code(2804) < Version::from_code(21000));
    }

    #[test]
    fn the_configuration_is_laid_out_as_in_the_header_of_2_14() {
        assert_eq!(size_of::<Configuration>(), 24);
        assert_eq!(std::mem::offset_of!(Configuration, magic), 8);
        assert_eq!(std::mem::offset_of!(Configuration, version), 12);
        assert_eq!(std::mem::offset_of!(Configuration, blocking), 16);
        assert_eq!((size_of::<UniqueId>(), align_of::<UniqueId>()), (128, 1));
    }

    #[test]
    fn absence_says_what_was_looked_for() {
        let error = Library::find(Some(Path::new("/nowhere/libnccl.so.2"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("/nowhere/libnccl.so.2"), "{error}");
        let error = Library::find(Some(Path::new("libc.so.6"))).unwrap_err();
        assert!(error.to_string().contains("lacks ncclGetVersion"), "{error}");
    }
}
