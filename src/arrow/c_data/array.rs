//! From an `ArrowArray` to array data: lengths and counts first, then buffers of the sizes that follow from them, then what lies
//! in those.

use super::abi::ArrowArray;
use super::lease::Owner;
use super::place::Place;
use super::values;
use crate::error::Result;
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_data::{ArrayData, BufferSpec, layout};
use arrow_schema::{DataType, Field, UnionMode};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

/// The longest array, its offset included: no memory holds more, and 64 nested offsets of this size do not overflow.
pub(super) const MAX_LENGTH: usize = 1 << 56;

/// The most data buffers of one array of views.
const MAX_VIEWED: usize = 1 << 20;

/// Whether there is an array that was not released.
///
/// # Safety
/// `array` is NULL or points to a structure.
pub(super) unsafe fn look(array: *const ArrowArray, place: &Place) -> Result<()> {
    if array.is_null() {
        return Err(place.invalid("NULL").remedy("pass the address of a struct ArrowArray"));
    }
    if !array.is_aligned() {
        return Err(place.invalid(format!("{array:p} is no address of a structure: misaligned")));
    }
    // SAFETY: it is there and aligned.
    if unsafe { (*array).release.is_none() } {
        return Err(place
            .invalid("it was released or moved (release is NULL)")
            .remedy("pass an array that nobody has consumed"));
    }
    Ok(())
}

/// Array data over the memory of a structure, in which every buffer holds on to the owner.
///
/// # Safety
/// As [`lend`](super::lend), of the array; the owner keeps the memory.
pub(super) unsafe fn data(
    array: *const ArrowArray,
    data_type: &DataType,
    place: &Place,
    owner: &Arc<Owner>,
) -> Result<ArrayData> {
    // SAFETY: as the caller promises.
    unsafe { look(array, place) }?;
    // SAFETY: `look` has seen that it is there; it is not changed meanwhile.
    let array = unsafe { &*array };
    let node = Node::of(array, data_type, place, owner)?;
    // SAFETY: as the caller promises; counts and pointers were looked at.
    let children = unsafe { node.children() }?;
    // SAFETY: as above.
    let nulls = unsafe { node.nulls() }?;
    // SAFETY: as above.
    let buffers = unsafe { node.buffers() }?;
    let builder = ArrayData::builder(data_type.clone()).len(node.length).offset(node.offset);
    let builder = builder.nulls(nulls).buffers(buffers).child_data(children);
    // SAFETY: buffers, children and nulls have the sizes that the type, length and offset ask for; buffers are aligned. What lies
    // in them is looked at before anybody else sees this.
    let data = unsafe { builder.build_unchecked() };
    values::check(&data, place)?;
    Ok(data)
}

/// A structure whose numbers were looked at.
struct Node<'a> {
    array: &'a ArrowArray,
    data_type: &'a DataType,
    place: &'a Place<'a>,
    owner: &'a Arc<Owner>,
    length: usize,
    offset: usize,
    /// Both together: the elements that buffers have.
    total: usize,
    specs: Vec<BufferSpec>,
    /// Whether the first buffer is a validity bitmap.
    validity: bool,
    /// Whether data buffers and a buffer of their lengths follow.
    variadic: bool,
}

impl<'a> Node<'a> {
    fn of(
        array: &'a ArrowArray,
        data_type: &'a DataType,
        place: &'a Place<'a>,
        owner: &'a Arc<Owner>,
    ) -> Result<Self> {
        let size = |what: &str, number: i64| {
            usize::try_from(number).map_err(|_| place.invalid(format!("{what} is {number}")))
        };
        let length = size("length", array.length)?;
        let offset = size("offset", array.offset)?;
        let total = length.checked_add(offset).filter(|total| *total <= MAX_LENGTH).ok_or_else(|| {
            place.invalid(format!("length {length} and offset {offset} are more than any memory holds"))
        })?;
        if array.null_count < -1 || array.null_count > array.length {
            return Err(place.invalid(format!("null_count is {} of {length} elements", array.null_count)));
        }
        let layout = layout(data_type);
        let node = Node {
            array,
            data_type,
            place,
            owner,
            length,
            offset,
            total,
            specs: layout.buffers,
            validity: layout.can_contain_null_mask,
            variadic: layout.variadic,
        };
        node.count_buffers()?;
        node.count_children()?;
        Ok(node)
    }

    fn count_buffers(&self) -> Result<()> {
        let wanted = self.specs.len() + usize::from(self.validity) + usize::from(self.variadic);
        let found = self.array.n_buffers;
        let fits = match usize::try_from(found) {
            Ok(found) if self.variadic => found >= wanted,
            Ok(found) => found == wanted,
            Err(_) => false,
        };
        if !fits {
            let least = if self.variadic { "at least " } else { "" };
            let what = self.data_type;
            return Err(self
                .place
                .invalid(format!("{what} has {least}{wanted} buffers, and n_buffers is {found}")));
        }
        if found as usize > wanted + MAX_VIEWED {
            return Err(self.place.unsupported(format!("more than {MAX_VIEWED} buffers of views")));
        }
        if found > 0 && self.array.buffers.is_null() {
            return Err(self.place.invalid(format!("n_buffers is {found}, and buffers is NULL")));
        }
        Ok(())
    }

    fn count_children(&self) -> Result<()> {
        let wanted = match self.data_type {
            DataType::Struct(fields) => fields.len(),
            DataType::Union(fields, _) => fields.len(),
            DataType::RunEndEncoded(_, _) => 2,
            other => usize::from(item(other).is_some()),
        };
        let found = self.array.n_children;
        if usize::try_from(found) != Ok(wanted) {
            let what = self.data_type;
            let why =
                format!("the schema's {what} has {wanted} children, and the array's n_children is {found}");
            return Err(self.place.invalid(why).remedy("pass the array's own schema"));
        }
        if wanted > 0 && self.array.children.is_null() {
            return Err(self.place.invalid(format!("n_children is {wanted}, and children is NULL")));
        }
        match (self.data_type, self.array.dictionary.is_null()) {
            (DataType::Dictionary(_, _), true) => {
                Err(self.place.invalid("the schema has a dictionary, and the array's is NULL"))
            }
            (DataType::Dictionary(_, _), false) | (_, true) => Ok(()),
            (other, false) => {
                Err(self.place.invalid(format!("the array has a dictionary, and the schema says {other}")))
            }
        }
    }

    /// # Safety
    /// As [`data`].
    unsafe fn children(&self) -> Result<Vec<ArrayData>> {
        // SAFETY: as the caller promises, here and below.
        let child = |index, field: &Field| unsafe { self.child(index, field) };
        match self.data_type {
            DataType::Struct(fields) => {
                fields.iter().enumerate().map(|(at, field)| child(at, field)).collect()
            }
            DataType::Union(fields, _) => {
                fields.iter().enumerate().map(|(at, (_, field))| child(at, field)).collect()
            }
            DataType::RunEndEncoded(ends, values) => Ok(vec![child(0, ends)?, child(1, values)?]),
            DataType::Dictionary(_, values) => {
                let place = self.place.dictionary();
                // SAFETY: as the caller promises.
                Ok(vec![unsafe { data(self.array.dictionary, values, &place, self.owner) }?])
            }
            other => item(other).into_iter().map(|field| child(0, field)).collect(),
        }
    }

    /// A child, which has to be as long as this array needs it.
    ///
    /// # Safety
    /// As [`data`]; `index` is below the number of children.
    unsafe fn child(&self, index: usize, field: &Field) -> Result<ArrayData> {
        let place = self.place.child(index, Some(field.name()));
        // SAFETY: there are as many pointers, as the caller promises; the array of them may have any alignment.
        let child = unsafe { self.array.children.add(index).read_unaligned() };
        // SAFETY: as the caller promises.
        let child = unsafe { data(child, field.data_type(), &place, self.owner) }?;
        let needed = match self.data_type {
            DataType::Struct(_) | DataType::Union(_, UnionMode::Sparse) => Some(self.total),
            DataType::FixedSizeList(_, size) => self.total.checked_mul(*size as usize),
            // What offsets need is looked at with these.
            _ => Some(0),
        };
        if needed.is_none_or(|needed| child.len() < needed) {
            return Err(place.invalid(format!(
                "it has {} elements, too few for {} of {} after an offset of {}",
                child.len(),
                self.length,
                self.data_type,
                self.offset
            )));
        }
        Ok(child)
    }

    /// # Safety
    /// As [`data`]; `index` is below `n_buffers`.
    unsafe fn pointer(&self, index: usize) -> *const c_void {
        // SAFETY: there are as many pointers, as the caller promises; the array of them may have any alignment.
        unsafe { self.array.buffers.add(index).read_unaligned() }
    }

    /// A buffer of so many elements of so many bytes, copied if Rust asks for another alignment.
    ///
    /// # Safety
    /// As [`data`]; `index` is below `n_buffers`.
    unsafe fn buffer(&self, index: usize, count: usize, width: usize, alignment: usize) -> Result<Buffer> {
        let bytes =
            count.checked_mul(width).filter(|bytes| *bytes <= isize::MAX as usize).ok_or_else(|| {
                self.place
                    .invalid(format!("{count} elements of {width} bytes are more than any memory holds"))
            })?;
        if bytes == 0 {
            // The pointer may be anything then.
            return Ok(Buffer::default());
        }
        // SAFETY: as the caller promises.
        let start = unsafe { self.pointer(index) };
        let Some(first) = NonNull::new(start.cast_mut().cast::<u8>()) else {
            return Err(self
                .place
                .invalid(format!("buffers[{index}] is NULL, and {bytes} bytes belong there")));
        };
        if (start as usize).checked_add(bytes).is_none() {
            return Err(self
                .place
                .invalid(format!("buffers[{index}] cannot have {bytes} bytes at {start:p}")));
        }
        if !(start as usize).is_multiple_of(alignment) {
            // SAFETY: the caller promises that so many bytes are there.
            let bytes = unsafe { std::slice::from_raw_parts(first.as_ptr(), bytes) };
            return Ok(Buffer::from_slice_ref(bytes));
        }
        // SAFETY: so many bytes are there, and stay for as long as their owner does.
        Ok(unsafe { Buffer::from_custom_allocation(first, bytes, self.owner.clone()) })
    }

    /// The validity bitmap, its nulls counted; none where there are no nulls.
    ///
    /// # Safety
    /// As [`data`].
    unsafe fn nulls(&self) -> Result<Option<NullBuffer>> {
        let stated = self.array.null_count;
        if !self.validity || stated == 0 || self.length == 0 {
            return Ok(None);
        }
        // SAFETY: types with validity have a first buffer, and the count of buffers was looked at.
        if unsafe { self.pointer(0) }.is_null() {
            if stated > 0 {
                return Err(self.place.invalid(format!(
                    "null_count is {stated}, and there is no validity bitmap (buffers[0] is NULL)"
                )));
            }
            return Ok(None);
        }
        // SAFETY: as above.
        let bits = unsafe { self.buffer(0, self.total.div_ceil(8), 1, 1) }?;
        let nulls = NullBuffer::new(BooleanBuffer::new(bits, self.offset, self.length));
        if stated > 0 && nulls.null_count() as i64 != stated {
            let found = nulls.null_count();
            return Err(self
                .place
                .invalid(format!("null_count is {stated}, and the validity bitmap has {found} nulls"))
                .remedy("set null_count to -1 where it is not known"));
        }
        Ok(Some(nulls).filter(|nulls| nulls.null_count() > 0))
    }

    /// The buffers after the validity bitmap.
    ///
    /// # Safety
    /// As [`data`].
    unsafe fn buffers(&self) -> Result<Vec<Buffer>> {
        let first = usize::from(self.validity);
        let offsets = has_offsets(self.data_type);
        let mut buffers: Vec<Buffer> = Vec::with_capacity(self.specs.len());
        for (at, spec) in self.specs.iter().enumerate() {
            let (count, width, alignment) = match *spec {
                // Without any element there need be no offsets, not even one.
                BufferSpec::FixedWidth { byte_width, alignment } if offsets && at == 0 && self.total > 0 => {
                    (self.total + 1, byte_width, alignment)
                }
                BufferSpec::FixedWidth { byte_width, alignment } => (self.total, byte_width, alignment),
                BufferSpec::BitMap => (self.total.div_ceil(8), 1, 1),
                BufferSpec::VariableWidth => (self.last_offset(&buffers[0])?, 1, 1),
                BufferSpec::AlwaysNull => (0, 1, 1),
            };
            // SAFETY: as the caller promises; there are as many buffers.
            buffers.push(unsafe { self.buffer(first + at, count, width, alignment) }?);
        }
        if self.variadic {
            // SAFETY: as the caller promises.
            unsafe { self.viewed(&mut buffers) }?;
        }
        Ok(buffers)
    }

    /// Where the data ends, by the last of the offsets.
    fn last_offset(&self, offsets: &Buffer) -> Result<usize> {
        let last = match self.data_type {
            _ if self.total == 0 => 0,
            DataType::LargeUtf8 | DataType::LargeBinary => offsets.typed_data::<i64>()[self.total],
            _ => offsets.typed_data::<i32>()[self.total].into(),
        };
        usize::try_from(last)
            .ok()
            .filter(|last| *last <= isize::MAX as usize)
            .ok_or_else(|| self.place.invalid(format!("the last offset is {last}")))
    }

    /// The data buffers of views, whose lengths are in the last buffer.
    ///
    /// # Safety
    /// As [`data`].
    unsafe fn viewed(&self, buffers: &mut Vec<Buffer>) -> Result<()> {
        let first = usize::from(self.validity) + self.specs.len();
        let last = self.array.n_buffers as usize - 1;
        // SAFETY: as the caller promises; `last` is below the number of buffers.
        let lengths = unsafe { self.buffer(last, last - first, size_of::<i64>(), align_of::<i64>()) }?;
        for (index, length) in (first..last).zip(lengths.typed_data::<i64>()) {
            let length = usize::try_from(*length)
                .map_err(|_| self.place.invalid(format!("the length of buffers[{index}] is {length}")))?;
            // SAFETY: as above.
            buffers.push(unsafe { self.buffer(index, length, 1, 1) }?);
        }
        Ok(())
    }
}

/// The type of the only child.
pub(super) fn item(data_type: &DataType) -> Option<&Field> {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => Some(field),
        _ => None,
    }
}

/// Whether the first buffer has one offset more than there are elements.
fn has_offsets(data_type: &DataType) -> bool {
    use DataType::{Binary, LargeBinary, LargeList, LargeUtf8, List, Map, Utf8};
    matches!(data_type, Utf8 | LargeUtf8 | Binary | LargeBinary | List(_) | LargeList(_) | Map(_, _))
}
