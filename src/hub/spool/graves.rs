//! Records of the spool that their server refused: each is kept here until its dead letter is written.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::topic::{SpoolTopic, State};
use super::{After, Spool};
use crate::broker::embedded::disk::SpoolRows;
use crate::broker::Wake;
use crate::clock::Moment;
use crate::error::Error;
use crate::message::{Message, TopicKind};

/// Pause before a dead letter that could not be written is tried again.
const BURY_AGAIN: Duration = Duration::from_secs(5);

/// A record that was refused: it becomes a dead letter.
#[derive(Clone)]
pub(super) struct Dead {
    pub message: Message,
    pub kind: TopicKind,
    pub why: String,
    /// Its row on disk, and its number.
    pub row: Option<(Arc<SpoolRows>, u64)>,
    /// When that is tried.
    pub at: Moment,
}

impl SpoolTopic {
    /// A record was refused after its publish was told success.
    pub(super) fn dies(&self, spool: &Spool, state: &mut State, seq: u64, after: &mut After) {
        let Some(kept) = state.records.get_mut(&seq) else { return };
        kept.is_dead = true;
        let (row, at) = (self.rows().cloned().map(|rows| (rows, seq)), spool.context.clock.now());
        let why = kept.why.as_ref().map_or("refused by the server", Error::message).to_owned();
        if let Some(message) = kept.message.clone() {
            spool.dies(message.size());
            after.dead.push(Dead { message, kind: self.kind(), why, row, at });
        }
    }
}

impl Spool {
    /// A record that was refused is kept until its dead letter is written.
    pub(super) fn dies(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.dead.fetch_add(1, Ordering::AcqRel);
    }

    fn is_buried(&self, dead: &Dead) {
        if let Some((rows, seq)) = &dead.row {
            rows.remove(*seq);
        }
        self.bytes.fetch_sub(dead.message.size(), Ordering::AcqRel);
        self.dead.fetch_sub(1, Ordering::AcqRel);
        self.wake();
        self.emptied.ring();
    }

    /// Writes dead letters; those that cannot be written are tried again.
    pub(super) fn bury(self: &Arc<Self>) {
        let Some(hub) = self.hub.upgrade() else { return };
        let now = self.context.clock.now();
        let due: Vec<Dead> = self.graves.lock().extract_if(.., |dead| dead.at <= now).collect();
        for dead in due {
            let (own, again) = (Arc::downgrade(self), Dead { at: now.plus(BURY_AGAIN), ..dead.clone() });
            let ended = move |is_written: bool| {
                let Some(own) = own.upgrade() else { return };
                match is_written {
                    true => own.is_buried(&again),
                    false => own.graves.lock().push(again),
                }
            };
            hub.bury_spooled(&dead.message, dead.kind, &dead.why, Box::new(ended));
        }
    }
}
