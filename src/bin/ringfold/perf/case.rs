//! One collective at one size: its buffers, its call and its check.

use super::operands::{Operands, Value};
use ringfold::tensor::{TensorMut, TensorRef};
use ringfold::{Collective, Communicator, Error, ReduceOp, Result, SharedTensor, Tensors, With};
use std::ops::{Deref, DerefMut, Range};

/// New memory, or an error that says how much was asked for.
fn zeroed<T: Value>(len: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| {
        Error::invalid(format!("there is no memory for {len} elements of {}", T::DTYPE)).remedy("lower -e")
    })?;
    data.resize(len, T::default());
    Ok(data)
}

/// Where operands lie.
enum Memory<T: Value> {
    Plain(Vec<T>),
    Shared(SharedTensor<T>),
}

impl<T: Value> Memory<T> {
    /// Zeroed memory: shared by the ranks of this communicator, or plain.
    fn zeroed(shared_by: Option<&Communicator>, len: usize) -> Result<Memory<T>> {
        match shared_by {
            Some(comm) => comm.allocate(len).map(Memory::Shared),
            None => zeroed(len).map(Memory::Plain),
        }
    }
}

impl<T: Value> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Memory::Plain(data) => data,
            Memory::Shared(data) => data,
        }
    }
}

impl<T: Value> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Memory::Plain(data) => data,
            Memory::Shared(data) => data,
        }
    }
}

/// What is measured, at one size.
pub(super) struct Case<T: Value> {
    collective: Collective,
    op: ReduceOp,
    root: usize,
    rank: usize,
    world: usize,
    operands: Operands,
    /// The block of each rank in the whole message; they differ by one element at most.
    blocks: Vec<Range<usize>>,
    counts: Vec<usize>,
    /// How many elements this rank swaps with each: symmetric, so that all_to_all works in place too.
    pair_counts: Vec<usize>,
    whole: usize,
    input: Memory<T>,
    output: Memory<T>,
}

impl<T: Value> Case<T> {
    /// A case in which the larger of a rank's whole input and output has `whole` elements, in shared tensors where a
    /// communicator is given.
    pub(super) fn new(
        collective: Collective,
        op: ReduceOp,
        root: usize,
        (rank, world): (usize, usize),
        whole: usize,
        shared_by: Option<&Communicator>,
    ) -> Result<Self> {
        let counts: Vec<usize> =
            (0..world).map(|block| whole / world + usize::from(block < whole % world)).collect();
        let mut end = 0;
        let blocks: Vec<Range<usize>> = counts
            .iter()
            .map(|count| {
                end += count;
                end - count..end
            })
            .collect();
        let (base, longer) = (whole / world, whole % world);
        let pair_counts = (0..world).map(|peer| base + usize::from((peer + rank) % world < longer)).collect();
        let mut case = Case {
            collective,
            op,
            root,
            rank,
            world,
            operands: Operands::new(world, op),
            blocks,
            counts,
            pair_counts,
            whole,
            input: Memory::Plain(Vec::new()),
            output: Memory::Plain(Vec::new()),
        };
        case.input = Memory::zeroed(shared_by, case.input_len())?;
        case.output = Memory::zeroed(shared_by, case.output_len().max(case.input_len()))?;
        Ok(case)
    }

    fn own(&self) -> Range<usize> {
        self.blocks[self.rank].clone()
    }

    fn is_root(&self) -> bool {
        self.rank == self.root
    }

    fn input_len(&self) -> usize {
        match self.collective {
            Collective::AllGather | Collective::Gather => self.own().len(),
            Collective::Broadcast | Collective::Scatter if !self.is_root() => 0,
            // Pairs of ranks may exchange blocks of two lengths: the block of the larger rank number.
            Collective::AllToAll => self.pair_counts.iter().sum(),
            Collective::Barrier => 0,
            _ => self.whole,
        }
    }

    fn output_len(&self) -> usize {
        match self.collective {
            Collective::ReduceScatter | Collective::Scatter => self.own().len(),
            Collective::Reduce | Collective::Gather if !self.is_root() => 0,
            Collective::AllToAll => self.pair_counts.iter().sum(),
            Collective::Barrier => 0,
            _ => self.whole,
        }
    }

    /// Where this rank's input begins in the buffer of an operation in place.
    fn input_in_buffer(&self) -> usize {
        match self.collective {
            Collective::AllGather => self.own().start,
            Collective::Gather if self.is_root() => self.own().start,
            _ => 0,
        }
    }

    fn output_in_buffer(&self) -> usize {
        match self.collective {
            Collective::ReduceScatter => self.own().start,
            Collective::Scatter if self.is_root() => self.own().start,
            _ => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        self.input_len().max(self.output_len())
    }

    /// The first index of this rank's input in the pattern of operands.
    fn pattern_start(&self) -> usize {
        match self.collective {
            Collective::AllGather | Collective::Gather => self.own().start,
            _ => 0,
        }
    }

    /// Writes this rank's input: into the input, or where it stands in the buffer in place.
    pub(super) fn fill(&mut self, in_place: bool, sample: usize) {
        let (len, start) = (self.input_len(), self.pattern_start());
        let into = if in_place {
            let at = self.input_in_buffer();
            &mut self.output[at..at + len]
        } else {
            &mut self.input[..]
        };
        self.operands.fill(into, self.rank, start, sample);
    }

    /// Makes whatever an operation leaves out stand out.
    pub(super) fn spoil_output(&mut self) {
        self.output.fill(T::small(101));
    }

    /// One operation.
    pub(super) fn run(&mut self, comm: &With<'_>, in_place: bool) -> Result<()> {
        let (buffer_len, output_len) = (self.buffer_len(), self.output_len());
        let tensors: Tensors<'_> = if in_place {
            TensorMut::from_slice(&mut self.output[..buffer_len]).into()
        } else {
            (TensorRef::from_slice(&self.input), TensorMut::from_slice(&mut self.output[..output_len])).into()
        };
        let (op, root, counts) = (self.op, self.root, Some(&self.counts[..]));
        match self.collective {
            Collective::AllReduce => comm.all_reduce_dyn(tensors, op),
            // The buffer of a rank that gets nothing is its input.
            Collective::Reduce => comm.reduce_dyn(tensors, op, root),
            Collective::ReduceScatter => comm.reduce_scatter_dyn(tensors, counts, op),
            Collective::AllGather => comm.all_gather_dyn(tensors, counts),
            Collective::Broadcast => comm.broadcast_dyn(tensors, root),
            Collective::Gather => comm.gather_dyn(tensors, counts, root),
            Collective::Scatter => comm.scatter_dyn(tensors, counts, root),
            Collective::AllToAll => {
                let pairs = &self.pair_counts[..];
                // Blocks of one length need no list of counts, and some algorithms want it so.
                let differ = pairs.iter().any(|&count| count != pairs[0]);
                comm.all_to_all_dyn(tensors, differ.then_some((pairs, pairs)))
            }
            _ => comm.barrier(),
        }
    }

    /// How many elements of this rank's output are wrong.
    pub(super) fn wrong(&self, in_place: bool, sample: usize) -> u64 {
        let at = if in_place { self.output_in_buffer() } else { 0 };
        let output = &self.output[at..at + self.output_len()];
        let operands = &self.operands;
        match self.collective {
            Collective::AllReduce | Collective::Reduce => operands.wrong_sums(output, 0, sample),
            Collective::ReduceScatter => operands.wrong_sums(output, self.own().start, sample),
            Collective::Broadcast => operands.wrong_copies(output, self.root, 0, sample),
            Collective::Scatter => operands.wrong_copies(output, self.root, self.own().start, sample),
            Collective::AllGather | Collective::Gather => {
                if output.is_empty() {
                    return 0;
                }
                self.blocks
                    .iter()
                    .enumerate()
                    .map(|(rank, block)| {
                        operands.wrong_copies(&output[block.clone()], rank, block.start, sample)
                    })
                    .sum()
            }
            Collective::AllToAll => {
                // What a peer sends here begins, in its input, after what it sends to the ranks before.
                let mut at = 0;
                let mut wrong = 0;
                for (peer, &count) in self.pair_counts.iter().enumerate() {
                    let theirs = Case::<T>::pair_start(self.whole, self.world, peer, self.rank);
                    wrong += operands.wrong_copies(&output[at..at + count], peer, theirs, sample);
                    at += count;
                }
                wrong
            }
            _ => 0,
        }
    }

    fn pair_start(whole: usize, world: usize, rank: usize, to: usize) -> usize {
        let (base, longer) = (whole / world, whole % world);
        (0..to).map(|peer| base + usize::from((peer + rank) % world < longer)).sum()
    }
}
