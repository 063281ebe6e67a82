//! Reductions that users write: values, order, widths, disagreement and panics.

use ringfold::plan::{Algorithm, Reach};
use ringfold::reduce::CustomOp;
use ringfold::tensor::{TensorMut, TensorRef};
use ringfold::{Collective, Communicator, DType, ErrorKind, Options, ReduceOp};
use std::sync::Arc;
use std::thread;

#[path = "support/mod.rs"]
mod support;

fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// 2x2 matrices modulo 2^16, which do not commute, as one value of 8 bytes.
type Matrix = [u16; 4];

fn product(a: Matrix, b: Matrix) -> Matrix {
    let cell = |row: usize, column: usize| {
        let term = |k: usize| a[2 * row + k].wrapping_mul(b[2 * k + column]);
        term(0).wrapping_add(term(1))
    };
    [cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1)]
}

fn matrix(bytes: &[u8]) -> Matrix {
    [0, 2, 4, 6].map(|at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]))
}

fn bytes(matrix: Matrix) -> [u8; 8] {
    let mut bytes = [0; 8];
    for (cell, into) in matrix.iter().zip(bytes.chunks_exact_mut(2)) {
        into.copy_from_slice(&cell.to_ne_bytes());
    }
    bytes
}

fn products() -> CustomOp {
    ReduceOp::custom_bytes("matrix product", 8, false, |a, b, into| {
        into.copy_from_slice(&bytes(product(matrix(a), matrix(b))));
    })
    .unwrap()
}

fn of(rank: usize, i: usize) -> Matrix {
    [1 + rank * 3 + i, 2 + i * 5, 3 + rank * 7, 5 + rank + i].map(|x| x as u16)
}

#[test]
fn what_does_not_commute_is_combined_in_rank_order_by_every_algorithm() {
    let collectives = [Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter];
    let mut tried = 0;
    for world in 1..=9 {
        for collective in collectives {
            let algorithms: Vec<_> =
                std::iter::once(None).chain(Algorithm::within(Reach::Messages).map(Some)).collect();
            for algorithm in algorithms {
                let root = world / 2;
                let values = 13 * world;
                let results = on(Communicator::local(world), |comm| {
                    let input: Vec<u8> = (0..values).flat_map(|i| bytes(of(comm.rank(), i))).collect();
                    let mut options = Options::new();
                    if let Some(algorithm) = algorithm {
                        options = options.algorithm(algorithm);
                    }
                    let with = comm.with(options);
                    let op = products();
                    let whole = if collective == Collective::ReduceScatter { 13 } else { values };
                    let mut output = vec![0u8; whole * 8];
                    let result = match collective {
                        Collective::AllReduce => with.all_reduce_into(&input, &mut output, &op),
                        Collective::Reduce => with.reduce_into(&input, &mut output, &op, root),
                        _ => with.reduce_scatter(&input, &mut output, &op),
                    };
                    result.map(|()| output)
                });
                for (rank, result) in results.into_iter().enumerate() {
                    let output = match result {
                        Err(error) => {
                            // Not all of them can combine in rank order.
                            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                            assert!(algorithm.is_some());
                            continue;
                        }
                        Ok(output) => output,
                    };
                    if collective == Collective::Reduce && rank != root {
                        continue;
                    }
                    tried += 1;
                    let first = if collective == Collective::ReduceScatter { rank * 13 } else { 0 };
                    for (i, got) in output.chunks_exact(8).enumerate() {
                        let expected =
                            (1..world).fold(of(0, first + i), |left, r| product(left, of(r, first + i)));
                        assert_eq!(
                            matrix(got),
                            expected,
                            "{collective} by {algorithm:?}, {world} ranks, {i}"
                        );
                    }
                }
            }
        }
    }
    assert!(tried > 300, "{tried} results only");
}

#[test]
fn elements_are_combined_by_a_function_over_threads_and_sockets() {
    let gcd = || {
        ReduceOp::custom("gcd", true, |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        })
    };
    for group in [Communicator::local(3), support::communicators(3), support::over_sockets(3)] {
        on(group, |comm| {
            for len in [1usize, 1000, 300_000] {
                let mut data: Vec<u64> =
                    (0..len as u64).map(|i| (i + 1) * [6, 10, 15][comm.rank()]).collect();
                comm.all_reduce(&mut data, gcd()).unwrap();
                assert!(data.iter().zip(1..).all(|(&x, i)| x == i));
                let data = vec![[4u64, 6, 8][comm.rank()]; len];
                let data = comm.start_all_reduce(data, gcd()).unwrap().wait().unwrap();
                assert!(data.iter().all(|&x| x == 2));
            }
        });
    }
}

#[test]
fn wide_values_cross_staging_buffers_and_batches() {
    // 3 x 1000 bytes: the largest byte of each place.
    let width = 1000;
    let largest = ReduceOp::custom_bytes("largest", width, true, |a, b, into| {
        for ((a, b), into) in a.iter().zip(b).zip(into) {
            *into = *a.max(b);
        }
    })
    .unwrap();
    for group in [Communicator::local(4), support::communicators(4), support::over_sockets(4)] {
        on(group, |comm| {
            for values in [1usize, 3, 700] {
                let byte = |rank: usize, i: usize| (i * 31 + rank * 77 + i / 256) as u8;
                let mut data: Vec<u8> = (0..values * width).map(|i| byte(comm.rank(), i)).collect();
                let mut one = data[..width].to_vec();
                let mut views = [TensorMut::from_slice(&mut data), TensorMut::from_slice(&mut one)];
                comm.all_reduce_batch(&mut views, &largest).unwrap();
                for (i, got) in data.iter().enumerate() {
                    assert_eq!(*got, (0..4).map(|rank| byte(rank, i)).max().unwrap());
                }
                assert_eq!(one, data[..width]);
            }
        });
    }
}

#[test]
fn tensors_that_do_not_fit_the_reduction_are_refused() {
    let comm = Communicator::local(1).remove(0);
    let op = products();
    let kind = |result: ringfold::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(comm.all_reduce(&mut [0u8; 12], &op)), ErrorKind::InvalidArgument);
    assert_eq!(kind(comm.all_reduce(&mut [0u16; 4], &op)), ErrorKind::InvalidArgument);
    let add = ReduceOp::custom("add", true, |a: f32, b: f32| a + b);
    assert_eq!(kind(comm.all_reduce(&mut [0.0f64], &add)), ErrorKind::InvalidArgument);
    let (input, mut output) = ([0.0f32], [0u32]);
    let apart = (TensorRef::from_slice(&input), TensorMut::from_slice(&mut output));
    assert_eq!(kind(comm.all_reduce_dyn(apart, &add)), ErrorKind::InvalidArgument);
    assert_eq!(DType::U8, op.dtype());
}

#[test]
fn reductions_of_other_names_or_kinds_are_a_mismatch() {
    for other in 0..3 {
        for error in on(Communicator::local(2), |comm| {
            let mut data = [comm.rank() as f32 + 1.0];
            let first = ReduceOp::custom("first", true, |a: f32, _: f32| a);
            let result = match (comm.rank(), other) {
                (0, _) => comm.all_reduce(&mut data, &first),
                (_, 0) => comm.all_reduce(&mut data, ReduceOp::custom("second", true, |a: f32, _: f32| a)),
                (_, 1) => comm.all_reduce(&mut data, ReduceOp::custom("first", false, |a: f32, _: f32| a)),
                _ => comm.all_reduce(&mut data, ReduceOp::Sum),
            };
            assert_eq!(data, [comm.rank() as f32 + 1.0], "memory has changed");
            result.unwrap_err()
        }) {
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        }
    }
}

/// Row 38 of the failure catalogue, among threads; with processes it is in `failures.rs`.
#[test]
fn a_panic_in_a_reduction_is_told_to_every_rank() {
    for group in [Communicator::local(3), support::communicators(3), support::over_sockets(3)] {
        for error in on(group, |comm| {
            let me = comm.rank();
            let op = ReduceOp::custom("picky", true, move |a: i64, b: i64| {
                assert!(me != 1, "rank 1 does not like {a} and {b}");
                a + b
            });
            let mut data = [7i64; 3];
            let error = comm.all_reduce(&mut data, &op).unwrap_err();
            let again = comm.barrier().unwrap_err();
            assert_eq!((again.kind(), again.culprit()), (error.kind(), error.culprit()));
            error
        }) {
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::UserPanic, Some(1)), "{error}");
            let text = error.to_string();
            assert!(text.contains("picky") && text.contains("does not like 7 and 7"), "{text}");
        }
    }
}

#[test]
fn what_a_reduction_captures_is_let_go_of_with_the_call() {
    for group in [Communicator::local(2), support::communicators(2), support::over_sockets(2)] {
        on(group, |comm| {
            let captured = Arc::new(1u64);
            let weak = Arc::downgrade(&captured);
            let op = ReduceOp::custom("plus one", true, move |a: u64, b: u64| a + b + *captured);
            let mut data = [4u64; 3];
            comm.all_reduce(&mut data, &op).unwrap();
            assert_eq!(data, [9; 3]);
            drop(op);
            assert!(weak.upgrade().is_none(), "the communicator still has the function");
        });
    }
}

#[test]
fn counts_of_wide_values_are_elements_like_all_counts() {
    let largest = ReduceOp::custom_bytes("largest word", 4, true, |a, b, into| {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        into.copy_from_slice(&word(a).max(word(b)).to_ne_bytes());
    })
    .unwrap();
    let counts = [4, 0, 8];
    on(Communicator::local(3), |comm| {
        let rank = comm.rank();
        let words = [rank as u32, 7 - rank as u32, 10 * rank as u32];
        let input: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut output = vec![0u8; counts[rank]];
        comm.reduce_scatter_v(&input, &mut output, &counts, &largest).unwrap();
        let expected: Vec<u8> = [2u32, 7, 20].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let at: usize = counts[..rank].iter().sum();
        assert_eq!(output, expected[at..at + counts[rank]]);
        let odd = comm.reduce_scatter_v(&input, &mut output, &[5, 0, 7], &largest).unwrap_err();
        assert_eq!(odd.kind(), ErrorKind::InvalidArgument);
        assert!(odd.to_string().contains("no whole values"), "{odd}");
    });
}
