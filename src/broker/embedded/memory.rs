//! The broker's memory, counted in bytes of messages, and those who wait for space.
//!
//! A count is kept in two halves on separate cache lines: publishers add to one, consumers to the
//! other, and a publisher reads the consumers' half only when its last reading no longer will do.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Weak;

use crate::broker::{Wake, Wakers};
use crate::sync::Mutex;

/// Keeps what one thread writes off the cache line that another one reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct OwnLine<T>(pub T);

/// Bytes of all messages of a broker.
#[derive(Debug)]
pub(super) struct Memory {
    max: usize,
    taken: AtomicUsize,
    freed_seen: AtomicUsize,
    freed: OwnLine<AtomicUsize>,
    /// Publishers that found it full.
    pub waiters: Waiters,
}

impl Memory {
    /// An empty one that holds `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            taken: AtomicUsize::new(0),
            freed_seen: AtomicUsize::new(0),
            freed: OwnLine::default(),
            waiters: Waiters::default(),
        }
    }

    /// Bytes it holds at most.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes `bytes` if they are free.
    #[inline]
    pub fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.fetch_add(bytes, Ordering::SeqCst).wrapping_add(bytes);
        if taken.wrapping_sub(self.freed_seen.load(Ordering::Relaxed)) <= self.max {
            return true;
        }
        let freed = self.freed.0.load(Ordering::SeqCst);
        self.freed_seen.store(freed, Ordering::Relaxed);
        if taken.wrapping_sub(freed) <= self.max {
            return true;
        }
        self.taken.fetch_sub(bytes, Ordering::SeqCst);
        false
    }

    /// Takes `bytes`, also beyond the maximum: what an earlier process left is not refused.
    pub fn force(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Gives `bytes` back. Whoever does it looks at `waiters` afterwards, with no lock held.
    #[inline]
    pub fn free(&self, bytes: usize) {
        self.freed.0.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.taken.load(Ordering::SeqCst).wrapping_sub(self.freed.0.load(Ordering::SeqCst))
    }

    /// How many bytes are missing to take `bytes`; 0: none.
    pub fn missing(&self, bytes: usize) -> usize {
        self.used().saturating_add(bytes).saturating_sub(self.max)
    }
}

/// Publishers waiting for space in one place.
#[derive(Default)]
pub(super) struct Waiters {
    /// Read by those who free space, so that it costs them nothing while nobody waits.
    wanted: AtomicBool,
    state: Mutex<Waiting>,
}

/// Guarded together: who waits, and the smallest space that helps one of them.
#[derive(Default)]
struct Waiting {
    wakers: Wakers,
    bytes: Option<usize>,
}

impl Waiters {
    /// Notes that a record of `bytes` found no space.
    pub fn refused(&self, bytes: usize) {
        let mut state = self.state.lock();
        // Of those that did not wait for it nobody asks any more.
        let least = state.bytes.filter(|_| self.wanted()).unwrap_or(bytes);
        state.bytes = Some(least.min(bytes));
    }

    /// Adds a waiter. The caller looks for space afterwards, as it may have come just before.
    pub fn add(&self, waker: Weak<dyn Wake>) {
        let mut state = self.state.lock();
        state.wakers.add(waker);
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Whether somebody waits.
    #[inline]
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Bytes that would help one of them.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes.unwrap_or(0)
    }

    /// Wakes all. Called with no lock held.
    pub fn wake(&self) {
        let wakers = {
            let mut state = self.state.lock();
            self.wanted.store(false, Ordering::SeqCst);
            state.bytes = None;
            state.wakers.take()
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("wanted", &self.wanted()).finish()
    }
}
