//! The handwritten digits: reading them, splitting them, sharing them out.
//!
//! They stay the Arrow arrays that they are in the file: a rank's share is a slice of these, which copies nothing.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ringfold::arrow::array::cast::AsArray;
use ringfold::arrow::array::types::UInt8Type;
use ringfold::arrow::array::{Array, BooleanArray, RecordBatch};
use ringfold::arrow::ipc::reader::FileReader;
use ringfold::arrow::schema::{ArrowError, DataType, Schema};
use ringfold::arrow::select::{concat::concat_batches, filter::filter_record_batch};

/// Pixels in one image: 8 by 8.
pub(crate) const PIXELS: usize = 64;

/// Digits to tell apart.
pub(crate) const CLASSES: usize = 10;

/// The darkest that a pixel can be.
pub(crate) const PIXEL_MAX: u8 = 16;

/// One row in this many is kept for testing.
const TEST_EVERY: usize = 5;

/// Why a file of digits could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },

    #[error("{} is not a readable Arrow IPC file", path.display())]
    Read { path: PathBuf, source: ArrowError },

    #[error("{} has no column `{column}`, which should be {expected}", path.display())]
    NoColumn { path: PathBuf, column: &'static str, expected: &'static str },

    #[error("column `{column}` of {} is {found}, not {expected}", path.display())]
    WrongColumn { path: PathBuf, column: &'static str, expected: &'static str, found: DataType },

    #[error("column `{column}` of {} has nulls in record batch {batch}", path.display())]
    Nulls { path: PathBuf, column: &'static str, batch: usize },

    #[error("row {row} of {} has a value {found} in column `{column}`, more than {most}", path.display())]
    Value { path: PathBuf, row: usize, column: &'static str, found: u8, most: u8 },

    #[error("{} has no rows", path.display())]
    Empty { path: PathBuf },
}

/// Images and the digits they show: a column of images, each a list of [`PIXELS`] values up to [`PIXEL_MAX`], and a column of
/// digits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Digits(RecordBatch);

/// Where the two columns are in a [`Digits`].
const IMAGES: usize = 0;
const LABELS: usize = 1;

/// Digits divided for training and testing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Split {
    pub(crate) train: Digits,
    pub(crate) test: Digits,
}

impl Digits {
    /// Reads the Arrow IPC file at `path`.
    ///
    /// The file needs a column `pixels` of 64 bytes a row, each at most 16, and a column `label` of one byte
    /// a row, at most 9. Other columns are ignored.
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| DataError::Open { path: path.into(), source })?;
        Self::read_from(BufReader::new(file), path)
    }

    /// As [`Digits::read`], from any source; `path` is what errors call it.
    fn read_from(source: impl Read + Seek, path: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read { path: path.into(), source };
        let reader = FileReader::try_new(source, None).map_err(unreadable)?;
        let columns = columns(&reader.schema(), path)?;

        let (mut batches, mut rows) = (Vec::new(), 0);
        for (index, batch) in reader.enumerate() {
            let batch = batch.and_then(|batch| batch.project(&columns)).map_err(unreadable)?;
            check(&batch, index, rows, path)?;
            rows += batch.num_rows();
            batches.push(batch);
        }
        let Some(first) = batches.first().filter(|_| rows > 0) else {
            return Err(DataError::Empty { path: path.into() });
        };
        // A file of one batch is used where it was read.
        Ok(Self(concat_batches(&first.schema(), &batches).map_err(unreadable)?))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// Each image with the digit it shows.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8; PIXELS], u8)> {
        let (images, rest) = self.pixels().as_chunks();
        debug_assert!(rest.is_empty());
        images.iter().zip(self.labels().iter().copied())
    }

    /// The pixels of all images, one image after the other.
    fn pixels(&self) -> &[u8] {
        self.0.column(IMAGES).as_fixed_size_list().values().as_primitive::<UInt8Type>().values()
    }

    fn labels(&self) -> &[u8] {
        self.0.column(LABELS).as_primitive::<UInt8Type>().values()
    }

    /// Rows 0, 5, 10 and so on to test with, the others to train on, both in the file's order.
    pub(crate) fn split(&self) -> Result<Split, ArrowError> {
        let part = |of_test: bool| {
            let chosen: Vec<bool> = (0..self.len()).map(|row| (row % TEST_EVERY == 0) == of_test).collect();
            filter_record_batch(&self.0, &BooleanArray::from(chosen)).map(Self)
        };
        Ok(Split { train: part(false)?, test: part(true)? })
    }

    /// The rows that `rank` of `world` works on, where they lie.
    ///
    /// The shares are contiguous, in rank order, disjoint and together everything; their sizes differ by at
    /// most one. With more ranks than rows the last ranks get none.
    ///
    /// # Panics
    ///
    /// If `rank` is not below `world`.
    pub(crate) fn share(&self, rank: usize, world: usize) -> Self {
        let rows = share_of(self.len(), rank, world);
        Self(self.0.slice(rows.start, rows.len()))
    }
}

/// The part of `0..rows` that falls to `rank` of `world`.
fn share_of(rows: usize, rank: usize, world: usize) -> Range<usize> {
    assert!(rank < world, "rank {rank} is not one of {world}");
    let (each, extra) = (rows / world, rows % world);
    let start = rank * each + rank.min(extra);
    start..start + each + usize::from(rank < extra)
}

/// Where the file has images and digits, in this order.
fn columns(schema: &Schema, path: &Path) -> Result<[usize; 2], DataError> {
    let find = |column, expected, fits: fn(&DataType) -> bool| {
        let (index, field) = schema.column_with_name(column).ok_or_else(|| DataError::NoColumn {
            path: path.into(),
            column,
            expected,
        })?;
        let found = field.data_type();
        if !fits(found) {
            return Err(DataError::WrongColumn { path: path.into(), column, expected, found: found.clone() });
        }
        Ok(index)
    };
    Ok([
        find(
            "pixels",
            "a FixedSizeList of 64 UInt8",
            |found| matches!(found, DataType::FixedSizeList(item, 64) if *item.data_type() == DataType::UInt8),
        )?,
        find("label", "UInt8", |found| *found == DataType::UInt8)?,
    ])
}

/// Fails where a record batch of the two columns, which `rows` rows come before, has nulls or values that are too large.
fn check(batch: &RecordBatch, index: usize, rows: usize, path: &Path) -> Result<(), DataError> {
    let images = batch.column(IMAGES).as_fixed_size_list();
    let pixels = images.values().as_primitive::<UInt8Type>();
    let labels = batch.column(LABELS).as_primitive::<UInt8Type>();

    let nulls = |column| DataError::Nulls { path: path.into(), column, batch: index };
    if images.null_count() + pixels.null_count() > 0 {
        return Err(nulls("pixels"));
    }
    if labels.null_count() > 0 {
        return Err(nulls("label"));
    }

    let too_much = |offset, column, found, most| DataError::Value {
        path: path.into(),
        row: rows + offset,
        column,
        found,
        most,
    };
    let (pixels, labels) = (pixels.values(), labels.values());
    if let Some(at) = pixels.iter().position(|&pixel| pixel > PIXEL_MAX) {
        return Err(too_much(at / PIXELS, "pixels", pixels[at], PIXEL_MAX));
    }
    let label_max = CLASSES as u8 - 1;
    if let Some(at) = labels.iter().position(|&label| label > label_max) {
        return Err(too_much(at, "label", labels[at], label_max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io::Cursor;
    use std::sync::Arc;

    use ringfold::arrow::array::{ArrayRef, FixedSizeListArray, UInt8Array, UInt16Array};
    use ringfold::arrow::ipc::writer::FileWriter;
    use ringfold::arrow::schema::Field;

    use super::*;

    fn images(pixels: UInt8Array, width: i32) -> ArrayRef {
        let item = Arc::new(Field::new("item", DataType::UInt8, true));
        Arc::new(FixedSizeListArray::new(item, width, Arc::new(pixels), None))
    }

    fn file(batches: &[RecordBatch]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = FileWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
        for batch in batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        drop(writer);
        bytes
    }

    fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
        RecordBatch::try_from_iter(columns.iter().cloned()).unwrap()
    }

    fn digits(rows: usize) -> [(&'static str, ArrayRef); 2] {
        let pixels = (0..rows * PIXELS).map(|i| (i % 17) as u8).collect::<Vec<_>>();
        let labels = (0..rows).map(|i| (i % CLASSES) as u8).collect::<Vec<_>>();
        [("pixels", images(pixels.into(), 64)), ("label", Arc::new(UInt8Array::from(labels)))]
    }

    fn read(bytes: Vec<u8>) -> Result<Digits, DataError> {
        Digits::read_from(Cursor::new(bytes), Path::new("some.arrow"))
    }

    fn refusal(columns: &[(&str, ArrayRef)]) -> String {
        read(file(&[batch(columns)])).unwrap_err().to_string()
    }

    fn stored() -> Digits {
        Digits::read(Path::new(crate::DATA)).unwrap()
    }

    #[test]
    fn the_stored_file_holds_the_published_test_set() {
        let set = stored();
        assert_eq!(set.len(), 1797);
        assert_eq!(set.labels().len(), 1797);
        assert_eq!(set.pixels().len(), 1797 * PIXELS);
        let count = |digit| set.labels().iter().filter(|&&label| label == digit).count();
        let counts: Vec<_> = (0..10).map(count).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);

        // The first and the last image.
        let top = |row: usize| &set.pixels()[row * PIXELS..][..8];
        assert_eq!(top(0), [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!(top(1796), [0, 0, 10, 14, 8, 1, 0, 0]);
        assert_eq!((set.labels()[0], set.labels()[1796]), (0, 8));
    }

    #[test]
    fn batches_follow_one_another() {
        let set = read(file(&[batch(&digits(3)), batch(&digits(2))])).unwrap();
        assert_eq!(set.len(), 5);
        assert_eq!(set.labels(), [0, 1, 2, 0, 1]);
        assert_eq!(set.pixels()[..3], [0, 1, 2]);
        assert_eq!(set.pixels()[3 * PIXELS..], set.pixels()[..2 * PIXELS]);
    }

    #[test]
    fn other_columns_and_another_order_do_not_matter() {
        let [pixels, label] = digits(4);
        let extra = ("writer", Arc::new(UInt16Array::from(vec![7; 4])) as ArrayRef);
        let plain = read(file(&[batch(&[pixels.clone(), label.clone()])])).unwrap();
        assert_eq!(read(file(&[batch(&[label, extra, pixels])])).unwrap(), plain);
    }

    #[test]
    fn a_missing_file_is_named() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/no-such.arrow");
        let error = Digits::read(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open {}", path.display()));
        let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        for bytes in [Vec::new(), b"0,0,5,13,9,1\n".repeat(40)] {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.to_string(), "some.arrow is not a readable Arrow IPC file");
            assert!(error.source().is_some());
        }
        let mut cut = file(&[batch(&digits(3))]);
        cut.truncate(cut.len() - 20);
        assert!(matches!(read(cut), Err(DataError::Read { .. })));
    }

    #[test]
    fn a_wrong_schema_is_refused_with_the_column() {
        let [pixels, label] = digits(2);
        assert_eq!(
            refusal(std::slice::from_ref(&label)),
            "some.arrow has no column `pixels`, which should be a FixedSizeList of 64 UInt8",
        );
        assert_eq!(
            refusal(std::slice::from_ref(&pixels)),
            "some.arrow has no column `label`, which should be UInt8",
        );
        let narrow = ("pixels", images(vec![0; 2 * 63].into(), 63));
        let message = refusal(&[narrow, label]);
        assert!(message.starts_with("column `pixels` of some.arrow is FixedSizeList("), "{message}");
        assert!(message.ends_with(", not a FixedSizeList of 64 UInt8"), "{message}");
        let wide = ("label", Arc::new(UInt16Array::from(vec![0, 1])) as ArrayRef);
        assert_eq!(refusal(&[pixels, wide]), "column `label` of some.arrow is UInt16, not UInt8");
    }

    #[test]
    fn nulls_and_values_out_of_range_are_refused() {
        let [pixels, label] = digits(2);
        let mut some = vec![Some(0); 2 * PIXELS];
        some[70] = None;
        let holes = ("pixels", images(some.into(), 64));
        assert_eq!(
            refusal(&[holes, label.clone()]),
            "column `pixels` of some.arrow has nulls in record batch 0"
        );
        let holes = ("label", Arc::new(UInt8Array::from(vec![Some(1), None])) as ArrayRef);
        assert_eq!(
            refusal(&[pixels.clone(), holes]),
            "column `label` of some.arrow has nulls in record batch 0"
        );

        let mut dark = vec![0; 2 * PIXELS];
        dark[70] = 17;
        assert_eq!(
            refusal(&[("pixels", images(dark.into(), 64)), label]),
            "row 1 of some.arrow has a value 17 in column `pixels`, more than 16"
        );
        let eleven = ("label", Arc::new(UInt8Array::from(vec![9, 10])) as ArrayRef);
        assert_eq!(
            refusal(&[pixels, eleven]),
            "row 1 of some.arrow has a value 10 in column `label`, more than 9"
        );
        assert_eq!(refusal(&digits(0)), "some.arrow has no rows");
    }

    #[test]
    fn every_fifth_row_is_for_testing() {
        let Split { train, test } = read(file(&[batch(&digits(12))])).unwrap().split().unwrap();
        assert_eq!(test.labels(), [0, 5, 0]);
        assert_eq!(train.labels(), [1, 2, 3, 4, 6, 7, 8, 9, 1]);
        assert_eq!((train.len(), test.len()), (9, 3));

        let set = stored();
        let Split { train, test } = set.split().unwrap();
        assert_eq!((train.len(), test.len()), (1437, 360));
        assert_eq!(test.pixels()[PIXELS..2 * PIXELS], set.pixels()[5 * PIXELS..6 * PIXELS]);
        assert_eq!(train.pixels()[4 * PIXELS..5 * PIXELS], set.pixels()[6 * PIXELS..7 * PIXELS]);
    }

    #[test]
    fn shares_are_even_and_cover_every_row_once() {
        for rows in [0, 1, 7, 1437] {
            for world in [1, 2, 3, 4, 7, 8, 64, 1437, 2000] {
                let shares: Vec<_> = (0..world).map(|rank| share_of(rows, rank, world)).collect();
                assert_eq!((shares[0].start, shares[world - 1].end), (0, rows));
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
                let sizes = || shares.iter().map(Range::len);
                assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1, "{rows} over {world}");
            }
        }
    }

    #[test]
    fn a_share_keeps_images_and_labels_together() {
        let set = read(file(&[batch(&digits(11))])).unwrap();
        let whole: Vec<_> = set.iter().collect();
        let shares: Vec<_> = (0..3).map(|rank| set.share(rank, 3)).collect();
        let parts: Vec<_> = shares.iter().flat_map(Digits::iter).collect();
        assert_eq!(parts, whole);
        assert_eq!(shares[0].len(), 4);
        // Where the images are, and not a copy.
        assert!(parts.iter().zip(&whole).all(|((part, _), (image, _))| std::ptr::eq(*part, *image)));
    }

    #[test]
    #[should_panic = "rank 3 is not one of 3"]
    fn a_rank_outside_the_world_has_no_share() {
        share_of(10, 3, 3);
    }
}
