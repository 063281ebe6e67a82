//! Arrow columns and tables beside plain slices of as many bytes.
//!
//! `cargo bench --bench columns` prints the figures. Ranks are two threads of this process, over shared memory and over loopback TCP. What
//! is compared is measured in turn, sample by sample, each time the maximum over the ranks; figures are medians.

use ringfold::arrow::array::{Array, Float32Array, RecordBatch, StringArray, UInt8Array};
use ringfold::config::BackendChoice;
use ringfold::{NullPolicy, Options, ReduceOp};
use std::hint::black_box;
use std::sync::Arc;
use support::{in_turn, on, shown};

mod support;

fn reductions(backend: BackendChoice) {
    println!(
        "\nall_reduce of a column, f32 sum, 2 ranks, over {backend}: how fast beside a slice into a slice, which is 1"
    );
    println!(
        "{:>10} {:>12} {:>10} {:>10} {:>12} {:>12} {:>12}",
        "size", "slice us", "new", "given", "skip, none", "skip, 10 %", "mean, 10 %"
    );
    for bytes in [8usize, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20] {
        let (samples, each) = match bytes {
            0..4096 => (21, 200),
            4096..0x10_0000 => (21, 20),
            0x10_0000..0x100_0000 => (21, 4),
            _ => (15, 1),
        };
        let times = on(backend, 2, |comm| {
            let len = bytes / 4;
            let whole = Float32Array::from_iter_values((0..len).map(|at| (at % 1000) as f32));
            let mut lot = fastrand::Rng::with_seed(comm.rank() as u64);
            let holes =
                Float32Array::from_iter((0..len).map(|at| (lot.u8(..10) > 0).then_some((at % 1000) as f32)));
            let (mut plain, mut given) = (vec![0.0f32; len], vec![0.0f32; len]);
            let skip = comm.with(Options::new().nulls(NullPolicy::Skip));
            in_turn(
                comm,
                samples,
                each,
                &mut [
                    &mut || comm.all_reduce_into(whole.values(), &mut plain, ReduceOp::Sum).unwrap(),
                    &mut || drop(black_box(comm.all_reduce_array(&whole, ReduceOp::Sum).unwrap())),
                    &mut || drop(comm.all_reduce_array_into(&whole, &mut given, ReduceOp::Sum).unwrap()),
                    &mut || drop(black_box(skip.all_reduce_array(&whole, ReduceOp::Sum).unwrap())),
                    &mut || drop(black_box(skip.all_reduce_array(&holes, ReduceOp::Sum).unwrap())),
                    &mut || drop(black_box(skip.all_reduce_array(&holes, ReduceOp::Mean).unwrap())),
                ],
            )
        });
        let beside = |way: usize| times[0] / times[way];
        println!(
            "{:>10} {:>12.2} {:>10.3} {:>10.3} {:>12.3} {:>12.3} {:>12.3}",
            shown(bytes),
            times[0] * 1e6,
            beside(1),
            beside(2),
            beside(3),
            beside(4),
            beside(5)
        );
    }
}

/// Words of 0 to 15 letters, a tenth of them missing, of so many bytes as Arrow has them; and as many bytes as numbers.
fn words(bytes: usize) -> (RecordBatch, UInt8Array) {
    let mut lot = fastrand::Rng::with_seed(7);
    let text = "abcdefghijklmno";
    let rows = bytes * 8 / (8 * 11 + 2); // 7 letters and 4 bytes of offset, and a bit
    let words =
        StringArray::from_iter((0..rows).map(|_| (lot.u8(..10) > 0).then(|| &text[..lot.usize(..16)])));
    let batch = RecordBatch::try_from_iter([("word", Arc::new(words) as Arc<dyn Array>)]).unwrap();
    let bytes = batch.column(0).to_data().get_slice_memory_size().unwrap();
    (batch, UInt8Array::from_iter_values((0..bytes).map(|at| at as u8)))
}

fn tables(backend: BackendChoice) {
    println!(
        "\nall_gather of strings, 2 ranks, over {backend}: how fast beside as many bytes as u8 into a slice, which is 1"
    );
    println!("{:>16} {:>12} {:>10} {:>14}", "of each rank", "slice us", "table", "table of u8");
    for bytes in [4usize << 10, 1 << 20, 32 << 20, 64 << 20] {
        let (samples, each) = if bytes < 1 << 20 { (21, 20) } else { (15, 1) };
        let times = on(backend, 2, |comm| {
            let (batch, numbers) = words(bytes);
            let as_table =
                RecordBatch::try_from_iter([("u8", Arc::new(numbers.clone()) as Arc<dyn Array>)]).unwrap();
            let mut plain = vec![0u8; 2 * numbers.len()];
            in_turn(
                comm,
                samples,
                each,
                &mut [
                    &mut || comm.all_gather(numbers.values(), &mut plain).unwrap(),
                    &mut || drop(black_box(comm.all_gather_record_batch(&batch).unwrap())),
                    &mut || drop(black_box(comm.all_gather_record_batch(&as_table).unwrap())),
                ],
            )
        });
        let beside = |way: usize| times[0] / times[way];
        println!("{:>16} {:>12.2} {:>10.3} {:>14.3}", shown(bytes), times[0] * 1e6, beside(1), beside(2));
    }
}

fn main() {
    for backend in [BackendChoice::Shm, BackendChoice::Tcp] {
        reductions(backend);
        tables(backend);
    }
}
