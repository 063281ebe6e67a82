//! What the NCCL backend takes of the host for an operation, over stand-ins for the driver and for NCCL: what is measured is the library's
//! own work and the stand-ins' (a task in a queue, taken when it is asked about), and nothing of a GPU or of NCCL.

#![allow(dead_code)]

#[path = "../tests/calls/mod.rs"]
mod calls;
#[path = "../tests/nccl/rank.rs"]
mod rank;
#[path = "../tests/nccl/stand_in.rs"]
mod stand_in;

use criterion::{Criterion, criterion_group, criterion_main};
use rank::{Place, Rank, ranks, upload};
use ringfold::backend::{Backend, Buffers, Operation, Progress};
use ringfold::collective::Request;
use ringfold::cuda::OwnStream;
use ringfold::{Collective, DType};
use stand_in::StandIn;
use std::time::Duration;

fn operation(rank: &mut Rank, buffers: Buffers, count: usize) -> Operation {
    let mut request = Request::new(Collective::AllReduce, 1, DType::F32, count);
    request.in_place = true;
    rank.operation(request, buffers, Duration::from_secs(60))
}

fn calls(criterion: &mut Criterion) {
    let stand_in = StandIn::new();
    stand_in.set("quiet", 1);
    let mut group = ranks(&stand_in, 1, Place::OnDevice, 1 << 20);
    let rank = &mut group[0];
    let memory = upload(&rank.context, &[0; 64]);
    let pointer = std::ptr::without_provenance_mut::<u8>(memory.address() as usize);
    let buffers = Buffers { input: pointer, output: pointer };
    let stream = OwnStream::new(&rank.context).unwrap();
    let mut suite = criterion.benchmark_group("nccl over a stand-in");
    suite.bench_function("run: an all_reduce on the device, to its end", |bencher| {
        bencher.iter(|| {
            let one = operation(rank, buffers, 16);
            rank.backend.run(&mut Some(one)).unwrap();
        });
    });
    suite.bench_function("run, on the caller's stream", |bencher| {
        bencher.iter(|| {
            let one = operation(rank, buffers, 16).on_stream(stream.stream());
            rank.backend.run(&mut Some(one)).unwrap();
        });
    });
    suite.bench_function("submit and progress: an all_reduce is queued, and found done", |bencher| {
        bencher.iter(|| {
            let one = operation(rank, buffers, 16);
            let ticket = rank.backend.submit(one).unwrap();
            loop {
                if let Progress::Done(done, result) = rank.backend.progress() {
                    assert_eq!(done, ticket);
                    break result.unwrap();
                }
            }
        });
    });
    let mut staging = ranks(&stand_in, 1, Place::Host, 1 << 20);
    let mut data = vec![0f32; 16];
    suite.bench_function("run: 64 bytes of the host, staged", |bencher| {
        bencher.iter(|| {
            let buffers = Buffers { input: data.as_ptr().cast(), output: data.as_mut_ptr().cast() };
            let one = operation(&mut staging[0], buffers, 16);
            staging[0].backend.run(&mut Some(one)).unwrap();
        });
    });
    suite.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
