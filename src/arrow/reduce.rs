//! Reductions of columns.

use super::account::{Asked, Brings, agree};
use super::column::{Column, Leaf};
use super::nulls::{bitmap, bitmap_bytes, divide, pack, presence};
use super::output::Output;
use crate::communicator::{Scope, Tensors, With};
use crate::error::{Error, Result};
use crate::reduce::{NullPolicy, ReduceOp, Reduction};
use crate::tensor::{DType, TensorMut};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_data::ArrayData;
use std::ops::Range;

/// Who gets what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Every rank everything.
    All,
    /// The root everything.
    Root(usize),
    /// Every rank its block of the rows.
    Block,
}

impl Goal {
    fn asked(self, op: &Reduction, nulls: NullPolicy) -> Asked {
        let verb = match self {
            Goal::All => "all_reduce",
            Goal::Root(_) => "reduce",
            Goal::Block => "reduce_scatter",
        };
        let root = match self {
            Goal::Root(root) => Some(root),
            _ => None,
        };
        let op = match op {
            Reduction::Named(op) => op.to_string(),
            Reduction::Custom(custom) => custom.name().to_owned(),
        };
        Asked { op: Some(op), root, nulls: Some(nulls), ..Asked::new(verb) }
    }
}

/// The rows of a rank's block: blocks differ by one row at most, the first ones are the longer.
pub(super) fn block(rows: usize, world: usize, rank: usize) -> Range<usize> {
    let (each, longer) = (rows / world, rows % world);
    let start = rank * each + rank.min(longer);
    start..start + each + usize::from(rank < longer)
}

/// Where the numbers of a leaf go.
#[derive(Debug)]
pub(super) enum Into<'a> {
    /// Into memory of the caller's.
    Given(TensorMut<'a>),
    /// Into new memory.
    New(Output),
}

impl Into<'_> {
    fn tensor(&mut self, dtype: DType, count: usize) -> TensorMut<'_> {
        match self {
            Into::Given(tensor) => tensor.reborrow(),
            Into::New(output) => output.tensor(dtype, count),
        }
    }

    /// Some of its numbers, as bytes.
    fn part(&mut self, dtype: DType, numbers: Range<usize>) -> &mut [u8] {
        let bytes = numbers.start * dtype.size()..numbers.end * dtype.size();
        match self {
            Into::Given(tensor) => &mut tensor.bytes_mut()[bytes],
            Into::New(output) => &mut output[bytes],
        }
    }

    /// Some of its numbers.
    fn tensor_of(&mut self, dtype: DType, numbers: Range<usize>) -> TensorMut<'_> {
        TensorMut::from_bytes(self.part(dtype, numbers), dtype)
    }
}

/// A reduction of columns that are one operation: what this rank brings, and memory for the result.
pub(super) struct Reducing<'w, 'a> {
    with: &'w With<'w>,
    goal: Goal,
    op: Reduction,
    columns: &'w Vec<Column>,
    /// A leaf each.
    into: Vec<Into<'a>>,
}

/// What comes out of a reduction: the memory of each leaf, and the validity of each array, in the order of
/// [`Column::leaves`] and [`Column::arrays`].
#[derive(Debug)]
pub(super) struct Reduced<'a> {
    pub(super) values: Vec<Into<'a>>,
    pub(super) validity: Vec<Option<NullBuffer>>,
}

impl Reduced<'_> {
    /// The columns that these are, of so many rows each.
    pub(super) fn rebuild(self, columns: &[Column], rows: impl Fn(usize) -> usize) -> Result<Vec<ArrayData>> {
        let buffer = |into| match into {
            Into::New(output) => output.into_buffer(),
            Into::Given(_) => Buffer::default(), // of no use: the caller has it
        };
        let mut values = self.values.into_iter().map(buffer);
        let mut validity = self.validity.into_iter();
        columns.iter().map(|column| column.rebuilt(rows(column.len()), &mut values, &mut validity)).collect()
    }
}

/// Reduces columns with those of the other ranks: the result, where this rank gets one. `given` is memory of the caller's for the only
/// leaf there is, or none.
///
/// # Errors
/// The same on every rank, before anything has been reduced, where what they bring does not go together; or the group's failure.
pub(super) fn reduce<'a>(
    with: &With<'_>,
    goal: Goal,
    op: Reduction,
    columns: &Result<Vec<Column>>,
    given: Option<TensorMut<'a>>,
) -> Result<Option<Reduced<'a>>> {
    let asked = goal.asked(&op, with.null_policy());
    let ready = match columns {
        Ok(columns) => Reducing::new(with, goal, op, columns, given),
        Err(error) => Err(error.clone()),
    };
    let brings: Result<&dyn Brings> = match &ready {
        Ok(ready) => Ok(ready.columns),
        Err(error) => Err(error.clone()),
    };
    let agreed = agree(with, &asked, brings)?;
    let ready = ready?;
    if agreed.nulls { ready.skipping() } else { ready.whole() }
}

impl<'w, 'a> Reducing<'w, 'a> {
    /// Checks all that one rank can check, and takes the memory that will be needed: what fails later fails alone.
    fn new(
        with: &'w With<'w>,
        goal: Goal,
        op: Reduction,
        columns: &'w Vec<Column>,
        given: Option<TensorMut<'a>>,
    ) -> Result<Self> {
        let comm = with.communicator();
        let leaves: Vec<Leaf<'_>> = columns.iter().flat_map(Column::leaves).collect();
        for leaf in &leaves {
            leaf.check(&op)?;
            if goal == Goal::Block && leaf.per_row.is_none() {
                let text = format!("{} has lists of any length, whose rows are no blocks", leaf.column.path);
                return Err(
                    Error::unsupported(text).remedy("use lists of one length (FixedSizeList), or all_reduce")
                );
            }
            if let (Reduction::Custom(custom), NullPolicy::Skip) = (&op, with.null_policy()) {
                let text = format!("the reduction {:?} has no value that stands for a null", custom.name());
                return Err(
                    Error::unsupported(text).remedy("reject nulls, or use sum, prod, min, max or mean")
                );
            }
        }
        if let Goal::Root(root) = goal
            && root >= comm.world_size()
        {
            let text = format!("root {root} in a group of {}", comm.world_size());
            return Err(Error::invalid(text).remedy(format!("pass a root below {}", comm.world_size())));
        }
        let mut reducing = Reducing { with, goal, op, columns, into: Vec::with_capacity(leaves.len()) };
        if let Some(given) = given {
            reducing.check_given(&leaves, &given)?;
            reducing.into.push(Into::Given(given));
            return Ok(reducing);
        }
        for leaf in &leaves {
            let bytes = reducing.count(leaf, comm.rank()) * leaf.dtype.size();
            reducing.into.push(Into::New(Output::new(comm, bytes)?));
        }
        Ok(reducing)
    }

    fn check_given(&self, leaves: &[Leaf<'_>], given: &TensorMut<'_>) -> Result<()> {
        given.check_dense_host()?;
        match leaves {
            [leaf] if leaf.dtype == given.dtype() && leaf.count() == given.count() => Ok(()),
            [leaf] => {
                let (count, dtype, path) = (leaf.count(), leaf.dtype, &leaf.column.path);
                let text =
                    format!("{path} has {count} {dtype}, the output {} {}", given.count(), given.dtype());
                Err(Error::invalid(text).remedy("pass an output of the array's type and length"))
            }
            _ => Err(Error::unsupported("an array of several columns into one output")
                .remedy("pass a column at a time, or let the result be newly allocated")),
        }
    }

    /// How many of a leaf's numbers a rank gets.
    fn count(&self, leaf: &Leaf<'_>, rank: usize) -> usize {
        let comm = self.with.communicator();
        match self.goal {
            Goal::All => leaf.count(),
            Goal::Root(root) => {
                if rank == root {
                    leaf.count()
                } else {
                    0
                }
            }
            Goal::Block => {
                let per_row = leaf.per_row.unwrap_or(1).max(1);
                block(leaf.count() / per_row, comm.world_size(), rank).len() * per_row
            }
        }
    }

    fn counts(&self, leaf: &Leaf<'_>) -> Vec<usize> {
        (0..self.with.communicator().world_size()).map(|rank| self.count(leaf, rank)).collect()
    }

    fn leaves(&self) -> Vec<Leaf<'w>> {
        self.columns.iter().flat_map(Column::leaves).collect()
    }

    fn has_result(&self) -> bool {
        match self.goal {
            Goal::Root(root) => self.with.communicator().rank() == root,
            _ => true,
        }
    }

    fn done(self, validity: Vec<Option<NullBuffer>>) -> Option<Reduced<'a>> {
        self.has_result().then_some(Reduced { values: self.into, validity })
    }

    /// No rank has nulls: straight out of what was brought, into the result.
    fn whole(mut self) -> Result<Option<Reduced<'a>>> {
        let leaves = self.leaves();
        let (with, goal, op) = (self.with, self.goal, self.op.clone());
        let counts: Vec<Vec<usize>> = leaves.iter().map(|leaf| self.counts(leaf)).collect();
        let own: Vec<usize> =
            leaves.iter().map(|leaf| self.count(leaf, with.communicator().rank())).collect();
        let tensors = leaves
            .iter()
            .zip(&mut self.into)
            .zip(own)
            .map(|((leaf, into), own)| Tensors::Apart(leaf.tensor(), into.tensor(leaf.dtype, own)));
        run(with, goal, &op, tensors.collect(), &counts)?;
        let arrays = self.columns.iter().map(|column| column.arrays().len()).sum();
        Ok(self.done(vec![None; arrays]))
    }

    /// Some rank has nulls, which count as absent: copies with neutral values in their place, and who has a value.
    fn skipping(mut self) -> Result<Option<Reduced<'a>>> {
        let (with, goal) = (self.with, self.goal);
        let comm = with.communicator();
        let Reduction::Named(op) = self.op else {
            return Err(comm.complete(Error::unsupported("a reduction of the user's of data that has nulls")));
        };
        let leaves = self.leaves();
        let mut copies = Copies::new(with, op)?;
        for portion in self.portions(&leaves) {
            copies.reduce(goal, &leaves, &mut self.into, &portion)?;
        }
        let mut validity = reduced_validity(with, self.columns)?;
        if goal == Goal::Block {
            let arrays = self.columns.iter().flat_map(|column| {
                let rows = block(column.len(), comm.world_size(), comm.rank());
                column.arrays().into_iter().map(move |array| (array.len(), column.len(), rows.clone()))
            });
            for (nulls, (len, all, rows)) in validity.iter_mut().zip(arrays) {
                let per_row = len.checked_div(all).unwrap_or(0);
                let cut = nulls.take().map(|nulls| nulls.slice(rows.start * per_row, rows.len() * per_row));
                *nulls = cut.filter(|nulls| nulls.null_count() > 0);
            }
        }
        Ok(self.done(validity))
    }

    /// The leaves in portions that go one after another: what has been copied is still in the caches when it is reduced.
    fn portions(&self, leaves: &[Leaf<'_>]) -> Vec<Vec<Part>> {
        let comm = self.with.communicator();
        // Between hosts every portion waits for the network once.
        let most = if comm.backend() == "shm" { IN_CACHES } else { comm.world_size() * OVER_NETWORKS };
        let rank = comm.rank();
        let mut portions = vec![Vec::new()];
        let mut room = most;
        for (leaf, of) in leaves.iter().enumerate() {
            if self.goal == Goal::Block {
                // Every rank's block is a part of the portion, so there is one.
                let (counts, start) = (self.counts(of), self.start(of, rank));
                portions[0].push(Part {
                    leaf,
                    from: 0..of.count(),
                    into: start..start + self.count(of, rank),
                    counts,
                });
                continue;
            }
            let mut from = 0;
            loop {
                let len = (room / of.dtype.size()).min(of.count() - from);
                let range = from..from + len;
                let into = if self.has_result() { range.clone() } else { 0..0 };
                portions.last_mut().expect("there is one").push(Part {
                    leaf,
                    from: range,
                    into,
                    counts: Vec::new(),
                });
                from += len;
                room -= len * of.dtype.size();
                if from == of.count() {
                    break;
                }
                portions.push(Vec::new());
                room = most;
            }
        }
        portions
    }

    /// Where a rank's part of a leaf begins, in numbers of the whole.
    fn start(&self, leaf: &Leaf<'_>, rank: usize) -> usize {
        self.counts(leaf)[..rank].iter().sum()
    }
}

/// How many bytes are copied at a time where ranks are on one host: what the second cache of a processor holds, several times.
const IN_CACHES: usize = 256 << 10;

/// How many bytes are copied at a time, for each rank, where there is a network between them.
const OVER_NETWORKS: usize = 4 << 20;

/// A part of a leaf that is reduced at a time.
#[derive(Debug)]
struct Part {
    leaf: usize,
    /// The numbers that go into it.
    from: Range<usize>,
    /// Those of the whole that come out of it on this rank.
    into: Range<usize>,
    /// How many come out on each rank, where each gets others.
    counts: Vec<usize>,
}

/// Copies of what is reduced, with neutral values where there are nulls, and for means how many ranks have each value.
struct Copies<'w> {
    with: &'w With<'w>,
    op: ReduceOp,
    /// How many bytes a count has: as many as the number of ranks needs. 0 where nobody counts.
    width: usize,
    /// Copies that do not lie where the result goes.
    values: Vec<Output>,
    counts: Vec<Output>,
}

impl<'w> Copies<'w> {
    fn new(with: &'w With<'w>, op: ReduceOp) -> Result<Self> {
        let width = match with.communicator().world_size() {
            _ if op != ReduceOp::Mean => 0,
            ..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        Ok(Copies { with, op, width, values: Vec::new(), counts: Vec::new() })
    }

    /// Reduces a portion into the result.
    fn reduce(
        &mut self,
        goal: Goal,
        leaves: &[Leaf<'_>],
        into: &mut [Into<'_>],
        portion: &[Part],
    ) -> Result<()> {
        let comm = self.with.communicator();
        let summed = if self.op == ReduceOp::Mean { ReduceOp::Sum } else { self.op };
        // Who gets all of it reduces in the memory of the result, else there is a copy of its own.
        let in_result = goal == Goal::All;
        self.values.clear();
        self.counts.clear();
        for part in portion {
            let leaf = &leaves[part.leaf];
            let size = leaf.dtype.size();
            let values = &leaf.values[part.from.start * size..part.from.end * size];
            let nulls = leaf.column.nulls.as_ref().map(|nulls| nulls.slice(part.from.start, part.from.len()));
            if in_result {
                let out = into[part.leaf].part(leaf.dtype, part.from.clone());
                pack(values, nulls.as_ref(), summed, leaf.dtype, out);
            } else {
                let mut copy = Output::new(comm, values.len())?;
                pack(values, nulls.as_ref(), summed, leaf.dtype, &mut copy);
                self.values.push(copy);
            }
            if self.width > 0 {
                let mut counts = Output::new(comm, part.from.len() * self.width)?;
                match self.width {
                    1 => presence::<1>(nulls.as_ref(), &mut counts),
                    2 => presence::<2>(nulls.as_ref(), &mut counts),
                    _ => presence::<4>(nulls.as_ref(), &mut counts),
                }
                self.counts.push(counts);
            }
        }
        self.run(goal, summed, leaves, into, portion)?;
        if self.width > 0 {
            for (part, counts) in portion.iter().zip(&self.counts) {
                let dtype = leaves[part.leaf].dtype;
                let from = (part.into.start - part.from.start.min(part.into.start)) * self.width;
                let counts = &counts[from..from + part.into.len() * self.width];
                let at = if goal == Goal::Block { 0..part.into.len() } else { part.into.clone() };
                divide(into[part.leaf].part(dtype, at), dtype, counts, self.width);
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        goal: Goal,
        op: ReduceOp,
        leaves: &[Leaf<'_>],
        into: &mut [Into<'_>],
        portion: &[Part],
    ) -> Result<()> {
        let counted = match self.width {
            1 => DType::U8,
            2 => DType::U16,
            _ => DType::U32,
        };
        let mut values = self.values.iter_mut();
        let mut tensors = Vec::with_capacity(portion.len());
        let mut rest = into.iter_mut().enumerate();
        for part in portion {
            // Each leaf has one part in a portion, and they are in the leaves' order.
            let (_, into) = rest.find(|(leaf, _)| *leaf == part.leaf).expect("parts are in their order");
            let dtype = leaves[part.leaf].dtype;
            let at = if goal == Goal::Block { 0..part.into.len() } else { part.into.clone() };
            let into = into.tensor_of(dtype, at);
            tensors.push(match values.next() {
                Some(copy) => Tensors::Apart(copy.as_tensor(dtype, part.from.len()), into),
                None => Tensors::InPlace(into),
            });
        }
        let counts = self.counts.iter_mut().zip(portion);
        let counts: Vec<TensorMut<'_>> =
            counts.map(|(counts, part)| counts.tensor(counted, part.from.len())).collect();
        if counts.is_empty() {
            let blocks: Vec<Vec<usize>> = portion.iter().map(|part| part.counts.clone()).collect();
            return run(self.with, goal, &op.into(), tensors, &blocks);
        }
        self.with.scope(|scope| {
            for (tensors, part) in tensors.into_iter().zip(portion) {
                add(scope, goal, tensors, &part.counts, op.into());
            }
            // Everybody hears of everybody: what is divided is this rank's part.
            counts.into_iter().for_each(|counts| scope.all_reduce(counts, ReduceOp::Sum));
        })
    }
}

/// Adds the reduction of a leaf, or of a part of one, to what runs together.
fn add<'t>(scope: &mut Scope<'_, 't>, goal: Goal, tensors: Tensors<'t>, counts: &[usize], op: Reduction) {
    match goal {
        Goal::All => scope.all_reduce(tensors, op),
        Goal::Root(root) => scope.reduce(tensors, op, root),
        Goal::Block => scope.reduce_scatter(tensors, Some(counts), op),
    }
}

/// Runs one reduction for each leaf; those of a type are one operation.
fn run(
    with: &With<'_>,
    goal: Goal,
    op: &Reduction,
    mut tensors: Vec<Tensors<'_>>,
    counts: &[Vec<usize>],
) -> Result<()> {
    if tensors.len() == 1 {
        let (tensors, counts) = (tensors.remove(0), &counts[0]);
        return match goal {
            Goal::All => with.all_reduce_dyn(tensors, op.clone()),
            Goal::Root(root) => with.reduce_dyn(tensors, op.clone(), root),
            Goal::Block => with.reduce_scatter_dyn(tensors, Some(counts), op.clone()),
        };
    }
    with.scope(|scope| {
        for (tensors, counts) in tensors.into_iter().zip(counts) {
            add(scope, goal, tensors, counts, op.clone());
        }
    })
}

/// Which values of each array are there on any rank.
fn reduced_validity(with: &With<'_>, columns: &[Column]) -> Result<Vec<Option<NullBuffer>>> {
    let arrays: Vec<&Column> = columns.iter().flat_map(Column::arrays).collect();
    let total = arrays.iter().map(|array| bitmap_bytes(array.len())).sum();
    let mut bits = Output::new(with.communicator(), total)?;
    let mut rest = &mut bits[..];
    for array in &arrays {
        let own = rest.split_off_mut(..bitmap_bytes(array.len())).unwrap_or_default();
        bitmap(array.nulls.as_ref(), array.len(), own);
    }
    with.beside().all_reduce(&mut bits[..], ReduceOp::BitOr)?;
    let bits = bits.into_buffer();
    let mut start = 0;
    let validity = arrays.iter().map(|array| {
        let bytes = bitmap_bytes(array.len());
        let own = bits.slice_with_length(start, bytes);
        start += bytes;
        let nulls = NullBuffer::new(BooleanBuffer::new(own, 0, array.len()));
        Some(nulls).filter(|nulls| nulls.null_count() > 0)
    });
    Ok(validity.collect())
}
