//! What the ranks of a group compare before any of them consumes a payload.

use super::{Collective, Counts, Request};
use crate::reduce::ReduceOp;
use crate::tensor::DType;
use std::fmt;

/// The identity of one operation: 64 bytes that travel ahead of the first payload on every link.
///
/// `pair_count` is the part that only the two ends of a link can compare; everything else is agreed by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The generation of the group.
    pub generation: u32,
    /// The communicator within the world; 0 is the first.
    pub communicator: u32,
    /// The place of the operation in the communicator's order, or in the order of one direction of a pair.
    pub sequence: u64,
    /// The collective's wire number.
    pub collective: u8,
    /// The reduction's wire number, 0 for none, [`CUSTOM`](Self::CUSTOM) for one of the user's.
    pub op: u8,
    /// The element type's wire number.
    pub dtype: u8,
    /// The promised order's wire number.
    pub order: u8,
    /// The root.
    pub root: u32,
    /// The one count, or the sum of one count a rank; 0 where the counts are pairwise.
    pub count: u64,
    /// A hash of the list of counts, the lengths of a batch's tensors and the user's reduction; 0 where there are none
    /// of these.
    pub counts_hash: u64,
    /// The elements that go over this link, where the counts are pairwise; else 0.
    pub pair_count: u64,
    /// The schedule's wire number: algorithm.
    pub algorithm: u16,
    /// Whether the group agrees before it starts, in a round of its own.
    pub strict: bool,
    /// Whether a library carries it out by a call that comes back at its end only, which matches no other.
    pub blocking: bool,
    /// The elements of one slice of the schedule (saturating); 0 where there is no schedule.
    pub slice: u32,
    /// A hash of all operations before this one, so that a difference which no link has shown is found at the next
    /// call. It begins with that of the topology. See [`Fingerprint::history_after`].
    pub history: u32,
}

/// The part of a history that operations have which are asked for alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footing(u64);

impl Footing {
    /// The history after an operation with this place and history, whose fingerprint is else the one that this is of: little, since
    /// it is between two small operations.
    #[inline]
    pub(crate) fn history_after(self, sequence: u64, history: u32) -> u32 {
        let place = sequence.wrapping_mul(FACTORS[Fingerprint::SEQUENCE]);
        let before = (u64::from(history) << 32).wrapping_mul(FACTORS[Fingerprint::HISTORY]);
        let sum = self.0.wrapping_add(place).wrapping_add(before);
        ((sum ^ sum >> 29).wrapping_mul(FACTORS[0]) >> 32) as u32
    }
}

/// Where two fingerprints differ: the first field in order of importance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field's name, as users know it.
    pub field: &'static str,
    /// Its value here.
    pub mine: String,
    /// Its value there.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} against {}", self.field, self.mine, self.theirs)
    }
}

const MAGIC: [u8; 4] = *b"rfop";

/// Odd numbers without a pattern, one for each word of a fingerprint.
const FACTORS: [u64; Fingerprint::SIZE / 8] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
];

impl Fingerprint {
    /// Bytes on the wire.
    pub const SIZE: usize = 64;

    /// The word that only the two ends of a link agree on.
    const PAIR_COUNT: usize = 5;

    /// The words of the place and, in its upper half, of the history.
    const SEQUENCE: usize = 1;
    const HISTORY: usize = 7;

    /// Stands for a reduction of the user's.
    pub const CUSTOM: u8 = 255;

    /// The fingerprint of a request. Sequence, generation, communicator and schedule are set by the caller.
    pub fn of(request: &Request) -> Self {
        let (count, counts_hash) = match &request.counts {
            Counts::Same(count) => (*count as u64, 0),
            Counts::PerRank(counts) => (counts.iter().sum::<usize>() as u64, hash(counts)),
            Counts::Pairwise { .. } | Counts::Messages { .. } => (0, 0),
        };
        let custom = request.custom.map_or(0, |custom| custom.hash());
        Fingerprint {
            generation: 0,
            communicator: 0,
            sequence: 0,
            collective: request.collective as u8,
            op: match (request.op, request.custom) {
                (Some(op), _) => op as u8,
                (None, Some(_)) => Self::CUSTOM,
                (None, None) => 0,
            },
            dtype: request.dtype as u8,
            order: request.order as u8,
            root: request.root as u32,
            count,
            counts_hash: counts_hash ^ custom,
            pair_count: 0,
            algorithm: 0,
            strict: false,
            blocking: false,
            slice: 0,
            history: 0,
        }
    }

    /// The history of the operation after this one: this one's with everything in it that all ranks agree on.
    #[inline]
    pub fn history_after(&self) -> u32 {
        self.footing().history_after(0, 0)
    }

    /// What it adds to the history, whenever that is: of operations that differ in their place and history only, those of one whose
    /// place and history are 0 suffice.
    #[inline]
    pub(crate) fn footing(&self) -> Footing {
        // Multiplied each for itself, so that no product waits for another.
        let mut words = self.words();
        words[Self::PAIR_COUNT] = 0;
        let products = words.iter().zip(FACTORS).map(|(word, factor)| word.wrapping_mul(factor));
        Footing(products.fold(0, u64::wrapping_add))
    }

    /// The bytes on the wire, eight to a word.
    #[inline]
    pub fn words(&self) -> [u64; Self::SIZE / 8] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let Fingerprint { collective, op, dtype, order, .. } = *self;
        let flags = u32::from(self.strict) | u32::from(self.blocking) << 1;
        [
            pair(u32::from_le_bytes(MAGIC), self.generation),
            self.sequence,
            pair(self.communicator, u32::from_le_bytes([collective, op, dtype, order])),
            self.count,
            self.counts_hash,
            self.pair_count,
            pair(self.root, u32::from(self.algorithm) | flags << 16),
            pair(self.slice, self.history),
        ]
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0u8; Self::SIZE];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.words()) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// Reads the bytes of the wire; `None` where they are no fingerprint. Values that no collective has are kept
    /// as they are: they differ from everybody's, and the difference is then told.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let mut at = 0;
        let mut take = |len: usize| {
            at += len;
            &bytes[at - len..at]
        };
        if take(4) != MAGIC {
            return None;
        }
        let u32_of = |part: &[u8]| u32::from_le_bytes(part.try_into().expect("4 bytes"));
        let u64_of = |part: &[u8]| u64::from_le_bytes(part.try_into().expect("8 bytes"));
        let generation = u32_of(take(4));
        let sequence = u64_of(take(8));
        let communicator = u32_of(take(4));
        let [collective, op, dtype, order] = take(4).try_into().expect("4 bytes");
        let count = u64_of(take(8));
        let counts_hash = u64_of(take(8));
        let pair_count = u64_of(take(8));
        let root = u32_of(take(4));
        let algorithm = u16::from_le_bytes(take(2).try_into().expect("2 bytes"));
        let [flags, zero] = take(2).try_into().expect("2 bytes");
        let slice = u32_of(take(4));
        let history = u32_of(take(4));
        if flags > 3 || zero != 0 {
            return None;
        }
        Some(Fingerprint {
            generation,
            communicator,
            sequence,
            collective,
            op,
            dtype,
            order,
            root,
            count,
            counts_hash,
            pair_count,
            algorithm,
            strict: flags & 1 != 0,
            blocking: flags & 2 != 0,
            slice,
            history,
        })
    }

    /// The first field in which `theirs` differs from this one, the most telling first.
    pub fn difference(&self, theirs: &Fingerprint) -> Option<Difference> {
        fn differ<T: PartialEq>(
            field: &'static str,
            mine: T,
            theirs: T,
            show: impl Fn(&T) -> String,
        ) -> Option<Difference> {
            (mine != theirs).then(|| Difference { field, mine: show(&mine), theirs: show(&theirs) })
        }
        let collective =
            |n: &u8| Collective::from_wire(*n).map_or_else(|| format!("#{n}"), |c| c.to_string());
        let dtype = |n: &u8| DType::from_wire(*n).map_or_else(|| format!("#{n}"), |d| d.to_string());
        let op = |n: &u8| match n {
            0 => "none".to_owned(),
            &Self::CUSTOM => "one of the user's".to_owned(),
            n => ReduceOp::from_wire(*n).map_or_else(|| format!("#{n}"), |o| o.to_string()),
        };
        let t = theirs;
        differ("generation", self.generation, t.generation, u32::to_string)
            .or_else(|| differ("communicator", self.communicator, t.communicator, u32::to_string))
            .or_else(|| differ("sequence number", self.sequence, t.sequence, u64::to_string))
            .or_else(|| differ("collective", self.collective, t.collective, collective))
            .or_else(|| differ("element type", self.dtype, t.dtype, dtype))
            .or_else(|| differ("reduction", self.op, t.op, op))
            .or_else(|| differ("root", self.root, t.root, u32::to_string))
            .or_else(|| differ("count", self.count, t.count, u64::to_string))
            .or_else(|| {
                // Two reductions of the user's, with other names, widths or commutativity; or lists of counts.
                let field = match self.op {
                    Self::CUSTOM => "the user's reduction or the list of counts (hash)",
                    _ => "list of counts (hash)",
                };
                differ(field, self.counts_hash, t.counts_hash, |h| format!("{h:016x}"))
            })
            .or_else(|| differ("count between the pair", self.pair_count, t.pair_count, u64::to_string))
            .or_else(|| differ("order", self.order, t.order, u8::to_string))
            .or_else(|| {
                differ("check", self.strict, t.strict, |s| if *s { "strict" } else { "normal" }.to_owned())
            })
            .or_else(|| {
                differ("way of calling", self.blocking, t.blocking, |blocking| {
                    if *blocking { "blocking" } else { "started, batched or strict" }.to_owned()
                })
            })
            .or_else(|| differ("algorithm (number)", self.algorithm, t.algorithm, u16::to_string))
            .or_else(|| differ("slice", self.slice, t.slice, u32::to_string))
            .or_else(|| {
                differ("an earlier collective or the topology (hash)", self.history, t.history, |h| {
                    format!("{h:08x}")
                })
            })
    }
}

/// FNV-1a over the little-endian bytes: the same on every build, which is all that is asked of it here.
fn hash(counts: &[usize]) -> u64 {
    let bytes = counts.iter().flat_map(|&count| (count as u64).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fingerprint {
        let mut request = Request::new(Collective::AllGather, 3, DType::F32, 0);
        request.counts = Counts::PerRank([2, 0, 5].into());
        Fingerprint {
            sequence: 7,
            generation: 2,
            algorithm: 3,
            strict: true,
            blocking: true,
            slice: 9,
            ..Fingerprint::of(&request)
        }
    }

    #[test]
    fn the_wire_form_round_trips() {
        assert_eq!(Fingerprint::decode(&sample().encode()), Some(sample()));
        let mut bytes = sample().encode();
        bytes[0] ^= 1;
        assert_eq!(Fingerprint::decode(&bytes), None);
        let mut bytes = sample().encode();
        bytes[55] = 1;
        assert_eq!(Fingerprint::decode(&bytes), None, "reserved bytes are zero");
    }

    #[test]
    fn the_history_remembers_every_operation_but_for_what_is_between_pairs() {
        let mine = sample();
        assert_eq!(mine.history_after(), Fingerprint { pair_count: 9, ..mine }.history_after());
        let theirs = Fingerprint { root: 1, ..mine };
        let (mine, theirs) = (mine.history_after(), theirs.history_after());
        assert_ne!(mine, theirs);
        let next = |history| Fingerprint { history, sequence: 8, ..sample() };
        let footing = Fingerprint { history: 0, sequence: 0, ..sample() }.footing();
        assert_eq!(footing.history_after(8, mine), next(mine).history_after());
        assert_ne!(footing.history_after(9, mine), next(mine).history_after());
        assert_ne!(next(mine).history_after(), next(theirs).history_after());
        assert!(next(mine).difference(&next(theirs)).unwrap().field.starts_with("an earlier collective"));
    }

    #[test]
    fn the_difference_names_the_field_and_both_values() {
        let mine = sample();
        assert_eq!(mine.difference(&mine), None);
        let theirs = Fingerprint { dtype: DType::F64 as u8, count: 1, ..mine };
        let difference = mine.difference(&theirs).unwrap();
        assert_eq!(difference.to_string(), "element type f32 against f64");
        let theirs = Fingerprint { counts_hash: 1, ..mine };
        assert_eq!(mine.difference(&theirs).unwrap().field, "list of counts (hash)");
    }

    #[test]
    fn the_order_of_counts_matters() {
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
    }
}
