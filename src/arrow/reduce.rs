//! Reductions of columns.

use super::account::{Asked, Brings, agree};
use super::column::{Column, Leaf};
use super::nulls::{bitmap, bitmap_bytes, divide, pack, presence};
use super::output::Output;
use crate::communicator::{Tensors, With};
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

    fn bytes(&mut self, dtype: DType, count: usize) -> &mut [u8] {
        let mut tensor = self.tensor(dtype, count);
        let (at, len) = (tensor.pointer(), count * dtype.size());
        // SAFETY: a tensor is borrowed exclusively, dense (the caller's were checked, ours are), and so long.
        unsafe { std::slice::from_raw_parts_mut(at, len) }
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

    /// Some rank has nulls, which count as absent: a copy with neutral values in their place, and who has a value.
    fn skipping(mut self) -> Result<Option<Reduced<'a>>> {
        let (with, goal) = (self.with, self.goal);
        let comm = with.communicator();
        let Reduction::Named(op) = self.op else {
            return Err(comm.complete(Error::unsupported("a reduction of the user's of data that has nulls")));
        };
        let is_mean = op == ReduceOp::Mean;
        let summed = if is_mean { ReduceOp::Sum } else { op };
        let leaves = self.leaves();
        let own: Vec<usize> = leaves.iter().map(|leaf| self.count(leaf, comm.rank())).collect();
        let counts: Vec<Vec<usize>> = leaves.iter().map(|leaf| self.counts(leaf)).collect();

        // Who gets all of it reduces in the memory of the result, else there is a copy of its own.
        let in_result = goal == Goal::All;
        let mut copies = Vec::new();
        for (leaf, into) in leaves.iter().zip(&mut self.into) {
            let pack =
                |out: &mut [u8]| pack(leaf.values, leaf.column.nulls.as_ref(), summed, leaf.dtype, out);
            if in_result {
                pack(into.bytes(leaf.dtype, leaf.count()));
            } else {
                let mut copy = Output::new(comm, leaf.values.len())?;
                pack(&mut copy);
                copies.push(copy);
            }
        }
        let mut who = Who::of(with, self.columns, is_mean)?;
        let tensors: Vec<Tensors<'_>> = if in_result {
            let into = leaves.iter().zip(&mut self.into);
            into.map(|(leaf, into)| Tensors::InPlace(into.tensor(leaf.dtype, leaf.count()))).collect()
        } else {
            let apart = leaves.iter().zip(&mut copies).zip(self.into.iter_mut().zip(&own));
            apart
                .map(|((leaf, copy), (into, &own))| {
                    let copy = as_ref(copy, leaf.dtype, leaf.count());
                    Tensors::Apart(copy, into.tensor(leaf.dtype, own))
                })
                .collect()
        };
        run(with, goal, &summed.into(), tensors, &counts)?;
        who.reduce(with)?;

        if is_mean && self.has_result() {
            for (index, ((leaf, into), &own)) in leaves.iter().zip(&mut self.into).zip(&own).enumerate() {
                let from = match goal {
                    Goal::Block => counts[index][..comm.rank()].iter().sum(),
                    _ => 0,
                };
                who.divide(index, into.bytes(leaf.dtype, own), leaf.dtype, from..from + own);
            }
        }
        let mut validity = who.validity(self.columns);
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
}

fn as_ref(copy: &mut Output, dtype: DType, count: usize) -> crate::tensor::TensorRef<'_> {
    let at = copy.tensor(dtype, count).pointer();
    // SAFETY: the memory was borrowed as a tensor of this length just now, and is borrowed for as long.
    unsafe { crate::tensor::TensorRef::from_raw_slice(at, dtype, count) }
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
            match goal {
                Goal::All => scope.all_reduce(tensors, op.clone()),
                Goal::Root(root) => scope.reduce(tensors, op.clone(), root),
                Goal::Block => scope.reduce_scatter(tensors, Some(counts), op.clone()),
            }
        }
    })
}

/// Who has a value: a bit for each place of each array, and for means how many ranks do, for each number.
struct Who {
    bits: Output,
    /// How many bytes each count has: as many as the number of ranks needs. None where nobody counts.
    width: usize,
    counts: Output,
    /// Where the counts of each leaf begin, in counts.
    starts: Vec<usize>,
}

impl Who {
    fn of(with: &With<'_>, columns: &[Column], counting: bool) -> Result<Self> {
        let comm = with.communicator();
        let arrays: Vec<&Column> = columns.iter().flat_map(Column::arrays).collect();
        let total = arrays.iter().map(|array| bitmap_bytes(array.len())).sum();
        let mut bits = Output::new(comm, total)?;
        let mut rest = &mut bits[..];
        for array in &arrays {
            let own = rest.split_off_mut(..bitmap_bytes(array.len())).unwrap_or_default();
            bitmap(array.nulls.as_ref(), array.len(), own);
        }
        let width = match comm.world_size() {
            _ if !counting => 0,
            ..=0xff => 1,
            ..=0xffff => 2,
            _ => 4,
        };
        let leaves = arrays.iter().filter(|array| array.is_leaf());
        let starts = leaves.clone().scan(0, |next, leaf| Some(std::mem::replace(next, *next + leaf.len())));
        let starts: Vec<usize> = starts.collect();
        let numbers: usize = leaves.clone().map(|leaf| leaf.len()).sum();
        let mut counts = Output::new(comm, numbers * width)?;
        let mut rest = &mut counts[..];
        for leaf in leaves {
            let own = rest.split_off_mut(..leaf.len() * width).unwrap_or_default();
            match width {
                0 => {}
                1 => presence::<1>(leaf.nulls.as_ref(), own),
                2 => presence::<2>(leaf.nulls.as_ref(), own),
                _ => presence::<4>(leaf.nulls.as_ref(), own),
            }
        }
        Ok(Who { bits, width, counts, starts })
    }

    /// Every rank hears of every rank.
    fn reduce(&mut self, with: &With<'_>) -> Result<()> {
        let dtype = match self.width {
            1 => DType::U8,
            2 => DType::U16,
            _ => DType::U32,
        };
        let (bytes, width) = (self.bits.len(), self.width);
        let bits = self.bits.tensor(DType::U8, bytes);
        let counting = (width > 0).then(|| self.counts.len() / width);
        let counts = counting.map(|numbers| self.counts.tensor(dtype, numbers));
        with.beside().scope(|scope| {
            scope.all_reduce(bits, ReduceOp::BitOr);
            if let Some(counts) = counts {
                scope.all_reduce(counts, ReduceOp::Sum);
            }
        })
    }

    /// Divides some of the sums of a leaf by how many ranks had a value.
    fn divide(&self, leaf: usize, sums: &mut [u8], dtype: DType, numbers: Range<usize>) {
        let start = (self.starts[leaf] + numbers.start) * self.width;
        let counts = &self.counts[start..start + numbers.len() * self.width];
        match self.width {
            1 => divide::<1>(sums, dtype, counts),
            2 => divide::<2>(sums, dtype, counts),
            _ => divide::<4>(sums, dtype, counts),
        }
    }

    /// The validity of each array.
    fn validity(self, columns: &[Column]) -> Vec<Option<NullBuffer>> {
        let bits = self.bits.into_buffer();
        let mut start = 0;
        let arrays = columns.iter().flat_map(Column::arrays);
        arrays
            .map(|array| {
                let bytes = bitmap_bytes(array.len());
                let own = bits.slice_with_length(start, bytes);
                start += bytes;
                let nulls = NullBuffer::new(BooleanBuffer::new(own, 0, array.len()));
                Some(nulls).filter(|nulls| nulls.null_count() > 0)
            })
            .collect()
    }
}
