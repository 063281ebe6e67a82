//! Plans with one thing wrong at random: the prover never panics, and what it still accepts still works.

use crate::interpreter::{expected, run};
use ringfold::plan::verify::{Case, verify};
use ringfold::plan::{Algorithm, Place, Plan, Span, Step};

pub(crate) fn assert_right(plans: &[Plan], seed: u64, what: &str) {
    let outputs = run(plans, seed).unwrap_or_else(|| panic!("{what}: accepted, but it gets stuck"));
    for (rank, output) in outputs.iter().enumerate() {
        assert_eq!(*output, expected(plans, rank), "{what}: accepted, but rank {rank}'s output is wrong");
    }
}

/// Small valid plans of every kind.
fn valid() -> Vec<(String, Vec<Plan>)> {
    let mut all = Vec::new();
    for algorithm in Algorithm::all() {
        for &collective in algorithm.collectives() {
            for world in 2..=5 {
                for case in Case::of(algorithm, collective, world) {
                    all.push((case.to_string(), case.plans().unwrap()));
                }
            }
        }
    }
    all
}

#[test]
fn what_is_proved_works() {
    for (seed, (what, plans)) in valid().into_iter().enumerate() {
        verify(&plans).unwrap();
        assert_right(&plans, seed as u64, &what);
    }
}

/// Every span of a step.
fn spans(step: &mut Step) -> Vec<&mut Span> {
    match step {
        Step::Send { range, .. } | Step::Recv { range, .. } | Step::Finish { range } => vec![range],
        Step::RecvReduce { into, local, .. } => vec![into, local],
        Step::Copy { source, into } => vec![source, into],
        Step::Fold { sources, into } => sources.iter_mut().chain([into]).collect(),
        Step::Signal { .. } | Step::Wait { .. } => vec![],
    }
}

/// Changes one thing in one step of one rank, and says what.
fn mutate(plans: &mut [Plan], random: &mut fastrand::Rng) -> Option<String> {
    let (world, rank) = (plans.len(), random.usize(..plans.len()));
    let steps = &mut plans[rank].steps;
    if steps.is_empty() {
        return None;
    }
    let index = random.usize(..steps.len());
    let other = random.usize(..steps.len());
    let step = &mut steps[index];
    let before = step.to_string();
    let what = match random.u8(..8) {
        0 => {
            steps.remove(index);
            "dropped"
        }
        1 => {
            let again = steps[index].clone();
            steps.insert(other, again);
            "done again"
        }
        2 => {
            match step {
                Step::Send { to: peer, .. }
                | Step::Recv { from: peer, .. }
                | Step::RecvReduce { from: peer, .. }
                | Step::Wait { rank: peer, .. } => *peer = random.usize(..=world),
                _ => {
                    for span in spans(step) {
                        if let Place::Peer { rank, .. } = &mut span.place {
                            *rank = random.usize(..=world);
                        }
                    }
                }
            }
            "with another peer"
        }
        3 => {
            let mut spans = spans(step);
            let span = random.choice(spans.iter_mut())?;
            span.start = if random.bool() { span.start + 1 } else { span.start.checked_sub(1)? };
            "with a range shifted"
        }
        4 => {
            for span in spans(step) {
                span.len = span.len.checked_sub(1)?;
            }
            "with shorter ranges"
        }
        5 => {
            steps.swap(index, other);
            "exchanged with another"
        }
        6 => {
            // With the next one in the same lane.
            let lane = |step: &Step| (step.sends_to(), step.receives_from());
            let next = (index + 1..steps.len()).find(|&next| lane(&steps[next]) == lane(&steps[index]))?;
            steps.swap(index, next);
            "exchanged with the next in its lane"
        }
        _ => {
            let mut spans = spans(step);
            let span = random.choice(spans.iter_mut())?;
            span.place = random.choice([Place::Input, Place::Output, Place::Scratch, Place::Slot])?;
            "with another memory"
        }
    };
    Some(format!("rank {rank} step {index} ({before}) {what}"))
}

#[test]
fn what_is_still_accepted_after_a_mutation_still_works() {
    let mut random = fastrand::Rng::with_seed(0x0dd);
    let (mut accepted, mut rejected) = (0, 0);
    for (name, plans) in valid() {
        for _ in 0..20 {
            let mut plans = plans.clone();
            let Some(what) = mutate(&mut plans, &mut random) else { continue };
            if verify(&plans).is_err() {
                rejected += 1;
                continue;
            }
            accepted += 1;
            for _ in 0..3 {
                assert_right(&plans, random.u64(..), &format!("{name}: {what}"));
            }
        }
    }
    // Neither side may be empty: some changes are harmless, most are not.
    assert!(accepted > 1_000 && rejected > accepted, "{accepted} accepted, {rejected} rejected");
}
