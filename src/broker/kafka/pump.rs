//! The thread of a subscription, as far as it is the same in a group and alone: takes messages out of
//! librdkafka into the state that the program's end reads, keeps time, and hears what the client says.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::consume::{tag, Subscriber};
use super::error::{is_denied, of};
use super::raw::{About, Batch, Client, Code, Event, Failure, Fetched, Queue, Reader};
use super::wire::{place_id, Incoming, Raw};
use super::Shared;
use crate::clock::Moment;
use crate::config::Wire;
use crate::error::Kind;
use crate::message::segment::record_bytes;
use crate::message::{Message, Record, Stamp, Writer};
use crate::pattern::DEAD_LETTER_SUFFIX;

/// Bytes of a partition that wait here, at most, or one message.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How soon what was settled is stored, and how often a quiet thread looks around.
const BUSY: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(1);
/// Memory for messages that came together.
const SEGMENT_BYTES: usize = 64 * 1024;
/// A dead letter that could not be written is written again after this.
const BURY_AGAIN: Duration = Duration::from_secs(2);

/// Where the messages of a partition come from.
pub(super) enum Line {
    Grouped(Queue),
    Alone(Reader),
}

impl Line {
    fn queue(&self) -> &Queue {
        match self {
            Line::Grouped(queue) => queue,
            Line::Alone(reader) => reader.queue(),
        }
    }
}

/// One partition that is read.
pub(super) struct Intake {
    pub slot: u32,
    pub topic: Arc<str>,
    pub number: i32,
    pub line: Line,
    /// The next offset that is expected.
    pub next: i64,
    /// What is before this is not handed over.
    pub from: i64,
    /// What is before this was handed over before.
    pub handed: i64,
    /// Where it ends; nothing is taken from there on.
    pub stop: Option<i64>,
    /// All up to its stop has come.
    pub ended: bool,
    /// It has to be read again from where it stopped: what comes meanwhile is behind a gap.
    pub halted: bool,
    pub wire: Wire,
}

/// What a fetched message becomes.
enum Arrival {
    Deliver(Message, i64, u32, bool),
    Pass(i64),
    Bury(Message, i64, String),
}

/// A message that no handler can have, on its way to the dead letters.
pub(super) struct Burial {
    tag: u64,
    message: Message,
    reason: String,
    /// When it is tried again, if it is not under way.
    at: Option<Moment>,
}

/// What the place of a message tells in the place of it.
pub(super) struct Trouble {
    pub slot: u32,
    pub failure: Failure,
    /// Nothing from here on was taken; it is read again.
    pub again_from: Option<i64>,
    /// It is given up for now.
    pub unassigned: bool,
}

pub(super) struct Pump {
    pub own: Arc<Subscriber>,
    pub client: Arc<Client>,
    pub main: Queue,
    pub intakes: Vec<Intake>,
    incoming: Incoming,
    pub buried: Arc<crate::sync::Mutex<Vec<Burial>>>,
}

impl Pump {
    pub fn new(own: &Arc<Subscriber>, client: Arc<Client>, main: Queue) -> Self {
        Self {
            own: Arc::clone(own),
            client,
            main,
            intakes: Vec::new(),
            incoming: Incoming::default(),
            buried: Arc::default(),
        }
    }

    /// Sleeps until something comes, or it is time for something.
    pub fn sleep(&self, until: Option<Moment>) {
        let now = self.own.clock.now();
        let (busy, next) = {
            let state = self.own.state.lock();
            let busy = state.out > 0 || state.slots.values().any(|slot| slot.partition.has_moved() || slot.leaving);
            (busy, state.slots.values().filter_map(|slot| slot.partition.next_wake()).chain(until).min())
        };
        let longest = if busy { BUSY } else { QUIET };
        let left = next.map_or(longest, |at| at.since(now).min(longest));
        self.own.wake.wait(left);
    }

    /// Takes what has come, as far as there is room.
    pub fn fill(&mut self, shared: &Shared) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let waiting_max = self.own.waiting_max();
        let mut arrived = false;
        for index in 0..self.intakes.len() {
            while let Some(arrivals) = self.take_batch(shared, index, waiting_max, &mut troubles) {
                let slot = self.intakes.get(index).map_or(0, |intake| intake.slot);
                arrived |= self.deliver(shared, slot, arrivals);
            }
        }
        if arrived {
            self.own.ring();
        }
        troubles
    }

    /// What has come of one partition, if there is room for it.
    fn take_batch(
        &mut self,
        shared: &Shared,
        index: usize,
        waiting_max: usize,
        troubles: &mut Vec<Trouble>,
    ) -> Option<Vec<Arrival>> {
        let intake = self.intakes.get(index).filter(|intake| !intake.ended && !intake.halted)?;
        let room = {
            let mut state = self.own.state.lock();
            let slot = state.slots.get(&intake.slot).filter(|slot| !slot.leaving);
            let room = slot.map(|slot| slot.partition.room(waiting_max, WAITING_BYTES_MAX));
            state.starved |= room == Some(0);
            room.filter(|room| *room > 0)?
        };
        let batch = intake.line.queue().fetch(room);
        (batch.len() > 0).then(|| self.convert(shared, index, &batch, troubles))
    }

    fn convert(&mut self, shared: &Shared, index: usize, batch: &Batch, troubles: &mut Vec<Trouble>) -> Vec<Arrival> {
        let handed = self.intakes.get(index).map_or(0, |intake| intake.handed);
        let mut taking = Taking { arrivals: Vec::with_capacity(batch.len()), writer: None, left: batch.len(), handed };
        for fetched in batch.iter() {
            let Some(intake) = self.intakes.get_mut(index) else { break };
            let (slot, offset) = (intake.slot, fetched.offset());
            if let Err(failure) = fetched.result() {
                match failure.code {
                    Code::PartitionEOF => intake.ended |= intake.stop.is_some_and(|stop| offset >= stop),
                    _ => {
                        intake.halted |= matches!(failure.code, Code::AutoOffsetReset | Code::OffsetOutOfRange);
                        troubles.push(Trouble { slot, failure, again_from: None, unassigned: false });
                    }
                }
                continue;
            }
            if intake.ended || intake.stop.is_some_and(|stop| offset >= stop) {
                intake.ended = true;
                continue;
            }
            let (topic, wire, is_before) = (Arc::clone(&intake.topic), intake.wire, offset < intake.from);
            if is_before {
                taking.pass(offset);
            } else if !self.take_in(shared, &topic, wire, &fetched, &mut taking) {
                let text = format!("no memory for a message of {} bytes", fetched.value().len());
                let failure = Failure { code: Code::CriticalSystemResource, text, fatal: false };
                troubles.push(Trouble { slot, failure, again_from: Some(offset), unassigned: false });
                if let Some(intake) = self.intakes.get_mut(index) {
                    intake.halted = true;
                }
                break;
            }
            if let Some(intake) = self.intakes.get_mut(index) {
                intake.next = offset + 1;
                intake.ended |= intake.stop == Some(offset + 1);
            }
        }
        taking.flush();
        taking.arrivals
    }

    /// One message; `false`: the system has no memory for it.
    fn take_in(
        &mut self,
        shared: &Shared,
        topic: &Arc<str>,
        wire: Wire,
        fetched: &Fetched<'_>,
        taking: &mut Taking,
    ) -> bool {
        let offset = fetched.offset();
        let raw = Raw { value: fetched.value(), key: fetched.key(), timestamp_ms: fetched.timestamp_ms() };
        let incoming = &mut self.incoming;
        incoming.clear();
        fetched.headers(|name, value| incoming.header(name, value, wire));
        incoming.finish(&raw, self.own.spec.kind, wire, shared.settings.message_bytes_max);
        if incoming.expires_us.is_some_and(|at| at <= self.own.clock.wall_us()) {
            taking.pass(offset);
            return true;
        }
        let made;
        let mut record = incoming.record(&raw);
        if record.id.is_empty() {
            made = place_id(topic, fetched.partition(), offset);
            record.id = &made;
        }
        record.attempts = incoming.attempts;
        let is_fit = topic.ends_with(DEAD_LETTER_SUFFIX) || self.own.spec.read_only;
        let reason = incoming.unreadable.as_ref().filter(|_| !is_fit);
        taking.add(shared, topic, &record, offset, u32::from(incoming.attempts) + 1, reason)
    }

    /// Whether there is something new for the program.
    fn deliver(&mut self, shared: &Shared, name: u32, arrivals: Vec<Arrival>) -> bool {
        let mut burials = Vec::new();
        let mut arrived = false;
        {
            let mut state = self.own.state.lock();
            let state = &mut *state;
            let Some(slot) = state.slots.get_mut(&name) else { return false };
            for arrival in arrivals {
                match arrival {
                    Arrival::Deliver(_, offset, ..) | Arrival::Bury(_, offset, _) if offset < slot.deleted => {
                        slot.partition.pass(offset);
                    }
                    Arrival::Deliver(message, offset, attempt, again) => {
                        arrived = true;
                        slot.partition.arrive(message, offset, attempt, again || attempt > 1);
                    }
                    Arrival::Pass(offset) => slot.partition.pass(offset),
                    Arrival::Bury(message, offset, reason) => {
                        state.out += 1;
                        let place = slot.partition.arrive_out(message.clone(), offset);
                        burials.push(Burial { tag: tag(name, place), message, reason, at: Some(Moment::default()) });
                    }
                }
            }
        }
        if !burials.is_empty() {
            self.buried.lock().extend(burials);
            self.bury(shared);
        }
        arrived
    }

    /// Writes dead letters whose time has come; a message is done when its dead letter is confirmed.
    pub fn bury(&self, shared: &Shared) {
        let now = self.own.clock.now();
        let due: Vec<(u64, Message, String)> = {
            let mut buried = self.buried.lock();
            let due = buried.iter_mut().filter(|burial| burial.at.is_some_and(|at| at <= now));
            due.map(|burial| {
                burial.at = None;
                (burial.tag, burial.message.clone(), burial.reason.clone())
            })
            .collect()
        };
        for (tag, message, reason) in due {
            let (buried, own) = (Arc::clone(&self.buried), Arc::downgrade(&self.own));
            let done = move |written: bool| {
                let Some(own) = own.upgrade() else { return };
                let mut buried = buried.lock();
                if written {
                    buried.retain(|burial| burial.tag != tag);
                    drop(buried);
                    own.settle_own(tag);
                } else if let Some(burial) = buried.iter_mut().find(|burial| burial.tag == tag) {
                    burial.at = Some(own.clock.now().plus(BURY_AGAIN));
                }
            };
            shared.bury(&message, self.own.spec.kind, &reason, Box::new(done));
        }
    }

    /// Forgets burials of partitions that are gone.
    pub fn forget_burials(&self, slot: u32) {
        self.buried.lock().retain(|burial| super::consume::untag(burial.tag).0 != slot);
    }

    /// Rests that are over.
    pub fn tick(&mut self, shared: &Shared) {
        let now = self.own.clock.now();
        let woken = {
            let mut state = self.own.state.lock();
            let mut any = false;
            for slot in state.slots.values_mut() {
                any |= slot.partition.wake(now);
            }
            any
        };
        if woken {
            self.own.ring();
        }
        if !self.buried.lock().is_empty() {
            self.bury(shared);
        }
    }

    /// What the client says of itself. An error that ends the subscription is answered.
    pub fn hear(&self, shared: &Shared, event: &Event) -> Result<(), Failure> {
        match event.about() {
            About::Failure => {
                let Err(failure) = event.result() else { return Ok(()) };
                self.on_failure(shared, failure)
            }
            About::Log => {
                let (level, text) = event.log();
                super::log(level, &text);
                Ok(())
            }
            About::TokenWanted => {
                shared.supply_token(&self.client, &self.own.without_token);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_failure(&self, shared: &Shared, failure: Failure) -> Result<(), Failure> {
        if failure.fatal {
            return Err(failure);
        }
        if failure.code == Code::Authentication && self.own.without_token.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let error = of("a subscription", &failure);
        let refused = is_denied(failure.code) || error.kind() == Kind::Refused;
        if refused && self.own.is_starting() {
            return Err(failure);
        }
        if refused {
            // It is tried again; whether messages can be published is the producer's to say.
            shared.warn(format!("the subscription to `{}`: {error}", self.own.spec.pattern));
        } else {
            tracing::debug!(topic = %self.own.spec.pattern, "{error}");
        }
        Ok(())
    }

    /// Everything that waits in the client's own queue.
    pub fn hear_all(&self, shared: &Shared) -> Result<(), Failure> {
        while let Some(event) = self.main.poll(Duration::ZERO) {
            self.hear(shared, &event)?;
        }
        Ok(())
    }
}

/// A batch on its way in: messages that come together share memory.
struct Taking {
    arrivals: Vec<Arrival>,
    writer: Option<(Writer, Vec<(i64, u32)>)>,
    /// So many are still to come.
    left: usize,
    /// Those before this were handed over before.
    handed: i64,
}

impl Taking {
    /// Hands on what the present segment holds.
    fn flush(&mut self) {
        let Some((open, waiting)) = self.writer.take() else { return };
        let mut waiting = waiting.into_iter();
        let count = waiting.len();
        open.messages(0, count, &mut self.arrivals, |message| {
            let (offset, attempt) = waiting.next().unwrap_or_default();
            Arrival::Deliver(message, offset, attempt, offset < self.handed)
        });
    }

    fn pass(&mut self, offset: i64) {
        self.flush();
        self.arrivals.push(Arrival::Pass(offset));
        self.left = self.left.saturating_sub(1);
    }

    /// `false`: the system has no memory for it.
    fn add(
        &mut self,
        shared: &Shared,
        topic: &Arc<str>,
        record: &Record<'_>,
        offset: i64,
        attempt: u32,
        reason: Option<&String>,
    ) -> bool {
        let stamp = Stamp { seq: u64::try_from(offset).unwrap_or_default(), now_us: record.timestamp_us };
        let left = self.left.max(1);
        self.left = left - 1;
        for _ in 0..2 {
            if let Some((open, waiting)) = self.writer.as_mut().filter(|_| reason.is_none()) {
                if open.append(record, stamp).is_some() {
                    waiting.push((offset, attempt));
                    return true;
                }
            }
            self.flush();
            // Those that follow are taken to be of its size.
            let bytes = (record_bytes(record) * left).min(SEGMENT_BYTES);
            if reason.is_none() {
                let new = Writer::new(&shared.pool, topic, shared.context.id_prefix, bytes);
                self.writer = new.map(|new| (new, Vec::with_capacity(left)));
            }
        }
        self.flush();
        let Some(message) = Message::alone(&shared.pool, topic, shared.context.id_prefix, record, stamp) else {
            return false;
        };
        self.arrivals.push(match reason {
            Some(reason) => Arrival::Bury(message, offset, reason.clone()),
            None => Arrival::Deliver(message, offset, attempt, offset < self.handed),
        });
        true
    }
}
