//! Memory for results, used again when nobody has them any more.

use super::Pages;
use crate::error::Result;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Hands out blocks of private memory, and keeps what comes back for the next. Fresh memory is given by the system a page at a
/// time, when it is touched, which takes about as long as an all_reduce through shared memory does. Blocks that fill large pages, but
/// for a quarter at most, are made of those where the system has some: they are there sooner, and other ranks reach them with less effort.
///
/// Clones hand out of one stock. Blocks can be given back on any thread, and outlive it.
#[derive(Clone)]
pub struct Recycler(Arc<Mutex<Stock>>);

struct Stock {
    /// The most bytes that are kept.
    limit: usize,
    /// What has come back, the latest last.
    kept: Vec<Pages>,
}

impl Stock {
    fn bytes(&self) -> usize {
        self.kept.iter().map(Pages::len).sum()
    }
}

/// A block of bytes, page-aligned, which goes back to where it came from when it is dropped. What it holds at first is unspecified.
pub struct Recycled {
    /// None only while it is dropped.
    pages: Option<Pages>,
    len: usize,
    home: Weak<Mutex<Stock>>,
}

impl Recycler {
    /// One that keeps so many bytes at most, while nobody uses them.
    ///
    /// ```
    /// use ringfold::memory::Recycler;
    /// let recycler = Recycler::new(1 << 20);
    /// let mut block = recycler.take(5000)?;
    /// block.fill(1);
    /// let first = block.as_ptr();
    /// drop(block);
    /// assert_eq!(recycler.take(6000)?.as_ptr(), first, "the same pages");
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn new(limit: usize) -> Self {
        Recycler(Arc::new(Mutex::new(Stock { limit, kept: Vec::new() })))
    }

    /// A block of this many bytes: one that came back, if one is as long and at most twice as long, else a new one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses so much.
    pub fn take(&self, len: usize) -> Result<Recycled> {
        let mut stock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |pages: &Pages| pages.len() >= len && pages.len() / 2 <= len.max(super::PAGE);
        let found = stock.kept.iter().rposition(fits).map(|at| stock.kept.remove(at));
        drop(stock);
        let pages = match found {
            Some(pages) => pages,
            None => Pages::of_fitting_size(len)?,
        };
        Ok(Recycled { pages: Some(pages), len, home: Arc::downgrade(&self.0) })
    }

    /// How many bytes are kept now.
    pub fn kept(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes()
    }
}

impl fmt::Debug for Recycler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recycler").field("kept", &self.kept()).finish_non_exhaustive()
    }
}

impl Recycled {
    fn address(&self) -> *mut u8 {
        self.pages.as_ref().expect("it has its pages until it is dropped").address()
    }
}

impl Deref for Recycled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the pages are this value's own, at least so long, and initialised: by zeroes at first, by earlier users later.
        unsafe { std::slice::from_raw_parts(self.address(), self.len) }
    }
}

impl DerefMut for Recycled {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.len) }
    }
}

impl fmt::Debug for Recycled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recycled").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        let (Some(home), Some(pages)) = (self.home.upgrade(), self.pages.take()) else { return };
        let mut stock = home.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() > stock.limit {
            return;
        }
        // The latest is the likeliest to be wanted again, so the oldest go.
        let mut gone = Vec::new();
        while stock.bytes() + pages.len() > stock.limit {
            gone.push(stock.kept.remove(0));
        }
        stock.kept.push(pages);
        drop(stock); // what goes is unmapped without the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LARGE_PAGE, PAGE};

    #[test]
    fn what_comes_back_is_used_again_and_no_more_is_kept_than_the_limit() {
        let recycler = Recycler::new(3 * PAGE);
        let (a, b) = (recycler.take(2 * PAGE).unwrap(), recycler.take(2 * PAGE).unwrap());
        let (at_a, at_b) = (a.as_ptr(), b.as_ptr());
        assert_ne!(at_a, at_b);
        drop(a);
        drop(b);
        assert_eq!(recycler.kept(), 2 * PAGE, "the older one went");
        assert_eq!(recycler.take(2 * PAGE).unwrap().as_ptr(), at_b);
        drop(recycler.take(10 * PAGE).unwrap());
        assert_eq!(recycler.kept(), 2 * PAGE, "what is longer than the limit is not kept");
    }

    #[test]
    fn what_fills_large_pages_is_made_of_them() {
        let recycler = Recycler::new(usize::MAX);
        for (len, whole) in [
            (LARGE_PAGE, LARGE_PAGE),
            (LARGE_PAGE + PAGE, LARGE_PAGE + PAGE),
            (2 * LARGE_PAGE - PAGE, 2 * LARGE_PAGE),
            (9 * LARGE_PAGE + 1, 10 * LARGE_PAGE),
        ] {
            let mut block = recycler.take(len).unwrap();
            assert_eq!(block.pages.as_ref().unwrap().len(), whole);
            assert!(whole % LARGE_PAGE != 0 || block.as_ptr().addr().is_multiple_of(LARGE_PAGE));
            assert!(block.iter().all(|&byte| byte == 0));
            block.fill(1);
        }
    }

    #[test]
    fn what_is_far_too_long_is_left_for_others() {
        let recycler = Recycler::new(usize::MAX);
        let long = recycler.take(100 * PAGE).unwrap();
        let at = long.as_ptr();
        drop(long);
        assert_ne!(recycler.take(10 * PAGE).unwrap().as_ptr(), at);
        assert_eq!(recycler.take(60 * PAGE).unwrap().as_ptr(), at);
    }

    #[test]
    fn blocks_outlive_it_and_come_back_from_any_thread() {
        let recycler = Recycler::new(usize::MAX);
        let block = recycler.take(PAGE).unwrap();
        let other = recycler.take(PAGE).unwrap();
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!(recycler.kept(), PAGE);
        drop(recycler);
        assert_eq!(block.len(), PAGE);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(Recycler::new(0).take(isize::MAX as usize).is_err());
        assert!(Recycler::new(0).take(0).unwrap().is_empty());
    }
}
