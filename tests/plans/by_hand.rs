//! What plans are written with by hand.

use ringfold::DType;
use ringfold::collective::{Collective, Request};
use ringfold::plan::{Algorithm, Place, Plan, Region, Schedule, Span, Step};
use std::ops::Range;

pub(crate) fn span(place: Place, range: Range<usize>) -> Span {
    Span { place, start: range.start, len: range.len() }
}

pub(crate) fn input(range: Range<usize>) -> Span {
    span(Place::Input, range)
}

pub(crate) fn output(range: Range<usize>) -> Span {
    span(Place::Output, range)
}

pub(crate) fn scratch(range: Range<usize>) -> Span {
    span(Place::Scratch, range)
}

pub(crate) fn slot(range: Range<usize>) -> Span {
    span(Place::Slot, range)
}

pub(crate) fn peer(rank: usize, region: Region, range: Range<usize>) -> Span {
    span(Place::Peer { rank, region }, range)
}

pub(crate) fn send(range: Span, to: usize) -> Step {
    Step::Send { range, to }
}

pub(crate) fn recv(range: Span, from: usize) -> Step {
    Step::Recv { range, from }
}

pub(crate) fn copy(source: Span, into: Span) -> Step {
    Step::Copy { source, into }
}

pub(crate) fn fold(sources: impl IntoIterator<Item = Span>, into: Span) -> Step {
    Step::Fold { sources: sources.into_iter().collect(), into }
}

pub(crate) fn finish(range: Span) -> Step {
    Step::Finish { range }
}

pub(crate) fn signal(flag: u32) -> Step {
    Step::Signal { flag }
}

pub(crate) fn wait(rank: usize, flag: u32, value: usize) -> Step {
    Step::Wait { rank, flag, value: value as u32 }
}

pub(crate) fn request(collective: Collective, world: usize, count: usize) -> Request {
    Request::new(collective, world, DType::F32, count)
}

/// The plans of all ranks, each with so much scratch memory and such a slot.
pub(crate) fn plans(
    request: &Request,
    scratch: usize,
    slot: usize,
    steps: impl Fn(usize) -> Vec<Step>,
) -> Vec<Plan> {
    (0..request.world)
        .map(|rank| Plan {
            request: request.clone(),
            rank,
            algorithm: "by hand".into(),
            scratch,
            slot,
            steps: steps(rank),
        })
        .collect()
}

/// The plans of an algorithm, whole blocks at a time.
pub(crate) fn generated(algorithm: &str, request: &Request) -> Vec<Plan> {
    let schedule = Schedule::whole(Algorithm::named(algorithm).unwrap());
    (0..request.world).map(|rank| Plan::generate(request, rank, schedule).unwrap()).collect()
}
