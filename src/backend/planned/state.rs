//! How far each task of the running operation is, and the lanes that move it.
//!
//! This is where the memory of users is touched: every address is made from an [`Operation`]'s buffers, or the scratch
//! buffer here, and a range that the plan has been checked to keep within them. What may be read or written when is
//! what the plan's dependencies say, which the verifier proves free of races.

use super::super::Operation;
use super::super::combiner::Combiner;
use super::compile::{Action, Address, Base, Compiled, Task};
use super::knock::Knocks;
use crate::collective::{Difference, Fingerprint, Order};
use crate::plan::lower::{Dependency, Lane};
use crate::transport::{Channel, Direction, Interest, LinkFault, Transport};
use std::io::IoSlice;

/// What a look at the lanes achieved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    None,
    Some,
    /// Everything is done.
    All,
}

/// What can go wrong on the way.
#[derive(Debug)]
pub(super) enum Trouble {
    Link(LinkFault),
    /// The peer has been asked for something else.
    Mismatch {
        peer: usize,
        difference: Difference,
    },
    /// The user's reduction panicked here.
    Panic(String),
    /// What the peer sent begins with no fingerprint.
    Garbled {
        peer: usize,
    },
}

impl From<LinkFault> for Trouble {
    fn from(fault: LinkFault) -> Self {
        Trouble::Link(fault)
    }
}

/// Compares what a peer has been asked for with what this rank has been.
pub(super) fn compare(
    mine: &Fingerprint,
    theirs: &[u8; Fingerprint::SIZE],
    peer: usize,
) -> Result<(), Trouble> {
    let theirs = Fingerprint::decode(theirs).ok_or(Trouble::Garbled { peer })?;
    match mine.difference(&theirs) {
        Some(difference) => Err(Trouble::Mismatch { peer, difference }),
        None => Ok(()),
    }
}

/// One lane of the running operation.
struct LaneState {
    /// Its place in the plan's lanes.
    lane: usize,
    kind: Lane,
    /// The task at its head, by its place in the lane.
    head: usize,
    /// Of links: what goes ahead of the first payload.
    fingerprint: Option<Fingerprint>,
    header: [u8; Fingerprint::SIZE],
    header_moved: usize,
    /// How much of an element that is reduced has arrived in part; the bytes are the lane's in `parts`.
    part_len: usize,
}

/// How far a task is.
#[derive(Clone, Copy, Default)]
struct Done {
    bytes: usize,
    complete: bool,
}

/// Everything that the running operation writes down. Reused from one operation to the next.
pub(super) struct State {
    done: Vec<Done>,
    lanes: Vec<LaneState>,
    scratch: Vec<u8>,
    staging: Vec<u8>,
    sources: Vec<*const u8>,
    /// A place for one element a lane.
    parts: Vec<u8>,
    combiner: Combiner,
    channel: Channel,
    element: usize,
}

// SAFETY: the addresses in `sources` are used only while a fold runs, which writes them anew; everything else is plain
// data.
unsafe impl Send for State {}

/// The most bytes that a lane moves before the others have a turn.
const TURN: usize = 1 << 20;

/// The most bytes that are reduced where a transport shows them before it has their room back.
const SHOWN: usize = 32 << 10;

/// The most slices of memory that leave in one call.
const TOGETHER: usize = 32;

/// Tensors of a batch that are shorter than this arrive together with their neighbours, by way of the staging buffer.
const SHORT: usize = 16 << 10;

impl State {
    pub(super) fn new(staging: usize) -> Self {
        State {
            done: Vec::new(),
            lanes: Vec::new(),
            scratch: Vec::new(),
            staging: vec![0; staging.max(8)],
            sources: Vec::new(),
            parts: Vec::new(),
            combiner: Combiner::None,
            channel: Channel::COLLECTIVE,
            element: 1,
        }
    }

    /// Begins an operation. `fingerprint(peer, sends)` is what goes ahead on the link with a peer, one way.
    pub(super) fn start(
        &mut self,
        plan: &Compiled,
        operation: &Operation,
        channel: Channel,
        mut fingerprint: impl FnMut(usize, bool) -> Fingerprint,
    ) {
        let request = operation.request();
        self.channel = channel;
        self.element = request.element_size();
        self.combiner = Combiner::of(operation);
        if self.staging.len() < self.element {
            self.staging.resize(self.element, 0);
        }
        if self.parts.len() < plan.lanes.len() * self.element {
            self.parts.resize(plan.lanes.len() * self.element, 0);
        }
        self.done.clear();
        self.done.resize(plan.tasks.len(), Done::default());
        if self.scratch.len() < plan.scratch_bytes {
            // Nothing in it is worth copying to a larger place.
            self.scratch = vec![0; plan.scratch_bytes];
        }
        self.lanes.clear();
        for (lane, (kind, _)) in plan.lanes.iter().enumerate() {
            let (fingerprint, header) = match kind {
                Lane::Send(peer) => {
                    let ours = fingerprint(*peer, true);
                    (Some(ours), ours.encode())
                }
                Lane::Receive(peer) => (Some(fingerprint(*peer, false)), [0; Fingerprint::SIZE]),
                Lane::Compute => (None, [0; Fingerprint::SIZE]),
            };
            self.lanes.push(LaneState {
                lane,
                kind: *kind,
                head: 0,
                fingerprint,
                header,
                header_moved: 0,
                part_len: 0,
            });
        }
    }

    /// Ends the operation: what is the user's is let go of.
    pub(super) fn end(&mut self) {
        self.combiner = Combiner::None;
    }

    /// How many bytes of memory it holds for payload.
    pub(super) fn held(&self) -> usize {
        self.scratch.len() + self.staging.len() + self.parts.len()
    }

    /// Whether bytes of this operation are still to come from a peer.
    pub(super) fn expects(&self, peer: usize) -> bool {
        self.lanes.iter().any(|lane| lane.kind == Lane::Receive(peer))
    }

    /// Sends what it can of the fingerprints that have not left, and no payload: see
    /// [`Agreement::tell`](super::agree::Agreement::tell).
    pub(super) fn tell(&mut self, transport: &mut impl Transport) -> Result<(), LinkFault> {
        for lane in &mut self.lanes {
            if let Lane::Send(peer) = lane.kind
                && lane.header_moved < Fingerprint::SIZE
            {
                let rest = [IoSlice::new(&lane.header[lane.header_moved..])];
                let room = rest[0].len();
                lane.header_moved += transport.try_send(peer, self.channel, &rest)?.min(room);
            }
        }
        Ok(())
    }

    /// Lets every lane move what it can.
    pub(super) fn step(
        &mut self,
        plan: &Compiled,
        operation: &Operation,
        transport: &mut impl Transport,
        knocks: &mut Knocks,
    ) -> Result<Moved, Trouble> {
        let mut moved = false;
        let mut at = 0;
        // The state of a lane and that of the tasks are borrowed apart from each other.
        let mut lanes = std::mem::take(&mut self.lanes);
        let result = loop {
            let Some(lane) = lanes.get_mut(at) else { break Ok(()) };
            match self.step_lane(plan, operation, lane, transport, knocks) {
                Ok(some) => moved |= some,
                Err(trouble) => break Err(trouble),
            }
            if lane.head == plan.lanes[lane.lane].1.len() {
                lanes.remove(at);
            } else {
                at += 1;
            }
        };
        self.lanes = lanes;
        result?;
        Ok(match (self.lanes.is_empty(), moved) {
            (true, _) => Moved::All,
            (false, true) => Moved::Some,
            (false, false) => Moved::None,
        })
    }

    /// What the lanes wait for that the transport can bring.
    pub(super) fn interests(&self, plan: &Compiled, interests: &mut Vec<Interest>) {
        for lane in &self.lanes {
            let (peer, direction) = match lane.kind {
                Lane::Send(peer) => (peer, Direction::Send),
                Lane::Receive(peer) => (peer, Direction::Receive),
                Lane::Compute => continue,
            };
            let task = plan.lanes[lane.lane].1[lane.head] as usize;
            let waits_for_link = self.allowed(&plan.tasks[task]) > self.done[task].bytes
                || lane.header_moved < Fingerprint::SIZE;
            if waits_for_link {
                interests.push(Interest { peer, channel: self.channel, direction });
            }
        }
    }

    /// How many bytes of a task may be done now: a whole number of elements.
    fn allowed(&self, task: &Task) -> usize {
        let mut allowed = task.bytes;
        for dependency in &task.dependencies {
            let done = self.done[dependency.on];
            if done.complete {
                continue;
            }
            if dependency.shift == Dependency::UNTIL_DONE {
                return 0;
            }
            let whole = done.bytes - done.bytes % self.element;
            allowed = allowed.min(whole.saturating_add_signed(dependency.shift));
        }
        allowed
    }

    fn step_lane(
        &mut self,
        plan: &Compiled,
        operation: &Operation,
        lane: &mut LaneState,
        transport: &mut impl Transport,
        knocks: &mut Knocks,
    ) -> Result<bool, Trouble> {
        let tasks = &plan.lanes[lane.lane].1;
        let mut moved = false;
        let mut turn = TURN;
        while turn > 0
            && let Some(&index) = tasks.get(lane.head)
        {
            let task = &plan.tasks[index as usize];
            let from = self.done[index as usize].bytes;
            let to = self.allowed(task).min(from.saturating_add(turn));
            let to = (to - to % self.element).max(from);
            let now = match lane.kind {
                Lane::Compute => {
                    self.compute(task, operation, from, to)?;
                    to
                }
                Lane::Send(peer) => {
                    self.send(task, operation, lane, peer, from, to, transport, &mut moved)?
                }
                Lane::Receive(peer) => {
                    if lane.header_moved < Fingerprint::SIZE {
                        moved |= self.receive_header(lane, peer, transport, knocks)?;
                    }
                    if lane.header_moved < Fingerprint::SIZE {
                        break;
                    }
                    self.receive(task, operation, lane, peer, from, to, transport, &mut moved)?
                }
            };
            turn = turn.saturating_sub(now - from);
            moved |= now > from;
            self.done[index as usize].bytes = now;
            let header_open = lane.fingerprint.is_some() && lane.header_moved < Fingerprint::SIZE;
            if now < task.bytes || header_open || !self.may_complete(task) {
                break;
            }
            self.done[index as usize].complete = true;
            lane.head += 1;
            moved = true;
        }
        Ok(moved)
    }

    /// A task without elements is complete once what it depends on is.
    fn may_complete(&self, task: &Task) -> bool {
        task.bytes > 0
            || task.dependencies.iter().all(|dependency| {
                dependency.shift != Dependency::UNTIL_DONE || self.done[dependency.on].complete
            })
    }

    /// The address of byte `from` of an operand, and how many bytes up to `to` lie together there.
    fn stretch(
        &mut self,
        operation: &Operation,
        address: Address,
        from: usize,
        to: usize,
    ) -> (*mut u8, usize) {
        let (start, len) = (address.offset + from, to - from);
        let base = match (address.base, operation.pieces()) {
            (Base::Scratch, _) => self.scratch.as_mut_ptr(),
            (Base::Input, None) => operation.buffers().input.cast_mut(),
            (Base::Output, None) => operation.buffers().output,
            (base, Some(pieces)) => {
                let (piece, at) = pieces.find(start);
                let base = if base == Base::Input { piece.input.cast_mut() } else { piece.output };
                return (base.wrapping_add(at), len.min(piece.bytes - at));
            }
        };
        (base.wrapping_add(start), len)
    }

    fn compute(
        &mut self,
        task: &Task,
        operation: &Operation,
        mut from: usize,
        to: usize,
    ) -> Result<(), Trouble> {
        while from < to {
            from += match &task.action {
                Action::Copy { source, into } => {
                    let (source, one) = self.stretch(operation, *source, from, to);
                    let (into, other) = self.stretch(operation, *into, from, to);
                    let len = one.min(other);
                    // SAFETY: both ranges lie within their memories (the plan's spans are checked against the request's
                    // lengths, and the operation's maker vouches for these), and no other task touches what is
                    // written here (dependencies). `copy` allows them to overlap.
                    unsafe { std::ptr::copy(source, into, len) }
                    len
                }
                Action::Fold { sources, into } => self.fold(operation, sources, *into, from, to)?,
                Action::Finish(range) => {
                    let (range, len) = self.stretch(operation, *range, from, to);
                    if let Combiner::Kernels(kernels) = self.combiner {
                        // SAFETY: as above.
                        unsafe { kernels.finish(range, len / self.element, operation.request().world) }
                    }
                    len
                }
                Action::Send(_) | Action::Receive(_) | Action::ReceiveReduce { .. } => {
                    unreachable!("messages are not in the compute lane")
                }
            };
        }
        Ok(())
    }

    /// Folds as many bytes as lie together in all operands; returns how many.
    fn fold(
        &mut self,
        operation: &Operation,
        sources: &[Address],
        into: Address,
        from: usize,
        to: usize,
    ) -> Result<usize, Trouble> {
        let (into, mut len) = self.stretch(operation, into, from, to);
        let mut addresses = std::mem::take(&mut self.sources);
        addresses.clear();
        for source in sources {
            let (source, together) = self.stretch(operation, *source, from, to);
            addresses.push(source.cast_const());
            len = len.min(together);
        }
        let balanced = operation.request().order == Order::Fixed;
        // SAFETY: as in `compute`; lowering refuses operands that overlap but are not the same. The staging buffer is
        // nobody else's.
        let folded =
            unsafe { self.combiner.fold(into, &addresses, balanced, len, self.element, &mut self.staging) };
        self.sources = addresses;
        folded.map(|()| len).map_err(Trouble::Panic)
    }

    /// Sends what is left of the header and bytes `from..to` of a task; returns how far the task is then.
    #[expect(clippy::too_many_arguments)]
    fn send(
        &mut self,
        task: &Task,
        operation: &Operation,
        lane: &mut LaneState,
        peer: usize,
        from: usize,
        to: usize,
        transport: &mut impl Transport,
        moved: &mut bool,
    ) -> Result<usize, Trouble> {
        let header = &lane.header[lane.header_moved..];
        if header.is_empty() && from == to {
            return Ok(from);
        }
        let Action::Send(range) = &task.action else { unreachable!("a send lane holds sends") };
        let header_len = header.len();
        // Tensors of a batch leave together, up to a bound; the header of a link goes with the first of them.
        let mut parts = [IoSlice::new(&[]); TOGETHER];
        let mut used = 0;
        if header_len > 0 {
            parts[0] = IoSlice::new(header);
            used = 1;
        }
        let mut end = from;
        while end < to && used < TOGETHER {
            let (start, len) = self.stretch(operation, *range, end, to);
            // SAFETY: the range lies within the memory that the operation's maker vouches for, is initialised (the
            // verifier follows every value), and nobody writes to it before this send is past it (dependencies).
            parts[used] = IoSlice::new(unsafe { std::slice::from_raw_parts(start, len) });
            used += 1;
            end += len;
        }
        let count = transport.try_send(peer, self.channel, &parts[..used])?;
        // Transports are written by anybody: what one claims is not believed beyond what it was given.
        let count = count.min(header_len + (end - from));
        *moved |= count > 0;
        lane.header_moved += count.min(header_len);
        Ok(from + count.saturating_sub(header_len))
    }

    /// Receives what is left of a peer's fingerprint, and compares it once it is whole. Tells whether any came.
    fn receive_header(
        &mut self,
        lane: &mut LaneState,
        peer: usize,
        transport: &mut impl Transport,
        knocks: &mut Knocks,
    ) -> Result<bool, Trouble> {
        let rest = &mut lane.header[lane.header_moved..];
        let room = rest.len();
        let count = knocks.receive(transport, peer, self.channel, rest)?.min(room);
        lane.header_moved += count;
        if lane.header_moved == Fingerprint::SIZE {
            let mine = lane.fingerprint.as_ref().expect("a link has a fingerprint");
            compare(mine, &lane.header, peer)?;
        }
        Ok(count > 0)
    }

    /// Receives bytes of the task up to `to`; returns how far the task is then.
    #[expect(clippy::too_many_arguments)]
    fn receive(
        &mut self,
        task: &Task,
        operation: &Operation,
        lane: &mut LaneState,
        peer: usize,
        from: usize,
        to: usize,
        transport: &mut impl Transport,
        moved: &mut bool,
    ) -> Result<usize, Trouble> {
        if from == to {
            return Ok(from);
        }
        match &task.action {
            Action::Receive(range) => {
                let (start, len) = self.stretch(operation, *range, from, to);
                if len < to - from && len < SHORT {
                    return self.receive_apart(*range, operation, peer, from, to, transport);
                }
                // SAFETY: the range lies within the memory that the operation's maker vouches for; the dependencies
                // let nobody else touch it now; any bytes are a value of the element type.
                let into = unsafe { std::slice::from_raw_parts_mut(start, len) };
                Ok(from + transport.try_recv(peer, self.channel, into)?.min(len))
            }
            Action::ReceiveReduce { into, local } => {
                self.receive_reduce(*into, *local, operation, lane, peer, from, to, transport, moved)
            }
            _ => unreachable!("a receive lane holds receives"),
        }
    }

    /// Receives bytes for many short tensors in one call, and puts each where it belongs.
    fn receive_apart(
        &mut self,
        range: Address,
        operation: &Operation,
        peer: usize,
        mut from: usize,
        to: usize,
        transport: &mut impl Transport,
    ) -> Result<usize, Trouble> {
        let room = (to - from).min(self.staging.len());
        let count = transport.try_recv(peer, self.channel, &mut self.staging[..room])?.min(room);
        let mut taken = 0;
        while taken < count {
            let (into, len) = self.stretch(operation, range, from, to);
            let len = len.min(count - taken);
            // SAFETY: as in `receive`; the staging buffer is nobody else's and holds `count` bytes.
            unsafe { std::ptr::copy_nonoverlapping(self.staging[taken..].as_ptr(), into, len) }
            taken += len;
            from += len;
        }
        Ok(from)
    }

    #[expect(clippy::too_many_arguments)]
    fn receive_reduce(
        &mut self,
        into: Address,
        local: Address,
        operation: &Operation,
        lane: &mut LaneState,
        peer: usize,
        mut from: usize,
        to: usize,
        transport: &mut impl Transport,
        moved: &mut bool,
    ) -> Result<usize, Trouble> {
        let own = lane.lane * self.element;
        // Ranks below this one stand to the left of it.
        let left = peer < transport.rank();
        while from < to {
            // What the transport shows is reduced where it lies.
            // A user's function wants values that nobody changes meanwhile.
            if lane.part_len == 0
                && matches!(self.combiner, Combiner::Kernels(_))
                && let Some((shown, len)) = transport.peek(peer, self.channel)?
                && len >= self.element
            {
                let len = len.min(to - from).min(SHOWN);
                let (into, one) = self.stretch(operation, into, from, from + len);
                let (local, other) = self.stretch(operation, local, from, from + len);
                let len = len.min(one).min(other);
                let len = len - len % self.element;
                if len > 0 {
                    // SAFETY: as below; what is shown stays where it is until it is consumed.
                    unsafe { self.combiner.combine(into, local, shown, len / self.element, left) }
                        .map_err(Trouble::Panic)?;
                    transport.consume(peer, self.channel, len);
                    *moved = true;
                    from += len;
                    continue;
                }
            }
            // Of an element that has come in part, the first bytes are put in front of the rest.
            let part = lane.part_len;
            self.staging[..part].copy_from_slice(&self.parts[own..own + part]);
            let room = (to - from).min(self.staging.len() - self.staging.len() % self.element);
            let count =
                transport.try_recv(peer, self.channel, &mut self.staging[part..room])?.min(room - part);
            if count == 0 {
                break;
            }
            *moved = true;
            let here = part + count;
            let rest = here % self.element;
            let whole = here - rest;
            self.parts[own..own + rest].copy_from_slice(&self.staging[whole..here]);
            lane.part_len = rest;
            let mut at = 0;
            while at < whole {
                let (into, one) = self.stretch(operation, into, from, from + (whole - at));
                let (local, other) = self.stretch(operation, local, from, from + (whole - at));
                let len = one.min(other);
                // SAFETY: both ranges lie within their memories, are the same or apart (lowering refuses anything
                // else), and no other task touches them now (dependencies). The staging buffer is nobody else's.
                unsafe {
                    let received = self.staging[at..].as_ptr();
                    self.combiner.combine(into, local, received, len / self.element, left)
                }
                .map_err(Trouble::Panic)?;
                at += len;
                from += len;
            }
            if here < room {
                break;
            }
        }
        Ok(from)
    }
}
