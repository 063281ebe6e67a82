//! Where the bytes of a call of MPI's lie: in the operation's own memory, or in that of the backend, which they pass through.

use super::super::Operation;
use super::rounds::Round;
use crate::collective::{Collective, Counts, Request};
use crate::reduce::{ReduceOp, kernels};
use crate::transport::mpi::{Ask, Checked, Custom, LIMIT, Memory, Op, Turn, Type};
use std::ops::Range;

/// What a round has in hand: what is done with its result.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Where the result lies, and how long it is, in bytes; nothing where this rank has none.
    result: Option<(*mut u8, usize)>,
    /// Where it goes in the output, if it does not lie there already.
    goes_to: Option<usize>,
    /// Whether MPI has memory of the operation's own.
    pub(super) direct: bool,
}

// SAFETY: addresses of what the operation and the backend own, which are used by whichever thread drives the backend.
unsafe impl Send for Course {}

/// How a round is begun.
pub(super) struct Means<'a> {
    pub(super) rank: usize,
    pub(super) operation: &'a Operation,
    pub(super) memory: &'a mut Memory,
    /// Whether MPI may have the operation's memory.
    pub(super) direct: bool,
    /// Whether it is known what MPI takes for an input in place.
    pub(super) in_place: bool,
    /// The most bytes of a part of what is described.
    pub(super) limit: usize,
    pub(super) turn: &'a mut Turn,
}

impl Means<'_> {
    /// The call that a round is.
    pub(super) fn ask(&mut self, round: &Round) -> Checked<(Ask, Course)> {
        self.memory.lists.clear();
        match round {
            Round::Barrier => Ok((Ask::Barrier, Course { result: None, goes_to: None, direct: false })),
            Round::Whole(range) if self.request().collective == Collective::Broadcast => {
                Ok(self.broadcast(range.clone()))
            }
            Round::Whole(range) => {
                let root = match self.request().collective {
                    Collective::Reduce => Some(self.request().root),
                    _ => None,
                };
                self.reduce(range.clone(), range.start, root)
            }
            Round::Part(root, range) => {
                let start = self.request().block(*root).start;
                self.reduce(range.clone(), range.start - start, Some(*root))
            }
            Round::Blocks if self.request().collective == Collective::ReduceScatter => self.reduce_scatter(),
            Round::Blocks => Ok(self.blocks()),
            Round::Described => self.described(),
            Round::Messages => unreachable!("messages are no collective"),
        }
    }

    fn request(&self) -> &Request {
        self.operation.request()
    }

    fn size(&self) -> usize {
        self.request().element_size()
    }

    fn bytes(&self, elements: Range<usize>) -> Range<usize> {
        let size = self.size();
        elements.start * size..elements.end * size
    }

    fn is_in_place(&self) -> bool {
        self.request().aliasing(self.rank).is_some()
    }

    fn is_aligned(&self, address: *const u8) -> bool {
        let align = match self.request().custom {
            Some(_) => 1,
            None => self.request().dtype.size(),
        };
        address.addr().is_multiple_of(align)
    }

    /// Whether MPI may have this side of the operation's memory: it is there, in one piece, and MPI's loops can work on it.
    fn may_have(&self, address: *const u8, bytes: usize) -> bool {
        let aligned = self.is_aligned(address) || !self.request().collective.combines();
        self.direct && bytes > 0 && self.operation.pieces().is_none() && aligned
    }

    /// Copies these bytes of the input to a place.
    fn copy_input(&self, range: Range<usize>, into: *mut u8) {
        // SAFETY: the range is within the input, and the place is the backend's own.
        each_piece(self.operation, range, |input, _, at, length| unsafe {
            std::ptr::copy_nonoverlapping(input, into.add(at), length);
        });
    }

    /// The input's bytes where MPI may read them, and whether that is the operation's memory.
    fn input(&mut self, range: Range<usize>) -> (*const u8, bool) {
        let address = self.operation.buffers().input.wrapping_add(range.start);
        if self.may_have(address, range.len()) {
            return (address, true);
        }
        let stage = self.memory.stages[0].bytes(range.len());
        self.copy_input(range, stage);
        (stage, false)
    }

    /// Where MPI may write these bytes of the output, and what is to be done with them then.
    fn output(&mut self, range: Range<usize>, must_stage: bool) -> (*mut u8, Course) {
        let address = self.operation.buffers().output.wrapping_add(range.start);
        if !must_stage && self.may_have(address, range.len()) {
            return (address, Course { result: Some((address, range.len())), goes_to: None, direct: true });
        }
        let stage = self.memory.stages[1].bytes(range.len());
        let result = (!range.is_empty()).then_some((stage, range.len()));
        (stage, Course { result, goes_to: Some(range.start), direct: false })
    }

    /// The reduction of MPI's, and the type.
    fn reduction(&mut self) -> Checked<(Op, Type)> {
        if let Some(custom) = self.operation.custom() {
            // One for all rounds.
            if self.memory.custom.is_none() {
                self.memory.custom = Some(Custom::new(custom));
            }
            let custom = self.memory.custom.as_deref().expect("it was put there");
            // SAFETY: it lies in a box, which is kept for as long as MPI has the operation.
            let each = unsafe { Type::of_custom(custom, self.turn) }?;
            self.memory.types.push(each);
            return Ok((self.turn.custom_reduction()?, each));
        }
        let request = self.operation.request();
        let op = request.op.expect("what combines has a reduction");
        let found = self.turn.reduction(op, request.dtype)?;
        Ok(found.expect("a request that was validated has a reduction of its type"))
    }

    /// A reduction of these elements of the input to all ranks or to one, whose output they are from `at` on.
    fn reduce(&mut self, range: Range<usize>, at: usize, root: Option<usize>) -> Checked<(Ask, Course)> {
        let (op, each) = self.reduction()?;
        let count = range.len();
        let input_bytes = self.bytes(range);
        let output_bytes = self.bytes(at..at + count);
        let gets = root.is_none_or(|root| root == self.rank);
        let make = |input, output| match root {
            None => Ask::AllReduce { input, output, count, each, op },
            Some(root) => Ask::Reduce { input, output, count, each, op, root },
        };
        if !gets {
            let (input, direct) = self.input(input_bytes);
            let nowhere = self.memory.stages[1].bytes(1);
            return Ok((make(Some(input), nowhere), Course { result: None, goes_to: None, direct }));
        }
        let Request { collective, .. } = *self.request();
        let own_output = self.operation.buffers().output.wrapping_add(output_bytes.start);
        let own_input = self.operation.buffers().input.wrapping_add(input_bytes.start);
        // In place a reduce_scatter's blocks lie where others' inputs do.
        let apart = self.is_in_place() && collective == Collective::ReduceScatter;
        let may_write = !apart && self.may_have(own_output, output_bytes.len());
        let may_read = self.may_have(own_input, input_bytes.len());
        if may_write && self.is_in_place() && self.in_place {
            let result = Some((own_output, output_bytes.len()));
            return Ok((make(None, own_output), Course { result, goes_to: None, direct: true }));
        }
        if may_write && !(self.is_in_place() && may_read) {
            let (input, _) = self.input(input_bytes);
            let (output, course) = self.output(output_bytes, false);
            return Ok((make(Some(input), output), course));
        }
        // Copied in, reduced there, and copied out.
        let stage = self.memory.stages[0].bytes(input_bytes.len());
        self.copy_input(input_bytes.clone(), stage);
        if self.in_place {
            let result = (count > 0).then_some((stage, output_bytes.len()));
            let course = Course { result, goes_to: Some(output_bytes.start), direct: false };
            return Ok((make(None, stage), course));
        }
        let (output, course) = self.output(output_bytes, !may_write);
        Ok((make(Some(stage), output), course))
    }

    fn reduce_scatter(&mut self) -> Checked<(Ask, Course)> {
        let (op, each) = self.reduction()?;
        let blocks = self.request().blocks();
        let own = self.bytes(0..blocks[self.rank].len());
        let all = self.bytes(0..self.request().blocks_end());
        let (input, reads) = self.input(all);
        let (output, mut course) = self.output(own, self.is_in_place());
        course.direct |= reads;
        blocks.iter().for_each(|block| self.memory.lists.send(block.len(), 0, each));
        Ok((Ask::ReduceScatter { input, output, each, op }, course))
    }

    fn broadcast(&mut self, range: Range<usize>) -> (Ask, Course) {
        let bytes = self.bytes(range);
        let (length, root) = (bytes.len(), self.request().root);
        if self.rank != root {
            let (data, course) = self.output(bytes, false);
            return (Ask::Broadcast { data, bytes: length, root }, course);
        }
        let goes_to = (!self.is_in_place()).then_some(bytes.start);
        let (data, direct) = self.input(bytes);
        let data = data.cast_mut();
        let result = (goes_to.is_some() && length > 0).then_some((data, length));
        (Ask::Broadcast { data, bytes: length, root }, Course { result, goes_to, direct })
    }

    /// Counts and places of the blocks, in bytes; or the one count.
    fn list_blocks(&mut self) -> Option<usize> {
        let size = self.size();
        if let Counts::Same(count) = self.request().counts {
            return Some(count * size);
        }
        for block in self.request().blocks() {
            self.memory.lists.send(block.len() * size, block.start * size, Type::byte());
        }
        None
    }

    /// Collectives that move blocks.
    fn blocks(&mut self) -> (Ask, Course) {
        let Request { collective, root, .. } = *self.request();
        let rank = self.rank;
        match collective {
            Collective::AllGather => {
                let (all, own) =
                    (self.bytes(0..self.request().blocks_end()), self.bytes(self.request().block(rank)));
                let count = self.list_blocks();
                let (input, output, course) = self.gathered(all, own.clone());
                (Ask::AllGather { input, own: own.len(), output, count }, course)
            }
            Collective::Gather if rank == root => {
                let (all, own) =
                    (self.bytes(0..self.request().blocks_end()), self.bytes(self.request().block(rank)));
                let count = self.list_blocks();
                let (input, output, course) = self.gathered(all, own.clone());
                (Ask::Gather { input, own: own.len(), output, count, root }, course)
            }
            Collective::Gather => {
                let own = self.bytes(0..self.request().block(rank).len());
                let length = own.len();
                let count = self.list_blocks();
                let (input, direct) = self.input(own);
                let output = self.memory.stages[1].bytes(1);
                let ask = Ask::Gather { input: Some(input), own: length, output, count, root };
                (ask, Course { result: None, goes_to: None, direct })
            }
            Collective::Scatter => {
                let own = self.bytes(0..self.request().block(rank).len());
                let length = own.len();
                let count = self.list_blocks();
                if rank != root {
                    let nothing = self.memory.stages[0].bytes(1).cast_const();
                    let (output, course) = self.output(own, false);
                    let ask = Ask::Scatter { input: nothing, output: Some(output), own: length, count, root };
                    return (ask, course);
                }
                let (input, direct) = self.input(self.bytes(0..self.request().blocks_end()));
                if self.is_in_place() && self.in_place {
                    // Its own block stays where it is.
                    let ask = Ask::Scatter { input, output: None, own: length, count, root };
                    return (ask, Course { result: None, goes_to: None, direct });
                }
                let (output, mut course) = self.output(own, self.is_in_place());
                course.direct |= direct;
                (Ask::Scatter { input, output: Some(output), own: length, count, root }, course)
            }
            Collective::AllToAll => {
                let all = self.bytes(0..self.request().send_block(rank, self.request().world - 1).end);
                let count = all.len() / self.request().world;
                let (input, output, course) = self.apart(all.clone(), all);
                (Ask::AllToAll { input, output, count }, course)
            }
            other => unreachable!("{other} has no blocks to move"),
        }
    }

    /// Input and output of a rank that gathers `all`, of which its own is this part.
    fn gathered(&mut self, all: Range<usize>, own: Range<usize>) -> (Option<*const u8>, *mut u8, Course) {
        let own_output = self.operation.buffers().output;
        let is_direct = self.may_have(own_output, all.len());
        if !self.in_place {
            let (input, output, course) = self.apart(0..own.len(), all);
            return (Some(input), output, course);
        }
        if is_direct && !self.is_in_place() {
            let (input, _) = self.input(0..own.len());
            let (output, course) = self.output(all, false);
            return (Some(input), output, course);
        }
        let (output, course) = self.output(all, false);
        if !is_direct {
            self.copy_input(0..own.len(), output.wrapping_add(own.start));
        }
        (None, output, course)
    }

    /// Input and output that share no memory.
    fn apart(&mut self, input: Range<usize>, output: Range<usize>) -> (*const u8, *mut u8, Course) {
        let (input, reads) = if self.is_in_place() {
            let stage = self.memory.stages[0].bytes(input.len());
            self.copy_input(input, stage);
            (stage.cast_const(), false)
        } else {
            self.input(input)
        };
        let (output, mut course) = self.output(output, false);
        course.direct |= reads;
        (input, output, course)
    }

    /// Collectives that move blocks, each of which is described by itself: counts between pairs, and what MPI's `int` does not hold.
    fn described(&mut self) -> Checked<(Ask, Course)> {
        let (rank, size) = (self.rank, self.size());
        let Request { collective, root, world, .. } = *self.request();
        let scale = |range: Range<usize>| range.start * size..range.end * size;
        let request = self.operation.request();
        let input = 0..request.input_len(rank) * size;
        let output = 0..request.output_len(rank) * size;
        let (input, output, course) = self.apart(input, output);
        let own = 0..request.block(rank).len();
        for peer in 0..world {
            let (sent, received) = match collective {
                Collective::AllToAll => (request.send_block(rank, peer), request.receive_block(rank, peer)),
                Collective::AllGather => (own.clone(), request.block(peer)),
                Collective::Gather if rank == root && peer == root => (own.clone(), request.block(peer)),
                Collective::Gather if rank == root => (0..0, request.block(peer)),
                Collective::Gather if peer == root => (own.clone(), 0..0),
                Collective::Scatter if rank == root && peer == root => (request.block(peer), own.clone()),
                Collective::Scatter if rank == root => (request.block(peer), 0..0),
                Collective::Scatter if peer == root => (0..0, own.clone()),
                _ => (0..0, 0..0),
            };
            let (count, place, each) = self.describe(scale(sent))?;
            self.memory.lists.send(count, place, each);
            let (count, place, each) = self.describe(scale(received))?;
            self.memory.lists.receive(count, place, each);
        }
        Ok((Ask::AllToAllW { input, output }, course))
    }

    /// Bytes as MPI counts them: so many, from this byte on, of a type.
    pub(super) fn describe(&mut self, range: Range<usize>) -> Checked<(usize, usize, Type)> {
        if range.end <= self.limit.min(LIMIT) || range.is_empty() {
            return Ok((range.len(), if range.is_empty() { 0 } else { range.start }, Type::byte()));
        }
        let made = Type::region(range.start, range.len(), self.limit.min(LIMIT), self.turn)?;
        self.memory.types.push(made);
        Ok((1, 0, made))
    }

    /// Where the message that is sent, or else received, lies; and the course of one that is received.
    pub(super) fn message(&mut self, sends: bool) -> (*mut u8, Range<usize>, Course) {
        let (rank, world) = (self.rank, self.request().world);
        if sends {
            let bytes = self.bytes(0..self.request().send_block(rank, world - 1).end);
            let (input, direct) = self.input(bytes.clone());
            return (input.cast_mut(), bytes, Course { result: None, goes_to: None, direct });
        }
        let bytes = self.bytes(0..self.request().receive_block(rank, world - 1).end);
        let (output, course) = self.output(bytes.clone(), false);
        (output, bytes, course)
    }
}

impl Course {
    /// Ends a round whose call is done: what is to be finished is finished, and the result is put where it belongs.
    pub(super) fn end(&self, operation: &Operation) {
        let Some((result, length)) = self.result else { return };
        let request = operation.request();
        if request.op == Some(ReduceOp::Mean)
            && let Some(kernels) = kernels(ReduceOp::Mean, request.dtype)
        {
            // SAFETY: the result is as long as that, and MPI has let go of it.
            unsafe { kernels.finish(result, length / request.element_size(), request.world) };
        }
        if let Some(at) = self.goes_to {
            // SAFETY: the range is within the output, and what is copied is not part of it.
            each_piece(operation, at..at + length, |_, output, at, length| unsafe {
                std::ptr::copy_nonoverlapping(result.cast_const().add(at), output, length);
            });
        }
    }
}

/// Goes through the pieces of these bytes of an operation's memory: input, output, place in the range, length. One piece, where the operation
/// has none; its input is of no meaning where the range is one of the output, and the other way round.
fn each_piece(
    operation: &Operation,
    range: Range<usize>,
    mut each: impl FnMut(*const u8, *mut u8, usize, usize),
) {
    let Some(pieces) = operation.pieces() else {
        if !range.is_empty() {
            let buffers = operation.buffers();
            each(
                buffers.input.wrapping_add(range.start),
                buffers.output.wrapping_add(range.start),
                0,
                range.len(),
            );
        }
        return;
    };
    let mut at = range.start;
    while at < range.end {
        let (piece, within) = pieces.find(at);
        let length = (piece.bytes - within).min(range.end - at);
        each(piece.input.wrapping_add(within), piece.output.wrapping_add(within), at - range.start, length);
        at += length;
    }
}
