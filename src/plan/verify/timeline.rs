//! The messages of a set of plans, in rounds: for people who look at a plan.

use super::{Fault, agree, blocks, graph, lower_all};
use crate::plan::{Plan, Span, Step};

/// A message between two ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How many messages in a row it depends on, itself included: 1 is the first round.
    pub round: usize,
    /// Who sends.
    pub from: usize,
    /// Who receives.
    pub to: usize,
    /// What is sent, in the sender's memory.
    pub sent: Span,
    /// Where it goes, in the receiver's memory.
    pub received: Span,
    /// Whether the receiver reduces it with something of its own.
    pub reduces: bool,
}

/// The messages of all ranks' plans, sorted by round, sender and receiver.
///
/// # Errors
/// The first [`Fault`] that keeps the messages from being matched and ordered. Values are not followed: that is what
/// [`verify`](super::verify) does.
pub fn messages(plans: &[Plan]) -> Result<Vec<Message>, Fault> {
    let lowered = lower_all(plans.to_vec())?;
    agree(&lowered)?;
    let system = blocks::System::new(&lowered)?;
    let graph = graph::Graph::new(&system)?;
    let order = graph.topological_order(&system)?;
    let mut messages: Vec<Message> = system
        .entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| {
            let (sent, received) = (system.at(index), system.at(entry.partner()?));
            let Step::Send { range, to } = sent.step else { return None };
            let round = entry.events.clone().map(|event| order.depths[event as usize]).max()?;
            Some(Message {
                round: round as usize,
                from: sent.rank,
                to: *to,
                sent: *range,
                received: received.step.writes()?,
                reduces: matches!(received.step, Step::RecvReduce { .. }),
            })
        })
        .collect();
    messages.sort_by_key(|message| (message.round, message.from, message.to, message.sent.start));
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, Request};
    use crate::plan::{Algorithm, Schedule};
    use crate::tensor::DType;

    #[test]
    fn a_ring_of_four_reduces_for_three_rounds_and_gathers_for_three() {
        let request = Request::new(Collective::AllReduce, 4, DType::F32, 8);
        let schedule = Schedule::whole(Algorithm::named("ring").unwrap());
        let plans: Vec<Plan> = (0..4).map(|rank| Plan::generate(&request, rank, schedule).unwrap()).collect();
        let messages = messages(&plans).unwrap();
        for round in 1..=6 {
            let of_round: Vec<_> = messages.iter().filter(|message| message.round == round).collect();
            assert_eq!(of_round.len(), 4);
            assert!(of_round.iter().all(|message| message.reduces == (round <= 3)));
            assert!(of_round.iter().all(|message| message.to == (message.from + 1) % 4));
        }
        assert_eq!(messages.len(), 24);
    }
}
