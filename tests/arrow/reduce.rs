//! Arrays of numbers, with nulls and without.

use crate::{groups, on};
use ringfold::arrow::array::types::{
    ArrowPrimitiveType, Date32Type, DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimestampMillisecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use ringfold::arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListArray, PrimitiveArray,
    RecordBatch, StructArray, cast::AsArray, record_batch,
};
use ringfold::arrow::schema::{DataType, Field};
use ringfold::{Communicator, ErrorKind, NullPolicy, Options, Order, ReduceOp};
use std::sync::Arc;

/// Numbers that are exact in every type, whatever is done with those of up to five ranks: 1 or 2.
fn number(rank: usize, row: usize) -> u8 {
    1 + ((rank * 7 + row * 3) % 5 / 3) as u8
}

fn is_there(rank: usize, row: usize) -> bool {
    !(row * 5 + rank * 3).is_multiple_of(7) && row % 11 != 3
}

fn values<T: ArrowPrimitiveType>(
    rank: usize,
    rows: usize,
    from: impl Fn(u8) -> T::Native,
    nulls: bool,
) -> PrimitiveArray<T> {
    let value = |row| (!nulls || is_there(rank, row)).then(|| from(number(rank, row)));
    // Not from the beginning of its memory on, nor from that of a byte of its validity.
    let ahead = std::iter::repeat_n(Some(from(7)), 3);
    ahead.chain((0..rows).map(value)).collect::<PrimitiveArray<T>>().slice(3, rows)
}

/// What the reduction of those that are there is, as a number.
fn expected(op: ReduceOp, world: usize, row: usize, nulls: bool) -> Option<f64> {
    let there: Vec<u8> =
        (0..world).filter(|&rank| !nulls || is_there(rank, row)).map(|rank| number(rank, row)).collect();
    let numbers = || there.iter().map(|&number| f64::from(number));
    let bits = |combine: fn(u8, u8) -> u8| there.iter().copied().reduce(combine).map(f64::from);
    match op {
        _ if there.is_empty() => None,
        ReduceOp::Sum => Some(numbers().sum()),
        ReduceOp::Prod => Some(numbers().product()),
        ReduceOp::Min => numbers().reduce(f64::min),
        ReduceOp::Max => numbers().reduce(f64::max),
        ReduceOp::Mean => Some(numbers().sum::<f64>() / there.len() as f64),
        ReduceOp::BitAnd => bits(|a, b| a & b),
        ReduceOp::BitOr => bits(|a, b| a | b),
        _ => bits(|a, b| a ^ b),
    }
}

fn check<T: ArrowPrimitiveType>(
    array: &dyn Array,
    first: usize,
    op: ReduceOp,
    world: usize,
    nulls: bool,
    to: impl Fn(T::Native) -> f64,
    round: impl Fn(f64) -> f64,
) {
    let array = array.as_primitive::<T>();
    for (at, value) in array.iter().enumerate() {
        let expected = expected(op, world, first + at, nulls).map(&round);
        assert_eq!(value.map(&to), expected, "{op} of {} of {world} ranks at {}", T::DATA_TYPE, first + at);
    }
}

fn block(rows: usize, world: usize, rank: usize) -> std::ops::Range<usize> {
    let start = |rank: usize| rank * (rows / world) + rank.min(rows % world);
    start(rank)..start(rank + 1)
}

/// Every verb that reduces, with every operation that there is for the type.
fn every_verb<T: ArrowPrimitiveType>(
    comm: &Communicator,
    rows: usize,
    from: impl Fn(u8) -> T::Native + Copy,
    to: impl Fn(T::Native) -> f64 + Copy,
    round: impl Fn(f64) -> f64 + Copy,
) {
    let (rank, world) = (comm.rank(), comm.world_size());
    let float = T::DATA_TYPE.is_floating();
    for op in ReduceOp::ALL {
        let defined = match op {
            ReduceOp::Mean => float,
            ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => !float,
            _ => true,
        };
        if !defined {
            let error = comm.all_reduce_array(&values::<T>(rank, rows, from, false), op).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            continue;
        }
        for nulls in [false, true] {
            let array = values::<T>(rank, rows, from, nulls);
            let with =
                comm.with(Options::new().nulls(if nulls { NullPolicy::Skip } else { NullPolicy::Reject }));
            let all = with.all_reduce_array(&array, op).unwrap();
            assert_eq!((all.len(), all.data_type()), (rows, array.data_type()));
            check::<T>(&all, 0, op, world, nulls, to, round);
            let some = with.reduce_scatter_array(&array, op).unwrap();
            let own = block(rows, world, rank);
            assert_eq!(some.len(), own.len());
            check::<T>(&some, own.start, op, world, nulls, to, round);
            let root = rows % world;
            let rooted = with.reduce_array(&array, op, root).unwrap();
            assert_eq!(rooted.is_some(), rank == root);
            if let Some(rooted) = rooted {
                assert_eq!(rooted.len(), rows);
                check::<T>(&rooted, 0, op, world, nulls, to, round);
            }
        }
    }
}

#[test]
fn every_type_and_operation_against_an_oracle() {
    for world in [1, 2, 3, 5] {
        on(Communicator::local(world), |comm| {
            for rows in [0, 1, 64, 200] {
                every_verb::<Int8Type>(&comm, rows, |v| v as i8, f64::from, |v| v);
                every_verb::<Int16Type>(&comm, rows, i16::from, f64::from, |v| v);
                every_verb::<Int32Type>(&comm, rows, i32::from, f64::from, |v| v);
                every_verb::<Int64Type>(&comm, rows, i64::from, |v| v as f64, |v| v);
                every_verb::<UInt8Type>(&comm, rows, |v| v, f64::from, |v| v);
                every_verb::<UInt16Type>(&comm, rows, u16::from, f64::from, |v| v);
                every_verb::<UInt32Type>(&comm, rows, u32::from, f64::from, |v| v);
                every_verb::<UInt64Type>(&comm, rows, u64::from, |v| v as f64, |v| v);
                let half = |v: f64| half::f16::from_f64(v).to_f64();
                every_verb::<Float16Type>(
                    &comm,
                    rows,
                    |v| half::f16::from_f32(v.into()),
                    half::f16::to_f64,
                    half,
                );
                every_verb::<Float32Type>(&comm, rows, f32::from, f64::from, |v| f64::from(v as f32));
                every_verb::<Float64Type>(&comm, rows, f64::from, |v| v, |v| v);
            }
        });
    }
}

#[test]
fn large_arrays_over_shared_memory_and_tcp() {
    for world in [2, 3] {
        for group in groups(world) {
            on(group, |comm| {
                every_verb::<Float32Type>(&comm, 400_001, f32::from, f64::from, |v| f64::from(v as f32));
                every_verb::<UInt8Type>(&comm, 70_000, |v| v, f64::from, |v| v);
            });
        }
    }
}

#[test]
fn counts_of_ranks_that_need_two_bytes() {
    let world = 300;
    on(Communicator::local(world), |comm| {
        let own = Float64Array::from(vec![
            Some(2.0),
            (comm.rank() < 299).then_some(1.0),
            (comm.rank() == 7).then_some(5.0),
            None,
        ]);
        let mean =
            comm.with(Options::new().nulls(NullPolicy::Skip)).all_reduce_array(&own, ReduceOp::Mean).unwrap();
        let mean: Vec<_> = mean.as_primitive::<Float64Type>().iter().collect();
        assert_eq!(mean, [Some(2.0), Some(1.0), Some(5.0), None]);
    });
}

#[test]
fn points_in_time_have_a_min_and_a_max_and_spans_a_sum() {
    on(Communicator::local(2), |comm| {
        let rank = comm.rank() as i32;
        let dates = PrimitiveArray::<Date32Type>::from(vec![rank, 5 - rank]);
        let first = comm.all_reduce_array(&dates, ReduceOp::Min).unwrap();
        assert_eq!(first.as_primitive::<Date32Type>().values(), &[0, 4]);
        let times = PrimitiveArray::<TimestampMillisecondType>::from(vec![i64::from(rank)])
            .with_timezone("Europe/Berlin");
        let last = comm.all_reduce_array(&times, ReduceOp::Max).unwrap();
        assert_eq!(last.data_type(), times.data_type());
        assert_eq!(last.as_primitive::<TimestampMillisecondType>().values(), &[1]);
        let spans = PrimitiveArray::<DurationSecondType>::from(vec![3]);
        let both = comm.all_reduce_array(&spans, ReduceOp::Sum).unwrap();
        assert_eq!(both.as_primitive::<DurationSecondType>().values(), &[6]);
        let error = comm.all_reduce_array(&dates, ReduceOp::Sum).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.what_to_do().unwrap().contains("min"), "{error}");
    });
}

#[test]
fn record_batches_go_column_by_column_and_keep_their_schema() {
    for group in groups(3) {
        on(group, |comm| {
            let rank = comm.rank();
            let field = Field::new("shape", DataType::new_fixed_size_list(DataType::Float32, 2, true), true);
            let field = field
                .with_metadata([("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned())]);
            let pairs = Float32Array::from_iter((0..8).map(|at| (at != rank).then_some(1.0)));
            let item = Arc::new(Field::new_list_field(DataType::Float32, true));
            let lists = FixedSizeListArray::new(
                item,
                2,
                Arc::new(pairs),
                Some(vec![rank != 1, true, true, true].into()),
            );
            let plain = record_batch!(
                ("sum", Float64, [1.5, 2.5, 3.5, 4.5]),
                ("n", Int64, [Some(1), None, (rank == 0).then_some(3), Some(4)])
            )
            .unwrap();
            let mut fields: Vec<_> =
                plain.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
            fields.push(field);
            let mut columns: Vec<ArrayRef> = plain.columns().to_vec();
            columns.push(Arc::new(lists));
            let schema = Arc::new(ringfold::arrow::schema::Schema::new(fields));
            let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
            let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
            let sum = skip.all_reduce_record_batch(&batch, ReduceOp::Sum).unwrap();
            assert_eq!(sum.schema(), schema);
            assert_eq!(sum.column(0).as_primitive::<Float64Type>().values(), &[4.5, 7.5, 10.5, 13.5]);
            let n: Vec<_> = sum.column(1).as_primitive::<Int64Type>().iter().collect();
            assert_eq!(n, [Some(3), None, Some(3), Some(12)]);
            let lists = sum.column(2).as_fixed_size_list();
            assert_eq!(lists.null_count(), 0, "some rank has each of the lists");
            let values: Vec<_> = lists.values().as_primitive::<Float32Type>().iter().collect();
            // Rank 0 has no value 0, rank 1 neither 0 nor 1 (its list is null), rank 2 no value 2.
            let expected = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0].map(Some);
            assert_eq!(values, expected);
            // And to one rank, and in blocks of 2, 1 and 1 rows.
            let mine = skip.reduce_scatter_record_batch(&batch, ReduceOp::Sum).unwrap();
            let own = block(4, 3, rank);
            assert_eq!(mine, sum.slice(own.start, own.len()));
            let rooted = skip.reduce_record_batch(&batch, ReduceOp::Sum, 2).unwrap();
            assert_eq!(rooted, (rank == 2).then_some(sum));
        });
    }
}

#[test]
fn batches_of_no_columns_or_no_rows_are_reduced_too() {
    on(Communicator::local(2), |comm| {
        let options = ringfold::arrow::array::RecordBatchOptions::new().with_row_count(Some(5));
        let none = RecordBatch::try_new_with_options(
            Arc::new(ringfold::arrow::schema::Schema::empty()),
            vec![],
            &options,
        )
        .unwrap();
        assert_eq!(comm.all_reduce_record_batch(&none, ReduceOp::Sum).unwrap(), none);
        let empty = record_batch!(("a", Int32, [1])).unwrap().slice(0, 0);
        assert_eq!(comm.all_reduce_record_batch(&empty, ReduceOp::Sum).unwrap(), empty);
    });
}

#[test]
fn chunks_are_one_array_whatever_their_lengths() {
    on(Communicator::local(2), |comm| {
        let all = Int32Array::from_iter_values(0..100);
        let cut = if comm.rank() == 0 { vec![0, 10, 10, 100] } else { vec![0, 64, 100] };
        let chunks: Vec<ArrayRef> =
            cut.windows(2).map(|ends| Arc::new(all.slice(ends[0], ends[1] - ends[0])) as ArrayRef).collect();
        let sum = comm.all_reduce_chunks(&chunks, ReduceOp::Sum).unwrap();
        assert_eq!(
            sum.as_primitive::<Int32Type>(),
            &Int32Array::from_iter_values((0..100).map(|value| 2 * value))
        );
        assert!(comm.all_reduce_chunks(&[], ReduceOp::Sum).unwrap_err().to_string().contains("not one"));
    });
}

/// Chunks of lists, structs and numbers with nulls are what one array of them is, cut differently on each rank.
#[test]
fn chunks_of_everything_with_nulls_are_as_one_array() {
    for seed in 0..20 {
        on(Communicator::local(3), |comm| {
            let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
            // The shape is the same on every rank, the numbers and the nulls of numbers are not.
            let (mut shape, mut own) =
                (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed * 3 + comm.rank() as u64));
            let rows = shape.usize(1..200);
            let lengths: Vec<usize> = (0..rows).map(|_| shape.usize(0..4)).collect();
            let mut number = || (own.u8(..4) > 0 || seed == 0).then(|| own.i64(-9..9));
            let plain = Int64Array::from_iter((0..rows).map(|_| number()));
            let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(
                lengths.iter().map(|&len| Some((0..len).map(|_| number()).collect::<Vec<_>>())),
            );
            let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
                (0..rows).map(|_| Some([number(), number()])),
                2,
            );
            let fields = [("plain", plain.data_type()), ("lists", lists.data_type())];
            let fields: Vec<Field> =
                fields.iter().map(|(name, of)| Field::new(*name, (*of).clone(), true)).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(plain.clone()), Arc::new(lists.clone())];
            let both = StructArray::new(fields.into(), columns, None);
            let arrays: [ArrayRef; 4] = [Arc::new(plain), Arc::new(lists), Arc::new(fixed), Arc::new(both)];
            for array in arrays {
                let mut cuts: Vec<usize> =
                    (0..comm.rank() * 2).map(|_| own.usize(..=rows)).chain([0, rows]).collect();
                cuts.sort_unstable();
                let chunks: Vec<ArrayRef> =
                    cuts.windows(2).map(|ends| array.slice(ends[0], ends[1] - ends[0])).collect();
                for op in [ReduceOp::Sum, ReduceOp::Max] {
                    let of_chunks = skip.all_reduce_chunks(&chunks, op).unwrap();
                    let of_one = skip.all_reduce_array(&array, op).unwrap();
                    assert_eq!(&of_chunks, &of_one, "seed {seed}");
                }
            }
            // What is of two types, or of two lengths, is told to every rank.
            let odd: [ArrayRef; 2] =
                [Arc::new(Int64Array::from(vec![1])), Arc::new(Float32Array::from(vec![1.0]))];
            let error = skip.all_reduce_chunks(&odd, ReduceOp::Sum).unwrap_err();
            assert!(error.to_string().contains("chunks of Int64 and of Float32"), "{error}");
        });
    }
}

#[test]
fn results_go_where_the_caller_wants_them() {
    on(Communicator::local(2), |comm| {
        let mut out = [0f32; 3];
        let own = Float32Array::from(vec![Some(1.0), None, (comm.rank() == 0).then_some(3.0)]);
        let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
        let nulls = skip.all_reduce_array_into(&own, &mut out, ReduceOp::Mean).unwrap().unwrap();
        assert_eq!((out[0], out[2]), (1.0, 3.0));
        assert_eq!(nulls.iter().collect::<Vec<_>>(), [true, false, true]);
        // One rank's output is too short: told to both, and nothing has happened.
        let before = out;
        let len = 3 - comm.rank();
        let error = skip.all_reduce_array_into(&own, &mut out[..len], ReduceOp::Mean).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(1)), "{error}");
        assert_eq!(out, before);
        let mut wide = [0f64; 3];
        assert!(skip.all_reduce_array_into(&own, &mut wide, ReduceOp::Mean).is_err());
    });
}

#[test]
fn fixed_order_gives_the_same_bits_with_nulls_and_without() {
    let world = 5;
    let value = |rank: usize, at: usize| (at as f32 + 0.1) * [1.0, -1e7, 1e-3, 3.3, 1e7][rank];
    let sums = |group: Vec<Communicator>, nulls: bool| {
        on(group, |comm| {
            let own = Float32Array::from_iter((0..1000).map(|at| Some(value(comm.rank(), at))));
            // What is absent everywhere but on this rank changes nothing.
            let (first, rest) = (own.slice(0, 500), own.slice(500, 500));
            let options = Options::new().order(Order::Fixed).nulls(NullPolicy::Skip);
            let extra = Float32Array::from(vec![nulls.then_some(1.0).filter(|_| comm.rank() == 2); 2]);
            let all =
                ringfold::arrow::select::concat::concat(&[&first as &dyn Array, &rest, &extra]).unwrap();
            let sum = comm.with(options).all_reduce_array(&all, ReduceOp::Sum).unwrap();
            sum.as_primitive::<Float32Type>().values()[..1000]
                .iter()
                .map(|sum| sum.to_bits())
                .collect::<Vec<_>>()
        })
    };
    let [threads, shm, tcp] = groups(world);
    let with = sums(threads, true);
    assert!(with.iter().all(|bits| *bits == with[0]), "one result on all ranks");
    assert_eq!(sums(shm, false), with);
    assert_eq!(sums(tcp, true), with);
}

use ringfold::arrow::array::Float64Array;
