//! The open rounds of the all-gather.

use super::frame::{self, Frame};
use std::collections::VecDeque;
use std::sync::Arc;

/// How far one rank may be ahead of the slowest.
const AHEAD: u64 = 8;

#[derive(Debug)]
struct Round {
    messages: Vec<Option<Vec<u8>>>,
    missing: usize,
}

/// Rounds that some ranks have contributed to and others have not. Every rank contributes to each in turn, so the
/// open ones follow each other.
#[derive(Debug)]
pub(super) struct Rounds {
    world: usize,
    /// The number of the first open round.
    first: u64,
    open: VecDeque<Round>,
    /// Per rank, the round that it contributes to next.
    next: Vec<u64>,
}

impl Rounds {
    pub(super) fn new(world: usize) -> Self {
        Rounds { world, first: 0, open: VecDeque::new(), next: vec![0; world] }
    }

    /// Takes a message in; the frames for everybody where that completes the round.
    ///
    /// # Errors
    /// In words, where the rank is out of turn.
    pub(super) fn contribute(
        &mut self,
        rank: usize,
        round: u64,
        message: Vec<u8>,
    ) -> Result<Vec<Arc<[u8]>>, String> {
        if round != self.next[rank] {
            return Err(format!("it contributed to round {round} when its next was {}", self.next[rank]));
        }
        let index = round - self.first;
        if index >= AHEAD {
            return Err(format!("it is {index} rounds ahead of the slowest rank"));
        }
        self.next[rank] += 1;
        let index = index as usize;
        while self.open.len() <= index {
            self.open.push_back(Round { messages: vec![None; self.world], missing: self.world });
        }
        let slot = &mut self.open[index];
        slot.messages[rank] = Some(message);
        slot.missing -= 1;
        if slot.missing > 0 {
            return Ok(Vec::new());
        }
        // Only the first can be complete: a rank that contributed to a later one has contributed to it too.
        self.first += 1;
        let done = self.open.pop_front().map(|r| r.messages).unwrap_or_default();
        Ok(done
            .into_iter()
            .enumerate()
            .map(|(rank, message)| {
                let message = message.unwrap_or_default();
                frame::encode(&Frame::Part { round, rank: rank as u32, message }).into()
            })
            .collect())
    }

    /// The ranks that have not contributed to a round.
    pub(super) fn missing(&self, round: u64) -> Vec<usize> {
        (0..self.world).filter(|&rank| self.next[rank] <= round).collect()
    }

    /// The first round that some ranks wait in.
    pub(super) fn waiting(&self) -> Option<u64> {
        (!self.open.is_empty()).then_some(self.first)
    }

    /// The first open round that this rank owes a message, while others wait for it.
    pub(super) fn owed_by(&self, rank: usize) -> Option<u64> {
        (!self.open.is_empty() && self.next[rank] < self.first + self.open.len() as u64)
            .then_some(self.next[rank])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_complete_when_all_are_there() {
        let mut rounds = Rounds::new(2);
        assert!(rounds.contribute(1, 0, vec![1]).unwrap().is_empty());
        assert_eq!(rounds.missing(0), [0]);
        assert_eq!(rounds.owed_by(0), Some(0));
        assert_eq!(rounds.owed_by(1), None);
        assert!(rounds.contribute(1, 1, vec![2]).unwrap().is_empty(), "a rank may be ahead");
        assert_eq!(rounds.contribute(0, 0, vec![]).unwrap().len(), 2);
        assert_eq!(rounds.missing(0), [0usize; 0]);
        assert_eq!(rounds.missing(1), [0]);
        assert_eq!(rounds.contribute(0, 1, vec![]).unwrap().len(), 2);
        assert!(rounds.open.is_empty());
    }

    #[test]
    fn a_rank_out_of_turn_is_told_so() {
        let mut rounds = Rounds::new(2);
        assert!(rounds.contribute(0, 1, vec![]).is_err(), "it skips a round");
        for round in 0..AHEAD {
            rounds.contribute(0, round, vec![]).unwrap();
        }
        assert!(rounds.contribute(0, AHEAD, vec![]).is_err(), "it runs away");
        assert!(rounds.contribute(0, 0, vec![]).is_err(), "it repeats itself");
    }
}
