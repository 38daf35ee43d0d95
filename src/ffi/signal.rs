//! From a handle to a flag without a lock, for the two functions that signal handlers may call.
//!
//! A fixed array, indexed by the slot of the handle, holds the flags. A reader announces itself
//! before it looks at the generation, and whoever takes a flag away waits until no reader is
//! announced; so a reader never sees a flag that is gone, and never waits.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::Arc;

use super::slot::Place;
use crate::hub::{InboxWaker, StopFlag};

/// Hubs open at a time; a program has a few.
const HUBS_MAX: usize = 4096;
/// Inboxes at a time; a server may have one per connection.
const INBOXES_MAX: usize = 65_536;

pub(super) static HUBS: Reach<StopFlag, HUBS_MAX> = Reach::new();
pub(super) static INBOXES: Reach<InboxWaker, INBOXES_MAX> = Reach::new();

/// Flags by the place of their handle. All zero when empty, so an untouched part costs no memory.
pub(super) struct Reach<T, const N: usize>([Slot<T>; N]);

struct Slot<T> {
    /// Generation of the handle whose flag this is; 0: none.
    generation: AtomicU32,
    readers: AtomicU32,
    flag: AtomicPtr<T>,
}

impl<T: Send + Sync, const N: usize> Reach<T, N> {
    const fn new() -> Self {
        const { assert!(N > 0) };
        Self(
            [const {
                Slot {
                    generation: AtomicU32::new(0),
                    readers: AtomicU32::new(0),
                    flag: AtomicPtr::new(std::ptr::null_mut()),
                }
            }; N],
        )
    }

    /// Puts `flag` at `place`; `false` if the array does not reach so far.
    pub(super) fn set(&self, place: Place, flag: Arc<T>) -> bool {
        let Some(slot) = self.0.get(place.index as usize) else { return false };
        let flag = Arc::into_raw(flag).cast_mut();
        if slot.flag.compare_exchange(std::ptr::null_mut(), flag, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: it was made from an Arc just now, and nobody else has it.
            drop(unsafe { Arc::from_raw(flag) });
            return false;
        }
        slot.generation.store(place.generation, Ordering::SeqCst);
        true
    }

    /// Takes the flag of `place` away. To be called before the place is given back for reuse.
    pub(super) fn clear(&self, place: Place) {
        let Some(slot) = self.0.get(place.index as usize) else { return };
        if slot.generation.compare_exchange(place.generation, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return;
        }
        // A reader is here for a few instructions, and never waits for anything.
        while slot.readers.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        let flag = slot.flag.swap(std::ptr::null_mut(), Ordering::SeqCst);
        if !flag.is_null() {
            // SAFETY: it came from `Arc::into_raw` in `set`; the swap made us its one owner, and
            // a reader that comes now finds generation 0 and does not look at the flag.
            drop(unsafe { Arc::from_raw(flag) });
        }
    }

    /// Calls `touch` with the flag of `place`, if it is there. Lock-free; `touch` must be too.
    pub(super) fn reach(&self, place: Place, touch: impl FnOnce(&T)) {
        let Some(slot) = self.0.get(place.index as usize) else { return };
        slot.readers.fetch_add(1, Ordering::SeqCst);
        if place.generation != 0 && slot.generation.load(Ordering::SeqCst) == place.generation {
            // SAFETY: the generation was seen after this reader was announced, so `clear` has not
            // passed its wait: the flag lives until the reader leaves.
            if let Some(flag) = unsafe { slot.flag.load(Ordering::SeqCst).as_ref() } {
                touch(flag);
            }
        }
        slot.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_flag_is_reached_only_by_its_own_generation() {
        let reach: Reach<AtomicUsize, 2> = Reach::new();
        let count = Arc::new(AtomicUsize::new(0));
        let (place, later) = (Place { index: 1, generation: 1 }, Place { index: 1, generation: 2 });
        let touch = |flag: &AtomicUsize| flag.store(flag.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
        assert!(reach.set(place, Arc::clone(&count)));
        assert!(!reach.set(Place { index: 2, generation: 1 }, Arc::clone(&count)));
        reach.reach(place, touch);
        reach.reach(later, touch);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        reach.clear(later);
        reach.clear(place);
        reach.reach(place, touch);
        assert_eq!((count.load(Ordering::SeqCst), Arc::strong_count(&count)), (1, 1));
        assert!(reach.set(later, Arc::clone(&count)));
        reach.reach(later, touch);
        assert_eq!(count.load(Ordering::SeqCst), 2);
        reach.clear(later);
    }

    #[test]
    fn reading_races_with_taking_away() {
        static REACH: Reach<AtomicUsize, 1> = Reach::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for generation in 1..20_000 {
                        REACH.reach(Place { index: 0, generation }, |flag| flag.store(1, Ordering::SeqCst));
                    }
                });
            }
            for generation in 1..20_000 {
                let place = Place { index: 0, generation };
                assert!(REACH.set(place, Arc::new(AtomicUsize::new(0))));
                REACH.clear(place);
            }
        });
    }
}
