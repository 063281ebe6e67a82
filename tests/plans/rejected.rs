//! Broken plans, each rejected for the right reason.

use crate::by_hand::*;
use ringfold::collective::{Collective, Counts, Order};
use ringfold::plan::lower::{Lane, lower};
use ringfold::plan::verify::{Fault, verify, verify_lowered};
use ringfold::plan::{Plan, Step};

/// Checks the variant, and that the message says all this.
macro_rules! assert_rejected {
    ($plans:expr, $variant:ident, $($telling:expr),+ $(,)?) => {
        assert_fault!(verify(&$plans), $variant, $($telling),+)
    };
}

macro_rules! assert_fault {
    ($outcome:expr, $variant:ident, $($telling:expr),+ $(,)?) => {
        match $outcome {
            Err(Fault::$variant(message)) => {
                $(assert!(message.contains($telling), "{:?} does not say {:?}", message, $telling);)+
            }
            other => panic!("{other:?} instead of {}", stringify!($variant)),
        }
    };
}

fn ring() -> Vec<Plan> {
    let plans = generated("ring", &request(Collective::AllReduce, 4, 8));
    verify(&plans).unwrap();
    plans
}

/// The place of the n-th step of a rank that is like this.
fn nth(plan: &Plan, n: usize, like: impl Fn(&Step) -> bool) -> usize {
    plan.steps.iter().enumerate().filter(|(_, step)| like(step)).nth(n).expect("there is such a step").0
}

/// Two ranks that send each other their inputs and fold them: 0..4 of scratch memory is the other's.
fn exchange(between: impl Fn(usize) -> Vec<Step>) -> Vec<Plan> {
    plans(&request(Collective::AllReduce, 2, 4), 8, 0, |rank| {
        let mut steps = vec![send(input(0..4), 1 - rank), recv(scratch(0..4), 1 - rank)];
        steps.extend(between(rank));
        steps
    })
}

fn sum(rank: usize) -> Step {
    let operands = [input(0..4), scratch(0..4)];
    fold([operands[rank], operands[1 - rank]], output(0..4))
}

#[test]
fn the_unbroken_exchange_is_accepted() {
    verify(&exchange(|rank| vec![sum(rank), finish(output(0..4))])).unwrap();
}

#[test]
fn a_missing_send() {
    let mut plans = ring();
    plans[1].steps.remove(0);
    let last = nth(&plans[2], 5, |step| step.receives_from().is_some());
    assert_rejected!(plans, Unmatched, &format!("rank 2 step {last} "), "is sent by nobody");
    let mut plans = ring();
    plans[1].steps.retain(|step| step.sends_to().is_none());
    assert_rejected!(plans, Unmatched, "rank 2 step 1 ", "from rank 1) is sent by nobody");
}

#[test]
fn a_missing_receive() {
    let mut plans = ring();
    let last = nth(&plans[2], 5, |step| step.receives_from().is_some());
    plans[2].steps.remove(last);
    let sixth = nth(&plans[1], 5, |step| step.sends_to().is_some());
    assert_rejected!(plans, Unmatched, &format!("rank 1 step {sixth} "), "to rank 2) is received by nobody");
}

#[test]
fn a_message_of_two_lengths() {
    let mut plans = ring();
    let Step::Send { range, .. } = &mut plans[3].steps[0] else { panic!("a ring begins by sending") };
    range.len = 1;
    assert_rejected!(plans, Unmatched, "rank 3 step 0 ", "meets rank 0 step 1 ", "of another length");
}

#[test]
fn two_blocks_exchanged() {
    let mut plans = generated("direct", &request(Collective::AllGather, 3, 2));
    let receives: Vec<usize> =
        (0..2).map(|n| nth(&plans[0], n, |step| step.receives_from().is_some())).collect();
    plans[0].steps[receives[0]] = recv(output(4..6), 1);
    plans[0].steps[receives[1]] = recv(output(2..4), 2);
    assert_rejected!(
        plans,
        WrongResult,
        "rank 0's output[2..4] should be element 0 of rank 1's input",
        "but is element 0 of rank 2's"
    );
}

#[test]
fn a_contribution_taken_twice() {
    let mut plans = ring();
    // Rank 1 adds what it has just received to itself.
    let second = nth(&plans[1], 1, |step| step.receives_from().is_some());
    let Step::RecvReduce { into: window, .. } = plans[1].steps[1] else { panic!("a ring reduces first") };
    plans[1].steps.insert(second, fold([window, window], window));
    assert_rejected!(
        plans,
        WrongResult,
        &format!("rank 1 step {second} "),
        "rank 0's contribution a second time"
    );
}

#[test]
fn elements_that_do_not_belong_together() {
    let plans = exchange(|_| vec![fold([input(0..3), scratch(1..4)], output(0..3)), finish(output(0..4))]);
    assert_rejected!(
        plans,
        WrongResult,
        "rank 0 step 2 ",
        "combines element 0 of the message with element 1"
    );
    let plans = exchange(|rank| {
        vec![
            sum(rank),
            copy(output(0..2), scratch(4..6)),
            copy(scratch(4..6), output(2..4)),
            finish(output(0..4)),
        ]
    });
    assert_rejected!(
        plans,
        WrongResult,
        "rank 0's output[2..4] should be that of element 2, but is that of element 0"
    );
}

#[test]
fn ranks_that_forward_what_they_wait_for() {
    let plans = plans(&request(Collective::AllReduce, 2, 4), 4, 0, |rank| {
        vec![recv(scratch(0..4), 1 - rank), send(scratch(0..4), 1 - rank)]
    });
    assert_rejected!(plans, Deadlock, "a circle of 2: ", "rank 0 step 1 ", " waits for ", "rank 1 step 1 ");
}

#[test]
fn ranks_that_wait_for_each_others_signals() {
    let plans = plans(&request(Collective::AllReduce, 3, 4), 0, 0, |rank| {
        vec![wait((rank + 1) % 3, 7, 1), signal(7)]
    });
    assert_rejected!(plans, Deadlock, "a circle of 6: ", "rank 2 step 0 (wait until rank 0's flag 7 is 1)");
}

#[test]
fn a_lowered_form_that_lacks_a_dependency() {
    // In long rings the windows are used again; a receive into one has to wait for the send that empties it.
    let plans = generated("ring", &request(Collective::AllReduce, 6, 12));
    let mut lowered: Vec<_> = plans.into_iter().map(|plan| lower(plan).unwrap()).collect();
    verify_lowered(&lowered).unwrap();
    let is_receive = |lane: usize| matches!(lowered[1].lanes[lane].0, Lane::Receive(_));
    let is_held = |task: usize| !lowered[1].tasks[task].dependencies.is_empty();
    let task =
        (0..lowered[1].tasks.len()).find(|&task| is_receive(lowered[1].tasks[task].lane) && is_held(task));
    let held = &mut lowered[1].tasks[task.unwrap()];
    let (step, on) = (held.step, held.dependencies.remove(0).on);
    let on = lowered[1].tasks[on].step;
    assert_fault!(
        verify_lowered(&lowered),
        Race,
        "nothing orders ",
        &format!("rank 1 step {step} (recv"),
        &format!("rank 1 step {on} (send"),
        "of rank 1's Scratch"
    );
}

#[test]
fn sums_made_in_different_orders() {
    let three = request(Collective::AllReduce, 3, 1);
    let wrong = plans(&three, 3, 0, |rank| {
        let others = [(rank + 1) % 3, (rank + 2) % 3];
        let mut steps: Vec<Step> = others.iter().map(|&other| send(input(0..1), other)).collect();
        steps.extend(others.iter().map(|&other| recv(scratch(other..other + 1), other)));
        let operand = |of: usize| if of == rank { input(0..1) } else { scratch(of..of + 1) };
        // Ranks 0 and 1 begin with the first two contributions, rank 2 with the last two.
        let order = if rank < 2 { [0, 1, 2] } else { [2, 1, 0] };
        steps.push(fold([operand(order[0]), operand(order[1])], scratch(rank..rank + 1)));
        steps.push(fold([scratch(rank..rank + 1), operand(order[2])], output(0..1)));
        steps.push(finish(output(0..1)));
        steps
    });
    assert_rejected!(wrong, WrongOrder, "ranks 0 and 2 combine element 0 in different orders");
}

#[test]
fn an_order_that_is_not_the_fixed_one() {
    let mut plans = generated("ring", &request(Collective::AllReduce, 3, 3));
    plans.iter_mut().for_each(|plan| plan.request.order = Order::Fixed);
    assert_rejected!(
        plans,
        WrongOrder,
        "rank 0's output[",
        "is not combined as a balanced tree over rank order"
    );
}

#[test]
fn a_barrier_has_no_order() {
    let mut barrier = request(Collective::Barrier, 3, 1);
    barrier.order = Order::Fixed;
    verify(&generated("ring", &barrier)).unwrap();
}

#[test]
fn a_partial_sum_in_user_memory() {
    let plans = exchange(|_| {
        vec![
            copy(input(0..4), output(0..4)),
            fold([output(0..4), scratch(0..4)], output(0..4)),
            finish(output(0..4)),
        ]
    });
    assert_rejected!(plans, EarlyWrite, "rank 0 step 2 ", "rank 0's contribution alone to user memory");
    let mut ring = ring();
    let [_, Step::RecvReduce { into, .. }, Step::Send { range, .. }, ..] = &mut ring[2].steps[..] else {
        panic!("a ring sends, reduces and sends on")
    };
    *into = output(0..into.len);
    *range = *into;
    assert_rejected!(ring, EarlyWrite, "rank 2 step 1 ", "an unfinished reduction without rank 0, 3");
}

#[test]
fn a_sum_finished_twice_or_never() {
    let mut plans = ring();
    let place = nth(&plans[3], 0, |step| matches!(step, Step::Finish { .. }));
    let step = plans[3].steps[place].clone();
    plans[3].steps.insert(place, step);
    assert_rejected!(
        plans,
        WrongResult,
        &format!("rank 3 step {} ", place + 1),
        "finishes a value a second time"
    );
    plans[3].steps.drain(place..place + 2);
    assert_rejected!(
        plans,
        WrongResult,
        "rank 0's output[0..2] should be a finished",
        "is an unfinished reduction"
    );
}

#[test]
fn a_partial_sum_finished_or_a_finished_one_added_to() {
    let plans = exchange(|_| vec![finish(scratch(0..4))]);
    assert_rejected!(plans, WrongResult, "rank 0 step 2 ", "finishes rank 1's contribution alone");
    let again = fold([output(0..4), scratch(0..4)], output(0..4));
    let plans = exchange(|rank| vec![sum(rank), finish(output(0..4)), again.clone()]);
    assert_rejected!(plans, WrongResult, "rank 0 step 4 ", "already finished");
}

#[test]
fn undefined_memory_read() {
    let plans = exchange(|rank| vec![copy(scratch(3..7), scratch(0..4)), sum(rank), finish(output(0..4))]);
    assert_rejected!(plans, Malformed, "rank 0's plan, step 2", "overlap, but not exactly");
    let plans = exchange(|rank| vec![copy(scratch(4..8), scratch(0..4)), sum(rank), finish(output(0..4))]);
    assert_rejected!(plans, WrongResult, "rank 0 step 2 ", "reads element 4 of undefined memory");
    let plans = exchange(|rank| if rank == 0 { vec![sum(rank), finish(output(0..4))] } else { vec![] });
    assert_rejected!(plans, WrongResult, "rank 1's output from element 0 is never written");
}

#[test]
fn malformed_steps() {
    let step = |step: Step| exchange(|rank| if rank == 1 { vec![step.clone()] } else { vec![] });
    let lengths = step(copy(input(0..3), output(0..4)));
    assert_rejected!(lengths, Malformed, "rank 1's plan, step 2", "differ in length");
    let writes = step(copy(scratch(0..4), input(0..4)));
    assert_rejected!(writes, Malformed, "rank 1's plan, step 2", "writes an input");
    let beyond = step(copy(input(0..4), scratch(5..9)));
    assert_rejected!(
        beyond,
        Malformed,
        "rank 1's plan, step 2",
        "scratch[5..9] is beyond the end, which is 8"
    );
    assert_rejected!(step(wait(1, 0, 1)), Malformed, "rank 1's plan, step 2", "this rank itself");
    assert_rejected!(step(send(input(0..1), 2)), Malformed, "rank 1's plan, step 2", "no rank 2");
    assert_rejected!(step(fold([], output(0..4))), Malformed, "rank 1's plan, step 2", "a fold of nothing");
}

#[test]
fn signals_that_nobody_gives() {
    let plans = |value| {
        exchange(move |rank| {
            let mut steps = vec![sum(rank), finish(output(0..4))];
            steps.push(if rank == 0 { signal(5) } else { wait(0, 5, value) });
            steps
        })
    };
    verify(&plans(1)).unwrap();
    assert_rejected!(plans(2), Unmatched, "rank 1 step 4 ", "waits for a signal that nobody gives");
}

#[test]
fn requests_that_differ() {
    let mut plans = ring();
    plans[2].request.counts = Counts::Same(9);
    assert_rejected!(plans, Disagreement, "rank 0 and rank 2: count 8 against 9");
    let mut plans = ring();
    plans[3].request.op = Some(ringfold::ReduceOp::Max);
    assert_rejected!(plans, Disagreement, "rank 0 and rank 3: reduction sum against max");
    let mut plans = ring();
    plans[1].request.world = 5;
    assert_rejected!(plans, Disagreement, "rank 1 plans for 5 ranks");
}

#[test]
fn pairwise_counts_that_differ() {
    let mut plans = plans(&request(Collective::AllToAll, 2, 1), 0, 0, |rank| {
        vec![
            copy(input(rank..rank + 1), output(rank..rank + 1)),
            send(input(1 - rank..2 - rank), 1 - rank),
            recv(output(1 - rank..2 - rank), 1 - rank),
        ]
    });
    let counts = |rank, send: [usize; 2], receive: [usize; 2]| Counts::Pairwise {
        rank,
        send: send.into(),
        receive: receive.into(),
    };
    plans[0].request.counts = counts(0, [1, 1], [1, 1]);
    plans[1].request.counts = counts(1, [1, 1], [1, 1]);
    verify(&plans).unwrap();
    plans[1].request.counts = counts(1, [1, 1], [2, 1]);
    assert_rejected!(plans, Disagreement, "rank 0 has 1 elements for rank 1, which expects 2");
    plans[1].request.counts = counts(0, [1, 1], [1, 1]);
    assert_rejected!(plans, Malformed, "rank 1's plan", "counts are those of rank 0");
}

#[test]
fn plans_that_are_not_one_a_rank() {
    assert_rejected!([], Disagreement, "no plans at all");
    let mut plans = ring();
    plans.pop();
    assert_rejected!(plans, Disagreement, "3 plans for a group of 4");
    let mut plans = ring();
    plans.swap(1, 2);
    assert_rejected!(plans, Disagreement, "plan 1 is that of rank 2");
    let mut plans = ring();
    plans[0].rank = 9;
    assert_rejected!(plans, Malformed, "rank 9's plan", "no such rank in a group of 4");
}
