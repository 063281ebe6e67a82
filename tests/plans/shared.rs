//! Plans for ranks that see each other's memory: generated ones that lack something, and some written by hand.

use crate::by_hand::*;
use crate::mutated::assert_right;
use ringfold::collective::Collective;
use ringfold::plan::verify::{Fault, verify};
use ringfold::plan::{Algorithm, Plan, Reach, Region, Schedule, Step};

/// The algorithms whose steps signal and wait.
pub(crate) fn in_shared_memory() -> impl Iterator<Item = Algorithm> {
    Algorithm::all().filter(|algorithm| algorithm.needs() > Reach::Messages)
}

/// Plans that go through each part of an algorithm more than once.
pub(crate) fn several_turns(
    algorithm: Algorithm,
    collective: Collective,
    world: usize,
    in_place: bool,
) -> Vec<Plan> {
    let divided = collective.has_blocks() || collective == Collective::AllToAll;
    let count = match collective {
        Collective::Barrier => 0,
        _ if divided || algorithm.name() == "flat" => 6,
        _ => 6 * world,
    };
    let mut request = request(collective, world, count);
    request.in_place = in_place;
    request.root = 1;
    let schedule = Schedule { algorithm, slice: 2 };
    (0..world).map(|rank| Plan::generate(&request, rank, schedule).unwrap()).collect()
}

/// The rank that leaves something out, what that is, the plans without it, and what the verifier says.
type Omission = (usize, (Step, Vec<Plan>), Result<(), Fault>);

/// What comes of it where a rank leaves out one `Signal` or one `Wait`.
fn left_out(plans: &[Plan]) -> Vec<Omission> {
    let mut outcomes = Vec::new();
    for rank in 0..plans.len() {
        for index in 0..plans[rank].steps.len() {
            if matches!(plans[rank].steps[index], Step::Signal { .. } | Step::Wait { .. }) {
                let mut plans = plans.to_vec();
                let step = plans[rank].steps.remove(index);
                let outcome = verify(&plans).map(|_| ());
                outcomes.push((rank, (step, plans), outcome));
            }
        }
    }
    outcomes
}

/// Steps that nothing in the operation itself depends on. What others say implies them, or they matter only to the next
/// operation: that what was shown last has been read, or that a rank has begun which nobody visits.
fn spared(plans: &[Plan], rank: usize, step: &Step) -> bool {
    let Plan { algorithm, request, .. } = &plans[rank];
    let root = request.root;
    // Of a pair of ranks the first reads what the second shows.
    let reads = |reader: usize, shower: usize| match request.collective {
        Collective::Reduce | Collective::Gather => reader == root,
        Collective::Broadcast | Collective::Scatter => shower == root,
        _ => true,
    };
    let turns = plans[0].steps.iter().filter(|step| matches!(step, Step::Signal { flag: 0 })).count() as u32;
    match (algorithm.as_str(), step) {
        // Whether a rank has read that does not read this one's.
        ("flat", Step::Wait { flag: 1, rank: reader, .. }) => !reads(*reader, rank),
        ("pull", Step::Wait { flag: 2, rank: reader, .. }) => !reads(*reader, rank),
        // That a rank has begun whose memory nobody reads.
        ("pull", Step::Signal { flag: 0 }) => {
            (0..plans.len()).all(|reader| reader == rank || !reads(reader, rank))
        }
        // Each portion is filled in before the one before it is reduced, for which all have waited.
        ("sliced", Step::Wait { flag: 0, value, .. }) => *value > 1,
        // Where the last two portions lay nothing is filled in again; who collects nothing need not hear of them.
        ("sliced", Step::Wait { flag: 1, value, .. }) => match request.collective {
            Collective::Reduce => rank != root && *value + 1 >= turns,
            Collective::ReduceScatter => *value + 1 >= turns,
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn no_signal_and_no_wait_can_be_left_out() {
    for algorithm in in_shared_memory() {
        for &collective in algorithm.collectives() {
            for (world, in_place) in (2..=4).flat_map(|world| [(world, false), (world, true)]) {
                let plans = several_turns(algorithm, collective, world, in_place);
                let outcomes = left_out(&plans);
                assert!(outcomes.len() >= 2 * world);
                for (rank, without, outcome) in outcomes {
                    let (step, plans_without) = without;
                    let what =
                        format!("{collective} by {algorithm} among {world}, rank {rank} without `{step}`");
                    if spared(&plans, rank, &step) {
                        outcome.unwrap_or_else(|fault| panic!("{what}: {fault}"));
                        for seed in 0..3 {
                            assert_right(&plans_without, seed, &what);
                        }
                        continue;
                    }
                    match (&step, &outcome) {
                        (Step::Signal { .. }, Err(Fault::Unmatched(message))) => {
                            assert!(
                                message.contains("waits for a signal that nobody gives"),
                                "{what}: {message}"
                            );
                        }
                        (Step::Wait { .. }, Err(Fault::Race(message) | Fault::EarlyWrite(message))) => {
                            assert!(message.contains(&format!("rank {rank}")), "{what}: {message}");
                        }
                        _ => panic!("{what}: {outcome:?}"),
                    }
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
