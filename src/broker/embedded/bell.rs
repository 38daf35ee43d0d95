//! How a source learns that one of its topics has something: a list of those topics, and one call
//! of the sink while the source is idle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::broker::Sink;
use crate::sync::Mutex;

/// A source's end of all wake-ups.
pub(super) struct Bell {
    sink: Arc<dyn Sink>,
    /// Hints wait in `state`, for a look without the lock.
    rung: AtomicBool,
    state: Mutex<Rung>,
}

/// Guarded together, so that a hint is never added to a source that just went idle unseen.
#[derive(Debug, Default)]
struct Rung {
    /// Members of the source whose topics have something.
    hot: Vec<u32>,
    /// The source's last fetch found nothing, and its sink was not called since.
    idle: bool,
}

impl Bell {
    /// A bell for `sink`.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, rung: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Notes that `member` has something; `true` if the sink must be called (with no lock held).
    #[must_use]
    pub fn hint(&self, member: u32) -> bool {
        let mut state = self.state.lock();
        state.hot.push(member);
        self.rung.store(true, Ordering::Release);
        std::mem::take(&mut state.idle)
    }

    /// Whether there are hints to collect.
    #[inline]
    pub fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Wants no call of the sink until it goes idle again; hints are kept.
    pub fn leave(&self) {
        self.state.lock().idle = false;
    }

    /// Moves the hints into `hot`, without doubles.
    pub fn collect(&self, hot: &mut Vec<u32>) {
        let mut state = self.state.lock();
        self.rung.store(false, Ordering::Release);
        for member in state.hot.drain(..) {
            if !hot.contains(&member) {
                hot.push(member);
            }
        }
    }

    /// As [`Bell::collect`]; without any hint all of `members` are looked at, as their sources are
    /// then called for another reason, and may find what an other source was told of first.
    pub fn collect_or_all(&self, hot: &mut Vec<u32>, members: usize) {
        self.collect(hot);
        if hot.is_empty() && members <= MEMBERS_LOOKED_AT {
            hot.extend(0..members as u32);
        }
    }

    /// Goes idle, unless there is a hint; answers whether it is idle.
    pub fn rest(&self) -> bool {
        let mut state = self.state.lock();
        state.idle = state.hot.is_empty();
        state.idle
    }

    /// The receiving end.
    pub fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("state", &*self.state.lock()).finish()
    }
}

/// More are not looked at without a hint: it would cost a lock for each.
const MEMBERS_LOOKED_AT: usize = 64;
