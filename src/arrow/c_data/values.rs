//! What lies in buffers and could lead out of bounds: offsets, keys, run ends, type ids, views; UTF-8; and nulls where the
//! schema says that there are none. Children were looked at before.

use super::array::item;
use super::place::Place;
use super::schema::told;
use crate::error::Result;
use arrow_buffer::NullBuffer;
use arrow_data::ArrayData;
use arrow_schema::DataType;

/// Looks at one array, not at its children. Of elements of a fixed width nothing is read.
pub(super) fn check(data: &ArrayData, place: &Place) -> Result<()> {
    match data.data_type() {
        DataType::ListView(_) => list_views::<i32>(data, place),
        DataType::LargeListView(_) => list_views::<i64>(data, place),
        DataType::RunEndEncoded(_, _) => runs(data, place),
        _ => of_arrow(data, place),
    }?;
    nullability(data, place)
}

/// What the arrow crate looks at: offsets, UTF-8, views, keys of dictionaries, type ids and offsets of unions, run ends. Of offsets
/// it leaves out the first.
fn of_arrow(data: &ArrayData, place: &Place) -> Result<()> {
    let first = |width: usize| -> Option<i64> {
        let (index, buffer) = (data.offset(), data.buffers().first()?);
        match width {
            // Arrays without any element have no offsets.
            _ if buffer.is_empty() => None,
            4 => Some(buffer.typed_data::<i32>()[index].into()),
            _ => Some(buffer.typed_data::<i64>()[index]),
        }
    };
    let (first, limit) = match data.data_type() {
        DataType::Utf8 | DataType::Binary => (first(4), data.buffers()[1].len()),
        DataType::LargeUtf8 | DataType::LargeBinary => (first(8), data.buffers()[1].len()),
        DataType::List(_) | DataType::Map(_, _) => (first(4), data.child_data()[0].len()),
        DataType::LargeList(_) => (first(8), data.child_data()[0].len()),
        _ => (None, 0),
    };
    if let Some(first) = first.filter(|first| usize::try_from(*first).map_or(true, |first| first > limit)) {
        return Err(
            place.invalid(format!("the first offset is {first}, and there are {limit} elements behind"))
        );
    }
    data.validate_values().map_err(|error| place.invalid(told(error)))
}

/// Offsets and sizes of lists that may lie anywhere.
fn list_views<T: arrow_buffer::ArrowNativeType + Into<i64>>(data: &ArrayData, place: &Place) -> Result<()> {
    let child = data.child_data()[0].len();
    let (offsets, sizes) = (data.buffer::<T>(0), data.buffer::<T>(1));
    for (at, (offset, size)) in offsets.iter().zip(sizes).enumerate().take(data.len()) {
        let (offset, size): (i64, i64) = ((*offset).into(), (*size).into());
        let end = offset.checked_add(size).filter(|_| offset >= 0 && size >= 0);
        if end.and_then(|end| usize::try_from(end).ok()).is_none_or(|end| end > child) {
            return Err(place.invalid(format!(
                "list {at} has {size} elements from {offset} on, and its child has {child}"
            )));
        }
    }
    Ok(())
}

/// Run ends, one a value, without nulls.
fn runs(data: &ArrayData, place: &Place) -> Result<()> {
    let [ends, values] = data.child_data() else { unreachable!("two children were read") };
    if ends.len() != values.len() {
        let (ends, values) = (ends.len(), values.len());
        return Err(place.invalid(format!("there are {ends} run ends and {values} values")));
    }
    if ends.nulls().is_some() {
        return Err(place.invalid("run ends are null"));
    }
    of_arrow(data, place)
}

/// Nulls in children that have none by the schema. Where a struct or a list of fixed size is null itself its children may be.
fn nullability(data: &ArrayData, place: &Place) -> Result<()> {
    if let DataType::Struct(fields) = data.data_type() {
        for (at, (field, child)) in fields.iter().zip(data.child_data()).enumerate() {
            if let Some(nulls) = child.nulls().filter(|_| !field.is_nullable()) {
                let nulls = nulls.slice(data.offset(), data.len());
                let hidden = data.nulls().is_some_and(|parent| parent.contains(&nulls));
                refuse(nulls.null_count() > 0 && !hidden, &place.child(at, Some(field.name())))?;
            }
        }
        return Ok(());
    }
    let Some(field) = item(data.data_type()).filter(|field| !field.is_nullable()) else { return Ok(()) };
    let Some(nulls) = data.child_data()[0].nulls() else { return Ok(()) };
    let shown = match data.data_type() {
        // The child's bitmap covers all elements, so that this one is not larger.
        DataType::FixedSizeList(_, size) => {
            let size = *size as usize;
            let nulls = nulls.slice(data.offset() * size, data.len() * size);
            let hidden = |parent: &NullBuffer| parent.expand(size).contains(&nulls);
            nulls.null_count() > 0 && !data.nulls().is_some_and(hidden)
        }
        _ => true,
    };
    refuse(shown, &place.child(0, Some(field.name())))
}

fn refuse(shown: bool, place: &Place) -> Result<()> {
    if !shown {
        return Ok(());
    }
    Err(place
        .invalid("it has nulls, and the schema says that it has none")
        .remedy("set the flag ARROW_FLAG_NULLABLE in the schema, or fill the nulls"))
}
