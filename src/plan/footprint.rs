//! What a plan takes of a rank: connections and memory.

use super::{Plan, Schedule, Topology};
use crate::collective::Request;
use crate::error::Result;
use std::collections::BTreeSet;

/// What the busiest rank takes. Links carry payload both ways: a peer that is sent to and received from is one
/// connection, but for two ranks that begin at once, who have two until the next message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Peers that it sends to.
    pub out: usize,
    /// Peers that it receives from.
    pub into: usize,
    /// Peers of either kind: links.
    pub links: usize,
    /// Bytes of private scratch memory.
    pub scratch: usize,
    /// Steps of its plan.
    pub steps: usize,
}

impl Footprint {
    /// The footprint of one plan.
    pub fn of(plan: &Plan) -> Footprint {
        let out: BTreeSet<usize> =
            plan.steps.iter().filter(|step| !step.is_empty()).filter_map(|step| step.sends_to()).collect();
        let into: BTreeSet<usize> = plan
            .steps
            .iter()
            .filter(|step| !step.is_empty())
            .filter_map(|step| step.receives_from())
            .collect();
        Footprint {
            out: out.len(),
            into: into.len(),
            links: out.union(&into).count(),
            scratch: plan.scratch * plan.request.element_size(),
            steps: plan.steps.len(),
        }
    }

    /// The largest of two, figure by figure.
    pub fn max(self, other: Footprint) -> Footprint {
        Footprint {
            out: self.out.max(other.out),
            into: self.into.max(other.into),
            links: self.links.max(other.links),
            scratch: self.scratch.max(other.scratch),
            steps: self.steps.max(other.steps),
        }
    }

    /// The largest footprint of any rank on one host: of all ranks up to some hundred, of a sample of larger groups.
    ///
    /// # Errors
    /// As [`Plan::generate`].
    ///
    /// ```
    /// use ringfold::collective::{Collective, Request};
    /// use ringfold::plan::footprint::Footprint;
    /// use ringfold::plan::{Algorithm, Schedule};
    /// use ringfold::DType;
    /// let request = Request::new(Collective::AllReduce, 1000, DType::F32, 1 << 20);
    /// let ring = Footprint::largest(&request, Schedule::whole(Algorithm::named("ring")?))?;
    /// assert_eq!((ring.out, ring.into, ring.links), (1, 1, 2));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn largest(request: &Request, schedule: Schedule) -> Result<Footprint> {
        Footprint::largest_on(&Topology::default(), request, schedule)
    }

    /// The largest footprint of any rank of a group on several hosts, found as [`largest`](Footprint::largest) does.
    ///
    /// # Errors
    /// As [`Plan::generate_on`].
    pub fn largest_on(topology: &Topology, request: &Request, schedule: Schedule) -> Result<Footprint> {
        let world = request.world;
        // Trees are widest at their roots, pairs of odd ranks at the beginning and the end, everything else is alike.
        let sample: BTreeSet<usize> = match world {
            0..=256 => (0..world).collect(),
            _ => [0..16, world / 2 - 8..world / 2 + 8, world - 16..world].into_iter().flatten().collect(),
        };
        sample.into_iter().try_fold(Footprint::default(), |largest, rank| {
            Ok(largest.max(Footprint::of(&Plan::generate_on(topology, request, rank, schedule)?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Collective;
    use crate::plan::Algorithm;
    use crate::tensor::DType;

    fn largest(name: &str, world: usize, per_host: usize) -> Footprint {
        let request = Request::new(Collective::AllReduce, world, DType::F32, 1000);
        let schedule = Schedule::whole(Algorithm::named(name).unwrap());
        Footprint::largest_on(&Topology::even(world, per_host), &request, schedule).unwrap()
    }

    #[test]
    fn a_peer_of_both_ways_is_one_link() {
        for (name, world, links) in
            [("direct", 5, 4), ("ring", 5, 2), ("ring", 2, 1), ("recursive_doubling", 8, 3)]
        {
            assert_eq!(largest(name, world, world).links, links, "{name} {world}");
        }
    }

    #[test]
    fn rings_between_hosts_are_counted() {
        assert_eq!(largest("hierarchical_ring", 16, 16).links, 2);
        // One round the host and one round the hosts.
        assert_eq!(largest("hierarchical_ring", 16, 4).links, 4);
    }
}
