//! Which of NCCL's calls a collective is.
//!
//! all_reduce, reduce, broadcast, and all_gather and reduce_scatter whose blocks have one length, are calls of NCCL's. With
//! blocks of several lengths all_gather is a group of broadcasts and reduce_scatter a group of reductions, one a block;
//! gather, scatter, all_to_all and messages are groups of sends and receives. What a rank has for itself is copied.

use super::comm::{Launched, Queue, Turn};
use super::library::{Library, Refusal, reduction};
use crate::collective::{Collective, Counts, Request};
use crate::cuda::Context;
use crate::tensor::{DType, Stream};
use std::ffi::c_int;
use std::ops::Range;

/// Which of a rank's two memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// Whether a memory is divided into a part for each rank: else it is one part, whose number is 0.
pub(super) fn is_divided(request: &Request, way: Way) -> bool {
    match request.collective {
        Collective::ReduceScatter | Collective::Scatter => way == Way::In,
        Collective::AllGather | Collective::Gather => way == Way::Out,
        Collective::AllToAll => true,
        _ => false,
    }
}

/// Which elements of a rank's memory are its part for a peer, or the whole where it is not divided. Nothing where this rank has no
/// such memory.
#[inline(never)]
pub(super) fn part(request: &Request, rank: usize, way: Way, peer: usize) -> Range<usize> {
    let own = |range: Range<usize>| 0..range.len();
    let at_root = |range: Range<usize>| if rank == request.root { range } else { 0..0 };
    match (request.collective, way) {
        (Collective::AllReduce | Collective::Barrier, _) => 0..request.whole(),
        (Collective::Reduce, Way::In) | (Collective::Broadcast, Way::Out) => 0..request.whole(),
        (Collective::Reduce, Way::Out) | (Collective::Broadcast, Way::In) => at_root(0..request.whole()),
        (Collective::ReduceScatter, Way::In) | (Collective::AllGather, Way::Out) => request.block(peer),
        (Collective::Scatter, Way::In) | (Collective::Gather, Way::Out) => at_root(request.block(peer)),
        (Collective::ReduceScatter | Collective::Scatter, Way::Out)
        | (Collective::AllGather | Collective::Gather, Way::In) => own(request.block(rank)),
        (Collective::AllToAll, Way::In) => request.send_block(rank, peer),
        (Collective::AllToAll, Way::Out) => request.receive_block(rank, peer),
        (Collective::SendRecv, _) => match (&request.counts, way) {
            (Counts::Messages { send: Some((_, count)), .. }, Way::In)
            | (Counts::Messages { receive: Some((_, count)), .. }, Way::Out) => 0..*count,
            _ => 0..0,
        },
    }
}

/// One collective, or a portion of one, over memory on the device.
pub(super) struct Issue<'a> {
    pub(super) library: &'a Library,
    pub(super) context: &'a Context,
    pub(super) request: &'a Request,
    pub(super) rank: usize,
    /// Where the parts are, in elements from the addresses below: as [`part`] has them.
    pub(super) place: &'a dyn Fn(Way, usize) -> Range<usize>,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) stream: Stream,
}

impl Issue<'_> {
    /// Queues it.
    ///
    /// # Safety
    /// The parts are where the place says, on the device of the context, in memory that is left to the operation until it is
    /// done; the stream lives.
    pub(super) unsafe fn queue(&self, turn: &Turn<'_>) -> Launched {
        let Issue { request, rank, input, output, .. } = *self;
        let peers = || (0..request.world).filter(move |&peer| peer != rank);
        let uniform = matches!(request.counts, Counts::Same(_));
        let (on, factor) = self.on();
        let op = request.op.and_then(reduction).unwrap_or(0);
        let place = |way, peer| {
            let range = (self.place)(way, peer);
            (range.start as u64 * request.dtype.size() as u64, range.len() * factor)
        };
        let from = |peer| (input + place(Way::In, peer).0, place(Way::In, peer).1);
        let to = |peer| (output + place(Way::Out, peer).0, place(Way::Out, peer).1);
        // SAFETY, of all below: the caller's promise, by the places that he has given.
        match request.collective {
            Collective::AllReduce | Collective::Barrier => {
                let (from, count) = from(0);
                // SAFETY: see above.
                nothing_or(count, || unsafe { turn.all_reduce(from, to(0).0, count, op, on) })
            }
            Collective::Reduce => {
                let (from, count) = from(0);
                // SAFETY: see above; only the root's output is written.
                nothing_or(count, || unsafe { turn.reduce((from, to(0).0), count, op, request.root, on) })
            }
            Collective::Broadcast => {
                let (to, count) = to(0);
                let from = if rank == request.root { from(0).0 } else { to };
                // SAFETY: see above; only the root's input is read.
                nothing_or(count, || unsafe { turn.broadcast(from, to, count, request.root, on) })
            }
            Collective::AllGather if uniform => {
                let (from, count) = from(0);
                // SAFETY: see above; blocks of one length stand one after another.
                nothing_or(count, || unsafe { turn.all_gather(from, to(0).0, count, on) })
            }
            Collective::AllGather => {
                let mine = from(0).0;
                turn.group(|| {
                    all(0..request.world, |root| {
                        let (to, count) = to(root);
                        let from = if root == rank { mine } else { to };
                        // SAFETY: see above; only the root's block is read.
                        nothing_or(count, || unsafe { turn.broadcast(from, to, count, root, on) })
                    })
                })
            }
            Collective::ReduceScatter if uniform => {
                let (to, count) = to(0);
                // SAFETY: see above; blocks of one length stand one after another.
                nothing_or(count, || unsafe { turn.reduce_scatter(from(0).0, to, count, op, on) })
            }
            Collective::ReduceScatter => {
                let mine = to(0).0;
                turn.group(|| {
                    all(0..request.world, |root| {
                        let (from, count) = from(root);
                        // SAFETY: see above; only the root's output is written.
                        nothing_or(count, || unsafe { turn.reduce((from, mine), count, op, root, on) })
                    })
                })
            }
            Collective::Gather if rank == request.root => {
                self.copy_own(from(0), to(rank))?;
                // SAFETY: see above.
                turn.group(|| all(peers(), |peer| unsafe { self.receive(turn, to(peer), peer, on) }))
            }
            Collective::Gather => {
                let (from, count) = from(0);
                // SAFETY: see above.
                nothing_or(count, || unsafe { turn.send(from, count, request.root, on) })
            }
            Collective::Scatter if rank == request.root => {
                self.copy_own(from(rank), to(0))?;
                // SAFETY: see above.
                turn.group(|| all(peers(), |peer| unsafe { self.send(turn, from(peer), peer, on) }))
            }
            Collective::Scatter => {
                let (to, count) = to(0);
                // SAFETY: see above.
                nothing_or(count, || unsafe { turn.recv(to, count, request.root, on) })
            }
            Collective::AllToAll if uniform && turn.has_all_to_all() => {
                let (from, count) = from(0);
                // SAFETY: see above; blocks of one length stand one after another.
                nothing_or(count, || unsafe { turn.all_to_all(from, to(0).0, count, on) })
            }
            Collective::AllToAll => {
                self.copy_own(from(rank), to(rank))?;
                turn.group(|| {
                    all(peers(), |peer| {
                        // SAFETY: see above.
                        unsafe { self.send(turn, from(peer), peer, on) }?;
                        // SAFETY: see above.
                        unsafe { self.receive(turn, to(peer), peer, on) }
                    })
                })
            }
            Collective::SendRecv => self.messages(turn, from(0), to(0), on),
        }
    }

    /// NCCL's type, and how many of it an element is: where nothing is reduced, bytes serve for what NCCL does not know.
    fn on(&self) -> (Queue, usize) {
        let (dtype, factor) = wire(self.library, self.request.dtype);
        (Queue { dtype, stream: self.stream }, factor)
    }

    fn messages(&self, turn: &Turn<'_>, from: (u64, usize), to: (u64, usize), on: Queue) -> Launched {
        let Counts::Messages { send, receive, .. } = &self.request.counts else { return Ok(true) };
        if send.is_some_and(|(peer, _)| peer == self.rank) {
            return self.copy_own(from, to).map(|()| true);
        }
        turn.group(|| {
            // SAFETY: the promise of whoever has called `queue`.
            let sent = send.map_or(Ok(true), |(peer, _)| unsafe { self.send(turn, from, peer, on) });
            // SAFETY: as above.
            let received = receive.map_or(Ok(true), |(peer, _)| unsafe { self.receive(turn, to, peer, on) });
            sent.and(received)
        })
    }

    unsafe fn send(&self, turn: &Turn<'_>, (from, count): (u64, usize), to: usize, on: Queue) -> Launched {
        // SAFETY: the caller's promise.
        nothing_or(count, || unsafe { turn.send(from, count, to, on) })
    }

    unsafe fn receive(&self, turn: &Turn<'_>, (to, count): (u64, usize), from: usize, on: Queue) -> Launched {
        // SAFETY: the caller's promise.
        nothing_or(count, || unsafe { turn.recv(to, count, from, on) })
    }

    /// What a rank has for itself, unless it is there already.
    fn copy_own(&self, (from, count): (u64, usize), (to, _): (u64, usize)) -> Result<(), Refusal> {
        let bytes = count * self.request.dtype.size() / self.on().1;
        if bytes == 0 || from == to {
            return Ok(());
        }
        // SAFETY: the promise of whoever has called `queue`; where input and output share memory the two are one.
        Ok(unsafe { self.context.copy_within(to, from, bytes, self.stream) }?)
    }
}

/// NCCL's type for moving elements, and how many of it one is.
pub(super) fn wire(library: &Library, dtype: DType) -> (c_int, usize) {
    const BYTES: c_int = 1;
    library.dtype(dtype).map_or((BYTES, dtype.size()), |number| (number, 1))
}

/// Nothing is done where there is nothing.
#[inline]
fn nothing_or(count: usize, call: impl FnOnce() -> Launched) -> Launched {
    if count == 0 { Ok(true) } else { call() }
}

/// Each in turn, up to the first that fails.
fn all(peers: impl Iterator<Item = usize>, mut call: impl FnMut(usize) -> Launched) -> Launched {
    for peer in peers {
        call(peer)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_definitions() {
        for collective in Collective::ALL {
            for root in 0..3 {
                let mut request = Request::new(collective, 3, DType::F32, 5);
                request.root = if collective.is_rooted() { root } else { 0 };
                for rank in 0..3 {
                    let total = |way| {
                        let parts = if is_divided(&request, way) { 3 } else { 1 };
                        (0..parts).map(|peer| part(&request, rank, way, peer).len()).sum::<usize>()
                    };
                    assert_eq!(total(Way::In), request.input_len(rank), "{collective} {root} {rank}");
                    assert_eq!(total(Way::Out), request.output_len(rank), "{collective} {root} {rank}");
                }
            }
        }
    }

    #[test]
    fn messages_are_their_counts() {
        let mut request = Request::new(Collective::SendRecv, 3, DType::U16, 0);
        request.counts = Counts::Messages { rank: 1, send: Some((2, 7)), receive: Some((0, 3)) };
        assert_eq!(part(&request, 1, Way::In, 0), 0..7);
        assert_eq!(part(&request, 1, Way::Out, 0), 0..3);
    }
}
