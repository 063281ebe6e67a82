//! Every call as a started one: its memory given away and got back.

use super::call::{Call, Job, Shape, Tensors};
use super::group::Member;
use super::value::with_type;
use ringfold::tensor::Element;
use ringfold::{Buffer, Collective, Communicator, Options, Result, With};

/// A rank that starts what it is asked for, and waits for it afterwards; now and then it calls instead, or runs
/// what it has prepared.
pub struct Starting {
    communicator: Communicator,
    calls: usize,
}

impl Starting {
    pub fn new(communicator: Communicator) -> Self {
        // Ranks need not take turns alike: what one starts another may call.
        let calls = communicator.rank();
        Starting { communicator, calls }
    }

    /// One that takes turns as the others do, over a backend for which to start and to call are not the same.
    #[allow(dead_code, reason = "there is one such backend")]
    pub fn alike(communicator: Communicator) -> Self {
        Starting { communicator, calls: 0 }
    }
}

impl Member for Starting {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Member::call(&mut self.communicator, job);
        }
        let call = &job.call;
        let mut options = Options::new().deadline(call.deadline).check(call.check).order(call.order);
        if let Some(algorithm) = call.algorithm {
            options = options.algorithm(algorithm);
        }
        let (dtype, prepare) = (call.dtype, self.calls.is_multiple_of(2));
        with_type!(dtype, T => start::<T>(&self.communicator.with(options), self.communicator.rank(), job, prepare))
    }
}

fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    let chunks = bytes.chunks_exact(size_of::<T>());
    // SAFETY: as many bytes as the type has, any of which are a value of plain data.
    chunks.map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() }).collect()
}

fn put<T: Element>(elements: &[T], into: &mut [u8]) {
    for (element, into) in elements.iter().zip(into.chunks_exact_mut(size_of::<T>())) {
        // SAFETY: as above.
        unsafe { into.as_mut_ptr().cast::<T>().write_unaligned(*element) }
    }
}

fn start<T: Element>(with: &With<'_>, rank: usize, job: &mut Job, prepare: bool) -> Result<()> {
    match &mut job.tensors {
        Tensors::One(memory) => {
            let data = by_verb(with, rank, &job.call, elements::<T>(memory.content()), prepare)?;
            put(&data, memory.content_mut());
        }
        Tensors::Two(input, output) => {
            let (data, into) = (elements::<T>(input.content()), elements::<T>(output.content()));
            let (_, result) = match (&job.call.shape, job.call.collective) {
                (_, Collective::Barrier) => return with.start_barrier()?.wait(),
                (Shape::Message(Some((to, _)), None), _) => {
                    return with.start_send(data, *to)?.wait().map(|_| ());
                }
                (Shape::Message(None, Some((from, _))), _) => (data, with.start_recv(into, *from)?.wait()?),
                (Shape::Message(Some((to, _)), Some((from, _))), _) => {
                    with.start_send_recv(data, *to, into, *from)?.wait()?
                }
                _ => by_verb(with, rank, &job.call, (data, into), prepare)?,
            };
            put(&result, output.content_mut());
        }
    }
    Ok(())
}

fn by_verb<B: Buffer<Output = B>>(
    with: &With<'_>,
    rank: usize,
    call: &Call,
    buffer: B,
    prepare: bool,
) -> Result<B> {
    let Call { op, root, .. } = *call;
    let counts = match &call.shape {
        Shape::Blocks(counts) => Some(&counts[..]),
        _ => None,
    };
    let receive: Vec<usize> = match &call.shape {
        Shape::Pairs(counts) => counts.iter().map(|to| to[rank]).collect(),
        _ => Vec::new(),
    };
    let pairs = match &call.shape {
        Shape::Pairs(counts) => Some((&counts[rank][..], &receive[..])),
        _ => None,
    };
    if prepare {
        let mut prepared = match call.collective {
            Collective::AllReduce => with.prepare_all_reduce(buffer, op),
            Collective::Reduce => with.prepare_reduce(buffer, op, root),
            Collective::ReduceScatter => with.prepare_reduce_scatter(buffer, counts, op),
            Collective::AllGather => with.prepare_all_gather(buffer, counts),
            Collective::Broadcast => with.prepare_broadcast(buffer, root),
            Collective::AllToAll => with.prepare_all_to_all(buffer, pairs),
            _ => return by_verb(with, rank, call, buffer, false),
        }?;
        prepared.start()?;
        prepared.wait()?;
        return prepared.into_buffer();
    }
    match call.collective {
        Collective::AllReduce => with.start_all_reduce(buffer, op),
        Collective::Reduce => with.start_reduce(buffer, op, root),
        Collective::ReduceScatter => with.start_reduce_scatter(buffer, counts, op),
        Collective::AllGather => with.start_all_gather(buffer, counts),
        Collective::Broadcast => with.start_broadcast(buffer, root),
        Collective::Gather => with.start_gather(buffer, counts, root),
        Collective::Scatter => with.start_scatter(buffer, counts, root),
        Collective::AllToAll => with.start_all_to_all(buffer, pairs),
        other => unreachable!("{other} has no such verb"),
    }?
    .wait()
}
