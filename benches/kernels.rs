//! How fast memory is reduced, beside `memcpy` of the same traffic.
//!
//! Traffic is every byte that a kernel reads or writes: combining in place touches three bytes for each byte of
//! the result, a fold of `k` sources `k + 1`, finishing two, a copy two. Every buffer is as long as the size
//! that is named, so that the smallest size stays in the first cache, the next one in the second, and the
//! largest one in none.
//!
//! - `cargo bench --bench kernels` measures with Criterion, each kernel of the best instruction set.
//! - `cargo bench --bench kernels -- table` prints one line a kernel and size: every instruction set that there is
//!   and `memcpy`, measured in turn, and the best set's share of `memcpy`. Further words select: `table f16 sum`.

use criterion::{Criterion, Throughput};
use ringfold::reduce::{InstructionSet, Kernels, kernels};
use ringfold::{DType, ReduceOp};
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("64 MiB", 64 << 20)];

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Into the first of two buffers.
    Combine,
    /// Of so many sources, into one more buffer.
    Fold(usize),
    /// By one, so that the values stay what they are from call to call.
    Finish,
}

impl Shape {
    const ALL: [Shape; 5] = [Shape::Combine, Shape::Fold(2), Shape::Fold(4), Shape::Fold(8), Shape::Finish];

    /// How many times its length a kernel reads or writes.
    fn traffic(self) -> usize {
        match self {
            Shape::Combine => 3,
            Shape::Fold(sources) => sources + 1,
            Shape::Finish => 2,
        }
    }

    /// Sums of everything, and more operations where loops differ.
    fn measures(self, op: ReduceOp, dtype: DType) -> bool {
        let ops: &[ReduceOp] = match (self, dtype) {
            (Shape::Finish, _) => &[ReduceOp::Mean],
            (Shape::Combine, DType::I32 | DType::I64) => &ReduceOp::ALL,
            (Shape::Combine, _) if dtype.is_float() => &[ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min],
            (Shape::Combine, _) => &[ReduceOp::Sum],
            (Shape::Fold(4), DType::F16 | DType::BF16 | DType::F32) => &[ReduceOp::Sum, ReduceOp::Min],
            (Shape::Fold(_), _) => &[ReduceOp::Sum],
        };
        ops.contains(&op) && op.supports(dtype)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Combine => f.pad("combine"),
            Shape::Fold(sources) => f.pad(&format!("fold {sources}")),
            Shape::Finish => f.pad("finish"),
        }
    }
}

/// Every shape with every operation and type that are measured.
fn cases() -> impl Iterator<Item = (Shape, ReduceOp, DType)> {
    let pairs = || DType::ALL.into_iter().flat_map(|dtype| ReduceOp::ALL.map(|op| (op, dtype)));
    let all =
        Shape::ALL.into_iter().flat_map(move |shape| pairs().map(move |(op, dtype)| (shape, op, dtype)));
    all.filter(|(shape, op, dtype)| shape.measures(*op, *dtype))
}

/// Buffers side by side, full of ones: no kernel is slowed down by subnormal numbers.
struct Memory {
    all: Vec<u8>,
    bytes: usize,
}

impl Memory {
    /// Buffers begin at cache lines; these bytes between them keep equal places out of equal sets of a cache.
    const GAP: usize = 5 * 64;

    fn new(buffers: usize, bytes: usize, dtype: DType) -> Self {
        let one = match dtype {
            DType::F16 => 0x3c00,
            DType::BF16 => 0x3f80,
            DType::F32 => 0x3f80_0000,
            DType::F64 => 0x3ff0 << 48,
            _ => 1u64,
        };
        let one = &one.to_le_bytes()[..dtype.size()];
        Memory { all: one.repeat((buffers * (bytes + Memory::GAP) + 64) / one.len()), bytes }
    }

    fn buffer(&mut self, index: usize) -> *mut u8 {
        let aligned = self.all.as_ptr().align_offset(64);
        self.all[aligned + index * (self.bytes + Memory::GAP)..].as_mut_ptr()
    }
}

/// A kernel, ready to run again and again.
fn kernel(
    shape: Shape,
    dtype: DType,
    kernels: &'static Kernels,
    memory: &mut Memory,
) -> impl FnMut() + use<> {
    let count = memory.bytes / dtype.size();
    let into = memory.buffer(0);
    let sources: Vec<*const u8> = (1..shape.traffic()).map(|i| memory.buffer(i).cast_const()).collect();
    move || {
        let (into, sources) = (black_box(into), black_box(&sources[..]));
        // SAFETY: each buffer holds `count` elements, and is apart from the others; the caller keeps them.
        unsafe {
            match shape {
                Shape::Combine => kernels.combine(into, into, sources[0], count),
                Shape::Fold(_) => kernels.fold(into, sources, count),
                Shape::Finish => kernels.finish(into, count, 1),
            }
        }
    }
}

/// A copy with as much traffic: from the first half of the memory to the second.
fn copy(shape: Shape, memory: &mut Memory) -> impl FnMut() + use<> {
    let half = shape.traffic() * memory.bytes / 2;
    let start = memory.buffer(0);
    move || {
        let start = black_box(start);
        // SAFETY: there are `shape.traffic()` buffers, one after the other; the caller keeps them.
        unsafe { start.add(half).copy_from_nonoverlapping(start, half) }
    }
}

fn criterion() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for (size, bytes) in SIZES {
        for shape in Shape::ALL {
            let mut group = criterion.benchmark_group(format!("{shape} {size}"));
            group.throughput(Throughput::Bytes((shape.traffic() * bytes) as u64));
            let mut memory = Memory::new(shape.traffic(), bytes, DType::U8);
            group.bench_function("memcpy", |bencher| bencher.iter(copy(shape, &mut memory)));
            for (_, op, dtype) in cases().filter(|case| case.0 == shape) {
                let mut memory = Memory::new(shape.traffic(), bytes, dtype);
                let kernels = kernels(op, dtype).expect("only what is supported is measured");
                group.bench_function(format!("{op} {dtype}"), |bencher| {
                    bencher.iter(kernel(shape, dtype, kernels, &mut memory));
                });
            }
        }
    }
    criterion.final_summary();
}

/// The best of many short rounds in which all candidates take turns: what else runs here only ever slows them down.
fn table(words: &[String]) {
    const LEAST_ROUNDS: usize = 7;
    const ALL_ROUNDS: Duration = Duration::from_millis(80);
    const ROUND: Duration = Duration::from_micros(200);
    let sets: Vec<InstructionSet> =
        InstructionSet::ALL.into_iter().filter(|set| set.is_available()).collect();
    print!("{:8} {:7} {:5} {:>7}", "GB/s", "op", "type", "size");
    sets.iter().for_each(|set| print!(" {set:>8}"));
    println!(" {:>8} {:>6}", "memcpy", "ratio");
    for (shape, op, dtype) in cases() {
        for (size, bytes) in SIZES {
            let name = format!("{shape:8} {op:7} {dtype:5} {size:>7}");
            if !words.iter().all(|word| name.split_whitespace().any(|part| part == word)) {
                continue;
            }
            let mut memory = Memory::new(shape.traffic(), bytes, dtype);
            let mut runs: Vec<Box<dyn FnMut()>> = Vec::new();
            for set in &sets {
                let kernels = set.kernels(op, dtype).expect("the set is there, and the case is supported");
                runs.push(Box::new(kernel(shape, dtype, kernels, &mut memory)));
            }
            runs.push(Box::new(copy(shape, &mut memory)));
            let times: Vec<usize> =
                runs.iter_mut().map(|run| 1 + (ROUND.as_nanos() / once(run).max(1)) as usize).collect();
            let mut seconds = vec![f64::MAX; runs.len()];
            let begin = Instant::now();
            let mut rounds = 0;
            while rounds < LEAST_ROUNDS || begin.elapsed() < ALL_ROUNDS {
                for ((run, times), least) in runs.iter_mut().zip(&times).zip(&mut seconds) {
                    let start = Instant::now();
                    (0..*times).for_each(|_| run());
                    *least = least.min(start.elapsed().as_secs_f64() / *times as f64);
                }
                rounds += 1;
            }
            let traffic = (shape.traffic() * bytes) as f64;
            let speeds: Vec<f64> = seconds.into_iter().map(|seconds| traffic / seconds / 1e9).collect();
            print!("{name}");
            speeds.iter().for_each(|speed| print!(" {speed:8.1}"));
            println!(" {:6.2}", speeds[sets.len() - 1] / speeds[sets.len()]);
        }
    }
}

/// Nanoseconds of the second call.
fn once(run: &mut dyn FnMut()) -> u128 {
    run();
    let start = Instant::now();
    run();
    start.elapsed().as_nanos()
}

fn main() {
    let mut words = std::env::args().skip(1).skip_while(|word| word != "table");
    match words.next() {
        Some(_) => table(&words.filter(|word| word != "--bench").collect::<Vec<_>>()),
        None => criterion(),
    }
}
