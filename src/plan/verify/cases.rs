//! What is proved of the generators: every algorithm with everything it can do, over worlds and awkward counts.

use super::{Fault, Report, verify_owned};
use crate::collective::{Collective, Counts, Order, Request};
use crate::error::{Error, Result};
use crate::plan::build::split_evenly;
use crate::plan::{Algorithm, Plan, Reach, Schedule, Topology};
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

/// Which ranks share a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hosts {
    /// All.
    One,
    /// So many ranks a host, one host after another.
    Even(usize),
    /// The ranks are dealt to so many hosts in turns.
    Dealt(usize),
    /// Hosts of all sizes, from a seed.
    Drawn(u64),
}

impl Hosts {
    /// The topology of a group of so many ranks.
    pub fn topology(self, world: usize) -> Topology {
        match self {
            Hosts::One => Topology::default(),
            Hosts::Even(ranks) => Topology::even(world, ranks),
            Hosts::Dealt(hosts) => Topology::of_hosts((0..world).map(|rank| rank % hosts)),
            Hosts::Drawn(seed) => {
                let mut random = fastrand::Rng::with_seed(seed);
                // The lower ones have more ranks.
                let mut host = || random.usize(..=random.clone().usize(..world));
                Topology::of_hosts((0..world).map(|_| host()))
            }
        }
    }
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
    /// On which hosts.
    pub hosts: Hosts,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} among {} ranks", self.collective, self.algorithm, self.world)?;
        if self.collective.is_rooted() {
            write!(f, ", root {}", self.root)?;
        }
        write!(
            f,
            ", {:?}, slices of {}, {:?} of place, {:?} order, {:?} hosts",
            self.shape, self.slice, self.placement, self.order, self.hosts
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
        // In shared memory everybody waits for everybody in each portion: a few are enough among many.
        let waits = algorithm.needs() > Reach::Messages && world > 8;
        let long = if waits { 13 } else { 5 * world + 3 };
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
                (Shape::Same(long), 2),
            ]
        };
        if collective.has_blocks() {
            shapes.extend([(Shape::Variable(2 * world + 1, random.u64(..)), usize::MAX)]);
            shapes.extend([(Shape::Variable(4 * world, random.u64(..)), 2)]);
        }
        if per_rank && algorithm.needs() > Reach::Messages {
            // More portions than a slot has places.
            shapes.push((Shape::Same(11), 2));
        }
        if collective == Collective::AllToAll {
            shapes.push((Shape::Pairwise(3, random.u64(..)), usize::MAX));
        }
        // Hosts that divide the ranks and hosts that do not.
        let mut hosts = vec![Hosts::One];
        if algorithm.looks_at_hosts() && world > 2 {
            hosts.extend([
                Hosts::Even(world.div_ceil(2)),
                Hosts::Even(3),
                Hosts::Dealt(4),
                Hosts::Drawn(random.u64(..)),
            ]);
        }
        let mut turns = hosts.iter().copied().cycle().skip(world);
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
                        // Of hosts and the rest not everything with everything: hosts change with every case.
                        let hosts = turns.next().expect("turns have no end");
                        let case = Case {
                            algorithm,
                            collective,
                            world,
                            root,
                            shape,
                            slice,
                            placement,
                            order,
                            hosts,
                        };
                        let fixed = order == Order::Fixed;
                        if (!fixed || collective.combines()) && algorithm.check(&case.request(0)).is_ok() {
                            cases.push(case);
                        }
                    }
                }
            }
        }
        // For the same reason a sample is enough, of some numbers of ranks that a host may have.
        let every = match world {
            _ if !waits => 1,
            ..=16 => 8,
            _ if world.is_multiple_of(8) && world <= 128 => 32,
            _ => usize::MAX,
        };
        if every > 1 {
            random.shuffle(&mut cases);
            cases.truncate(if every == usize::MAX { 0 } else { cases.len().div_ceil(every) });
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

    /// The plan of one rank.
    ///
    /// # Errors
    /// As [`Plan::generate_on`].
    pub fn plan(&self, rank: usize) -> Result<Plan> {
        let schedule = Schedule { algorithm: self.algorithm, slice: self.slice };
        Plan::generate_on(&self.hosts.topology(self.world), &self.request(rank), rank, schedule)
    }

    /// The plans of all ranks.
    ///
    /// # Errors
    /// As [`Plan::generate`].
    pub fn plans(&self) -> Result<Vec<Plan>> {
        (0..self.world).map(|rank| self.plan(rank)).collect()
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
