//! The driver's functions, raw and checked.
//!
//! Names and types are those of `cuda.h`; where a function has several versions, the newest is taken that drivers for CUDA 11
//! have.

use super::dynamic::{Dynamic, Search, table};
use crate::error::{Error, ErrorKind, Result};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

type Code = c_int;
type Handle = *mut c_void;
/// An address on a device.
type Address = u64;

const SUCCESS: Code = 0;
/// What was asked about is not over yet.
pub(super) const NOT_READY: Code = 600;

table! {
    /// The functions.
    pub(super) struct Functions is "CUDA driver";
    required {
        c"cuInit" init(c_uint) -> Code;
        c"cuDriverGetVersion" driver_get_version(*mut c_int) -> Code;
        c"cuGetErrorName" get_error_name(Code, *mut *const c_char) -> Code;
        c"cuGetErrorString" get_error_string(Code, *mut *const c_char) -> Code;
        c"cuDeviceGetCount" device_get_count(*mut c_int) -> Code;
        c"cuDeviceGet" device_get(*mut c_int, c_int) -> Code;
        c"cuDeviceGetName" device_get_name(*mut c_char, c_int, c_int) -> Code;
        c"cuDeviceGetPCIBusId" device_get_pci_bus_id(*mut c_char, c_int, c_int) -> Code;
        c"cuDeviceGetUuid" device_get_uuid(*mut [u8; 16], c_int) -> Code;
        c"cuDevicePrimaryCtxRetain" primary_ctx_retain(*mut Handle, c_int) -> Code;
        c"cuDevicePrimaryCtxRelease_v2" primary_ctx_release(c_int) -> Code;
        c"cuCtxPushCurrent_v2" ctx_push(Handle) -> Code;
        c"cuCtxPopCurrent_v2" ctx_pop(*mut Handle) -> Code;
        c"cuStreamCreate" stream_create(*mut Handle, c_uint) -> Code;
        c"cuStreamDestroy_v2" stream_destroy(Handle) -> Code;
        c"cuStreamQuery" stream_query(Handle) -> Code;
        c"cuStreamSynchronize" stream_synchronize(Handle) -> Code;
        c"cuStreamWaitEvent" stream_wait_event(Handle, Handle, c_uint) -> Code;
        c"cuEventCreate" event_create(*mut Handle, c_uint) -> Code;
        c"cuEventDestroy_v2" event_destroy(Handle) -> Code;
        c"cuEventRecord" event_record(Handle, Handle) -> Code;
        c"cuEventQuery" event_query(Handle) -> Code;
        c"cuMemAlloc_v2" mem_alloc(*mut Address, usize) -> Code;
        c"cuMemFree_v2" mem_free(Address) -> Code;
        c"cuMemHostAlloc" mem_host_alloc(*mut *mut c_void, usize, c_uint) -> Code;
        c"cuMemFreeHost" mem_free_host(*mut c_void) -> Code;
        c"cuMemcpyHtoDAsync_v2" memcpy_htod(Address, *const c_void, usize, Handle) -> Code;
        c"cuMemcpyDtoHAsync_v2" memcpy_dtoh(*mut c_void, Address, usize, Handle) -> Code;
        c"cuMemcpyDtoDAsync_v2" memcpy_dtod(Address, Address, usize, Handle) -> Code;
        c"cuPointerGetAttribute" pointer_get_attribute(*mut c_void, c_int, Address) -> Code;
    }
    optional {
        c"cuDeviceGetUuid_v2" device_get_uuid_of_slice(*mut [u8; 16], c_int) -> Code;
    }
}

/// NVIDIA's driver, found and begun. Cheap to clone; Send and Sync.
///
/// ```
/// use ringfold::cuda::Driver;
/// // Where there is none, the error says what was looked for where.
/// if let Err(error) = Driver::find(None) {
///     assert!(error.to_string().contains("libcuda.so.1") || error.to_string().contains("cuInit"));
/// }
/// ```
#[derive(Clone)]
pub struct Driver(Arc<Loaded>);

struct Loaded {
    functions: Functions,
    place: String,
    version: i32,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("place", &self.0.place).field("version", &self.0.version).finish()
    }
}

/// A CUDA device, as this process counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaDevice {
    /// Its ordinal.
    pub ordinal: u32,
    /// What it calls itself.
    pub name: String,
    /// Its UUID, as `nvidia-smi` writes it: `GPU-…`, of a slice `MIG-…`.
    pub uuid: String,
    /// The PCI address of the whole device: `0000:01:00.0`.
    pub pci: String,
}

/// A function of the driver that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(ErrorKind::Io, failure.0)
    }
}

impl Driver {
    /// Finds the driver's library: the given file, else `libcuda.so.1` by the system's loader. Begins it.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) where there is none, or none that works: with what was looked for, where, and
    /// why it failed.
    pub fn find(given: Option<&Path>) -> Result<Driver> {
        let library = Dynamic::find(&Search {
            what: "the CUDA driver's library",
            given,
            names: &["libcuda.so.1", "libcuda.so"],
            variable: "RINGFOLD_CUDA",
            remedy: "install NVIDIA's driver",
        })?;
        let functions = Functions::load(&library)?;
        let place = library.place.clone();
        // It stays: see the module.
        std::mem::forget(library);
        let mut driver = Loaded { functions, place, version: 0 };
        let unavailable = |failure: Failure| {
            let text = format!("the CUDA driver of {} does not begin: {failure}", driver.place);
            Error::new(ErrorKind::Unavailable, text).remedy("see what nvidia-smi says on this host")
        };
        let functions = &driver.functions;
        // SAFETY: no flags are the only ones that there are.
        check(functions, "cuInit", unsafe { (functions.init)(0) }).map_err(unavailable)?;
        let mut version = 0;
        // SAFETY: the version is this function's.
        let code = unsafe { (functions.driver_get_version)(&mut version) };
        check(functions, "cuDriverGetVersion", code).map_err(unavailable)?;
        driver.version = version;
        Ok(Driver(Arc::new(driver)))
    }

    /// Where the library was found, as the loader was asked for it.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// The newest CUDA that it knows: 12040 is 12.4.
    pub fn version(&self) -> i32 {
        self.0.version
    }

    pub(super) fn raw(&self) -> &Functions {
        &self.0.functions
    }

    /// Fails where a return code is not that of success.
    #[inline]
    pub(super) fn check(&self, function: &'static str, code: Code) -> std::result::Result<(), Failure> {
        check(&self.0.functions, function, code)
    }

    /// How many devices this process sees.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) where the driver does not say.
    pub fn count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: the count is this function's.
        self.check("cuDeviceGetCount", unsafe { (self.raw().device_get_count)(&mut count) })?;
        Ok(count.max(0) as u32)
    }

    /// The device with this ordinal.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) where there is none; [`Io`](ErrorKind::Io) where the driver does not say.
    pub fn device(&self, ordinal: u32) -> Result<CudaDevice> {
        let count = self.count()?;
        if ordinal >= count {
            let text = format!("CUDA device {ordinal}, and this process sees {count}");
            return Err(Error::new(ErrorKind::Unavailable, text)
                .remedy("see CUDA_VISIBLE_DEVICES, nvidia-smi and RINGFOLD_CUDA_DEVICE"));
        }
        let (raw, device) = (self.raw(), self.handle(ordinal)?);
        let (mut name, mut pci) = ([0 as c_char; 256], [0 as c_char; 32]);
        // SAFETY: each text is as long as is said, and ends with a zero.
        unsafe {
            self.check("cuDeviceGetName", (raw.device_get_name)(name.as_mut_ptr(), 255, device))?;
            self.check("cuDeviceGetPCIBusId", (raw.device_get_pci_bus_id)(pci.as_mut_ptr(), 31, device))?;
        }
        // SAFETY: zeros stand behind what the driver may write.
        let [name, pci] =
            [name.as_ptr(), pci.as_ptr()].map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy());
        let (mut whole, mut own) = ([0; 16], [0; 16]);
        // SAFETY: a UUID has 16 bytes.
        self.check("cuDeviceGetUuid", unsafe { (raw.device_get_uuid)(&mut whole, device) })?;
        own.copy_from_slice(&whole);
        if let Some(get_uuid) = raw.device_get_uuid_of_slice {
            // SAFETY: as above.
            self.check("cuDeviceGetUuid_v2", unsafe { get_uuid(&mut own, device) })?;
        }
        let kind = if own == whole { "GPU" } else { "MIG" };
        Ok(CudaDevice {
            ordinal,
            name: name.into_owned(),
            uuid: format!("{kind}-{}", hexadecimal(&own)),
            pci: pci.to_ascii_lowercase(),
        })
    }

    pub(super) fn handle(&self, ordinal: u32) -> std::result::Result<c_int, Failure> {
        let mut device = 0;
        let wanted = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: the handle is this function's.
        self.check("cuDeviceGet", unsafe { (self.raw().device_get)(&mut device, wanted) })?;
        Ok(device)
    }
}

/// A UUID as people write it.
fn hexadecimal(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[inline]
fn check(functions: &Functions, function: &'static str, code: Code) -> std::result::Result<(), Failure> {
    if code == SUCCESS { Ok(()) } else { Err(failure(functions, function, code)) }
}

#[cold]
fn failure(functions: &Functions, function: &'static str, code: Code) -> Failure {
    let told = |ask: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
        let mut text = std::ptr::null();
        // SAFETY: the driver writes an address of a text that stays, or null.
        let known = unsafe { ask(code, &mut text) } == SUCCESS && !text.is_null();
        // SAFETY: as above.
        known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let name = told(functions.get_error_name).unwrap_or_else(|| format!("code {code}"));
    let text = told(functions.get_error_string).map_or(String::new(), |text| format!(": {text}"));
    Failure(format!("{function} failed with {name}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_people_do() {
        let bytes = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(hexadecimal(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_file_that_is_no_driver_is_refused_with_its_name() {
        let error = Driver::find(Some(Path::new("libc.so.6"))).unwrap_err();
        assert!(error.to_string().contains("it lacks cuInit"), "{error}");
        let error = Driver::find(Some(Path::new("/nowhere/libcuda.so.1"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("/nowhere/libcuda.so.1"), "{error}");
    }
}
