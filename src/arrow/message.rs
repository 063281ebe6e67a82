//! A record batch as one message: Arrow's IPC stream of a schema, its dictionaries, and the batch.

use super::seen::Seen;
use crate::error::{Error, ErrorKind};
use arrow_array::RecordBatch;
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
            schema = Some(Arc::new(arrow_ipc::convert::try_fb_to_schema(told)?));
            continue;
        }
        let schema = schema.clone().ok_or_else(|| wrong("it does not begin with its schema"))?;
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            read_dictionary(&body, dictionary, &schema, &mut dictionaries, &message.version())?;
        } else if let Some(batch) = message.header_as_record_batch() {
            let version = message.version();
            let decoder = RecordBatchDecoder::try_new(&body, batch, schema, &dictionaries, &version)?;
            let mut unchecked = UnsafeFlag::new();
            // SAFETY: nothing of the batch is looked at before `check` has found it sound, and where it is not, it is dropped.
            unsafe { unchecked.set(true) };
            let batch = decoder.with_skip_validation(unchecked).read_record_batch()?;
            batch.columns().iter().try_for_each(|column| check(&column.to_data(), &whole, seen))?;
            return Ok(batch);
        } else {
            return Err(wrong(format!("a message of type {header:?} in it")));
        }
    }
}

/// What Arrow's own check finds, sooner for the strings that are most of what tables hold.
fn check(array: &ArrayData, message: &[u8], seen: &Seen) -> Result<(), ArrowError> {
    let quick = match array.data_type() {
        DataType::Utf8 => is_plain_text(array, message, seen)?,
        _ => false,
    };
    if quick { array.validate_nulls() } else { array.validate_full() }
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

    /// Bytes that no string is made of, and offsets that lead nowhere, are found in the quick check and in the other.
    #[test]
    fn strings_that_are_none_are_refused() {
        let sound = ["plain", "text", "of", "ascii"];
        let other = ["plain", "text", "of", "ünïcode"];
        for words in [sound, other] {
            let batch = record_batch!(("word", Utf8, words.to_vec())).unwrap();
            let message = Message::of(&batch).unwrap();
            let mut bytes = vec![0; message.len()];
            message.write(&mut bytes);
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
