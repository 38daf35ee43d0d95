//! The side of an event topic that is on disk: space is taken first, and the events come later.

use super::row::{Row, Spot};
use crate::broker::embedded::core::{closed, Life};
use crate::broker::embedded::group::Group;
use crate::broker::embedded::log::Log;
use crate::broker::embedded::log_state::State;
use crate::broker::embedded::partition::partition_of;
use crate::broker::Start;
use crate::error::{Error, Kind};
use crate::message::{Record, Stamp};

impl Log {
    /// Takes space for records of these sizes, from the front; answers for how many, and why not for
    /// more. `None`: the topic was deleted.
    pub(super) fn reserve(&self, sizes: &[usize], records: &[Record<'_>]) -> Option<(usize, Option<Error>)> {
        let taken = self.reserve_once(sizes, records)?;
        let is_full = taken.1.as_ref().is_some_and(|error| error.kind() == Kind::Full);
        let Some(first) = sizes.first().filter(|_| taken.0 == 0 && is_full) else { return Some(taken) };
        self.collect_acks();
        self.core.evict_bytes(first + 8);
        self.reserve_once(sizes, records)
    }

    fn reserve_once(&self, sizes: &[usize], records: &[Record<'_>]) -> Option<(usize, Option<Error>)> {
        let mut state = self.lock();
        match state.life {
            Life::Open => {}
            Life::Closed => return Some((0, Some(closed()))),
            Life::Deleted => return None,
        }
        for (index, (bytes, record)) in sizes.iter().zip(records).enumerate() {
            let reserved = self.check_delay(record).and_then(|()| self.reserve_one(&mut state, *bytes));
            if let Err(error) = reserved {
                return Some((index, Some(error)));
            }
            state.reserved_count += 1;
            state.reserved_bytes += *bytes as u64;
        }
        Some((sizes.len(), None))
    }

    fn reserve_one(&self, state: &mut State, bytes: usize) -> Result<(), Error> {
        if !self.settings.drop_oldest || self.fits(state, 1, bytes as u64) {
            return self.admit_bytes(state, bytes);
        }
        // The oldest are dropped when these come: they may not be there yet.
        if let Some(error) = self.core.too_large(&self.name, bytes, self.settings.bytes_max) {
            return Err(error);
        }
        if !self.core.memory.take(bytes) {
            self.core.memory.waiters.refused(bytes);
            return Err(self.core.memory_full());
        }
        state.count += 1;
        state.bytes += bytes as u64;
        Ok(())
    }

    /// Gives back the space of records that do not come.
    pub(super) fn withdraw(&self, sizes: &[usize]) {
        self.unreserve(&mut self.lock(), sizes);
        self.freed();
        self.core.memory_freed();
    }

    fn unreserve(&self, state: &mut State, sizes: &[usize]) {
        let bytes: usize = sizes.iter().sum();
        state.reserved_count -= sizes.len() as u64;
        state.reserved_bytes -= bytes as u64;
        state.count -= sizes.len() as u64;
        state.bytes -= bytes as u64;
        self.core.memory.free(bytes);
    }

    /// Gives each row its partition and offset, behind those in `next`, which has one for each
    /// partition, or is empty before the first call. The writer alone appends, so they hold.
    pub(super) fn place(&self, rows: &mut [Row], next: &mut Vec<u64>) {
        if next.is_empty() {
            next.extend(self.lock().partitions.iter().map(|partition| partition.next()));
        }
        for row in rows {
            let part = if row.head.has_key { partition_of(row.pieces().key, next.len()) } else { 0 };
            row.head.part = part as u32;
            if let Some(next) = next.get_mut(part) {
                row.head.place = *next as i64;
                *next += 1;
            }
        }
    }

    /// Appends records whose space was taken before, and that are on disk by now; answers how many,
    /// which are fewer when the system has no memory. Of a topic that was deleted meanwhile they are
    /// gone with it.
    pub(super) fn append_stored(&self, rows: &[Row], sizes: &[usize]) -> usize {
        let mut state = self.lock();
        if state.life != Life::Open {
            self.unreserve(&mut state, sizes);
            return rows.len();
        }
        let mut appended = 0;
        for (row, size) in rows.iter().zip(sizes) {
            if self.settings.drop_oldest {
                self.make_room(&mut state, 0, 0);
            }
            let (record, stamp) = row.record(row.given_id(), row.head.at_us);
            if !self.push(&mut state, row.head.part, &record, stamp) {
                break;
            }
            state.reserved_count -= 1;
            state.reserved_bytes -= *size as u64;
            appended += 1;
        }
        self.unreserve(&mut state, sizes.get(appended..).unwrap_or_default());
        self.appended(state, appended);
        appended
    }

    fn push(&self, state: &mut State, part: u32, record: &Record<'_>, stamp: Stamp) -> bool {
        state.expires |= record.ttl_ms > 0;
        let partition = state.partitions.get_mut(part as usize);
        partition.is_some_and(|own| own.chain.append(&self.core, &self.name, record, stamp))
    }

    /// Takes over an event of an earlier process, at its offset; answers how many events are missing
    /// between the one before and this, or `None` without memory.
    pub(super) fn restore(&self, row: &Row) -> Option<u64> {
        let missing = self.restore_to(row.head.part, row.head.place as u64)?;
        let id = row.full_id();
        let (record, stamp) = row.record(id.as_str(), row.head.at_us);
        let mut state = self.lock();
        self.count(&mut state, &record);
        let pushed = self.push(&mut state, row.head.part, &record, stamp);
        self.appended(state, 1);
        pushed.then_some(missing)
    }

    /// Makes `offset` the next one of a partition. Events that are missing before it leave places
    /// that are expired, so that all that follows keeps its offset.
    pub(super) fn restore_to(&self, part: u32, offset: u64) -> Option<u64> {
        let mut state = self.lock();
        let partition = state.partitions.get_mut(part as usize)?;
        let next = partition.next();
        if partition.first() == next && next < offset {
            partition.begin_at(offset);
            return Some(0);
        }
        let missing = offset.checked_sub(next)?;
        let hole = Record { ttl_ms: 1, timestamp_us: 1, ..Record::new(&[]) };
        for _ in 0..missing {
            self.count(&mut state, &hole);
            if !self.push(&mut state, part, &hole, Stamp { seq: 0, now_us: 0 }) {
                return None;
            }
        }
        Some(missing)
    }

    fn count(&self, state: &mut State, record: &Record<'_>) {
        let bytes = crate::message::segment::record_bytes(record);
        state.count += 1;
        state.bytes += bytes as u64;
        self.core.memory.force(bytes);
    }

    /// The next offset of a partition.
    pub(super) fn next_of(&self, part: u32) -> u64 {
        self.lock().partitions.get(part as usize).map_or(u64::MAX, |partition| partition.next())
    }

    /// Takes over how far a group had come in a partition.
    pub(super) fn restore_group(&self, name: &str, part: u32, offset: u64) {
        let mut state = self.lock();
        let State { groups, partitions, .. } = &mut *state;
        let named = |own: &Option<Group>| own.as_ref().is_some_and(|own| own.name.as_deref() == Some(name));
        let at = groups.iter().position(named).unwrap_or_else(|| {
            groups.push(Some(Group::new(Some(name.to_owned()), true, partitions, Start::Earliest)));
            groups.len() - 1
        });
        let group = groups.get_mut(at).and_then(Option::as_mut);
        let tracker = group.and_then(|group| group.trackers.get_mut(part as usize));
        if let (Some(tracker), Some(partition)) = (tracker, partitions.get(part as usize)) {
            tracker.go_to(partition, Start::Offset(i64::try_from(offset).unwrap_or(i64::MAX)));
        }
    }

    /// Where every named group is, and the next offset of each partition; nothing of a topic that ended.
    pub(super) fn spots(&self) -> Vec<(Spot, u64)> {
        let state = self.lock();
        if state.life != Life::Open {
            return Vec::new();
        }
        let topic = self.id;
        let named = state.groups.iter().flatten().filter(|group| group.settles);
        let committed =
            named.filter_map(|group| group.name.as_ref().map(|name| (name, group))).flat_map(|(name, group)| {
                (0..)
                    .zip(&group.trackers)
                    .map(move |(part, tracker)| (Spot { topic, part, group: Some(name.clone()) }, tracker.committed))
            });
        let ends = (0..).zip(&state.partitions).map(|(part, own)| (Spot { topic, part, group: None }, own.next()));
        committed.chain(ends).collect()
    }
}
