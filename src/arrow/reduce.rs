//! Reductions of columns.

use super::account::{Asked, Brings, agree, settle};
use super::column::{Column, Leaf};
use super::nulls::{bitmap, bitmap_bytes, divide, pack, presence};
use super::output::Output;
use crate::communicator::{Call, Scope, Tensors, With};
use crate::error::{Error, Result};
use crate::reduce::{NullPolicy, ReduceOp, Reduction};
use crate::tensor::{DType, Device, TensorMut, TensorRef};
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
        let (op, custom) = match op {
            Reduction::Named(op) => (op.to_string(), None),
            Reduction::Custom(custom) => (custom.name().to_owned(), Some(custom.signature())),
        };
        Asked { op: Some(op), custom, root, nulls: Some(nulls), ..Asked::new(verb) }
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
}

/// A reduction of columns that are one operation: what this rank brings, and memory for the result.
pub(super) struct Reducing<'w, 'a> {
    with: &'w With<'w>,
    asked: &'w Asked,
    goal: Goal,
    op: Reduction,
    columns: &'w Vec<Column>,
    /// A leaf each.
    into: Vec<Into<'a>>,
    /// Room for those leaves that lie in pieces and may be wanted in one; none where none does.
    joined: Vec<Output>,
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
    let with = &with.over_own_memory();
    let asked = goal.asked(&op, with.null_policy());
    let ready = match columns {
        Ok(columns) => Reducing::new(with, &asked, goal, op, columns, given),
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
        asked: &'w Asked,
        goal: Goal,
        op: Reduction,
        columns: &'w Vec<Column>,
        given: Option<TensorMut<'a>>,
    ) -> Result<Self> {
        let comm = with.communicator();
        let leaves: Vec<Leaf<'_>> = columns.iter().flat_map(Column::leaves).collect();
        if let (Goal::Block, Some(column)) = (goal, columns.iter().find(|column| column.has_lists())) {
            let text = format!("{} has lists of any length, whose rows are no blocks", column.path);
            return Err(
                Error::unsupported(text).remedy("use lists of one length (FixedSizeList), or all_reduce")
            );
        }
        for leaf in &leaves {
            leaf.check(&op)?;
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
        let mut reducing = Reducing {
            with,
            asked,
            goal,
            op,
            columns,
            into: Vec::with_capacity(leaves.len()),
            joined: Vec::new(),
        };
        // Where this rank has nulls, all know that some are there.
        let may_be_whole = !columns.iter().any(Column::has_nulls);
        let any = leaves.iter().any(|leaf| leaf.tensor().is_none());
        for leaf in leaves.iter().filter(|_| any) {
            let in_pieces = may_be_whole && leaf.tensor().is_none();
            let bytes = if in_pieces { leaf.count() * leaf.dtype.size() } else { 0 };
            reducing.joined.push(Output::new(comm, bytes)?);
        }
        if let Some(given) = given {
            reducing.check_given(&leaves, &given)?;
            reducing.into.push(Into::Given(given));
        } else {
            for leaf in &leaves {
                let bytes = reducing.count(leaf, comm.rank()) * leaf.dtype.size();
                reducing.into.push(Into::New(Output::new(comm, bytes)?));
            }
        }
        reducing.check_calls(&leaves)?;
        Ok(reducing)
    }

    /// Fails where the options ask for what cannot be: an algorithm that does something else, say.
    fn check_calls(&mut self, leaves: &[Leaf<'_>]) -> Result<()> {
        let alone = leaves.len() == 1;
        for (index, leaf) in leaves.iter().enumerate() {
            let (counts, own) = (self.counts(leaf), self.count(leaf, self.with.communicator().rank()));
            let call = match self.goal {
                Goal::All => Call::AllReduce(self.op.clone()),
                Goal::Root(root) => Call::Reduce(self.op.clone(), root),
                Goal::Block => Call::ReduceScatter(Some(&counts), self.op.clone()),
            };
            let joined = self.joined.get(index).map_or(&[][..], |joined| &joined[..]);
            let input = leaf.tensor().unwrap_or_else(|| TensorRef::from_bytes(joined, leaf.dtype));
            // Where chunks have nulls, their numbers go where the result does, which is as long.
            let into = self.into[index].tensor(leaf.dtype, own);
            let tensors = if input.count() == leaf.count() {
                Tensors::Apart(input, into)
            } else {
                Tensors::InPlace(into)
            };
            self.with.check_call(&call, tensors, alone)?;
        }
        Ok(())
    }

    fn check_given(&self, leaves: &[Leaf<'_>], given: &TensorMut<'_>) -> Result<()> {
        given.check_dense()?;
        if given.device() != Device::Host {
            return Err(Error::unsupported(format!(
                "the output is in {}, the array in the host's memory",
                given.device()
            ))
            .remedy("pass an output on the host, or let the result be newly allocated"));
        }
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
        for (leaf, joined) in leaves.iter().zip(&mut self.joined) {
            let mut rest = if leaf.tensor().is_none() { &mut joined[..] } else { &mut [] };
            for piece in leaf.pieces(0..rest.len() / leaf.dtype.size()) {
                rest.split_off_mut(..piece.len()).expect("there is room for all").copy_from_slice(piece);
            }
        }
        let joined = &self.joined;
        let tensors =
            leaves.iter().enumerate().zip(&mut self.into).zip(own).map(|(((index, leaf), into), own)| {
                let joined = joined.get(index).map_or(&[][..], |joined| &joined[..]);
                let input = leaf.tensor().unwrap_or_else(|| TensorRef::from_bytes(joined, leaf.dtype));
                Tensors::Apart(input, into.tensor(leaf.dtype, own))
            });
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
        let portions = self.portions(&leaves);
        // All that is needed is taken before anything moves, and by all ranks or none.
        let memory = Copies::new(with, goal, op, &leaves, &portions)
            .and_then(|copies| Ok((copies, Output::new(comm, bitmaps(self.columns))?)));
        let (mut copies, bits) = settle(with, self.asked, memory)?;
        for portion in &portions {
            copies.reduce(&leaves, &mut self.into, portion)?;
        }
        let mut validity = reduced_validity(with, self.columns, bits)?;
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

impl Part {
    /// Where in the memory of this rank's result they go.
    fn place(&self, goal: Goal) -> Range<usize> {
        if goal == Goal::Block { 0..self.into.len() } else { self.into.clone() }
    }
}

/// Copies of what is reduced, with neutral values where there are nulls, and for means how many ranks have each value.
struct Copies<'w> {
    with: &'w With<'w>,
    goal: Goal,
    op: ReduceOp,
    /// How many bytes a count has: as many as the number of ranks needs. 0 where nobody counts.
    width: usize,
    /// For a portion of copies, where they do not lie where the result goes.
    values: Output,
    /// For the counts of a portion.
    counts: Output,
}

/// What of different types lies in one memory begins at multiples of this.
const APART: usize = 64;

/// The first of so many bytes, and where the next begin.
fn split<'m>(memory: &mut &'m mut [u8], len: usize) -> &'m mut [u8] {
    let part = memory.split_off_mut(..len.next_multiple_of(APART)).expect("there is room for a portion");
    &mut part[..len]
}

impl<'w> Copies<'w> {
    /// Takes the memory for the largest portion.
    fn new(
        with: &'w With<'w>,
        goal: Goal,
        op: ReduceOp,
        leaves: &[Leaf<'_>],
        portions: &[Vec<Part>],
    ) -> Result<Self> {
        let comm = with.communicator();
        let width = match comm.world_size() {
            _ if op != ReduceOp::Mean => 0,
            ..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        let most = |size: &dyn Fn(&Part) -> usize| {
            let bytes = |part: &Part| (part.from.len() * size(part)).next_multiple_of(APART);
            portions.iter().map(|portion| portion.iter().map(bytes).sum()).max().unwrap_or(0)
        };
        // Who gets all of it reduces in the memory of the result, else there are copies.
        let values = if goal == Goal::All { 0 } else { most(&|part| leaves[part.leaf].dtype.size()) };
        let (values, counts) = (Output::passage(comm, values)?, Output::passage(comm, most(&|_| width))?);
        Ok(Copies { with, goal, op, width, values, counts })
    }

    /// Reduces a portion into the result.
    fn reduce(&mut self, leaves: &[Leaf<'_>], into: &mut [Into<'_>], portion: &[Part]) -> Result<()> {
        let (goal, width) = (self.goal, self.width);
        let summed = if self.op == ReduceOp::Mean { ReduceOp::Sum } else { self.op };
        let (mut copies, mut counts) = (&mut self.values[..], &mut self.counts[..]);
        let (mut tensors, mut counted) = (Vec::with_capacity(portion.len()), Vec::new());
        let mut rest = into.iter_mut().enumerate();
        for part in portion {
            let leaf = &leaves[part.leaf];
            let size = leaf.dtype.size();
            let nulls = leaf.column.nulls.as_ref().map(|nulls| nulls.slice(part.from.start, part.from.len()));
            // Each leaf has one part in a portion, and they are in the leaves' order.
            let (_, into) = rest.find(|(index, _)| *index == part.leaf).expect("parts are in their order");
            let into = into.part(leaf.dtype, part.place(goal));
            tensors.push(if goal == Goal::All {
                fill(leaf, part, nulls.as_ref(), summed, into);
                Tensors::InPlace(TensorMut::from_bytes(into, leaf.dtype))
            } else {
                let copy = split(&mut copies, part.from.len() * size);
                fill(leaf, part, nulls.as_ref(), summed, copy);
                Tensors::Apart(
                    TensorRef::from_bytes(copy, leaf.dtype),
                    TensorMut::from_bytes(into, leaf.dtype),
                )
            });
            if width > 0 {
                let counts = split(&mut counts, part.from.len() * width);
                match width {
                    1 => presence::<1>(nulls.as_ref(), counts),
                    2 => presence::<2>(nulls.as_ref(), counts),
                    _ => presence::<4>(nulls.as_ref(), counts),
                }
                let dtype = [DType::U8, DType::U16, DType::U32][width / 2];
                counted.push(TensorMut::from_bytes(counts, dtype));
            }
        }
        let blocks: Vec<Vec<usize>> = portion.iter().map(|part| part.counts.clone()).collect();
        run(self.with, goal, &summed.into(), tensors, &blocks)?;
        if width == 0 {
            return Ok(());
        }
        // Everybody hears of everybody: what is divided is this rank's part.
        self.with.beside().all_reduce_batch(&mut counted, ReduceOp::Sum)?;
        let mut counts = &mut self.counts[..];
        for part in portion {
            let counts = split(&mut counts, part.from.len() * width);
            let from = if goal == Goal::Block { part.into.start * width } else { 0 };
            let counts = &counts[from..from + part.into.len() * width];
            let dtype = leaves[part.leaf].dtype;
            divide(into[part.leaf].part(dtype, part.place(goal)), dtype, counts, width);
        }
        Ok(())
    }
}

/// Copies the numbers of a part, and puts neutral ones where there are none, as `nulls` of the part says.
fn fill(leaf: &Leaf<'_>, part: &Part, nulls: Option<&NullBuffer>, op: ReduceOp, mut out: &mut [u8]) {
    let (size, mut from) = (leaf.dtype.size(), 0);
    for piece in leaf.pieces(part.from.clone()) {
        let count = piece.len() / size;
        let nulls = nulls.map(|nulls| nulls.slice(from, count));
        let out = out.split_off_mut(..piece.len()).expect("there is room for a part");
        pack(piece, nulls.as_ref(), op, leaf.dtype, out);
        from += count;
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

/// How many bytes the bitmaps of all arrays have.
fn bitmaps(columns: &[Column]) -> usize {
    columns.iter().flat_map(Column::arrays).map(|array| bitmap_bytes(array.len())).sum()
}

/// Which values of each array are there on any rank.
fn reduced_validity(
    with: &With<'_>,
    columns: &[Column],
    mut bits: Output,
) -> Result<Vec<Option<NullBuffer>>> {
    let arrays: Vec<&Column> = columns.iter().flat_map(Column::arrays).collect();
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
