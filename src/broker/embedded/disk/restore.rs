//! From the disk into memory: what an earlier process left.

use std::collections::HashMap;
use std::sync::Arc;

use super::journal::Journal;
use super::row::{Mark, Row, Spot};
use super::spool::{SpoolRows, SpooledRecord, SpooledTopic};
use super::store::{Damage, Failure, Found, Recovery, Store};
use crate::broker::embedded::{Embedded, Topic};
use crate::message::Message;

/// What opening found.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Messages that are here again.
    pub messages: u64,
    /// Events that should be between others, and are not.
    pub missing: u64,
    /// So many of them were told of at an earlier start.
    pub known_missing: u64,
    /// Messages whose topic nobody knows, or for which there is no memory.
    pub left_out: u64,
    pub damage: Damage,
    /// What was kept for servers.
    pub spooled: Vec<SpooledTopic>,
}

impl Restored {
    /// What a person should hear of it.
    pub fn warning(&self, directory: &str) -> Option<String> {
        let Self { messages, missing, known_missing, left_out, damage, .. } = self;
        if !damage.is_any() && missing <= known_missing && *left_out == 0 {
            return None;
        }
        let aside = damage.set_aside.as_deref().map_or(String::new(), |name| format!("; it was set aside as {name}"));
        let lost = match damage.unreadable {
            true => format!("parts of it cannot be read, and at least {} rows were damaged", damage.rows),
            false => format!("{} rows were damaged", damage.rows),
        };
        Some(format!(
            "the file in the data directory {directory} is damaged: {messages} messages were recovered, {lost}, \
             {missing} events are missing between others, {left_out} messages could not be taken over{aside}"
        ))
    }
}

/// Puts what `store` holds into `inner`, which is new.
pub(super) fn restore(
    inner: &Arc<Embedded>,
    store: &mut dyn Store,
    journal: &Arc<Journal>,
) -> Result<Restored, Failure> {
    let mut restore = Restore {
        inner,
        journal,
        spooled: HashMap::new(),
        topics: HashMap::new(),
        marks: HashMap::new(),
        spots: Vec::new(),
        highest: 0,
        strays: Vec::new(),
        restored: Restored::default(),
    };
    let damage = store.recover(&mut restore)?;
    restore.end();
    let Restore { marks, highest, mut strays, mut restored, spooled, .. } = restore;
    for (topic, has_rows) in spooled.into_values() {
        match has_rows {
            true => restored.spooled.push(topic),
            // Nothing was left to be sent.
            false => journal.deleted(topic.rows.id()),
        }
    }
    if damage.is_any() {
        restored.left_out += strays.len() as u64;
    }
    // Of a topic that was deleted, or of a message that is gone: they are of no use to anybody.
    strays.extend(marks.into_keys());
    journal.removed(strays.into_iter());
    if restored.missing != restored.known_missing {
        journal.place(Spot::MISSING, restored.missing);
    }
    journal.skip_numbers(highest);
    restored.damage = damage;
    Ok(restored)
}

struct Restore<'a> {
    inner: &'a Arc<Embedded>,
    journal: &'a Arc<Journal>,
    /// What is kept for servers, and whether there is any of it.
    spooled: HashMap<u64, (SpooledTopic, bool)>,
    topics: HashMap<u64, Topic>,
    marks: HashMap<u64, Mark>,
    spots: Vec<(Spot, u64)>,
    highest: u64,
    /// Messages without a topic.
    strays: Vec<u64>,
    restored: Restored,
}

impl Recovery for Restore<'_> {
    fn begin(&mut self, found: &Found) {
        let (spooled, own): (Vec<_>, Vec<_>) = found.topics.iter().partition(|row| row.server.is_some());
        self.topics = own.into_iter().map(|row| (row.id, self.inner.restore_topic(row))).collect();
        for row in spooled {
            self.inner.core.skip_ids(row.id);
            let rows = SpoolRows::new(row.clone(), self.journal, true);
            self.spooled.insert(row.id, (SpooledTopic { rows, records: Vec::new() }, false));
        }
        // Also of those without a row: their removal is on its way.
        self.highest = found.marks.iter().map(|mark| mark.seq).max().unwrap_or(0);
        self.marks = found.marks.iter().map(|mark| (mark.seq, *mark)).collect();
        self.spots.clone_from(&found.spots);
    }

    fn row(&mut self, row: Row) {
        self.highest = self.highest.max(row.head.seq);
        let mark = self.marks.remove(&row.head.seq);
        let spooled = self.spooled.get_mut(&row.head.topic).map(|(topic, has_rows)| {
            *has_rows = true;
            topic.restore(self.inner, &row, mark)
        });
        let taken = match self.topics.get(&row.head.topic) {
            None if spooled.is_some() => spooled == Some(true),
            None => return self.strays.push(row.head.seq),
            Some(Topic::Tasks(queue)) => queue.restore(&row, mark),
            Some(Topic::Events(log)) => {
                let missing = log.restore(&row);
                self.restored.missing += missing.unwrap_or(0);
                missing.is_some()
            }
        };
        match taken {
            true => self.restored.messages += 1,
            false => self.restored.left_out += 1,
        }
    }
}

impl SpooledTopic {
    /// `false`: the system has no memory for it.
    fn restore(&mut self, inner: &Embedded, row: &Row, mark: Option<Mark>) -> bool {
        let (id, core) = (row.full_id(), &inner.core);
        let (record, stamp) = row.record(id.as_str(), core.clock.wall_us());
        let message = Message::alone(&core.pool, &Arc::from(self.rows.name()), core.id_prefix, &record, stamp);
        let tries = mark.map_or(0, |mark| u16::try_from(mark.tries).unwrap_or(u16::MAX));
        let maybe_dup = row.head.maybe_dup || mark.is_some_and(|mark| mark.handed);
        let Some(message) = message else { return false };
        let due_us = mark.map_or(0, |mark| mark.due_us).max(row.head.due_us);
        self.records.push(SpooledRecord { message, due_us, tries, maybe_dup });
        true
    }
}

impl Restore<'_> {
    /// Where partitions end, and groups are, once all events are there.
    fn end(&mut self) {
        let known = self.spots.iter().find(|(spot, _)| *spot == Spot::MISSING);
        self.restored.known_missing = known.map_or(0, |(_, count)| *count);
        for (spot, offset) in &self.spots {
            if let Some(Topic::Events(log)) = self.topics.get(&spot.topic) {
                if log.next_of(spot.part) < *offset {
                    self.restored.missing += log.restore_to(spot.part, *offset).unwrap_or(0);
                }
            }
        }
        for (spot, offset) in &self.spots {
            if let (Some(Topic::Events(log)), Some(group)) = (self.topics.get(&spot.topic), &spot.group) {
                log.restore_group(group, spot.part, *offset);
            }
        }
    }
}
