//! Ranks whose data do not go together, and what cannot be reduced at all: one error everywhere, and the group goes on.

use crate::{groups, on};
use ringfold::arrow::array::types::Int32Type;
use ringfold::arrow::array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int32Array, RecordBatch,
    StringArray, UnionArray, record_batch,
};
use ringfold::arrow::schema::{DataType, Field, UnionFields};
use ringfold::{Communicator, Error, ErrorKind, NullPolicy, Options, ReduceOp, Result};
use std::sync::Arc;

/// What every rank is told: the same but for who tells it; and then the group goes on.
fn told(group: Vec<Communicator>, body: impl Fn(&Communicator) -> Result<()> + Sync) -> Error {
    let errors = on(group, |comm| {
        let error = body(&comm).unwrap_err();
        assert!(comm.failure().is_none(), "{error}");
        let mut sum = [1u32];
        comm.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        assert_eq!(sum[0] as usize, comm.world_size());
        (comm.rank(), error)
    });
    for (rank, error) in &errors {
        assert_eq!(error.rank(), Some(*rank));
        assert!(error.collective().is_some() && error.what_to_do().is_some(), "{error}");
        let (first, this) = (&errors[0].1, error);
        let fields =
            |error: &Error| (error.kind(), error.culprit(), error.message().to_owned(), error.sequence());
        assert_eq!(fields(first), fields(this));
    }
    errors[0].1.clone()
}

fn sum(comm: &Communicator, batch: &RecordBatch) -> Result<()> {
    comm.all_reduce_record_batch(batch, ReduceOp::Sum).map(drop)
}

#[test]
fn a_schema_that_differs_is_told_with_its_field() {
    for group in groups(3) {
        let error = told(group, |comm| {
            let usual = record_batch!(("a", Int32, [1]), ("b", Float32, [1.0])).unwrap();
            let odd = record_batch!(("a", Int32, [1]), ("b", Float64, [1.0])).unwrap();
            sum(comm, if comm.rank() == 1 { &odd } else { &usual })
        });
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(1)));
        assert_eq!(error.message(), "column \"b\" is Float32 on rank 0, Float64 on rank 1");
    }
    let of = |odd: fn() -> RecordBatch| {
        told(Communicator::local(2), move |comm| {
            let usual = record_batch!(("a", Int32, [1, 2])).unwrap();
            sum(comm, &if comm.rank() == 1 { odd() } else { usual })
        })
    };
    let message = |odd| of(odd).message().to_owned();
    assert!(
        message(|| record_batch!(("a", Int32, [1, 2]), ("c", Int8, [1, 2])).unwrap())
            .contains("column \"c\"")
    );
    assert!(message(|| record_batch!(("x", Int32, [1, 2])).unwrap()).contains("column \"x\" on rank 1"));
    assert_eq!(
        message(|| record_batch!(("a", Int32, [1])).unwrap()),
        "column \"a\" has 2 values on rank 0, 1 on rank 1"
    );
    assert!(
        message(|| record_batch!(("a", Utf8, ["x", "y"])).unwrap())
            .starts_with("rank 1: column \"a\" is Utf8")
    );
}

#[test]
fn nulls_are_rejected_with_column_and_rank() {
    for group in groups(2) {
        let error = told(group, |comm| {
            let value = (comm.rank() == 0).then_some(1);
            sum(comm, &record_batch!(("a", Int32, [1, 2]), ("b", Int32, [value, value])).unwrap())
        });
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(1)));
        assert_eq!(error.message(), "column \"b\" has 2 nulls on rank 1");
        assert!(error.what_to_do().unwrap().contains("NullPolicy::Skip"));
    }
}

#[test]
fn one_rank_skips_nulls_and_the_other_does_not() {
    let error = told(Communicator::local(2), |comm| {
        let policy = [NullPolicy::Reject, NullPolicy::Skip][comm.rank()];
        let with = comm.with(Options::new().nulls(policy));
        with.all_reduce_array(&Int32Array::from(vec![1]), ReduceOp::Sum).map(drop)
    });
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.message().contains("nulls: reject") && error.message().contains("nulls: skip"), "{error}");
}

#[test]
fn other_operations_verbs_and_roots_are_told() {
    let array = || Float32Array::from(vec![1.0]);
    let error = told(Communicator::local(2), |comm| {
        let op = [ReduceOp::Sum, ReduceOp::Max][comm.rank()];
        comm.all_reduce_array(&array(), op).map(drop)
    });
    assert!(error.message().contains("sum") && error.message().contains("max"), "{error}");
    let error = told(Communicator::local(3), |comm| match comm.rank() {
        2 => comm.all_gather_array(&array()).map(drop),
        _ => comm.all_reduce_array(&array(), ReduceOp::Sum).map(drop),
    });
    assert_eq!(error.culprit(), Some(2));
    assert!(error.message().contains("all_gather on rank 2"), "{error}");
    let error = told(Communicator::local(2), |comm| {
        comm.reduce_array(&array(), ReduceOp::Sum, comm.rank()).map(drop)
    });
    assert!(error.message().contains("root 0") && error.message().contains("root 1"), "{error}");
    let error = told(Communicator::local(2), |comm| comm.reduce_array(&array(), ReduceOp::Sum, 2).map(drop));
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(0)));
}

#[test]
fn what_is_no_number_is_refused_with_a_remedy() {
    let unions = UnionFields::try_new([0], [Field::new("x", DataType::Int32, false)]).unwrap();
    let union =
        UnionArray::try_new(unions, vec![0i8].into(), None, vec![Arc::new(Int32Array::from(vec![1]))])
            .unwrap();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(union),
        Arc::new(DictionaryArray::<Int32Type>::from_iter(["a"])),
        ringfold::arrow::array::new_null_array(&DataType::Decimal128(10, 2), 1),
        ringfold::arrow::array::new_null_array(&DataType::Null, 1),
        ringfold::arrow::array::new_null_array(&DataType::new_list(DataType::Utf8, true), 1),
    ];
    for array in arrays {
        // Only one rank has it: the other is told of that rank.
        let error = told(Communicator::local(2), |comm| {
            let sound = Float64Array::from(vec![1.0]);
            let own: &dyn Array = if comm.rank() == 1 { &array } else { &sound };
            comm.all_reduce_array(own, ReduceOp::Sum).map(drop)
        });
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Unsupported, Some(1)), "{error}");
    }
}

#[test]
fn users_reductions_take_no_nulls_and_their_own_type() {
    let hypot = ReduceOp::custom("hypot", true, |a: f64, b: f64| a.hypot(b));
    on(Communicator::local(2), |comm| {
        let own = Float64Array::from(vec![[3.0, 4.0][comm.rank()]]);
        let norm = comm.all_reduce_array(&own, &hypot).unwrap();
        assert_eq!(norm.to_data().buffers()[0].typed_data::<f64>(), [5.0]);
        let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
        assert_eq!(skip.all_reduce_array(&own, &hypot).unwrap_err().kind(), ErrorKind::Unsupported);
        let error = comm.all_reduce_array(&Float32Array::from(vec![1.0]), &hypot).unwrap_err();
        assert!(error.message().contains("f64"), "{error}");
    });
}

#[test]
fn a_rank_that_has_nothing_tells_the_others_why() {
    let error = told(Communicator::local(3), |comm| match comm.rank() {
        1 => {
            Err(comm
                .refuse_array("all_reduce", Error::invalid("a released array").remedy("pass one that lives")))
        }
        _ => comm.all_reduce_array(&Int32Array::from(vec![1]), ReduceOp::Sum).map(drop),
    });
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(1)));
    assert_eq!(error.message(), "rank 1: a released array");
}

#[test]
fn what_the_options_ask_for_is_looked_at_before_anything_changes() {
    use ringfold::Algorithm;
    let pipeline: Algorithm = "pipeline".parse().unwrap();
    let error = told(Communicator::local(2), |comm| {
        // Only rank 1 asks for it.
        let options = Options::new().nulls(NullPolicy::Skip);
        let options = if comm.rank() == 1 { options.algorithm(pipeline) } else { options };
        let mut out = [7.0f32; 2];
        let own = Float32Array::from(vec![Some(1.0), None]);
        let result = comm.with(options).all_reduce_array_into(&own, &mut out, ReduceOp::Sum);
        assert_eq!(out, [7.0; 2]);
        result.map(drop)
    });
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Unsupported, Some(1)));
    // An algorithm that does this and nothing else does it with nulls, too.
    on(Communicator::local(2), |comm| {
        let pairwise = Options::new().nulls(NullPolicy::Skip).algorithm("pairwise".parse().unwrap());
        let own = Float32Array::from(vec![Some(1.0), None]);
        let mean = comm.with(pairwise).reduce_scatter_array(&own, ReduceOp::Mean).unwrap();
        assert_eq!(mean.null_count(), comm.rank());
    });
}

#[test]
fn tensors_of_other_shapes_and_users_reductions_of_other_kinds_are_told() {
    let error = told(Communicator::local(2), |comm| {
        let shape = [r#"{"shape":[2,3]}"#, r#"{"shape":[3,2]}"#][comm.rank()];
        let tensor = DataType::new_fixed_size_list(DataType::Float32, 6, false);
        let field = Field::new("w", tensor.clone(), false).with_metadata([
            ("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned()),
            ("ARROW:extension:metadata".to_owned(), shape.to_owned()),
        ]);
        let values = ringfold::arrow::array::FixedSizeListArray::new(
            Arc::new(Field::new_list_field(DataType::Float32, false)),
            6,
            Arc::new(Float32Array::from(vec![1.0; 6])),
            None,
        );
        let schema = Arc::new(ringfold::arrow::schema::Schema::new(vec![field]));
        sum(comm, &RecordBatch::try_new(schema, vec![Arc::new(values)]).unwrap())
    });
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.message().contains("[2,3]") && error.message().contains("[3,2]"), "{error}");
    let error = told(Communicator::local(2), |comm| {
        let mine = ReduceOp::custom("sum", true, |a: f64, b: f64| a + b);
        let own = Float64Array::from(vec![1.0]);
        match comm.rank() {
            0 => comm.all_reduce_array(&own, &mine).map(drop),
            _ => comm.all_reduce_array(&own, ReduceOp::Sum).map(drop),
        }
    });
    assert!(error.message().contains("a user's"), "{error}");
}

#[test]
fn within_a_group_ranks_are_called_by_their_numbers_in_the_world() {
    for group in groups(3) {
        let errors = on(group, |comm| {
            let pair = comm.group(&[1, 2]).unwrap()?;
            let own = Int32Array::from(vec![(comm.rank() == 1).then_some(1)]);
            Some(pair.all_reduce_array(&own, ReduceOp::Sum).unwrap_err())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error.culprit(), Some(2));
            assert!(error.message().contains("on rank 2"), "{error}");
        }
    }
}
