//! Kafka: events in logs, and tasks where a route asks for them, through librdkafka.
//!
//! - One client publishes and asks; each subscription has a client of its own, as a member of a group is
//!   one. librdkafka keeps their connections; whether the cluster is there is told by the first.
//! - Publishing hands records to librdkafka at once; its thread here hears how each ended.
//! - A subscription has a thread that takes messages out of librdkafka, and never waits for handlers.
//!   What a group has done is committed behind them, up to the first that is not done.
//! - Topics are made when they are first used.
//!
//! What it has not: priorities, delays, leases, a number of messages that bounds a topic.
//!
//! ```text
//! Destination ── record ──> librdkafka ──> cluster
//!                           Producer thread <── how it ended ──> hub
//! Source <── State <── Pump (group: a member; reader: alone) <── librdkafka
//!        ── verdicts ─> State ── offsets without a gap ──> commits
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use self::consume::Subscriber;
use self::destination::KafkaDestination;
use self::error::{away, closed, error as failure, BACKEND};
use self::publish::{OwnRecords, Producer, Told};
use self::raw::{Patience, Wake};
use self::source::KafkaSource;
use self::topics::Topics;
use super::wire::Forms;
use super::{
    Admin, BackendEvent, BackendKind, Batch, Broker, Capabilities, CloseReport, Context, Declared, Destination, Epoch,
    Sink, Source, Start, SubscribeSpec, Support, TokenProvider, TopicSpec, Wake as Waker, Wakers,
};
use crate::clock::Moment;
use crate::config::{KafkaConfig, RouteConfig};
use crate::error::{Kind, Result};
use crate::message::{HeaderBlock, Message, Pool, Record, TopicKind};
use crate::pattern::{Pattern, DEAD_LETTER_SUFFIX};
use crate::runtime::{ready, Pending};
use crate::sync::{Bell, Deadline, Mutex};

mod admin;
mod commits;
mod connect;
mod consume;
mod destination;
mod error;
mod group;
mod login;
#[cfg(test)]
mod mock_tests;
mod partition;
mod positions;
mod publish;
mod pump;
mod raw;
mod reader;
mod source;
mod topics;
mod wire;

/// All workers of a task queue are one group: this, and its name.
const TASK_GROUP: &str = "helixmq-tasks.";
/// Longest name that a cluster takes.
const NAME_BYTES_MAX: usize = 249;
/// Memory of messages that came together.
const SEGMENT_BYTES: usize = 64 * 1024;
const SEGMENTS_SPARE: usize = 32;

/// What a backend is made from.
#[derive(Clone)]
pub struct Settings {
    /// Its section of the configuration.
    pub kafka: KafkaConfig,
    /// Names the source of events that have none of their own.
    pub name: String,
    /// The hub's group.
    pub group_id: String,
    /// How long an attempt to connect may take.
    pub connection_timeout: Duration,
    /// How long a confirm may take.
    pub confirm_timeout: Duration,
    /// Largest payload, both ways.
    pub message_bytes_max: usize,
    /// Publishes without an outcome, at most.
    pub publish_window: usize,
    /// What forms the messages of which topics have.
    pub routes: Vec<RouteConfig>,
    /// Settings of topics that are made here, by pattern; the first that matches.
    pub topics: Vec<(Pattern, TopicSpec)>,
    /// Of which topics records are kept by whoever publishes them, who waits for late endings.
    pub patience: Patience,
    /// For logins with tokens.
    pub token: Option<Arc<dyn TokenProvider>>,
}

/// The backend.
pub struct Kafka {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    forms: Forms,
    context: Context,
    pool: Arc<Pool>,
    own: Weak<Shared>,
    producer: Mutex<Option<Arc<Producer>>>,
    /// The present connection, in the hub's count.
    link: Mutex<Option<Epoch>>,
    topics: Topics,
    own_records: OwnRecords,
    /// Attempts to connect in vain since the last that was not, or since the client was replaced.
    failed_connects: AtomicU32,
    /// Records that wait for their topics.
    kept: AtomicUsize,
    destinations: Mutex<HashMap<(String, TopicKind), Arc<KafkaDestination>>>,
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
    /// The groups that subscriptions here were in.
    groups: Mutex<BTreeSet<String>>,
    space: Mutex<Wakers>,
    /// A thread of a subscription, or the producer's, has ended.
    thread_ended: Bell,
    closed: AtomicBool,
}

impl Kafka {
    /// A backend that is not connected.
    ///
    /// # Errors
    /// `Config` for options that librdkafka does not take, `Tls` for certificates and keys that cannot be used, `Name` for
    /// a route that is no pattern.
    pub fn open(settings: Settings, context: Context) -> Result<Arc<Self>> {
        if let Some(own) = settings.kafka.tls.as_ref().filter(|_| settings.kafka.security_protocol.is_encrypted()) {
            // librdkafka would tell less of what is wrong with a file.
            super::tls::connector(BACKEND, own)?;
        }
        let forms = Forms::new(&settings.routes)?;
        let topics = Topics::new(&context.clock);
        let shared = Arc::new_cyclic(|own| Shared {
            settings,
            forms,
            context,
            pool: Pool::new(SEGMENT_BYTES, SEGMENTS_SPARE),
            own: own.clone(),
            producer: Mutex::default(),
            link: Mutex::default(),
            topics,
            own_records: OwnRecords::default(),
            failed_connects: AtomicU32::new(0),
            kept: AtomicUsize::new(0),
            destinations: Mutex::default(),
            subscribers: Mutex::default(),
            groups: Mutex::default(),
            space: Mutex::default(),
            thread_ended: Bell::new(),
            closed: AtomicBool::new(false),
        });
        // Options that librdkafka does not take are told here, and not by the first attempt to connect.
        *shared.producer.lock() = Some(Producer::start(&shared)?);
        Ok(Arc::new(Self { shared }))
    }

    /// Runs a call that waits for brokers where it keeps nobody waiting but its caller.
    fn blocking<T: Send + 'static>(
        &self,
        deadline: Moment,
        call: impl FnOnce(&Arc<Shared>, Duration) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let shared = Arc::clone(&self.shared);
        let timeout = shared.timeout(deadline);
        match crate::runtime::handle() {
            Ok(handle) => {
                let task = handle.spawn_blocking(move || call(&shared, timeout));
                Box::pin(async move {
                    task.await.unwrap_or_else(|_| Err(failure(Kind::Panic, "a call of the Kafka backend panicked")))
                })
            }
            Err(refused) => ready(Err(refused)),
        }
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn is_linked(&self) -> bool {
        self.link.lock().is_some()
    }

    /// The client that publishes, while the cluster is there.
    fn producer(&self) -> Result<Arc<Producer>> {
        if self.is_closed() {
            return Err(closed());
        }
        if !self.is_linked() {
            return Err(away());
        }
        self.producer.lock().clone().ok_or_else(away)
    }

    fn timeout(&self, deadline: Moment) -> Duration {
        deadline.since(self.context.clock.now()).min(Duration::from_secs(3600))
    }

    /// Tells the hub something that a person should look at.
    fn warn(&self, text: String) {
        self.context.sink.event(BackendEvent::Warned(text));
    }

    /// Events were deleted before they were read here; not by this hub, which knows.
    fn warn_of_gap(&self, own: &Subscriber, intake: &pump::Intake, low: i64) {
        let deleted = own.state.lock().slots.get(&intake.slot).map_or(0, |slot| slot.deleted);
        if intake.next < deleted {
            return;
        }
        self.warn(format!(
            "partition {} of `{}`: offset {} is not there any more, reading goes on at {low}, the oldest event kept: \
             retention was shorter than this reader was away, or the topic was made again",
            intake.number, intake.topic, intake.next
        ));
    }

    fn add_publisher(&self, waker: Weak<dyn Waker>, topic: &str) {
        self.space.lock().add(waker);
        if self.topics.is_making(topic) {
            return;
        }
        // Whatever is under way makes space when it ends; otherwise there is space already.
        if self.producer().is_ok_and(|producer| producer.client.unfinished() == 0) {
            self.wake_publishers();
        }
    }

    fn wake_publishers(&self) {
        let waiting = self.space.lock().take();
        waiting.for_each(|waker| waker.wake());
    }

    fn destination(self: &Arc<Self>, topic: &str, kind: TopicKind) -> Result<Arc<KafkaDestination>> {
        if self.is_closed() {
            return Err(closed());
        }
        self.topics.fix_kind(topic, kind)?;
        self.make_soon(topic);
        let mut destinations = self.destinations.lock();
        if destinations.len() >= crate::limits::TOPICS_MAX {
            destinations.retain(|_, own| own.keeps_any());
        }
        let found = destinations.entry((topic.to_owned(), kind));
        Ok(Arc::clone(found.or_insert_with(|| Arc::new(KafkaDestination::new(self, topic, kind)))))
    }

    /// Publishes a dead letter of a message that no handler can have.
    fn bury(&self, message: &Message, kind: TopicKind, reason: &str, told: Told) {
        let Some(own) = self.own.upgrade() else { return told(false) };
        let topic = format!("{}{DEAD_LETTER_SUFFIX}", message.topic());
        let destination = match own.destination(&topic, TopicKind::Task) {
            Ok(destination) => destination,
            Err(_) => return told(false),
        };
        let mut headers = HeaderBlock::default();
        headers.extend(message.headers(), &[]);
        headers.push("hmq-origin-topic", message.topic().as_bytes());
        headers.push("hmq-origin-kind", kind.name().as_bytes());
        headers.push("hmq-dead-reason", reason.as_bytes());
        let id = message.id();
        let record = Record { headers: headers.headers(), ..Record::again(message, id.as_str()) };
        let ticket = self.own_records.enter(told);
        let numbers = std::sync::atomic::AtomicU64::new(0);
        let batch = Batch {
            records: std::slice::from_ref(&record),
            first_ticket: ticket,
            numbers: &numbers,
            now_us: self.context.clock.wall_us(),
            require: None,
            since: None,
        };
        if let Some(stopped) = destination.publish(&batch).stopped {
            tracing::debug!("a dead letter for `{topic}` was not handed over: {stopped}");
            self.own_records.give_up(ticket);
        }
    }

    fn live_subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.subscribers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn unsettled(&self, topic: &str) -> u64 {
        let of = |own: &Arc<Subscriber>| {
            let state = own.state.lock();
            let slots = state.slots.values().filter(|slot| *slot.topic == *topic);
            slots.map(|slot| slot.partition.out() as u64).sum::<u64>()
        };
        self.live_subscribers().iter().map(of).sum()
    }

    fn consumers(&self, topic: &str) -> u64 {
        let live = self.live_subscribers();
        live.iter().filter(|own| !own.spec.read_only && !own.is_over() && own.receives(topic)).count() as u64
    }

    /// A new subscription, its client started.
    fn subscriber(self: &Arc<Self>, spec: &SubscribeSpec, sink: Arc<dyn Sink>, timeout: Duration) -> Result<Opened> {
        self.producer()?;
        let pattern = Pattern::parse(&spec.pattern)?;
        if pattern.is_exact() && !spec.read_only {
            self.topics.fix_kind(&spec.pattern, spec.kind)?;
            self.make(&spec.pattern, timeout)?;
        }
        let opened = |failed| error::of("a subscription", &failed);
        let wake = Arc::new(Wake::new().map_err(opened)?);
        let is_pattern = !pattern.is_exact();
        let (own, started) = {
            let mut subscribers = self.subscribers.lock();
            subscribers.retain(|weak| weak.strong_count() > 0);
            // Members of one group have names of their own, each for as long as it is one.
            let others: Vec<Arc<Subscriber>> = subscribers.iter().filter_map(Weak::upgrade).collect();
            let is_taken = |number: usize| {
                let same = |own: &&Arc<Subscriber>| own.spec.group == spec.group && !own.is_over();
                others.iter().filter(same).any(|own| own.number == number)
            };
            let number = (0..).find(|number| !is_taken(*number)).unwrap_or_default();
            let made = Subscriber::new(self, spec, pattern, sink, wake, number);
            subscribers.push(Arc::downgrade(&made.0));
            made
        };
        if !own.is_alone() {
            let mut groups = self.groups.lock();
            if groups.len() < crate::limits::TOPICS_MAX {
                groups.insert(login::group_id(&self.settings, spec));
            }
        }
        let options = login::consumer(&self.settings, spec, is_pattern, own.number);
        let client = self.reading_client(&options, &own.without_token).map_err(opened)?;
        match own.is_alone() {
            true => reader::start(self, &own, client)?,
            false => group::start(self, &own, client)?,
        }
        Ok((own, started))
    }

    async fn subscribe(
        self: Arc<Self>,
        spec: SubscribeSpec,
        sink: Arc<dyn Sink>,
        timeout: Duration,
    ) -> Result<Arc<dyn Source>> {
        let until = Deadline::after(Some(timeout));
        let (shared, asked) = (Arc::clone(&self), spec.clone());
        let opening = crate::runtime::handle()?.spawn_blocking(move || shared.subscriber(&asked, sink, timeout));
        let opened = opening.await.map_err(|_| failure(Kind::Panic, "a subscription panicked"))?;
        let (own, started) = opened?;
        let source: Arc<dyn Source> = Arc::new(KafkaSource(own));
        // A little before whoever waits for this gives it up, to tell more than that.
        let left = until.left().unwrap_or(timeout).mul_f64(0.9);
        match tokio::time::timeout(left, started).await {
            Ok(answer) => answer.map_err(|_| closed())??,
            // Where it starts does not depend on when, so it may start later.
            Err(_) if spec.start == Start::Earliest && !spec.read_only => {
                tracing::warn!("the group of `{}` has not let this member in yet", spec.pattern);
            }
            Err(_) => return Err(failure(Kind::Timeout, "the group did not let this member in in time")),
        }
        if self.is_closed() {
            return Err(closed());
        }
        Ok(source)
    }

    fn close(&self, timeout: Duration) -> Result<CloseReport> {
        let until = Deadline::after(Some(timeout));
        self.closed.store(true, Ordering::Release);
        *self.link.lock() = None;
        let subscribers = self.live_subscribers();
        subscribers.iter().for_each(|own| own.close());
        let producer = self.producer.lock().take();
        // What is settled is committed, then publishes get their confirms.
        let all_over = || subscribers.iter().all(|own| own.is_over());
        let in_time = self.wait_for(until, all_over);
        let Some(producer) = producer else { return Ok(CloseReport::default()) };
        let unfinished = producer.client.unfinished();
        producer.stop(until);
        let last = Deadline::after(Some(until.left().unwrap_or_default() + CLOSE_GRACE));
        let told = self.wait_for(last, || producer.is_over());
        match (in_time && told, unfinished) {
            (true, 0) => Ok(CloseReport::default()),
            (true, _) if !until.has_passed() => Ok(CloseReport::default()),
            (false, _) => {
                Err(failure(Kind::Timeout, "the cluster did not answer in time; what is left ends by itself"))
            }
            (true, left) => {
                Err(failure(Kind::Timeout, format!("{left} publishes were still waiting for the cluster's confirm")))
            }
        }
    }

    fn wait_for(&self, until: Deadline, done: impl Fn() -> bool) -> bool {
        loop {
            let heard = self.thread_ended.heard();
            if done() {
                return true;
            }
            if until.has_passed() {
                return false;
            }
            self.thread_ended.wait(heard, until);
        }
    }
}

/// A subscription and the answer to its start.
type Opened = (Arc<Subscriber>, tokio::sync::oneshot::Receiver<Result<()>>);

/// Beyond the deadline of a close, for records that are given up to be told.
const CLOSE_GRACE: Duration = Duration::from_millis(900);

/// The thread of a subscription ends.
fn ended(shared: &Weak<Shared>, own: &Subscriber) {
    own.over.store(true, Ordering::Release);
    own.answer_start(Err(closed()));
    if let Some(shared) = shared.upgrade() {
        shared.thread_ended.ring();
    }
}

/// A line of librdkafka's log; its levels are those of syslog.
fn log(level: i32, text: &str) {
    match level {
        ..=3 => tracing::warn!("librdkafka: {text}"),
        4..=5 => tracing::info!("librdkafka: {text}"),
        _ => tracing::debug!("librdkafka: {text}"),
    }
}

impl Broker for Kafka {
    fn kind(&self) -> BackendKind {
        BackendKind::Kafka
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tasks: Support::Emulated,
            events: Support::Native,
            retry_delay: Support::Emulated,
            priority: Support::None,
            ttl: Support::Emulated,
            delay: Support::None,
            ordered_key: Support::Native,
            replay_time: Support::Native,
            replay_offset: Support::Native,
            headers: Support::Native,
            // Workers of one queue are one group, and a member is in one group.
            wildcard_tasks: Support::None,
            wildcard_events: Support::Native,
            extend: Support::None,
            payload_bytes_max: self.shared.settings.message_bytes_max,
            name_bytes_max: NAME_BYTES_MAX,
            delay_ms_max: 0,
        }
    }

    fn disconnect(&self, epoch: Epoch) {
        self.shared.disconnect(epoch);
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        let timeout = self.shared.timeout(deadline);
        let connecting = Arc::clone(&self.shared).connect(epoch, timeout);
        crate::runtime::spawned(connecting, || failure(Kind::Panic, "an attempt to connect panicked"))
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        if let Err(refused) = self.shared.topics.fix_kind(topic, kind) {
            return ready(Err(refused));
        }
        let (topic, spec) = (topic.to_owned(), spec.clone());
        self.blocking(deadline, move |shared, timeout| shared.declared(&topic, &spec, timeout))
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let destination = self.shared.destination(topic, kind)?;
        Ok(destination)
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        let timeout = self.shared.timeout(deadline);
        let subscribing = Arc::clone(&self.shared).subscribe(spec.clone(), sink, timeout);
        crate::runtime::spawned(subscribing, || failure(Kind::Panic, "a subscription panicked"))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        // Refused here, whoever still tries while it closes.
        self.shared.closed.store(true, Ordering::Release);
        self.blocking(deadline, |shared, timeout| shared.close(timeout))
    }
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(BACKEND).field("brokers", &self.shared.settings.kafka.brokers).finish_non_exhaustive()
    }
}
