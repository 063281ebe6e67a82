use super::{InstructionSet, Kernels, kernels};
use crate::reduce::{ReduceOp, oracle};
use crate::tensor::{DType, Element};
use fastrand::Rng;
use half::{bf16, f16};
use std::collections::BTreeSet;
use std::fmt::Debug;

/// What the tests need of an element: its bits, and whether it is a NaN.
trait Sample: Element + Debug {
    fn from_bits(bits: u64) -> Self;
    fn bits(self) -> u64;
    fn is_nan(self) -> bool;
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Sample for $t {
            fn from_bits(bits: u64) -> Self {
                bits as $t
            }

            fn bits(self) -> u64 {
                self as u64
            }

            fn is_nan(self) -> bool {
                false
            }
        }
    )*};
}

macro_rules! floats {
    ($($t:ty: $bits:ty)*) => {$(
        impl Sample for $t {
            fn from_bits(bits: u64) -> Self {
                <$t>::from_bits(bits as $bits)
            }

            fn bits(self) -> u64 {
                self.to_bits() as u64
            }

            fn is_nan(self) -> bool {
                <$t>::is_nan(self)
            }
        }
    )*};
}

integers! { i8 i16 i32 i64 u8 u16 u32 u64 }
floats! { f16: u16 bf16: u16 f32: u32 f64: u64 }

/// Bit patterns at the edges of the type: extreme integers, zeros, infinities, NaNs, the smallest and largest
/// subnormals and normals, and a few plain numbers.
fn special<T: Sample>() -> Vec<T> {
    let width = 8 * size_of::<T>() as u32;
    let sign = 1u64 << (width - 1);
    let (infinity, quiet, one) = match T::DTYPE {
        DType::F16 => (0x7c00, 0x0200, 0x3c00),
        DType::BF16 => (0x7f80, 0x0040, 0x3f80),
        DType::F32 => (0x7f80_0000, 1 << 22, 0x3f80_0000),
        DType::F64 => (0x7ff0 << 48, 1 << 51, 0x3ff0 << 48),
        _ => (sign - 1, 1, 1),
    };
    let smallest_normal = (infinity & !(infinity << 1)).max(1);
    let magnitudes = [
        0,
        1,
        2,
        3,
        smallest_normal - 1,
        smallest_normal,
        smallest_normal + 1,
        one - 1,
        one,
        one + 1,
        one + quiet,
        infinity - 1,
        infinity,
        infinity + 1,
        infinity + quiet,
        infinity + quiet + 1,
        sign - 1,
    ];
    magnitudes.iter().flat_map(|bits| [T::from_bits(*bits), T::from_bits(bits ^ sign)]).collect()
}

/// Special values, random bits and, for floats, random numbers that are near enough to interact.
fn mixture<T: Sample>(rng: &mut Rng, count: usize) -> Vec<T> {
    let special = special::<T>();
    let near = |rng: &mut Rng| {
        let value = (rng.f64() - 0.5) * 64.0;
        match T::DTYPE {
            DType::F16 => f16::from_f64(value).bits(),
            DType::BF16 => bf16::from_f64(value).bits(),
            DType::F32 => (value as f32).bits(),
            DType::F64 => value.bits(),
            _ => value as i64 as u64,
        }
    };
    let mut one = || match rng.u8(..4) {
        0 => special[rng.usize(..special.len())],
        1 => T::from_bits(rng.u64(..)),
        _ => T::from_bits(near(rng)),
    };
    (0..count).map(|_| one()).collect()
}

/// Elements in bytes, `shift` bytes away from wherever the allocator put them, with room to see overruns.
#[derive(Clone)]
struct Memory {
    bytes: Vec<u8>,
    shift: usize,
}

const FENCE: u8 = 0xa5;

impl Memory {
    fn of<T: Sample>(elements: &[T], shift: usize) -> Self {
        let mut bytes = vec![FENCE; shift];
        for element in elements {
            bytes.extend_from_slice(&element.bits().to_le_bytes()[..size_of::<T>()]);
        }
        bytes.extend_from_slice(&[FENCE; 64]);
        Memory { bytes, shift }
    }

    fn data(&mut self) -> *mut u8 {
        self.bytes[self.shift..].as_mut_ptr()
    }

    fn elements<T: Sample>(&self, count: usize) -> Vec<T> {
        let (before, rest) = self.bytes.split_at(self.shift);
        let (data, after) = rest.split_at(count * size_of::<T>());
        assert!(before.iter().chain(after).all(|byte| *byte == FENCE), "written out of bounds");
        let bits = data.chunks(size_of::<T>()).map(|element| {
            let mut bits = [0; 8];
            bits[..size_of::<T>()].copy_from_slice(element);
            u64::from_le_bytes(bits)
        });
        bits.map(T::from_bits).collect()
    }
}

#[track_caller]
fn assert_same<T: Sample>(op: ReduceOp, got: &[T], wanted: &[T], what: &dyn Fn(usize) -> String) {
    assert_eq!(got.len(), wanted.len());
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let any_nan = got.is_nan() && wanted.is_nan() && !has_one_nan::<T>(op);
        let same = got.bits() == wanted.bits() || any_nan;
        let bits = || format!("{:#x}, not {:#x}", got.bits(), wanted.bits());
        assert!(same, "element {i}: {got:?}, not {wanted:?} ({}): {}", bits(), what(i));
    }
}

/// Whether a NaN that is computed has one form only.
fn has_one_nan<T: Sample>(op: ReduceOp) -> bool {
    size_of::<T>() == 2 || matches!(op, ReduceOp::Min | ReduceOp::Max)
}

/// What the oracle computes, with the NaN that is promised where there is one form only.
fn computed<T: Sample>(op: ReduceOp, value: T) -> T {
    let nan = match T::DTYPE {
        DType::F16 => 0x7e00,
        DType::BF16 => 0x7fc0,
        DType::F32 => 0x7fc0_0000,
        _ => 0x7ff8 << 48,
    };
    if value.is_nan() && has_one_nan::<T>(op) { T::from_bits(nan) } else { value }
}

fn combined<T: Sample>(op: ReduceOp, a: T, b: T) -> T {
    computed(op, oracle::combine(op, a, b))
}

/// A single value is not computed but copied.
fn folded<T: Sample>(op: ReduceOp, values: &[T]) -> T {
    let result = oracle::fold(op, values);
    if values.len() == 1 { result } else { computed(op, result) }
}

/// The balanced tree, one node at a time.
fn tree<T: Sample>(op: ReduceOp, values: &[T]) -> T {
    if let [value] = values {
        return *value;
    }
    let (low, high) = values.split_at(values.len().next_power_of_two() / 2);
    combined(op, tree(op, low), tree(op, high))
}

fn finished<T: Sample>(op: ReduceOp, value: T, world: usize) -> T {
    let result = oracle::finish(op, value, world);
    if op == ReduceOp::Mean { computed(op, result) } else { result }
}

/// One thing to be checked for every operation and type that go together, with every instruction set that there is.
trait Check {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels);
}

fn everywhere(check: &mut impl Check) {
    fn one<T: Sample>(op: ReduceOp, check: &mut impl Check) {
        for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
            match set.kernels(op, T::DTYPE) {
                Some(kernels) => {
                    assert!(op.supports(T::DTYPE), "{op} {}", T::DTYPE);
                    check.check::<T>(op, kernels);
                }
                None => assert!(!op.supports(T::DTYPE), "{op} {}", T::DTYPE),
            }
        }
    }
    for op in ReduceOp::ALL {
        one::<f16>(op, check);
        one::<bf16>(op, check);
        one::<f32>(op, check);
        one::<f64>(op, check);
        one::<i8>(op, check);
        one::<i16>(op, check);
        one::<i32>(op, check);
        one::<i64>(op, check);
        one::<u8>(op, check);
        one::<u16>(op, check);
        one::<u32>(op, check);
        one::<u64>(op, check);
    }
}

/// Every length up to two of the longest blocks and a bit, and some large ones.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=130).chain([1000, 4099])
}

struct Combine(Rng);

impl Check for Combine {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        for count in lengths() {
            let [shift_a, shift_b, shift_into] = [self.0.usize(..16), self.0.usize(..16), self.0.usize(..16)];
            let (a, b) = (mixture::<T>(&mut self.0, count), mixture::<T>(&mut self.0, count));
            let pairs = || a.iter().zip(&b);
            let wanted: Vec<T> = pairs().map(|(a, b)| combined(op, *a, *b)).collect();
            let doubled: Vec<T> = a.iter().map(|a| combined(op, *a, *a)).collect();
            let what = |i: usize| format!("{op} {} of {:?} and {:?}", T::DTYPE, a[i], b[i]);
            let (mut memory_a, mut memory_b) = (Memory::of(&a, shift_a), Memory::of(&b, shift_b));
            let mut apart = Memory::of(&vec![T::from_bits(0x5b); count], shift_into);

            // SAFETY: each memory holds `count` elements and is its own.
            unsafe { kernels.combine(apart.data(), memory_a.data(), memory_b.data(), count) };
            assert_same(op, &apart.elements::<T>(count), &wanted, &what);
            assert_eq!(memory_a.elements::<T>(count).len(), memory_b.elements::<T>(count).len());

            let mut into_a = memory_a.clone();
            let data = into_a.data();
            // SAFETY: as above; the target is the first source.
            unsafe { kernels.combine(data, data, memory_b.data(), count) };
            assert_same(op, &into_a.elements::<T>(count), &wanted, &what);

            let mut into_b = memory_b.clone();
            let data = into_b.data();
            // SAFETY: as above; the target is the second source.
            unsafe { kernels.combine(data, memory_a.data(), data, count) };
            assert_same(op, &into_b.elements::<T>(count), &wanted, &what);

            let data = memory_a.data();
            // SAFETY: as above; the target is both sources.
            unsafe { kernels.combine(data, data, data, count) };
            assert_same(op, &memory_a.elements::<T>(count), &doubled, &what);
        }
    }
}

#[test]
fn combine_equals_the_oracle() {
    everywhere(&mut Combine(Rng::with_seed(1)));
}

/// Every value of a set with every other, both ways round.
struct Pairs(Rng);

impl Check for Pairs {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        let mut values = special::<T>();
        let more = if size_of::<T>() == 2 { 400 } else { 60 };
        values.extend(mixture::<T>(&mut self.0, more));
        let count = values.len();
        let mut all = Memory::of(&values, 0);
        for value in &values {
            let mut one = Memory::of(&vec![*value; count], 1);
            let mut results = [one.clone(), one.clone()];
            let [there, back] = &mut results;
            // SAFETY: each memory holds `count` elements and is its own.
            unsafe {
                kernels.combine(there.data(), one.data(), all.data(), count);
                kernels.combine(back.data(), all.data(), one.data(), count);
            }
            let [there, back] = results.map(|memory| memory.elements::<T>(count));
            let wanted: Vec<T> = values.iter().map(|other| combined(op, *value, *other)).collect();
            let what = |i: usize| format!("{op} {} of {value:?} and {:?}", T::DTYPE, values[i]);
            assert_same(op, &there, &wanted, &what);
            assert_same(op, &back, &wanted, &what);
        }
    }
}

#[test]
fn combine_equals_the_oracle_for_all_pairs_both_ways() {
    everywhere(&mut Pairs(Rng::with_seed(2)));
}

/// Every 16-bit float with each of a sample, both ways round, and divided.
struct EveryHalf(Rng);

impl Check for EveryHalf {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        if !matches!(T::DTYPE, DType::F16 | DType::BF16) {
            return;
        }
        let every: Vec<T> = (0..1 << 16).map(T::from_bits).collect();
        let count = every.len();
        let mut all = Memory::of(&every, 1);
        let mut others: Vec<T> = special().into_iter().step_by(3).collect();
        others.extend(mixture::<T>(&mut self.0, 4));
        for other in others {
            let mut one = Memory::of(&vec![other; count], 0);
            let [mut there, mut back] = [one.clone(), one.clone()];
            // SAFETY: each memory holds `count` elements and is its own.
            unsafe {
                kernels.combine(there.data(), all.data(), one.data(), count);
                kernels.combine(back.data(), one.data(), all.data(), count);
            }
            let wanted: Vec<T> = every.iter().map(|value| combined(op, *value, other)).collect();
            let what = |i: usize| format!("{op} {} of {:?} and {other:?}", T::DTYPE, every[i]);
            assert_same(op, &there.elements::<T>(count), &wanted, &what);
            assert_same(op, &back.elements::<T>(count), &wanted, &what);
        }
        for world in [1, 3, 64, 1000] {
            let mut divided = all.clone();
            // SAFETY: the memory holds `count` elements.
            unsafe { kernels.finish(divided.data(), count, world) };
            let wanted: Vec<T> = every.iter().map(|value| finished(op, *value, world)).collect();
            let what = |i: usize| format!("{op} {} of {:?} by {world}", T::DTYPE, every[i]);
            assert_same(op, &divided.elements::<T>(count), &wanted, &what);
        }
    }
}

#[test]
fn every_16_bit_float_equals_the_oracle() {
    everywhere(&mut EveryHalf(Rng::with_seed(5)));
}

/// Sums that end between two 16-bit floats, just beside the middle and on it, for both formats.
struct Ties;

impl Check for Ties {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        // One and its step, in each format; a quarter of a step is what makes the difference between ties.
        let (one, step) = match T::DTYPE {
            DType::F16 => (0x3c00, 0x1400),
            DType::BF16 => (0x3f80, 0x3c00),
            _ => return,
        };
        if op != ReduceOp::Sum {
            return;
        }
        let exponent = if T::DTYPE == DType::F16 { 1 << 10 } else { 1 << 7 };
        let [half, quarter] = [1, 2].map(|less| step - less * exponent);
        let mut columns = Vec::new();
        for sign in [0, 1 << 15] {
            for big in [one, one + 1, one + 2, one + 3] {
                for small in [half, half | 1 << 15] {
                    for smaller in [0, quarter, quarter | 1 << 15, 1, 1 | 1 << 15] {
                        columns.push([big ^ sign, small, smaller].map(T::from_bits));
                    }
                }
            }
        }
        let count = columns.len();
        let mut sources: [Memory; 3] = std::array::from_fn(|i| {
            Memory::of(&columns.iter().map(|column| column[i]).collect::<Vec<_>>(), i)
        });
        let mut into = Memory::of(&vec![T::default(); count], 3);
        let pointers = sources.each_mut().map(|source| source.data().cast_const());
        // SAFETY: each memory holds `count` elements and is its own.
        unsafe { kernels.fold(into.data(), &pointers, count) };
        let wanted: Vec<T> = columns.iter().map(|column| folded(op, column)).collect();
        let distinct =
            |results: &[T]| results.iter().map(|value| value.bits()).collect::<BTreeSet<_>>().len();
        assert!(distinct(&wanted) > 8, "the columns round to both sides");
        assert_same(op, &into.elements::<T>(count), &wanted, &|i| format!("{:?}", columns[i]));
        // SAFETY: as above.
        unsafe { kernels.combine(into.data(), pointers[0], pointers[1], count) };
        let wanted: Vec<T> = columns.iter().map(|[a, b, _]| combined(op, *a, *b)).collect();
        assert_same(op, &into.elements::<T>(count), &wanted, &|i| format!("{:?}", columns[i]));
    }
}

#[test]
fn ties_are_rounded_to_even_once() {
    everywhere(&mut Ties);
}

#[test]
fn the_best_instruction_set_is_one_that_is_there_and_is_used() {
    assert!(InstructionSet::Baseline.is_available());
    let best = InstructionSet::best();
    assert!(best.is_available());
    for op in ReduceOp::ALL {
        for dtype in DType::ALL {
            let [used, of_best] = [kernels(op, dtype), best.kernels(op, dtype)];
            assert_eq!(used.map(std::ptr::from_ref), of_best.map(std::ptr::from_ref), "{op} {dtype}");
        }
    }
    for set in InstructionSet::ALL {
        assert_eq!(set.kernels(ReduceOp::Sum, DType::F16).is_some(), set.is_available(), "{set}");
    }
}

struct Fold(Rng);

impl Check for Fold {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        for count in lengths() {
            let ranks = if count == 0 { 3 } else { 1 + count % 6 };
            let values: Vec<Vec<T>> = (0..ranks).map(|_| mixture(&mut self.0, count)).collect();
            let column = |i: usize| values.iter().map(|source| source[i]).collect::<Vec<T>>();
            let wanted: Vec<T> = (0..count).map(|i| folded(op, &column(i))).collect();
            let what = |i: usize| format!("{op} {} of {:?}", T::DTYPE, column(i));

            let mut memory: Vec<Memory> =
                values.iter().map(|source| Memory::of(source, self.0.usize(..16))).collect();
            let mut sources: Vec<*const u8> =
                memory.iter_mut().map(|source| source.data().cast_const()).collect();
            let mut apart = Memory::of(&vec![T::from_bits(0x5b); count], self.0.usize(..16));
            // SAFETY: each memory holds `count` elements and is its own.
            unsafe { kernels.fold(apart.data(), &sources, count) };
            assert_same(op, &apart.elements::<T>(count), &wanted, &what);

            let trees: Vec<T> = (0..count).map(|i| tree(op, &column(i))).collect();
            // SAFETY: as above.
            unsafe { kernels.fold_balanced(apart.data(), &sources, count) };
            assert_same(op, &apart.elements::<T>(count), &trees, &what);

            for rank in 0..ranks {
                let mut target = memory[rank].clone();
                let data = target.data();
                let before = std::mem::replace(&mut sources[rank], data);
                // SAFETY: as above; the target is one of the sources.
                unsafe { kernels.fold(data, &sources, count) };
                assert_same(op, &target.elements::<T>(count), &wanted, &what);
                // SAFETY: as above; the target is as it was.
                unsafe {
                    data.copy_from(before, count * size_of::<T>());
                    kernels.fold_balanced(data, &sources, count);
                }
                assert_same(op, &target.elements::<T>(count), &trees, &what);
                sources[rank] = before;
            }

            // The same memory as every source and as the target.
            let mut target = memory[0].clone();
            let data = target.data();
            // SAFETY: as above; the target is each of the sources.
            unsafe { kernels.fold(data, &vec![data.cast_const(); ranks], count) };
            let wanted: Vec<T> = values[0].iter().map(|value| folded(op, &vec![*value; ranks])).collect();
            assert_same(op, &target.elements::<T>(count), &wanted, &what);
        }
    }
}

#[test]
fn fold_equals_the_oracle() {
    everywhere(&mut Fold(Rng::with_seed(3)));
}

struct Finish(Rng);

impl Check for Finish {
    fn check<T: Sample>(&mut self, op: ReduceOp, kernels: &'static Kernels) {
        assert_eq!(kernels.finishes(), op == ReduceOp::Mean);
        for count in lengths() {
            for world in [1, 2, 3, 7, 4096, (1 << 24) + 1] {
                let values = mixture::<T>(&mut self.0, count);
                let mut memory = Memory::of(&values, self.0.usize(..16));
                // SAFETY: the memory holds `count` elements.
                unsafe { kernels.finish(memory.data(), count, world) };
                let wanted: Vec<T> = values.iter().map(|value| finished(op, *value, world)).collect();
                let what = |i: usize| format!("{op} {} of {:?} by {world}", T::DTYPE, values[i]);
                assert_same(op, &memory.elements::<T>(count), &wanted, &what);
            }
        }
    }
}

#[test]
fn finish_equals_the_oracle() {
    everywhere(&mut Finish(Rng::with_seed(4)));
}

#[test]
fn one_source_is_copied_bit_for_bit() {
    let signalling = [f32::from_bits(0x7f80_0001), f32::from_bits(0xffc1_2345), -0.0];
    let mut copy = [0f32; 3];
    let sum = kernels(ReduceOp::Sum, DType::F32).unwrap();
    // SAFETY: both arrays hold three f32.
    unsafe { sum.fold(copy.as_mut_ptr().cast(), &[signalling.as_ptr().cast()], 3) };
    assert_eq!(copy.map(f32::to_bits), signalling.map(f32::to_bits));
}

#[test]
fn nothing_is_looked_at_where_there_is_no_element() {
    let sum = kernels(ReduceOp::Mean, DType::F64).unwrap();
    let (nowhere, nothing) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: no element is asked for.
    unsafe {
        sum.combine(nowhere, nothing, nothing, 0);
        sum.fold(nowhere, &[nothing; 3], 0);
        sum.finish(nowhere, 0, 2);
    }
}

#[test]
#[should_panic(expected = "at least one source")]
fn a_fold_of_no_source_panics() {
    // SAFETY: no element is asked for.
    unsafe { kernels(ReduceOp::Sum, DType::I8).unwrap().fold(std::ptr::null_mut(), &[], 0) };
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "overlaps")]
fn a_partial_overlap_is_found_in_debug_builds() {
    let mut data = [0u32; 5];
    let start = data.as_mut_ptr();
    // SAFETY: the elements are there; the overlap is found before they are looked at.
    unsafe {
        let (into, b) = (start.add(1).cast(), start.cast());
        kernels(ReduceOp::Sum, DType::U32).unwrap().combine(into, into, b, 4);
    }
}
