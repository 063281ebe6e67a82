//! A record batch as one message: Arrow's IPC stream of a schema, its dictionaries, and the batch.

use super::seen::Seen;
use crate::error::{Error, ErrorKind};
use arrow_array::{RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::Buffer;
use arrow_data::{ArrayData, UnsafeFlag};
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Messages begin and end at multiples of this, so that what is in them is aligned for any type where it lies.
const ALIGNMENT: usize = 64;

/// A batch as pieces of memory that follow one another; those that hold its values are its own memory.
#[derive(Debug)]
pub(super) struct Message {
    pieces: Vec<Buffer>,
}

impl Message {
    /// The message of a batch. Its values are not copied, but for some that begin in the middle of a byte or list.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where IPC cannot say it.
    pub(super) fn of(batch: &RecordBatch) -> crate::Result<Self> {
        let unsaid = |error: ArrowError| {
            Error::unsupported(format!("a record batch as Arrow IPC: {error}"))
                .remedy("leave the column out, or cast it to a plain type")
        };
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).map_err(unsaid)?;
        let mut encoder = StreamEncoder::try_new_with_options(&batch.schema(), options).map_err(unsaid)?;
        let mut pieces = encoder.encode(batch).map_err(unsaid)?;
        pieces.extend(encoder.finish().map_err(unsaid)?);
        Ok(Message { pieces })
    }

    /// How many bytes it has, padding included.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Buffer::len).sum::<usize>().next_multiple_of(ALIGNMENT)
    }

    /// Copies it to where it belongs.
    pub(super) fn write(&self, out: &mut [u8]) {
        self.writer().write(out);
    }

    /// Copies it a part at a time.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer { rest: &[], pieces: self.pieces.iter() }
    }
}

/// Copies a message, a part at a time.
#[derive(Debug)]
pub(super) struct Writer<'m> {
    rest: &'m [u8],
    pieces: std::slice::Iter<'m, Buffer>,
}

impl Writer<'_> {
    /// Copies the next bytes; what follows its end is zeros.
    pub(super) fn write(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.rest.is_empty() {
                match self.pieces.next() {
                    Some(piece) => self.rest = piece,
                    None => return out.fill(0),
                }
            }
            let len = self.rest.len().min(out.len());
            let (part, rest) = self.rest.split_at(len);
            let (into, left) = out.split_at_mut(len);
            into.copy_from_slice(part);
            (self.rest, out) = (rest, left);
        }
    }
}

/// The batch of a message. Its values stay where they are, in memory that the batch keeps.
///
/// # Errors
/// [`Protocol`](ErrorKind::Protocol) where it is none. Never panics, whatever the bytes are.
///
/// ```
/// use ringfold::ErrorKind;
/// use ringfold::arrow::{buffer::Buffer, decode};
/// assert_eq!(decode(Buffer::from(b"no Arrow")).unwrap_err().kind(), ErrorKind::Protocol);
/// ```
pub fn decode(message: Buffer) -> crate::Result<RecordBatch> {
    decode_seen(message, &Seen::default())
}

/// [`decode`] of a message of which something is known already.
pub(super) fn decode_seen(message: Buffer, seen: &Seen) -> crate::Result<RecordBatch> {
    // Arrow's reader returns errors for what it knows can be wrong, and panics for what it does not.
    let read = catch_unwind(AssertUnwindSafe(|| read(message, seen)));
    let broken = |what: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Protocol, format!("a record batch from another rank: {what}"))
    };
    match read {
        Ok(Ok(batch)) => Ok(batch),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&"its parts contradict each other")),
    }
}

fn wrong(what: impl std::fmt::Display) -> ArrowError {
    ArrowError::IpcError(what.to_string())
}

/// What stands ahead of a message's metadata.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Goes through the stream: a schema, dictionaries, one batch.
fn read(message: Buffer, seen: &Seen) -> Result<RecordBatch, ArrowError> {
    let whole = message.clone();
    let mut rest = message;
    let mut schema: Option<SchemaRef> = None;
    let mut dictionaries = HashMap::new();
    let mut take = |len: usize| {
        let part = (len <= rest.len()).then(|| rest.slice_with_length(0, len));
        let part = part.ok_or_else(|| wrong("it ends before its batch"))?;
        rest.advance(len);
        Ok::<_, ArrowError>(part)
    };
    loop {
        let ahead = take(8)?;
        let (marks, len) = ahead.split_at(4);
        if marks != CONTINUATION {
            return Err(wrong("it is no Arrow IPC stream"));
        }
        let metadata = take(u32::from_le_bytes(*len.first_chunk().expect("4 of 8 bytes")) as usize)?;
        if metadata.is_empty() {
            return Err(wrong("there is no batch in it"));
        }
        let message = arrow_ipc::root_as_message(&metadata).map_err(wrong)?;
        let body = take(usize::try_from(message.bodyLength()).map_err(wrong)?)?;
        let header = message.header_type();
        if let Some(told) = message.header_as_schema() {
            is_as_long_as_it_says(told, metadata.len())?;
            schema = Some(Arc::new(arrow_ipc::convert::try_fb_to_schema(told)?));
            continue;
        }
        let schema = schema.clone().ok_or_else(|| wrong("it does not begin with its schema"))?;
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            if dictionary.isDelta() {
                return Err(wrong("a dictionary that goes on in another message"));
            }
            has_room_for(dictionary.data(), &body)?;
            read_dictionary(&body, dictionary, &schema, &mut dictionaries, &message.version())?;
        } else if let Some(batch) = message.header_as_record_batch() {
            has_room_for(Some(batch), &body)?;
            let version = message.version();
            let decoder = RecordBatchDecoder::try_new(&body, batch, schema, &dictionaries, &version)?;
            let mut unchecked = UnsafeFlag::new();
            // SAFETY: nothing of the batch is looked at before `check` has found it sound, and where it is not, it is dropped.
            unsafe { unchecked.set(true) };
            let batch = decoder.with_skip_validation(unchecked).read_record_batch()?;
            let columns = batch.columns().iter().map(|column| {
                let data = column.to_data();
                check(&data, &whole, seen)?;
                Ok::<_, ArrowError>(make_array(data)) // within structs, too, all are of one length then
            });
            let columns = columns.collect::<Result<_, _>>()?;
            // That the columns are those of the schema, and of one length, has not been looked at either.
            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            return RecordBatch::try_new_with_options(batch.schema(), columns, &rows);
        } else {
            return Err(wrong(format!("a message of type {header:?} in it")));
        }
    }
}

/// Fails where a schema is larger than the metadata that it came in. A field can be referred to from many places, each of which
/// would become a field of its own.
fn is_as_long_as_it_says(schema: arrow_ipc::Schema<'_>, metadata: usize) -> Result<(), ArrowError> {
    let mut left = metadata;
    let mut fields = schema.fields().into_iter().flatten();
    let fits = take_texts(schema.custom_metadata(), &mut left)
        .and_then(|()| fields.try_for_each(|field| take_field(field, &mut left)));
    fits.ok_or_else(|| wrong("its schema is larger than its message"))
}

/// Takes from what is left the least that a field needs, and those within it.
fn take_field(field: arrow_ipc::Field<'_>, left: &mut usize) -> Option<()> {
    let zone = field.type_as_timestamp().and_then(|timestamp| timestamp.timezone());
    let texts = field.name().map_or(0, str::len) + zone.map_or(0, str::len);
    *left = left.checked_sub(TABLE + texts)?;
    take_texts(field.custom_metadata(), left)?;
    field.children().into_iter().flatten().try_for_each(|child| take_field(child, left))
}

fn take_texts<'a>(
    pairs: Option<impl IntoIterator<Item = arrow_ipc::KeyValue<'a>>>,
    left: &mut usize,
) -> Option<()> {
    pairs.into_iter().flatten().try_for_each(|pair| {
        let texts = pair.key().map_or(0, str::len) + pair.value().map_or(0, str::len);
        *left = left.checked_sub(TABLE + texts)?;
        Some(())
    })
}

/// The fewest bytes of a table in metadata: where it is, and where its layout is.
const TABLE: usize = 8;

/// Fails where the buffers of a batch are more than its body has: those that lie over each other could become copies that are more
/// than there is memory.
fn has_room_for(batch: Option<arrow_ipc::RecordBatch<'_>>, body: &Buffer) -> Result<(), ArrowError> {
    let mut buffers = batch.and_then(|batch| batch.buffers()).into_iter().flatten();
    let all = buffers.try_fold(0usize, |all, buffer| all.checked_add(usize::try_from(buffer.length()).ok()?));
    if all.is_none_or(|all| all > body.len()) {
        return Err(wrong("its buffers are longer than its body"));
    }
    Ok(())
}

/// What Arrow's own check finds, sooner for the strings that are most of what tables hold.
fn check(array: &ArrayData, message: &[u8], seen: &Seen) -> Result<(), ArrowError> {
    let quick = match array.data_type() {
        DataType::Utf8 => is_plain_text(array, message, seen)?,
        _ => false,
    };
    if quick {
        return array.validate_nulls();
    }
    if let (DataType::FixedSizeList(item, width), Some(_)) = (array.data_type(), array.nulls()) {
        // Of items that may not be null, the check makes a bitmap, also where they have no size.
        let items = usize::try_from(*width).ok().and_then(|width| width.checked_mul(array.len()));
        if !item.is_nullable() && items.is_none_or(|items| items / 64 > message.len()) {
            return Err(wrong("lists of more items than there are bytes"));
        }
    }
    if let DataType::ListView(item) | DataType::LargeListView(item) = array.data_type() {
        // Which Arrow's check does not look at, and those who make such arrays do.
        let nulls = array.child_data().iter().any(|items| items.null_count() > 0);
        if nulls && !item.is_nullable() {
            return Err(wrong("items that are null and may not be"));
        }
    }
    array.validate_data()?;
    array.child_data().iter().try_for_each(|child| check(child, message, seen))
}

/// Whether strings that lie in a message are sound and of ASCII, where every offset is the end of a character.
fn is_plain_text(array: &ArrayData, message: &[u8], seen: &Seen) -> Result<bool, ArrowError> {
    const OFFSET: usize = size_of::<i32>();
    array.validate()?;
    let [offsets, values] = array.buffers() else { return Ok(false) };
    if array.is_empty() || array.offset() > 0 {
        return Ok(false);
    }
    let Some(ends) = offsets.get(..(array.len() + 1) * OFFSET) else { return Ok(false) };
    let end = |at: usize| {
        let offset = ends[at * OFFSET..].first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
        offset.and_then(|offset| usize::try_from(offset).ok())
    };
    let span = end(0).zip(end(array.len())).and_then(|(start, end)| values.get(start..end));
    let (Some(ends), Some(span)) = (within(message, ends), span.and_then(|span| within(message, span)))
    else {
        return Ok(false);
    };
    Ok(seen.ascends(message, ends) && seen.is_ascii(message, span))
}

/// Where a part of a message is in it.
fn within(message: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(message.as_ptr().addr())?;
    (start + part.len() <= message.len()).then_some(start..start + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::record_batch;

    #[test]
    fn a_batch_comes_back_and_its_values_are_not_copied() {
        let batch =
            record_batch!(("a", Int32, [1, 2, 3]), ("b", Utf8, [Some("x"), None, Some("yz")])).unwrap();
        let message = Message::of(&batch).unwrap();
        let mut bytes = arrow_buffer::MutableBuffer::from_len_zeroed(message.len());
        message.write(&mut bytes);
        let bytes = Buffer::from(bytes);
        let again = decode(bytes.clone()).unwrap();
        assert_eq!(again, batch);
        let values = again.column(0).to_data().buffers()[0].as_ptr();
        assert!(bytes.as_slice().as_ptr_range().contains(&values));
        for cut in 0..bytes.len() {
            // All of it is needed but for the padding and the end that is marked.
            if let Ok(batch) = decode(bytes.slice_with_length(0, cut)) {
                assert_eq!(batch, again, "cut at {cut} of {}", bytes.len());
            }
        }
    }

    fn bytes(batch: &RecordBatch) -> Vec<u8> {
        let message = Message::of(batch).unwrap();
        let mut bytes = vec![0; message.len()];
        message.write(&mut bytes);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        let error = decode(Buffer::from(bytes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        error.message().to_owned()
    }

    /// Where the messages of a stream begin: their metadata and their bodies.
    fn parts(bytes: &[u8]) -> Vec<(usize, usize)> {
        let (mut at, mut parts) = (0, Vec::new());
        while bytes.get(at..at + 4) == Some(&CONTINUATION) {
            let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            if len == 0 {
                break;
            }
            let metadata = &bytes[at + 8..at + 8 + len];
            parts.push((at + 8, at + 8 + len));
            at += 8 + len + arrow_ipc::root_as_message(metadata).unwrap().bodyLength() as usize;
        }
        parts
    }

    /// Where in `bytes` a part of them is.
    fn place(bytes: &[u8], part: &[u8]) -> usize {
        part.as_ptr().addr() - bytes.as_ptr().addr()
    }

    #[test]
    fn rows_that_columns_do_not_have_are_refused() {
        let rows = 77;
        let batch = record_batch!(("a", Int64, vec![1; rows]), ("b", Int64, vec![2; rows])).unwrap();
        let bytes = bytes(&batch);
        let told: Vec<usize> = (0..bytes.len())
            .step_by(8)
            .filter(|&at| bytes[at..at + 8] == (rows as u64).to_le_bytes())
            .collect();
        assert!(told.len() >= 3, "of the batch and of each column: {told:?}");
        for at in told {
            for lie in [rows as u64 - 1, rows as u64 + 1, 0, u64::MAX, 1 << 61] {
                let mut bytes = bytes.clone();
                bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
                refusal(&bytes);
            }
        }
    }

    #[test]
    fn lists_that_lie_outside_their_values_are_refused() {
        use arrow_array::{ArrayRef, ListViewArray, types::Int32Type};
        let lists = [Some(vec![Some(70), Some(71)]), Some(vec![Some(72), Some(73), Some(74)])];
        let lists = ListViewArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let batch = RecordBatch::try_from_iter([("lists", Arc::new(lists) as ArrayRef)]).unwrap();
        let sound = bytes(&batch);
        assert_eq!(decode(Buffer::from(&sound[..])).unwrap(), batch);
        for ends in [[0u32, 2], [2, 3]] {
            let both: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
            let (_, body) = parts(&sound)[1];
            let at = body + sound[body..].windows(8).position(|window| window == both).unwrap();
            for wrong in [6, i32::MAX as u32, u32::MAX] {
                let mut lie = sound.clone();
                lie[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
                refusal(&lie);
            }
        }
    }

    #[test]
    fn a_message_does_not_grow_when_it_is_read() {
        let name = "long".repeat(200);
        let columns = record_batch!(("a", Int64, [1]), ("b", Int64, [2]), ("c", Int64, [3])).unwrap();
        let schema = arrow_schema::Schema::new(vec![
            arrow_schema::Field::new(&name, DataType::Int64, true),
            columns.schema().field(1).clone(),
            columns.schema().field(2).clone(),
        ]);
        let batch = RecordBatch::try_new(Arc::new(schema), columns.columns().to_vec()).unwrap();
        let sound = bytes(&batch);
        assert_eq!(decode(Buffer::from(&sound[..])).unwrap(), batch);
        let [(schema, schema_end), (header, body)] = parts(&sound)[..] else { panic!("two messages") };

        // Every field is the one with the long name.
        let mut lie = sound.clone();
        let message = arrow_ipc::root_as_message(&sound[schema..schema_end]).unwrap();
        let fields = place(&sound, message.header_as_schema().unwrap().fields().unwrap().bytes());
        let first = u32::from_le_bytes(sound[fields..fields + 4].try_into().unwrap());
        for at in [1u32, 2] {
            lie[fields + 4 * at as usize..][..4].copy_from_slice(&(first - 4 * at).to_le_bytes());
        }
        assert!(refusal(&lie).contains("its schema is larger than its message"));

        // Every buffer is the whole body.
        let mut lie = sound.clone();
        let message = arrow_ipc::root_as_message(&sound[header..body]).unwrap();
        let buffers = place(&sound, message.header_as_record_batch().unwrap().buffers().unwrap().bytes());
        for at in 0..6 {
            lie[buffers + 16 * at..][..8].fill(0);
            lie[buffers + 16 * at + 8..][..8].copy_from_slice(&message.bodyLength().to_le_bytes());
        }
        assert!(refusal(&lie).contains("its buffers are longer than its body"));
    }

    #[test]
    fn a_dictionary_in_several_messages_is_refused() {
        use arrow_array::{ArrayRef, DictionaryArray, types::Int8Type};
        use arrow_ipc::writer::DictionaryHandling;
        let batch = |words: &[&str]| {
            let keys: DictionaryArray<Int8Type> = words.iter().copied().map(Some).collect();
            RecordBatch::try_from_iter([("key", Arc::new(keys) as ArrayRef)]).unwrap()
        };
        let (one, two) = (batch(&["a", "b"]), batch(&["a", "b", "c"]));
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).unwrap();
        let options = options.with_dictionary_handling(DictionaryHandling::Delta);
        let mut encoder = StreamEncoder::try_new_with_options(&one.schema(), options).unwrap();
        let mut joined = |batch: &RecordBatch| -> Vec<u8> {
            encoder.encode(batch).unwrap().iter().flat_map(|piece| piece.iter().copied()).collect()
        };
        let (first, second) = (joined(&one), joined(&two));
        let stream = [&first[..parts(&first)[2].0 - 8], &second].concat();
        assert!(refusal(&stream).contains("goes on in another message"));
    }

    /// Words of a message that are anything: an error, or a batch that is sound.
    #[test]
    fn what_contradicts_itself_is_refused() {
        let words = vec![Some("x"), None, Some("ünï"), Some("a longer one")];
        let batch =
            record_batch!(("a", Int32, [1, 2, 3, 4]), ("b", Utf8, words.clone()), ("c", Utf8View, words))
                .unwrap();
        let sound = bytes(&batch);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut refused, mut taken) = (0, 0);
        for _ in 0..20_000 {
            let mut lie = sound.clone();
            for _ in 0..random.usize(1..3) {
                let at = random.usize(..lie.len() / 8) * 8;
                let word = [random.u64(..6), u64::MAX - random.u64(..6), random.u64(..) >> random.u8(..64)];
                lie[at..at + 8].copy_from_slice(&word[random.usize(..3)].to_le_bytes());
            }
            match decode(Buffer::from(lie)) {
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Protocol);
                }
                Ok(batch) => {
                    taken += 1;
                    for column in batch.columns() {
                        assert_eq!(column.len(), batch.num_rows());
                        column.to_data().validate_full().unwrap();
                    }
                }
            }
        }
        assert!(refused > 1000 && taken > 1000, "{refused} refused, {taken} taken");
    }

    /// Bytes that no string is made of, and offsets that lead nowhere, are found in the quick check and in the other.
    #[test]
    fn strings_that_are_none_are_refused() {
        let sound = ["plain", "text", "of", "ascii"];
        let other = ["plain", "text", "of", "ünïcode"];
        for words in [sound, other] {
            let batch = record_batch!(("word", Utf8, words.to_vec())).unwrap();
            let bytes = bytes(&batch);
            let at = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
            let (values, offsets) = (at(b"plaintext"), at(&[0, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0]));
            for (place, value) in
                [(values, 0xff), (offsets + 4, 200), (offsets + 7, 0x80), (offsets + 4, 10), (offsets, 1)]
            {
                let mut lie = bytes.clone();
                lie[place] = value;
                let decoded = decode(Buffer::from(lie));
                match decoded {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Protocol),
                    // The first string may begin later.
                    Ok(batch) => {
                        assert_eq!((place, batch.column(0).as_string::<i32>().value(0)), (offsets, "lain"))
                    }
                }
            }
            assert_eq!(decode(Buffer::from(bytes)).unwrap(), batch);
        }
    }
}
