//! A spool on disk: what an earlier process kept is taken over, and what is kept counts once the disk says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::topic::{Kept, LaneId, LaneKey, SpoolTopic, State, SHARED_MAX, SHORT_BACKLOG};
use super::{After, Spool};
use crate::broker::embedded::disk::{SpoolSink, SpooledRecord, SpooledTopic, Told};
use crate::broker::BackendEvent;
use crate::clock::{Clock, Moment};
use crate::error::Fate;
use crate::hub::failover::lane::{Lane, LaneAction, Recovered};
use crate::hub::failover::{Gate, Way};
use crate::metrics::Counter;

impl Spool {
    /// Takes over what an earlier process kept for this server.
    pub fn adopt(self: &Arc<Self>) {
        let Some(disk) = &self.disk else { return };
        for SpooledTopic { rows, records } in disk.take_spooled(self.server.kind()) {
            let (name, count) = (rows.name().to_owned(), records.len());
            match self.topic(&name, rows.kind(), Some(rows)) {
                Ok(topic) => topic.restore(self, records),
                Err(failed) => {
                    let text = format!("{count} messages of `{name}` that were kept stay on disk: {failed}");
                    self.sink.event(BackendEvent::Warned(text));
                }
            }
        }
        self.report();
    }
}

/// A record that is kept from now on.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewRow {
    pub seq: u64,
    /// It may be at the server.
    pub maybe_dup: bool,
    /// It was in flight: nobody else has it any more.
    pub was_sent: bool,
}

impl SpoolTopic {
    /// A record is kept from now on.
    pub(super) fn append(
        &self,
        spool: &Spool,
        state: &mut State,
        id: LaneId,
        NewRow { seq, maybe_dup, was_sent }: NewRow,
        actions: &mut Vec<LaneAction>,
        after: &mut After,
    ) {
        if was_sent {
            // It may stay for long, and what it shares its memory with goes.
            state.shared = None;
            let message = state.records.get_mut(&seq).and_then(|kept| kept.message.as_mut());
            let message = message.filter(|message| message.size() <= SHARED_MAX);
            // Without memory for it, it stays where it is.
            if let Some((message, own)) =
                message.and_then(|message| message.apart(&spool.pool).map(|own| (message, own)))
            {
                *message = own;
            }
        }
        self.put_in(spool, state.bytes_of(seq));
        spool.metrics.add(Counter::Spooled, 1);
        after.counts = true;
        after.local |= self.is_local();
        let Some(lane) = state.lanes.get_mut(id) else { return };
        let (rows, kept) = (self.rows(), state.records.get_mut(&seq));
        if let (Some(rows), Some(kept @ Kept { message: Some(_), .. })) = (rows, kept) {
            kept.handed = maybe_dup;
            let due_us = wall_us(&spool.context.clock, kept.due);
            let is_taken = kept.message.as_ref().is_some_and(|own| rows.append(own, due_us, maybe_dup, was_sent));
            if !is_taken {
                lane.append_failed(seq, maybe_dup, actions);
            }
            return;
        }
        match spool.is_closing() {
            // It would end with the process, and nobody would hear of it.
            true => lane.append_failed(seq, maybe_dup, actions),
            false => {
                lane.appended(seq, spool.level(), actions);
                state.has_come(seq);
            }
        }
    }

    /// A record may be at the server from now on.
    pub(super) fn mark(
        &self,
        spool: &Spool,
        state: &mut State,
        id: LaneId,
        seq: u64,
        gate: Gate,
        out: (&mut Vec<LaneAction>, &mut After),
    ) {
        let (clock, (actions, after)) = (&spool.context.clock, out);
        let asked = self.rows().zip(state.records.get_mut(&seq)).map(|(rows, kept)| {
            kept.handed = true;
            rows.mark(seq, kept.tries, wall_us(clock, kept.due))
        });
        // In memory nothing outlives this process, so there is nothing that a mark could be missing from.
        if let (Some(lane), Some(false) | None) = (state.lanes.get_mut(id), asked) {
            lane.marked(clock.now(), seq, asked.is_none(), gate, actions);
        }
        if asked == Some(false) {
            self.on_probe(spool, seq, None, true, after);
        }
    }

    /// A record is not to be sent, now or after a restart.
    pub(super) fn withdraw(&self, state: &mut State, id: LaneId, seq: u64, actions: &mut Vec<LaneAction>) {
        let asked = self.rows().map(|rows| rows.withdraw(seq));
        if let (Some(lane), Some(false) | None) = (state.lanes.get_mut(id), asked) {
            lane.withdrawn(seq, asked.is_none(), actions);
        }
    }

    /// What workers of this process, or groups, have made of a record. The disk does not have which groups: a later
    /// process sends it as a second copy, which it is to them.
    pub(super) fn note(&self, clock: &Clock, state: &mut State, seq: u64, (attempt, handled): (u16, u64)) {
        if let (Some(rows), Some(kept)) = (self.rows(), state.records.get_mut(&seq)) {
            if handled.count_ones() > 1 && attempt == kept.tries {
                // As it is noted for the first group.
                return;
            }
            kept.tries = attempt;
            rows.note(seq, attempt, kept.handed || handled != 0, wall_us(clock, kept.due));
        }
    }

    fn restore(&self, spool: &Spool, records: Vec<SpooledRecord>) {
        let clock = &spool.context.clock;
        let mut state = self.lock();
        let mut lanes: HashMap<LaneId, Vec<Recovered>> = HashMap::new();
        for SpooledRecord { message, due_us, tries, maybe_dup } in records {
            let seq = message.seq();
            let key = LaneKey::of(self.kind(), message.key(), message.priority());
            let keyed = key.is_keyed();
            let lane = state.lanes.enter(key, || Lane::new(keyed, &self.rules));
            let due = moment(clock, due_us);
            let found = Recovered {
                seq,
                maybe_dup,
                attempt: tries,
                expires: message
                    .expires_us()
                    .map_or(Moment::NEVER, |at| moment(clock, at))
                    .min(spool.oldest(clock.now())),
                due,
                handled: 0,
            };
            self.put_in(spool, message.size());
            // Kept by this process, as its counters tell.
            spool.metrics.add(Counter::Spooled, 1);
            state.records.insert(seq, Kept::new(lane, Some(message), None, due).written(tries, maybe_dup));
            lanes.entry(lane).or_default().push(found);
        }
        for (id, found) in lanes {
            if let Some(lane) = state.lanes.get_mut(id) {
                *lane = Lane::recover(lane.is_keyed(), &self.rules, found.into_iter());
            }
        }
    }
}

/// A moment as wall time; 0: it is past.
fn wall_us(clock: &Clock, at: Moment) -> i64 {
    match at.since(clock.now()).as_micros() {
        0 => 0,
        left => clock.wall_us().saturating_add(i64::try_from(left).unwrap_or(i64::MAX)),
    }
}

/// A wall time of an earlier process, on this one's clock.
fn moment(clock: &Clock, wall_us: i64) -> Moment {
    let left = wall_us.saturating_sub(clock.wall_us());
    clock.now().plus(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
}

impl SpoolSink for SpoolTopic {
    fn told(&self, told: Vec<(u64, Told)>) {
        let Some(spool) = self.spool() else { return };
        let mut after = After { local: self.is_local(), ..After::default() };
        {
            let mut state = self.lock();
            let (gate, now) = (self.gate(&spool), spool.context.clock.now());
            let goes_on = gate.way == Way::Open && !spool.is_paused();
            for (seq, told) in told {
                let Some(kept) = state.records.get_mut(&seq) else { continue };
                if let Told::NotWritten(why) = &told {
                    kept.why = Some(why.clone());
                }
                let id = kept.lane;
                if matches!(told, Told::Marked(false)) {
                    // It says nothing of the server: with nothing that can be sent, the connection is all to go by.
                    self.on_probe(&spool, seq, None, true, &mut after);
                }
                if matches!(told, Told::Written) {
                    state.has_come(seq);
                }
                self.with_lane(&spool, &mut state, id, gate, &mut after, |lane, out| match told {
                    Told::Written => {
                        lane.appended(seq, spool.level(), out);
                        // Or a lane that is nearly home would wait for the next turn of the ramp.
                        if goes_on && lane.backlog() <= SHORT_BACKLOG {
                            lane.forward(now, gate, SHORT_BACKLOG as u64, out);
                        }
                    }
                    Told::NotWritten(why) => lane.append_failed(seq, why.fate() == Some(Fate::Unknown), out),
                    Told::Marked(is_kept) => lane.marked(now, seq, is_kept, gate, out),
                    Told::Removed(is_kept) => lane.withdrawn(seq, is_kept, out),
                });
            }
        }
        spool.finish(after);
    }
}
