//! What a rank tells the store's host of its work: state, not history. The newest message counts, and a rank sends one
//! in [`TELL_PAUSE`] at most, however often its state changes; the last state goes ahead of the goodbye.

use super::link::{Reporter, Shared};
use super::{TELL_LIMIT, TELL_PAUSE};
use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a [`Source`] is asked by itself, since what it tells may change without anybody saying so.
const ASK: Duration = Duration::from_secs(1);

/// Makes the newest message when it is time to send one, so that a state that changes often is written down only when it
/// is sent. It is called on the link's watch thread and must not block; `None` is nothing to tell.
pub type Source = Arc<dyn Fn() -> Option<Vec<u8>> + Send + Sync>;

impl Reporter {
    /// Whether the store understands what ranks tell. Where it does not, telling has no effect.
    pub fn tells(&self) -> bool {
        self.shared().tells
    }

    /// Tells the store's host something, soon: at most ten messages a second are sent. Where the last one has not been sent
    /// yet, this one takes its place. Does not wait for anything but a short lock; without effect where there is no store
    /// any more.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a message beyond 16 KiB.
    pub fn tell(&self, message: Vec<u8>) -> Result<()> {
        if message.len() > TELL_LIMIT {
            let text = format!("a message of {} bytes, and at most {TELL_LIMIT} are told", message.len());
            return Err(Error::invalid(text).remedy("tell less: the newest state, not its history"));
        }
        let shared = self.shared();
        let mut state = shared.lock();
        let first = shared.tells && !state.cut && state.told.is_none();
        if shared.tells && !state.cut {
            state.told = Some(message);
        }
        drop(state);
        if first {
            shared.bell.ring();
        }
        Ok(())
    }

    /// From now on this function makes the messages: after [`news`](Reporter::news), ahead of the goodbye, and once a
    /// second to see whether there is something new. It takes the place of the one before it.
    pub fn tell_by(&self, source: Source) {
        let shared = self.shared();
        let mut state = shared.lock();
        let source = (shared.tells && !state.cut).then_some(source);
        // What was there is dropped without the lock: it is somebody else's code.
        let before = std::mem::replace(&mut state.source, source);
        drop(state);
        drop(before);
        shared.bell.ring();
    }

    /// Says that the source has something new. Mostly this costs one exchange of a word.
    #[inline]
    pub fn news(&self) {
        let shared = self.shared();
        if !shared.news.load(Ordering::Relaxed) && !shared.news.swap(true, Ordering::AcqRel) {
            shared.bell.ring();
        }
    }
}

/// The watch thread's side.
#[derive(Debug)]
pub(super) struct Teller {
    /// Before this nothing is sent.
    next: Instant,
    /// When to ask the source by itself.
    ask: Instant,
    /// Something waits for `next`.
    waits: bool,
    /// There is a source to ask.
    asks: bool,
    /// What the source has said last.
    last: Vec<u8>,
}

impl Teller {
    pub(super) fn new(now: Instant) -> Self {
        Teller { next: now, ask: now, waits: false, asks: false, last: Vec::new() }
    }

    /// When [`take`](Teller::take) may have something.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.waits {
            Some(self.next)
        } else if self.asks {
            Some(self.ask)
        } else {
            None
        }
    }

    /// What is to be sent now; all that there is where the rank leaves.
    pub(super) fn take(&mut self, shared: &Shared, now: Instant, leaving: bool) -> Vec<Vec<u8>> {
        let mut state = shared.lock();
        self.asks = state.source.is_some();
        if now < self.next && !leaving {
            self.waits = state.told.is_some() || (self.asks && shared.news.load(Ordering::Acquire));
            return Vec::new();
        }
        let mut messages: Vec<Vec<u8>> = state.told.take().into_iter().collect();
        let source = state.source.clone();
        drop(state);
        self.waits = false;
        if let Some(source) = source {
            // Taken before the source is asked: what changes after that is news again.
            let news = shared.news.swap(false, Ordering::AcqRel);
            if news || leaving || now >= self.ask {
                (self.ask, self.next) = (now + ASK, now + TELL_PAUSE);
                messages.extend(ask(&source).filter(|message| self.is_new(message)));
            }
        }
        if !messages.is_empty() {
            self.next = now + TELL_PAUSE;
        }
        messages
    }

    /// Whether this is to be sent.
    fn is_new(&mut self, message: &[u8]) -> bool {
        if message.len() > TELL_LIMIT {
            tracing::warn!(bytes = message.len(), "what this rank tells of its work is too long to be sent");
            return false;
        }
        let new = self.last != message;
        if new {
            self.last = message.to_vec();
        }
        new
    }
}

/// What a source says; nothing where it panics, since this thread watches over the rank.
fn ask(source: &Source) -> Option<Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| source())).unwrap_or_else(|_| {
        tracing::warn!("what makes this rank's messages to the launcher has panicked");
        None
    })
}
