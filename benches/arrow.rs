//! What it costs to take Arrow's C structures in and to give them out, in nanoseconds: with a fixed width that is the same for any
//! length.
//!
//! `cargo bench --bench arrow`. Each import ends with the lease being dropped, so that the structure can be lent again; those of
//! arrays with nulls count them, and those of strings read all offsets and text.

use criterion::{BenchmarkId, Criterion};
use ringfold::arrow::array::{Array, Float32Array, StringArray, StructArray};
use ringfold::arrow::buffer::NullBuffer;
use ringfold::arrow::c_data;
use ringfold::arrow::schema::{DataType, Field, Fields};
use std::hint::black_box;
use std::sync::Arc;

fn field(array: &dyn Array) -> Field {
    Field::new("gradients", array.data_type().clone(), true)
}

fn lend(criterion: &mut Criterion, name: &str, size: usize, array: &dyn Array) {
    let (mut array, schema) = c_data::export(array, &field(array)).unwrap();
    let mut group = criterion.benchmark_group("lend");
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        // SAFETY: exported above, and alive until the end of this function.
        bencher.iter(|| black_box(unsafe { c_data::lend(array.as_mut_ptr(), schema.as_ptr()) }.unwrap()));
    });
}

fn floats(bytes: usize) -> Float32Array {
    Float32Array::from(vec![1.0; bytes / 4])
}

fn columns(count: usize) -> StructArray {
    let fields: Fields =
        (0..count).map(|at| Field::new(format!("column {at}"), DataType::Float32, true)).collect();
    StructArray::new(fields, (0..count).map(|_| Arc::new(floats(64)) as _).collect(), None)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    const MIB: usize = 1 << 20;
    for bytes in [64, MIB, 64 * MIB] {
        lend(&mut criterion, "f32", bytes, &floats(bytes));
    }
    let values = floats(64 * MIB);
    let nulls = NullBuffer::from_iter((0..values.len()).map(|at| at % 7 != 0));
    let holes = Float32Array::new(values.values().clone(), Some(nulls));
    lend(&mut criterion, "f32 with nulls", 64 * MIB, &holes);
    lend(
        &mut criterion,
        "strings",
        MIB,
        &StringArray::from_iter_values((0..MIB / 16).map(|_| "sixteen letters.")),
    );
    for count in [10, 1000] {
        lend(&mut criterion, "columns of f32", count, &columns(count));
    }

    let values = floats(64 * MIB);
    let field = field(&values);
    let mut group = criterion.benchmark_group("export");
    group.bench_function(BenchmarkId::new("f32", 64 * MIB), |bencher| {
        bencher.iter(|| black_box(c_data::export(&values, &field).unwrap()));
    });
    drop(group);
    criterion.final_summary();
}
