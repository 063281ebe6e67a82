//! How far the running program is.
//!
//! This is where the memory of users and of other ranks is touched: every address is made from an [`Operation`]'s buffers,
//! the scratch buffer here, a slot, or what a peer has told, at a range that the plan has been checked to keep within it. What
//! may be read or written when is what the plan's flags say, which the verifier proves free of races.

use super::super::Operation;
use super::exchange::{self, Exchange};
use super::program::{Action, Base, Operand, Program, Programs};
use crate::memory::stream;
use crate::plan::Region;
use crate::transport::shm::{HostMemory, Operands, Seen, Stamp};

/// What a look at the program achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Step {
    /// A rank has to do something first.
    Blocked(usize),
    /// There is more to do.
    More,
    /// Everything is done.
    Over,
}

/// Why it cannot go on.
#[derive(Debug)]
pub(in crate::backend) enum Stop {
    /// The rank does something else.
    Disagrees(usize),
    /// The rank has left the group.
    Left(usize),
    /// What the rank has told cannot be.
    Garbled(usize),
    /// A rank's memory cannot be read, for this reason.
    Unreadable(usize, String),
    /// There is no memory for this rank's slots.
    NoSlots(String),
}

/// The running program. Kept from one operation to the next, so that nothing is allocated anew.
pub(in crate::backend) struct Direct {
    stamp: Stamp,
    /// The last epoch in which this rank heard from all others.
    heard: u64,
    phase: Phase,
    /// The action that is under way, and how many bytes of it are done.
    at: usize,
    done: usize,
    raised: [u32; HostMemory::FLAGS],
    scratch: Vec<u8>,
    /// What was read of others' own memory, and what goes past the caches.
    staging: Vec<u8>,
    sources: Vec<*const u8>,
    /// Whether something went past the caches that others have not been told of.
    streamed: bool,
    /// Where this rank's operands are in the segment, if both are shared tensors.
    shared: Option<(u64, u64)>,
    /// Whether all ranks' are.
    all_shared: bool,
    /// Whether it runs in the short form.
    exchanges: bool,
}

// SAFETY: the addresses in `sources` are used only while a fold runs, which writes them anew; everything else is plain
// data.
unsafe impl Send for Direct {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until all have ended the epoch in which this rank last wrote where it is about to.
    Guarded,
    /// Of a rank with shared tensors: until all have said where theirs are.
    Entered,
    Running,
}

/// The most bytes that are worked through before somebody looks whether the group has failed.
const TURN: usize = 1 << 20;

/// How often an exchange looks for a rank in a row: to be told of each time that it is not there yet takes longer than
/// a look.
const LOOKS: u32 = 5;

/// What is read of another process at a time: it stays in a core's cache.
const READ: usize = 128 << 10;

/// What is folded at a time where the result goes past the caches.
const TILE: usize = 16 << 10;

/// Where an operand is.
enum Where {
    /// In this process's sight.
    Here(*mut u8),
    /// In the memory of a rank's process, at this address.
    There(usize, u64),
}

impl Direct {
    pub(in crate::backend) fn new() -> Self {
        Direct {
            stamp: Stamp::default(),
            heard: 0,
            phase: Phase::Guarded,
            at: 0,
            done: 0,
            raised: [0; HostMemory::FLAGS],
            scratch: Vec::new(),
            staging: Vec::new(),
            sources: Vec::new(),
            streamed: false,
            shared: None,
            all_shared: false,
            exchanges: false,
        }
    }

    /// Begins an operation whose fingerprint has this hash. `shared` is where its operands are in the segment, where both
    /// are and there is a program for shared tensors.
    pub(in crate::backend) fn start(
        &mut self,
        programs: &Programs<'_>,
        operation: &Operation,
        hash: u32,
        shared: Option<(u64, u64)>,
    ) {
        let program = programs.base;
        (self.shared, self.all_shared) = (shared, false);
        self.exchanges = program.exchange.is_some() && operation.pieces().is_none();
        self.stamp = Stamp { epoch: self.stamp.epoch + 1, hash };
        self.phase = Phase::Guarded;
        (self.at, self.done) = (0, 0);
        self.raised = [0; HostMemory::FLAGS];
        let scratch = program.scratch_bytes.max(programs.shared.map_or(0, |shared| shared.scratch_bytes));
        if self.scratch.len() < scratch {
            self.scratch = vec![0; scratch];
        }
        if !program.is_in_line() && self.staging.is_empty() {
            self.staging = vec![0; TILE];
        }
    }

    /// How many bytes of memory it holds for payload.
    pub(in crate::backend) fn held(&self) -> usize {
        self.scratch.len() + self.staging.len()
    }

    /// Whether what blocks it is that a rank has not ended an earlier operation, of which it may not be told.
    pub(in crate::backend) fn is_guarded(&self) -> bool {
        self.phase == Phase::Guarded
    }

    /// Whether what runs, or ran last, is a program for shared tensors: others may write into this rank's output.
    pub(in crate::backend) fn is_in_tensors(&self) -> bool {
        self.all_shared
    }

    /// Does what can be done now, or a turn's worth of it.
    #[inline]
    pub(in crate::backend) fn step(
        &mut self,
        programs: &Programs<'_>,
        operation: &Operation,
        memory: &mut HostMemory,
    ) -> Result<Step, Stop> {
        if self.phase == Phase::Guarded {
            if let Some((rank, epoch)) = self.guarded_by(programs.base, memory) {
                return blocked(memory, rank, |memory| memory.has_ended(rank, epoch));
            }
            self.enter(programs.base, operation, memory)?;
        }
        if let (true, Some(exchange)) = (self.exchanges, &programs.base.exchange) {
            return self.exchange(programs.base, exchange, operation, memory);
        }
        if self.phase == Phase::Entered
            && let Some(rank) = self.hear_of_operands(memory)?
        {
            return blocked(memory, rank, |memory| memory.operands(rank, self.stamp).0 != Seen::NotYet);
        }
        let program = self.program(programs);
        let mut turn = TURN;
        while let Some(action) = program.actions.get(self.at) {
            match action {
                Action::Signal { flag } => self.signal(program, *flag, memory),
                Action::Wait { rank, flag, value } => {
                    match self.look(program, *rank, *flag, *value, memory) {
                        Seen::There => {}
                        Seen::Other => return Err(Stop::Disagrees(*rank)),
                        Seen::NotYet => {
                            return blocked(memory, *rank, |memory| {
                                self.look(program, *rank, *flag, *value, memory) != Seen::NotYet
                            });
                        }
                    }
                }
                Action::Copy { source, into, bytes } => {
                    while self.done < *bytes {
                        if turn == 0 {
                            return Ok(Step::More);
                        }
                        let len = turn.min(*bytes - self.done);
                        let len = self.copy(program, operation, memory, *source, *into, len)?;
                        self.done += len;
                        turn -= len;
                    }
                }
                Action::Fold { sources, into, bytes, finish } => {
                    while self.done < *bytes {
                        if turn == 0 {
                            return Ok(Step::More);
                        }
                        let len = turn.min(*bytes - self.done);
                        let len = self.fold(program, operation, memory, sources, *into, len, *finish)?;
                        self.done += len;
                        turn = turn.saturating_sub(len);
                    }
                }
                Action::Finish { range, bytes } => self.finish(program, operation, memory, *range, *bytes)?,
            }
            self.at += 1;
            self.done = 0;
        }
        self.publish();
        memory.end(self.stamp.epoch, !program.hears_all);
        if program.hears_all {
            self.heard = self.stamp.epoch;
        }
        Ok(Step::Over)
    }

    /// Runs a program in its short form. `at` counts the ranks that were heard, from 1 on.
    #[inline]
    fn exchange(
        &mut self,
        program: &Program,
        exchange: &Exchange,
        operation: &Operation,
        memory: &mut HostMemory,
    ) -> Result<Step, Stop> {
        let (own, stamp) = (memory.rank(), self.stamp);
        let (input, output) = (operation.buffers().input, operation.buffers().output);
        let bytes = program.in_line.unwrap_or_default();
        // Whoever comes back has nothing else to do.
        let mut looks = LOOKS;
        if self.at == 0 {
            if exchange.tells {
                let slot = memory.in_line(own, stamp, bytes);
                for part in &exchange.shows {
                    // SAFETY: the operation's maker vouches for so many bytes of input, which nobody writes meanwhile; the slot
                    // has room for them, and nobody looks at it (the guard).
                    unsafe { exchange::copy(input.add(part.from), slot.add(part.into), part.bytes) };
                }
                memory.show(stamp);
            }
            self.at = 1;
            looks = 0;
        } else if let Some(rank) = exchange.hears.get(self.at - 1) {
            memory.fetch_little(*rank, stamp, bytes);
        }
        while let Some(&rank) = exchange.hears.get(self.at - 1) {
            match memory.shown(rank, stamp) {
                Seen::There => self.at += 1,
                Seen::Other => return Err(Stop::Disagrees(rank)),
                Seen::NotYet if looks == 0 => {
                    return blocked(memory, rank, |memory| memory.shown(rank, stamp) != Seen::NotYet);
                }
                Seen::NotYet => {
                    looks -= 1;
                    memory.pause();
                }
            }
        }
        let operand = |rank, from| match rank == own {
            true => input.wrapping_add(from),
            false => memory.in_line(rank, stamp, bytes).wrapping_add(from).cast_const(),
        };
        for part in &exchange.takes {
            // SAFETY: what a rank shows nobody writes before this one ends the epoch; the plan's spans are checked against the
            // request's lengths, for which the operation's maker vouches.
            unsafe {
                let (from, into) = (operand(part.rank, part.from), output.add(part.into));
                // A root's memory, which it may not be able to write to.
                if from != into.cast_const() {
                    exchange::copy(from, into, part.bytes);
                }
            }
        }
        if let (Some(fold), Some(kernels)) = (&exchange.fold, program.kernels) {
            let into = output.wrapping_add(fold.into);
            // SAFETY: as above; the output is one of the sources or apart from them.
            unsafe {
                match *fold.from {
                    [a, b] => kernels.fold(into, &[operand(0, a), operand(1, b)], fold.count),
                    _ => {
                        self.sources.clear();
                        self.sources
                            .extend(fold.from.iter().enumerate().map(|(rank, &at)| operand(rank, at)));
                        program.fold(kernels, into, &self.sources, fold.count);
                    }
                }
                if fold.finish {
                    kernels.finish(into, fold.count, memory.world());
                }
            }
        }
        memory.end(stamp.epoch, !program.hears_all);
        if program.hears_all {
            self.heard = stamp.epoch;
        }
        Ok(Step::Over)
    }

    /// Whether a step would do something, or end.
    pub(in crate::backend) fn may_go_on(&mut self, programs: &Programs<'_>, memory: &mut HostMemory) -> bool {
        let rank = match (self.phase, self.program(programs).actions.get(self.at)) {
            (Phase::Guarded, _) => self.guarded_by(programs.base, memory).map(|(rank, _)| rank),
            (Phase::Running, _) if self.exchanges => self.not_heard(programs.base, memory),
            (Phase::Entered, _) => match self.hear_of_operands(memory) {
                Ok(rank) => rank,
                Err(_) => return true,
            },
            (Phase::Running, Some(Action::Wait { rank, flag, value })) => {
                let program = self.program(programs);
                (self.look(program, *rank, *flag, *value, memory) == Seen::NotYet).then_some(*rank)
            }
            _ => None,
        };
        rank.is_none_or(|rank| memory.has_left(rank))
    }

    /// Whom it waits for, if it does.
    pub(in crate::backend) fn waits_for(
        &mut self,
        programs: &Programs<'_>,
        memory: &HostMemory,
    ) -> Option<usize> {
        match (self.phase, self.program(programs).actions.get(self.at)) {
            (Phase::Guarded, _) => self.guarded_by(programs.base, memory).map(|(rank, _)| rank),
            (Phase::Running, _) if self.exchanges => self.not_heard(programs.base, memory),
            (Phase::Entered, _) => self.hear_of_operands(memory).ok().flatten(),
            (Phase::Running, Some(Action::Wait { rank, .. })) => Some(*rank),
            _ => None,
        }
    }

    /// A rank that may still look at what this one is about to write over, and the epoch that it has to end first.
    #[inline]
    fn guarded_by(&self, program: &Program, memory: &HostMemory) -> Option<(usize, u64)> {
        let Stamp { epoch, .. } = self.stamp;
        let before = if program.is_in_line() { HostMemory::IN_LINE } else { 2 };
        // Who has begun an epoch has ended the one before.
        if self.heard + before > epoch || epoch <= before {
            return None;
        }
        self.guarded_by_who_is_behind(program, epoch - before, memory)
    }

    /// The same where it has to be looked at.
    fn guarded_by_who_is_behind(
        &self,
        program: &Program,
        ended: u64,
        memory: &HostMemory,
    ) -> Option<(usize, u64)> {
        // Who shows nothing writes nothing that others look at.
        if program.is_in_line() && !program.shows && !HostMemory::renews(self.stamp.epoch) {
            return None;
        }
        let mut others = (0..memory.world()).filter(|&rank| rank != memory.rank());
        others.find(|&rank| !memory.has_ended(rank, ended)).map(|rank| (rank, ended))
    }

    /// The rank that an exchange waits for, where it waits for one.
    fn not_heard(&self, program: &Program, memory: &HostMemory) -> Option<usize> {
        let rank = *program.exchange.as_ref()?.hears.get(self.at.checked_sub(1)?)?;
        (memory.shown(rank, self.stamp) == Seen::NotYet).then_some(rank)
    }

    fn enter(
        &mut self,
        program: &Program,
        operation: &Operation,
        memory: &mut HostMemory,
    ) -> Result<(), Stop> {
        memory.begin(self.stamp);
        if !program.is_in_line() {
            if program.slot_bytes > 0 {
                memory.make_slots().map_err(|error| Stop::NoSlots(error.to_string()))?;
            }
            let buffers = operation.buffers();
            let operands = Operands {
                input: buffers.input.expose_provenance() as u64,
                output: buffers.output.expose_provenance() as u64,
                shared: self.shared,
            };
            // Who hears nothing else of this rank may wait for this.
            memory.enter(self.stamp, operands, !program.hears_all || self.shared.is_some());
        }
        self.phase = if self.shared.is_some() { Phase::Entered } else { Phase::Running };
        Ok(())
    }

    /// Looks where all ranks' operands are; a rank that has not said so yet.
    fn hear_of_operands(&mut self, memory: &HostMemory) -> Result<Option<usize>, Stop> {
        let mut all_shared = true;
        for rank in 0..memory.world() {
            let (seen, operands) = memory.operands(rank, self.stamp);
            match seen {
                Seen::There => all_shared &= operands.shared.is_some(),
                Seen::NotYet => return Ok(Some(rank)),
                Seen::Other => return Err(Stop::Disagrees(rank)),
            }
        }
        // All ranks see the same, and those with other memory need not look.
        self.all_shared = all_shared;
        self.phase = Phase::Running;
        Ok(None)
    }

    /// The program that runs, or ran last.
    #[inline]
    pub(in crate::backend) fn program<'p>(&self, programs: &Programs<'p>) -> &'p Program {
        match programs.shared {
            Some(shared) if self.all_shared => shared,
            _ => programs.base,
        }
    }

    /// What went past the caches is there before whatever others are told next.
    #[inline]
    fn publish(&mut self) {
        if std::mem::take(&mut self.streamed) {
            stream::fence();
        }
    }

    #[inline]
    fn signal(&mut self, program: &Program, flag: u32, memory: &mut HostMemory) {
        self.publish();
        if program.is_in_line() {
            memory.show(self.stamp);
        } else {
            let count = &mut self.raised[flag as usize];
            *count += 1;
            memory.raise(flag, self.stamp, *count);
        }
    }

    #[inline]
    fn look(&mut self, program: &Program, rank: usize, flag: u32, value: u32, memory: &HostMemory) -> Seen {
        if program.is_in_line() {
            memory.shown(rank, self.stamp)
        } else {
            memory.flag(rank, flag, self.stamp, value)
        }
    }

    /// Where a rank's slot is.
    #[inline]
    fn slot(&self, program: &Program, memory: &mut HostMemory, rank: usize) -> Result<*mut u8, Stop> {
        if let Some(bytes) = program.in_line {
            return Ok(memory.in_line(rank, self.stamp, bytes));
        }
        memory.slot(rank, self.stamp).ok_or(Stop::Garbled(rank))
    }

    /// Where byte `self.done` of an operand is, and how many bytes of `len` lie together there.
    #[inline]
    fn place(
        &mut self,
        program: &Program,
        operation: &Operation,
        memory: &mut HostMemory,
        operand: Operand,
        len: usize,
    ) -> Result<(Where, usize), Stop> {
        let at = operand.offset + self.done;
        let here = |base: *mut u8| Ok((Where::Here(base.wrapping_add(at)), len));
        match (operand.base, operation.pieces()) {
            (Base::Input, None) => here(operation.buffers().input.cast_mut()),
            (Base::Output, None) => here(operation.buffers().output),
            (base @ (Base::Input | Base::Output), Some(pieces)) => {
                let (piece, at) = pieces.find(at);
                let base = if base == Base::Input { piece.input.cast_mut() } else { piece.output };
                Ok((Where::Here(base.wrapping_add(at)), len.min(piece.bytes - at)))
            }
            (Base::Scratch, _) => here(self.scratch.as_mut_ptr()),
            (Base::Slot, _) => here(self.slot(program, memory, memory.rank())?),
            (Base::Peer(rank, Region::Slot), _) => here(self.slot(program, memory, rank)?),
            (Base::Peer(rank, region), _) => {
                let (_, operands) = memory.operands(rank, self.stamp);
                let first = region == Region::Input;
                if let Some((input, output)) = operands.shared {
                    let offset = if first { input } else { output };
                    let address = memory.mapped(offset.saturating_add(at as u64), len);
                    return Ok((Where::Here(address.ok_or(Stop::Garbled(rank))?), len));
                }
                let address = if first { operands.input } else { operands.output };
                Ok((Where::There(rank, address.wrapping_add(at as u64)), len))
            }
        }
    }

    /// Copies as many bytes as lie together; returns how many.
    fn copy(
        &mut self,
        program: &Program,
        operation: &Operation,
        memory: &mut HostMemory,
        source: Operand,
        into: Operand,
        len: usize,
    ) -> Result<usize, Stop> {
        let (from, len) = self.place(program, operation, memory, source, len)?;
        let (to, len) = self.place(program, operation, memory, into, len)?;
        let Where::Here(to) = to else { return Err(Stop::Garbled(memory.rank())) };
        match from {
            // In place: it is there already, and others may be reading it.
            Where::Here(from) if from == to => {}
            // SAFETY: both ranges lie within their memories (the plan's spans are checked against the request's lengths, and
            // the operation's maker vouches for these; a slot is as long as any program's), and nobody else touches what is
            // written here (flags).
            Where::Here(from) if program.streams && into.is_result() => unsafe {
                stream::copy(from, to, len);
                self.streamed = true;
            },
            // SAFETY: as above. `copy` allows them to overlap.
            Where::Here(from) => unsafe { std::ptr::copy(from, to, len) },
            Where::There(rank, address) => {
                // SAFETY: as above; the peer's process is only read.
                unsafe { memory.read(rank, address, to, len) }
                    .map_err(|error| Stop::Unreadable(rank, error))?;
            }
        }
        Ok(len)
    }

    /// Folds as many bytes as lie together, or a tile; returns how many.
    #[expect(clippy::too_many_arguments)]
    fn fold(
        &mut self,
        program: &Program,
        operation: &Operation,
        memory: &mut HostMemory,
        sources: &[Operand],
        into: Operand,
        len: usize,
        finish: bool,
    ) -> Result<usize, Stop> {
        let (to, mut len) = self.place(program, operation, memory, into, len)?;
        let Where::Here(to) = to else { return Err(Stop::Garbled(memory.rank())) };
        let streams = program.streams && into.base == Base::Output;
        if streams {
            len = len.min(TILE - TILE % program.element);
        }
        let mut addresses = std::mem::take(&mut self.sources);
        addresses.clear();
        // How many are read by way of the kernel, each into a place of its own behind the tile.
        let mut read = 0;
        for source in sources {
            let (place, together) = self.place(program, operation, memory, *source, len)?;
            len = len.min(together);
            match place {
                Where::Here(address) => addresses.push(address.cast_const()),
                Where::There(..) => {
                    read += 1;
                    len = len.min(READ - READ % program.element);
                    addresses.push(std::ptr::null());
                }
            }
        }
        if read > 0 {
            let needed = TILE + read * READ;
            if self.staging.len() < needed {
                self.staging = vec![0; needed];
            }
            let mut at = TILE;
            for (source, address) in sources.iter().zip(&mut addresses) {
                if let (Where::There(rank, from), _) = self.place(program, operation, memory, *source, len)? {
                    let place = self.staging[at..at + len].as_mut_ptr();
                    // SAFETY: the staging buffer is nobody else's, and long enough; the peer's process is only read.
                    unsafe { memory.read(rank, from, place, len) }
                        .map_err(|error| Stop::Unreadable(rank, error))?;
                    *address = place;
                    at += READ;
                }
            }
        }
        let kernels = program.kernels.expect("only reductions with kernels fold in shared memory");
        let (count, world) = (len / program.element, operation.request().world);
        // SAFETY: as in `copy`; lowering refuses operands that overlap but are not the same. The staging buffer is nobody
        // else's, and longer than a tile.
        unsafe {
            let result = if streams { self.staging.as_mut_ptr() } else { to };
            program.fold(kernels, result, &addresses, count);
            if finish {
                kernels.finish(result, count, world);
            }
            if streams {
                stream::copy(result, to, len);
                self.streamed = true;
            }
        }
        self.sources = addresses;
        Ok(len)
    }

    fn finish(
        &mut self,
        program: &Program,
        operation: &Operation,
        memory: &mut HostMemory,
        range: Operand,
        bytes: usize,
    ) -> Result<(), Stop> {
        while self.done < bytes {
            let (to, len) = self.place(program, operation, memory, range, bytes - self.done)?;
            if let (Where::Here(to), Some(kernels)) = (to, program.kernels) {
                // SAFETY: as in `copy`.
                unsafe { kernels.finish(to, len / program.element, operation.request().world) };
            }
            self.done += len;
        }
        Ok(())
    }
}

/// What follows where a rank has not done what is waited for: it may have left, or have done it just now.
#[cold]
fn blocked(
    memory: &mut HostMemory,
    rank: usize,
    mut there: impl FnMut(&mut HostMemory) -> bool,
) -> Result<Step, Stop> {
    // Looked at before the second look: what it did before it left is then surely seen.
    if memory.has_left(rank) && !there(memory) {
        return Err(Stop::Left(rank));
    }
    Ok(Step::Blocked(rank))
}
