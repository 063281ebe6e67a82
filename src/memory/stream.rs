//! Copies past the caches: for what is larger than they are, and is not read again soon.

/// Copies; what is written goes past the caches where the processor knows how.
///
/// Before others are told of it, [`fence`] must have been passed.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`] of bytes.
pub(crate) unsafe fn copy(source: *const u8, into: *mut u8, len: usize) {
    // Neither a sanitizer nor miri sees what goes past the caches.
    #[cfg(target_arch = "x86_64")]
    if len >= SHORT && !cfg!(any(miri, ringfold_tsan)) && std::is_x86_feature_detected!("avx") {
        // SAFETY: the caller's promise, and the processor has the instructions.
        return unsafe { avx(source, into, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(source, into, len) }
}

/// [`copy`] of slices of one length, and the [`fence`]: for much that is not read again soon.
#[cfg(feature = "arrow")]
pub(crate) fn copy_slice(source: &[u8], into: &mut [u8]) {
    assert_eq!(source.len(), into.len());
    // SAFETY: two slices of one length, of which one is borrowed exclusively.
    unsafe { copy(source.as_ptr(), into.as_mut_ptr(), source.len()) };
    fence();
}

/// After this all that was [copied](copy) is there before what is written next.
pub(crate) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 has it, and it touches nothing.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// What is shorter goes through the caches.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 4096;

/// # Safety
/// As [`copy`]; the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn avx(source: *const u8, into: *mut u8, len: usize) {
    use super::PAGE;
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_stream_si256};
    const LINE: usize = 64;
    /// Pages that are written in turns: more banks of the memory are at work at once.
    const ABREAST: usize = 4;
    let ahead = into.align_offset(LINE).min(len);
    // SAFETY: within the caller's range.
    unsafe { std::ptr::copy_nonoverlapping(source, into, ahead) };
    let line = |at: usize| {
        // SAFETY: `at` is within the range by a line, and `into + at` is at the beginning of one.
        unsafe {
            let (from, to) = (source.add(at).cast::<__m256i>(), into.add(at).cast::<__m256i>());
            let (first, second) = (_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)));
            _mm256_stream_si256(to, first);
            _mm256_stream_si256(to.add(1), second);
        }
    };
    let mut at = ahead;
    while len - at >= ABREAST * PAGE {
        for within in (0..PAGE).step_by(LINE) {
            for page in 0..ABREAST {
                line(at + page * PAGE + within);
            }
        }
        at += ABREAST * PAGE;
    }
    while len - at >= LINE {
        line(at);
        at += LINE;
    }
    // SAFETY: within the caller's range.
    unsafe { std::ptr::copy_nonoverlapping(source.add(at), into.add(at), len - at) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_none_beside() {
        let source: Vec<u8> = (0..70_000usize).map(|i| (i * 31 + i / 256) as u8).collect();
        for len in [0, 1, 63, 64, 4095, 4096, 4161, 16_384, 16_447, 40_000, 65_537] {
            for offset in [0, 1, 31, 64, 77] {
                let mut into = vec![0xee; offset + len + 100];
                // SAFETY: both hold so many bytes there, and are apart.
                unsafe { copy(source[3..].as_ptr(), into[offset..].as_mut_ptr(), len) };
                fence();
                assert_eq!(into[offset..offset + len], source[3..3 + len]);
                assert!(into[..offset].iter().chain(&into[offset + len..]).all(|byte| *byte == 0xee));
            }
        }
    }
}
