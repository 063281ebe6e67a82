//! A device that there is not: its memory has addresses at which nothing can be read or written, so that whoever goes there instead
//! of having it copied is ended by a signal. What is in it lies elsewhere, and copies are made by a thread of the device's, one
//! after another.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use ringfold::memory::device_memory::{Copying, DeviceMemory, Moving, Pinned, Way};
use ringfold::tensor::{DType, Device, TensorMut, TensorRef};
use ringfold::{Error, ErrorKind, Result};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which device it is.
pub(crate) const HERE: Device = Device::Cuda(5);

/// What becomes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails.
    Fails,
    /// It is never over.
    Hangs,
    /// It is refused.
    Refused,
}

/// A piece of the device's memory.
struct Block {
    /// Where it is said to be.
    there: usize,
    /// What is in it, as bytes.
    content: Mutex<Vec<u8>>,
}

/// Copies `bytes` bytes between a block, from `at` on, and the host.
struct Job {
    block: Arc<Block>,
    at: usize,
    here: usize,
    bytes: usize,
    way: Way,
    fault: Option<Fault>,
    done: Sender<Result<()>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

/// The device.
pub(crate) struct Fake {
    blocks: Mutex<Vec<Arc<Block>>>,
    /// The copies in the order in which they began: which way, and how many bytes.
    pub(crate) log: Mutex<Vec<(Way, usize)>>,
    /// The streams that copies were to follow, where that was said.
    pub(crate) streams: Mutex<Vec<usize>>,
    /// What becomes of the copy of this number, counted from 0.
    pub(crate) fault: Mutex<Option<(usize, Fault)>>,
    pinned: Arc<AtomicUsize>,
    jobs: Mutex<Sender<Job>>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        let (jobs, taken) = channel::<Job>();
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for job in taken {
                let result = match job.fault {
                    Some(Fault::Hangs) => {
                        hanging.push(job.done);
                        continue;
                    }
                    Some(_) => Err(Error::new(ErrorKind::Io, "the device has caught fire")),
                    None => {
                        let mut content = job.block.content.lock().unwrap();
                        let there = &mut content[job.at..job.at + job.bytes];
                        // SAFETY: who has begun the copy leaves this memory alone until it is over.
                        let here = unsafe { std::slice::from_raw_parts_mut(job.here as *mut u8, job.bytes) };
                        match job.way {
                            Way::ToHost => here.copy_from_slice(there),
                            Way::ToDevice => there.copy_from_slice(here),
                        }
                        Ok(())
                    }
                };
                drop(job.done.send(result));
            }
        });
        Arc::new(Fake {
            blocks: Mutex::default(),
            log: Mutex::default(),
            streams: Mutex::default(),
            fault: Mutex::default(),
            pinned: Arc::default(),
            jobs: Mutex::new(jobs),
        })
    }

    /// How many pieces of pinned memory there are.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Ordering::SeqCst)
    }

    /// Memory of the device with these elements in it.
    pub(crate) fn holding(self: &Arc<Self>, data: &[f32]) -> Held {
        let bytes = size_of_val(data);
        let content: Vec<u8> = data.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let length = NonZeroUsize::new(bytes.max(1)).unwrap();
        // SAFETY: fresh addresses, which nothing lies at.
        let there =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }.unwrap();
        let block = Arc::new(Block { there: there.as_ptr() as usize, content: Mutex::new(content) });
        self.blocks.lock().unwrap().push(Arc::clone(&block));
        Held { block, count: data.len(), device: Arc::clone(self) }
    }
}

// SAFETY: a copy tells that it is over once the device's thread has made it.
unsafe impl DeviceMemory for Fake {
    fn pinned(&self, device: Device, bytes: usize) -> Result<Box<dyn Pinned>> {
        assert_eq!(device, HERE);
        self.pinned.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Memory { bytes: vec![0xAA; bytes], count: Arc::clone(&self.pinned) }))
    }

    unsafe fn start(&self, copying: Copying) -> Result<Box<dyn Moving>> {
        let Copying { device, there, here, bytes, way, stream } = copying;
        assert_eq!(device, HERE);
        let mut log = self.log.lock().unwrap();
        let fault = self.fault.lock().unwrap().filter(|(number, _)| *number == log.len());
        log.push((way, bytes));
        self.streams.lock().unwrap().extend(stream.map(|stream| stream.as_raw() as usize));
        if fault.is_some_and(|(_, fault)| fault == Fault::Refused) {
            return Err(Error::new(ErrorKind::Io, "the device is on strike"));
        }
        let blocks = self.blocks.lock().unwrap();
        let there = there as usize;
        let holds = |block: &&Arc<Block>| {
            let length = block.content.lock().unwrap().len();
            there >= block.there && there + bytes <= block.there + length
        };
        let block = Arc::clone(blocks.iter().find(holds).expect("memory of the device"));
        let (done, over) = channel();
        let fault = fault.map(|(_, fault)| fault);
        let at = there - block.there;
        self.jobs
            .lock()
            .unwrap()
            .send(Job { block, at, here: here as usize, bytes, way, fault, done })
            .unwrap();
        Ok(Box::new(Copy(over)))
    }
}

struct Copy(Receiver<Result<()>>);

impl Moving for Copy {
    fn finish(&mut self, within: Duration) -> Result<bool> {
        match self.0.recv_timeout(within) {
            Ok(result) => result.map(|()| true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => panic!("the device has gone"),
        }
    }
}

struct Memory {
    bytes: Vec<u8>,
    count: Arc<AtomicUsize>,
}

// SAFETY: a vector's memory, which nobody else touches and which stays where it is.
unsafe impl Pinned for Memory {
    fn address(&self) -> *mut u8 {
        self.bytes.as_ptr().cast_mut()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Elements in the device's memory.
pub(crate) struct Held {
    block: Arc<Block>,
    count: usize,
    device: Arc<Fake>,
}

impl Held {
    pub(crate) fn view(&self) -> TensorRef<'_> {
        let there = self.block.there as *const u8;
        // SAFETY: it is there on the device, as long as this is borrowed.
        unsafe { TensorRef::from_raw(there, DType::F32, &[self.count], None, HERE) }.unwrap()
    }

    pub(crate) fn view_mut(&mut self) -> TensorMut<'_> {
        let there = self.block.there as *mut u8;
        // SAFETY: as above, exclusively.
        unsafe { TensorMut::from_raw(there, DType::F32, &[self.count], None, HERE) }.unwrap()
    }

    /// What is in it.
    pub(crate) fn content(&self) -> Vec<f32> {
        let content = self.block.content.lock().unwrap();
        content.chunks_exact(4).map(|four| f32::from_ne_bytes(four.try_into().unwrap())).collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.device.blocks.lock().unwrap().retain(|block| block.there != self.block.there);
        let there = NonNull::new(self.block.there as *mut c_void).unwrap();
        // SAFETY: it was mapped by `holding`, and is nobody's any more.
        unsafe { munmap(there, (self.count * 4).max(1)) }.unwrap();
    }
}
