//! What a call from C costs more than the same call from Rust: at world size 1, where nothing is exchanged.
//!
//! `make -C ffi/c && cargo bench -p ringfold-capi` prints nanoseconds, medians of samples that are taken in turn. The C functions
//! are those of the library as it is installed, called through pointers, as a binding does.

use core::{Communicator, Config, ReduceOp};
use libloading::Library;
use std::ffi::c_void;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

const SAMPLES: usize = 201;
const EACH: usize = 5_000;

#[repr(C)]
#[derive(Clone, Copy)]
struct Dtype {
    code: u8,
    bits: u8,
    lanes: u16,
}

const F32: Dtype = Dtype { code: 2, bits: 32, lanes: 1 };
const SUM: i32 = 1;

const DEADLINE: Duration = Duration::from_secs(60);

/// The bytes of rf_options in the first release, and of rf_error.
const FIRST: u32 = 64;
const ERROR: usize = 1360;

/// As the header has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Options {
    size: u32,
    order: i32,
    check: i32,
    pack: u32,
    deadline_ns: i64,
    algorithm: *const i8,
    stream: *mut c_void,
    reduction: *const c_void,
    request: *mut *mut c_void,
    prepared: *mut *mut c_void,
    nulls: i32,
    reserved_too: u32,
}

type Create = unsafe extern "C" fn(*const c_void, *mut *mut c_void, *mut c_void) -> i32;
type AllReduce = unsafe extern "C" fn(
    *mut c_void,
    *const c_void,
    *mut c_void,
    u64,
    Dtype,
    i32,
    *const Options,
    *mut c_void,
) -> i32;
type Run = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dist/installed");
    let path = root.join(concat!("libringfold.so.", env!("CARGO_PKG_VERSION")));
    // SAFETY: the library runs no code when it is loaded.
    let library = unsafe { Library::new(&path) };
    let library = library.unwrap_or_else(|error| panic!("{error}; build it by make -C ffi/c"));
    // SAFETY: the functions have these types in the header.
    let (create, all_reduce, run): (Create, AllReduce, Run) = unsafe {
        let missing = "the library has every function of the header";
        (
            *library.get(b"rf_comm_create\0").expect(missing),
            *library.get(b"rf_all_reduce\0").expect(missing),
            *library.get(b"rf_prepared_run\0").expect(missing),
        )
    };
    let comm = Communicator::connect(&Config::default()).unwrap();
    let mut data = vec![1.0f32; 2];
    let mut prepared = comm.prepare_all_reduce(vec![1.0f32; 2], ReduceOp::Sum).unwrap();

    let (mut handle, mut run_again) = (null_mut(), null_mut());
    // SAFETY: as the header says.
    assert_eq!(unsafe { create(null(), &raw mut handle, null_mut()) }, 0);
    let mut theirs = [1.0f32; 2];
    let at = theirs.as_mut_ptr().cast::<c_void>();
    let options = Options {
        size: size_of::<Options>() as u32,
        order: 0,
        check: 0,
        pack: 0,
        deadline_ns: 0,
        algorithm: null(),
        stream: null_mut(),
        reduction: null(),
        request: null_mut(),
        prepared: &raw mut run_again,
        nulls: 0,
        reserved_too: 0,
    };
    // SAFETY: as the header says; the memory outlives the prepared operation.
    assert_eq!(unsafe { all_reduce(handle, at, at, 2, F32, SUM, &raw const options, null_mut()) }, 0);

    // The same with options and an error, whose sizes are this version's; and with options as a program of the first release has them.
    let said = Options { deadline_ns: DEADLINE.as_nanos() as i64, prepared: null_mut(), ..options };
    let older = Options { size: FIRST, ..said };
    let mut error = [0u64; ERROR / 8];
    error[0] = ERROR as u64;
    let error = error.as_mut_ptr().cast::<c_void>();

    // SAFETY: as the header says.
    let call = || assert_eq!(unsafe { all_reduce(handle, at, at, 2, F32, SUM, null(), null_mut()) }, 0);
    // SAFETY: as the header says.
    let call_again = || assert_eq!(unsafe { run(run_again, null_mut()) }, 0);
    let call_by = |options: &Options| {
        // SAFETY: as the header says; as many bytes of them are read as their size says.
        assert_eq!(unsafe { all_reduce(handle, at, at, 2, F32, SUM, options, error) }, 0);
    };
    let with = comm.with(core::Options::new().deadline(DEADLINE));
    let mut other = vec![1.0f32; 2];
    // With the row that each is compared to.
    type Way<'a> = (&'static str, Option<usize>, Box<dyn FnMut() + 'a>);
    let mut ways: Vec<Way<'_>> = vec![
        ("all_reduce from Rust", None, Box::new(|| comm.all_reduce(&mut data, ReduceOp::Sum).unwrap())),
        ("all_reduce from C", Some(0), Box::new(call)),
        ("prepared, from Rust", None, Box::new(|| prepared.run().unwrap())),
        ("prepared, from C", Some(2), Box::new(call_again)),
        ("with options, from Rust", None, Box::new(|| with.all_reduce(&mut other, ReduceOp::Sum).unwrap())),
        ("with options and error, from C", Some(4), Box::new(|| call_by(&said))),
        ("the same of an older program", Some(4), Box::new(|| call_by(&older))),
    ];
    let mut times = vec![Vec::new(); ways.len()];
    for sample in 0..SAMPLES + 2 {
        for ((_, _, way), times) in ways.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..EACH {
                way();
            }
            // The first ones make plans.
            if sample >= 2 {
                times.push(begun.elapsed().as_secs_f64() * 1e9 / EACH as f64);
            }
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    println!("{:<32} {:>8} {:>16}", "", "ns", "more than Rust");
    for ((name, base, _), median) in ways.iter().zip(&medians) {
        let more = base.map_or(String::new(), |base| format!("{:+.1}", median - medians[base]));
        println!("{name:<32} {median:>8.1} {more:>16}");
    }
}
