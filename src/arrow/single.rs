//! Arrays that travel as tables: batches of a single column, which say what they are.

use super::column::arrow_error;
use crate::error::Result;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_schema::{Field, Schema};
use std::collections::HashMap;
use std::sync::Arc;

/// In the metadata of a schema: the batch stands for its only column.
const MARK: (&str, &str) = ("ringfold", "array");

/// An array as a record batch of a single column, from which [`array_of`] gets it back, also on another rank. Nothing is copied.
///
/// ```
/// use ringfold::arrow::array::{Array, Int32Array};
/// use ringfold::arrow::schema::{DataType, Field};
/// use ringfold::arrow::{array_of, batch_of};
/// let (array, field) = (Int32Array::from(vec![1, 2]), Field::new("x", DataType::Int32, false));
/// let batch = batch_of(&array, &field)?;
/// let (again, named) = array_of(&batch).unwrap();
/// assert_eq!((again.as_ref(), named), (&array as &dyn Array, field));
/// # Ok::<(), ringfold::Error>(())
/// ```
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the field is of another type than the array, or says that it has
/// no nulls where it has some.
pub fn batch_of(array: &dyn Array, field: &Field) -> Result<RecordBatch> {
    let metadata = HashMap::from([(MARK.0.to_owned(), MARK.1.to_owned())]);
    let schema = Schema::new(vec![field.clone()]).with_metadata(metadata);
    let options = RecordBatchOptions::new().with_row_count(Some(array.len()));
    RecordBatch::try_new_with_options(Arc::new(schema), vec![make_array(array.to_data())], &options)
        .map_err(|error| arrow_error("the array", &error))
}

/// The array that a batch stands for, with its field; none where the batch is a table.
pub fn array_of(batch: &RecordBatch) -> Option<(ArrayRef, Field)> {
    let schema = batch.schema_ref();
    let marked = schema.metadata().get(MARK.0).is_some_and(|mark| mark == MARK.1);
    match (batch.columns(), marked) {
        ([array], true) => Some((array.clone(), schema.field(0).clone())),
        _ => None,
    }
}
