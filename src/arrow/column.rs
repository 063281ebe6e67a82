//! An array as what is reduced of it: leaves of numbers, validity, and how they are put together again.

use super::account::{Brings, Field};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorRef};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType};
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How deep arrays may be within arrays.
const DEEPEST: usize = 64;

/// An array, and the arrays within it: numbers at the leaves.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Where it is, for errors.
    pub(super) path: String,
    data_type: DataType,
    len: usize,
    /// Whether its field says that it may have nulls of its own.
    nullable: bool,
    /// What its field says of how it is to be understood.
    extension: Option<String>,
    /// Which of its values are there, ancestors included: a value within a row that is null is not.
    pub(super) nulls: Option<NullBuffer>,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// Numbers: as many as the array is long, in one buffer, and where they were chunks in others that follow it.
    Numbers(DType, Buffer, Vec<Buffer>),
    /// Lists of one length.
    Fixed(usize, Box<Column>),
    /// Lists of any length, the same on every rank: their offsets, from 0 on, as Arrow has them.
    Lists(Buffer, Box<Column>),
    /// Columns side by side.
    Struct(Vec<Column>),
}

/// The numbers of a leaf.
#[derive(Debug, Clone)]
pub(super) struct Leaf<'a> {
    pub(super) column: &'a Column,
    pub(super) dtype: DType,
    values: &'a Buffer,
    /// What follows, where they were chunks.
    rest: &'a [Buffer],
    /// How many there are for each row of the array that it is in; none where rows have different numbers.
    pub(super) per_row: Option<usize>,
}

impl Leaf<'_> {
    pub(super) fn count(&self) -> usize {
        self.column.len
    }

    /// The numbers, where they lie; `None` where they do not lie one after another.
    pub(super) fn tensor(&self) -> Option<TensorRef<'_>> {
        self.rest.is_empty().then(|| TensorRef::from_bytes(self.values, self.dtype))
    }

    /// The bytes of some of its numbers, in the pieces in which they lie.
    pub(super) fn pieces(&self, numbers: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let size = self.dtype.size();
        let (mut skip, mut left) = (numbers.start * size, numbers.len() * size);
        std::iter::once(self.values).chain(self.rest).filter_map(move |buffer| {
            let from = skip.min(buffer.len());
            skip -= from;
            let piece = &buffer[from..][..left.min(buffer.len() - from)];
            left -= piece.len();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Fails unless the reduction is defined for what the numbers stand for.
    pub(super) fn check(&self, op: &crate::reduce::Reduction) -> Result<()> {
        use crate::reduce::{ReduceOp, Reduction};
        let path = &self.column.path;
        let of = |error: Error| {
            let again = Error::new(error.kind(), format!("{path}: {}", error.message()));
            match error.what_to_do() {
                Some(remedy) => again.remedy(remedy),
                None => again,
            }
        };
        match op {
            Reduction::Named(op) => {
                op.check(self.dtype).map_err(of)?;
                let kind = &self.column.data_type;
                let points = matches!(
                    kind,
                    DataType::Date32
                        | DataType::Date64
                        | DataType::Time32(_)
                        | DataType::Time64(_)
                        | DataType::Timestamp(..)
                );
                if points && !matches!(op, ReduceOp::Min | ReduceOp::Max) {
                    let text = format!("{path}: {op} is not defined for {kind}");
                    return Err(Error::unsupported(text).remedy("points in time have a min and a max"));
                }
                Ok(())
            }
            Reduction::Custom(custom) if custom.dtype() == self.dtype => Ok(()),
            Reduction::Custom(custom) => {
                let (name, of) = (custom.name(), custom.dtype());
                Err(Error::invalid(format!("the reduction {name:?} is of {of}, {path} of {}", self.dtype))
                    .remedy("pass columns of the type that the reduction was made for"))
            }
        }
    }
}

/// The element type that stands for an array's values, if they are numbers.
pub(super) fn number(data_type: &DataType) -> Option<DType> {
    Some(match data_type {
        DataType::Int8 => DType::I8,
        DataType::Int16 => DType::I16,
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => DType::I32,
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_) => DType::I64,
        DataType::UInt8 => DType::U8,
        DataType::UInt16 => DType::U16,
        DataType::UInt32 => DType::U32,
        DataType::UInt64 => DType::U64,
        DataType::Float16 => DType::F16,
        DataType::Float32 => DType::F32,
        DataType::Float64 => DType::F64,
        _ => return None,
    })
}

/// What an array of a type that has no numbers can do instead.
fn unsupported(path: &str, data_type: &DataType) -> Error {
    let remedy = match data_type {
        DataType::Boolean => "cast it to UInt8 and reduce with bitand or bitor",
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "cast it to Float64 or to an integer",
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => "cast it to the type of its values",
        _ => "leave the column out, or exchange it as a table (all_gather_record_batch and its kin)",
    };
    Error::unsupported(format!("{path} is {data_type}, which cannot be reduced")).remedy(remedy)
}

/// An array that contradicts itself.
fn broken(path: &str, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{path}: {what}"))
        .remedy("make the array by a builder, or validate it where it comes from")
}

/// What arrow's kernels make of several arrays. They return errors for some of what does not fit (keys of dictionaries, offsets of strings), and
/// panic for the rest (offsets of lists).
pub(super) fn joined<T>(path: &str, join: impl FnOnce() -> std::result::Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(join)) {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(error)) => Err(arrow_error(path, &error)),
        Err(_) => Err(broken(path, "together they are more than offsets of 32 bits can count")),
    }
}

pub(super) fn arrow_error(path: &str, error: &dyn std::fmt::Display) -> Error {
    broken(path, error)
}

impl Column {
    /// The column of an array. Nothing is copied but the offsets of lists that begin in the middle.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where there is something in it that is no number;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where it contradicts itself.
    pub(super) fn new(path: &str, array: &dyn Array) -> Result<Self> {
        // Before anything is as large as an array of things that have no size says.
        check_type(path, array.data_type(), 0)?;
        Column::within(path, array, None)
    }

    /// Chunks of one array as one: their numbers stay where they are, and only offsets and validity are made anew.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where they are not of one type, or are too long together.
    pub(super) fn of_chunks(mut chunks: Vec<Column>) -> Result<Self> {
        if chunks.len() == 1 {
            return Ok(chunks.remove(0));
        }
        let (path, data_type) = match chunks.first() {
            Some(first) => (first.path.clone(), first.data_type.clone()),
            None => return Err(Error::invalid("chunks of an array, and not one of them")),
        };
        if let Some(other) = chunks.iter().find(|chunk| chunk.data_type != data_type) {
            return Err(broken(&path, format!("chunks of {data_type} and of {}", other.data_type)));
        }
        let too_long = || broken(&path, "its chunks are too long together");
        let len =
            chunks.iter().try_fold(0usize, |len, chunk| len.checked_add(chunk.len)).ok_or_else(too_long)?;
        let nulls = chunks.iter().any(|chunk| chunk.nulls.is_some()).then(|| {
            let mut bits = arrow_buffer::BooleanBufferBuilder::new(len);
            for chunk in &chunks {
                match &chunk.nulls {
                    Some(nulls) => bits.append_buffer(nulls.inner()),
                    None => bits.append_n(chunk.len, true),
                }
            }
            NullBuffer::new(bits.finish())
        });
        let (nullable, extension) = (chunks[0].nullable, chunks[0].extension.clone());
        let (mut pieces, mut within, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = None;
        for chunk in chunks {
            match &chunk.form {
                Form::Numbers(_, values, rest) => pieces.extend(std::iter::once(values).chain(rest).cloned()),
                Form::Fixed(_, inner) => within.push(vec![(**inner).clone()]),
                Form::Lists(offsets, inner) => {
                    ends.push(offsets.clone());
                    within.push(vec![(**inner).clone()]);
                }
                Form::Struct(columns) => within.push(columns.clone()),
            }
            first.get_or_insert(chunk.form);
        }
        let joined = |at: usize| {
            let parts = within.iter().map(|parts: &Vec<Column>| parts[at].clone());
            Column::of_chunks(parts.collect())
        };
        let form = match first.ok_or_else(too_long)? {
            Form::Numbers(dtype, ..) => {
                pieces.retain(|piece: &Buffer| !piece.is_empty());
                let values = if pieces.is_empty() { Buffer::default() } else { pieces.remove(0) };
                Form::Numbers(dtype, values, pieces)
            }
            Form::Fixed(width, _) => Form::Fixed(width, Box::new(joined(0)?)),
            Form::Lists(..) => {
                let offsets = match &data_type {
                    DataType::List(_) => joined_offsets::<i32>(&ends),
                    _ => joined_offsets::<i64>(&ends),
                };
                Form::Lists(offsets.ok_or_else(too_long)?, Box::new(joined(0)?))
            }
            Form::Struct(columns) => Form::Struct((0..columns.len()).map(joined).collect::<Result<_>>()?),
        };
        Ok(Column { path, data_type, len, nullable, extension, nulls, form })
    }

    fn nullable(self, nullable: bool) -> Self {
        Column { nullable, ..self }
    }

    /// The same with what its field says of how it is to be understood: a tensor's shape, say.
    pub(super) fn extended(self, field: &arrow_schema::Field) -> Self {
        Column { extension: extension(field), ..self }
    }

    fn within(path: &str, array: &dyn Array, above: Option<NullBuffer>) -> Result<Self> {
        let (data_type, len) = (array.data_type().clone(), array.len());
        let nulls = match array.nulls() {
            Some(nulls) if nulls.len() != len => {
                return Err(broken(path, format!("{len} values, and validity of {}", nulls.len())));
            }
            nulls => NullBuffer::union(above.as_ref(), nulls).filter(|nulls| nulls.null_count() > 0),
        };
        let item = |item: &arrow_schema::Field, values: &dyn Array, nulls: Option<NullBuffer>| {
            let within = Column::within(&format!("items of {path}"), values, nulls)?;
            Ok::<_, Error>(Box::new(within.nullable(item.is_nullable())))
        };
        let form = match &data_type {
            DataType::FixedSizeList(field, _) => {
                let array = array.as_fixed_size_list();
                let width = array.value_length() as usize; // the array has checked it
                let within = nulls.as_ref().map(|nulls| nulls.expand(width));
                let values = array.values();
                let Some(expected) = len.checked_mul(width).filter(|&expected| expected <= values.len())
                else {
                    return Err(broken(path, format!("{len} lists of {width} in {} values", values.len())));
                };
                Form::Fixed(width, item(field, &values.slice(0, expected), within)?)
            }
            DataType::List(field) => {
                let (offsets, values) = lists(path, array.as_list::<i32>())?;
                let within = nulls.as_ref().map(|nulls| spread(nulls, &offsets));
                Form::Lists(offsets.into_inner().into_inner(), item(field, &values, within)?)
            }
            DataType::LargeList(field) => {
                let (offsets, values) = lists(path, array.as_list::<i64>())?;
                let within = nulls.as_ref().map(|nulls| spread(nulls, &offsets));
                Form::Lists(offsets.into_inner().into_inner(), item(field, &values, within)?)
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns()).map(|(field, values)| {
                    let path = format!("{:?} of {path}", field.name());
                    Ok(Column::within(&path, values, nulls.clone())?.nullable(field.is_nullable()))
                });
                Form::Struct(columns.collect::<Result<_>>()?)
            }
            other => {
                let dtype = number(other).ok_or_else(|| unsupported(path, other))?;
                Form::Numbers(dtype, numbers(path, &array.to_data(), dtype)?, Vec::new())
            }
        };
        Ok(Column { path: path.to_owned(), data_type, len, nullable: true, extension: None, nulls, form })
    }

    /// How many values it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The leaves, first to last.
    pub(super) fn leaves(&self) -> Vec<Leaf<'_>> {
        let mut leaves = Vec::new();
        self.add_leaves(Some(1), &mut leaves);
        leaves
    }

    fn add_leaves<'a>(&'a self, per_row: Option<usize>, leaves: &mut Vec<Leaf<'a>>) {
        match &self.form {
            Form::Numbers(dtype, values, rest) => {
                leaves.push(Leaf { column: self, dtype: *dtype, values, rest, per_row })
            }
            Form::Fixed(width, within) => {
                within.add_leaves(per_row.and_then(|per_row| per_row.checked_mul(*width)), leaves);
            }
            Form::Lists(_, within) => within.add_leaves(None, leaves),
            Form::Struct(columns) => columns.iter().for_each(|column| column.add_leaves(per_row, leaves)),
        }
    }

    /// This array and those within it, outer before inner.
    pub(super) fn arrays(&self) -> Vec<&Column> {
        let mut arrays = vec![self];
        match &self.form {
            Form::Numbers(..) => {}
            Form::Fixed(_, within) | Form::Lists(_, within) => arrays.extend(within.arrays()),
            Form::Struct(columns) => columns.iter().for_each(|column| arrays.extend(column.arrays())),
        }
        arrays
    }

    /// Whether it or an array within it has nulls.
    pub(super) fn has_nulls(&self) -> bool {
        self.nulls.is_some()
            || match &self.form {
                Form::Numbers(..) => false,
                Form::Fixed(_, within) | Form::Lists(_, within) => within.has_nulls(),
                Form::Struct(columns) => columns.iter().any(Column::has_nulls),
            }
    }

    /// An array of this one's shape with other numbers, one buffer a leaf, and other validity, one for each of
    /// [`arrays`](Column::arrays) where there is any; of `rows` rows, where these are not all.
    pub(super) fn rebuilt(
        &self,
        rows: usize,
        values: &mut dyn Iterator<Item = Buffer>,
        validity: &mut dyn Iterator<Item = Option<NullBuffer>>,
    ) -> Result<ArrayData> {
        // What may have none of its own is absent only where something around it is, which says so.
        let nulls = validity.next().flatten().filter(|_| self.nullable);
        let array = ArrayData::builder(self.data_type.clone()).len(rows).nulls(nulls);
        let array = match &self.form {
            Form::Numbers(..) => {
                let buffer = values.next().ok_or_else(|| broken(&self.path, "it has lost its values"))?;
                array.add_buffer(buffer)
            }
            Form::Fixed(width, within) => {
                array.add_child_data(within.rebuilt(rows * width, values, validity)?)
            }
            Form::Lists(offsets, within) => array
                .add_buffer(offsets.clone())
                .add_child_data(within.rebuilt(within.len, values, validity)?),
            Form::Struct(columns) => {
                let mut array = array;
                for column in columns {
                    array = array.add_child_data(column.rebuilt(rows, values, validity)?);
                }
                array
            }
        };
        array.build().map_err(|error| arrow_error(&self.path, &error))
    }

    /// What all ranks must have alike: its shape, and how long it is.
    fn digest(&self, hasher: &mut FxHasher) {
        (std::mem::discriminant(&self.form), self.len, self.nullable, &self.extension).hash(hasher);
        match &self.form {
            Form::Numbers(..) => self.data_type.hash(hasher),
            Form::Fixed(width, within) => {
                width.hash(hasher);
                within.digest(hasher);
            }
            Form::Lists(offsets, within) => {
                hasher.write(offsets);
                within.digest(hasher);
            }
            Form::Struct(columns) => {
                for column in columns {
                    column.path.hash(hasher);
                    column.digest(hasher);
                }
            }
        }
    }

    /// Its type, as errors tell it.
    fn kind(&self) -> String {
        let kind = match (&self.form, &self.data_type) {
            (Form::Fixed(width, within), _) => format!("FixedSizeList({width} x {})", within.kind()),
            (Form::Lists(_, within), DataType::LargeList(_)) => format!("LargeList({})", within.kind()),
            (Form::Lists(_, within), _) => format!("List({})", within.kind()),
            (Form::Struct(columns), _) => format!("Struct({} columns)", columns.len()),
            (Form::Numbers(..), kind) => kind.to_string(),
        };
        let kind = if self.nullable { kind } else { format!("{kind} not null") };
        match &self.extension {
            Some(extension) => format!("{kind} ({extension})"),
            None => kind,
        }
    }

    /// Whether there are lists of any length in it.
    pub(super) fn has_lists(&self) -> bool {
        self.arrays().iter().any(|array| matches!(array.form, Form::Lists(..)))
    }

    /// Whether its values are its own numbers and not arrays.
    pub(super) fn is_leaf(&self) -> bool {
        matches!(self.form, Form::Numbers(..))
    }

    fn add_fields(&self, fields: &mut Vec<Field>) {
        for array in self.arrays() {
            let layout = match &array.form {
                Form::Lists(offsets, _) => {
                    let mut hasher = FxHasher::default();
                    hasher.write(offsets);
                    hasher.finish()
                }
                _ => 0,
            };
            fields.push(Field {
                path: array.path.clone(),
                kind: array.kind(),
                len: Some(array.len),
                layout,
                nulls: array.nulls.as_ref().map_or(0, NullBuffer::null_count),
            });
        }
    }
}

/// What a field says of how its storage is to be understood: Arrow's extension types.
pub(super) fn extension(field: &arrow_schema::Field) -> Option<String> {
    let told = |key: &str| field.metadata().get(key).map(|value| value.to_string());
    let name = told("ARROW:extension:name")?;
    Some(told("ARROW:extension:metadata").map_or_else(|| name.clone(), |more| format!("{name} {more}")))
}

/// Fails unless there are numbers at the leaves of a type, at no great depth.
fn check_type(path: &str, data_type: &DataType, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(broken(path, format!("more than {DEEPEST} arrays within each other")));
    }
    match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            check_type(&format!("items of {path}"), item.data_type(), depth + 1)
        }
        DataType::Struct(fields) => fields.iter().try_for_each(|field| {
            check_type(&format!("{:?} of {path}", field.name()), field.data_type(), depth + 1)
        }),
        other if number(other).is_some() => Ok(()),
        other => Err(unsupported(path, other)),
    }
}

impl Brings for Vec<Column> {
    fn digest(&self, hasher: &mut FxHasher) {
        self.len().hash(hasher);
        for column in self {
            column.path.hash(hasher);
            column.digest(hasher);
        }
    }

    fn has_nulls(&self) -> bool {
        self.iter().any(Column::has_nulls)
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        self.iter().for_each(|column| column.add_fields(&mut fields));
        fields
    }
}

/// The numbers of an array, where it has as many as it says.
fn numbers(path: &str, array: &ArrayData, dtype: DType) -> Result<Buffer> {
    let (len, offset) = (array.len(), array.offset());
    let values = array.buffers().first().ok_or_else(|| broken(path, "it has no values"))?;
    let bytes = |values: usize| values.checked_mul(dtype.size());
    match (bytes(offset), bytes(len)) {
        (Some(start), Some(bytes)) if start.checked_add(bytes).is_some_and(|end| end <= values.len()) => {
            Ok(values.slice_with_length(start, bytes))
        }
        _ => {
            Err(broken(path, format!("{len} values from {offset} on in a buffer of {} bytes", values.len())))
        }
    }
}

/// The offsets of an array of lists, from 0 on, and the values that they divide.
fn lists<O: OffsetSizeTrait>(path: &str, array: &GenericListArray<O>) -> Result<(OffsetBuffer<O>, ArrayRef)> {
    let offsets = array.offsets();
    let (first, last) = (offsets[0], offsets[array.len()]);
    if first < O::zero() || first > last || last.as_usize() > array.values().len() {
        let has = array.values().len();
        return Err(broken(
            path,
            format!("lists from {} to {} in {has} values", first.as_usize(), last.as_usize()),
        ));
    }
    let values = array.values().slice(first.as_usize(), (last - first).as_usize());
    if first == O::zero() {
        return Ok((offsets.clone(), values));
    }
    let rebased: ScalarBuffer<O> = offsets.iter().map(|&offset| offset - first).collect();
    Ok((OffsetBuffer::new(rebased), values))
}

/// The offsets of lists that follow one another; `None` where they are more than the type can count.
fn joined_offsets<O: OffsetSizeTrait>(all: &[Buffer]) -> Option<Buffer> {
    let mut joined = vec![O::zero()];
    for offsets in all {
        let offsets = ScalarBuffer::<O>::from(offsets.clone());
        let start = *joined.last()?;
        for &end in offsets.iter().skip(1) {
            joined.push(O::from_usize(start.as_usize().checked_add(end.as_usize())?)?);
        }
    }
    Some(ScalarBuffer::from(joined).into_inner())
}

/// The validity of the values of lists, which are there where their list is.
fn spread<O: OffsetSizeTrait>(nulls: &NullBuffer, offsets: &OffsetBuffer<O>) -> NullBuffer {
    let mut bits = arrow_buffer::BooleanBufferBuilder::new(offsets.last().as_usize());
    for (row, ends) in offsets.windows(2).enumerate() {
        bits.append_n((ends[1] - ends[0]).as_usize(), nulls.is_valid(row));
    }
    NullBuffer::new(bits.finish())
}
