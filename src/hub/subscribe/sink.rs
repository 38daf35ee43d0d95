//! The broker's view of a subscription.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};

use super::SubShared;
use crate::broker::Sink;

/// Made before the subscription itself.
#[derive(Debug, Default)]
pub(in crate::hub) struct SubSink {
    shared: OnceLock<Weak<SubShared>>,
}

impl SubSink {
    /// Connects the subscription and lets it look for a first delivery.
    pub(super) fn attach(&self, shared: &Arc<SubShared>) {
        // Set once, here.
        let _ = self.shared.set(Arc::downgrade(shared));
        shared.ready();
    }

    /// The connection under these is gone. Those that nobody has been handed yet are dropped; answers those that
    /// are with a handler. With no lock held.
    pub(in crate::hub) fn handed(&self, tags: &HashSet<u64>) -> HashSet<u64> {
        self.subscription().map(|shared| shared.feed.handed(tags)).unwrap_or_default()
    }

    fn subscription(&self) -> Option<Arc<SubShared>> {
        self.shared.get()?.upgrade()
    }
}

impl Sink for SubSink {
    fn ready(&self) {
        // One that comes before `attach` is made up for there.
        if let Some(shared) = self.subscription() {
            shared.ready();
        }
    }

    fn revoked(&self, tags: &[u64]) {
        if let Some(shared) = self.subscription() {
            shared.feed.revoked(tags);
        }
    }
}
