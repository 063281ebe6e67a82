//! What is found out about a message while it passes through the caches, so that it need not be read again.

use std::ops::Range;

/// What is known is known of so many bytes.
pub(super) const BLOCK: usize = 4096;

const ASCII: u8 = 1;
const ASCENDS: u8 = 2;

/// Of each block of a message: whether it is text of ASCII, and whether, taken as numbers of 32 bits, it goes on from the block before
/// in ascending order. Values of strings are the one, their offsets the other; which is which is told by the message's metadata later.
#[derive(Debug, Default)]
pub(super) struct Seen {
    blocks: Vec<u8>,
    last: Option<i32>,
}

impl Seen {
    /// Looks at the next bytes: whole blocks, but at the message's end.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(BLOCK) {
            if block.is_ascii() {
                // Most text has no order, and no offsets of more than a block are all ASCII.
                self.blocks.push(ASCII);
                self.last = None;
                continue;
            }
            let numbers = block.as_chunks().0;
            let (first, last) = (numbers.first().map(number), numbers.last().map(number));
            let goes_on = self.last.is_some_and(|last| first.is_some_and(|first| last <= first));
            self.blocks.push(if goes_on && ascend(block) { ASCENDS } else { 0 });
            self.last = last;
        }
    }

    /// Whether a range of the message is text of ASCII.
    pub(super) fn is_ascii(&self, message: &[u8], range: Range<usize>) -> bool {
        let Some(blocks) = self.within(&range, ASCII) else { return message[range].is_ascii() };
        message[range.start..blocks.start].is_ascii() && message[blocks.end..range.end].is_ascii()
    }

    /// Whether a range of the message, numbers of 32 bits, is in ascending order.
    pub(super) fn ascends(&self, message: &[u8], range: Range<usize>) -> bool {
        // Blocks were looked at as numbers from the message's beginning on.
        let known =
            if range.start.is_multiple_of(size_of::<i32>()) { self.within(&range, ASCENDS) } else { None };
        let Some(blocks) = known else { return ascend(&message[range]) };
        // Of what lies ahead the last number was compared with the first of the blocks; behind them their last comes first.
        let behind = blocks.end - size_of::<i32>()..range.end;
        ascend(&message[range.start..blocks.start]) && ascend(&message[behind])
    }

    /// The whole blocks within a range, where there are some, and all of them are known to be so.
    fn within(&self, range: &Range<usize>, so: u8) -> Option<Range<usize>> {
        let (first, last) = (range.start.div_ceil(BLOCK), range.end / BLOCK);
        let known = self.blocks.get(first..last).filter(|blocks| !blocks.is_empty())?;
        known.iter().all(|block| block & so != 0).then_some(first * BLOCK..last * BLOCK)
    }
}

fn number(bytes: &[u8; 4]) -> i32 {
    i32::from_le_bytes(*bytes)
}

/// Whether bytes, taken as numbers of 32 bits, are in ascending order; what is left of them at the end is not looked at. Read where they
/// lie, and without an early end, so that the processor looks at many at once.
fn ascend(bytes: &[u8]) -> bool {
    let numbers = bytes.as_chunks().0;
    let mut descents = 0;
    for (one, next) in numbers.iter().zip(numbers.get(1..).unwrap_or_default()) {
        descents |= u32::from(number(next) < number(one));
    }
    descents == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(message: &[u8]) -> Seen {
        let mut seen = Seen::default();
        message.chunks(3 * BLOCK).for_each(|portion| seen.add(portion));
        seen
    }

    #[test]
    fn text_is_told_as_a_look_at_all_of_it_tells() {
        let mut message = vec![b'a'; 5 * BLOCK + 100];
        for at in [0, BLOCK - 1, BLOCK, 3 * BLOCK + 7, 5 * BLOCK + 50] {
            message[at] = 0xc3;
            let seen = seen(&message);
            for range in [
                0..message.len(),
                1..BLOCK,
                64..3 * BLOCK,
                BLOCK + 1..5 * BLOCK,
                2 * BLOCK..message.len(),
                9..9,
            ] {
                assert_eq!(
                    seen.is_ascii(&message, range.clone()),
                    message[range.clone()].is_ascii(),
                    "{at} {range:?}"
                );
            }
            message[at] = b'a';
        }
    }

    #[test]
    fn order_is_told_as_a_look_at_all_of_it_tells() {
        let ordered: Vec<i32> = (0..5 * BLOCK as i32 / 4 + 20).map(|at| at * 130 + 200).collect();
        for broken in [None, Some(1), Some(1023), Some(1024), Some(1025), Some(3000), Some(5 * 1024 + 3)] {
            let mut numbers = ordered.clone();
            if let Some(at) = broken {
                numbers[at] = numbers[at - 1] - 1;
            }
            let message: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let seen = seen(&message);
            assert!(seen.blocks.iter().skip(1).any(|block| *block == ASCENDS));
            for (from, to) in
                [(0, numbers.len()), (1, 1024), (16, 2048), (1000, 5000), (1024, 4096), (1023, 3001), (7, 7)]
            {
                let expected = numbers[from..to].is_sorted();
                assert_eq!(
                    seen.ascends(&message, from * 4..to * 4),
                    expected,
                    "{broken:?} from {from} to {to}"
                );
                // Numbers that lie across those that were looked at.
                let across = from * 4 + 1..(to * 4).saturating_sub(3).max(from * 4 + 1);
                let expected = message[across.clone()].as_chunks().0.iter().map(number).is_sorted();
                assert_eq!(seen.ascends(&message, across), expected, "{broken:?} from {from} to {to}");
            }
        }
    }
}
