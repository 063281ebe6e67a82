//! Record batches that go from rank to rank.

use crate::{groups, on};
use ringfold::arrow::array::types::Int8Type;
use ringfold::arrow::array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray,
    StringViewArray, StructArray, UInt64Array,
    builder::{Int32Builder, MapBuilder, StringBuilder},
    cast::AsArray,
    record_batch,
    types::Int32Type,
    types::Int64Type,
};
use ringfold::arrow::schema::{DataType, Field};
use ringfold::arrow::{array_of, batch_of};
use ringfold::{Communicator, Error, ErrorKind};
use std::collections::HashMap;
use std::sync::Arc;

/// A table of every kind of column, with so many rows; the values tell whose it is.
fn table(rank: usize, rows: usize) -> RecordBatch {
    let word =
        |row: usize| (!row.is_multiple_of(5)).then(|| format!("row {row} of rank {rank}").repeat(row % 3));
    let words: StringArray = (0..rows).map(word).collect();
    let views = StringViewArray::from_iter(words.iter());
    let dictionary: DictionaryArray<Int8Type> =
        (0..rows).map(|row| Some(["red", "green", "blue"][(row + rank) % 3])).collect();
    let list = |row: usize| {
        (row % 4 != 1).then(|| (0..row % 3).map(|at| Some((rank * 100 + at) as i32)).collect::<Vec<_>>())
    };
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..rows).map(list));
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for row in 0..rows {
        map.keys().append_value(format!("k{row}"));
        map.values().append_option((row % 2 == 0).then_some(rank as i32));
        map.append(row % 6 != 2).unwrap();
    }
    let inner: Vec<(_, ArrayRef)> = vec![
        (
            Arc::new(Field::new("x", DataType::Boolean, true)),
            Arc::new(BooleanArray::from_iter((0..rows).map(|row| Some(row % 2 == rank % 2)))),
        ),
        (Arc::new(Field::new("y", words.data_type().clone(), true)), Arc::new(words.clone())),
    ];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(Int64Array::from_iter_values((0..rows).map(|row| (row * 7 % 13) as i64)))),
        ("words", Arc::new(words)),
        ("views", Arc::new(views)),
        ("colours", Arc::new(dictionary)),
        ("lists", Arc::new(lists)),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(StructArray::from(inner))),
    ];
    // A part of a longer one, from the middle of its memory on.
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

fn part(rank: usize, rows: usize) -> RecordBatch {
    table(rank, rows + 9).slice(5, rows)
}

#[test]
fn tables_of_different_lengths_go_everywhere_and_to_one() {
    for world in [1, 3] {
        for group in groups(world) {
            on(group, |comm| {
                for scale in [1, 3000] {
                    let rows = |rank: usize| rank * scale;
                    let own = part(comm.rank(), rows(comm.rank()));
                    let expected: Vec<_> = (0..world).map(|rank| part(rank, rows(rank))).collect();
                    assert_eq!(comm.all_gather_record_batch(&own).unwrap(), expected);
                    let root = world - 1;
                    let gathered = comm.gather_record_batch(&own, root).unwrap();
                    assert_eq!(gathered, (comm.rank() == root).then_some(expected));
                    let sent = (comm.rank() == root).then_some(&own);
                    assert_eq!(comm.broadcast_record_batch(sent, root).unwrap(), part(root, rows(root)));
                    let each: Vec<_> =
                        (0..world).map(|to| part(comm.rank() * 10 + to, rows(to) + comm.rank())).collect();
                    let got = comm.all_to_all_record_batches(&each).unwrap();
                    let from = |from: usize| part(from * 10 + comm.rank(), rows(comm.rank()) + from);
                    assert_eq!(got, (0..world).map(from).collect::<Vec<_>>());
                }
            });
        }
    }
}

#[test]
fn single_arrays_and_lists_too() {
    on(Communicator::local(3), |comm| {
        let rank = comm.rank();
        let own = StringArray::from_iter((0..rank).map(|at| (at > 0).then_some("x")));
        let all = comm.all_gather_array(&own).unwrap();
        assert_eq!(
            all.iter().map(|array| (array.len(), array.null_count())).collect::<Vec<_>>(),
            [(0, 0), (1, 1), (2, 1)]
        );
        let told = comm.broadcast_array((rank == 2).then_some(&own as &dyn Array), 2).unwrap();
        assert_eq!(told.as_string::<i32>().iter().collect::<Vec<_>>(), [None, Some("x")]);
        let list = |to: usize| (to != 1).then(|| vec![Some((rank * 10 + to) as i32); rank]);
        let own = ListArray::from_iter_primitive::<Int32Type, _, _>((0..3).map(list));
        let got = comm.all_to_all_list(&own).unwrap();
        let lists: Vec<Vec<i32>> =
            got.iter().map(|list| list.unwrap().as_primitive::<Int32Type>().values().to_vec()).collect();
        let expected = |from: usize| if rank == 1 { vec![] } else { vec![(from * 10 + rank) as i32; from] };
        assert_eq!(lists, (0..3).map(expected).collect::<Vec<_>>());
        let error = comm.all_to_all_list(&own.slice(0, 2)).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(0)), "{error}");
    });
}

#[test]
fn an_array_that_travels_as_a_table_keeps_its_name() {
    on(Communicator::local(3), |comm| {
        let field = Field::new("words", DataType::Utf8, false)
            .with_metadata(HashMap::from([("a".to_owned(), "b".to_owned())]));
        let array: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
        let sent = (comm.rank() == 1).then(|| batch_of(&array, &field).unwrap());
        let got = comm.broadcast_record_batch(sent.as_ref(), 1).unwrap();
        assert_eq!(array_of(&got), Some((array.clone(), field.clone())));
        // A table of one column is none.
        let table = RecordBatch::try_from_iter([("", array.clone())]).unwrap();
        let got = comm.broadcast_record_batch((comm.rank() == 0).then_some(&table), 0).unwrap();
        assert_eq!(array_of(&got), None);
        let nulls: ArrayRef = Arc::new(StringArray::from(vec![None, Some("x")]));
        assert_eq!(batch_of(&nulls, &field).unwrap_err().kind(), ErrorKind::InvalidArgument);
    });
}

#[test]
fn a_shuffle_brings_equal_keys_together_and_loses_no_row() {
    for group in groups(3) {
        let mine = on(group, |comm| {
            let own = part(comm.rank(), 40 + comm.rank());
            let by_key = comm.shuffle(&own, "key").unwrap();
            for column in ["words", "views", "colours"] {
                let by_word = comm.shuffle(&own, column).unwrap();
                assert_eq!(by_word.schema(), own.schema());
            }
            assert_eq!(comm.shuffle(&own.slice(0, 0), "key").unwrap().num_rows(), 0);
            by_key
        });
        let keys: Vec<Vec<i64>> =
            mine.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(keys.iter().map(Vec::len).sum::<usize>(), 40 + 41 + 42);
        for key in 0..13 {
            assert_eq!(keys.iter().filter(|keys| keys.contains(&key)).count(), 1, "key {key} is on one rank");
        }
        // Each row is still whole, and rows of a rank are in their order.
        for (rank, batch) in mine.iter().enumerate() {
            let words = batch.column_by_name("words").unwrap().as_string::<i32>();
            let inner = batch.column_by_name("struct").unwrap().as_struct().column(1).as_string::<i32>();
            assert_eq!(words, inner);
            let expected: Vec<RecordBatch> = (0..3)
                .map(|from| {
                    let whole = part(from, 40 + from);
                    let keys = whole.column(0).as_primitive::<Int64Type>().values();
                    let rows = (0..whole.num_rows() as u64)
                        .filter(|&row| batch_has(&mine[rank], keys[row as usize]));
                    ringfold::arrow::select::take::take_record_batch(
                        &whole,
                        &UInt64Array::from_iter_values(rows),
                    )
                    .unwrap()
                })
                .collect();
            let expected =
                ringfold::arrow::select::concat::concat_batches(&batch.schema(), &expected).unwrap();
            assert_eq!(*batch, expected);
        }
    }
}

fn batch_has(batch: &RecordBatch, key: i64) -> bool {
    batch.column(0).as_primitive::<Int64Type>().values().contains(&key)
}

/// The same error on every rank, after which the group goes on.
fn told(world: usize, body: impl Fn(&Communicator) -> ringfold::Result<()> + Sync) -> Error {
    let errors = on(Communicator::local(world), |comm| {
        let error = body(&comm).unwrap_err();
        comm.barrier().unwrap();
        error
    });
    assert!(errors.iter().all(|error| error.message() == errors[0].message()), "{errors:?}");
    errors[0].clone()
}

#[test]
fn what_does_not_go_together_is_told_everywhere() {
    let plain = || record_batch!(("a", Int32, [1])).unwrap();
    let error = told(2, |comm| {
        let odd = record_batch!(("a", Int64, [1])).unwrap();
        comm.all_gather_record_batch(&if comm.rank() == 1 { odd } else { plain() }).map(drop)
    });
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(1)));
    assert!(error.message().contains("column \"a\" is Int32 on rank 0, Int64 on rank 1"), "{error}");
    let error = told(2, |comm| comm.gather_record_batch(&plain(), 5).map(drop));
    assert!(error.message().contains("root 5"), "{error}");
    let error = told(2, |comm| comm.broadcast_record_batch(None, 1).map(drop).and(comm.barrier()));
    assert!(error.message().starts_with("rank 1: "), "{error}");
    let error = told(3, |comm| {
        comm.all_to_all_record_batches(&vec![plain(); 2 + usize::from(comm.rank() != 1)]).map(drop)
    });
    assert_eq!(error.culprit(), Some(1));
    let error = told(2, |comm| {
        let two = [plain(), record_batch!(("b", Int32, [1])).unwrap()];
        comm.all_to_all_record_batches(&two).map(drop)
    });
    assert!(error.message().contains("another schema"), "{error}");
    let error = told(2, |comm| comm.shuffle(&plain(), "key").map(drop));
    assert!(error.what_to_do().unwrap().contains("one of a"), "{error}");
    let error = told(2, |comm| comm.shuffle(&plain(), ["a", "b"][comm.rank()]).map(drop));
    assert_eq!(error.culprit(), Some(1), "{error}");
    let error = told(2, |comm| comm.shuffle(&part(0, 3), "lists").map(drop));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn what_comes_and_does_not_fit_together_is_told_everywhere() {
    // Each rank's colours fit in 8 bits, all together do not; rank 0 gets all rows, since there is one key.
    let error = told(3, |comm| {
        let colours: Vec<String> = (0..100).map(|at| format!("colour {at} of {}", comm.rank())).collect();
        let colours: DictionaryArray<Int8Type> = colours.iter().map(|colour| Some(colour.as_str())).collect();
        let key: ArrayRef = Arc::new(Int64Array::from(vec![1; 100]));
        let batch =
            RecordBatch::try_from_iter([("key", key), ("colour", Arc::new(colours) as ArrayRef)]).unwrap();
        comm.shuffle(&batch, "key").map(drop)
    });
    assert!(error.message().contains("the rows that came"), "{error}");
}

#[test]
fn views_are_sent_without_the_memory_of_others() {
    on(Communicator::local(2), |comm| {
        let words: Vec<String> =
            (0..1000).map(|row| format!("a word that is longer than a view, number {row}")).collect();
        let words: ArrayRef = Arc::new(StringViewArray::from_iter_values(&words));
        let batch = RecordBatch::try_from_iter([("word", words)]).unwrap();
        let before = comm.counters();
        let mine = comm.shuffle(&batch, "word").unwrap();
        assert!(mine.num_rows() > 0);
        let (own, sent) =
            (batch.get_array_memory_size() as u64, comm.counters().bytes_sent() - before.bytes_sent());
        assert!(sent < own * 3 / 4, "{sent} bytes of a table of {own} in two halves");
    });
}

#[test]
fn a_list_and_its_items_may_be_null_on_one_rank_only() {
    let error = told(2, |comm| {
        let nullable = comm.rank() == 0;
        let values: ArrayRef = Arc::new(ringfold::arrow::array::Int32Array::from(vec![1, 2]));
        let offsets = ringfold::arrow::buffer::OffsetBuffer::from_lengths([1, 1]);
        let item = Arc::new(Field::new_list_field(DataType::Int32, nullable));
        comm.all_to_all_list(&ListArray::new(item, offsets, values, None)).map(drop)
    });
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
}
