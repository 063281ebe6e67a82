//! How fast two buffers are summed, in bytes of result a second, beside a copy of as many bytes.
//!
//! A sum in place reads two buffers and writes one; a copy reads one and writes one.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use ringfold::reduce::kernels;
use ringfold::{Element, ReduceOp};
use std::hint::black_box;

const SIZES: [(&str, usize); 2] = [("64 KiB", 64 << 10), ("16 MiB", 16 << 20)];

fn sums(criterion: &mut Criterion) {
    for (name, bytes) in SIZES {
        let mut group = criterion.benchmark_group(format!("sum {name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let (mut into, from) = (vec![0u8; bytes], vec![1u8; bytes]);
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| black_box(&mut into[..]).copy_from_slice(black_box(&from[..])));
        });
        let mut one = Sum { group: &mut group, bytes };
        one.run(1.0f32);
        one.run(1.0f64);
        one.run(f16::ONE);
        one.run(bf16::ONE);
        one.run(1i32);
        group.finish();
    }
}

struct Sum<'a, 'b> {
    group: &'a mut criterion::BenchmarkGroup<'b, criterion::measurement::WallTime>,
    bytes: usize,
}

impl Sum<'_, '_> {
    /// Adds `step` to each element again and again. That floats come to a standstill or to infinity makes no
    /// difference to the time.
    fn run<T: Element>(&mut self, step: T) {
        let count = self.bytes / size_of::<T>();
        let kernels = kernels(ReduceOp::Sum, T::DTYPE).expect("every element type has a sum");
        let (mut into, from) = (vec![T::default(); count], vec![step; count]);
        self.group.bench_function(BenchmarkId::from_parameter(T::DTYPE), |bencher| {
            let data = into.as_mut_ptr().cast::<u8>();
            // SAFETY: both buffers hold `count` elements, and the target is the first source.
            bencher.iter(|| unsafe {
                kernels.combine(black_box(data), data, black_box(from.as_ptr().cast()), count);
            });
        });
    }
}

criterion_group!(benches, sums);
criterion_main!(benches);
