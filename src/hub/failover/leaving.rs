//! Records that leave a lane otherwise than by delivery: their time is over, or newer ones need the room.

use super::lane::{Lane, LaneAction};
use super::record::{At, Completed, Fate, Record};
use crate::clock::Moment;

impl Lane {
    /// Drops what has expired in the spool.
    pub fn expire(&mut self, now: Moment, out: &mut Vec<LaneAction>) {
        let mut index = 0;
        while let Some(record) = self.records.get(index) {
            if record.at == At::Queued && record.expires <= now {
                self.expired(index, out);
            } else {
                index += 1;
            }
        }
    }

    /// The record that [`evict`](Self::evict) would take.
    pub fn evictable(&self) -> Option<u64> {
        let waits = |record: &&Record| record.at == At::Queued && record.owes.is_none();
        self.records.iter().find(waits).map(|record| record.seq)
    }

    /// Evicts the oldest record that waits in the spool and has been answered for; `None` if there
    /// is none. A record whose call still waits would be told an end that a crash could undo.
    pub fn evict(&mut self, out: &mut Vec<LaneAction>) -> Option<u64> {
        let seq = self.evictable()?;
        let index = self.find(seq)?;
        self.end(index, Completed::Unknown, Fate::Evicted, out);
        Some(seq)
    }
}
