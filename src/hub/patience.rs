//! How long a publishing call waits for a server that may be away, before what takes its place is asked.

use super::Shared;
use crate::broker::Level;
use crate::clock::Moment;
use crate::sync::Deadline;

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) require: Option<Level>,
    /// When it began, if it waits; `None`: it is decided now.
    pub(super) since: Option<Moment>,
}

impl Asked {
    /// By a call that waits for nothing.
    pub(super) fn now(require: Option<Level>) -> Self {
        Self { require, since: None }
    }
}

/// A call that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) deadline: Deadline,
    pub(super) since: Moment,
    /// So long it waits for a lane that is nearly home.
    pub(super) patience: Deadline,
    /// So long it waits for a server at all: the rest of its time is for what takes the server's place.
    pub(super) half: Deadline,
}

impl Shared {
    /// A call that begins now.
    pub(super) fn call(&self, deadline: Deadline) -> Call {
        let since = self.context.clock.now();
        // After that moment was read: at this one nothing counts as patient any more.
        let patience = Deadline::after(Some(self.config.failover.suspect_wait));
        Call { deadline, since, patience, half: Deadline::after(deadline.left().map(|left| left / 2)) }
    }
}
