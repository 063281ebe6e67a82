//! Elements that are there, and one value in place of those that are not, as bits tell.

/// How many elements a word tells of.
const BLOCK: usize = u64::BITS as usize;

/// Copies whole blocks of 64 elements of `size` bytes from `values` to `out`, with the first `size` bytes of `instead` for each whose bit in
/// `there` is 0; the lowest bit is the first element's. Tells how many elements that were: none where this processor does no better than
/// what reads only the bits that are 0.
pub(crate) fn select(values: &[u8], there: &[u64], instead: [u8; 8], size: usize, out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let blocks = there.len().min(values.len() / size / BLOCK).min(out.len() / size / BLOCK);
        let there = &there[..blocks];
        // SAFETY: the processor has the instructions.
        unsafe {
            match size {
                2 => avx2::select_u16(values, there, instead, out),
                4 => avx2::select_u32(values, there, instead, out),
                8 => avx2::select_u64(values, there, instead, out),
                _ => return 0,
            }
        }
        return blocks * BLOCK;
    }
    let _ = (values, there, instead, size, out);
    0
}

/// The compiler finds the vectors: each element is told by a bit of a number of its own width, and many such numbers are compared at a time.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BLOCK;

    macro_rules! select {
        ($name:ident, $number:ty) => {
            #[target_feature(enable = "avx2")]
            pub(super) fn $name(values: &[u8], there: &[u64], instead: [u8; 8], out: &mut [u8]) {
                const SIZE: usize = size_of::<$number>();
                const BITS: usize = <$number>::BITS as usize;
                let instead = <$number>::from_ne_bytes(*instead.first_chunk().expect("8 bytes"));
                let (out, values) =
                    (out.as_chunks_mut::<{ BLOCK * SIZE }>().0, values.as_chunks::<{ BLOCK * SIZE }>().0);
                for ((out, values), word) in out.iter_mut().zip(values).zip(there) {
                    let mut block = [0; BLOCK];
                    for (element, value) in block.iter_mut().zip(values.as_chunks().0) {
                        *element = <$number>::from_ne_bytes(*value);
                    }
                    for part in 0..BLOCK / BITS {
                        let bits = (word >> (part * BITS)) as $number;
                        for bit in 0..BITS {
                            let element = &mut block[part * BITS + bit];
                            *element = if bits & (1 << bit) != 0 { *element } else { instead };
                        }
                    }
                    for (value, element) in out.as_chunks_mut().0.iter_mut().zip(&block) {
                        *value = element.to_ne_bytes();
                    }
                }
            }
        };
    }

    select!(select_u16, u16);
    select!(select_u32, u32);
    select!(select_u64, u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_copied_and_nothing_behind_whole_blocks() {
        let mut lot = fastrand::Rng::with_seed(3);
        for size in [1, 2, 4, 8] {
            for count in [0, 1, 63, 64, 65, 640, 700] {
                let values: Vec<u8> = (0..count * size).map(|_| lot.u8(..)).collect();
                let there: Vec<u64> = (0..count / BLOCK).map(|_| lot.u64(..)).chain([0, u64::MAX]).collect();
                let instead = [1, 2, 3, 4, 5, 6, 7, 8];
                let mut out = vec![0xee; count * size + 3];
                let done = select(&values, &there, instead, size, &mut out);
                assert!(done == 0 || done == count / BLOCK * BLOCK, "{done} of {count}");
                for at in 0..done {
                    let is_there = there[at / BLOCK] >> (at % BLOCK) & 1 == 1;
                    let from = if is_there { &values[at * size..][..size] } else { &instead[..size] };
                    assert_eq!(&out[at * size..][..size], from, "element {at} of {size} bytes");
                }
                assert!(out[done * size..].iter().all(|&byte| byte == 0xee));
            }
        }
    }
}
