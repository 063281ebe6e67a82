//! A record batch as one message: Arrow's IPC stream of a schema, its dictionaries, and the batch.

use crate::error::{Error, ErrorKind, Result};
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow_schema::ArrowError;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    pub(super) fn of(batch: &RecordBatch) -> Result<Self> {
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
        let mut rest = out;
        for piece in &self.pieces {
            rest.split_off_mut(..piece.len()).expect("there is room for it").copy_from_slice(piece);
        }
        rest.fill(0);
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
pub fn decode(message: Buffer) -> Result<RecordBatch> {
    let broken = |what: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Protocol, format!("a record batch from another rank: {what}"))
    };
    let read = || {
        let mut rest = message;
        let mut decoder = StreamDecoder::new();
        while !rest.is_empty() {
            if let Some(batch) = decoder.decode(&mut rest)? {
                return Ok(batch);
            }
        }
        Err(ArrowError::IpcError("it ends before its batch".to_owned()))
    };
    // Arrow's reader returns errors for what it knows can be wrong, and panics for what it does not.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(batch)) => Ok(batch),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&"its parts contradict each other")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
