//! The side of a task queue that is on disk: space is taken first, and the messages come later.

use std::time::Duration;

use super::row::{delay_ms, Mark, Row};
use crate::broker::embedded::core::{call_ready, closed, Life, Sinks};
use crate::broker::embedded::queue::Queue;
use crate::broker::embedded::queue_state::{Entry, State};
use crate::error::Error;
use crate::message::Message;

impl Queue {
    /// Takes space for records of these sizes, from the front; answers for how many, and why not for
    /// more. `None`: the queue was deleted.
    ///
    /// What drops its oldest takes messages beyond its maximum here, and drops when they come: what
    /// is to be dropped may not be there yet.
    pub(super) fn reserve(&self, sizes: &[usize]) -> Option<(usize, Option<Error>)> {
        let taken = self.reserve_once(sizes)?;
        match (taken.0, sizes.first()) {
            (0, Some(first)) if taken.1.is_some() && self.core.evict_bytes(first + 8) => self.reserve_once(sizes),
            _ => Some(taken),
        }
    }

    fn reserve_once(&self, sizes: &[usize]) -> Option<(usize, Option<Error>)> {
        let mut state = self.state.lock();
        match state.life {
            Life::Open => {}
            Life::Closed => return Some((0, Some(closed()))),
            Life::Deleted => return None,
        }
        for (index, bytes) in sizes.iter().enumerate() {
            if let Err(error) = self.reserve_one(&mut state, *bytes) {
                return Some((index, Some(error)));
            }
            state.reserved_count += 1;
            state.reserved_bytes += *bytes as u64;
        }
        Some((sizes.len(), None))
    }

    fn reserve_one(&self, state: &mut State, bytes: usize) -> Result<(), Error> {
        let may_drop = state.ready as u64 + state.reserved_count > 0;
        if !self.settings.drop_oldest || !may_drop || self.fits(state, 1, bytes as u64) {
            return self.admit_one(state, bytes);
        }
        if let Some(error) = self.core.too_large(&self.name, bytes, self.settings.bytes_max) {
            return Err(error);
        }
        if !self.core.memory.take(bytes) {
            self.core.memory.waiters.refused(bytes);
            return Err(self.core.memory_full());
        }
        state.taken_count += 1;
        state.taken_bytes += bytes as u64;
        Ok(())
    }

    /// Gives back the space of records that do not come.
    pub(super) fn withdraw(&self, sizes: &[usize]) {
        self.unreserve(&mut self.state.lock(), sizes);
        self.freed();
        self.core.memory_freed();
    }

    fn unreserve(&self, state: &mut State, sizes: &[usize]) {
        let bytes: usize = sizes.iter().sum();
        let count = sizes.len() as u64;
        state.reserved_count -= count;
        state.reserved_bytes -= bytes as u64;
        state.taken_count -= count;
        state.taken_bytes -= bytes as u64;
        self.core.memory.free(bytes);
    }

    /// Appends records whose space was taken before, and that are on disk by now; answers how many,
    /// which are fewer when the system has no memory. Of a queue that was deleted meanwhile they are
    /// gone with it.
    pub(super) fn append_stored(&self, rows: &[Row], sizes: &[usize]) -> usize {
        let mut state = self.state.lock();
        if state.life != Life::Open {
            self.unreserve(&mut state, sizes);
            return rows.len();
        }
        let before = state.ready;
        let wall_us = self.core.clock.wall_us();
        let mut appended = 0;
        for (row, size) in rows.iter().zip(sizes) {
            while self.settings.drop_oldest && !self.fits(&mut state, 0, 0) && self.drop_one(&mut state) {}
            let (record, stamp) = row.record(row.given_id(), wall_us);
            if !self.append(&mut state, &record, stamp) {
                break;
            }
            state.reserved_count -= 1;
            state.reserved_bytes -= *size as u64;
            appended += 1;
        }
        self.unreserve(&mut state, sizes.get(appended..).unwrap_or_default());
        let mut sinks = Sinks::new();
        // All of them: of those that were there before, some may have been dropped.
        let added = state.ready.min(appended).max(state.ready.saturating_sub(before));
        self.wake(&mut state, added, &mut sinks);
        drop(state);
        call_ready(sinks);
        appended
    }

    /// Takes over a message of an earlier process; `false`: the system has no memory.
    pub(super) fn restore(&self, row: &Row, mark: Option<Mark>) -> bool {
        let id = row.full_id();
        let wall_us = self.core.clock.wall_us();
        let (record, stamp) = row.record(id.as_str(), wall_us);
        let mut state = self.state.lock();
        let bytes = crate::message::segment::record_bytes(&record);
        state.taken_count += 1;
        state.taken_bytes += bytes as u64;
        self.core.memory.force(bytes);
        let Some(mark) = mark else { return self.append(&mut state, &record, stamp) };
        let alone = Message::alone(&self.core.pool, &self.name, self.core.id_prefix, &record, stamp);
        let Some(message) = alone else { return false };
        let entry = Entry { message, tries: mark.tries, handed: mark.handed };
        match delay_ms(mark.due_us, wall_us) {
            0 => state.push_back(entry),
            wait_ms => {
                let due = self.core.clock.now().plus(Duration::from_millis(wait_ms as u64));
                state.push_delayed(due, entry);
                drop(state);
                self.set_timer(due);
            }
        }
        true
    }
}
