//! Verbs that reduce arrays and record batches.

use super::account::{Asked, Brings, agree};
use super::column::{Column, arrow_error};
use super::reduce::{Goal, Reduced, block, reduce};
use crate::communicator::{Communicator, Options, With};
use crate::error::{Error, Result};
use crate::reduce::Reduction;
use crate::tensor::{Element, TensorMut};
use arrow_array::{Array, ArrayRef, RecordBatch, make_array};
use arrow_buffer::NullBuffer;

/// What an array without a name is called in errors.
const ARRAY: &str = "the array";

impl With<'_> {
    fn reduce_one(&self, goal: Goal, array: Result<&dyn Array>, op: Reduction) -> Result<Option<ArrayRef>> {
        self.reduce_column(goal, array.and_then(|array| Column::new(ARRAY, array)), op)
    }

    fn reduce_column(&self, goal: Goal, column: Result<Column>, op: Reduction) -> Result<Option<ArrayRef>> {
        let columns = column.map(|column| vec![column]);
        let Some(reduced) = reduce(self, goal, op, &columns, None)? else { return Ok(None) };
        let mut arrays = reduced.rebuild(&columns?, |rows| self.own_rows(goal, rows))?;
        Ok(arrays.pop().map(make_array))
    }

    fn reduce_columns(&self, goal: Goal, batch: &RecordBatch, op: Reduction) -> Result<Option<RecordBatch>> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let columns: Result<Vec<Column>> = columns
            .map(|(field, array)| {
                let column = Column::new(&format!("column {:?}", field.name()), array)?;
                Ok(column.extended(field))
            })
            .collect();
        let Some(reduced) = reduce(self, goal, op, &columns, None)? else { return Ok(None) };
        let rows = self.own_rows(goal, batch.num_rows());
        let arrays = reduced.rebuild(&columns?, |rows| self.own_rows(goal, rows))?;
        let arrays = arrays.into_iter().map(make_array).collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options);
        Ok(Some(batch.map_err(|error| arrow_error("the result", &error))?))
    }

    fn own_rows(&self, goal: Goal, rows: usize) -> usize {
        let comm = self.communicator();
        match goal {
            Goal::Block => block(rows, comm.world_size(), comm.rank()).len(),
            _ => rows,
        }
    }

    fn reduce_into_given(
        &self,
        array: &dyn Array,
        output: TensorMut<'_>,
        op: Reduction,
    ) -> Result<Option<NullBuffer>> {
        let columns = Column::new(ARRAY, array).map(|column| vec![column]);
        let reduced = reduce(self, Goal::All, op, &columns, Some(output))?;
        // That of the numbers: of lists, that of their items.
        let leaf =
            columns.ok().and_then(|columns| columns[0].arrays().iter().position(|array| array.is_leaf()));
        Ok(reduced.zip(leaf).and_then(|(Reduced { mut validity, .. }, leaf)| validity.swap_remove(leaf)))
    }

    /// The chunks as one column, whose numbers stay where they are.
    fn chunked(&self, chunks: &[ArrayRef]) -> Result<Column> {
        if chunks.is_empty() {
            return Err(Error::invalid("chunks of an array, and not one of them")
                .remedy("pass a chunk of no rows, which says at least of what type it is"));
        }
        let columns = chunks.iter().map(|chunk| Column::new(ARRAY, chunk));
        Column::of_chunks(columns.collect::<Result<_>>()?)
    }

    fn refuse_call(&self, verb: &'static str, error: Error) -> Error {
        let refusal: Result<&dyn Brings> = Err(error);
        match agree(self, &Asked::new(verb), refusal) {
            Err(error) => error,
            Ok(_) => {
                Error::new(crate::error::ErrorKind::Protocol, "ranks agreed on what one of them refused")
            }
        }
    }
}

macro_rules! verbs {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
/// Reductions of Arrow data, element by element. Numbers of all types, in arrays, lists of one length (FixedSizeList, and with it the
/// canonical fixed-shape tensor), lists of any length that are alike on all ranks, structs, and columns of record batches; points in time
/// have a min and a max. What is no number is refused.
///
/// An array is read where it is, whatever its offset; nothing is copied but where a rank has nulls that are to be skipped, and several chunks, once. The result is new memory, of the input's type; large results use the memory of earlier ones again, once nobody
/// has them any more.
///
/// The ranks first compare what they bring, and where that does not go together, or one of them cannot take part, every rank gets
/// the same error, which names column and rank. Nothing else has happened then, and the group can go on.
impl $type {
    /// The reduction of all ranks' arrays, on every rank. One type and length on all ranks.
    ///
    /// ```
    /// use ringfold::arrow::array::{Array, Float32Array, cast::AsArray, types::Float32Type};
    /// use ringfold::{Communicator, NullPolicy, Options, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let gradients = Float32Array::from(vec![1.0, 2.0]);
    /// let mean = comm.all_reduce_array(&gradients, ReduceOp::Mean)?;
    /// assert_eq!(mean.as_primitive::<Float32Type>(), &gradients);
    ///
    /// let some = Float32Array::from(vec![Some(1.0), None]);
    /// assert!(comm.all_reduce_array(&some, ReduceOp::Sum).unwrap_err().to_string().contains("1 null on rank 0"));
    /// let sums = comm.with(Options::new().nulls(NullPolicy::Skip)).all_reduce_array(&some, ReduceOp::Sum)?;
    /// assert!(sums.is_null(1), "no rank has a value there");
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce); and, the same on every rank, [`Mismatch`](crate::ErrorKind::Mismatch),
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) or [`Unsupported`](crate::ErrorKind::Unsupported) where what the
    /// ranks bring does not go together, after which the group can go on.
    pub fn all_reduce_array(&self, array: &dyn Array, op: impl Into<Reduction>) -> Result<ArrayRef> {
        let $this = self;
        let with = $with;
        Ok(with.reduce_one(Goal::All, Ok(array), op.into())?.expect("every rank has a result"))
    }

    /// [`all_reduce_array`](Self::all_reduce_array) of an array in chunks, which may be others on each rank, with one length in
    /// all. Several are copied once.
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn all_reduce_chunks(&self, chunks: &[ArrayRef], op: impl Into<Reduction>) -> Result<ArrayRef> {
        let $this = self;
        let with = $with;
        Ok(with.reduce_column(Goal::All, with.chunked(chunks), op.into())?.expect("every rank has a result"))
    }

    /// [`all_reduce_array`](Self::all_reduce_array) into memory of the caller's, as many elements as the array has numbers. What
    /// comes back is which of them are there, where not all are: only where nulls are skipped. It must be given where others
    /// are, but others may let their result be new.
    ///
    /// ```
    /// use ringfold::arrow::{array::Int64Array, buffer::MutableBuffer};
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut sums = MutableBuffer::from_len_zeroed(3 * 8);
    /// let nulls = comm.all_reduce_array_into(&Int64Array::from(vec![1, 2, 3]), sums.typed_data_mut::<i64>(), ReduceOp::Sum)?;
    /// assert!(nulls.is_none());
    /// assert_eq!(sums.typed_data::<i64>(), [1, 2, 3]);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array), and where the output is of another type or length than the array. `output` is
    /// unspecified after errors other than those that leave the group sound.
    pub fn all_reduce_array_into<T: Element>(
        &self,
        array: &dyn Array,
        output: &mut [T],
        op: impl Into<Reduction>,
    ) -> Result<Option<NullBuffer>> {
        let $this = self;
        let with = $with;
        with.reduce_into_given(array, TensorMut::from_slice(output), op.into())
    }

    /// [`all_reduce_array`](Self::all_reduce_array) of each column: one operation for each type of number that there is. One schema and number of
    /// rows on all ranks; the result has this rank's schema, with its metadata.
    ///
    /// ```
    /// use ringfold::arrow::array::{Float64Array, Int64Array, record_batch};
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let batch = record_batch!(("sum", Float64, [0.5, 1.5]), ("count", Int64, [2, 3])).unwrap();
    /// assert_eq!(comm.all_reduce_record_batch(&batch, ReduceOp::Sum)?, batch);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn all_reduce_record_batch(&self, batch: &RecordBatch, op: impl Into<Reduction>) -> Result<RecordBatch> {
        let $this = self;
        let with = $with;
        Ok(with.reduce_columns(Goal::All, batch, op.into())?.expect("every rank has a result"))
    }

    /// The reduction of all ranks' arrays on the root; nothing on the others. One type and length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn reduce_array(&self, array: &dyn Array, op: impl Into<Reduction>, root: usize) -> Result<Option<ArrayRef>> {
        let $this = self;
        let with = $with;
        with.reduce_one(Goal::Root(root), Ok(array), op.into())
    }

    /// [`reduce_array`](Self::reduce_array) of each column.
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn reduce_record_batch(
        &self,
        batch: &RecordBatch,
        op: impl Into<Reduction>,
        root: usize,
    ) -> Result<Option<RecordBatch>> {
        let $this = self;
        let with = $with;
        with.reduce_columns(Goal::Root(root), batch, op.into())
    }

    /// This rank's block of the rows of the reduction of all ranks' arrays. Blocks differ by one row at most, the first ones are
    /// the longer. One type and length on all ranks; not of lists of any length.
    ///
    /// ```
    /// use ringfold::arrow::array::{Int32Array, cast::AsArray, types::Int32Type};
    /// use ringfold::{Communicator, ReduceOp};
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(2) {
    ///         scope.spawn(move || {
    ///             let block = comm.reduce_scatter_array(&Int32Array::from(vec![1, 2, 3]), ReduceOp::Sum).unwrap();
    ///             let expected: &[i32] = if comm.rank() == 0 { &[2, 4] } else { &[6] };
    ///             assert_eq!(block.as_primitive::<Int32Type>().values(), expected);
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn reduce_scatter_array(&self, array: &dyn Array, op: impl Into<Reduction>) -> Result<ArrayRef> {
        let $this = self;
        let with = $with;
        Ok(with.reduce_one(Goal::Block, Ok(array), op.into())?.expect("every rank has a result"))
    }

    /// [`reduce_scatter_array`](Self::reduce_scatter_array) of each column.
    ///
    /// # Errors
    /// As [`all_reduce_array`](Self::all_reduce_array).
    pub fn reduce_scatter_record_batch(&self, batch: &RecordBatch, op: impl Into<Reduction>) -> Result<RecordBatch> {
        let $this = self;
        let with = $with;
        Ok(with.reduce_columns(Goal::Block, batch, op.into())?.expect("every rank has a result"))
    }

    /// Takes part in a call of Arrow data that this rank has nothing for, because of an error: every rank, this one included, gets
    /// that error, named as this rank's, instead of waiting for it. For bindings, where making an array of what a caller passes
    /// can fail. `verb` is what errors call the call: `all_reduce`.
    ///
    /// ```
    /// use ringfold::{Communicator, Error};
    /// let comm = Communicator::local(1).remove(0);
    /// let told = comm.refuse_array("all_reduce", Error::invalid("a file that cannot be read"));
    /// assert!(told.to_string().contains("rank 0: a file that cannot be read"));
    /// ```
    pub fn refuse_array(&self, verb: &'static str, error: Error) -> Error {
        let $this = self;
        let with = $with;
        with.refuse_call(verb, error)
    }
}
    )*};
}

verbs! {
    With<'_>, |this| this;
    Communicator, |this| &this.with(Options::default());
}
