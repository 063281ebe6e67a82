//! The calls that were made lately, with what they became: one that repeats another need not be checked again, nor an
//! algorithm be chosen for it.

use super::Options;
use super::sequencer::Course;
use crate::collective::{Collective, Request};
use crate::reduce::{ReduceOp, Signature};
use crate::tensor::DType;
use std::borrow::Cow;

/// All of a call that its request and its course depend on, on one rank of one communicator. The memory itself is not
/// of it, nor is the function of a reduction of the user's. A call that has counts between pairs has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key<'c> {
    /// The lengths of input and output, in elements.
    pub(super) lens: (usize, usize),
    pub(super) collective: Collective,
    pub(super) dtype: DType,
    pub(super) op: Option<ReduceOp>,
    /// What a reduction of the user's is known by; its element type is the call's.
    pub(super) custom: Option<Signature>,
    /// Whether input and output are one tensor.
    pub(super) one_tensor: bool,
    pub(super) root: usize,
    /// Whom a message goes to, and whom one comes from.
    pub(super) peers: (Option<usize>, Option<usize>),
    /// How long the blocks of the ranks are, where there is a list.
    pub(super) counts: Option<Cow<'c, [usize]>>,
    pub(super) options: Cow<'c, Options>,
}

impl Key<'_> {
    /// The same, to be kept.
    fn into_owned(self) -> Key<'static> {
        let counts = self.counts.map(|counts| Cow::Owned(counts.into_owned()));
        Key { counts, options: Cow::Owned(self.options.into_owned()), ..self }
    }
}

/// A call that can be made again with other memory of the same lengths.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Validated, with the order that its course has.
    pub(super) request: Request,
    pub(super) course: Course,
    /// How many bytes into one tensor input and output begin.
    pub(super) offsets: (usize, usize),
}

/// The place of a call in [`Recent`], until the next one is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(usize);

/// How many calls are remembered: more than the steps of most training loops have, and few enough to look at all.
const REMEMBERED: usize = 16;

/// The calls that were made lately. A call without a key is kept until the next one of that kind.
#[derive(Debug, Default)]
pub(super) struct Recent {
    calls: Vec<(Option<Key<'static>>, Known)>,
    /// Where the latest call was: loops make their calls in the same order each time.
    latest: usize,
    /// The oldest one, when all places are taken.
    oldest: usize,
}

impl Recent {
    /// The call that this one repeats.
    #[inline]
    pub(super) fn find(&mut self, key: &Key<'_>) -> Option<Slot> {
        let is_it = |(known, _): &(Option<Key<'_>>, Known)| known.as_ref() == Some(key);
        if !self.calls.get(self.latest).is_some_and(is_it) {
            let (before, after) = self.calls.split_at(self.latest);
            self.latest = match after.iter().position(is_it) {
                Some(further) => self.latest + further,
                None => before.iter().position(is_it)?,
            };
        }
        Some(Slot(self.latest))
    }

    /// Keeps a call, in the place of the oldest where there is no other.
    pub(super) fn put(&mut self, key: Option<Key<'_>>, known: Known) -> Slot {
        let key = key.map(Key::into_owned);
        let without_key = self.calls.iter().position(|(key, _)| key.is_none());
        let slot = match without_key.filter(|_| key.is_none()) {
            Some(slot) => slot,
            None if self.calls.len() < REMEMBERED => {
                self.calls.push((key, known));
                self.latest = self.calls.len() - 1;
                return Slot(self.latest);
            }
            None => {
                let oldest = self.oldest;
                self.oldest = (oldest + 1) % REMEMBERED;
                oldest
            }
        };
        self.calls[slot] = (key, known);
        self.latest = slot;
        Slot(slot)
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> &Known {
        &self.calls[slot.0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Algorithm, Schedule};
    use crate::{Check, Order};
    use std::time::Duration;

    fn key(len: usize) -> Key<'static> {
        Key {
            lens: (len, len),
            collective: Collective::Reduce,
            dtype: DType::F32,
            op: Some(ReduceOp::Sum),
            custom: None,
            one_tensor: true,
            root: 1,
            peers: (None, None),
            counts: None,
            options: Cow::Owned(Options::new()),
        }
    }

    fn known(len: usize) -> Known {
        let schedule = Schedule::whole(Algorithm::all().next().unwrap());
        let course = Course { number: 1, schedule, strict: false, timeout: Duration::from_secs(1) };
        Known { request: Request::new(Collective::Reduce, 2, DType::F32, len), course, offsets: (0, 0) }
    }

    fn found(recent: &mut Recent, key: &Key<'_>) -> Option<usize> {
        let slot = recent.find(key)?;
        Some(recent.get(slot).request.whole())
    }

    #[test]
    fn whatever_differs_is_another_call() {
        let mut recent = Recent::default();
        recent.put(Some(key(3)), known(3));
        let signature = Signature { name: 1, width: 4, commutative: true };
        let with = |options| Key { options: Cow::Owned(options), ..key(3) };
        let by = |counts: &'static [usize]| Key { counts: Some(counts.into()), ..key(3) };
        let others = [
            Key { lens: (3, 4), ..key(3) },
            Key { lens: (4, 3), ..key(3) },
            Key { collective: Collective::AllReduce, ..key(3) },
            Key { dtype: DType::I32, ..key(3) },
            Key { op: Some(ReduceOp::Max), ..key(3) },
            Key { op: None, ..key(3) },
            Key { op: None, custom: Some(signature), ..key(3) },
            Key { op: None, custom: Some(Signature { name: 2, ..signature }), ..key(3) },
            Key { one_tensor: false, ..key(3) },
            Key { root: 0, ..key(3) },
            Key { peers: (Some(0), None), ..key(3) },
            Key { peers: (None, Some(0)), ..key(3) },
            by(&[]),
            by(&[3, 0]),
            with(Options::new().order(Order::Default)),
            with(Options::new().check(Check::Auto)),
            with(Options::new().deadline(Duration::from_secs(1))),
            with(Options::new().algorithm(Algorithm::all().next().unwrap())),
        ];
        for other in &others {
            assert_eq!(found(&mut recent, other), None, "{other:?}");
        }
        // As many as there is room for, beside the first.
        let others = &others[others.len() - (REMEMBERED - 1)..];
        for (len, other) in others.iter().enumerate() {
            recent.put(Some(other.clone()), known(100 + len));
        }
        assert_eq!(found(&mut recent, &key(3)), Some(3));
        for (len, other) in others.iter().enumerate() {
            assert_eq!(found(&mut recent, other), Some(100 + len), "{other:?}");
        }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = Recent::default();
        for len in 0..REMEMBERED + 3 {
            recent.put(Some(key(len)), known(len));
        }
        assert_eq!(recent.calls.len(), REMEMBERED);
        for len in 0..REMEMBERED + 3 {
            assert_eq!(found(&mut recent, &key(len)), (len >= 3).then_some(len));
        }
    }

    #[test]
    fn a_call_without_a_key_takes_the_place_of_its_kind_only_and_is_never_found() {
        let mut recent = Recent::default();
        recent.put(Some(key(1)), known(1));
        for len in 50..50 + 2 * REMEMBERED {
            let slot = recent.put(None, known(len));
            assert_eq!(recent.get(slot).request.whole(), len);
            assert_eq!(found(&mut recent, &key(len)), None);
        }
        assert_eq!(recent.calls.len(), 2);
        assert_eq!(found(&mut recent, &key(1)), Some(1));
    }
}
