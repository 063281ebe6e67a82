//! Tensors of devices in calls whose backend works on the host's memory: copied to the host, worked on there, and copied back.
//!
//! Where a collective can be done a portion at a time (all_reduce, reduce, broadcast), it is, as an operation for each: while one is
//! worked on, the next one is copied to the host and the one before back. Ranks must agree on that, so it follows from the options
//! and the request alone: ranks whose tensors are on the host go the same way, without any copies. Else the whole tensors are copied.

use super::batch::fuses;
use super::call::Call;
use super::execute::{Checked, offsets};
use super::packed::Packed;
use super::site::Site;
use super::tensors::Tensors;
use super::{Communicator, Options, With};
use crate::backend::Buffers;
use crate::collective::{Counts, Request};
use crate::cuda::Reach;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::device_memory::{Copying, DeviceMemory, Moving, Pinned, Way};
use crate::tensor::{Device, Stream};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bytes of a portion: large enough that neither a copy nor an operation is mostly latency, and small enough to be in the caches.
const PORTION: usize = 4 << 20;

/// How many portions have room at once: one that comes, one that is worked on, one that goes.
const SLOTS: usize = 3;

/// How many pieces of pinned memory of at most a portion a communicator keeps: to pin memory takes longer than to copy it.
const KEPT: usize = 2 * SLOTS;

/// What a communicator has for calls that are staged.
#[derive(Default)]
pub(super) struct Means {
    memory: Option<Arc<dyn DeviceMemory>>,
    kept: Vec<Kept>,
}

impl Means {
    /// The same without memory of its own, for another communicator.
    pub(super) fn again(&self) -> Self {
        Means { memory: self.memory.clone(), kept: Vec::new() }
    }
}

/// Pinned memory, and what it is good for.
struct Kept {
    device: Device,
    bytes: usize,
    pinned: Box<dyn Pinned>,
}

/// One of the tensors, as the host sees it.
struct Side {
    pointer: *mut u8,
    device: Device,
}

/// Room for a portion of a tensor, and the copy that it is in.
#[derive(Default)]
struct Room {
    pinned: Option<Kept>,
    moving: Option<Box<dyn Moving>>,
}

impl Room {
    fn address(&self) -> *mut u8 {
        self.pinned.as_ref().map_or(std::ptr::null_mut(), |kept| kept.pinned.address())
    }
}

/// A call that is staged.
struct Stage {
    memory: Arc<dyn DeviceMemory>,
    stream: Option<Stream>,
    until: Instant,
    input: Side,
    /// Of one tensor, that of both.
    output: Side,
    in_place: bool,
    /// The rooms of portions, in turn: that of the input and that of the output.
    rooms: [(Room, Room); SLOTS],
}

impl With<'_> {
    /// Carries out a call under [`Options::staging`](crate::Options::staging), over a backend that works on the host's memory.
    #[cold]
    pub(super) fn execute_staged(&self, call: &Call<'_>, mut tensors: Tensors<'_>) -> Result<()> {
        let comm = self.communicator;
        if self.options.pack == Some(true) && tensors.can_be_packed() {
            let mut packed = Packed::new(tensors).map_err(|error| comm.line.complete(error))?;
            let mut dense = packed.tensors();
            let writes = self.check_dense(call, &mut dense)?.request.output_len(comm.rank) > 0;
            let options = Options { reused: true, ..self.options.clone() };
            With { communicator: comm, options }.execute_staged(call, dense)?;
            if writes {
                packed.unpack();
            }
            return Ok(());
        }
        let mut checked = self.check_dense(call, &mut tensors)?;
        let places = tensors.places();
        let each = PORTION / checked.request.element_size().max(1);
        let in_portions = fuses(&checked.request) && checked.request.whole() > each;
        if places == (Device::Host, Device::Host) && !in_portions {
            return self.execute_here(call, tensors);
        }
        // What no algorithm does is refused before anything is copied.
        let course = self.course(&mut checked.request)?;
        comm.check_origin()?;
        let until = Instant::now().checked_add(course.timeout);
        let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(u32::MAX.into()));
        let memory = comm.device_memory(places).map_err(|error| comm.line.complete(error))?;
        let whole = checked.request.whole();
        let portions: Vec<Range<usize>> = match in_portions {
            true => (0..whole).step_by(each).map(|from| from..(from + each).min(whole)).collect(),
            false => std::iter::once(0..whole).collect(),
        };
        let (input, output, in_place) = match &mut tensors {
            Tensors::InPlace(tensor) => {
                let (pointer, device) = (tensor.pointer(), places.0);
                (Side { pointer, device }, Side { pointer, device }, true)
            }
            Tensors::Apart(from, to) => (
                Side { pointer: from.pointer().cast_mut(), device: places.0 },
                Side { pointer: to.pointer(), device: places.1 },
                false,
            ),
        };
        // Of tensors that go whole.
        let (size, lens) = (checked.request.dtype.size(), tensors.lens());
        let bytes = (!in_portions).then_some((lens.0 * size, lens.1 * size));
        let stream = self.options.stream;
        let mut stage = Stage { memory, stream, until, input, output, in_place, rooms: Default::default() };
        let furnished =
            stage.furnish(&checked.request, &portions, bytes, &mut comm.staging.borrow_mut().kept);
        furnished.map_err(|error| comm.line.complete(error))?;
        // SAFETY: the tensors are borrowed until this returns, and the stage lives no longer.
        let result = unsafe { self.run_staged(&mut stage, &checked, &portions, bytes) };
        drop(tensors);
        stage.give_back(&mut comm.staging.borrow_mut().kept);
        result
    }

    /// # Safety
    /// The stage's tensors are those that were checked, and borrowed as long as this takes.
    unsafe fn run_staged(
        &self,
        stage: &mut Stage,
        checked: &Checked,
        portions: &[Range<usize>],
        bytes: Option<(usize, usize)>,
    ) -> Result<()> {
        let comm = self.communicator;
        let (reads, writes) =
            (checked.request.input_len(comm.rank) > 0, checked.request.output_len(comm.rank) > 0);
        let size = checked.request.element_size();
        let spans: Vec<(Range<usize>, Range<usize>)> = portions
            .iter()
            .map(|portion| match bytes {
                Some((input, output)) => (0..input, 0..output),
                None => {
                    let span = portion.start * size..portion.end * size;
                    (span.clone(), span)
                }
            })
            .collect();
        let mut run = || -> Result<()> {
            let spoil = |error: Error| comm.spoilt_by_copy(error);
            if reads {
                // SAFETY: the caller's promise.
                unsafe { stage.load(0, &spans[0].0) }.map_err(spoil)?;
            }
            for (turn, portion) in portions.iter().enumerate() {
                stage.settle(turn).map_err(spoil)?;
                if turn + 1 < portions.len() {
                    stage.settle(turn + 1).map_err(spoil)?;
                    if reads {
                        // SAFETY: as above; the room's last copy has ended.
                        unsafe { stage.load(turn + 1, &spans[turn + 1].0) }.map_err(spoil)?;
                    }
                }
                let mut request = checked.request.clone();
                if bytes.is_none() {
                    request.counts = Counts::Same(portion.len());
                }
                let mut course = self.course(&mut request)?;
                course.timeout = stage.left();
                let at = offsets(&request, comm.rank);
                let buffers = stage.buffers(turn, &spans[turn], at);
                let site = Site { reused: true, ..Site::default() };
                // SAFETY: the memory is the stage's, or borrowed by the caller, as long as the request says, and left to the
                // operation until it is complete, which `run` waits for.
                let operation =
                    unsafe { comm.next(&request, &course, buffers, checked.custom.as_ref(), site) };
                comm.run(&mut Some(operation))?;
                if writes {
                    // SAFETY: as above.
                    unsafe { stage.store(turn, &spans[turn].1) }.map_err(spoil)?;
                }
            }
            Ok(())
        };
        let result = run();
        // Whatever has become of the call, its copies end before its memory is anybody else's.
        let mut settled = Ok(());
        for turn in 0..SLOTS {
            settled = settled.and(stage.settle(turn));
        }
        match (result, settled) {
            (Ok(()), settled) => settled.map_err(|error| comm.spoilt_by_copy(error)),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(also)) => Err(error.remedy(also.message().to_owned())),
        }
    }
}

impl Communicator {
    /// Gives the communicator what copies between the host and devices, for calls under
    /// [`Options::staging`](crate::Options::staging); groups that are split off later have it, too. Default: CUDA's driver
    /// ([`cuda::Reach`](crate::cuda::Reach)), where this process has it.
    pub fn reach_devices_by(&self, memory: Arc<dyn DeviceMemory>) {
        self.staging.replace(Means { memory: Some(memory), kept: Vec::new() });
    }

    /// What reaches the devices of input and output; any, where neither is on one.
    fn device_memory(&self, places: (Device, Device)) -> Result<Arc<dyn DeviceMemory>> {
        if let Some(memory) = &self.staging.borrow().memory {
            return Ok(Arc::clone(memory));
        }
        if places == (Device::Host, Device::Host) {
            return Ok(Arc::new(Nowhere));
        }
        let memory: Arc<dyn DeviceMemory> = Arc::new(Reach::default());
        self.staging.borrow_mut().memory = Some(Arc::clone(&memory));
        Ok(memory)
    }

    /// The error of a copy that has failed in the middle of a call: the others are in it, so the group has failed.
    fn spoilt_by_copy(&self, error: Error) -> Error {
        self.abort.abort(&format!("a copy between host and device failed: {}", error.message()));
        self.line.complete(error)
    }
}

/// What is asked for nothing, where no tensor is on a device.
#[derive(Debug)]
struct Nowhere;

// SAFETY: it makes no copies.
unsafe impl DeviceMemory for Nowhere {
    fn pinned(&self, device: Device, _: usize) -> Result<Box<dyn Pinned>> {
        Err(Error::unsupported(format!("memory pinned for {device}")))
    }

    unsafe fn start(&self, copying: Copying) -> Result<Box<dyn Moving>> {
        Err(Error::unsupported(format!("a copy to or from {}", copying.device)))
    }
}

impl Stage {
    /// Makes room, before anything is copied or sent.
    fn furnish(
        &mut self,
        request: &Request,
        portions: &[Range<usize>],
        bytes: Option<(usize, usize)>,
        kept: &mut Vec<Kept>,
    ) -> Result<()> {
        let portion = portions[0].len() * request.element_size();
        let (input, output) = bytes.unwrap_or((portion, portion));
        let slots = portions.len().min(SLOTS);
        let memory = &*self.memory;
        let mut room = |device: Device, bytes: usize| match kept
            .iter()
            .position(|kept| kept.device == device && kept.bytes >= bytes)
        {
            Some(index) => Ok(Some(kept.swap_remove(index))),
            None => memory.pinned(device, bytes).map(|pinned| Some(Kept { device, bytes, pinned })),
        };
        for (for_input, for_output) in &mut self.rooms[..slots] {
            if self.input.device != Device::Host && !self.in_place {
                for_input.pinned = room(self.input.device, input)?;
            }
            if self.output.device != Device::Host {
                for_output.pinned = room(self.output.device, output)?;
            }
        }
        Ok(())
    }

    /// Keeps what is in no copy and not too large for the next call.
    fn give_back(&mut self, kept: &mut Vec<Kept>) {
        for (for_input, for_output) in &mut self.rooms {
            for room in [for_input, for_output] {
                let fits = |room: &Kept| room.bytes <= PORTION && kept.len() < KEPT;
                if room.moving.is_none()
                    && let Some(room) = room.pinned.take().filter(fits)
                {
                    kept.push(room);
                }
            }
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Begins to copy what is read in a turn to the host, where it is on a device.
    ///
    /// # Safety
    /// The span is one of the input's, which is borrowed until the copy is over. The room is in no copy.
    unsafe fn load(&mut self, turn: usize, span: &Range<usize>) -> Result<()> {
        let in_place = self.in_place;
        let (for_input, for_output) = &mut self.rooms[turn % SLOTS];
        let room = if in_place { for_output } else { for_input };
        // SAFETY: the caller's promise; the room is as long as any span.
        unsafe { begin(&*self.memory, self.stream, Way::ToHost, &self.input, room, span) }
    }

    /// Begins to copy what was written in a turn to where it belongs.
    ///
    /// # Safety
    /// As [`load`](Self::load), of the output.
    unsafe fn store(&mut self, turn: usize, span: &Range<usize>) -> Result<()> {
        let room = &mut self.rooms[turn % SLOTS].1;
        // SAFETY: as above.
        unsafe { begin(&*self.memory, self.stream, Way::ToDevice, &self.output, room, span) }
    }

    /// Waits until the rooms of a turn are in no copy.
    fn settle(&mut self, turn: usize) -> Result<()> {
        let left = self.left();
        let (for_input, for_output) = &mut self.rooms[turn % SLOTS];
        let mut first = Ok(());
        for room in [for_input, for_output] {
            let Some(mut moving) = room.moving.take() else { continue };
            let over = match moving.finish(left) {
                Ok(over) => over,
                Err(error) => {
                    first = first.and(Err(error));
                    true
                }
            };
            if !over {
                // It may still be touched: so it stays for ever.
                std::mem::forget((moving, room.pinned.take()));
                let text = "a copy between host and device was not over at the deadline; it may still be under way, so leave the \
                            device's memory alone until the device has been synchronised";
                first = first.and(Err(Error::new(ErrorKind::Deadline, text)));
            }
        }
        first
    }

    /// The memory of a turn's operation, which begins so many bytes into one tensor.
    fn buffers(
        &self,
        turn: usize,
        (reads, writes): &(Range<usize>, Range<usize>),
        (input_at, output_at): (usize, usize),
    ) -> Buffers {
        let (for_input, for_output) = &self.rooms[turn % SLOTS];
        let at = |side: &Side, room: &Room, from: usize| match side.device {
            Device::Host => side.pointer.wrapping_add(from),
            _ => room.address(),
        };
        let output = at(&self.output, for_output, writes.start);
        if self.in_place {
            return Buffers { input: output.wrapping_add(input_at), output: output.wrapping_add(output_at) };
        }
        Buffers { input: at(&self.input, for_input, reads.start), output }
    }
}

/// Begins a copy, where the tensor is on a device.
///
/// # Safety
/// The span is one of the tensor's, which is borrowed until the copy is over; the room is as long, and in no copy.
unsafe fn begin(
    memory: &dyn DeviceMemory,
    stream: Option<Stream>,
    way: Way,
    side: &Side,
    room: &mut Room,
    span: &Range<usize>,
) -> Result<()> {
    if side.device == Device::Host || span.is_empty() {
        return Ok(());
    }
    let copying = Copying {
        device: side.device,
        there: side.pointer.wrapping_add(span.start),
        here: room.address(),
        bytes: span.len(),
        way,
        stream,
    };
    // SAFETY: handed on to the caller; whoever has given the stream vouched for it.
    room.moving = Some(unsafe { memory.start(copying) }?);
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Where something unwinds between a copy's begin and its end, its memory stays for ever.
        for (for_input, for_output) in &mut self.rooms {
            for room in [for_input, for_output] {
                if let Some(moving) = room.moving.take() {
                    std::mem::forget((moving, room.pinned.take()));
                }
            }
        }
    }
}
