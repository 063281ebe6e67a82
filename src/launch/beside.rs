//! Whoever stands beside a launch: a display of its progress, say.

use super::Status;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Is told of a rank's end: the rank, and how it has ended.
pub type Ended = dyn Fn(usize, Status) + Send + Sync;

/// Is given what writes lines, and calls that once.
pub type Around = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// Functions that a launch calls while it lives. Send, Sync and Clone.
///
/// ```
/// use ringfold::launch::{Beside, Launch};
/// use std::sync::{Arc, Mutex};
/// let ends = Arc::new(Mutex::new(Vec::new()));
/// let told = Arc::clone(&ends);
/// let beside = Beside::default().ended(Arc::new(move |rank, status| told.lock().unwrap().push((rank, status))));
/// Launch::new(2).program("true").beside(beside).start()?.wait();
/// assert!(ends.lock().unwrap().iter().all(|(_, status)| status.success()));
/// assert_eq!(ends.lock().unwrap().len(), 2);
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Beside {
    ended: Vec<Arc<Ended>>,
    around: Option<Arc<Around>>,
}

impl Beside {
    /// A function that is told of each rank's end, as soon as it is seen, on the launch's own thread: it must not block.
    pub fn ended(mut self, ended: Arc<Ended>) -> Self {
        self.ended = vec![ended];
        self
    }

    /// One more function that is told of each rank's end, after those that are.
    pub(super) fn also_ended(mut self, ended: Arc<Ended>) -> Self {
        self.ended.push(ended);
        self
    }

    /// A function that has the ranks' prefixed lines written: it is given what writes some of them, and calls that once, when
    /// the terminal is free for them. It is called on the thread that carries the lines, and may block.
    pub fn around_lines(mut self, around: Arc<Around>) -> Self {
        self.around = Some(around);
        self
    }

    /// A rank has ended. A function that panics loses what it was to be told, and nothing else.
    pub(super) fn tell_end(&self, rank: usize, status: Status) {
        for ended in &self.ended {
            if catch_unwind(AssertUnwindSafe(|| ended(rank, status))).is_err() {
                tracing::warn!(rank, "whoever is told of a rank's end has panicked");
            }
        }
    }

    /// Writes lines, with whoever stands in the way out of it. Lines are written once, whatever the function does.
    pub(super) fn write<T>(&self, write: impl FnOnce() -> T) -> T {
        let Some(around) = &self.around else { return write() };
        let (mut write, mut written) = (Some(write), None);
        let mut once = || written = write.take().map(|write| write()).or(written.take());
        let fine = catch_unwind(AssertUnwindSafe(|| around(&mut once))).is_ok();
        if !fine {
            tracing::warn!("whoever steps aside for the ranks' lines has panicked");
        }
        once();
        written.expect("it has been written by now")
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_once_whatever_stands_beside() {
        let none = |_: &mut dyn FnMut()| {};
        let once = |write: &mut dyn FnMut()| write();
        let twice = |write: &mut dyn FnMut()| (write(), write()).0;
        let panics = |write: &mut dyn FnMut()| {
            write();
            panic!("on purpose");
        };
        let arounds: [Arc<Around>; 4] = [Arc::new(none), Arc::new(once), Arc::new(twice), Arc::new(panics)];
        for around in arounds {
            let mut written = 0;
            let result = Beside::default().around_lines(around).write(|| {
                written += 1;
                7
            });
            assert_eq!((result, written), (7, 1));
        }
        assert_eq!(Beside::default().write(|| 3), 3);
    }
}
