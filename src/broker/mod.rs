//! The broker: one trait that the embedded broker and the backends of servers implement.
//!
//! A backend makes one attempt and says how it ended. It does not retry, back off, wait, count
//! metrics, log above debug, or emulate what its server lacks: all of that is written once, in
//! `hub`. It owns no globals; clock, limits and sinks come with its [`Context`].
//!
//! The objects and who calls whom:
//!
//! ```text
//! Broker ── destination(name) ──> Destination   publish: takes records, never waits
//!        ── subscribe(spec)   ──> Source        fetch: gives deliveries, never waits; settle
//! Sink   <── ready, revoked, broken             "a fetch would give something" / "leases ended"
//! Hub    <── BackendEvent, Completion           the connection's life, late outcomes of publishes
//! ```
//!
//! Deliveries are pulled. A source tells its [`Sink`] once that there is something; whoever
//! consumes then fetches until it is told [`Flow::Idle`]. So a busy consumer costs no wake-ups,
//! nothing is queued twice, and a consumer that does not fetch is back-pressure by itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::error::{Error, Fate};
use crate::limits::Limits;
use crate::message::{Message, Record, TopicKind};
use crate::runtime::Pending;

pub mod capability;
pub mod checked;
pub mod custom;
pub mod embedded;
pub mod faulty;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(any(feature = "rabbitmq", feature = "kafka"))]
mod tls;
mod wake;
#[cfg(any(feature = "rabbitmq", feature = "kafka"))]
mod wire;

pub use capability::{Capabilities, Support};
pub use wake::{Wake, Wakers};

/// Which connection of a backend something belongs to; rises with each connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

/// How safe a published message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nowhere: dropped, as the route asked for.
    None,
    /// In this process; outlives a server.
    Memory,
    /// On disk; outlives the process.
    Disk,
    /// Confirmed by a server.
    Broker,
}

impl Level {
    /// The word used in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Memory => "memory",
            Level::Disk => "disk",
            Level::Broker => "broker",
        }
    }
}

/// The kinds of backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// Inside this library.
    Embedded,
    /// A RabbitMQ server.
    RabbitMq,
    /// A Kafka cluster.
    Kafka,
    /// Supplied by the program.
    Custom,
}

impl BackendKind {
    /// The word used in configuration, JSON, errors and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Embedded => "embedded",
            BackendKind::RabbitMq => "rabbitmq",
            BackendKind::Kafka => "kafka",
            BackendKind::Custom => "custom",
        }
    }

    /// Whether it is a server outside this process, whose messages may be kept here meanwhile.
    pub const fn is_server(self) -> bool {
        matches!(self, BackendKind::RabbitMq | BackendKind::Kafka)
    }
}

/// Names one record whose outcome comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// How a publish ended. Exactly one of these, exactly once.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Taken, at this level.
    Confirmed(Level),
    /// The broker said no: not taken.
    Refused(Error),
    /// It never left this process.
    NotSent(Error),
    /// It may or may not have arrived.
    Unknown(Error),
}

impl Outcome {
    /// The outcome as the result of a call; the error says how it ended.
    pub fn into_result(self) -> Result<Level, Error> {
        match self {
            Outcome::Confirmed(level) => Ok(level),
            Outcome::Refused(error) => Err(error.with_fate(Fate::Refused)),
            Outcome::NotSent(error) => Err(error.with_fate(Fate::NotSent)),
            Outcome::Unknown(error) => Err(error.with_fate(Fate::Unknown)),
        }
    }
}

/// Records on their way to one destination, in order.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The records.
    pub records: &'a [Record<'a>],
    /// The ticket of the first; the others follow by one. Only used by backends that confirm later.
    pub first_ticket: Ticket,
    /// Counter of the hub that numbers records.
    pub numbers: &'a AtomicU64,
    /// Wall time of the publish, microseconds.
    pub now_us: i64,
    /// The level that the program asks for, if it asks.
    pub require: Option<Level>,
    /// When its call began, if that asks again once there is space; `None`: what becomes of the records is decided now.
    pub since: Option<Moment>,
}

impl Batch<'_> {
    /// Numbers the next `count` records and answers the first number. Called under the lock that
    /// decides their order, so that the order of numbers is the order of messages.
    pub fn number(&self, count: usize) -> u64 {
        self.numbers.fetch_add(count as u64, Ordering::Relaxed)
    }
}

/// What [`Destination::publish`] did with a batch.
#[derive(Debug)]
pub struct Taken {
    /// So many records, from the front, were taken. The rest stays with the caller.
    pub count: usize,
    /// Number of the first record taken.
    pub first_seq: u64,
    /// The level all taken ones have reached already; `None`: each completes by its ticket.
    pub level: Option<Level>,
    /// Why the first record not taken was not: `Full` (try again when there is space), or what is
    /// wrong with it (its outcome is refused or not_sent by the error's [`Fate`]).
    pub stopped: Option<Error>,
}

/// Where records of one topic go.
pub trait Destination: Send + Sync + fmt::Debug {
    /// Takes records from the front of `batch`, in order. Never waits, never retries, and calls no
    /// sink under the lock that orders records. A record taken completes exactly once: by [`Taken::level`], or by
    /// its ticket, also when the broker closes.
    fn publish(&self, batch: &Batch<'_>) -> Taken;

    /// Whether `record` is one that could be taken, as far as that can be told without a server: what is kept for one
    /// that is away must not be refused later for what was known now.
    ///
    /// # Errors
    /// What [`publish`](Self::publish) would stop with.
    fn check(&self, _record: &Record<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// What was handed over is not confirmed in time: the topic may be gone. Looks for it anew, and waits for nothing.
    fn look_again(&self) {}

    /// Whether no record is given up for its time alone: each is sent in the order in which it came, on whatever
    /// connection, or is given up with all those that are behind it.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Calls `waker` once when there is space again, perhaps before this returns. One that was
    /// dropped waits no more.
    fn on_space(&self, waker: Weak<dyn Wake>);
}

/// Which consumers share messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Group {
    /// Members share; each message goes to one of them. Tasks have one group for all.
    Named(String),
    /// Fan-out: this subscriber alone.
    Private,
}

/// Where an event subscription starts when its group has no offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest event kept.
    Earliest,
    /// Events published from now on.
    Latest,
    /// This offset in every partition.
    Offset(i64),
    /// The first event at or after this wall time, microseconds.
    Time(i64),
}

/// Where an event subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Never.
    Never,
    /// Behind the last event that is there now.
    Now,
    /// Before the first event at or after this wall time, or behind the last event that is there now.
    Time(i64),
}

/// Order kept at the consumer when several deliveries are out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Any order.
    No,
    /// Messages of one key never at the same time; a retry may be passed.
    Key,
    /// As `Key`, and later ones of the key wait for a retry.
    Strict,
}

/// A subscription as a backend sees it.
#[derive(Debug, Clone)]
pub struct SubscribeSpec {
    /// A topic, or a pattern with `*` (one word) and `#` (zero or more words).
    pub pattern: String,
    /// Task or event.
    pub kind: TopicKind,
    /// Who shares.
    pub group: Group,
    /// Events: where to start.
    pub start: Start,
    /// Events: where to end.
    pub stop: Stop,
    /// Deliveries out and not settled, at most.
    pub prefetch: usize,
    /// Order at the consumer.
    pub ordered: Ordered,
    /// A delivery not settled (or extended) for this long is taken back; `None`: only when the
    /// subscription ends.
    pub lease: Option<Duration>,
    /// Read only: nothing is settled, no offset kept, no group joined (replay, browsing).
    pub read_only: bool,
}

/// One handing-over of a message.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The source's name for this delivery, for [`Source::settle`].
    pub tag: u64,
    /// 1 for the first handing-over, attempts of earlier copies included.
    pub attempt: u32,
    /// So many of the attempts before may never have reached a handler: a server counts what was lost with
    /// its connection, handled or not.
    pub unsure: u32,
    /// Handed over before.
    pub redelivered: bool,
    /// A copy shown while the backend is away.
    pub provisional: bool,
    /// Events: the partition, else 0.
    pub partition: u32,
    /// Events: the offset in the partition, else -1.
    pub offset: i64,
}

/// What [`Source::fetch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// There may be more: fetch again without waiting.
    More,
    /// Nothing more now; the sink's `ready` will be called when there is (also after a settle that
    /// makes room in the prefetch).
    Idle,
    /// The stop of the spec is reached: nothing more, ever.
    End,
    /// The subscription ended with its connection: nothing more from this source.
    Lost,
}

/// A decision on one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Ack,
    /// Hand over again after the delay; counts as an attempt.
    Retry(Duration),
    /// Hand over again as if it had not been handed over: the attempt does not count.
    Return,
}

/// The receiving end of a subscription.
pub trait Source: Send + Sync + fmt::Debug {
    /// Appends up to `max` deliveries to `out`. Never waits. One caller at a time.
    ///
    /// A `max` of 0 says that nothing is wanted until the next fetch: what this source was told of
    /// goes to others that share it, and the sink is not called meanwhile.
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow;

    /// Settles deliveries by their tags. Each tag is settled once (the hub sees to it). Answers those
    /// whose lease has ended: their verdict had no effect.
    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64>;

    /// The message of a delivery that is out: a source keeps what it gave until it is settled.
    /// `None` if the lease has ended, or if retention has dropped the event meanwhile.
    fn held(&self, tag: u64) -> Option<Message>;

    /// How safe the message of a delivery is: what takes its place must not be less so. A broker inside the process
    /// gives what it has.
    fn level(&self, _tag: u64) -> Level {
        Level::Broker
    }

    /// Renews the lease of a delivery, counted from now. `Stale` if it has ended.
    fn extend(&self, tag: u64, lease: Duration) -> Result<(), Error>;

    /// Moves an event subscription's group. Deliveries out are still settled, without effect on
    /// the new place.
    fn seek(&self, to: Start) -> Result<(), Error>;

    /// Ends the subscription: nothing is fetched after it; deliveries not settled go to others,
    /// marked as redelivered. Safe to call again.
    fn close(&self);
}

/// The hub's end of a subscription. Its methods never block and may be called under the broker's
/// locks only where said.
pub trait Sink: Send + Sync {
    /// A fetch would give something. Called once after a `Flow::Idle`; with no lock held.
    fn ready(&self);

    /// The leases of these tags have ended. With no lock held.
    fn revoked(&self, tags: &[u64]);

    /// The connection of these is gone, and their leases with it. Their handlers run on, and may still be done with
    /// them before they come again. With no lock held.
    fn broken(&self, ended: Vec<Broken>) {
        let tags: Vec<u64> = ended.iter().map(|own| own.tag).collect();
        self.revoked(&tags);
    }
}

/// A delivery that was out when its connection broke.
#[derive(Debug)]
pub struct Broken {
    /// The source's name for it.
    pub tag: u64,
    /// The message.
    pub message: Message,
    /// As it was in the [`Delivery`].
    pub partition: u32,
    /// As it was in the [`Delivery`].
    pub offset: i64,
}

/// Settings of a topic. Fields left `None` take the backend's default, or stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSpec {
    /// Events: number of partitions.
    pub partitions: Option<u32>,
    /// Messages kept, at most: tasks waiting or out; events in the log.
    pub messages_max: Option<u64>,
    /// Bytes kept, at most.
    pub bytes_max: Option<u64>,
    /// When a maximum is reached: `true` drops the oldest (and counts it), `false` lets publishers wait.
    pub drop_oldest: Option<bool>,
    /// Events: dropped when older than this.
    pub age_max: Option<Duration>,
    /// Messages without a TTL of their own expire after this.
    pub ttl: Option<Duration>,
}

/// Answer to [`Broker::declare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// Made by this call.
    Created,
    /// It was there, with the same settings.
    Existed,
}

/// What a backend knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// `task` or `event`.
    pub kind: &'static str,
    /// Tasks: waiting, due now. Events: in the log.
    pub messages: u64,
    /// Tasks: handed over, not settled.
    pub unsettled: u64,
    /// Tasks: waiting for their time.
    pub delayed: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Live subscriptions.
    pub consumers: u64,
    /// Messages expired, dropped by policy.
    pub expired: u64,
    /// Messages dropped by `drop_oldest` or retention.
    pub dropped: u64,
    /// Events: first offset kept and next offset, per partition.
    pub partitions: Vec<(i64, i64)>,
    /// Events: per group, events not yet settled.
    pub lag: std::collections::BTreeMap<String, u64>,
}

/// Administration, for backends that have it.
pub trait Admin: Send + Sync {
    /// The topics that match a pattern, described.
    fn describe(&self, pattern: &str, deadline: Moment) -> Pending<Vec<Description>>;

    /// Removes waiting messages of a topic; answers how many. Deliveries of tasks that are out stay;
    /// events that are out can be acknowledged, but not come back.
    fn purge(&self, topic: &str, deadline: Moment) -> Pending<u64>;

    /// Removes a topic with all its messages; subscriptions stay and wait for it to come back.
    fn delete(&self, topic: &str, deadline: Moment) -> Pending<()>;
}

/// What a closing broker leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloseReport {
    /// Messages that were not delivered and are gone with this process.
    pub lost: u64,
    /// Messages kept on disk or at the server.
    pub kept: u64,
}

/// A step in the life of a backend's connection.
#[derive(Debug, Clone)]
pub enum BackendEvent {
    /// Connected.
    Connected(Epoch),
    /// The connection is gone.
    Lost(Error),
    /// The server asks publishers to stop (alarm).
    Blocked(String),
    /// It takes messages again.
    Unblocked,
    /// Credentials or rights refused.
    Denied(Error),
    /// Something that a person should look at; the connection is as it was.
    Warned(String),
}

/// Supplies tokens to log in with.
pub trait TokenProvider: Send + Sync {
    /// A token, and when it expires (milliseconds since 1970). Called on a thread of the library.
    ///
    /// # Errors
    /// Whatever keeps it from having one; the login is tried again later.
    fn token(&self) -> Result<(String, i64), Error>;
}

/// The hub, as backends see it. Never blocks; called with no lock held.
pub trait BackendSink: Send + Sync {
    /// The connection changed.
    fn event(&self, event: BackendEvent);

    /// Late outcomes, each ticket once.
    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>);
}

/// What a backend is given when it is made.
#[derive(Clone)]
pub struct Context {
    /// Time.
    pub clock: Clock,
    /// Sizes.
    pub limits: Limits,
    /// Prefix of message ids made here; random, one per hub.
    pub id_prefix: u64,
    /// The hub whose threads call the broker; 0 while it is in none.
    pub hub: u64,
    /// Where events and late outcomes go.
    pub sink: Arc<dyn BackendSink>,
}

/// What the receipts of a backend say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipts {
    /// The level that a publish reaches.
    pub level: Level,
    /// [`Taken::level`] tells it at once; else it comes by ticket.
    pub at_once: bool,
}

/// Where a backend inside the process keeps its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Storage {
    /// `memory` or `disk`.
    pub storage: &'static str,
    /// Bytes of all messages held.
    pub bytes: u64,
    /// And at most.
    pub bytes_max: u64,
    /// Disk: the directory.
    pub directory: Option<String>,
    /// Disk: bytes of the files in it.
    pub file_bytes: Option<u64>,
    /// Disk: bytes that are free.
    pub disk_free_bytes: Option<u64>,
    /// Disk: why no message is taken now.
    pub full: Option<String>,
    /// Disk: what was found damaged when it was opened.
    pub damage: Option<String>,
}

/// A backend. Object-safe; held as `Arc<dyn Broker>`.
pub trait Broker: Send + Sync + fmt::Debug + 'static {
    /// Which kind it is.
    fn kind(&self) -> BackendKind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// What its receipts say.
    fn receipts(&self) -> Receipts {
        Receipts { level: Level::Broker, at_once: false }
    }

    /// Where it keeps messages, if that is in this process.
    fn storage(&self) -> Option<Storage> {
        None
    }

    /// One attempt to connect. Restores nothing; a later loss is an event.
    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()>;

    /// Gives up the connection of this epoch, though it looks alive: what is on its way ends. One that is gone already
    /// stays so, and nothing is told of it.
    fn disconnect(&self, _epoch: Epoch) {}

    /// Opens again, on the present connection, the subscriptions that lost theirs: with the same
    /// specs and sinks. The hub calls it after each connect.
    fn restore(&self) -> Pending<()> {
        crate::runtime::ready(Ok(()))
    }

    /// Makes a topic, or checks that it is as asked: a difference is `Conflict` with both values.
    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared>;

    /// The place for records of `topic`; made if it is not there. Kept by the caller and used for
    /// every publish.
    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>, Error>;

    /// Opens a subscription. Deliveries start at once; `sink.ready` tells of the first.
    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>>;

    /// Administration, if the backend has any.
    fn admin(&self) -> Option<&dyn Admin>;

    /// Flushes and closes; records not confirmed complete as `Unknown` or `NotSent`. In time.
    fn close(&self, deadline: Moment) -> Pending<CloseReport>;
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("clock", &self.clock).field("id_prefix", &self.id_prefix).finish()
    }
}
