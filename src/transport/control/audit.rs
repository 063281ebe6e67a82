//! What ranks tell of the collectives that they have begun, compared: see [`ledger`](super::ledger).

use super::ledger::{Awaited, Window};
use crate::collective::Fingerprint;
use crate::error::{Cause, CauseKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many operations of a group are remembered.
const REMEMBERED: usize = 256;

/// How many groups are.
const GROUPS: usize = 4096;

/// How long others may take to tell what they do, once two ranks have told different things.
const HEARING: Duration = Duration::from_millis(150);

/// Compares what ranks tell.
#[derive(Debug, Default)]
pub(super) struct Auditor {
    groups: BTreeMap<u32, Group>,
}

#[derive(Debug, Default)]
struct Group {
    ranks: BTreeMap<usize, Window>,
    /// By sequence number, who has told what.
    told: BTreeMap<u64, Vec<(usize, Fingerprint)>>,
    /// The first operation that ranks differ in, and when to say so.
    differs: Option<(u64, Instant)>,
}

impl Auditor {
    /// Takes in what a rank tells; what is wrong at once.
    ///
    /// # Errors
    /// In words, where the bytes make no sense.
    pub(super) fn hear(
        &mut self,
        rank: usize,
        world: usize,
        message: &[u8],
        now: Instant,
    ) -> Result<Vec<Wrong>, String> {
        let mut window = Window::decode(message).ok_or("what it tells of its collectives makes no sense")?;
        if window.members.iter().any(|&member| member as usize >= world) {
            return Err("it tells of a group with ranks that there are not".into());
        }
        if self.groups.len() >= GROUPS && !self.groups.contains_key(&window.communicator) {
            // New ones take the place of any: they are compared as far as there is room.
            self.groups.pop_first();
        }
        let communicator = window.communicator;
        let group = self.groups.entry(communicator).or_default();
        for fingerprint in std::mem::take(&mut window.fingerprints) {
            group.compare(rank, fingerprint, now);
        }
        group.ranks.insert(rank, window);
        let wrong = group.leavers();
        let all_left = |group: &Group| {
            let members = group.ranks.values().map(|window| window.members.len()).max().unwrap_or(0);
            group.ranks.len() >= members && group.ranks.values().all(|window| window.left)
        };
        if group.differs.is_none() && all_left(group) {
            self.groups.remove(&communicator);
        }
        Ok(wrong)
    }

    /// When [`decide`](Auditor::decide) has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| group.differs.map(|(_, due)| due)).min()
    }

    /// The mismatches that all members have told of, or had time to.
    pub(super) fn decide(&mut self, now: Instant) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for group in self.groups.values_mut() {
            let Some((sequence, due)) = group.differs else { continue };
            let told = group.told.get(&sequence).map_or(&[][..], |told| &told[..]);
            let members = group.ranks.values().map(|window| window.members.len()).max().unwrap_or(0);
            if now < due && told.len() < members {
                continue;
            }
            group.differs = None;
            for (index, (mine, own)) in told.iter().enumerate() {
                for (theirs, other) in &told[..index] {
                    let Some(difference) = own.difference(other) else { continue };
                    wrong.push(Wrong {
                        kind: CauseKind::Mismatch,
                        sequence,
                        culprit: *theirs,
                        reporter: *mine,
                        detail: format!(
                            "{} differs: {} on rank {mine}, {} on rank {theirs}",
                            difference.field, difference.mine, difference.theirs
                        ),
                    });
                }
            }
        }
        wrong
    }

    /// The rank that this one waits for, where it waits in a collective with this number: the first that has not begun it.
    pub(super) fn late(&self, rank: usize, sequence: u64) -> Option<usize> {
        let waits = |group: &&Group| {
            group.ranks.get(&rank).is_some_and(|window| {
                window.awaited == Some(Awaited::Collective) && window.begun == sequence.saturating_add(1)
            })
        };
        self.groups.values().filter(waits).find_map(|group| group.behind(rank, sequence).next())
    }

    /// The ranks of this one's group that have not begun its collective with this number, as far as they have told.
    pub(super) fn all_late(&self, rank: usize, communicator: u32, sequence: u64) -> Vec<u32> {
        let group = self.groups.get(&communicator);
        group.map_or_else(Vec::new, |group| group.behind(rank, sequence).map(|late| late as u32).collect())
    }
}

/// Something that is wrong, as a [`Cause`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    kind: CauseKind,
    sequence: u64,
    culprit: usize,
    reporter: usize,
    detail: String,
}

impl Wrong {
    pub(super) fn cause(self, generation: u32) -> Cause {
        let Wrong { kind, sequence, culprit, reporter, detail } = self;
        Cause { generation, sequence, kind, culprit, reporter, detail }
    }
}

impl Group {
    fn compare(&mut self, rank: usize, fingerprint: Fingerprint, now: Instant) {
        let sequence = fingerprint.sequence;
        let told = self.told.entry(sequence).or_default();
        if told.iter().any(|(known, _)| *known == rank) {
            return;
        }
        let differs = told.iter().any(|(_, other)| fingerprint.difference(other).is_some());
        told.push((rank, fingerprint));
        if differs && self.differs.is_none_or(|(first, _)| sequence < first) {
            let due = self.differs.map_or(now + HEARING, |(_, due)| due);
            self.differs = Some((sequence, due));
        }
        // Of what is forgotten, the oldest first; but what is at a multiple of a high power of two is what ranks have in common
        // that are far apart.
        while self.told.len() > REMEMBERED {
            let rarity = |sequence: &u64| sequence.trailing_zeros();
            let least = self.told.keys().copied().min_by_key(|sequence| (rarity(sequence), *sequence));
            match least {
                Some(sequence) if self.differs.is_none_or(|(first, _)| first != sequence) => {
                    self.told.remove(&sequence);
                }
                _ => break,
            }
        }
    }

    /// The members of a rank's group, as that tells of them, that have not begun a collective.
    fn behind(&self, rank: usize, sequence: u64) -> impl Iterator<Item = usize> {
        let members = self.ranks.get(&rank).map_or(&[][..], |window| &window.members[..]);
        let members = members.iter().map(|&member| member as usize);
        members.filter(move |member| self.ranks.get(member).is_none_or(|window| window.begun <= sequence))
    }

    /// Who waits for somebody that has left.
    fn leavers(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (&rank, waiting) in &self.ranks {
            let Some(awaited) = waiting.awaited else { continue };
            for (&other, leaver) in self.ranks.iter().filter(|(_, window)| window.left) {
                let with_this = leaver
                    .messages
                    .iter()
                    .find(|(peer, ..)| *peer as usize == rank)
                    .copied()
                    .unwrap_or_default();
                let misses = match awaited {
                    Awaited::Collective => leaver.begun < waiting.begun,
                    Awaited::Sender(peer, number) => peer == other && with_this.1 <= number,
                    Awaited::Receiver(peer, number) => peer == other && with_this.2 <= number,
                };
                if misses {
                    wrong.push(Wrong {
                        kind: CauseKind::Closed,
                        sequence: waiting.begun.saturating_sub(1),
                        culprit: other,
                        reporter: rank,
                        detail: format!("rank {other} left the group"),
                    });
                }
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::*;
    use crate::collective::{Collective, Request};
    use crate::tensor::DType;
    use std::sync::Arc;

    const WORLD: usize = 4;

    fn ledgers() -> Vec<Arc<Ledger>> {
        (0..WORLD).map(|_| Ledger::new(0, &[0, 1, 2, 3], || {})).collect()
    }

    fn note(ledger: &Ledger, sequence: u64, dtype: DType) {
        let request = Request::new(Collective::AllReduce, WORLD, dtype, 5);
        ledger.note(&Fingerprint { sequence, ..Fingerprint::of(&request) });
    }

    fn tell(auditor: &mut Auditor, ledgers: &[Arc<Ledger>], now: Instant) -> Vec<Wrong> {
        let each =
            ledgers.iter().enumerate().filter_map(|(rank, ledger)| Some((rank, ledger.take(false)?.0)));
        each.flat_map(|(rank, message)| auditor.hear(rank, WORLD, &message, now).unwrap()).collect()
    }

    #[test]
    fn the_one_that_differs_is_named_once_all_have_told() {
        let (mut auditor, ledgers, now) = (Auditor::default(), ledgers(), Instant::now());
        for sequence in 0..50 {
            ledgers.iter().for_each(|ledger| note(ledger, sequence, DType::F32));
        }
        tell(&mut auditor, &ledgers, now);
        assert!(auditor.due().is_none());
        for (rank, ledger) in ledgers.iter().enumerate() {
            note(ledger, 50, if rank == 2 { DType::I32 } else { DType::F32 });
        }
        tell(&mut auditor, &ledgers[..3], now);
        assert!(auditor.due().is_some() && auditor.decide(now).is_empty(), "rank 3 has not told yet");
        let told = ledgers[3].take(false).unwrap().0;
        auditor.hear(3, WORLD, &told, now).unwrap();
        let causes: Vec<Cause> = auditor.decide(now).into_iter().map(|wrong| wrong.cause(0)).collect();
        let verdict = crate::transport::verdict::judge(&causes).unwrap();
        assert_eq!((verdict.kind, verdict.culprit, verdict.sequence), (CauseKind::Mismatch, 2, 50));
        assert!(verdict.detail.starts_with("element type differs"), "{}", verdict.detail);
        assert!(auditor.due().is_none());
    }

    #[test]
    fn who_never_tells_does_not_hold_the_others_up() {
        let (mut auditor, ledgers, now) = (Auditor::default(), ledgers(), Instant::now());
        note(&ledgers[0], 0, DType::F32);
        note(&ledgers[1], 0, DType::F64);
        tell(&mut auditor, &ledgers, now);
        assert!(auditor.decide(now).is_empty());
        assert_eq!(auditor.decide(now + HEARING).len(), 1);
    }

    #[test]
    fn who_is_waited_for_is_known_and_who_has_left() {
        let (mut auditor, ledgers, now) = (Auditor::default(), ledgers(), Instant::now());
        for (rank, ledger) in ledgers.iter().enumerate().take(3) {
            note(ledger, 0, DType::F32);
            if rank < 2 {
                note(ledger, 1, DType::F32);
                ledger.wait(Awaited::Collective);
            }
        }
        assert!(tell(&mut auditor, &ledgers, now).is_empty());
        assert_eq!((auditor.late(0, 1), auditor.late(0, 0), auditor.late(2, 0)), (Some(2), None, None));
        assert_eq!((auditor.all_late(0, 0, 1), auditor.all_late(0, 0, 0)), (vec![2, 3], vec![3]));
        assert_eq!((auditor.all_late(0, 9, 1), auditor.all_late(3, 0, 1)), (vec![], vec![]));
        ledgers[2].leave();
        let wrong = tell(&mut auditor, &ledgers, now);
        assert_eq!(wrong.len(), 2);
        assert!(wrong.iter().all(|wrong| wrong.kind == CauseKind::Closed && wrong.culprit == 2));
    }

    #[test]
    fn messages_that_were_sent_before_leaving_are_not_missed() {
        let (mut auditor, ledgers, now) = (Auditor::default(), ledgers(), Instant::now());
        ledgers[1].message(0, true);
        ledgers[1].leave();
        ledgers[0].message(1, false);
        ledgers[0].wait(Awaited::Sender(1, 0));
        assert!(tell(&mut auditor, &ledgers, now).is_empty());
        ledgers[0].message(1, false);
        ledgers[0].wait(Awaited::Sender(1, 1));
        assert_eq!(tell(&mut auditor, &ledgers, now)[0].culprit, 1);
    }

    #[test]
    fn nonsense_is_refused_and_memory_is_bounded() {
        let mut auditor = Auditor::default();
        let now = Instant::now();
        assert!(auditor.hear(0, 2, &[1, 2, 3], now).is_err());
        let foreign = Ledger::new(0, &[0, 7], || {});
        note(&foreign, 0, DType::F32);
        assert!(auditor.hear(0, 2, &foreign.take(false).unwrap().0, now).is_err());
        let ledger = Ledger::new(0, &[0, 1], || {});
        for sequence in 0..20_000 {
            note(&ledger, sequence, DType::F32);
            if sequence % 7 == 0 {
                auditor.hear(0, 2, &ledger.take(false).unwrap().0, now).unwrap();
            }
        }
        assert!(auditor.groups[&0].told.len() <= REMEMBERED);
    }
}
