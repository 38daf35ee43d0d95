//! A publish under the lock of its topic: record by record, to the server or into the spool.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Kept, LaneId, SpoolTopic, State, DIRECT};
use crate::broker::{Batch, Level, Outcome, Ticket};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind, Result};
use crate::hub::failover::lane::{Ask, Decision, Lane, LaneAction};
use crate::hub::failover::policy::{keeps, Failure, Room};
use crate::hub::failover::{Gate, Way};
use crate::hub::spool::disk::NewRow;
use crate::hub::spool::{After, Spool};
use crate::message::segment::record_bytes;
use crate::message::{Message, Record, Stamp, Writer};
use crate::metrics::Counter;

/// Records that go to the server at once share memory in pieces of this size.
pub(in crate::hub::spool) const SHARED_BYTES: usize = 4 * 1024;
/// Larger ones have their own.
pub(in crate::hub::spool) const SHARED_MAX: usize = SHARED_BYTES / 4;

/// Publishes in progress under the topic's lock.
pub(super) struct Publishing<'a> {
    pub own: &'a SpoolTopic,
    pub spool: &'a Spool,
    pub state: &'a mut State,
    pub batch: &'a Batch<'a>,
    /// Number of the first record.
    pub first: u64,
    pub gate: Gate,
    pub now: Moment,
    pub after: &'a mut After,
    /// The first record that was decided to be sent and is not handed over yet.
    pub run: Option<usize>,
}

impl Publishing<'_> {
    /// Decides on one record after the other, and hands over together those that go to the server one behind the
    /// other. Answers how many were taken, and why no more.
    pub fn all(&mut self) -> (usize, Option<Error>) {
        let mut index = 0;
        loop {
            let record = self.batch.records.get(index);
            let goes_direct = record.is_some_and(|record| self.goes_direct(record));
            // Before a record that goes another way: what becomes of those before it decides on it, too.
            if !goes_direct {
                match self.hand_over(index) {
                    Ok(()) => {}
                    Err((at, stopped)) if stopped.kind() == Kind::BackendDown => {
                        // Lost, and the gate does not say so yet.
                        self.gate.way = self.gate.way.max(Way::Spool);
                        index = at;
                        continue;
                    }
                    Err((at, stopped)) => return (at, Some(stopped)),
                }
            }
            let Some(record) = record else { return (index, None) };
            if let Err(stopped) = self.one(record, index, goes_direct) {
                return match self.hand_over(index) {
                    Ok(()) => (index, Some(stopped)),
                    Err((at, first)) => (at, Some(first)),
                };
            }
            index += 1;
        }
    }

    /// Whether a record will be sent as it is.
    fn goes_direct(&mut self, record: &Record<'_>) -> bool {
        if self.gate.way != Way::Open {
            return false;
        }
        let (key, gate) = (self.own.key_of(record), self.gate);
        let Some(id) = self.state.lanes.find(&key) else { return true };
        if self.state.lanes.get(id).is_some_and(|lane| lane.epoch() < gate.epoch) {
            self.own.with_lane(self.spool, self.state, id, gate, self.after, |lane, out| lane.meet(gate, out));
        }
        self.state.lanes.get(id).is_none_or(|lane| lane.backlog() == 0)
    }

    /// Decides on the record at `index`.
    fn one(&mut self, record: &Record<'_>, index: usize, goes_direct: bool) -> std::result::Result<(), Error> {
        let (own, spool, now, seq) = (self.own, self.spool, self.now, self.first + index as u64);
        let due = now.plus(Duration::from_millis(record.delay_ms.unsigned_abs()));
        let bytes = record_bytes(record);
        let ttl = match record.ttl_ms {
            1.. => now.plus(Duration::from_millis(record.ttl_ms.unsigned_abs())),
            _ => Moment::NEVER,
        };
        let mut ask = Ask {
            began: self.batch.since.unwrap_or(now),
            // Whoever waits asks once more at its deadline, as one that does not wait.
            deadline: if self.batch.since.is_some() { Moment::NEVER } else { now },
            require: self.batch.require,
            expires: ttl.min(spool.oldest(now)),
            due,
            room: if goes_direct { Room::Free } else { spool.room(own, bytes) },
        };
        if !goes_direct {
            own.server.check(record)?;
        }
        let message = self.message(record, seq, goes_direct)?;
        let (mut decision, mut id) = self.decide(record, &ask, seq);
        while decision == Decision::MakeRoom {
            // With nothing to drop it is full.
            let is_made = own.evict(spool, self.state, self.after);
            ask.room = if is_made { spool.room(own, bytes) } else { Room::Full };
            (decision, id) = self.decide(record, &ask, seq);
        }
        match decision {
            Decision::Send(_) => {
                let direct = self.state.lanes.get(id).map_or(0, Lane::epoch);
                let kept = Kept { direct, ..self.kept(message, id, index, due) };
                self.state.records.insert(seq, kept);
                self.run.get_or_insert(index);
                Ok(())
            }
            Decision::Append(_) => {
                let kept = self.kept(message, id, index, due);
                self.state.records.insert(seq, kept);
                let mut actions = std::mem::take(&mut self.state.actions);
                let row = NewRow { seq, maybe_dup: false, was_sent: false };
                own.append(spool, self.state, id, row, &mut actions, self.after);
                own.perform(spool, self.state, id, self.gate, &mut actions, self.after);
                self.state.actions = actions;
                Ok(())
            }
            Decision::Drop => {
                self.forget_idle(id);
                spool.metrics.add(Counter::OutageDropped, 1);
                let ticket = Ticket(self.batch.first_ticket.0 + index as u64);
                self.after.outcomes.push((ticket, Outcome::Confirmed(Level::None)));
                Ok(())
            }
            Decision::Fail(failure) => {
                self.forget_idle(id);
                Err(spool.failed(failure, own, bytes))
            }
            // Nothing waits here: whoever publishes is told of space, and when the gate or the lane has changed.
            Decision::WaitUntil(_) | Decision::MakeRoom => {
                self.forget_idle(id);
                Err(spool.failed(Failure::Full, own, bytes))
            }
        }
    }

    /// Asks the lane of a record; what a newer epoch brought back is done before.
    fn decide(&mut self, record: &Record<'_>, ask: &Ask, seq: u64) -> (Decision, LaneId) {
        let (own, numbers, gate) = (self.own, AtomicU64::new(seq), self.gate);
        let id = self.state.lanes.enter(own.key_of(record), || Lane::new(record.key.is_some(), &own.rules));
        let publish =
            |lane: &mut Lane, out: &mut Vec<LaneAction>| lane.publish(ask.began, gate, &own.rules, ask, &numbers, out);
        let decision = own.with_lane(self.spool, self.state, id, gate, self.after, publish);
        (decision.unwrap_or(Decision::Fail(Failure::Closing)), id)
    }

    fn forget_idle(&mut self, id: LaneId) {
        if self.state.lanes.get(id).is_some_and(Lane::is_idle) {
            self.state.forget(id);
        }
    }

    /// The copy that is kept, where the route keeps any.
    fn message(&mut self, record: &Record<'_>, seq: u64, goes_direct: bool) -> Result<Option<Message>> {
        if !keeps(self.own.rules.on_outage) {
            return Ok(None);
        }
        let (pool, topic, prefix) = (&self.spool.pool, &self.own.topic, self.spool.context.id_prefix);
        let stamp = Stamp { seq, now_us: self.batch.now_us };
        let made = match goes_direct && record_bytes(record) <= SHARED_MAX {
            true => {
                let shared = &mut self.state.shared;
                let append = |writer: &mut Writer| writer.append(record, stamp).and_then(|place| writer.message(place));
                shared.as_mut().and_then(append).or_else(|| {
                    *shared = Writer::new(pool, topic, prefix, SHARED_BYTES);
                    shared.as_mut().and_then(append)
                })
            }
            false => Message::alone(pool, topic, prefix, record, stamp),
        };
        let none = || Error::new(Kind::Resources, "the system has no memory for a record").with_fate(Fate::NotSent);
        made.map(Some).ok_or_else(none)
    }

    fn kept(&self, message: Option<Message>, lane: LaneId, index: usize, due: Moment) -> Kept {
        Kept::new(lane, message, Some(Ticket(self.batch.first_ticket.0 + index as u64)), due)
    }

    /// Hands over the records from the run's first up to `end`; answers those that were not taken and why.
    fn hand_over(&mut self, end: usize) -> std::result::Result<(), (usize, Error)> {
        let Some(from) = self.run.take() else { return Ok(()) };
        let Some(records) = self.batch.records.get(from..end) else { return Ok(()) };
        let first = self.first + from as u64;
        let numbers = AtomicU64::new(first);
        let batch = Batch {
            records,
            first_ticket: Ticket(self.own.base | DIRECT | first),
            numbers: &numbers,
            now_us: self.batch.now_us,
            require: None,
            since: None,
        };
        let taken = self.own.server.publish(&batch);
        for index in (taken.count..records.len()).rev() {
            let seq = first + index as u64;
            let Some(kept) = self.state.records.remove(&seq) else { continue };
            if let Some(lane) = self.state.lanes.get_mut(kept.lane) {
                lane.not_taken(seq);
            }
            self.forget_idle(kept.lane);
        }
        match taken.stopped {
            Some(stopped) => {
                if stopped.kind() == Kind::Full {
                    self.spool.note_full(self.after);
                }
                Err((from + taken.count, stopped))
            }
            None if taken.count < records.len() => {
                Err((from + taken.count, Error::internal("a backend stopped without a reason")))
            }
            None => Ok(()),
        }
    }
}
