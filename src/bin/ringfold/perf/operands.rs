//! What is reduced and moved: values that are exact in whatever order they are combined.
//!
//! The value at an index depends on rank, index and sample, and repeats with a short period, so that filling and
//! checking cost little beside the operation.

use half::{bf16, f16};
use ringfold::reduce::oracle;
use ringfold::{Element, ReduceOp};

/// An element that small whole numbers can be made into, exactly.
pub(crate) trait Value: Element {
    fn small(number: u8) -> Self;
}

macro_rules! values {
    ($($type:ty: $make:expr;)*) => {$(
        impl Value for $type {
            fn small(number: u8) -> Self {
                $make(number)
            }
        }
    )*};
}

values! {
    f16: |n: u8| f16::from_f32(f32::from(n));
    bf16: |n: u8| bf16::from_f32(f32::from(n));
    f32: f32::from;
    f64: f64::from;
    i8: |n: u8| n as i8;
    i16: i16::from;
    i32: i32::from;
    i64: i64::from;
    u8: |n: u8| n;
    u16: u16::from;
    u32: u32::from;
    u64: u64::from;
}

/// The operands of one operation and element type in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    world: usize,
    op: ReduceOp,
    period: usize,
}

impl Operands {
    pub(crate) fn new(world: usize, op: ReduceOp) -> Self {
        let period = match op {
            // Three ranks contribute 2, the others 1: a product of 8 at most.
            ReduceOp::Prod => world.max(3),
            // bf16 counts exactly to 256.
            ReduceOp::Sum | ReduceOp::Mean => (256 / world).clamp(2, 7),
            _ => 7,
        };
        Operands { world, op, period }
    }

    /// The value of `rank` at an index, in a sample.
    fn at<T: Value>(&self, rank: usize, index: usize, sample: usize) -> T {
        let phase = (index + 3 * rank + sample) % self.period;
        match self.op {
            ReduceOp::Prod => {
                let phase = (index + rank + sample) % self.period;
                T::small(if phase < 3 { 2 } else { 1 })
            }
            // Beyond 128 ranks not everybody can contribute to a sum that bf16 holds exactly.
            ReduceOp::Sum | ReduceOp::Mean if rank >= 128 => T::small(0),
            _ => T::small(phase as u8),
        }
    }

    /// Writes what `rank` contributes from `first` on.
    pub(crate) fn fill<T: Value>(&self, data: &mut [T], rank: usize, first: usize, sample: usize) {
        let values: Vec<T> = (0..self.period).map(|phase| self.at(rank, first + phase, sample)).collect();
        for chunk in data.chunks_mut(self.period) {
            chunk.copy_from_slice(&values[..chunk.len()]);
        }
    }

    /// How many elements differ from what `rank` contributes from `first` on.
    pub(crate) fn wrong_copies<T: Value>(&self, data: &[T], rank: usize, first: usize, sample: usize) -> u64 {
        let values: Vec<T> = (0..self.period).map(|phase| self.at(rank, first + phase, sample)).collect();
        count_wrong(data, &values)
    }

    /// How many elements differ from the reduction of all ranks from `first` on.
    pub(crate) fn wrong_sums<T: Value>(&self, data: &[T], first: usize, sample: usize) -> u64 {
        let values: Vec<T> = (0..self.period)
            .map(|phase| {
                let contributions: Vec<T> =
                    (0..self.world).map(|rank| self.at(rank, first + phase, sample)).collect();
                oracle::finish(self.op, oracle::fold(self.op, &contributions), self.world)
            })
            .collect();
        count_wrong(data, &values)
    }
}

fn count_wrong<T: Value>(data: &[T], period: &[T]) -> u64 {
    let wrong =
        |chunk: &[T]| chunk.iter().zip(period).filter(|(got, expected)| got != expected).count() as u64;
    data.chunks(period.len()).map(wrong).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_in_bf16_and_a_wrong_element_is_counted() {
        for world in [1, 2, 3, 8, 64, 200] {
            for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Mean] {
                let operands = Operands::new(world, op);
                let mut backwards = vec![bf16::ZERO; 50];
                for (i, into) in backwards.iter_mut().enumerate() {
                    let contributions: Vec<bf16> =
                        (0..world).rev().map(|rank| operands.at(rank, 11 + i, 5)).collect();
                    let sum =
                        contributions[1..].iter().fold(contributions[0], |a, &b| oracle::combine(op, a, b));
                    *into = oracle::finish(op, sum, world);
                }
                assert_eq!(operands.wrong_sums(&backwards, 11, 5), 0, "{op} of {world}");
                backwards[17] += bf16::from_f32(1.0);
                assert_eq!(operands.wrong_sums(&backwards, 11, 5), 1, "{op} of {world}");
            }
        }
    }

    #[test]
    fn filling_and_checking_agree() {
        let operands = Operands::new(4, ReduceOp::Sum);
        let mut data = vec![0u16; 33];
        operands.fill(&mut data, 2, 100, 9);
        assert_eq!(operands.wrong_copies(&data, 2, 100, 9), 0);
        assert!(operands.wrong_copies(&data, 3, 100, 9) > 0);
    }
}
