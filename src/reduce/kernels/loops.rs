//! Rules run over memory.
//!
//! A loop takes `N` elements at a time: it reads them all, applies the rule, and writes them all. So the
//! compiler need not ask whether the target is one of the sources, and uses vector instructions even then. A
//! loop's body is compiled twice on x86-64, for the baseline and for AVX2, and the choice is made at run time.

use super::rules::{Divide, Rule};

/// How many elements of this size a loop takes at a time: a cache line's worth, but at least 32, because the
/// compiler unrolls a shorter inner loop and then fails to find the vectors in the longer rules.
pub(super) const fn lanes(size: usize) -> usize {
    if size == 1 { 64 } else { 32 }
}

/// Defines `$name` as `$body` compiled for the best instructions that this processor has.
macro_rules! dispatch {
    (
        $(#[$doc:meta])*
        $name:ident, $avx2:ident, $body:ident
        <$($generic:ident: $bound:path),* $(; $n:ident)?> ($($arg:ident: $t:ty),*)
    ) => {
        $(#[$doc])*
        pub(super) unsafe fn $name<$($generic: $bound,)* $(const $n: usize)?>($($arg: $t),*) {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: AVX2 is there, and the caller's promise is passed on.
                return unsafe { $avx2::<$($generic,)* $($n)?>($($arg),*) };
            }
            // SAFETY: the caller's promise is passed on.
            unsafe { $body::<$($generic,)* $($n)?>($($arg),*) }
        }

        /// # Safety
        ///
        /// As for the function that chooses it, and the processor must have AVX2.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        unsafe fn $avx2<$($generic: $bound,)* $(const $n: usize)?>($($arg: $t),*) {
            // SAFETY: the caller's promise is passed on.
            unsafe { $body::<$($generic,)* $($n)?>($($arg),*) }
        }
    };
}

dispatch! {
    /// `into[i] = a[i] op b[i]`.
    ///
    /// # Safety
    ///
    /// `a` and `b` must be readable and `into` writable for `count` elements, whatever their alignment.
    /// `into` is a source or does not overlap it.
    combine, combine_avx2, combine_body<T: Copy, R: Rule<T>; N>
    (into: *mut u8, a: *const u8, b: *const u8, count: usize)
}

dispatch! {
    /// `into[i] = sources[0][i] op sources[1][i] op ...`.
    ///
    /// # Safety
    ///
    /// There must be a source, each readable and `into` writable for `count` elements, whatever their
    /// alignment. `into` is a source or does not overlap it.
    fold, fold_avx2, fold_body<T: Copy, R: Rule<T>; N>
    (into: *mut u8, sources: &[*const u8], count: usize)
}

dispatch! {
    /// `data[i] = data[i] / world`.
    ///
    /// # Safety
    ///
    /// `data` must be readable and writable for `count` elements, whatever its alignment.
    divide, divide_avx2, divide_body<T: Divide>(data: *mut u8, count: usize, world: usize)
}

#[inline(always)]
unsafe fn combine_body<T: Copy, R: Rule<T>, const N: usize>(
    into: *mut u8,
    a: *const u8,
    b: *const u8,
    count: usize,
) {
    let blocks = count / N;
    for block in 0..blocks {
        // SAFETY: elements `block * N` to `block * N + N` are below `count`.
        unsafe { combine_block::<T, R, N>(into, a, b, block * N) }
    }
    for rest in blocks * N..count {
        // SAFETY: this element is below `count`.
        unsafe { combine_block::<T, R, 1>(into, a, b, rest) }
    }
}

#[inline(always)]
unsafe fn fold_body<T: Copy, R: Rule<T>, const N: usize>(into: *mut u8, sources: &[*const u8], count: usize) {
    let blocks = count / N;
    for block in 0..blocks {
        // SAFETY: elements `block * N` to `block * N + N` are below `count`.
        unsafe { fold_block::<T, R, N>(into, sources, block * N) }
    }
    for rest in blocks * N..count {
        // SAFETY: this element is below `count`.
        unsafe { fold_block::<T, R, 1>(into, sources, rest) }
    }
}

/// One pointer, so the compiler finds the vectors without being led.
#[inline(always)]
unsafe fn divide_body<T: Divide>(data: *mut u8, count: usize, world: usize) {
    let world = T::world(world);
    for i in 0..count {
        // SAFETY: this element is below `count`.
        unsafe {
            let [value] = read::<T, 1>(data, i);
            write(data, i, [value.divide(world)]);
        }
    }
}

/// Combines `N` elements from the one with number `first`, which must all be there.
#[inline(always)]
unsafe fn combine_block<T: Copy, R: Rule<T>, const N: usize>(
    into: *mut u8,
    a: *const u8,
    b: *const u8,
    first: usize,
) {
    // SAFETY: the caller promises these elements.
    let (mut a, b): ([T; N], [T; N]) = unsafe { (read(a, first), read(b, first)) };
    for i in 0..N {
        a[i] = R::narrow(R::apply(R::widen(a[i]), R::widen(b[i])));
    }
    // SAFETY: the caller promises these elements.
    unsafe { write(into, first, a) }
}

/// Folds `N` elements from the one with number `first`, which must all be there in each source.
#[inline(always)]
unsafe fn fold_block<T: Copy, R: Rule<T>, const N: usize>(
    into: *mut u8,
    sources: &[*const u8],
    first: usize,
) {
    // SAFETY: the caller promises these elements and a source.
    let mut block: [T; N] = unsafe { read(*sources.get_unchecked(0), first) };
    let mut sum = [R::Wide::default(); N];
    for i in 0..N {
        sum[i] = R::widen(block[i]);
    }
    for source in &sources[1..] {
        // SAFETY: the caller promises these elements.
        block = unsafe { read(*source, first) };
        for i in 0..N {
            sum[i] = R::apply(sum[i], R::widen(block[i]));
        }
    }
    for i in 0..N {
        block[i] = R::narrow(sum[i]);
    }
    // SAFETY: the caller promises these elements.
    unsafe { write(into, first, block) }
}

/// Reads `N` elements of plain data from the one with number `first`, which must all be there.
#[inline(always)]
unsafe fn read<T: Copy, const N: usize>(from: *const u8, first: usize) -> [T; N] {
    // SAFETY: the caller promises these elements; nothing is asked of the alignment.
    unsafe { from.cast::<T>().wrapping_add(first).cast::<[T; N]>().read_unaligned() }
}

/// Writes `N` elements of plain data from the one with number `first`, for all of which there must be room.
#[inline(always)]
unsafe fn write<T: Copy, const N: usize>(into: *mut u8, first: usize, block: [T; N]) {
    // SAFETY: the caller promises these elements; nothing is asked of the alignment.
    unsafe { into.cast::<T>().wrapping_add(first).cast::<[T; N]>().write_unaligned(block) }
}
