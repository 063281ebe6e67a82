//! Calls as data, with the memory of one rank for them.

use super::memory::Memory;
use super::oracle;
use super::value::{self, Draw, Value, bytes_of, with_type};
use fastrand::Rng;
use ringfold::collective::{Counts, Request};
use ringfold::plan::Algorithm;
use ringfold::{Check, Collective, DType, Order, ReduceOp};
use std::time::Duration;

/// How long a call may take where it is expected to succeed: long enough for a machine under load.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How the elements are divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One count: of the whole, or of each block.
    Same(usize),
    /// The lengths of the blocks.
    Blocks(Vec<usize>),
    /// What each rank sends to each: `[from][to]`.
    Pairs(Vec<Vec<usize>>),
    /// One rank's messages: to whom and from whom, how many.
    Message(Option<(usize, usize)>, Option<(usize, usize)>),
}

/// Which ranks work in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    Out,
    In,
    Mixed,
}

/// One call, as one rank or all of them make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub collective: Collective,
    pub dtype: DType,
    /// Ignored by collectives that do not reduce.
    pub op: ReduceOp,
    pub root: usize,
    pub shape: Shape,
    pub placement: Placement,
    /// `None` is the table's choice.
    pub algorithm: Option<Algorithm>,
    pub check: Check,
    pub order: Order,
    /// Bytes off alignment.
    pub offset: usize,
    pub deadline: Duration,
}

impl Call {
    pub fn new(collective: Collective, dtype: DType, count: usize) -> Self {
        // A barrier reduces one byte.
        let (dtype, count) = if collective == Collective::Barrier { (DType::U8, 1) } else { (dtype, count) };
        Call {
            collective,
            dtype,
            op: ReduceOp::Sum,
            root: 0,
            shape: Shape::Same(count),
            placement: Placement::Out,
            algorithm: None,
            check: Check::Normal,
            order: Order::Default,
            offset: 0,
            deadline: DEADLINE,
        }
    }

    pub fn op(self, op: ReduceOp) -> Self {
        Call { op, ..self }
    }

    pub fn root(self, root: usize) -> Self {
        Call { root, ..self }
    }

    pub fn shape(self, shape: Shape) -> Self {
        Call { shape, ..self }
    }

    pub fn placement(self, placement: Placement) -> Self {
        Call { placement, ..self }
    }

    pub fn algorithm(self, algorithm: impl Into<Option<Algorithm>>) -> Self {
        Call { algorithm: algorithm.into(), ..self }
    }

    pub fn check(self, check: Check) -> Self {
        Call { check, ..self }
    }

    pub fn order(self, order: Order) -> Self {
        Call { order, ..self }
    }

    pub fn offset(self, offset: usize) -> Self {
        Call { offset, ..self }
    }

    pub fn deadline(self, deadline: Duration) -> Self {
        Call { deadline, ..self }
    }

    /// A message each way.
    pub fn message(dtype: DType, send: Option<(usize, usize)>, receive: Option<(usize, usize)>) -> Self {
        Call::new(Collective::SendRecv, dtype, 0).shape(Shape::Message(send, receive))
    }

    /// Whether this rank passes one tensor.
    pub fn in_place(&self, rank: usize) -> bool {
        let can = !matches!(self.collective, Collective::Barrier | Collective::SendRecv)
            && !matches!(self.shape, Shape::Pairs(_));
        can && match self.placement {
            Placement::Out => false,
            Placement::In => true,
            Placement::Mixed => rank.is_multiple_of(2),
        }
    }

    /// The request as one rank sees it.
    pub fn request(&self, world: usize, rank: usize) -> Request {
        let mut request = Request::new(self.collective, world, self.dtype, 0);
        if self.collective == Collective::Barrier {
            return request;
        }
        request.op = self.collective.reduces().then_some(self.op);
        request.root = self.root;
        request.order = self.order;
        request.counts = match &self.shape {
            Shape::Same(count) => Counts::Same(*count),
            Shape::Blocks(counts) => Counts::PerRank(counts[..].into()),
            Shape::Pairs(counts) => Counts::Pairwise {
                rank,
                send: counts[rank][..].into(),
                receive: counts.iter().map(|to| to[rank]).collect(),
            },
            Shape::Message(send, receive) => Counts::Messages { rank, send: *send, receive: *receive },
        };
        request.in_place = self.in_place(rank) && request.in_place_shift(rank).is_some();
        request
    }

    /// What the values are for.
    pub fn draw(&self) -> Draw {
        if self.collective.reduces() { Draw::Exact(self.op) } else { Draw::Bits }
    }

    /// Inputs of all ranks, from a seed.
    pub fn inputs(&self, world: usize, draw: Draw, seed: u64) -> Vec<Vec<u8>> {
        let mut random = Rng::with_seed(seed);
        (0..world)
            .map(|rank| self.drawn(self.request(world, rank).input_len(rank), draw, &mut random))
            .collect()
    }

    fn drawn(&self, count: usize, draw: Draw, random: &mut Rng) -> Vec<u8> {
        with_type!(self.dtype, T => {
            let values: Vec<T> = (0..count).map(|_| T::draw(draw, random)).collect();
            bytes_of(&values).to_vec()
        })
    }
}

/// The tensors of one rank for one call.
#[derive(Debug, Clone)]
pub enum Tensors {
    One(Memory),
    Two(Memory, Memory),
}

/// One rank's part of a call: what it passes.
#[derive(Debug, Clone)]
pub struct Job {
    pub call: Call,
    pub tensors: Tensors,
    /// As the tensors were.
    before: Tensors,
    /// Where the output begins in the tensor that holds it, in bytes; `None` where this rank has none.
    output_at: Option<usize>,
    output_bytes: usize,
}

impl Job {
    /// A call on a rank whose input is this.
    pub fn new(call: &Call, world: usize, rank: usize, input: &[u8]) -> Self {
        let request = call.request(world, rank);
        let size = request.dtype.size();
        let output_bytes = request.output_len(rank) * size;
        assert_eq!(input.len(), request.input_len(rank) * size, "{call:?}");
        let (tensors, output_at) = if call.in_place(rank) {
            let shift = request.in_place_shift(rank).unwrap_or(0);
            let mut content = Memory::noise(input.len().max(output_bytes), 0).content().to_vec();
            let input_at = shift.max(0) as usize * size;
            if !input.is_empty() {
                content[input_at..input_at + input.len()].copy_from_slice(input);
            }
            (Tensors::One(Memory::new(&content, call.offset)), (-shift).max(0) as usize * size)
        } else {
            // A tensor that this rank's part does not use may have any length.
            let spare = (rank % 3) * size;
            let unused =
                |collectives: [Collective; 2]| rank != call.root && collectives.contains(&call.collective);
            let input = if unused([Collective::Broadcast, Collective::Scatter]) {
                Memory::noise(spare, call.offset)
            } else {
                Memory::new(input, call.offset)
            };
            let no_output = unused([Collective::Reduce, Collective::Gather]);
            let len = if no_output { spare } else { output_bytes };
            // Input and output are off alignment by different amounts.
            (Tensors::Two(input, Memory::noise(len, call.offset * 3)), 0)
        };
        let output_at = (output_bytes > 0).then_some(output_at);
        Job { call: call.clone(), before: tensors.clone(), tensors, output_at, output_bytes }
    }

    /// What this rank's output is now.
    pub fn output(&self) -> &[u8] {
        let memory = match &self.tensors {
            Tensors::One(memory) | Tensors::Two(_, memory) => memory,
        };
        match self.output_at {
            Some(at) => &memory.content()[at..at + self.output_bytes],
            None => &[],
        }
    }

    /// Whether nothing has changed in this rank's memory.
    pub fn unchanged(&self) -> Result<(), String> {
        let same = match (&self.tensors, &self.before) {
            (Tensors::One(now), Tensors::One(before)) => now.content() == before.content(),
            (Tensors::Two(input, output), Tensors::Two(input_before, output_before)) => {
                input.content() == input_before.content() && output.content() == output_before.content()
            }
            _ => unreachable!("tensors do not change their number"),
        };
        self.guards()?;
        if same { Ok(()) } else { Err("memory that must stay has changed".into()) }
    }

    fn guards(&self) -> Result<(), String> {
        let intact = match &self.tensors {
            Tensors::One(memory) => memory.guards_intact(),
            Tensors::Two(input, output) => input.guards_intact() && output.guards_intact(),
        };
        if intact { Ok(()) } else { Err("memory beside the tensors has changed".into()) }
    }

    /// Whether this rank's memory is what it must be after the call: the output as expected, all else as before.
    pub fn check(&self, expected: &[u8]) -> Result<(), String> {
        if self.call.collective == Collective::Barrier {
            return self.guards();
        }
        let op = self.call.collective.reduces().then_some(self.call.op);
        let output = self.output();
        if !value::same(self.call.dtype, op, output, expected) {
            let size = self.call.dtype.size();
            let wrong = output.chunks(size).zip(expected.chunks(size)).enumerate();
            let wrong: Vec<_> = wrong.filter(|(_, (a, b))| a != b).collect();
            return Err(match wrong.first() {
                Some((i, (a, b))) => format!(
                    "{} of {} elements are wrong, the first is element {i}: {a:02x?} instead of {b:02x?}",
                    wrong.len(),
                    expected.len() / size
                ),
                None => format!("{} bytes instead of {}", output.len(), expected.len()),
            });
        }
        let mut rest = self.clone();
        // With the output put back, nothing may have changed.
        if let Some(at) = rest.output_at {
            let len = rest.output_bytes;
            let (
                Tensors::One(memory) | Tensors::Two(_, memory),
                Tensors::One(before) | Tensors::Two(_, before),
            ) = (&mut rest.tensors, &rest.before);
            let old = before.content()[at..at + len].to_vec();
            memory.content_mut()[at..at + len].copy_from_slice(&old);
        }
        rest.unchanged()
    }
}

/// The jobs of all ranks for one call, with what their outputs must become.
pub fn prepare(call: &Call, world: usize, draw: Draw, seed: u64) -> (Vec<Job>, Vec<Vec<u8>>) {
    let inputs = call.inputs(world, draw, seed);
    let jobs = (0..world).map(|rank| Job::new(call, world, rank, &inputs[rank])).collect();
    (jobs, oracle::outputs(call, &inputs))
}
