//! What is proved of the generators: every algorithm with everything it can do, over worlds and awkward counts.

use super::{Fault, Report, verify_owned};
use crate::collective::{Collective, Counts, Order, Request};
use crate::error::{Error, Result};
use crate::plan::build::split_evenly;
use crate::plan::{Algorithm, Plan, Schedule};
use crate::tensor::DType;
use std::fmt;
use std::sync::Arc;

/// Which ranks work in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// None.
    Out,
    /// All that can.
    In,
    /// Every other one.
    Mixed,
}

/// How the elements are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The same count everywhere.
    Same(usize),
    /// One count a rank, summing up to this, from a seed; some are zero.
    Variable(usize, u64),
    /// One count for each pair of ranks, up to this, from a seed; some are zero.
    Pairwise(usize, u64),
}

/// One proof to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Of which algorithm.
    pub algorithm: Algorithm,
    /// Of which collective.
    pub collective: Collective,
    /// Among how many ranks.
    pub world: usize,
    /// With which root.
    pub root: usize,
    /// With which counts.
    pub shape: Shape,
    /// In which slices, in elements.
    pub slice: usize,
    /// In or out of place.
    pub placement: Placement,
    /// In which order.
    pub order: Order,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} among {} ranks", self.collective, self.algorithm, self.world)?;
        if self.collective.is_rooted() {
            write!(f, ", root {}", self.root)?;
        }
        write!(
            f,
            ", {:?}, slices of {}, {:?} of place, {:?} order",
            self.shape, self.slice, self.placement, self.order
        )
    }
}

impl Case {
    /// Every case of an algorithm and a collective for one world size. The list is the same every time.
    pub fn of(algorithm: Algorithm, collective: Collective, world: usize) -> Vec<Case> {
        let mut random = fastrand::Rng::with_seed(world as u64 ^ 0x5eed);
        let mut roots = vec![0];
        if collective.is_rooted() {
            roots.extend([1, world - 1, random.usize(..world)]);
            roots.retain(|&root| root < world);
            roots.sort_unstable();
            roots.dedup();
        }
        let per_rank = collective.has_blocks() || collective == Collective::AllToAll;
        let mut shapes = if collective == Collective::Barrier {
            vec![(Shape::Same(1), usize::MAX)]
        } else if per_rank {
            vec![(Shape::Same(0), usize::MAX), (Shape::Same(1), usize::MAX), (Shape::Same(3), 2)]
        } else {
            // One less and one more than divides evenly, fewer elements than ranks, several slices with a rest.
            vec![
                (Shape::Same(0), usize::MAX),
                (Shape::Same(1), usize::MAX),
                (Shape::Same(world - 1), usize::MAX),
                (Shape::Same(2 * world + 1), usize::MAX),
                (Shape::Same(5 * world + 3), 2),
            ]
        };
        if collective.has_blocks() {
            shapes.extend([(Shape::Variable(2 * world + 1, random.u64(..)), usize::MAX)]);
            shapes.extend([(Shape::Variable(4 * world, random.u64(..)), 2)]);
        }
        if collective == Collective::AllToAll {
            shapes.push((Shape::Pairwise(3, random.u64(..)), usize::MAX));
        }
        let mut cases = Vec::new();
        for &root in &roots {
            for &(shape, slice) in &shapes {
                // In place, pairwise counts would have to be symmetric.
                let placements: &[Placement] = match shape {
                    Shape::Pairwise(..) => &[Placement::Out],
                    _ => &[Placement::Out, Placement::In, Placement::Mixed],
                };
                for &placement in placements {
                    for order in [Order::Default, Order::Fixed] {
                        let case =
                            Case { algorithm, collective, world, root, shape, slice, placement, order };
                        let fixed = order == Order::Fixed;
                        if !fixed || (collective.combines() && algorithm.check(&case.request(0)).is_ok()) {
                            cases.push(case);
                        }
                    }
                }
            }
        }
        cases
    }

    /// The request as one rank sees it.
    pub fn request(&self, rank: usize) -> Request {
        let mut request = Request::new(self.collective, self.world, DType::F32, 0);
        request.root = self.root;
        request.order = self.order;
        request.counts = match self.shape {
            Shape::Same(count) => Counts::Same(count),
            Shape::Variable(sum, seed) => Counts::PerRank(variable_counts(self.world, sum, seed)),
            Shape::Pairwise(most, seed) => {
                let count = |from: usize, to: usize| {
                    let mut random = fastrand::Rng::with_seed(seed ^ (from * self.world + to) as u64);
                    random.usize(..=most)
                };
                Counts::Pairwise {
                    rank,
                    send: (0..self.world).map(|to| count(rank, to)).collect(),
                    receive: (0..self.world).map(|from| count(from, rank)).collect(),
                }
            }
        };
        request.in_place = match self.placement {
            Placement::Out => false,
            Placement::In => true,
            Placement::Mixed => rank.is_multiple_of(2),
        } && request.in_place_shift(rank).is_some();
        request
    }

    /// The plans of all ranks.
    ///
    /// # Errors
    /// As [`Plan::generate`].
    pub fn plans(&self) -> Result<Vec<Plan>> {
        let schedule = Schedule { algorithm: self.algorithm, slice: self.slice };
        (0..self.world).map(|rank| Plan::generate(&self.request(rank), rank, schedule)).collect()
    }

    /// Makes the proof.
    ///
    /// # Errors
    /// The fault, with the case in front of it.
    pub fn verify(&self) -> Result<Report> {
        verify_owned(self.plans()?).map_err(|fault: Fault| Error::invalid(format!("{self}: {fault}")))
    }
}

/// Counts that sum up to `sum`, about a third of them zero.
fn variable_counts(world: usize, sum: usize, seed: u64) -> Arc<[usize]> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut weights: Vec<usize> =
        (0..world).map(|_| if random.u8(..3) == 0 { 0 } else { random.usize(1..5) }).collect();
    if weights.iter().all(|&weight| weight == 0) {
        weights[0] = 1;
    }
    let owners: Vec<usize> =
        weights.iter().enumerate().flat_map(|(rank, &weight)| std::iter::repeat_n(rank, weight)).collect();
    let mut counts = vec![0; world];
    for (owner, part) in owners.iter().zip(split_evenly(sum, owners.len())) {
        counts[*owner] += part.len();
    }
    counts.into()
}
