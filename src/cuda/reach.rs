//! Copies between the host and CUDA devices, for backends that work on the host's memory.

use super::context::{Context, Event, Pinned};
use super::driver::Driver;
use crate::error::{Error, Result};
use crate::memory::device_memory::{self, Copying, DeviceMemory, Moving, Way};
use crate::tensor::Device;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long to go on looking at once, and how long between later looks at most.
const LOOKING: Duration = Duration::from_micros(50);
const REST: Duration = Duration::from_micros(200);

/// The CUDA devices of this process, as [`DeviceMemory`]. The driver is looked for when a device is first reached. Send and Sync.
///
/// ```
/// use ringfold::cuda::Reach;
/// use ringfold::memory::device_memory::DeviceMemory;
/// use ringfold::tensor::Device;
/// let nowhere = Reach::by(Some("/nowhere/libcuda.so.1".into()));
/// let error = nowhere.pinned(Device::Cuda(0), 100).err().expect("there is no driver");
/// assert!(error.to_string().contains("/nowhere/libcuda.so.1"));
/// ```
#[derive(Default)]
pub struct Reach {
    file: Option<PathBuf>,
    contexts: Mutex<BTreeMap<u32, Arc<Context>>>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reach {
    /// By the driver's library in this file; by what the system's loader finds, where none is named.
    pub fn by(file: Option<PathBuf>) -> Reach {
        Reach { file, ..Reach::default() }
    }

    fn context(&self, device: Device) -> Result<Arc<Context>> {
        let Device::Cuda(ordinal) = device else {
            return Err(Error::unsupported(format!("the CUDA driver does not copy to and from {device}")));
        };
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&ordinal) {
            return Ok(Arc::clone(context));
        }
        let context = Context::new(&Driver::find(self.file.as_deref())?, ordinal)?;
        contexts.insert(ordinal, Arc::clone(&context));
        Ok(context)
    }
}

// SAFETY: the driver gives so many bytes, written once; they stay where they are until they are freed.
unsafe impl device_memory::Pinned for Pinned {
    fn address(&self) -> *mut u8 {
        self.pointer()
    }
}

// SAFETY: a copy is over once its stream has come to the event behind it, and has copied all then.
unsafe impl DeviceMemory for Reach {
    fn pinned(&self, device: Device, bytes: usize) -> Result<Box<dyn device_memory::Pinned>> {
        Ok(Box::new(Pinned::new(&self.context(device)?, bytes)?))
    }

    unsafe fn start(&self, copying: Copying) -> Result<Box<dyn Moving>> {
        let Copying { device, there, here, bytes, way, stream } = copying;
        let context = self.context(device)?;
        let behind = Event::new(&context)?;
        let (there, stream) = (there.addr() as u64, stream.unwrap_or_default());
        let _entered = context.enter()?;
        // SAFETY: the caller's promise.
        unsafe {
            match way {
                Way::ToHost => context.copy_out(here, there, bytes, stream),
                Way::ToDevice => context.copy_in(there, here, bytes, stream),
            }?;
            if let Err(failure) = behind.record(stream) {
                // The copy is queued: what is left is to wait for it, or for the device to give up.
                context.come_to_an_end(stream);
                return Err(failure.into());
            }
        }
        Ok(Box::new(Behind(behind)))
    }
}

/// A copy that is over when the stream has come to this.
struct Behind(Event);

impl Moving for Behind {
    fn finish(&mut self, within: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            if self.0.is_over()? {
                return Ok(true);
            }
            match begun.elapsed() {
                passed if passed >= within => return Ok(false),
                passed if passed < LOOKING => std::thread::yield_now(),
                passed => std::thread::sleep(REST.min(within - passed)),
            }
        }
    }
}
