//! The balanced tree over operands, which fixed order promises, worked out in memory that stays in the nearest cache.
//!
//! Of n operands the first 2^k are one side and the rest the other, where 2^k is the largest power of two below n; each side is a tree in
//! turn.

/// How many bytes may lie between the nodes at a time: they stay in the nearest cache, beside what they are made of.
pub(super) const BETWEEN: usize = 16 << 10;

/// Buffers of one length, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    /// Where the next one is.
    pub(super) at: *mut u8,
    /// How many bytes each has.
    pub(super) each: usize,
}

impl Buffers {
    /// How many the tree over so many operands needs.
    pub(super) fn needed(operands: usize) -> usize {
        operands.next_power_of_two().ilog2() as usize
    }

    fn take(&mut self) -> *mut u8 {
        let at = self.at;
        self.at = at.wrapping_add(self.each);
        at
    }
}

/// How nodes are worked out.
pub(super) trait Nodes {
    /// Why one cannot be.
    type Error;

    /// `into = a op b`; the target may be either operand.
    fn two(&mut self, into: *mut u8, a: *const u8, b: *const u8) -> Result<(), Self::Error>;

    /// `into = (a op b) op (c op d)` at once, and whether that can be done; the target may be any operand.
    fn four(&mut self, _into: *mut u8, _operands: [*const u8; 4]) -> bool {
        false
    }
}

/// The tree over two operands or more, from byte `at` of each on, into `into`, which may be one of them.
///
/// # Errors
/// That of the first node that cannot be worked out; the rest is not done then.
pub(super) fn tree<N: Nodes>(
    operands: &[*const u8],
    at: usize,
    into: *mut u8,
    mut buffers: Buffers,
    nodes: &mut N,
) -> Result<(), N::Error> {
    if at_once(operands, at, into, nodes) {
        return Ok(());
    }
    let (low, high) = halves(operands);
    // The target may be an operand of the other side.
    let place = buffers.take();
    let low = node(low, at, place, buffers, nodes)?;
    let place = if high.len() > 1 { buffers.take() } else { into };
    let high = node(high, at, place, buffers, nodes)?;
    nodes.two(into, low, high)
}

/// The tree over some operands; where it is: in `into`, which is none of them, or in the operand itself where there is one only.
fn node<N: Nodes>(
    operands: &[*const u8],
    at: usize,
    into: *mut u8,
    mut buffers: Buffers,
    nodes: &mut N,
) -> Result<*const u8, N::Error> {
    if let [operand] = operands {
        return Ok(operand.wrapping_add(at));
    }
    if !at_once(operands, at, into, nodes) {
        let (low, high) = halves(operands);
        let low = node(low, at, into, buffers, nodes)?;
        let place = if high.len() > 1 { buffers.take() } else { into };
        let high = node(high, at, place, buffers, nodes)?;
        nodes.two(into, low, high)?;
    }
    Ok(into)
}

/// Works out the tree over four operands, where that is what there are and can be done.
fn at_once(operands: &[*const u8], at: usize, into: *mut u8, nodes: &mut impl Nodes) -> bool {
    let Ok(four) = <[*const u8; 4]>::try_from(operands) else { return false };
    nodes.four(into, four.map(|operand| operand.wrapping_add(at)))
}

fn halves<T>(operands: &[T]) -> (&[T], &[T]) {
    operands.split_at(operands.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// Numbers that say how they were made: concatenated digits would not tell brackets, so each node is a hash of both sides.
    fn mix(a: u64, b: u64) -> u64 {
        (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17)
    }

    fn expected(values: &[u64]) -> u64 {
        match values {
            [value] => *value,
            _ => {
                let (low, high) = halves(values);
                mix(expected(low), expected(high))
            }
        }
    }

    /// Nodes of numbers, four at a time or not.
    struct Mixing {
        four: bool,
    }

    impl Nodes for Mixing {
        type Error = Infallible;

        fn two(&mut self, into: *mut u8, a: *const u8, b: *const u8) -> Result<(), Infallible> {
            // SAFETY: every address is one of a number in one of the two lists of the test, which nobody else uses meanwhile.
            unsafe {
                let both = mix(a.cast::<u64>().read(), b.cast::<u64>().read());
                into.cast::<u64>().write(both);
            }
            Ok(())
        }

        fn four(&mut self, into: *mut u8, operands: [*const u8; 4]) -> bool {
            if self.four {
                // SAFETY: as above.
                let values = operands.map(|operand| unsafe { operand.cast::<u64>().read() });
                // SAFETY: as above.
                unsafe { into.cast::<u64>().write(expected(&values)) };
            }
            self.four
        }
    }

    #[test]
    fn every_number_of_operands_makes_its_tree_within_its_buffers() {
        let targets = (2..70).flat_map(|operands| (0..=operands).map(move |target| (operands, target)));
        for ((operands, target), four) in targets.flat_map(|case| [(case, false), (case, true)]) {
            let mut values: Vec<u64> = (1..=operands as u64).chain([0]).collect();
            let wanted = expected(&values[..operands]);
            let needed = Buffers::needed(operands);
            let mut room = vec![0xdead_u64; needed + 1];
            let base = values.as_mut_ptr();
            let sources: Vec<*const u8> =
                (0..operands).map(|i| base.wrapping_add(i).cast_const().cast()).collect();
            let into = base.wrapping_add(target).cast::<u8>();
            let buffers = Buffers { at: room.as_mut_ptr().cast(), each: 8 };
            tree(&sources, 0, into, buffers, &mut Mixing { four }).unwrap();
            assert_eq!(values[target], wanted, "{operands} operands into {target}");
            assert_eq!(room[needed], 0xdead, "{operands} operands");
        }
    }
}
