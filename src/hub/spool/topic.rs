//! A topic whose messages are kept while its server is away: its lanes, and the records that are not settled.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use self::publishing::Publishing;
use self::sending::{ending_of, Going, SENT_AT_ONCE};
use super::disk::NewRow;
use super::standing::Standing;
use super::{is_good, After, Probed, Spool, FLIGHT_BITS};
use crate::broker::embedded::disk::{SpoolRows, SpoolSink};
use crate::broker::{Batch, Destination, Outcome, Taken, Wake};
use crate::clock::Moment;
use crate::config::OnOutage;
use crate::error::{Error, Fate, Kind};
use crate::hub::failover::lane::{Completed, Fate as LaneFate, Lane, LaneAction, Rules, Verdict as Settled};
use crate::hub::failover::{Ending, Gate, Way};
use crate::message::{Message, Record, TopicKind};
use crate::sync::{Mutex, MutexGuard};

mod publishing;
mod sending;
mod showing;
mod state;

pub(super) use publishing::{SHARED_BYTES, SHARED_MAX};
use state::Flight;
pub(super) use state::{Kept, LaneId, LaneKey, State};

/// A lane with no more records than this to forward is nearly home.
pub(super) const SHORT_BACKLOG: usize = 256;

/// Marks a ticket by the number of its record, which was handed over without having been stored.
const DIRECT: u64 = 1 << (FLIGHT_BITS - 1);

/// A topic of a [`Spool`].
pub(super) struct SpoolTopic {
    spool: Weak<Spool>,
    topic: Arc<str>,
    kind: TopicKind,
    pub(super) rules: Rules,
    pub(super) server: Arc<dyn Destination>,
    /// Its number, in the upper bits of tickets.
    base: u64,
    own: Weak<SpoolTopic>,
    /// What is kept of it on disk, where the spool has one.
    rows: Option<Arc<SpoolRows>>,
    pub standing: Standing,
    /// Records kept, and those of them that were handed over.
    kept: AtomicU64,
    kept_bytes: AtomicU64,
    flying: AtomicU64,
    /// Records make room for others, since it was last empty.
    evicts: AtomicBool,
    /// The server's form has a place for what is told with an event.
    can_tell: OnceLock<bool>,
    state: Mutex<State>,
}

/// A copy of a record at the server's client that has ended.
pub(super) struct EndedCopy {
    /// The record.
    pub seq: u64,
    /// The epoch of the copy; `None`: its record is settled, and nobody knows any more.
    pub epoch: Option<u64>,
    /// The server took it, or refused it.
    pub good: bool,
}

/// A kept task that a worker of this process is handed.
pub(super) struct Leased {
    pub seq: u64,
    pub message: Message,
    /// How often workers have failed.
    pub tries: u16,
    /// One has had it before.
    pub again: bool,
}

impl SpoolTopic {
    pub fn new(
        spool: &Arc<Spool>,
        topic: &str,
        kind: TopicKind,
        server: Arc<dyn Destination>,
        base: u64,
        rows: Option<Arc<SpoolRows>>,
    ) -> Arc<Self> {
        let rules = Rules {
            kind,
            on_outage: spool.routes.on_outage(topic),
            strict: false,
            spool_level: spool.level(),
            suspect_wait: spool.suspect_wait,
            blocked_wait: spool.blocked_wait,
            short_backlog: SHORT_BACKLOG,
            one_copy: server.keeps_copies(),
        };
        let standing = Standing::new(spool.probing.clone(), spool.context.id_prefix ^ base);
        let new_rows = || Some(spool.disk.as_ref()?.spool_rows(spool.server.kind(), topic, kind));
        let rows = rows.or_else(new_rows);
        let (spool, topic) = (Arc::downgrade(spool), Arc::from(topic));
        let (kept, kept_bytes, flying) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new_cyclic(|own: &Weak<Self>| {
            if let Some(rows) = &rows {
                rows.tell(Weak::clone(own) as Weak<dyn SpoolSink>);
            }
            Self {
                spool,
                topic,
                kind,
                rules,
                server,
                base,
                own: Weak::clone(own),
                rows,
                standing,
                kept,
                kept_bytes,
                flying,
                evicts: AtomicBool::new(false),
                can_tell: OnceLock::new(),
                state: Mutex::default(),
            }
        })
    }

    fn key_of(&self, record: &Record<'_>) -> LaneKey {
        LaneKey::of(self.kind, record.key, record.priority)
    }

    pub(super) fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.upgrade()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Its place in tickets.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// As [`Spool::on_probe`].
    pub(super) fn on_probe(&self, spool: &Spool, seq: u64, epoch: Option<u64>, good: bool, after: &mut After) {
        if let Some(own) = self.own.upgrade() {
            spool.on_probe(&own, seq, epoch, good, after);
        }
    }

    pub(super) fn kind(&self) -> TopicKind {
        self.kind
    }

    pub(super) fn rows(&self) -> Option<&Arc<SpoolRows>> {
        self.rows.as_ref()
    }

    /// A record has a place in the spool, or has it no more.
    pub(super) fn put_in(&self, spool: &Spool, bytes: usize) {
        spool.put_in(bytes);
        self.kept.fetch_add(1, Ordering::AcqRel);
        self.kept_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
    }

    fn take_out(&self, spool: &Spool, bytes: usize) {
        spool.take_out(bytes);
        self.kept_bytes.fetch_sub(bytes as u64, Ordering::AcqRel);
        if self.kept.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.evicts.store(false, Ordering::Release);
        }
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Acquire)
    }

    /// Whether a record makes room for the first time since the topic was last empty.
    pub(super) fn begins_to_evict(&self) -> bool {
        !self.evicts.swap(true, Ordering::AcqRel)
    }

    /// Whether workers and groups of this process may have what is kept.
    pub(super) fn is_local(&self) -> bool {
        self.rules.on_outage == OnOutage::Local
    }

    /// The gate, read under the topic's lock.
    pub(super) fn gate(&self, spool: &Spool) -> Gate {
        Gate::of(spool.driver.word(), self.standing.word())
    }

    /// Lanes that are wanted, and the number of their oldest record.
    pub fn waiting(self: Arc<Self>, is_wanted: impl Fn(&Lane) -> bool) -> Vec<(u64, Arc<Self>, LaneId)> {
        let state = self.state.lock();
        let waiting = state.lanes.iter().filter(|(_, lane)| is_wanted(lane));
        waiting.filter_map(|(id, lane)| Some((lane.oldest()?, Arc::clone(&self), id))).collect()
    }

    pub fn name(&self) -> &str {
        &self.topic
    }

    /// Hands up to `max` kept tasks to a worker of this process.
    pub fn lease(&self, spool: &Spool, max: usize) -> Vec<Leased> {
        let mut after = After::default();
        let mut leased = Vec::new();
        if self.is_local() && self.kind == TopicKind::Task && max > 0 {
            let mut state = self.state.lock();
            let (gate, now) = (self.gate(spool), spool.context.clock.now());
            let waiting = state.lanes.iter().filter(|(_, own)| own.may_lease(now));
            let ids: Vec<LaneId> = waiting.map(|(id, _)| id).take(max).collect();
            for id in ids {
                let step = |lane: &mut Lane, out: &mut Vec<LaneAction>| lane.lease(now, gate, &self.rules, out);
                while leased.len() < max {
                    let Some(found) = self.with_lane(spool, &mut state, id, gate, &mut after, step).flatten() else {
                        break;
                    };
                    let Some(kept) = state.records.get_mut(&found.seq) else { continue };
                    let again = std::mem::replace(&mut kept.leased, true);
                    let (seq, tries) = (found.seq, found.attempt);
                    leased.extend(kept.message.clone().map(|message| Leased { seq, message, tries, again }));
                }
            }
        }
        // Whoever fetches holds locks of its own.
        spool.finish_later(after);
        leased
    }

    /// What a worker of this process made of its task.
    pub fn settle(&self, spool: &Spool, seq: u64, verdict: Settled) {
        let mut after = After::default();
        {
            let mut state = self.state.lock();
            let Some(kept) = state.records.get_mut(&seq) else { return };
            if let Settled::Failed(at) = verdict {
                kept.due = at;
            }
            let (id, gate) = (kept.lane, self.gate(spool));
            self.with_lane(spool, &mut state, id, gate, &mut after, |lane, out| lane.settle(seq, verdict, out));
        }
        // It has made room, or can be had again, or lets the next of its key go.
        after.local = true;
        spool.finish(after);
    }

    /// Records kept, and those of them that were handed over.
    pub fn counts(&self) -> (u64, u64) {
        (self.kept.load(Ordering::Acquire), self.flying.load(Ordering::Acquire))
    }

    pub fn oldest_flight(&self) -> Option<Moment> {
        self.state.lock().lanes.iter().filter_map(|(_, lane)| lane.oldest_flight()).min()
    }

    /// Forwards up to `budget` records of a lane; answers how many are on their way.
    pub fn forward(&self, spool: &Spool, id: LaneId, budget: u64, after: &mut After) -> u64 {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let used = self.with_lane(spool, &mut state, id, gate, after, |lane, out| lane.forward(now, gate, budget, out));
        used.unwrap_or_default()
    }

    /// Sends the head of a lane, though the gate is shut, or has it marked for that; `note` is told which it is, before.
    /// Answers whether there is one.
    pub(super) fn probe(&self, spool: &Spool, id: LaneId, after: &mut After, note: impl FnOnce(Probed)) -> bool {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let sent = self.with_lane(spool, &mut state, id, gate, after, |lane, out| {
            let head = lane.probe(now, gate, out);
            if let Some(probe) = head {
                note(Probed { base: self.base, probe });
            }
            head
        });
        sent.flatten().is_some()
    }

    /// Takes over a newer epoch in every lane, and drops what has expired.
    pub fn sweep(&self, spool: &Spool, after: &mut After) {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        for id in state.lanes.ids() {
            self.with_lane(spool, &mut state, id, gate, after, |lane, out| {
                lane.meet(gate, out);
                lane.expire(now, out);
            });
        }
    }

    /// Publishes that wait for their server's word need not wait for it any longer.
    pub fn end_waiting(&self, spool: &Spool, after: &mut After) {
        let mut state = self.state.lock();
        let is_told_soon = |seq: u64, id: LaneId| state.lanes.get(id).is_some_and(|lane| lane.is_being_stored(seq));
        let waits = |seq: u64, kept: &Kept| kept.ticket.is_some() && !is_told_soon(seq, kept.lane);
        let waiting = state.records.iter().filter(|(seq, kept)| waits(**seq, kept));
        let waiting: Vec<(u64, LaneId)> = waiting.map(|(seq, kept)| (*seq, kept.lane)).collect();
        let gate = self.gate(spool);
        for (seq, id) in waiting {
            self.with_lane(spool, &mut state, id, gate, after, |lane, out| lane.timed_out(seq, out));
        }
    }

    /// How flights ended; answers which copies those were, and whether it says well of the server.
    pub(super) fn on_outcomes(
        &self,
        spool: &Spool,
        outcomes: impl Iterator<Item = (u64, Outcome)>,
        after: &mut After,
    ) -> Vec<EndedCopy> {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let ended = outcomes
            .filter_map(|(flight, outcome)| self.on_outcome(spool, &mut state, (gate, now), flight, outcome, after));
        ended.collect()
    }

    fn on_outcome(
        &self,
        spool: &Spool,
        state: &mut State,
        (gate, now): (Gate, Moment),
        flight: u64,
        outcome: Outcome,
        after: &mut After,
    ) -> Option<EndedCopy> {
        let of_spool = match flight & DIRECT {
            0 => Some(state.flights.remove(&flight)?),
            _ => None,
        };
        after.counts |= of_spool.is_some();
        let seq = of_spool.as_ref().map_or(flight & !DIRECT, |flight| flight.seq);
        let good = is_good(&outcome);
        let (ending, why) = match outcome {
            Outcome::Confirmed(_) => (Ending::Confirmed, None),
            Outcome::Refused(why) => (Ending::Refused, Some(why)),
            Outcome::NotSent(why) => (Ending::NotSent, Some(why)),
            Outcome::Unknown(why) => (Ending::Unknown, Some(why)),
        };
        let Some(kept) = state.records.get_mut(&seq) else {
            return Some(EndedCopy { seq, epoch: of_spool.map(|flight| flight.epoch), good });
        };
        if why.is_some() {
            kept.why = why;
        }
        let epoch = of_spool.map_or(kept.direct, |flight| flight.epoch);
        let (id, goes_on) = (kept.lane, gate.way == Way::Open && ending == Ending::Confirmed);
        self.with_lane(spool, state, id, gate, after, |lane, out| {
            lane.complete(seq, epoch, ending, &self.rules, out);
            // The copy that a probe awaited is over, and shows nothing of the server: another one does.
            if matches!(ending, Ending::NotSent | Ending::Unknown) && spool.is_awaited(self, seq, epoch) {
                lane.probe(now, gate, out);
            }
            // What came meanwhile goes at once, or a busy lane would never be direct again.
            if goes_on && (1..=SHORT_BACKLOG).contains(&lane.backlog()) && !spool.is_paused() {
                lane.forward(now, gate, SHORT_BACKLOG as u64, out);
            }
        });
        Some(EndedCopy { seq, epoch: Some(epoch), good })
    }

    /// One step of a lane, and what follows from it.
    pub(super) fn with_lane<R>(
        &self,
        spool: &Spool,
        state: &mut State,
        id: LaneId,
        gate: Gate,
        after: &mut After,
        step: impl FnOnce(&mut Lane, &mut Vec<LaneAction>) -> R,
    ) -> Option<R> {
        let lane = state.lanes.get_mut(id)?;
        let mut actions = std::mem::take(&mut state.actions);
        let before = lane.forwarded();
        let result = step(lane, &mut actions);
        let (mut now, mut is_idle) = (lane.forwarded(), lane.is_idle());
        // A publish that goes direct asks for nothing more.
        if !actions.is_empty() {
            self.perform(spool, state, id, gate, &mut actions, after);
            let lane = state.lanes.get(id);
            (now, is_idle) = lane.map_or((0, false), |lane| (lane.forwarded(), lane.is_idle()));
        }
        state.actions = actions;
        if now != before {
            for counter in [&spool.flying, &self.flying] {
                counter.fetch_add((now as u64).wrapping_sub(before as u64), Ordering::AcqRel);
            }
            after.counts = true;
        }
        if is_idle {
            state.forget(id);
        }
        Some(result)
    }

    fn perform(
        &self,
        spool: &Spool,
        state: &mut State,
        id: LaneId,
        gate: Gate,
        actions: &mut Vec<LaneAction>,
        after: &mut After,
    ) {
        let mut stopped: Option<Error> = None;
        let (mut next, mut removed) = (0, None);
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            if state.lanes.get(id).is_none() {
                break;
            }
            match action {
                LaneAction::Append { seq, maybe_dup } => {
                    let was_sent = true;
                    self.append(spool, state, id, NewRow { seq, maybe_dup, was_sent }, actions, after);
                }
                LaneAction::Mark { seq } => self.mark(spool, state, id, seq, gate, (actions, after)),
                LaneAction::Withdraw { seq } => self.withdraw(state, id, seq, actions),
                LaneAction::Note { seq, attempt, handled } => {
                    self.note(&spool.context.clock, state, seq, (attempt, handled));
                }
                LaneAction::Send { .. } => {
                    let run: Vec<Going> =
                        actions.iter().skip(next - 1).map_while(Going::of).take(SENT_AT_ONCE).collect();
                    let (sent, why) = match &stopped {
                        // What follows one that was not taken must not pass it.
                        Some(why) => (0, Some(Error::clone(why))),
                        None => self.send(spool, state, &run),
                    };
                    next += sent - usize::from(why.is_none());
                    if let (Some(why), Some(Going { seq, epoch, .. })) = (why, run.get(sent)) {
                        let may_follow = self.not_sent(spool, state, id, (*seq, *epoch), &why, (actions, after));
                        if !may_follow {
                            stopped.get_or_insert(why);
                        }
                    }
                    after.counts = true;
                }
                LaneAction::Remove { seq } => {
                    self.remove(spool, state, seq);
                    (after.counts, after.wakes, removed) = (true, true, Some(seq));
                }
                LaneAction::Complete { seq, completed } => {
                    // It was kept while its publish waited: the publish is told, and no fate.
                    if removed == Some(seq) {
                        spool.count(fate_of(completed));
                    }
                    self.complete(state, id, seq, completed, after);
                }
                LaneAction::Fate { seq, fate } => self.end(spool, state, seq, fate, after),
                LaneAction::DeadLetter { seq } => self.dies(spool, state, seq, after),
                LaneAction::Alarm { .. } => {}
                LaneAction::Wake => after.wakes = true,
            }
        }
        actions.clear();
    }

    /// A record was not taken by the server's client; answers whether what follows it may go.
    fn not_sent(
        &self,
        spool: &Spool,
        state: &mut State,
        id: LaneId,
        (seq, epoch): (u64, u64),
        why: &Error,
        (actions, after): (&mut Vec<LaneAction>, &mut After),
    ) -> bool {
        let ending = ending_of(why);
        if let Some(kept) = state.records.get_mut(&seq) {
            kept.why = Some(why.clone());
        }
        if let Some(lane) = state.lanes.get_mut(id) {
            lane.complete(seq, epoch, ending, &self.rules, actions);
        }
        if why.kind() == Kind::Full {
            // That says nothing of the server.
            spool.note_full(after);
        } else {
            self.on_probe(spool, seq, Some(epoch), ending == Ending::Refused, after);
        }
        ending != Ending::NotSent
    }

    /// A record leaves the spool, and the disk.
    fn remove(&self, spool: &Spool, state: &State, seq: u64) {
        self.take_out(spool, state.bytes_of(seq));
        let is_dead = state.records.get(&seq).is_some_and(|kept| kept.is_dead);
        if let Some(rows) = self.rows.as_ref().filter(|_| !is_dead) {
            rows.remove(seq);
        }
    }

    /// Tells the publish of a record how it ended.
    fn complete(&self, state: &mut State, id: LaneId, seq: u64, completed: Completed, after: &mut After) {
        // It may stay all the same: kept, or on its way.
        let stays = state.lanes.get(id).is_some_and(|lane| lane.has(seq));
        let (ticket, why) = match stays {
            true => (state.records.get_mut(&seq).and_then(|kept| kept.ticket.take()), None),
            false => state.records.remove(&seq).map_or((None, None), |kept| (kept.ticket, kept.why)),
        };
        let Some(ticket) = ticket else { return };
        let why = |text: &str, kind| why.clone().unwrap_or_else(|| Error::new(kind, text));
        let outcome = match completed {
            Completed::Reached(level) => Outcome::Confirmed(level),
            Completed::Refused => Outcome::Refused(why("the server refused it", Kind::Refused)),
            Completed::NotSent => Outcome::NotSent(why("it was not sent", Kind::BackendDown)),
            Completed::Unknown => Outcome::Unknown(unknown(why("it was not confirmed", Kind::OutcomeUnknown))),
            Completed::Expired => {
                Outcome::NotSent(Error::new(Kind::Timeout, "its time to live was over before the server was back"))
            }
        };
        after.outcomes.push((ticket, outcome));
    }

    /// The end of a record whose publish was told before.
    fn end(&self, spool: &Spool, state: &mut State, seq: u64, fate: LaneFate, after: &mut After) {
        let ended = state.records.remove(&seq).and_then(|kept| self.ended(spool, kept.message, fate, kept.why));
        after.fates.extend(ended);
        spool.count(fate);
    }
}

/// What became of a record of the spool whose publish ended so.
fn fate_of(completed: Completed) -> LaneFate {
    match completed {
        Completed::Reached(_) => LaneFate::Confirmed,
        Completed::Refused => LaneFate::Refused,
        Completed::Expired => LaneFate::Expired,
        Completed::NotSent | Completed::Unknown => LaneFate::Unknown,
    }
}

/// The spool's word for an outcome that is not known.
fn unknown(why: Error) -> Error {
    match why.kind() {
        Kind::OutcomeUnknown => why,
        _ => Error::new(Kind::OutcomeUnknown, "it was sent, and not confirmed").caused_by(why),
    }
}

impl Destination for SpoolTopic {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let Some(spool) = self.spool.upgrade() else {
            let closed = Error::new(Kind::Closed, "the hub is closed").with_fate(Fate::NotSent);
            return Taken { count: 0, first_seq: 0, level: None, stopped: Some(closed) };
        };
        let mut after = After::default();
        let taken = {
            let mut state = self.state.lock();
            let (gate, now) = (self.gate(&spool), spool.context.clock.now());
            let first = batch.number(batch.records.len());
            let (own, spool, state, after) = (self, &*spool, &mut *state, &mut after);
            let mut publishing = Publishing { own, spool, state, batch, first, gate, now, after, run: None };
            let (count, stopped) = publishing.all();
            Taken { count, first_seq: first, level: None, stopped }
        };
        if after.server_full {
            let spool: Weak<Spool> = Arc::downgrade(&spool);
            self.server.on_space(spool);
        }
        spool.finish(after);
        taken
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        // Where it is the server's client that is full, or the disk, that tells the spool.
        if let Some(spool) = self.spool.upgrade() {
            spool.space.lock().add(waker);
            if let Some(disk) = &spool.disk {
                let spool: Weak<Spool> = Arc::downgrade(&spool);
                disk.wait_for_room(&(spool as Weak<dyn Wake>));
            }
        }
    }
}

impl fmt::Debug for SpoolTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolTopic").field("topic", &self.topic).field("rules", &self.rules).finish_non_exhaustive()
    }
}
