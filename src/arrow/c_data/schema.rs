//! From an `ArrowSchema` to a field: every pointer and count looked at before it is followed.

use super::abi::ArrowSchema;
use super::place::{Place, short};
use super::{MAX_DEPTH, MAX_FIELDS};
use crate::error::Result;
use arrow_array::types::{Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type};
use arrow_array::types::{DecimalType, validate_decimal_precision_and_scale};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, UnionFields, UnionMode};
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::Arc;

/// The longest format string: a union of 128 types has some 500 bytes.
const MAX_FORMAT: usize = 4096;
/// The longest name of a field.
const MAX_NAME: usize = 1 << 20;
/// The most bytes of metadata of one field.
const MAX_METADATA: usize = 1 << 28;

/// Reads a schema.
///
/// # Safety
/// As [`lend`](super::lend), of the schema.
pub(super) unsafe fn field(schema: *const ArrowSchema) -> Result<Field> {
    let mut left = MAX_FIELDS;
    // SAFETY: as the caller promises.
    unsafe { read(schema, &Place::root("schema"), &mut left) }
}

/// # Safety
/// As [`field`].
unsafe fn read(schema: *const ArrowSchema, place: &Place, left: &mut usize) -> Result<Field> {
    if schema.is_null() {
        return Err(place.invalid("NULL").remedy("pass the address of a struct ArrowSchema"));
    }
    if !schema.is_aligned() {
        return Err(place.invalid(format!("{schema:p} is no address of a structure: misaligned")));
    }
    if place.depth > MAX_DEPTH {
        return Err(place
            .unsupported(format!("types are nested more than {MAX_DEPTH} deep"))
            .remedy("flatten the type, and see that no schema is its own child"));
    }
    *left = left.checked_sub(1).ok_or_else(|| too_many(place))?;
    // SAFETY: it is there and aligned, and the caller promises the rest.
    let schema = unsafe { &*schema };
    if schema.release.is_none() {
        return Err(place
            .invalid("it was released or moved (release is NULL)")
            .remedy("pass a schema that nobody has consumed"));
    }
    // SAFETY: the caller promises strings that end.
    let format = unsafe { text(schema.format, MAX_FORMAT) }
        .map_err(|why| place.invalid(format!("the format string {why}")))?
        .ok_or_else(|| place.invalid("the format string is NULL"))?;
    // SAFETY: as above.
    let name = unsafe { text(schema.name, MAX_NAME) }
        .map_err(|why| place.invalid(format!("the name {why}")))?
        .unwrap_or_default();
    let children = Children::of(schema, place, *left)?;
    // SAFETY: as the caller promises.
    let index = unsafe { data_type(format, schema, children, place, left) }?;
    let data_type = if schema.dictionary.is_null() {
        index
    } else {
        if !index.is_dictionary_key_type() {
            return Err(place
                .invalid(format!("a dictionary's keys cannot be {index}"))
                .remedy("use an integer type for the keys"));
        }
        // SAFETY: as the caller promises.
        let values = unsafe { read(schema.dictionary, &place.dictionary(), left) }?;
        DataType::Dictionary(Box::new(index), Box::new(values.data_type().clone()))
    };
    let field = Field::new(name, data_type, schema.flags & 2 != 0);
    // SAFETY: the caller promises metadata as the specification describes it.
    let metadata = unsafe { metadata(schema.metadata.cast(), place) }?;
    let field = if metadata.is_empty() { field } else { field.with_metadata(metadata) };
    Ok(field.with_dict_is_ordered(schema.flags & 1 != 0))
}

fn too_many(place: &Place) -> crate::Error {
    place
        .unsupported(format!("the schema has more than {MAX_FIELDS} fields"))
        .remedy("split the table, and see that no schema is its own child")
}

/// The children of a schema, counted.
#[derive(Clone, Copy)]
struct Children {
    pointers: *mut *mut ArrowSchema,
    count: usize,
}

impl Children {
    fn of(schema: &ArrowSchema, place: &Place, left: usize) -> Result<Self> {
        let count = usize::try_from(schema.n_children)
            .map_err(|_| place.invalid(format!("n_children is {}", schema.n_children)))?;
        if count > left {
            return Err(too_many(place));
        }
        if count > 0 && schema.children.is_null() {
            return Err(place.invalid(format!("n_children is {count}, and children is NULL")));
        }
        Ok(Children { pointers: schema.children, count })
    }

    fn exactly(self, wanted: usize, format: &str, place: &Place) -> Result<()> {
        if self.count != wanted {
            let (format, count) = (short(format), self.count);
            return Err(
                place.invalid(format!("\"{format}\" has {wanted} children, and n_children is {count}"))
            );
        }
        Ok(())
    }

    /// # Safety
    /// As [`field`]; `index` is below the count.
    unsafe fn read(self, index: usize, place: &Place, left: &mut usize) -> Result<Field> {
        // SAFETY: there are as many pointers, as the caller promises; the array of them may have any alignment.
        let child = unsafe { self.pointers.add(index).read_unaligned() };
        // SAFETY: as the caller promises.
        unsafe { read(child, &place.child(index, None), left) }
    }

    /// # Safety
    /// As [`field`].
    unsafe fn all(self, place: &Place, left: &mut usize) -> Result<Vec<Field>> {
        // SAFETY: as the caller promises; each index is below the count.
        (0..self.count).map(|index| unsafe { self.read(index, place, left) }).collect()
    }
}

/// The type that a format string and children say, without the dictionary.
///
/// # Safety
/// As [`field`].
unsafe fn data_type(
    format: &str,
    schema: &ArrowSchema,
    children: Children,
    place: &Place,
    left: &mut usize,
) -> Result<DataType> {
    if !format.starts_with('+') {
        children.exactly(0, format, place)?;
        return leaf(format, place);
    }
    let mut only = || {
        children.exactly(1, format, place)?;
        // SAFETY: as the caller promises; there is one child.
        unsafe { children.read(0, place, left) }
    };
    let (head, parameter) = match format.split_once(':') {
        Some((head, parameter)) => (head, Some(parameter)),
        None => (format, None),
    };
    Ok(match (head, parameter) {
        ("+l", None) => DataType::List(Arc::new(only()?)),
        ("+L", None) => DataType::LargeList(Arc::new(only()?)),
        ("+vl", None) => DataType::ListView(Arc::new(only()?)),
        ("+vL", None) => DataType::LargeListView(Arc::new(only()?)),
        ("+w", Some(size)) => {
            let size: i32 = size.parse().ok().filter(|size| *size >= 0).ok_or_else(|| {
                place.invalid(format!("\"{}\" has no size from 0 to {}", short(format), i32::MAX))
            })?;
            DataType::FixedSizeList(Arc::new(only()?), size)
        }
        ("+m", None) => DataType::Map(Arc::new(entries(only()?, place)?), schema.flags & 4 != 0),
        // SAFETY: as the caller promises.
        ("+s", None) => DataType::Struct(unsafe { children.all(place, left) }?.into()),
        ("+r", None) => {
            children.exactly(2, format, place)?;
            // SAFETY: as the caller promises; there are two children.
            let ends = unsafe { children.read(0, place, left) }?;
            // SAFETY: as above.
            let values = unsafe { children.read(1, place, left) }?;
            if !ends.data_type().is_run_ends_type() {
                let wrong = ends.data_type();
                return Err(place.invalid(format!("run ends cannot be {wrong}, but Int16, Int32 or Int64")));
            }
            // By the specification they have no nulls, whatever the flags say.
            DataType::RunEndEncoded(Arc::new(ends.with_nullable(false)), Arc::new(values))
        }
        ("+ud" | "+us", Some(ids)) => {
            let parsed: Option<Vec<i8>> = ids.split(',').map(|id| id.parse().ok()).collect();
            let ids = parsed.ok_or_else(|| {
                place.invalid(format!("\"{}\" does not list type ids from 0 to 127", short(format)))
            })?;
            children.exactly(ids.len(), format, place)?;
            // SAFETY: as the caller promises.
            let fields = unsafe { children.all(place, left) }?;
            let fields = UnionFields::try_new(ids, fields).map_err(|error| place.invalid(told(error)))?;
            let mode = if head == "+ud" { UnionMode::Dense } else { UnionMode::Sparse };
            DataType::Union(fields, mode)
        }
        _ => return Err(unknown(format, place)),
    })
}

fn unknown(format: &str, place: &Place) -> crate::Error {
    place
        .unsupported(format!("the format \"{}\" is not known", short(format)))
        .remedy("cast the column to a type of Arrow's C Data interface")
}

/// The entries of a map: a struct of two, which with its keys has no nulls by the specification, whatever the flags say.
fn entries(entries: Field, place: &Place) -> Result<Field> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(place.invalid(format!("a map's entries are a struct, not {}", entries.data_type())));
    };
    let [key, value] = fields.as_ref() else {
        return Err(
            place.invalid(format!("a map's entries have a key and a value, not {} fields", fields.len()))
        );
    };
    let key = Arc::new(key.as_ref().clone().with_nullable(false));
    let fields = DataType::Struct(vec![key, value.clone()].into());
    Ok(entries.with_data_type(fields).with_nullable(false))
}

/// A type without children, as the arrow crate reads it, within the bounds that it does not look at.
fn leaf(format: &str, place: &Place) -> Result<DataType> {
    let parsed =
        FFI_ArrowSchema::try_new(format, Vec::new(), None).and_then(|schema| DataType::try_from(&schema));
    let bounded = format.starts_with("w:") || format.starts_with("d:");
    let data_type = parsed.map_err(|error| match bounded {
        true => place.invalid(format!("\"{}\": {}", short(format), told(error))),
        false => unknown(format, place),
    })?;
    let bad = match data_type {
        DataType::FixedSizeBinary(size) if size < 0 => Some("a size below 0".to_owned()),
        DataType::Decimal32(precision, scale) => decimal::<Decimal32Type>(precision, scale),
        DataType::Decimal64(precision, scale) => decimal::<Decimal64Type>(precision, scale),
        DataType::Decimal128(precision, scale) => decimal::<Decimal128Type>(precision, scale),
        DataType::Decimal256(precision, scale) => decimal::<Decimal256Type>(precision, scale),
        _ => None,
    };
    match bad {
        Some(why) => Err(place.invalid(format!("\"{}\": {why}", short(format)))),
        None => Ok(data_type),
    }
}

fn decimal<T: DecimalType>(precision: u8, scale: i8) -> Option<String> {
    validate_decimal_precision_and_scale::<T>(precision, scale).err().map(told)
}

/// What the arrow crate says, without its own classes of errors.
pub(super) fn told(error: ArrowError) -> String {
    match error {
        ArrowError::InvalidArgumentError(why) | ArrowError::CDataInterface(why) => why,
        other => other.to_string(),
    }
}

/// A string that ends with a zero within `most` bytes; none where it is NULL.
///
/// # Safety
/// The pointer is NULL or to a string that ends, which nobody changes for as long as `'a`.
unsafe fn text<'a>(start: *const c_char, most: usize) -> std::result::Result<Option<&'a str>, String> {
    if start.is_null() {
        return Ok(None);
    }
    // SAFETY: each byte up to the zero is there, and no further one is read.
    let length = (0..=most)
        .find(|at| unsafe { *start.add(*at) } == 0)
        .ok_or_else(|| format!("has more than {most} bytes"))?;
    // SAFETY: these bytes were read above.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
    std::str::from_utf8(bytes).map(Some).map_err(|_| format!("is no UTF-8: \"{}\"", bytes.escape_ascii()))
}

/// The pairs of a field's metadata: their number, then for each key and value a length and as many bytes.
///
/// # Safety
/// The pointer is NULL or to metadata as the specification describes it.
unsafe fn metadata(start: *const u8, place: &Place) -> Result<HashMap<String, String>> {
    let mut pairs = HashMap::new();
    if start.is_null() {
        return Ok(pairs);
    }
    let mut at = 0;
    let number = |at: &mut usize, what: &str| {
        // SAFETY: the specification has four bytes here, of any alignment.
        let number = unsafe { start.add(*at).cast::<i32>().read_unaligned() };
        *at += 4;
        usize::try_from(number)
            .map_err(|_| place.invalid(format!("the metadata's {what} is {number}")))
            .and_then(|number| match *at + number <= MAX_METADATA {
                true => Ok(number),
                false => Err(place.unsupported(format!("more than {MAX_METADATA} bytes of metadata"))),
            })
    };
    for _ in 0..number(&mut at, "number of pairs")? {
        let mut part = |what| {
            let length = number(&mut at, what)?;
            // SAFETY: the specification has as many bytes here.
            let bytes = unsafe { std::slice::from_raw_parts(start.add(at), length) };
            at += length;
            let text = std::str::from_utf8(bytes);
            text.map(str::to_owned).map_err(|_| {
                place
                    .unsupported("the metadata is no UTF-8")
                    .remedy("encode binary metadata as text, in base64 say")
            })
        };
        let key = part("length of a key")?;
        let value = part("length of a value")?;
        pairs.insert(key, value);
    }
    Ok(pairs)
}
