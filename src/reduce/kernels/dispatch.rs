//! Which instruction set's kernels run: chosen once a process, from what the processor has.

use super::Kernels;
use super::sets;
use super::table::Table;
use crate::reduce::ReduceOp;
use crate::tensor::DType;
use std::fmt;
use std::sync::LazyLock;

/// The kernels that reduce `dtype` by `op`, with the best instructions that this processor has: a table look-up.
/// `None` where [`ReduceOp::supports`] says no.
///
/// ```
/// use ringfold::reduce::kernels;
/// use ringfold::{DType, ReduceOp};
/// assert!(kernels(ReduceOp::Sum, DType::BF16).is_some());
/// assert!(kernels(ReduceOp::BitOr, DType::F32).is_none());
/// ```
pub fn kernels(op: ReduceOp, dtype: DType) -> Option<&'static Kernels> {
    static BEST: LazyLock<&Table> =
        LazyLock::new(|| InstructionSet::best().table().expect("the best set is there"));
    BEST.get(op, dtype)
}

/// The instructions that kernels are compiled for. All sets compute the same bits; [`kernels`] takes the best one
/// and there is no need to choose, but to test and to measure the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// What every processor of the target has: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// AVX2 and the `f16` conversions of F16C, on x86-64.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, on x86-64.
    Avx512,
}

impl InstructionSet {
    /// Every set, from the plainest to the best.
    pub const ALL: [InstructionSet; 3] =
        [InstructionSet::Baseline, InstructionSet::Avx2, InstructionSet::Avx512];

    /// The best set that this processor has.
    pub fn best() -> Self {
        let there = |set: &InstructionSet| set.is_available();
        InstructionSet::ALL.into_iter().rfind(there).unwrap_or(InstructionSet::Baseline)
    }

    /// Whether this processor has the set, and the operating system keeps its registers.
    pub fn is_available(self) -> bool {
        match self {
            InstructionSet::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => {
                InstructionSet::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            InstructionSet::Avx2 | InstructionSet::Avx512 => false,
        }
    }

    /// The kernels of this set, as [`kernels`] finds them; `None` as well where the processor does not have it.
    ///
    /// ```
    /// use ringfold::reduce::InstructionSet;
    /// use ringfold::{DType, ReduceOp};
    /// assert!(InstructionSet::Baseline.kernels(ReduceOp::Sum, DType::F16).is_some());
    /// assert!(InstructionSet::best().kernels(ReduceOp::Sum, DType::F16).is_some());
    /// ```
    pub fn kernels(self, op: ReduceOp, dtype: DType) -> Option<&'static Kernels> {
        self.table()?.get(op, dtype)
    }

    /// The table of this set, where the processor has it.
    fn table(self) -> Option<&'static Table> {
        static BASELINE: Table = Table::of::<sets::Baseline, sets::Baseline>();
        #[cfg(target_arch = "x86_64")]
        static AVX2: Table = Table::of::<sets::Avx2, sets::Avx2>();
        // Whatever does not fit the nearest cache waits for memory with both, and the loops of integers alone are 130 KB.
        #[cfg(target_arch = "x86_64")]
        static AVX512: Table = Table::of::<sets::Avx512, sets::Avx2>();

        let table = match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &AVX2,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &AVX512,
            _ => &BASELINE,
        };
        self.is_available().then_some(table)
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            InstructionSet::Baseline => "baseline",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Avx512 => "avx512",
        })
    }
}
