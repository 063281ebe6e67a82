//! Plans for ranks that see each other's memory, written by hand.

use crate::by_hand::*;
use ringfold::collective::Collective;
use ringfold::plan::verify::{Fault, verify};
use ringfold::plan::{Plan, Region, Span, Step};
use std::ops::Range;

const FILLED: u32 = 0;
const REDUCED: u32 = 1;
const READ: u32 = 2;

fn others(world: usize, rank: usize) -> impl Iterator<Item = usize> {
    (0..world).filter(move |&other| other != rank)
}

fn everybodys_slot(world: usize, rank: usize, range: Range<usize>) -> Vec<Span> {
    (0..world)
        .map(
            |other| {
                if other == rank { slot(range.clone()) } else { peer(other, Region::Slot, range.clone()) }
            },
        )
        .collect()
}

/// all_reduce in portions of `slice` elements: everybody puts a portion into its slot, and everybody folds all slots in
/// rank order. A slot is filled again only when all have read it.
pub(crate) fn flat(world: usize, count: usize, slice: usize, in_place: bool) -> Vec<Plan> {
    let mut request = request(Collective::AllReduce, world, count);
    request.in_place = in_place;
    plans(&request, 0, slice.min(count), |rank| {
        let mut steps = Vec::new();
        for (round, start) in (0..count).step_by(slice).enumerate() {
            let portion = start..(start + slice).min(count);
            let len = portion.len();
            steps.push(copy(input(portion.clone()), slot(0..len)));
            steps.push(signal(FILLED));
            steps.extend(others(world, rank).map(|other| wait(other, FILLED, round + 1)));
            steps.push(fold(everybodys_slot(world, rank, 0..len), output(portion.clone())));
            steps.push(finish(output(portion)));
            steps.push(signal(READ));
            steps.extend(others(world, rank).map(|other| wait(other, READ, round + 1)));
        }
        steps
    })
}

/// all_reduce in two halves: each rank folds its slice of all slots into its output, and then everybody copies the
/// others' slices from their outputs.
pub(crate) fn sliced(world: usize, count: usize, in_place: bool) -> Vec<Plan> {
    let mut request = request(Collective::AllReduce, world, count);
    request.in_place = in_place;
    let slice = |rank: usize| rank * count / world..(rank + 1) * count / world;
    plans(&request, 0, count, |rank| {
        let mut steps = vec![copy(input(0..count), slot(0..count)), signal(FILLED)];
        steps.extend(others(world, rank).map(|other| wait(other, FILLED, 1)));
        steps.push(fold(everybodys_slot(world, rank, slice(rank)), output(slice(rank))));
        steps.push(finish(output(slice(rank))));
        steps.push(signal(REDUCED));
        for other in others(world, rank) {
            steps.push(wait(other, REDUCED, 1));
            steps.push(copy(peer(other, Region::Output, slice(other)), output(slice(other))));
        }
        // An output is its user's again only when all have read it.
        steps.push(signal(READ));
        steps.extend(others(world, rank).map(|other| wait(other, READ, 1)));
        steps
    })
}

#[test]
fn plans_for_shared_memory_are_proved() {
    for world in 1..=8 {
        for count in [0, 1, 2, 3, 7, 8, 9, 16, 31] {
            for in_place in [false, true] {
                for slice in [1, 3, 100] {
                    let report = verify(&flat(world, count, slice, in_place)).unwrap();
                    assert_eq!((report.messages, report.rounds), (0, 0));
                }
                verify(&sliced(world, count, in_place)).unwrap();
            }
        }
    }
}

/// Every plan with one `Signal` or one `Wait` left out, but for the last `spared` steps of each rank.
fn left_out(plans: &[Plan], spared: usize) -> Vec<(Step, Result<(), Fault>)> {
    let mut outcomes = Vec::new();
    for rank in 0..plans.len() {
        for index in 0..plans[rank].steps.len() - spared {
            if matches!(plans[rank].steps[index], Step::Signal { .. } | Step::Wait { .. }) {
                let mut plans = plans.to_vec();
                let step = plans[rank].steps.remove(index);
                outcomes.push((step, verify(&plans).map(|_| ())));
            }
        }
    }
    outcomes
}

#[test]
fn no_signal_and_no_wait_can_be_left_out() {
    for world in 2..=5 {
        for in_place in [false, true] {
            // That the last portion has been read matters to the next operation, which these plans know nothing of.
            let mut outcomes = left_out(&flat(world, 7, 3, in_place), world - 1);
            outcomes.extend(left_out(&sliced(world, 11, in_place), 0));
            assert!(outcomes.len() > 20);
            for (step, outcome) in outcomes {
                match (&step, &outcome) {
                    (Step::Signal { .. }, Err(Fault::Unmatched(message))) => {
                        assert!(message.contains("waits for a signal that nobody gives"), "{message}");
                    }
                    (Step::Wait { rank, .. }, Err(Fault::Race(message))) => {
                        assert!(message.contains(&format!("rank {rank}")), "{message}");
                    }
                    _ => panic!("without `{step}` among {world} ranks: {outcome:?}"),
                }
            }
        }
    }
}

/// Rank 1 gets rank 0's input by looking at it. The steps that keep the two apart are given.
fn looks_at_rank_0(before: [Option<Step>; 2], after: [Option<Step>; 2]) -> Result<(), Fault> {
    let plans = plans(&request(Collective::Broadcast, 2, 4), 1, 1, |rank| {
        let look = [copy(input(0..4), output(0..4)), copy(peer(0, Region::Input, 0..4), output(0..4))];
        [before[rank].clone(), Some(look[rank].clone()), after[rank].clone()].into_iter().flatten().collect()
    });
    verify(&plans).map(|_| ())
}

#[test]
fn user_memory_is_visited_only_while_its_rank_is_at_work() {
    let begun = [Some(signal(0)), Some(wait(0, 0, 1))];
    let read = [Some(wait(1, 0, 1)), Some(signal(0))];
    looks_at_rank_0(begun.clone(), read.clone()).unwrap();
    let early = looks_at_rank_0([None, None], read.clone()).unwrap_err().to_string();
    assert!(early.contains("race: rank 1 step 0") && early.contains("before that rank has begun"), "{early}");
    let late = looks_at_rank_0(begun, [None, None]).unwrap_err().to_string();
    assert!(late.contains("race: rank 1 step 1") && late.contains("after that rank has ended"), "{late}");
    // A message says as much as a signal, in its direction only: to have sent one says nothing of its receiver.
    let told = [Some(send(input(0..1), 1)), Some(recv(output(0..1), 0))];
    looks_at_rank_0(told, read.clone()).unwrap();
    let told_nothing = [Some(recv(scratch(0..1), 1)), Some(send(output(0..1), 0))];
    let early = looks_at_rank_0(told_nothing, read).unwrap_err().to_string();
    assert!(early.contains("before that rank has begun"), "{early}");
}

/// Rank 1 keeps something in its slot, reads it, sends it to rank 0, and then takes a message from rank 0.
fn overwrites_the_slot(rank_0: &[Step]) -> Result<(), Fault> {
    let (first, second) = (output(0..1), output(1..2));
    let rank_1 = vec![
        copy(input(0..1), slot(0..1)),
        copy(slot(0..1), scratch(0..1)),
        send(scratch(0..1), 0),
        recv(scratch(0..1), 0),
        copy(scratch(0..1), first),
        copy(input(0..1), second),
    ];
    let request = request(Collective::AllGather, 2, 1);
    let plans = plans(&request, 1, 1, |rank| if rank == 0 { rank_0.to_vec() } else { rank_1.clone() });
    verify(&plans).map(|_| ())
}

#[test]
fn a_message_orders_what_comes_after_its_receive_but_not_after_its_send() {
    let (first, second) = (output(0..1), output(1..2));
    let rank_1s_slot = peer(1, Region::Slot, 0..1);
    let overwrite_after_receive =
        [copy(input(0..1), first), send(first, 1), recv(second, 1), copy(second, rank_1s_slot)];
    overwrites_the_slot(&overwrite_after_receive).unwrap();
    // Rank 1 takes the message only when it has read its slot; but rank 0 need not know that it has.
    let overwrite_after_send = [
        copy(input(0..1), scratch(0..1)),
        send(scratch(0..1), 1),
        copy(input(0..1), scratch(0..1)),
        copy(scratch(0..1), rank_1s_slot),
        copy(input(0..1), first),
        recv(second, 1),
    ];
    let fault = overwrites_the_slot(&overwrite_after_send).unwrap_err();
    assert!(matches!(fault, Fault::Race(_)), "{fault}");
    assert!(fault.to_string().contains("of rank 1's Slot"), "{fault}");
}

#[test]
fn what_lies_beyond_a_peers_memory_is_refused() {
    let steps = |span| {
        verify(&plans(&request(Collective::AllReduce, 2, 4), 0, 3, |rank| {
            if rank == 0 { vec![copy(span, output(0..span.len))] } else { vec![] }
        }))
        .unwrap_err()
        .to_string()
    };
    let fault = steps(peer(1, Region::Slot, 1..4));
    assert!(fault.contains("malformed: rank 0 step 0") && fault.contains("the end, which is 3"), "{fault}");
    let fault = steps(peer(1, Region::Input, 4..5));
    assert!(fault.contains("malformed: rank 0 step 0") && fault.contains("the end, which is 4"), "{fault}");
    let fault = steps(peer(2, Region::Slot, 0..1));
    assert!(fault.contains("step 0") && fault.contains("there is no rank 2"), "{fault}");
}

/// The same range twice, or overlapping itself one element later, through two names of one memory.
#[test]
fn aliases_of_a_peers_memory_are_seen_through() {
    let mut request = request(Collective::AllReduce, 2, 4);
    request.in_place = true;
    let shift = |by: usize| {
        plans(&request, 0, 0, |rank| {
            let shifted = copy(peer(1, Region::Input, 0..3), peer(1, Region::Output, by..3 + by));
            if rank == 0 { vec![shifted] } else { vec![] }
        })
    };
    let fault = verify(&shift(1)).unwrap_err();
    assert!(
        matches!(&fault, Fault::Malformed(message) if message.contains("overlap, but not exactly")),
        "{fault}"
    );
}
