//! A topic whose messages are kept while its server is away: its lanes, and the records that are not settled.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use self::publishing::Publishing;
use super::standing::Standing;
use super::{After, Dead, Spool};
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::clock::Moment;
use crate::config::OnOutage;
use crate::error::{Error, Fate, Kind, Result};
use crate::hub::failover::lane::{Completed, Fate as LaneFate, Lane, LaneAction, Rules, Verdict as Settled};
use crate::hub::failover::{Ending, Gate, Way};
use crate::message::{Message, Record, TopicKind};
use crate::metrics::Counter;
use crate::numbers::NumberMap;
use crate::sync::Mutex;

mod publishing;

/// A lane with no more records than this to forward is nearly home.
const SHORT_BACKLOG: usize = 256;

/// What keeps an order of its own: a key, of tasks with a priority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    key: Option<SmallVec<[u8; 24]>>,
    priority: u8,
}

/// A topic of a [`Spool`].
pub(super) struct SpoolTopic {
    spool: Weak<Spool>,
    topic: Arc<str>,
    kind: TopicKind,
    rules: Rules,
    server: Arc<dyn Destination>,
    /// Its number, in the upper bits of tickets.
    base: u64,
    pub standing: Standing,
    /// Records kept, and those of them that were handed over.
    kept: AtomicU64,
    flying: AtomicU64,
    state: Mutex<State>,
}

/// Guarded together: what is decided about a record, and its hand-over.
#[derive(Default)]
struct State {
    lanes: HashMap<LaneKey, Lane>,
    records: NumberMap<Kept>,
    flights: NumberMap<Flight>,
    next_flight: u64,
    /// Reused.
    actions: Vec<LaneAction>,
}

impl State {
    fn bytes_of(&self, seq: u64) -> usize {
        self.records.get(&seq).and_then(|kept| kept.message.as_ref()).map_or(0, Message::size)
    }
}

/// A record that is not settled.
struct Kept {
    lane: LaneKey,
    /// `None` where the route does not keep it.
    message: Option<Message>,
    /// Of the publish that has not been told yet.
    ticket: Option<Ticket>,
    /// When it is due, if it was delayed.
    due: Moment,
    /// Why it was not confirmed, as far as it is known.
    why: Option<Error>,
}

/// A record at the server's client.
struct Flight {
    seq: u64,
    epoch: u64,
    /// It came out of the spool.
    forwarded: bool,
}

impl SpoolTopic {
    pub fn new(
        spool: &Arc<Spool>,
        topic: &str,
        kind: TopicKind,
        on_outage: OnOutage,
        server: Arc<dyn Destination>,
        base: u64,
    ) -> Arc<Self> {
        let rules = Rules {
            kind,
            on_outage,
            strict: false,
            spool_level: Level::Memory,
            suspect_wait: spool.suspect_wait,
            blocked_wait: spool.blocked_wait,
            short_backlog: SHORT_BACKLOG,
        };
        let standing = Standing::new(spool.probing.clone(), spool.context.id_prefix ^ base);
        let (spool, topic) = (Arc::downgrade(spool), Arc::from(topic));
        let (kept, flying) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { spool, topic, kind, rules, server, base, standing, kept, flying, state: Mutex::default() })
    }

    fn key_of(&self, record: &Record<'_>) -> LaneKey {
        LaneKey {
            key: record.key.map(SmallVec::from_slice),
            priority: if self.kind == TopicKind::Task { record.priority } else { 0 },
        }
    }

    /// Whether workers of this process may have what is kept.
    fn is_local(&self) -> bool {
        self.kind == TopicKind::Task && self.rules.on_outage == OnOutage::Local
    }

    /// The gate, read under the topic's lock.
    fn gate(&self, spool: &Spool) -> Gate {
        Gate::of(spool.driver.word(), self.standing.word())
    }

    /// Lanes with something to forward, and the number of their oldest record.
    pub fn waiting(self: Arc<Self>) -> Vec<(u64, Arc<Self>, LaneKey)> {
        let state = self.state.lock();
        let waiting = state.lanes.iter().filter(|(_, lane)| lane.backlog() > 0);
        waiting.filter_map(|(key, lane)| Some((lane.oldest()?, Arc::clone(&self), key.clone()))).collect()
    }

    pub fn name(&self) -> &str {
        &self.topic
    }

    /// Hands up to `max` kept tasks to a worker of this process: their numbers, and how often such have tried them.
    pub fn lease(&self, spool: &Spool, max: usize) -> Vec<(u64, Message, u16)> {
        let mut after = After::default();
        let mut leased = Vec::new();
        if self.is_local() && max > 0 {
            let mut state = self.state.lock();
            let (gate, now) = (self.gate(spool), spool.context.clock.now());
            let waiting = state.lanes.iter().filter(|(_, own)| own.backlog() > own.forwarded());
            let keys: Vec<LaneKey> = waiting.map(|(key, _)| key.clone()).collect();
            for key in keys {
                let step = |lane: &mut Lane, out: &mut Vec<LaneAction>| lane.lease(now, gate, &self.rules, out);
                while leased.len() < max {
                    let Some(found) = self.with_lane(spool, &mut state, &key, gate, &mut after, step).flatten() else {
                        break;
                    };
                    let message = state.records.get(&found.seq).and_then(|kept| kept.message.clone());
                    leased.extend(message.map(|message| (found.seq, message, found.attempt)));
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
            let Some(key) = state.records.get(&seq).map(|kept| kept.lane.clone()) else { return };
            let gate = self.gate(spool);
            self.with_lane(spool, &mut state, &key, gate, &mut after, |lane, out| lane.settle(seq, verdict, out));
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
        self.state.lock().lanes.values().filter_map(Lane::oldest_flight).min()
    }

    /// Forwards up to `budget` records of a lane; answers how many are on their way.
    pub fn forward(&self, spool: &Spool, key: &LaneKey, budget: u64, after: &mut After) -> u64 {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let used =
            self.with_lane(spool, &mut state, key, gate, after, |lane, out| lane.forward(now, gate, budget, out));
        used.unwrap_or_default()
    }

    /// Sends the head of a lane, though the gate is shut; `note` is told its ticket, before that. Answers whether it was
    /// taken; `None`: there is nothing to send.
    pub fn probe(&self, spool: &Spool, key: &LaneKey, after: &mut After, note: impl FnOnce(u64)) -> Option<bool> {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let flights = state.flights.len();
        note(self.base | state.next_flight);
        let sent = self.with_lane(spool, &mut state, key, gate, after, |lane, out| lane.probe(now, gate, out));
        (sent == Some(true)).then(|| state.flights.len() > flights)
    }

    /// Takes over a newer epoch in every lane, and drops what has expired.
    pub fn sweep(&self, spool: &Spool, after: &mut After) {
        let mut state = self.state.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        let keys: Vec<LaneKey> = state.lanes.keys().cloned().collect();
        for key in keys {
            self.with_lane(spool, &mut state, &key, gate, after, |lane, out| {
                lane.meet(gate, out);
                lane.expire(now, out);
            });
        }
    }

    /// Publishes that wait for their server's word need not wait for it any longer.
    pub fn end_waiting(&self, spool: &Spool, after: &mut After) {
        let mut state = self.state.lock();
        let waiting = state.records.iter().filter(|(_, kept)| kept.ticket.is_some());
        let waiting: Vec<(u64, LaneKey)> = waiting.map(|(seq, kept)| (*seq, kept.lane.clone())).collect();
        let gate = self.gate(spool);
        for (seq, key) in waiting {
            self.with_lane(spool, &mut state, &key, gate, after, |lane, out| lane.timed_out(seq, out));
        }
    }

    /// How a flight ended.
    pub fn on_outcome(&self, spool: &Spool, flight: u64, outcome: Outcome, after: &mut After) {
        let mut state = self.state.lock();
        let Some(Flight { seq, epoch, forwarded }) = state.flights.remove(&flight) else { return };
        if forwarded {
            spool.flying.fetch_sub(1, Ordering::AcqRel);
            self.flying.fetch_sub(1, Ordering::AcqRel);
            after.counts = true;
        }
        let (ending, why) = match outcome {
            Outcome::Confirmed(_) => (Ending::Confirmed, None),
            Outcome::Refused(why) => (Ending::Refused, Some(why)),
            Outcome::NotSent(why) => (Ending::NotSent, Some(why)),
            Outcome::Unknown(why) => (Ending::Unknown, Some(why)),
        };
        let Some(kept) = state.records.get_mut(&seq) else { return };
        if why.is_some() {
            kept.why = why;
        }
        let (key, gate, now) = (kept.lane.clone(), self.gate(spool), spool.context.clock.now());
        let goes_on = gate.way == Way::Open && ending == Ending::Confirmed;
        self.with_lane(spool, &mut state, &key, gate, after, |lane, out| {
            lane.complete(seq, epoch, ending, &self.rules, out);
            // What came meanwhile goes at once, or a busy lane would never be direct again.
            if goes_on && (1..=SHORT_BACKLOG).contains(&lane.backlog()) && !spool.is_paused() {
                lane.forward(now, gate, SHORT_BACKLOG as u64, out);
            }
        });
    }

    /// One step of a lane, and what follows from it.
    fn with_lane<R>(
        &self,
        spool: &Spool,
        state: &mut State,
        key: &LaneKey,
        gate: Gate,
        after: &mut After,
        step: impl FnOnce(&mut Lane, &mut Vec<LaneAction>) -> R,
    ) -> Option<R> {
        let mut actions = std::mem::take(&mut state.actions);
        let result = state.lanes.get_mut(key).map(|lane| step(lane, &mut actions));
        self.perform(spool, state, key, gate, &mut actions, after);
        state.actions = actions;
        if state.lanes.get(key).is_some_and(Lane::is_idle) {
            state.lanes.remove(key);
        }
        result
    }

    fn perform(
        &self,
        spool: &Spool,
        state: &mut State,
        key: &LaneKey,
        gate: Gate,
        actions: &mut Vec<LaneAction>,
        after: &mut After,
    ) {
        let now = spool.context.clock.now();
        let mut stopped: Option<Error> = None;
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            let Some(lane) = state.lanes.get_mut(key) else { break };
            match action {
                LaneAction::Append { seq, maybe_dup } => {
                    self.append(spool, state, key, (seq, maybe_dup), actions, after);
                }
                // Nothing outlives this process, so there is nothing that a mark could be missing from.
                LaneAction::Mark { seq } => lane.marked(now, seq, true, gate, actions),
                LaneAction::Withdraw { seq } => lane.withdrawn(seq, true, actions),
                LaneAction::Note { .. } => {}
                LaneAction::Send { seq, epoch, maybe_dup, attempt, .. } => {
                    let sent = match &stopped {
                        // What follows one that was not taken must not pass it.
                        Some(why) => Err(Error::clone(why)),
                        None => self.send(spool, state, seq, epoch, (maybe_dup, attempt)),
                    };
                    if let Err(why) = sent {
                        let ending = ending_of(&why);
                        if let Some(kept) = state.records.get_mut(&seq) {
                            kept.why = Some(why.clone());
                        }
                        if let Some(lane) = state.lanes.get_mut(key) {
                            lane.complete(seq, epoch, ending, &self.rules, actions);
                        }
                        if ending == Ending::NotSent {
                            after.server_full |= why.kind() == Kind::Full;
                            stopped.get_or_insert(why);
                        }
                    }
                    after.counts = true;
                }
                LaneAction::Remove { seq } => {
                    spool.take_out(state.bytes_of(seq));
                    self.kept.fetch_sub(1, Ordering::AcqRel);
                    (after.counts, after.wakes) = (true, true);
                }
                LaneAction::Complete { seq, completed } => self.complete(state, key, seq, completed, after),
                LaneAction::Fate { seq, fate } => self.end(spool, state, seq, fate),
                LaneAction::DeadLetter { seq } => {
                    let Some(kept) = state.records.get(&seq) else { continue };
                    let why = kept.why.as_ref().map_or("refused by the server", Error::message).to_owned();
                    let Some(message) = kept.message.clone() else { continue };
                    spool.dies(message.size());
                    after.dead.push(Dead { message, kind: self.kind, why, at: now });
                }
                LaneAction::Alarm { .. } => {}
                LaneAction::Wake => after.wakes = true,
            }
        }
        actions.clear();
    }

    /// A record is kept from now on.
    fn append(
        &self,
        spool: &Spool,
        state: &mut State,
        key: &LaneKey,
        (seq, maybe_dup): (u64, bool),
        actions: &mut Vec<LaneAction>,
        after: &mut After,
    ) {
        spool.put_in(state.bytes_of(seq));
        self.kept.fetch_add(1, Ordering::AcqRel);
        spool.metrics.add(Counter::Spooled, 1);
        after.counts = true;
        after.local |= self.is_local();
        let Some(lane) = state.lanes.get_mut(key) else { return };
        match spool.is_closing() {
            // It would end with the process, and nobody would hear of it.
            true => lane.append_failed(seq, maybe_dup, actions),
            false => lane.appended(seq, self.rules.spool_level, actions),
        }
    }

    /// Tells the publish of a record how it ended.
    fn complete(&self, state: &mut State, key: &LaneKey, seq: u64, completed: Completed, after: &mut After) {
        // It may stay all the same: kept, or on its way.
        let stays = state.lanes.get(key).is_some_and(|lane| lane.has(seq));
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
    fn end(&self, spool: &Spool, state: &mut State, seq: u64, fate: LaneFate) {
        state.records.remove(&seq);
        spool.count(fate);
    }

    /// Hands a record of the spool to the server.
    fn send(
        &self,
        spool: &Spool,
        state: &mut State,
        seq: u64,
        epoch: u64,
        (maybe_dup, attempt): (bool, u16),
    ) -> Result<()> {
        let flight = state.next_flight;
        state.next_flight += 1;
        let Some(Kept { message: Some(message), due, .. }) = state.records.get(&seq) else {
            return Err(Error::internal("a record of the spool has no message"));
        };
        let clock = &spool.context.clock;
        let (now, now_us, id) = (clock.now(), clock.wall_us(), message.id());
        let left = due.since(now);
        let record = Record {
            maybe_dup: maybe_dup || message.maybe_dup(),
            attempts: message.attempts().saturating_add(attempt),
            ttl_ms: message.expires_us().map_or(0, |at| (at.saturating_sub(now_us) / 1000).max(1)),
            delay_ms: i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
            ..Record::again(message, id.as_str())
        };
        // A form without a place for it must not bury the record.
        let record = match attempt > 0 && self.server.check(&record).is_err() {
            true => Record { attempts: message.attempts(), ..record },
            false => record,
        };
        if record.maybe_dup {
            spool.metrics.add(Counter::MaybeDuplicate, 1);
        }
        let numbers = AtomicU64::new(seq);
        let batch = Batch {
            records: std::slice::from_ref(&record),
            first_ticket: Ticket(self.base | flight),
            numbers: &numbers,
            now_us,
            require: None,
        };
        let taken = self.server.publish(&batch);
        match (taken.count, taken.stopped) {
            (0, stopped) => Err(stopped.unwrap_or_else(|| Error::internal("a backend stopped without a reason"))),
            _ => {
                spool.flying.fetch_add(1, Ordering::AcqRel);
                self.flying.fetch_add(1, Ordering::AcqRel);
                state.flights.insert(flight, Flight { seq, epoch, forwarded: true });
                Ok(())
            }
        }
    }
}

/// How a record ended that the server's client did not take.
fn ending_of(why: &Error) -> Ending {
    let by_itself = matches!(
        why.kind(),
        Kind::Header | Kind::Unsupported | Kind::TooLarge | Kind::Name | Kind::Arg | Kind::Refused | Kind::TopicKind
    );
    match by_itself || why.fate() == Some(Fate::Refused) {
        true => Ending::Refused,
        false => Ending::NotSent,
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
            let gate = self.gate(&spool);
            let first = batch.number(batch.records.len());
            let (state, after) = (&mut *state, &mut after);
            let mut publishing = Publishing { own: self, spool: &spool, state, batch, first, gate, after, run: None };
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
        // Where it is the server's client that is full, that tells the spool.
        if let Some(spool) = self.spool.upgrade() {
            spool.space.lock().add(waker);
        }
    }
}

impl fmt::Debug for SpoolTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolTopic").field("topic", &self.topic).field("rules", &self.rules).finish_non_exhaustive()
    }
}
