//! What a collective would take on a network that is described: every rank's plan, carried out by arithmetic.
//!
//! - `events` does the lowered plans of few ranks event by event;
//! - `sweep` does the plans of many, compressed by `program`, each rank a message at a time;
//! - `fabric` says what a message costs, for both;
//! - where network and schedule look the same from every rank (a ring, say), one period of the network stands for all;
//! - where a schedule takes a long message in many slices, a few and twice as many are simulated, and the time of the
//!   whole follows from both.
//!
//! Source: simulation of collectives under LogGOPS as in T. Hoefler, T. Schneider, A. Lumsdaine, "LogGOPSim", HPDC 2010.

mod events;
mod fabric;
mod program;
mod sweep;

use super::cost::{Class, Network};
use super::lower::lower;
use super::{Algorithm, Plan, Reach, Schedule, Step, Topology};
use crate::collective::{Counts, Request};
use crate::error::{Error, Result};
use program::{Program, Shapes};
use rayon::prelude::*;
use std::sync::Arc;

/// How a simulation was, or is to be, done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Event by event, with the critical path.
    Events,
    /// In sweeps over all ranks.
    Sweeps,
    /// In sweeps over ranks that stand for all others, which are like them: as far as a sample of the ranks tells.
    Classes,
    /// In sweeps, of a part of the message; the whole follows from the part.
    Extrapolated,
}

/// One step on the critical path.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// Whose step.
    pub rank: usize,
    /// What it did.
    pub step: Step,
    /// When it did its first byte, in seconds.
    pub begin: f64,
    /// When it was done.
    pub end: f64,
}

/// What has passed through the links of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Which class.
    pub class: Class,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The largest part of the time that one of its kind was busy, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilisation {
    /// Processors.
    pub cpu: f64,
    /// The ranks' own ports.
    pub rank: f64,
    /// Ports that the ranks of a host share.
    pub host: f64,
    /// Ports that the hosts of a rack share.
    pub rack: f64,
}

/// What a simulation found.
#[derive(Debug, Clone)]
pub struct Report {
    /// By which schedule.
    pub schedule: Schedule,
    /// How it was done.
    pub method: Method,
    /// When each rank is through, in seconds; infinite where it never is, and for the dead rank.
    pub finish: Vec<f64>,
    /// Whom each rank that is never through waits for.
    pub waits_for: Vec<Option<usize>>,
    /// The most messages that a rank sends.
    pub most_messages: u64,
    /// The most bytes that a rank sends.
    pub most_bytes: u64,
    /// What passed through each link class.
    pub loads: [Load; 3],
    /// How busy the busiest were.
    pub utilisation: Utilisation,
    /// From the beginning to whatever ended last, each step and what it waited for longest. Event by event only.
    pub critical_path: Vec<Hop>,
}

impl Report {
    /// When the last rank that gets through is through: 0 where none does, so that it tells little where a rank
    /// [`hangs`](Report::hangs).
    pub fn time(&self) -> f64 {
        self.finish.iter().copied().filter(|finish| finish.is_finite()).fold(0.0, f64::max)
    }

    /// The ranks that are never through.
    pub fn hanging(&self) -> impl Iterator<Item = usize> + '_ {
        self.waits_for.iter().enumerate().filter(|(_, whom)| whom.is_some()).map(|(rank, _)| rank)
    }

    /// Whether there is a rank that is never through, other than the dead one.
    pub fn hangs(&self) -> bool {
        self.hanging().next().is_some()
    }

    /// Whom a hanging rank waits for, whom that one waits for, and so on to the end: the rank that everybody names.
    pub fn chain(&self, rank: usize) -> Vec<usize> {
        let mut chain = vec![rank];
        while let Some(whom) = self.waits_for[chain[chain.len() - 1]]
            && chain.len() <= self.waits_for.len()
            && !chain.contains(&whom)
        {
            chain.push(whom);
        }
        chain
    }
}

/// What either way of simulating finds.
struct Outcome {
    finish: Vec<f64>,
    waits_for: Vec<Option<usize>>,
    messages: Vec<u64>,
    bytes: Vec<u64>,
    traffic: [fabric::Traffic; 3],
    /// Seconds.
    busy: [f64; 4],
    path: Vec<Hop>,
}

/// The bytes that a link takes for a rank that does not read.
const BUFFERED: f64 = 262_144.0;

/// Up to so many steps of all ranks are simulated event by event.
const FEW: f64 = 5e6;

/// Up to so many even where ranks that stand for all others would do: event by event, it is told where the time goes.
const VERY_FEW: f64 = 3e5;

/// Up to so many are simulated one by one, where they repeat themselves.
const MANY: f64 = 5e6;

/// Simulates a collective by a schedule, by the method that suits its size. Pure. Schedules that look at hosts see those
/// of the network. Takes seconds for 10,000 ranks; minutes where
/// every message of a ring has to be followed, for the sake of a straggler or a dead rank. Memory: some hundred bytes a
/// step event by event, else one message between every two ranks that talk to each other.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a request or a network that cannot be right,
/// [`Unsupported`](crate::ErrorKind::Unsupported) where the algorithm does not do this collective.
///
/// ```
/// use ringfold::collective::{Collective, Request};
/// use ringfold::plan::cost::{Link, Network};
/// use ringfold::plan::simulate::simulate;
/// use ringfold::plan::{Algorithm, Schedule};
/// use ringfold::DType;
/// let network = Network::flat(Link::new(20e-6, 0.8e-9), 0.1e-9);
/// let request = Request::new(Collective::AllReduce, 64, DType::F32, 2);
/// let ring = simulate(&request, Schedule::whole(Algorithm::named("ring")?), &network)?;
/// let doubling = simulate(&request, Schedule::whole(Algorithm::named("recursive_doubling")?), &network)?;
/// assert!(doubling.time() < ring.time());
/// # Ok::<(), ringfold::Error>(())
/// ```
pub fn simulate(request: &Request, schedule: Schedule, network: &Network) -> Result<Report> {
    let (group, schedule) = Group::of(request, schedule, network)?;
    if let Some(parts) = Parts::of(&group, request, schedule, MANY)? {
        return Ok(report(parts.extrapolate(&group)?, schedule, Method::Extrapolated));
    }
    let (outcome, method) = group.whole(request, schedule)?;
    Ok(report(outcome, schedule, method))
}

/// Simulates by the given method, however long that takes. Otherwise as [`simulate`].
///
/// # Errors
/// As [`simulate`], and [`Unsupported`](crate::ErrorKind::Unsupported) where the method does not suit the case.
pub fn simulate_by(
    method: Method,
    request: &Request,
    schedule: Schedule,
    network: &Network,
) -> Result<Report> {
    let (group, schedule) = Group::of(request, schedule, network)?;
    let unsuited = || Error::unsupported(format!("{method:?} does not suit {request:?}"));
    let outcome = match method {
        Method::Events => group.every_event(request, schedule)?,
        Method::Sweeps => group.every_rank(request, schedule)?,
        Method::Classes => group.classes(request, schedule)?.ok_or_else(unsuited)?,
        Method::Extrapolated => {
            Parts::of(&group, request, schedule, MANY)?.ok_or_else(unsuited)?.extrapolate(&group)?
        }
    };
    Ok(report(outcome, schedule, method))
}

fn report(outcome: Outcome, schedule: Schedule, method: Method) -> Report {
    let time = outcome.finish.iter().copied().filter(|finish| finish.is_finite()).fold(0.0, f64::max);
    let [cpu, rank, host, rack] =
        outcome.busy.map(|busy| if time > 0.0 { (busy / time).min(1.0) } else { 0.0 });
    let load = |class: Class| {
        let traffic = outcome.traffic[class as usize];
        Load { class, messages: traffic.messages, bytes: traffic.bytes }
    };
    Report {
        schedule,
        method,
        most_messages: outcome.messages.iter().copied().max().unwrap_or(0),
        most_bytes: outcome.bytes.iter().copied().max().unwrap_or(0),
        loads: Class::ALL.map(load),
        utilisation: Utilisation { cpu, rank, host, rack },
        finish: outcome.finish,
        waits_for: outcome.waits_for,
        critical_path: outcome.path,
    }
}

/// The algorithms that can do a request, each with its report: the quickest first, those that leave ranks hanging last.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_all(
    request: &Request,
    schedule: impl Fn(Algorithm) -> Schedule + Sync,
    network: &Network,
) -> Result<Vec<Report>> {
    request.validate()?;
    let able: Vec<Algorithm> =
        Algorithm::within(Reach::Messages).filter(|algorithm| algorithm.supports(request)).collect();
    let mut reports = able
        .into_par_iter()
        .with_max_len(1)
        .map(|algorithm| simulate(request, schedule(algorithm), network))
        .collect::<Result<Vec<_>>>()?;
    reports.sort_by(|a, b| a.hangs().cmp(&b.hangs()).then(a.time().total_cmp(&b.time())));
    Ok(reports)
}

/// Ranks, and the network that they are on.
struct Group<'a> {
    network: &'a Network,
    topology: Topology,
}

impl<'a> Group<'a> {
    /// Checks what somebody wants to be simulated.
    fn of(request: &Request, schedule: Schedule, network: &'a Network) -> Result<(Self, Schedule)> {
        request.validate()?;
        network.check(request.world)?;
        let topology = Topology::even(request.world, network.ranks_per_host);
        // As plans are made.
        Ok((Group { network, topology }, Schedule { slice: schedule.slice.max(1), ..schedule }))
    }

    fn plan(&self, request: &Request, rank: usize, schedule: Schedule) -> Result<Plan> {
        Plan::generate_on(&self.topology, request, rank, schedule)
    }

    /// About how many steps all ranks have together.
    fn estimate(&self, request: &Request, schedule: Schedule) -> Result<f64> {
        let world = request.world;
        let of = |rank: usize| self.plan(request, rank, schedule).map(|plan| plan.steps.len() as f64);
        Ok(of(0)? + of(world / 2)?.max(of(world - 1)?) * (world as f64 - 1.0))
    }

    /// Simulates the whole message, by the method that suits it.
    fn whole(&self, request: &Request, schedule: Schedule) -> Result<(Outcome, Method)> {
        let steps = self.estimate(request, schedule)?;
        if steps > VERY_FEW
            && let Some(outcome) = self.classes(request, schedule)?
        {
            return Ok((outcome, Method::Classes));
        }
        Ok(match steps <= FEW {
            true => (self.every_event(request, schedule)?, Method::Events),
            false => (self.every_rank(request, schedule)?, Method::Sweeps),
        })
    }

    fn every_event(&self, request: &Request, schedule: Schedule) -> Result<Outcome> {
        let ranks = (0..request.world)
            .into_par_iter()
            .map(|rank| lower(self.plan(request, rank, schedule)?))
            .collect::<Result<_>>()?;
        events::run(ranks, request.element_size(), self.network)
    }

    fn every_rank(&self, request: &Request, schedule: Schedule) -> Result<Outcome> {
        let shapes = Shapes::default();
        let programs: Vec<Program> = (0..request.world)
            .into_par_iter()
            .map(|rank| shapes.program(&self.plan(request, rank, schedule)?))
            .collect::<Result<_>>()?;
        sweep::sweep(&programs, request.world, request.element_size(), self.network)
    }

    /// Simulates the ranks of one period of the network, if all ranks are alike: where hosts make them differ, none are.
    fn classes(&self, request: &Request, schedule: Schedule) -> Result<Option<Outcome>> {
        let world = request.world;
        let Some(period) = self.network.period(world).filter(|period| period * 4 <= world) else {
            return Ok(None);
        };
        let shapes = Shapes::default();
        let program = |rank: usize| shapes.program(&self.plan(request, rank, schedule)?);
        let first = program(0)?;
        let is_like_first = |program: &Program| Arc::ptr_eq(&program.shape, &first.shape);
        for rank in sample(world) {
            if !is_like_first(&program(rank)?) {
                return Ok(None);
            }
        }
        let programs: Vec<Program> = (0..period).into_par_iter().map(program).collect::<Result<_>>()?;
        if !programs.iter().all(is_like_first) {
            return Ok(None);
        }
        sweep::sweep(&programs, world, request.element_size(), self.network).map(Some)
    }
}

/// Ranks by which a schedule is judged: its ends, and some between that have little in common.
fn sample(world: usize) -> impl Iterator<Item = usize> {
    [
        1,
        2,
        3,
        world / 4,
        world / 3,
        world / 2 - 1,
        world / 2,
        world * 2 / 3,
        world * 3 / 4 + 1,
        world - 2,
        world - 1,
    ]
    .into_iter()
    .filter(move |&rank| rank < world)
}

/// A message of so many slices, which are carried out alike: from the times of a few and of twice as many follows
/// that of all.
struct Parts {
    few: Request,
    twice: Request,
    schedule: Schedule,
    /// How many times the few there are in all.
    parts: f64,
}

impl Parts {
    /// None where there are no more than so many steps, or slices are not carried out alike.
    fn of(group: &Group<'_>, request: &Request, schedule: Schedule, many: f64) -> Result<Option<Parts>> {
        let Counts::Same(count) = request.counts else { return Ok(None) };
        let with = |count: usize| Request { counts: Counts::Same(count), ..request.clone() };
        // Of some algorithms a slice is one of the message, of others one of every rank's part, or of a host's share.
        let hosts = group.network.host_of(request.world - 1) + 1;
        let mut parts = vec![1, request.world / hosts, request.world];
        parts.dedup();
        for ranks in parts {
            let slices = count.div_ceil(ranks).div_ceil(schedule.slice);
            let slice = count.div_ceil(ranks).div_ceil(slices.max(1));
            let (schedule, unit) = (Schedule { slice: slice.max(1), ..schedule }, slice * ranks);
            if slices < 8 {
                continue;
            }
            // Of a few at once, for two trees share the slices between them.
            let steps = |slices: usize| group.estimate(&with(unit * slices), schedule);
            let (four, eight) = (steps(4)?, steps(8)?);
            let one = four / 4.0;
            if eight < four * 1.5 || one * slices as f64 <= many {
                continue;
            }
            // Two, so that the memory of a slice is in use when the next one comes, unless even that is too much.
            let few = ((many / 4.0 / one) as usize).clamp(if one < 1e8 { 2 } else { 1 }, 32);
            if few * 4 > slices {
                continue;
            }
            return Ok(Some(Parts {
                few: with(unit * few),
                twice: with(unit * few * 2),
                schedule,
                parts: count as f64 / (unit * few) as f64,
            }));
        }
        Ok(None)
    }

    fn extrapolate(&self, group: &Group<'_>) -> Result<Outcome> {
        let of = |request: &Request| group.whole(request, self.schedule).map(|(outcome, _)| outcome);
        let (one, two) = (of(&self.few)?, of(&self.twice)?);
        let more = self.parts - 1.0;
        let reach = |one: f64, two: f64| if one.is_finite() { one + more * (two - one) } else { one };
        let count = |one: u64, two: u64| (one as f64 + more * (two as f64 - one as f64)).round() as u64;
        let counts =
            |one: &[u64], two: &[u64]| one.iter().zip(two).map(|(&one, &two)| count(one, two)).collect();
        let mut traffic = one.traffic;
        for (one, two) in traffic.iter_mut().zip(two.traffic) {
            one.messages = count(one.messages, two.messages);
            one.bytes = count(one.bytes, two.bytes);
        }
        let mut busy = one.busy;
        for (one, two) in busy.iter_mut().zip(two.busy) {
            *one = reach(*one, two);
        }
        Ok(Outcome {
            finish: one.finish.iter().zip(&two.finish).map(|(&one, &two)| reach(one, two)).collect(),
            messages: counts(&one.messages, &two.messages),
            bytes: counts(&one.bytes, &two.bytes),
            waits_for: two.waits_for,
            traffic,
            busy,
            path: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests;
