//! Rows to the ranks that their keys belong to.

use super::account::{Asked, settle};
use super::column::joined;
use super::partition::rows_of_each;
use crate::communicator::{Communicator, Options, With};
use crate::error::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{ArrowError, DataType};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use std::sync::Arc;

impl With<'_> {
    /// The rows of a batch that go to each rank.
    fn divided(&self, batch: &RecordBatch, key: &str) -> Result<Vec<RecordBatch>> {
        let Some(keys) = batch.column_by_name(key) else {
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::invalid(format!("no column is called {key:?}"))
                .remedy(format!("name one of {}", names.join(", "))));
        };
        let name = format!("column {key:?}");
        let rows = rows_of_each(&name, keys, self.communicator().world_size())?;
        let part = |rows| compact(take_record_batch(batch, &UInt32Array::from(rows))?);
        rows.into_iter().map(|rows| joined(&name, || part(rows))).collect()
    }

    fn shuffled(&self, batch: &RecordBatch, key: &str) -> Result<RecordBatch> {
        let asked = Asked { more: Some(format!("shuffled by {key:?}")), ..Asked::new("all_to_all") };
        let got = self.exchange_all(&asked, self.divided(batch, key))?;
        settle(self, &asked, joined("the rows that came", || concat_batches(&batch.schema(), &got)))
    }
}

/// The same rows without the memory of others: a part of an array of views keeps all that the whole one looks at.
fn compact(batch: RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    });
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &rows)
}

macro_rules! verbs {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
/// Shuffles of tables.
impl $type {
    /// Sends each row to the rank that its key belongs to, and returns the rows that belong to this one: from rank 0 first, each
    /// rank's in their order. Equal keys meet on one rank, and so do nulls. Rows are divided as by Spark's hash partitioning into as
    /// many partitions as there are ranks, so that a table that Spark has partitioned by the column stays where it is.
    ///
    /// The rows are copied three times: when they are divided, into messages, and into one batch.
    ///
    /// ```
    /// use ringfold::Communicator;
    /// use ringfold::arrow::array::{Int64Array, cast::AsArray, record_batch, types::Int64Type};
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(2) {
    ///         scope.spawn(move || {
    ///             let from = comm.rank() as i64 * 10;
    ///             let own = record_batch!(("user", Utf8, ["ann", "bob"]), ("clicks", Int64, [from + 1, from + 2])).unwrap();
    ///             let mine = comm.shuffle(&own, "user").unwrap();
    ///             let users = mine.column(0).as_string::<i32>();
    ///             let clicks = mine.column(1).as_primitive::<Int64Type>();
    ///             let of = |name| users.iter().zip(clicks.values()).filter(move |(user, _)| *user == Some(name)).map(|(_, n)| *n);
    ///             // All of a user's clicks are here, or none.
    ///             assert!([vec![], vec![1, 11]].contains(&of("ann").collect()));
    ///             assert!([vec![], vec![2, 12]].contains(&of("bob").collect()));
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`all_to_all_record_batches`](Self::all_to_all_record_batches), and where there is no such column, or one that is no key:
    /// numbers, strings, bytes, times and dictionaries of these are.
    pub fn shuffle(&self, batch: &RecordBatch, key: &str) -> Result<RecordBatch> {
        let $this = self;
        let with = $with;
        with.shuffled(batch, key)
    }
}
    )*};
}

verbs! {
    With<'_>, |this| this;
    Communicator, |this| &this.with(Options::default());
}
