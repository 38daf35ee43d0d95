//! Which lanes have something to forward.

use super::lane::Lane;
use super::record::At;

impl Lane {
    /// Whether [`forward`](Self::forward) has something to send, to drop, or to wait for, for a look at many lanes.
    pub fn may_forward(&self) -> bool {
        if self.stored == self.on_way || self.held.is_some() {
            return false;
        }
        let mut marks = false;
        for record in self.records.iter().skip(self.first_not_clear()) {
            match record.at {
                At::Flying { .. } => {}
                At::Marking { .. } => marks = true,
                At::Leased if !self.keyed => {}
                At::Leased | At::Appending | At::Withdrawing => return false,
                At::Queued if record.marked && marks => return false,
                // One that awaits a copy is to be noted, once.
                At::Queued => return self.held_up.is_none() || !self.awaits_copy(record),
            }
        }
        false
    }
}
