//! What plans cost: making one, lowering and proving a group's, and finding one in the cache before each call.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringfold::backend::{Planned, STAGING};
use ringfold::collective::{Collective, Request};
use ringfold::plan::Reach;
use ringfold::plan::select::Table;
use ringfold::plan::verify::verify;
use ringfold::plan::{Plan, lower::lower};
use ringfold::transport::channel::channel;
use ringfold::{Algorithm, DType};
use std::hint::black_box;

fn cached(c: &mut Criterion) {
    let mut group = c.benchmark_group("a cached plan is looked up");
    let table = Table::default();
    for different in [1, 100] {
        let mut backend = Planned::new("channel", channel(4).remove(0), 0, 0, STAGING);
        let requests: Vec<Request> =
            (0..different).map(|i| Request::new(Collective::AllReduce, 4, DType::F32, 1000 + i)).collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::new("different requests in turn", different), |b| {
            b.iter(|| {
                next = (next + 1) % requests.len();
                let schedule = table.select(&requests[next]).unwrap();
                backend.prepare(black_box(&requests[next]), schedule).unwrap();
            });
        });
    }
    group.finish();
}

fn made(c: &mut Criterion) {
    let mut group = c.benchmark_group("all_reduce of 64 ranks");
    let request = Request::new(Collective::AllReduce, 64, DType::F32, 1 << 20);
    let table = Table::default();
    for algorithm in Algorithm::within(Reach::Messages).filter(|algorithm| algorithm.check(&request).is_ok())
    {
        let schedule = table.schedule(&request, algorithm);
        group.bench_function(BenchmarkId::new("one rank's plan made and lowered", algorithm), |b| {
            b.iter(|| lower(Plan::generate(black_box(&request), 5, schedule).unwrap()).unwrap());
        });
        let plans: Vec<Plan> =
            (0..64).map(|rank| Plan::generate(&request, rank, schedule).unwrap()).collect();
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("all ranks' plans proved", algorithm), |b| {
            b.iter(|| verify(black_box(&plans)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, cached, made);
criterion_main!(benches);
