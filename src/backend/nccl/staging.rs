//! Operations that may be staged: through buffers of the backend's own, in a pipeline.
//!
//! An operation goes in portions, each of which takes the next of a few slots: what is read goes into the slot's pinned buffer,
//! by its stream to the device, through NCCL, back into pinned memory, and once the stream has come so far to where it belongs.
//! Slots have streams of their own; so one portion is copied in while another is reduced and a third is copied out. A portion
//! is the same number of elements of every part, which all ranks work out alike, so that their calls meet. So that this holds wherever
//! the memory of each is, ranks with memory on their device go the same way, by copies within the device.

use super::comm::{Comm, Turn};
use super::issue::{Issue, Way, is_divided, part};
use super::library::{Library, Refusal};
use crate::backend::Operation;
use crate::collective::Request;
use crate::cuda::{Context, DeviceMemory, Event, OwnStream, Pinned};
use crate::error::Result;
use crate::tensor::{Device, Stream};
use std::ops::Range;
use std::sync::Arc;

/// How many portions are under way at once.
const SLOTS: usize = 4;

/// The slots, made when they are first needed.
pub(super) struct Staging {
    slots: Vec<Slot>,
    /// The bytes of each of a slot's buffers.
    bytes: usize,
}

/// Where one portion is. Streams first: they come to their ends before the memory goes.
struct Slot {
    stream: OwnStream,
    event: Event,
    host: [Pinned; 2],
    device: [DeviceMemory; 2],
}

/// How far an operation has come.
#[derive(Debug)]
pub(super) struct Course {
    /// Elements of each part in a portion.
    each: usize,
    portions: usize,
    begun: usize,
    ended: usize,
    /// Whether NCCL has not queued the latest yet.
    launching: bool,
    /// Behind what the caller has queued, where the memory is on the device.
    after: Option<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Advanced,
    Idle,
    Over,
}

/// The portions' numbers of lanes, and where in a slot the parts are.
#[derive(Debug, Clone, Copy)]
struct Frame<'a> {
    request: &'a Request,
    rank: usize,
    each: usize,
    index: usize,
}

impl Frame<'_> {
    fn lanes(&self, way: Way) -> usize {
        if is_divided(self.request, way) { self.request.world } else { 1 }
    }

    /// The elements of the user's memory that are a part's in this portion.
    #[inline(never)]
    fn elements(&self, way: Way, peer: usize) -> Range<usize> {
        let whole = part(self.request, self.rank, way, peer);
        let start = whole.start.saturating_add(self.index * self.each).min(whole.end);
        start..start.saturating_add(self.each).min(whole.end)
    }

    /// How far parts lie from each other in the slot: parts of one length stand one after another.
    #[inline(never)]
    fn stride(&self, way: Way) -> usize {
        (0..self.lanes(way)).map(|peer| self.elements(way, peer).len()).max().unwrap_or(0)
    }

    /// How many elements of the slot are used.
    #[inline(never)]
    fn end(&self, way: Way) -> usize {
        let stride = self.stride(way);
        let ends = (0..self.lanes(way)).map(|peer| (peer, self.elements(way, peer).len()));
        ends.filter(|(_, len)| *len > 0).map(|(peer, len)| peer * stride + len).max().unwrap_or(0)
    }
}

impl Course {
    /// The course of an operation over slots of so many bytes.
    pub(super) fn new(request: &Request, rank: usize, bytes: usize) -> Course {
        let frame = |each| Frame { request, rank, each, index: 0 };
        // The same on every rank, whatever its part is.
        let lanes = frame(1).lanes(Way::In).max(frame(1).lanes(Way::Out));
        let each = (bytes / (lanes * request.dtype.size())).max(1);
        let longest = |way| {
            let lens = (0..frame(each).lanes(way)).map(|peer| part(request, rank, way, peer).len());
            lens.max().unwrap_or(0)
        };
        let portions = longest(Way::In).max(longest(Way::Out)).div_ceil(each);
        Course { each, portions, begun: 0, ended: 0, launching: false, after: None }
    }
}

impl Staging {
    /// Slots of at least so many bytes for a group of so many ranks.
    pub(super) fn new(context: &Arc<Context>, bytes: usize, world: usize) -> Result<Staging> {
        // A portion has one element of each part at least.
        let bytes = bytes.max(world * 8);
        let slot = |_| -> Result<Slot> {
            Ok(Slot {
                stream: OwnStream::new(context)?,
                event: Event::new(context)?,
                host: [Pinned::new(context, bytes)?, Pinned::new(context, bytes)?],
                device: [DeviceMemory::new(context, bytes)?, DeviceMemory::new(context, bytes)?],
            })
        };
        Ok(Staging { slots: (0..SLOTS).map(slot).collect::<Result<_>>()?, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets a course begin behind what the caller has queued on a stream.
    pub(super) fn follow(
        &self,
        course: &mut Course,
        context: &Arc<Context>,
        stream: Stream,
    ) -> std::result::Result<(), Refusal> {
        let failed = |error: crate::error::Error| Refusal { code: 1, text: error.message().to_owned() };
        let after = Event::new(context).map_err(failed)?;
        // SAFETY: the stream lives until the operation is complete, says whoever made it.
        unsafe { after.record(stream) }?;
        course.after = Some(after);
        Ok(())
    }

    /// What it holds of the host's memory.
    pub(super) fn held(&self) -> usize {
        self.slots.iter().flat_map(|slot| &slot.host).map(Pinned::bytes).sum()
    }

    /// Whether nothing of it is under way on the device.
    pub(super) fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.stream.is_done().unwrap_or(true))
    }

    /// Moves an operation on by one step. Does not block, but for copies of a portion.
    pub(super) fn step(
        &self,
        course: &mut Course,
        operation: &Operation,
        rank: usize,
        (library, context, comm): (&Library, &Context, &Comm),
    ) -> std::result::Result<Step, Refusal> {
        let request = operation.request();
        let frame = |index| Frame { request, rank, each: course.each, index };
        if course.launching {
            if !comm.turn()?.is_settled(request.collective.as_str())? {
                return Ok(Step::Idle);
            }
            let latest = course.begun - 1;
            self.slot(latest).copy_back(operation, context, &frame(latest))?;
            course.launching = false;
            return Ok(Step::Advanced);
        }
        if course.begun < course.portions && course.begun - course.ended < SLOTS {
            let next = course.begun;
            let slot = self.slot(next);
            let turn = comm.turn()?;
            if let Some(after) = &course.after {
                // SAFETY: the stream is the slot's own.
                unsafe { context.wait_on(slot.stream.stream(), after) }?;
            }
            course.launching = !slot.begin(operation, &frame(next), library, context, &turn)?;
            if !course.launching {
                slot.copy_back(operation, context, &frame(next))?;
            }
            course.begun += 1;
            return Ok(Step::Advanced);
        }
        if course.ended == course.portions {
            return Ok(Step::Over);
        }
        let oldest = self.slot(course.ended);
        if !oldest.event.is_over()? {
            return Ok(Step::Idle);
        }
        oldest.give(operation, &frame(course.ended));
        course.ended += 1;
        Ok(Step::Advanced)
    }

    fn slot(&self, portion: usize) -> &Slot {
        &self.slots[portion % SLOTS]
    }
}

impl Slot {
    /// Copies a portion in and gives it to NCCL.
    #[inline(never)]
    fn begin(
        &self,
        operation: &Operation,
        frame: &Frame<'_>,
        library: &Library,
        context: &Context,
        turn: &Turn<'_>,
    ) -> std::result::Result<bool, Refusal> {
        let size = frame.request.dtype.size();
        let (strides, stream) = ([frame.stride(Way::In), frame.stride(Way::Out)], self.stream.stream());
        let on_host = operation.device() == Device::Host;
        for peer in 0..frame.lanes(Way::In) {
            let elements = frame.elements(Way::In, peer);
            let mut at = peer * strides[0] * size;
            each_piece(operation, Way::In, elements.start * size..elements.end * size, &mut |from, len| {
                // SAFETY: the slot has room for each part at its stride, and what used it before is done. The user's memory is
                // readable for the request's elements until the operation is complete.
                unsafe {
                    if on_host {
                        std::ptr::copy_nonoverlapping(from.cast_const(), self.host[0].pointer().add(at), len);
                    } else {
                        let into = self.device[0].address() + at as u64;
                        context.copy_within(into, from.addr() as u64, len, stream)?;
                    }
                }
                at += len;
                Ok(())
            })?;
        }
        let bytes = frame.end(Way::In) * size;
        if bytes > 0 && on_host {
            // SAFETY: both buffers are as long, and the slot's until its event is over.
            unsafe { context.copy_in(self.device[0].address(), self.host[0].pointer(), bytes, stream) }?;
        }
        let place = |way, peer| {
            let (stride, len) = (strides[usize::from(way == Way::Out)], frame.elements(way, peer).len());
            peer * stride..peer * stride + len
        };
        let [input, output] = [self.device[0].address(), self.device[1].address()];
        let Frame { request, rank, .. } = *frame;
        // SAFETY: the parts lie in the slot's own memory, which nobody else uses until its event is over.
        unsafe { Issue { library, context, request, rank, place: &place, input, output, stream }.queue(turn) }
    }

    /// Behind NCCL, lets the result come back, and marks its end.
    #[inline(never)]
    fn copy_back(
        &self,
        operation: &Operation,
        context: &Context,
        frame: &Frame<'_>,
    ) -> std::result::Result<(), Refusal> {
        let (size, stream) = (frame.request.dtype.size(), self.stream.stream());
        let bytes = frame.end(Way::Out) * size;
        if operation.device() != Device::Host {
            let stride = frame.stride(Way::Out);
            for peer in 0..frame.lanes(Way::Out) {
                let elements = frame.elements(Way::Out, peer);
                let mut from = self.device[1].address() + (peer * stride * size) as u64;
                each_piece(
                    operation,
                    Way::Out,
                    elements.start * size..elements.end * size,
                    &mut |into, len| {
                        // SAFETY: the slot's result lies there, behind NCCL on this stream. The user's memory is writable for the
                        // request's elements until the operation is complete; in place, what this overwrites has been read
                        // with this portion or before.
                        unsafe { context.copy_within(into.addr() as u64, from, len, stream) }?;
                        from += len as u64;
                        Ok(())
                    },
                )?;
            }
        } else if bytes > 0 {
            // SAFETY: both buffers are as long, and the slot's until its event is over.
            unsafe { context.copy_out(self.host[1].pointer(), self.device[1].address(), bytes, stream) }?;
        }
        // SAFETY: the stream is the slot's own.
        Ok(unsafe { self.event.record(stream) }?)
    }

    /// Writes the result to where it belongs.
    #[inline(never)]
    fn give(&self, operation: &Operation, frame: &Frame<'_>) {
        let (size, stride) = (frame.request.dtype.size(), frame.stride(Way::Out));
        let lanes = if operation.device() == Device::Host { frame.lanes(Way::Out) } else { 0 };
        for peer in 0..lanes {
            let elements = frame.elements(Way::Out, peer);
            let mut from = self.host[1].pointer().wrapping_add(peer * stride * size);
            let copied = each_piece(
                operation,
                Way::Out,
                elements.start * size..elements.end * size,
                &mut |into, len| {
                    // SAFETY: the event is over, so the slot's result is there. The user's memory is writable for the request's
                    // elements until the operation is complete; in place, what this overwrites has been read with this portion
                    // or before.
                    unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), into, len) };
                    from = from.wrapping_add(len);
                    Ok(())
                },
            );
            debug_assert!(copied.is_ok(), "copies on the host do not fail");
        }
    }
}

/// Hands on bytes of an operation's input or output, where they lie, a piece at a time.
#[inline(never)]
fn each_piece(
    operation: &Operation,
    way: Way,
    mut bytes: Range<usize>,
    take: &mut dyn FnMut(*mut u8, usize) -> std::result::Result<(), Refusal>,
) -> std::result::Result<(), Refusal> {
    while !bytes.is_empty() {
        let (input, output, len) = match operation.pieces() {
            None => {
                let buffers = operation.buffers();
                let at = bytes.start;
                (buffers.input.wrapping_add(at), buffers.output.wrapping_add(at), bytes.len())
            }
            Some(pieces) => {
                let (piece, at) = pieces.find(bytes.start);
                let len = bytes.len().min(piece.bytes - at);
                (piece.input.wrapping_add(at), piece.output.wrapping_add(at), len)
            }
        };
        take(if way == Way::In { input.cast_mut() } else { output }, len)?;
        bytes.start += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, Counts};
    use crate::tensor::DType;

    /// Which elements of the user's memory the portions of a course touch, in order.
    fn touched(request: &Request, rank: usize, way: Way, bytes: usize) -> Vec<usize> {
        let Course { each, portions, .. } = Course::new(request, rank, bytes);
        let mut all = Vec::new();
        for index in 0..portions {
            let frame = Frame { request, rank, each, index };
            for peer in 0..frame.lanes(way) {
                let elements = frame.elements(way, peer);
                assert!((peer * frame.stride(way) + elements.len()) * 4 <= bytes.max(request.world * 8));
                all.extend(elements);
            }
            assert!(frame.end(way) * 4 <= bytes.max(request.world * 8));
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn portions_touch_every_element_once_and_fit_their_slot() {
        for collective in Collective::ALL {
            for (count, bytes) in [(0, 64), (1, 16), (13, 48), (100, 64), (7, 4096)] {
                let mut requests = vec![Request::new(collective, 3, DType::F32, count)];
                if collective.has_blocks() {
                    let mut uneven = requests[0].clone();
                    uneven.counts = Counts::PerRank([count, 0, count / 2 + 1].into());
                    requests.push(uneven);
                }
                for request in requests {
                    for rank in 0..3 {
                        let whole = |len: usize| (0..len).collect::<Vec<_>>();
                        assert_eq!(touched(&request, rank, Way::In, bytes), whole(request.input_len(rank)));
                        assert_eq!(touched(&request, rank, Way::Out, bytes), whole(request.output_len(rank)));
                    }
                }
            }
        }
    }

    #[test]
    fn ranks_with_different_parts_make_portions_of_one_length() {
        let mut request = Request::new(Collective::Gather, 4, DType::F32, 0);
        request.counts = Counts::PerRank([5, 100, 0, 33].into());
        let each: Vec<usize> = (0..4).map(|rank| Course::new(&request, rank, 256).each).collect();
        assert_eq!(each, [16; 4]);
    }
}
