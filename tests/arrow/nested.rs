//! Lists, structs, and what is within them.

use crate::on;
use ringfold::arrow::array::types::{Float32Type, Int32Type};
use ringfold::arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int32Array, LargeListArray, ListArray, StructArray,
    cast::AsArray,
};
use ringfold::arrow::schema::{DataType, Field};
use ringfold::{Communicator, ErrorKind, NullPolicy, Options, ReduceOp};
use std::sync::Arc;

fn lists(lists: &[Option<&[i32]>]) -> ListArray {
    let lists = lists.iter().map(|list| list.map(|list| list.iter().copied().map(Some).collect::<Vec<_>>()));
    ListArray::from_iter_primitive::<Int32Type, _, _>(lists)
}

#[test]
fn lists_of_any_length_are_reduced_where_they_are_alike() {
    on(Communicator::local(2), |comm| {
        // From the second list on, so that its values begin in the middle.
        let own = lists(&[Some(&[9, 9]), Some(&[1, 2, 3]), Some(&[]), Some(&[4])]).slice(1, 3);
        let sum = comm.all_reduce_array(&own, ReduceOp::Sum).unwrap();
        assert_eq!(sum.as_list::<i32>(), &lists(&[Some(&[2, 4, 6]), Some(&[]), Some(&[8])]));
        let large =
            LargeListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(1.0), Some(2.0)])]);
        let sum = comm.all_reduce_array(&large, ReduceOp::Sum).unwrap();
        assert_eq!(sum.as_list::<i64>().values().as_primitive::<Float32Type>().values(), &[2.0, 4.0]);

        let other: &[&[i32]] = if comm.rank() == 0 { &[&[1, 2], &[3]] } else { &[&[1], &[2, 3]] };
        let other = lists(&other.iter().map(|list| Some(*list)).collect::<Vec<_>>());
        let error = comm.all_reduce_array(&other, ReduceOp::Sum).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(1)));
        assert!(error.to_string().contains("other lengths"), "{error}");
        assert_eq!(
            comm.reduce_scatter_array(&own, ReduceOp::Sum).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    });
}

#[test]
fn a_list_that_is_null_hides_its_values() {
    on(Communicator::local(2), |comm| {
        let rank = comm.rank();
        let item = Arc::new(Field::new_list_field(DataType::Int32, true));
        let values = Int32Array::from(vec![Some(1), Some(2), None, Some(4), Some(5), Some(6)]);
        let nulls = vec![true, rank == 0, false];
        let own = FixedSizeListArray::new(item, 2, Arc::new(values), Some(nulls.into()));
        let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
        let sum = skip.all_reduce_array(&own, ReduceOp::Sum).unwrap();
        let sum = sum.as_fixed_size_list();
        let valid: Vec<bool> = (0..3).map(|row| sum.is_valid(row)).collect();
        assert_eq!(valid, [true, true, false], "null only where every rank is");
        let values: Vec<_> = sum.values().as_primitive::<Int32Type>().iter().collect();
        assert_eq!(values, [Some(2), Some(4), None, Some(4), None, None]);
        let error = comm.all_reduce_array(&own, ReduceOp::Sum).unwrap_err();
        assert!(error.to_string().contains("the array has 1 null on rank 0"), "{error}");
    });
}

#[test]
fn structs_are_their_columns_and_matrices_lists_of_lists() {
    on(Communicator::local(3), |comm| {
        let rank = comm.rank() as f32;
        let weights: ArrayRef = Arc::new(Float32Array::from(vec![rank; 12]));
        let row = Arc::new(Field::new_list_field(DataType::Float32, false));
        let rows = FixedSizeListArray::new(row, 3, weights, None);
        let matrix = Arc::new(Field::new_list_field(rows.data_type().clone(), false));
        let matrices: ArrayRef = Arc::new(FixedSizeListArray::new(matrix, 2, Arc::new(rows), None));
        let biases: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let fields = vec![
            Field::new("weights", matrices.data_type().clone(), false),
            Field::new("bias", DataType::Int32, true),
        ];
        let both =
            StructArray::new(fields.into(), vec![matrices, biases], Some(vec![true, rank == 0.0].into()));
        let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
        for own in [both.clone(), StructArray::from(both.to_data()).slice(0, 2)] {
            let sum = skip.all_reduce_array(&own, ReduceOp::Sum).unwrap();
            let sum = sum.as_struct();
            assert_eq!((sum.data_type(), sum.null_count()), (both.data_type(), 0));
            let weights = sum.column(0).as_fixed_size_list().values().as_fixed_size_list().values().clone();
            let weights = weights.as_primitive::<Float32Type>().values().to_vec();
            // Ranks 1 and 2 have no second struct.
            assert_eq!(weights, [vec![3.0; 6], vec![0.0; 6]].concat());
            let biases: Vec<_> = sum.column(1).as_primitive::<Int32Type>().iter().collect();
            assert_eq!(biases, [Some(3), None]);
        }
        // The second row of it alone.
        let last = skip.all_reduce_array(&both.slice(1, 1), ReduceOp::Max).unwrap();
        assert_eq!(last.len(), 1);
        let biases: Vec<_> = last.as_struct().column(1).as_primitive::<Int32Type>().iter().collect();
        assert_eq!(biases, [None]);
        let mine = skip.reduce_scatter_array(&both, ReduceOp::Sum).unwrap();
        assert_eq!(mine.len(), [1, 1, 0][comm.rank()]);
    });
}

/// An item that may not be null is absent with its list, and has no validity of its own.
#[test]
fn items_that_may_not_be_null_are_absent_with_their_list() {
    on(Communicator::local(2), |comm| {
        let item = Arc::new(Field::new_list_field(DataType::Int32, false));
        let values: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let offsets = ringfold::arrow::buffer::OffsetBuffer::from_lengths([2, 1]);
        let own = ListArray::new(item.clone(), offsets, values, Some(vec![false, true].into()));
        let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
        let sum = skip.all_reduce_array(&own, ReduceOp::Sum).unwrap();
        assert_eq!(sum.as_list::<i32>().value(1).as_primitive::<Int32Type>().values(), &[6]);
        assert!(sum.is_null(0));
        let root = skip.reduce_array(&own, ReduceOp::Sum, 1).unwrap();
        assert_eq!(root.is_some(), comm.rank() == 1);

        // Where only one rank says so, the others are told, and nobody finds out alone.
        let nullable = comm.rank() == 0;
        let field = Arc::new(Field::new("x", DataType::Int32, nullable));
        let x: ArrayRef = Arc::new(Int32Array::from(vec![nullable.then_some(1).or(Some(2))]));
        let own = StructArray::new(vec![field].into(), vec![x], Some(vec![nullable].into()));
        let error = skip.all_reduce_array(&own, ReduceOp::Sum).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(1)));
        assert!(error.message().contains("Int32 not null on rank 1"), "{error}");
    });
}

#[test]
fn what_has_no_size_takes_no_memory() {
    use ringfold::arrow::array::{NullArray, make_array};
    let item = Arc::new(Field::new_list_field(DataType::Null, true));
    let nulls = Arc::new(NullArray::new(i32::MAX as usize));
    let own = FixedSizeListArray::new(item, i32::MAX, nulls, Some(vec![true].into()));
    let comm = Communicator::local(1).remove(0);
    let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
    assert_eq!(skip.all_reduce_array(&own, ReduceOp::Sum).unwrap_err().kind(), ErrorKind::Unsupported);
    let none = make_array(
        FixedSizeListArray::new(
            Arc::new(Field::new_list_field(DataType::Int8, true)),
            0,
            Arc::new(ringfold::arrow::array::Int8Array::from(vec![0i8; 0])),
            Some(vec![true, false].into()),
        )
        .to_data(),
    );
    let sum = skip.all_reduce_array(&none, ReduceOp::Sum).unwrap();
    assert_eq!((sum.len(), sum.null_count()), (2, 1));
}
