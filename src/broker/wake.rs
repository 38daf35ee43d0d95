//! Those who wait for a broker, and are woken.

use std::fmt;
use std::sync::{Arc, Weak};

/// Something that waits.
pub trait Wake: Send + Sync {
    /// What was waited for has happened. Must not block; may come more than once.
    fn wake(&self);
}

/// Those who wait for one thing. Holds no more of them than wait, or did a moment ago.
#[derive(Default)]
pub struct Wakers(Vec<Weak<dyn Wake>>);

impl Wakers {
    /// Adds one.
    pub fn add(&mut self, waker: Weak<dyn Wake>) {
        if self.0.iter().any(|own| own.ptr_eq(&waker)) {
            return;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|waker| waker.strong_count() > 0);
        }
        self.0.push(waker);
    }

    /// Takes out all who still wait, to be woken with no lock held.
    pub fn take(&mut self) -> impl Iterator<Item = Arc<dyn Wake>> {
        std::mem::take(&mut self.0).into_iter().filter_map(|waker| waker.upgrade())
    }
}

impl fmt::Debug for Wakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wakers").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Publisher;

    impl Wake for Publisher {
        fn wake(&self) {}
    }

    /// Publishers that time out on a full topic without a consumer are never woken: their entries
    /// must not add up until space is made.
    #[test]
    fn those_that_gave_up_are_not_kept() {
        let mut wakers = Wakers::default();
        let waiting: Arc<dyn Wake> = Arc::new(Publisher);
        wakers.add(Arc::downgrade(&waiting));
        for _ in 0..10_000 {
            let gave_up: Arc<dyn Wake> = Arc::new(Publisher);
            wakers.add(Arc::downgrade(&gave_up));
        }
        assert!(wakers.0.capacity() <= 8, "{}", wakers.0.capacity());
        assert_eq!(wakers.take().count(), 1);
    }
}
