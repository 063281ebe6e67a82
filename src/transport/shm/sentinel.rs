//! Noticing at once that a process of this host has died.
//!
//! Sockets and pidfds tell of a death when the kernel has taken the process's memory down, which takes a quarter of a
//! second for 4 GiB. Before that it goes through the words that each thread owns, marks them, and wakes a sleeper (a
//! *robust futex*): a tenth of a millisecond after the signal, however much memory there is. So every process owns a word
//! of the segment, its *life word*, and sleeps on everybody else's.
//!
//! | life word | bits | means | written by |
//! |---|---|---|---|
//! | absent | 0 | its sentinel has not begun | nobody: memory is zeroed |
//! | owned | thread id, `WAITERS` | it lives | its sentinel |
//! | left | `WAITERS` | it left in good order | its sentinel |
//! | dead | `OWNER_DIED` | its process ended without leaving | the kernel |
//!
//! An absent or owned word is slept on; a word that is left or dead stays so and is looked at no more. Nothing else is read
//! from a word than these bits, so whatever a peer may write there, it is at worst taken for dead.
//!
//! Two things that the kernel does not do. It wakes only one of the sleepers, so whoever finds a word dead wakes all others
//! before anything else; should the one that was woken be killed before it has, then its own word wakes somebody, who
//! looks at every word. And it marks a word when the owning *thread* ends, so the owner is a thread of the sentinel's
//! own that does nothing else and lives as long as the sentinel.
//!
//! The thread id in a word is compared by the kernel with that of an ending thread, as its own PID namespace counts, and only
//! for words on that thread's own list. Nobody else looks at it: ranks may be in containers with PID namespaces of their own,
//! and equal ids do no harm.
//!
//! A core dump comes before the walk through the list, and a process that is stopped is not dead: both are for the
//! heartbeat.

use super::layout::LifeWord;
use super::sync::{AtomicU32, Ordering, futex};
use crate::error::{Error, Result};
use crate::memory::Block;
use crate::observe;
use crate::transport::prompt;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A life word whose process left in good order: nobody's, and not marked.
const LEFT: u32 = futex::WAITERS;

/// How often all words are looked at where sleeping on several is not to be had.
const LOOK: Duration = Duration::from_millis(2);
/// How often they are looked at anyway.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// How long the thread may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a [`Sentinel`] is made of.
pub struct SentinelSetup {
    /// Memory for this process's life word, of [`Sentinel::WORD`] bytes, which nothing was written to yet. Where it lies is
    /// what the other ranks have to know. It is never given back but with the segment, since others may look at it for as
    /// long as they like.
    pub own: Block,
    /// The other ranks and the offsets of their life words, which those have taken.
    pub peers: Vec<(usize, u64)>,
    /// Told of a rank whose process has died, once for each, on the sentinel's thread. Nobody is heard of while it runs, so it
    /// must be short; and it must not drop the sentinel.
    pub died: Box<dyn Fn(usize) + Send>,
}

/// Tells at once of ranks of this host whose processes die, and lets them hear of the end of this one. Send and Sync.
///
/// A process that ends without having dropped its sentinel has died, even where it returns from `main`.
pub struct Sentinel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pid: u32,
}

/// What the sentinel's thread and its owner share.
struct Shared {
    own: LifeWord,
    /// 1 when the thread is to end.
    stop: AtomicU32,
    /// 1 when it is about to, and touches nothing any more.
    ended: AtomicU32,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst) != 0
    }
}

impl Sentinel {
    /// How many bytes a life word takes.
    pub const WORD: usize = LifeWord::LEN;

    /// Begins to watch. When it returns the word is owned; peers may begin earlier or later.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a peer's word is told to be where none can be;
    /// [`Io`](crate::ErrorKind::Io) where the system has no thread or no robust futexes for it. Then deaths are still
    /// noticed by the control plane, later.
    pub fn start(setup: SentinelSetup) -> Result<Sentinel> {
        let SentinelSetup { own, peers, died } = setup;
        let (segment, offset) = (Arc::clone(own.segment()), own.offset());
        // Whatever happens from here on, nothing else may ever lie where others look for a life word.
        own.abandon();
        let own = LifeWord::at(&segment, offset).ok_or_else(|| Error::invalid("no room for a life word"))?;
        let place = |(peer, told): (usize, u64)| {
            let at = usize::try_from(told).ok().filter(|&at| at != offset);
            let word = at.and_then(|at| LifeWord::at(&segment, at));
            word.map(|word| (peer, word)).ok_or_else(|| {
                let text = format!("the life word of rank {peer} is said to be at {told}, which is no place");
                Error::invalid(text).blame(peer)
            })
        };
        let peers = peers.into_iter().map(place).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared { own, stop: AtomicU32::new(0), ended: AtomicU32::new(0) });
        let of_thread = Arc::clone(&shared);
        let (begun, ready) = channel();
        let thread = observe::thread::spawn("ringfold-sentinel", move || {
            prompt::ask();
            run(&of_thread, peers, &*died, &begun);
        })
        .map_err(|error| Error::io("starting the thread that watches for deaths", error))?;
        // Where the thread does not begin, the drop ends it.
        let sentinel = Sentinel { shared, thread: Some(thread), pid: std::process::id() };
        match ready.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(sentinel),
            Ok(Err(error)) => Err(Error::io("owning a life word", error)),
            Err(_) => Err(Error::io("owning a life word", std::io::ErrorKind::TimedOut)),
        }
    }
}

/// The thread.
fn run(
    shared: &Shared,
    peers: Vec<(usize, LifeWord)>,
    died: &dyn Fn(usize),
    begun: &Sender<nix::Result<()>>,
) {
    let owned = futex::own(shared.own.word(), || {
        let _ = begun.send(Ok(()));
        watch(shared, peers, died);
    });
    if let Err(error) = owned {
        let _ = begun.send(Err(error));
    }
    shared.ended.store(1, Ordering::SeqCst);
    futex::wake(&shared.ended);
}

/// Tells of deaths until it is to stop.
fn watch(shared: &Shared, mut peers: Vec<(usize, LifeWord)>, died: &dyn Fn(usize)) {
    while !shared.is_stopped() {
        let (mut dead, mut gone) = (Vec::new(), Vec::new());
        let mut seen = vec![(&shared.stop, 0)];
        for (place, (peer, life)) in peers.iter().enumerate() {
            match life.word().load(Ordering::SeqCst) {
                word if word & futex::OWNER_DIED != 0 => {
                    // The kernel has woken one, perhaps this one; so this one wakes the others.
                    futex::wake(life.word());
                    dead.push(*peer);
                    gone.push(place);
                }
                LEFT => gone.push(place),
                word => seen.push((life.word(), word)),
            }
        }
        if gone.is_empty() {
            if !futex::wait_any(&seen, LOOK_ANYWAY) {
                futex::wait(&shared.stop, 0, Some(LOOK));
            }
            continue;
        }
        for place in gone.into_iter().rev() {
            peers.swap_remove(place);
        }
        for peer in dead {
            if shared.is_stopped() {
                return;
            }
            // If this thread ended, this process would be taken for dead.
            if catch_unwind(AssertUnwindSafe(|| died(peer))).is_err() {
                tracing::error!(peer, "telling of a death panicked");
            }
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // A process that was forked off has no such thread, and the word is not its own.
        if self.pid != std::process::id() {
            return;
        }
        self.shared.stop.store(1, Ordering::SeqCst);
        // From here on the kernel finds nothing of the thread's in the word. Where the thread could not own it, nobody did.
        let own = self.shared.own.word();
        own.store(LEFT, Ordering::SeqCst);
        futex::wake(own);
        futex::wake(&self.shared.stop);
        let begun = Instant::now();
        while self.shared.ended.load(Ordering::SeqCst) == 0 {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                // It touches nothing of the segment when it comes back, and keeps it mapped until then.
                tracing::warn!("whoever is told of a death does not return; its thread is left behind");
                return;
            }
            futex::wait(&self.shared.ended, 0, Some(left));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinel").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::memory::{Arena, PAGE, Segment};
    use std::sync::mpsc::Receiver;

    const HANG: Duration = Duration::from_secs(20);

    /// The arena of the rank that watches, and the life words of others, which the test writes.
    fn ground(others: usize) -> (Arena, Vec<(usize, u64)>, Vec<LifeWord>) {
        let segment = Arc::new(Segment::create((1 + others) * PAGE).unwrap());
        let arena = Arena::new(Arc::clone(&segment), 0, 1 + others);
        let offsets: Vec<_> = (1..=others).map(|rank| (rank, (rank * PAGE) as u64)).collect();
        let words = (1..=others).map(|rank| LifeWord::at(&segment, rank * PAGE).unwrap()).collect();
        (arena, offsets, words)
    }

    fn start(arena: &Arena, peers: Vec<(usize, u64)>) -> (Result<Sentinel>, Receiver<usize>) {
        let (tell, told) = channel();
        let died = Box::new(move |peer| tell.send(peer).unwrap());
        let own = arena.take(Sentinel::WORD).unwrap();
        (Sentinel::start(SentinelSetup { own, peers, died }), told)
    }

    fn write(life: &LifeWord, word: u32) {
        life.word().store(word, Ordering::SeqCst);
        futex::wake(life.word());
    }

    #[test]
    fn words_that_cannot_be_are_refused() {
        for offset in [0, 4, PAGE as u64 + 64, 2 * PAGE as u64, u64::MAX - 127, u64::MAX] {
            let (arena, ..) = ground(1);
            let error = start(&arena, vec![(1, offset)]).0.unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(1)), "{offset}");
            assert!(arena.take(1).is_err(), "the word's page is not used for anything else");
        }
    }

    #[test]
    fn its_word_is_owned_and_then_left() {
        let (arena, ..) = ground(0);
        let (sentinel, _told) = start(&arena, Vec::new());
        let own = LifeWord::at(arena.segment(), 0).unwrap();
        let owner = own.word().load(Ordering::SeqCst);
        assert!(owner & futex::OWNER != 0 && owner & futex::WAITERS != 0, "{owner:#x}");
        drop(sentinel.unwrap());
        assert_eq!(own.word().load(Ordering::SeqCst), LEFT);
    }

    /// Absent, owned, left; dead, once each, however many there are.
    fn every_state_is_understood(others: usize) {
        let (arena, offsets, words) = ground(others);
        write(&words[3], futex::OWNER_DIED);
        let (sentinel, told) = start(&arena, offsets);
        assert_eq!(told.recv_timeout(HANG), Ok(4), "it was dead before");
        write(&words[0], 77 | futex::WAITERS);
        write(&words[1], LEFT);
        write(&words[2], 78 | futex::WAITERS);
        write(&words[2], futex::OWNER_DIED | futex::WAITERS);
        assert_eq!(told.recv_timeout(HANG), Ok(3));
        write(&words[0], futex::OWNER_DIED | futex::WAITERS);
        assert_eq!(told.recv_timeout(HANG), Ok(1));
        drop(sentinel.unwrap());
        assert!(told.recv_timeout(HANG).is_err(), "nothing more, and nobody is left to tell it");
    }

    #[test]
    fn a_few_are_understood() {
        every_state_is_understood(4);
    }

    #[test]
    fn more_are_than_can_be_slept_on_at_once() {
        every_state_is_understood(300);
    }

    #[test]
    fn whoever_panics_is_told_of_the_next() {
        let (arena, peers, words) = ground(2);
        let (tell, told) = channel();
        let died = Box::new(move |peer| {
            tell.send(peer).unwrap();
            assert_ne!(peer, 1, "a panic that is meant to be");
        });
        let own = arena.take(Sentinel::WORD).unwrap();
        let _sentinel = Sentinel::start(SentinelSetup { own, peers, died }).unwrap();
        for rank in [1, 2] {
            write(&words[rank - 1], futex::OWNER_DIED);
            assert_eq!(told.recv_timeout(HANG), Ok(rank));
        }
    }
}
