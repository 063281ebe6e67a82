//! Schedules as data: what each rank sends, receives, combines and copies, proved before they run.
//!
//! A [`Plan`] is one rank's program for one [`Request`]: a list of [`Step`]s over ranges of elements, without a
//! pointer, a socket or a clock in it. It goes three ways from here:
//!
//! - [`lower`](lower::lower) turns it into lanes with byte-monotone dependencies, which executors run;
//! - [`verify`](verify::verify) proves the plans of all ranks together: matched messages, no deadlock without any
//!   buffering, no race, the right result on every rank;
//! - serde writes and reads it, so that anybody can check one.
//!
//! This module is pure: no unsafe code, no input or output, no clock.

#![forbid(unsafe_code)]

pub mod algorithm;
mod build;
pub mod cost;
pub mod footprint;
mod levels;
pub mod lower;
pub mod select;
pub mod simulate;
mod step;
mod topology;
pub mod verify;

pub use algorithm::{Algorithm, Reach, SLOT};
pub use build::Builder;
pub(crate) use build::split_evenly;
pub use levels::Levels;
pub use step::{Place, Region, Span, Step};
pub use topology::Topology;

use crate::collective::{Counts, Request};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a request is carried out: by which algorithm, in which portions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The most elements of one block that a streaming algorithm takes at a time; scratch memory is
    /// proportional to it. `usize::MAX` takes every block whole.
    pub slice: usize,
}

impl Schedule {
    /// An algorithm that takes every block whole.
    pub fn whole(algorithm: Algorithm) -> Self {
        Schedule { algorithm, slice: usize::MAX }
    }
}

/// One rank's program for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it carries out, as this rank sees it.
    pub request: Request,
    /// Whose program it is.
    pub rank: usize,
    /// The name of the algorithm that made it, or anything else where it was written by hand.
    pub algorithm: String,
    /// Elements of private scratch memory.
    pub scratch: usize,
    /// Elements of the slot that other ranks can see, where memory is shared.
    #[serde(default)]
    pub slot: usize,
    /// What is done. The order is one in which a rank alone could do it; executors overlap what
    /// [`lower`](lower::lower) finds independent.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of `rank` for this request by this schedule. A pure function of its arguments.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a request that cannot be right,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the algorithm does not do this collective.
    ///
    /// ```
    /// use ringfold::collective::{Collective, Request};
    /// use ringfold::plan::{Algorithm, Plan, Schedule};
    /// use ringfold::DType;
    /// let request = Request::new(Collective::AllReduce, 4, DType::F32, 1000);
    /// let plan = Plan::generate(&request, 0, Schedule::whole(Algorithm::named("ring")?))?;
    /// assert_eq!(plan.steps.iter().filter(|step| step.sends_to().is_some()).count(), 6);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn generate(request: &Request, rank: usize, schedule: Schedule) -> Result<Plan> {
        Plan::generate_on(&Topology::default(), request, rank, schedule)
    }

    /// The plan of `rank` of a group on several hosts. A pure function of its arguments; the topology is the same on
    /// every rank.
    ///
    /// # Errors
    /// As [`generate`](Plan::generate), and [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for the topology
    /// of another number of ranks.
    ///
    /// ```
    /// use ringfold::collective::{Collective, Request};
    /// use ringfold::plan::{Algorithm, Plan, Schedule, Topology};
    /// use ringfold::DType;
    /// let request = Request::new(Collective::AllReduce, 4, DType::F32, 1000);
    /// let schedule = Schedule::whole(Algorithm::named("hierarchical_ring")?);
    /// let hosts = Topology::of_hosts(["a", "b", "a", "b"]);
    /// let plan = Plan::generate_on(&hosts, &request, 0, schedule)?;
    /// assert!(plan.steps.iter().all(|step| step.sends_to() != Some(3)), "rank 2 is nearer");
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn generate_on(
        topology: &Topology,
        request: &Request,
        rank: usize,
        schedule: Schedule,
    ) -> Result<Plan> {
        request.validate()?;
        if let Some(world) = topology.world().filter(|&world| world != request.world) {
            return Err(Error::invalid(format!(
                "the topology of {world} ranks for a group of {}",
                request.world
            ))
            .remedy("name the host of every rank, in rank order"));
        }
        let belongs_to_another = match request.counts {
            Counts::Pairwise { rank: owner, .. } | Counts::Messages { rank: owner, .. } => owner != rank,
            _ => false,
        };
        if rank >= request.world || belongs_to_another {
            return Err(Error::invalid(format!(
                "this request is not one of rank {rank} of {}",
                request.world
            )));
        }
        schedule.algorithm.check(request)?;
        let mut builder = Builder::new(topology, request, rank, schedule.slice);
        if request.world == 1 {
            algorithm::alone(&mut builder);
        } else {
            schedule.algorithm.generate(&mut builder);
        }
        Ok(builder.finish(schedule.algorithm.name()))
    }
}
