//! Proves the plans of all ranks together.
//!
//! What is proved, on the lowered form that executors run:
//!
//! 1. every message sent is received, with the same length, in the same place of its stream;
//! 2. no deadlock, even if no byte were ever buffered between two ranks;
//! 3. no race, however much is buffered: between every two conflicting accesses to one memory lies a path of
//!    happens-before, and others touch a rank's input and output only while it is at work;
//! 4. every output is exactly what the collective promises: each contribution once, finished once, the same
//!    expression, hence the same bits, on every rank (and the balanced tree under `Order::Fixed`);
//! 5. of collectives that reduce: user memory is written only with values that every rank has contributed to, so
//!    that a mismatch anywhere is noticed before anything has changed.
//!
//! How: the element axis of every memory and message is cut wherever any range begins or ends, cuts travel through
//! messages and steps until nothing changes (`blocks`), and what remains is finite: one node for each task and
//! block, a send and its receive being one (`graph`). A topological order of the nodes exists if and only if there is
//! no deadlock. Along it conflicting accesses are looked for (`races`), and the values of all memories are followed
//! symbolically (`values`).

mod blocks;
mod cases;
mod graph;
mod races;
mod timeline;
mod values;

pub use cases::{Case, Hosts, Placement, Shape};
pub use timeline::{Message, messages};

use super::lower::{Lowered, lower};
use super::{Plan, Step};
use crate::collective::{Collective, Counts, Fingerprint, Request};
use blocks::{Action, System};
use graph::{Graph, Order};
use races::Races;
use std::fmt;
use values::Follower;

/// What is wrong with a set of plans.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A step that no executor could run.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The plans are not plans for one and the same request.
    #[error("disagreement: {0}")]
    Disagreement(String),
    /// A message that is sent and not received, received and not sent, or of two lengths; a wait for a
    /// signal that nobody gives.
    #[error("unmatched: {0}")]
    Unmatched(String),
    /// Tasks that wait for each other in a circle.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// Two accesses to the same memory, one of them a write, that nothing orders; or user memory touched by another
    /// rank before its own has begun or after it has ended.
    #[error("race: {0}")]
    Race(String),
    /// A value that is not what the collective promises, or is made from undefined memory.
    #[error("wrong result: {0}")]
    WrongResult(String),
    /// Ranks that would get different bits, or bits in another order than promised.
    #[error("wrong order: {0}")]
    WrongOrder(String),
    /// User memory written before every rank has been heard.
    #[error("early write: {0}")]
    EarlyWrite(String),
}

/// What a proof went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Steps of all ranks.
    pub steps: usize,
    /// Messages between ranks.
    pub messages: usize,
    /// Elements between ranks.
    pub elements: usize,
    /// The most elements that one rank sends.
    pub most_sent: usize,
    /// The most scratch elements that one rank needs.
    pub most_scratch: usize,
    /// The most messages in a row that depend on one another.
    pub rounds: usize,
    /// Blocks that were followed.
    pub nodes: usize,
}

/// Proves the plans of all ranks, one each, in rank order.
///
/// # Errors
/// The first [`Fault`] found, naming ranks and steps.
///
/// ```
/// use ringfold::collective::{Collective, Request};
/// use ringfold::plan::{Algorithm, Plan, Schedule, verify::verify};
/// use ringfold::DType;
/// let request = Request::new(Collective::AllReduce, 5, DType::F32, 12);
/// let schedule = Schedule::whole(Algorithm::named("ring")?);
/// let mut plans = (0..5).map(|rank| Plan::generate(&request, rank, schedule)).collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(verify(&plans).unwrap().rounds, 8);
///
/// plans[3].steps.remove(0);
/// assert!(verify(&plans).unwrap_err().to_string().contains("rank 3"));
/// # Ok::<(), ringfold::Error>(())
/// ```
pub fn verify(plans: &[Plan]) -> Result<Report, Fault> {
    verify_owned(plans.to_vec())
}

/// [`verify`] without the copies.
fn verify_owned(plans: Vec<Plan>) -> Result<Report, Fault> {
    verify_lowered(&lower_all(plans)?)
}

fn lower_all(plans: Vec<Plan>) -> Result<Vec<Lowered>, Fault> {
    plans
        .into_iter()
        .map(|plan| lower(plan).map_err(|error| Fault::Malformed(error.message().to_owned())))
        .collect()
}

/// Proves plans in their lowered form.
///
/// # Errors
/// The first [`Fault`] found.
pub fn verify_lowered(ranks: &[Lowered]) -> Result<Report, Fault> {
    agree(ranks)?;
    let system = System::new(ranks)?;
    let graph = Graph::new(&system)?;
    let order = graph.topological_order(&system)?;
    follow(&system, &graph, &order)?;
    let mut sent = vec![0; ranks.len()];
    for entry in system.entries.iter().filter(|entry| entry.action == Action::Send) {
        sent[entry.rank as usize] += entry.len;
    }
    Ok(Report {
        steps: ranks.iter().map(|lowered| lowered.plan.steps.len()).sum(),
        messages: system.messages(),
        elements: sent.iter().sum(),
        most_sent: sent.iter().copied().max().unwrap_or(0),
        most_scratch: ranks.iter().map(|lowered| lowered.plan.scratch).max().unwrap_or(0),
        rounds: order.depths.iter().max().map_or(0, |&depth| depth as usize),
        nodes: order.nodes.len(),
    })
}

/// Goes through everything that happens, in one order in which it can.
fn follow(system: &System<'_>, graph: &Graph, order: &Order) -> Result<(), Fault> {
    let mut races = Races::new(system, graph, order);
    let mut follower = Follower::new(system);
    let mut wrong = None;
    for &node in &order.nodes {
        let mut sent = None;
        for event in graph.events_of(node) {
            let index = graph.entry(event);
            let entry = &system.entries[index];
            if entry.len == 0 {
                continue;
            }
            races.check(event)?;
            // A wrong value may come of a race further on, which then is what to tell.
            if wrong.is_none() {
                match follower.step(index, event - entry.events.start, sent) {
                    Ok(value) => sent = value,
                    Err(fault) => wrong = Some(fault),
                }
            }
        }
    }
    races.check_visits()?;
    wrong.map_or_else(|| follower.check_results(), Err)
}

/// One plan a rank, in order, all for the same request.
fn agree(ranks: &[Lowered]) -> Result<(), Fault> {
    let Some(first) = ranks.first() else {
        return Err(Fault::Disagreement("no plans at all".into()));
    };
    let world = first.plan.request.world;
    if ranks.len() != world {
        return Err(Fault::Disagreement(format!("{} plans for a group of {world}", ranks.len())));
    }
    let expected = Fingerprint::of(&first.plan.request);
    for (rank, lowered) in ranks.iter().enumerate() {
        let plan = &lowered.plan;
        if plan.rank != rank {
            return Err(Fault::Disagreement(format!("plan {rank} is that of rank {}", plan.rank)));
        }
        plan.request
            .validate()
            .map_err(|error| Fault::Malformed(format!("rank {rank}'s request: {}", error.message())))?;
        if plan.request.world != world {
            return Err(Fault::Disagreement(format!("rank {rank} plans for {} ranks", plan.request.world)));
        }
        if let Some(difference) = expected.difference(&Fingerprint::of(&plan.request)) {
            return Err(Fault::Disagreement(format!("rank 0 and rank {rank}: {difference}")));
        }
    }
    if matches!(first.plan.request.collective, Collective::AllToAll | Collective::SendRecv) {
        agree_in_pairs(ranks)?;
    }
    Ok(())
}

/// What each rank sends to each is what that one expects from it.
fn agree_in_pairs(ranks: &[Lowered]) -> Result<(), Fault> {
    let count = |request: &Request, peer: usize, sends: bool| match &request.counts {
        Counts::Same(count) => *count,
        Counts::Pairwise { send, receive, .. } => {
            if sends {
                send[peer]
            } else {
                receive[peer]
            }
        }
        Counts::Messages { send, receive, .. } => {
            let message = if sends { send } else { receive };
            message.filter(|(with, _)| *with == peer).map_or(0, |(_, count)| count)
        }
        Counts::PerRank(_) => 0,
    };
    for (from, sender) in ranks.iter().enumerate() {
        for (to, receiver) in ranks.iter().enumerate() {
            let sent = count(&sender.plan.request, to, true);
            let expected = count(&receiver.plan.request, from, false);
            if sent != expected {
                return Err(Fault::Disagreement(format!(
                    "rank {from} has {sent} elements for rank {to}, which expects {expected}"
                )));
            }
        }
    }
    Ok(())
}

/// A step with its address, for messages.
struct At<'a> {
    rank: usize,
    index: usize,
    step: &'a Step,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} step {} ({})", self.rank, self.index, self.step)
    }
}
