//! Publishing: one client hands everything over, and its thread hears how each record ended.
//!
//! A record is named at librdkafka by its ticket, so nothing is kept of it here. It ends once: by the
//! cluster's confirm, by its refusal, or when the client gives it up, and then the client knows whether
//! it may have arrived.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::{away, error, is_denied, kind, of};
use super::raw::{is_full, About, Client, Delivered, Event, Failure, Given, Persisted, Queue, Role, Topic, Values};
use super::wire::{Frame, Made, Target};
use super::{login, Shared};
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::config::Wire;
use crate::error::{Error, Fate, Kind, Result};
use crate::message::TopicKind;
use crate::sync::{Deadline, Mutex, RwLock};

/// Tickets of this backend's own records; the hub's are smaller.
const OWN: u64 = 1 << 63;
/// How often a quiet thread looks around.
const QUIET: Duration = Duration::from_millis(500);
/// Longest wait for records that were given up to be told.
const PURGE_MAX: Duration = Duration::from_secs(10);

/// Hears how a record of the backend's own ended.
pub(super) type Told = Box<dyn FnOnce(bool) + Send>;

/// The client that publishes, and asks.
pub(super) struct Producer {
    pub client: Arc<Client>,
    /// What the client says of itself, and how records ended.
    queue: Queue,
    /// Which one it is: topics belong to one client.
    serial: u64,
    stop: Mutex<Option<Deadline>>,
    /// It can do nothing any more: refused, or broken.
    pub failed: Mutex<Option<Error>>,
    /// The last thing that went wrong with a connection: the cause of what times out.
    last: Mutex<Option<Failure>>,
    pub has_failed: Notify,
    /// No broker can be trusted.
    pub distrusted: Notify,
    pub over: AtomicBool,
    /// Closed before the last reports are heard: what is handed over later would never be told of.
    gate: RwLock<Gate>,
    /// Counts how often every broker was away.
    pub downs: AtomicU64,
    /// The program had no token: that is no refusal.
    pub without_token: Arc<AtomicBool>,
}

#[derive(PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

impl Producer {
    /// A new one, with its thread.
    pub fn start(shared: &Arc<Shared>) -> Result<Arc<Self>> {
        let client = Client::new(Role::Producer, &login::producer(&shared.settings))
            .map_err(|failure| error(Kind::Config, format!("config: `kafka`: {failure}")).at("kafka", 0, 0))?;
        let queue = Queue::main(&client).ok_or_else(|| error(Kind::Resources, "librdkafka gave no queue"))?;
        let own = Arc::new(Self {
            client,
            queue,
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
            stop: Mutex::default(),
            failed: Mutex::default(),
            last: Mutex::default(),
            has_failed: Notify::new(),
            distrusted: Notify::new(),
            over: AtomicBool::new(false),
            gate: RwLock::new(Gate::Open),
            downs: AtomicU64::new(0),
            without_token: Arc::default(),
        });
        shared.supply_token(&own.client, &own.without_token);
        let (producer, weak) = (Arc::clone(&own), Arc::downgrade(shared));
        crate::runtime::spawn_thread("hmq-kafka-out", move || {
            producer.run(&weak);
            producer.over.store(true, Ordering::Release);
            if let Some(shared) = weak.upgrade() {
                shared.thread_ended.ring();
            }
        })?;
        Ok(own)
    }

    fn run(&self, weak: &Weak<Shared>) {
        loop {
            let event = self.queue.poll(QUIET);
            let Some(shared) = weak.upgrade() else { break };
            if let Some(event) = event {
                self.hear(&shared, event);
            }
            let stop = *self.stop.lock();
            let Some(deadline) = stop else { continue };
            self.flush(&shared, deadline);
            break;
        }
    }

    /// Everything ends, in time or as given up.
    fn flush(&self, shared: &Shared, deadline: Deadline) {
        let queue = &self.queue;
        let step = |until: Deadline| until.left().unwrap_or(QUIET).min(Duration::from_millis(50));
        while self.client.unfinished() > 0 && !deadline.has_passed() {
            if let Some(event) = queue.poll(step(deadline)) {
                self.hear(shared, event);
            }
        }
        *self.gate.write() = Gate::Shut;
        self.client.purge();
        let last = Deadline::after(Some(PURGE_MAX));
        while self.client.unfinished() > 0 && !last.has_passed() {
            if let Some(event) = queue.poll(step(last)) {
                self.hear(shared, event);
            }
        }
        while let Some(event) = queue.poll(Duration::ZERO) {
            self.hear(shared, event);
        }
    }

    /// Ends it: what is under way is waited for until `deadline`.
    pub fn stop(&self, deadline: Deadline) {
        self.stop.lock().get_or_insert(deadline);
        self.queue.interrupt();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn hear(&self, shared: &Shared, event: Event) {
        match event.about() {
            About::Deliveries => {
                let mut outcomes = Vec::new();
                let mut own = Vec::new();
                event.deliveries(|delivered| {
                    let opaque = delivered.opaque;
                    let outcome = self.outcome(shared, delivered);
                    match opaque & OWN {
                        0 => outcomes.push((Ticket(opaque), outcome)),
                        _ => own.push((opaque, outcome)),
                    }
                });
                if !outcomes.is_empty() {
                    shared.context.sink.complete(&mut outcomes);
                }
                own.into_iter().for_each(|(ticket, outcome)| shared.own_records.tell(ticket, &outcome));
                // Its records take their space until then.
                drop(event);
                shared.wake_publishers();
            }
            About::Failure => {
                if let Err(failure) = event.result() {
                    self.on_failure(shared, failure);
                }
            }
            About::Log => {
                let (level, text) = event.log();
                super::log(level, &text);
            }
            About::TokenWanted => shared.supply_token(&self.client, &self.without_token),
            _ => {}
        }
    }

    fn on_failure(&self, shared: &Shared, failure: Failure) {
        use super::raw::Code;
        let all_down = failure.code == Code::AllBrokersDown;
        if failure.code == Code::Authentication && self.without_token.swap(false, Ordering::AcqRel) {
            *self.last.lock() = Some(failure);
            return;
        }
        let error = of("the cluster", &failure);
        if failure.fatal || is_denied(failure.code) {
            let error = match is_denied(failure.code) {
                true => error,
                false => super::error::error(Kind::BackendDown, format!("the client had to be given up: {failure}")),
            };
            *self.failed.lock() = Some(error.clone());
            self.has_failed.notify_waiters();
            shared.give_up(self, error);
        } else if all_down {
            self.downs.fetch_add(1, Ordering::AcqRel);
            let cause = self.cause();
            // What else it is comes and goes, and is tried again; a certificate stays as it is.
            let is_final = cause.as_ref().is_some_and(|cause| cause.code == Code::SSL);
            let error = cause.map_or(error, |cause| of("no broker can be reached", &cause));
            shared.lost(self, error);
            if is_final {
                self.distrusted.notify_waiters();
            }
        } else {
            tracing::debug!("{error}");
            *self.last.lock() = Some(failure);
        }
    }

    /// It goes well now.
    pub fn forget_cause(&self) {
        *self.last.lock() = None;
    }

    /// Why nothing was answered, as far as is known.
    pub fn cause(&self) -> Option<Failure> {
        self.last.lock().clone()
    }

    fn outcome(&self, shared: &Shared, delivered: Delivered) -> Outcome {
        let Delivered { result, persisted, topic, .. } = delivered;
        let Err(failure) = result else { return Outcome::Confirmed(Level::Broker) };
        // Of a topic that was deleted, the client may not hear for minutes.
        if matches!(kind(failure.code), Kind::NotFound | Kind::Timeout) && shared.is_linked() {
            shared.topics.doubt(&topic);
        }
        if persisted == Persisted::Yes {
            return Outcome::Confirmed(Level::Broker);
        }
        let cause = self.failed.lock().clone();
        let cause = cause.or_else(|| self.cause().map(|last| of("the cluster", &last)));
        let with_cause = |error: Error| match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        if persisted == Persisted::Perhaps {
            let text = format!("the cluster did not confirm: {failure}");
            return Outcome::Unknown(with_cause(error(Kind::OutcomeUnknown, text)));
        }
        if let Some(why) = shared.topics.last_refusal(&topic) {
            return Outcome::Refused(why);
        }
        let said = of(&format!("the cluster did not take a message for `{topic}`"), &failure);
        match said.kind() {
            Kind::BackendDown => Outcome::NotSent(with_cause(said)),
            Kind::Timeout if shared.is_linked() => Outcome::NotSent(with_cause(said)),
            Kind::Timeout => {
                let text = format!("the cluster could not be reached: {failure}");
                Outcome::NotSent(with_cause(error(Kind::BackendDown, text)))
            }
            _ => Outcome::Refused(said),
        }
    }
}

static SERIALS: AtomicU64 = AtomicU64::new(1);

/// Records that the backend publishes itself.
#[derive(Default)]
pub(super) struct OwnRecords {
    told: Mutex<(u64, HashMap<u64, Told>)>,
}

impl OwnRecords {
    /// The ticket of one; `told` is called once.
    pub fn enter(&self, told: Told) -> Ticket {
        let mut all = self.told.lock();
        all.0 += 1;
        let ticket = OWN | all.0;
        all.1.insert(ticket, told);
        Ticket(ticket)
    }

    /// It was not handed over.
    pub fn give_up(&self, ticket: Ticket) {
        let told = self.told.lock().1.remove(&ticket.0);
        if let Some(told) = told {
            told(false);
        }
    }

    pub fn tell(&self, ticket: u64, outcome: &Outcome) {
        let told = self.told.lock().1.remove(&ticket);
        if let Some(told) = told {
            told(matches!(outcome, Outcome::Confirmed(_)));
        }
    }
}

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
    frame: Frame,
    values: Values,
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
        let first = batch.number(batch.records.len());
        let Handing { topic, frame, values } = &mut *handing;
        let present = topic.take().filter(|(serial, _)| *serial == producer.serial);
        let made = present.map_or_else(|| Topic::new(&producer.client, &self.topic), |(_, topic)| Ok(topic));
        let handle = match made {
            Ok(handle) => handle,
            Err(failure) => return taken(0, 0, Some(of("a topic", &failure).with_fate(Fate::NotSent))),
        };
        let (_, handle) = topic.insert((producer.serial, handle));
        for (index, record) in batch.records.iter().enumerate() {
            let target = Target {
                topic: &self.topic,
                kind: self.kind,
                wire: self.wire,
                source: &shared.settings.name,
                again: batch.first_ticket.0 & OWN != 0,
            };
            let made = Made { prefix: shared.context.id_prefix, seq: first + index as u64 };
            if let Err(refused) = frame.write(record, target, made, batch.now_us) {
                return taken(index, first, Some(refused.with_fate(Fate::Refused)));
            }
            let given = Given {
                value: frame.value(record),
                key: frame.key(record),
                timestamp_ms: frame.timestamp_ms(),
                opaque: batch.first_ticket.0 + index as u64,
            };
            if let Err(failure) = handle.produce(&given, frame.headers(), values) {
                let bytes = given.value.len() + given.key.map_or(0, <[u8]>::len);
                return taken(index, first, Some(self.refused(shared, &failure, bytes)));
            }
        }
        taken(batch.records.len(), first, None)
    }

    /// Lets go of the client that published.
    pub fn forget_client(&self) {
        self.handing.lock().topic = None;
    }

    fn refused(&self, shared: &Arc<Shared>, failure: &Failure, bytes: usize) -> Error {
        let queue_bytes_max = login::queue_bytes_max(&shared.settings);
        if is_full(failure) && bytes > queue_bytes_max {
            let text = format!("{bytes} bytes are more than the client's queue takes, {queue_bytes_max}");
            return error(Kind::TooLarge, text).with_fate(Fate::Refused);
        }
        if is_full(failure) {
            return error(Kind::Full, "the client's queue to the cluster is full").with_fate(Fate::NotSent);
        }
        if kind(failure.code) == Kind::NotFound {
            shared.topics.doubt(&self.topic);
            shared.make_soon(&self.topic);
            let text = format!("`{}` is gone, and is being made again", self.topic);
            return error(Kind::Full, text).with_fate(Fate::NotSent);
        }
        let said = of("not handed over", failure);
        match kind(failure.code) {
            Kind::TooLarge | Kind::Name | Kind::Refused => said.with_fate(Fate::Refused),
            _ => said.with_fate(Fate::NotSent),
        }
    }
}

impl Destination for KafkaDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let Some(shared) = self.shared.upgrade() else {
            return Taken { count: 0, first_seq: 0, level: None, stopped: Some(away()) };
        };
        if shared.topics.is_troubled() {
            if let Some(refused) = shared.topics.refused(&self.topic) {
                let stopped = Some(refused.with_fate(Fate::Refused));
                return Taken { count: 0, first_seq: 0, level: None, stopped };
            }
            shared.make_soon(&self.topic);
        }
        self.hand_over(&shared, batch)
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
