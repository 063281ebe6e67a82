//! Tables as another rank sends them, or as nobody should: reading a message neither panics nor reads what is not there nor takes
//! more memory than the message has, whatever it claims; and what comes out of it is sound.
//!
//! The first byte chooses a message that is sound, which the rest changes in places, or that the rest is the message as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::arrow::array::builder::{Int32Builder, MapBuilder, StringBuilder};
use ringfold::arrow::array::types::{Int8Type, Int16Type, Int32Type};
use ringfold::arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
    Float32Array, Int8Array, Int64Array, LargeStringArray, ListArray, ListViewArray, NullArray, RecordBatch,
    RecordBatchOptions, RunArray, StringArray, StringViewArray, StructArray, UnionArray,
};
use ringfold::arrow::buffer::Buffer;
use ringfold::arrow::decode;
use ringfold::arrow::ipc::MetadataVersion;
use ringfold::arrow::ipc::writer::{IpcWriteOptions, StreamEncoder};
use ringfold::arrow::schema::{DataType, Field, Schema, UnionFields};
use ringfold::arrow::select::concat::concat;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

static MESSAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

/// Arrow's reader panics where parts of a message contradict each other, and `decode` catches that. The fuzzer's hook would end the
/// process all the same, so it hears of no panic within `decode`, and of every other one.
fn let_decode_catch_panics() {
    let ends_the_process = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !READING.get() {
            ends_the_process(panic);
        }
    }));
}

fn numbers() -> RecordBatch {
    let pairs = Float32Array::from_iter((0..8).map(|at| (at != 3).then_some(at as f32)));
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let flags: BooleanArray = [Some(true), None, Some(false), Some(true)].into_iter().collect();
    let prices = Decimal128Array::from(vec![Some(1), Some(-2), None, Some(3)]);
    table(vec![
        ("long", Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]))),
        ("pair", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(pairs), None))),
        ("flag", Arc::new(flags)),
        ("price", Arc::new(prices)),
        ("nothing", Arc::new(NullArray::new(4))),
    ])
}

fn words() -> RecordBatch {
    let words = || [Some("plain"), None, Some("ünïcode"), Some("longer than is kept in a view")].into_iter();
    let views: BinaryViewArray = words().map(|word| word.map(str::as_bytes)).collect();
    table(vec![
        ("word", Arc::new(StringArray::from_iter(words()))),
        ("long", Arc::new(LargeStringArray::from_iter(words()))),
        ("view", Arc::new(StringViewArray::from_iter(words()))),
        ("bytes", Arc::new(views)),
        ("key", Arc::new(words().collect::<DictionaryArray<Int8Type>>())),
    ])
}

fn nested() -> RecordBatch {
    let lists = || [Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(3)])];
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for row in 0..4 {
        map.keys().append_value(format!("k{row}"));
        map.values().append_value(row);
        map.append(row != 2).expect("one key, one value");
    }
    let word = Arc::new(Field::new("word", DataType::Utf8, true));
    let key = DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8));
    let key = Arc::new(Field::new("key", key, true));
    let keys: DictionaryArray<Int16Type> = ["a", "b", "a", "b"].into_iter().collect();
    let words = StringArray::from(vec![Some("x"), None, Some("y"), None]);
    let columns: Vec<(Arc<Field>, ArrayRef)> = vec![(word, Arc::new(words)), (key, Arc::new(keys))];
    table(vec![
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists()))),
        ("view", Arc::new(ListViewArray::from_iter_primitive::<Int32Type, _, _>(lists()))),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(StructArray::from(columns))),
    ])
}

fn unions_and_runs() -> RecordBatch {
    let fields = |ids: [i8; 2]| {
        let fields = [("small", DataType::Int8), ("word", DataType::Utf8)];
        UnionFields::try_new(ids, fields.map(|(name, kind)| Field::new(name, kind, true))).expect("two fields")
    };
    let small: ArrayRef = Arc::new(Int8Array::from(vec![1, 2, 3, 4]));
    let word: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let union = |ids: [i8; 2], types: [i8; 4], offsets: Option<[i32; 4]>| {
        let offsets = offsets.map(|offsets| offsets.to_vec().into());
        let children = vec![small.clone(), word.clone()];
        UnionArray::try_new(fields(ids), types.to_vec().into(), offsets, children).expect("a sound union")
    };
    let runs: RunArray<Int32Type> = ["a", "a", "b", "b"].into_iter().collect();
    table(vec![
        ("sparse", Arc::new(union([0, 1], [0, 1, 0, 1], None))),
        ("dense", Arc::new(union([3, 5], [3, 5, 5, 3], Some([0, 0, 3, 1])))),
        ("runs", Arc::new(runs)),
    ])
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// Messages as ranks send them.
fn messages() -> Vec<Vec<u8>> {
    let rows_only = RecordBatchOptions::new().with_row_count(Some(7));
    let rows_only = RecordBatch::try_new_with_options(Schema::empty().into(), vec![], &rows_only);
    let tables =
        [numbers(), words(), nested(), unions_and_runs(), words().slice(1, 2), rows_only.expect("no columns")];
    let message = |table: &RecordBatch| {
        let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5).expect("the options of ranks");
        let mut encoder = StreamEncoder::try_new_with_options(&table.schema(), options).expect("a schema");
        let mut pieces = encoder.encode(table).expect("a table");
        pieces.extend(encoder.finish().expect("an end"));
        let message: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        assert_eq!(&decode(Buffer::from(&message[..])).expect("a sound message"), table);
        message
    };
    tables.iter().map(message).collect()
}

/// Numbers that are wrong in ways that matter, around `byte`.
fn wild(byte: u8) -> u64 {
    let near = i64::from(byte as i8 >> 3);
    let wild = match byte % 8 {
        0..3 => near,
        3 => i64::MAX - near.abs(),
        4 => i64::from(i32::MAX) + near,
        5 => i64::MAX / 8 + near,
        6 => (1 << 40) + near,
        _ => near << 32,
    };
    wild as u64
}

/// Changes a message in the places that `bytes` say, four bytes each: where, how, and to what.
fn change(message: &mut Vec<u8>, bytes: &[u8]) {
    for &[low, high, how, what] in bytes.as_chunks::<4>().0 {
        if message.len() < 8 {
            return;
        }
        let at = usize::from(u16::from_le_bytes([low, high])) % message.len();
        match how % 6 {
            0 => message[at] = what,
            1 => message[at] ^= what,
            2 => message[at] = message[at].wrapping_add(what),
            3 => message[at & !7..][..8].copy_from_slice(&wild(what).to_le_bytes()),
            4 => message[at & !3..][..4].copy_from_slice(&(wild(what) as u32).to_le_bytes()),
            _ if what == u8::MAX => message.truncate(at & !7),
            _ => {
                // What stands at one place stands at another too.
                let from = at.saturating_sub(usize::from(what) * 8) & !7;
                let word: [u8; 8] = message[from..][..8].try_into().expect("8 bytes");
                message[at & !7..][..8].copy_from_slice(&word);
            }
        }
    }
}

/// Looks at everything that a column says, and prints some of it.
fn walk(column: &dyn Array, field: &Field) {
    let data = column.to_data();
    data.validate_full().expect("it was checked");
    assert_eq!(column.data_type(), field.data_type());
    assert!(field.is_nullable() || column.null_count() == 0, "nulls where the schema has none");
    assert!(!format!("{column:?}").is_empty());
    if column.len() <= 1 << 12 {
        // Every value is read.
        let twice = concat(&[column, column]).expect("two of them");
        assert_eq!(twice.len(), 2 * column.len());
    }
}

fuzz_target!(
    init: {
        let_decode_catch_panics();
        MESSAGES.get_or_init(messages);
    },
    |bytes: &[u8]| {
        let Some((&choice, bytes)) = bytes.split_first() else { return };
        let messages = MESSAGES.get().expect("made before the first input");
        let message = match messages.get(usize::from(choice) % (messages.len() + 1)) {
            Some(sound) => {
                let mut message = sound.clone();
                message.resize(message.len().next_multiple_of(8), 0);
                change(&mut message, bytes);
                Buffer::from(message)
            }
            None => Buffer::from(bytes),
        };
        READING.set(true);
        let decoded = decode(message);
        READING.set(false);
        if let Ok(batch) = decoded {
            for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
                assert_eq!(column.len(), batch.num_rows());
                walk(column, field);
            }
        }
    }
);
