//! Where records of one topic are handed over, in order.
//!
//! Nothing is handed over before every partition of the topic answers, or 2 s have passed: a leader that is not
//! ready yet may refuse a producer's first request and take its second, and then the first is lost while
//! librdkafka counts it as arrived. What comes earlier is kept here, and goes out first.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::error::{away, closed, error, kind, of};
use super::publish::{Gate, Producer, OWN};
use super::raw::{is_full, Failure, Given, Topic, Values};
use super::topics::Standing;
use super::wire::{is_plain, Frame, Made, Target};
use super::{login, Shared};
use crate::broker::{Batch, Destination, Outcome, Taken, Ticket, Wake};
use crate::clock::Moment;
use crate::config::Wire;
use crate::error::{Error, Fate, Kind};
use crate::message::{Record, TopicKind};
use crate::sync::Mutex;

/// What comes with a message beside key and payload, at most.
const BESIDE_BYTES: usize = 1024;

/// Where records of one topic are handed over.
pub(super) struct KafkaDestination {
    shared: Weak<Shared>,
    topic: Arc<str>,
    kind: TopicKind,
    wire: Wire,
    /// Guards the order of records.
    handing: Mutex<Handing>,
}

#[derive(Default)]
struct Handing {
    /// The topic at the client that publishes now, and which client that is.
    topic: Option<(u64, Topic)>,
    /// The count of the topics' changes at which this one was there.
    there_at: Option<u64>,
    frame: Frame,
    values: Values,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

/// A record that waits for its topic.
struct Kept {
    frame: Frame,
    payload: Vec<u8>,
    key: Option<Vec<u8>>,
    ticket: u64,
    until: Moment,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len)
    }

    fn record(&self) -> Record<'_> {
        Record { key: self.key.as_deref(), ..Record::new(&self.payload) }
    }
}

impl Handing {
    /// The topic at the client that publishes.
    fn handle(&mut self, producer: &Producer, topic: &str) -> Result<&Topic, Error> {
        let present = self.topic.take().filter(|(serial, _)| *serial == producer.serial);
        let made = present.map_or_else(|| Topic::new(&producer.client, topic), |(_, topic)| Ok(topic));
        let made = made.map_err(|failure| of("a topic", &failure).with_fate(Fate::NotSent))?;
        Ok(&self.topic.insert((producer.serial, made)).1)
    }

    /// Hands over what is in the frame, by the handle that is there.
    fn produce(&mut self, record: &Record<'_>, ticket: u64) -> Result<(), Failure> {
        let Self { topic: Some((_, handle)), frame, values, .. } = self else { return Err(Failure::all_down()) };
        produce(handle, frame, record, ticket, values)
    }

    fn produce_kept(&mut self, kept: &Kept) -> Result<(), Failure> {
        let Self { topic: Some((_, handle)), values, .. } = self else { return Err(Failure::all_down()) };
        produce(handle, &kept.frame, &kept.record(), kept.ticket, values)
    }

    /// Takes out the first `count` of those that wait.
    fn let_go(&mut self, shared: &Shared, count: usize) -> Vec<Kept> {
        let count = count.min(self.kept.len());
        let gone: Vec<Kept> = self.kept.drain(..count).collect();
        self.kept_bytes -= gone.iter().map(Kept::bytes).sum::<usize>();
        shared.kept.fetch_sub(count, Ordering::AcqRel);
        gone
    }
}

fn produce(
    handle: &Topic,
    frame: &Frame,
    record: &Record<'_>,
    ticket: u64,
    values: &mut Values,
) -> Result<(), Failure> {
    let given = Given {
        value: frame.value(record),
        key: frame.key(record),
        timestamp_ms: frame.timestamp_ms(),
        opaque: ticket,
    };
    handle.produce(&given, frame.headers(), values)
}

fn bytes_of(record: &Record<'_>) -> usize {
    record.payload.len() + record.key.map_or(0, <[u8]>::len)
}

impl KafkaDestination {
    pub fn new(shared: &Arc<Shared>, topic: &str, kind: TopicKind) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            topic: Arc::from(topic),
            kind,
            wire: shared.forms.of(topic),
            handing: Mutex::default(),
        }
    }

    /// It came in before: what the form cannot carry is left out.
    fn again(&self, batch: &Batch<'_>) -> bool {
        batch.first_ticket.0 & OWN != 0
    }

    /// Hands records over until one cannot be.
    fn hand_over(&self, shared: &Arc<Shared>, batch: &Batch<'_>) -> Taken {
        let taken = |count, first_seq, stopped| Taken { count, first_seq, level: None, stopped };
        let producer = match shared.producer() {
            Ok(producer) => producer,
            Err(away) => return taken(0, 0, Some(away)),
        };
        let gate = producer.gate.read();
        if *gate == Gate::Shut {
            return taken(0, 0, Some(away()));
        }
        let mut handing = self.handing.lock();
        let waits = match self.waits(shared, &mut handing) {
            Ok(waits) => waits,
            Err(refused) => return taken(0, 0, Some(refused)),
        };
        let first = batch.number(batch.records.len());
        let mut hand = Hand { own: self, shared, producer: &producer, handing: &mut handing, batch, first, waits };
        let mut index = 0;
        while index < batch.records.len() {
            // What a run stops at is told why by itself.
            index += hand.run(index);
            let Some(record) = batch.records.get(index) else { break };
            if let Err(stopped) = hand.one(record, index) {
                return taken(index, first, Some(stopped));
            }
            index += 1;
        }
        taken(batch.records.len(), first, None)
    }

    /// Whether records have to wait for the topic; it is then seen to.
    fn waits(&self, shared: &Arc<Shared>, handing: &mut Handing) -> Result<bool, Error> {
        let changes = shared.topics.changes();
        if handing.there_at != Some(changes) {
            match shared.topics.standing(&self.topic) {
                Standing::There => handing.there_at = Some(changes),
                Standing::Refused(why) => return Err(why.with_fate(Fate::Refused)),
                Standing::Away => {
                    handing.topic = None;
                    handing.there_at = None;
                    shared.make_soon(&self.topic);
                }
            }
        }
        Ok(handing.there_at.is_none() || !handing.kept.is_empty())
    }

    /// Sees to the records that wait: they go out, or are told that they cannot.
    pub fn tend(&self, shared: &Arc<Shared>) -> Vec<(Ticket, Outcome)> {
        let producer = shared.producer();
        let gate = producer.as_ref().ok().map(|producer| producer.gate.read());
        let mut handing = self.handing.lock();
        if handing.kept.is_empty() {
            return Vec::new();
        }
        let end = |handing: &mut Handing, shared: &Shared, outcome: &dyn Fn() -> Outcome| {
            let all = handing.let_go(shared, usize::MAX);
            all.into_iter().map(|kept| (Ticket(kept.ticket), outcome())).collect()
        };
        let producer = match (&producer, &gate) {
            (Ok(producer), Some(gate)) if **gate == Gate::Open => producer,
            _ if shared.is_closed() => return end(&mut handing, shared, &|| Outcome::NotSent(closed())),
            _ => return end(&mut handing, shared, &|| Outcome::NotSent(away())),
        };
        match self.waits(shared, &mut handing) {
            Err(why) => return end(&mut handing, shared, &|| Outcome::Refused(why.clone())),
            Ok(_) if handing.there_at.is_some() => {
                if let Some(refused) = self.release(shared, producer, &mut handing) {
                    return vec![refused];
                }
            }
            Ok(_) => {}
        }
        let now = shared.context.clock.now();
        let late = handing.kept.iter().take_while(|kept| kept.until <= now).count();
        let late = handing.let_go(shared, late).into_iter();
        late.map(|kept| (Ticket(kept.ticket), Outcome::NotSent(self.not_made()))).collect()
    }

    /// Hands over what was kept, as far as there is room; answers the one that nobody will ever take.
    fn release(&self, shared: &Arc<Shared>, producer: &Producer, handing: &mut Handing) -> Option<(Ticket, Outcome)> {
        while let Some(kept) = handing.kept.pop_front() {
            let refused = match handing.handle(producer, &self.topic).map(|_| ()) {
                Ok(()) => handing.produce_kept(&kept).err(),
                Err(_) => Some(Failure::late()),
            };
            let refused = refused.map(|failure| self.refused(shared, &failure, kept.bytes()));
            if let Some(why) = refused.as_ref().filter(|why| why.fate() != Some(Fate::Refused)) {
                // Room, its time, or a change of the topic, ends its wait.
                if why.kind() == Kind::NotFound {
                    shared.topics.doubt(&self.topic);
                }
                handing.kept.push_front(kept);
                return None;
            }
            handing.kept_bytes -= kept.bytes();
            shared.kept.fetch_sub(1, Ordering::AcqRel);
            match refused {
                Some(why) => return Some((Ticket(kept.ticket), Outcome::Refused(why))),
                None => producer.handed_over(1),
            }
        }
        None
    }

    fn not_made(&self) -> Error {
        error(Kind::BackendDown, format!("`{}` could not be published to in time: it is not ready", self.topic))
    }

    /// Lets go of the client that published. The partitions know nothing of the next one: they are asked again.
    pub fn forget_client(&self, shared: &Shared) {
        let mut handing = self.handing.lock();
        (handing.topic, handing.there_at) = (None, None);
        shared.topics.doubt(&self.topic);
    }

    /// Whether records wait for the topic.
    pub fn keeps_any(&self) -> bool {
        !self.handing.lock().kept.is_empty()
    }

    fn refused(&self, shared: &Arc<Shared>, failure: &Failure, bytes: usize) -> Error {
        if is_full(failure) && bytes > login::queue_bytes_max(&shared.settings) {
            return too_large(shared, bytes);
        }
        if is_full(failure) {
            return full();
        }
        let said = of("not handed over", failure);
        match kind(failure.code) {
            Kind::TooLarge | Kind::Name | Kind::Refused => said.with_fate(Fate::Refused),
            _ => said.with_fate(Fate::NotSent),
        }
    }
}

fn full() -> Error {
    error(Kind::Full, "the client's queue to the cluster is full").with_fate(Fate::NotSent)
}

fn too_large(shared: &Shared, bytes: usize) -> Error {
    let max = login::queue_bytes_max(&shared.settings);
    let text = format!("{bytes} bytes are more than the client's queue takes, {max}");
    error(Kind::TooLarge, text).with_fate(Fate::Refused)
}

/// One hand-over.
struct Hand<'a> {
    own: &'a KafkaDestination,
    shared: &'a Arc<Shared>,
    producer: &'a Producer,
    handing: &'a mut Handing,
    batch: &'a Batch<'a>,
    /// Number of the first record.
    first: u64,
    waits: bool,
}

impl Hand<'_> {
    /// Hands over as many records from `index` on as go by one call: those of the form `plain`, which have no
    /// headers, and no time of their own. Answers how many.
    fn run(&mut self, index: usize) -> usize {
        let rest = self.batch.records.get(index..).unwrap_or_default();
        if self.waits || self.own.wire != Wire::Plain || rest.len() < 2 {
            return 0;
        }
        let max = login::handed_over_bytes_max(&self.shared.settings).saturating_sub(BESIDE_BYTES);
        let goes = |record: &&Record<'_>| {
            record.timestamp_us == 0 && bytes_of(record) <= max && is_plain(record, self.own.again(self.batch))
        };
        let count = rest.iter().take_while(goes).count();
        if count < 2 || self.handing.handle(self.producer, &self.own.topic).is_err() {
            return 0;
        }
        let Handing { topic: Some((_, handle)), values, .. } = &mut *self.handing else { return 0 };
        let tickets = self.batch.first_ticket.0 + index as u64..;
        let records = rest.iter().take(count).zip(tickets).map(|(record, ticket)| Given {
            value: record.payload,
            key: record.key,
            timestamp_ms: 0,
            opaque: ticket,
        });
        let taken = handle.produce_plain(records, values);
        self.producer.handed_over(taken);
        taken
    }

    /// Hands over one record.
    fn one(&mut self, record: &Record<'_>, index: usize) -> Result<(), Error> {
        let ticket = self.batch.first_ticket.0 + index as u64;
        let target = Target {
            topic: &self.own.topic,
            kind: self.own.kind,
            wire: self.own.wire,
            source: &self.shared.settings.name,
            again: self.own.again(self.batch),
        };
        let made = Made { prefix: self.shared.context.id_prefix, seq: self.first + index as u64 };
        let framed = self.handing.frame.write(record, target, made, self.batch.now_us);
        framed.map_err(|refused| refused.with_fate(Fate::Refused))?;
        if !self.waits {
            self.handing.handle(self.producer, &self.own.topic)?;
            match self.handing.produce(record, ticket) {
                Ok(()) => {
                    self.producer.handed_over(1);
                    return Ok(());
                }
                Err(gone) if kind(gone.code) == Kind::NotFound => {
                    self.shared.topics.doubt(&self.own.topic);
                    self.waits = self.own.waits(self.shared, self.handing)?;
                }
                Err(failure) => return Err(self.own.refused(self.shared, &failure, bytes_of(record))),
            }
        }
        self.keep(record, ticket)
    }

    /// Keeps what is in the frame until the topic is there.
    fn keep(&mut self, record: &Record<'_>, ticket: u64) -> Result<(), Error> {
        let bytes = bytes_of(record);
        let max = login::queue_bytes_max(&self.shared.settings);
        if bytes > max {
            return Err(too_large(self.shared, bytes));
        }
        if self.handing.kept_bytes + bytes > max {
            return Err(full());
        }
        let settings = &self.shared.settings;
        let until = match (settings.patience)(&self.own.topic) {
            true => Moment::NEVER,
            false => self.shared.context.clock.now().plus(settings.confirm_timeout),
        };
        self.handing.kept.push_back(Kept {
            frame: std::mem::take(&mut self.handing.frame),
            payload: record.payload.to_vec(),
            key: record.key.map(<[u8]>::to_vec),
            ticket,
            until,
        });
        self.handing.kept_bytes += bytes;
        self.shared.kept.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl Shared {
    /// Sees to records that wait for their topics. No lock is held.
    pub fn tend_kept(self: &Arc<Self>) {
        if self.kept.load(Ordering::Acquire) == 0 {
            return;
        }
        let destinations: Vec<_> = self.destinations.lock().values().cloned().collect();
        let outcomes: Vec<_> = destinations.iter().flat_map(|destination| destination.tend(self)).collect();
        self.tell(outcomes);
        self.wake_publishers();
    }
}

impl Destination for KafkaDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        match self.shared.upgrade() {
            Some(shared) => self.hand_over(&shared, batch),
            None => Taken { count: 0, first_seq: 0, level: None, stopped: Some(away()) },
        }
    }

    fn check(&self, record: &Record<'_>) -> Result<(), Error> {
        let target = Target { topic: &self.topic, kind: self.kind, wire: self.wire, source: "helixmq", again: false };
        let framed = Frame::default().write(record, target, Made::default(), 0);
        framed.map_err(|refused| refused.with_fate(Fate::Refused))
    }

    fn look_again(&self) {
        if let Some(shared) = self.shared.upgrade().filter(|shared| shared.is_linked()) {
            shared.topics.doubt(&self.topic);
            shared.make_soon(&self.topic);
        }
    }

    fn keeps_copies(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| (shared.settings.patience)(&self.topic))
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.add_publisher(waker, &self.topic);
        }
    }
}

impl std::fmt::Debug for KafkaDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaDestination").field("topic", &self.topic).finish_non_exhaustive()
    }
}
