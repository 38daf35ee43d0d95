//! The broker inside this library: task queues and event logs in memory, with no server.
//!
//! It carries both kinds where no server is configured, and keeps what a server cannot take.
//! Everything answers at once; nothing here waits, and no thread runs unless something is due.
//!
//! Limits
//! - `memory_bytes_max` bounds the bytes of all messages held, waiting or out. Beside them each
//!   lane has at most one segment partly written, of 256 KiB or less.
//! - `messages_max` and `bytes_max` bound a topic. At a maximum `publish` takes what fits and
//!   answers `Full` for the rest; nothing is dropped unless the topic's settings ask for it.
//! - 100,000 topics, 1,024 partitions per event topic, priorities 0 to 10.
//! - An event cannot be delayed (`Unsupported`). The order of keys is kept for events; tasks are
//!   taken in order of priority, then of publishing, whatever `ordered` says.
//!
//! Data
//!
//! ```text
//! Embedded ── topics ──> Queue (tasks)   lane per priority · back · delayed
//!                        Log   (events)  partitions · groups with a tracker per partition
//! TaskSource, EventSource                leases: what is out, found by tag
//! Chain    [segment][segment][segment…]  messages behind one another, read by cursors
//! Timers   the earliest need of each queue, log and source, on one alarm of the clock
//! Memory   bytes taken and freed, and the publishers that wait
//! ```
//!
//! Operations
//! - Publish: one lock of the topic for a batch; each record is copied once, into the last
//!   segment of its lane. Idle sources are told, one for each message; busy ones look by themselves.
//! - Fetch: a run of messages is taken in one hold of the topic's lock, and leased.
//! - Settle: an ack ends the lease and lets go of the message without the topic's lock.
//!   A message that comes back is served before fresh ones of its priority (tasks), or before
//!   the cursor moves on (events).
//! - Delete: subscriptions stay, and join the topic when it is made again; a destination kept
//!   from before makes it again with its next publish.
//! - Close: queues and logs end, and everything answers `Closed` (a fetch `End`).
//!
//! A source must be closed by its owner; until then it belongs to the broker and stays subscribed.
//!
//! Locks, in the order they are taken: `Embedded::registry`, a source's `inner`, a topic's
//! `state` (several logs in the order of their ids), then one of bell, timers, waiters, pool. Sinks and
//! wakers are called with none of them held.

mod bell;
mod core;
pub mod disk;
mod event_source;
mod group;
mod lane;
mod lease;
mod log;
mod log_state;
mod memory;
mod partition;
mod queue;
mod queue_state;
mod read;
mod settings;
mod task_source;
mod timer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use self::core::{call_ready, closed, failure, Core, Life, Sinks};
use self::disk::Journal;
use self::event_source::EventSource;
use self::log::Log;
use self::queue::Queue;
use self::settings::Settings;
use self::task_source::TaskSource;
use super::{
    Admin, BackendKind, Batch, Broker, Capabilities, CloseReport, Context, Declared, Description, Destination, Epoch,
    Level, Ordered, Receipts, Sink, Source, Storage, SubscribeSpec, Support, Taken, TopicSpec,
};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind, Result};
use crate::limits::{FOREIGN_NAME_BYTES_MAX, SPAN_MS_MAX, TOPICS_MAX};
use crate::message::TopicKind;
use crate::pattern::Pattern;
use crate::runtime::{ready, Pending};
use crate::sync::RwLock;

/// What the embedded broker is opened with.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Bytes of all messages held, at most.
    pub memory_bytes_max: usize,
    /// Partitions of an event topic that names no number.
    pub partitions: u32,
    /// Settings of topics by pattern; the first that matches gives what a declaration leaves open.
    pub topics: Vec<(String, TopicSpec)>,
}

/// The embedded broker.
pub struct Embedded {
    core: Arc<Core>,
    partitions: u32,
    configured: Vec<(Pattern, TopicSpec)>,
    registry: RwLock<Registry>,
}

/// Guarded together: a topic that is made is joined by every subscription that matches it.
#[derive(Default)]
struct Registry {
    closed: bool,
    topics: HashMap<Arc<str>, Topic>,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Clone)]
enum Topic {
    Tasks(Arc<Queue>),
    Events(Arc<Log>),
}

struct Subscription {
    id: u64,
    pattern: Pattern,
    source: AnySource,
}

#[derive(Clone)]
enum AnySource {
    Tasks(Arc<TaskSource>),
    Events(Arc<EventSource>),
}

impl Embedded {
    /// Opens a broker without messages; `Name` or `Arg` if a configured topic cannot be.
    pub fn open(cfg: EmbeddedConfig, cx: Context) -> Result<Arc<Self>> {
        Self::open_over(cfg, cx, None)
    }

    /// As [`Embedded::open`], with a journal that is told what must leave the disk too.
    fn open_over(cfg: EmbeddedConfig, cx: Context, journal: Option<Arc<Journal>>) -> Result<Arc<Self>> {
        let mut configured = Vec::with_capacity(cfg.topics.len());
        for (pattern, spec) in cfg.topics {
            settings::check(&pattern, TopicKind::Event, &spec)?;
            configured.push((Pattern::parse(&pattern)?, spec));
        }
        Ok(Arc::new_cyclic(|own| Self {
            core: Core::new(&cx, cfg.memory_bytes_max, own.clone(), journal),
            partitions: cfg.partitions,
            configured,
            registry: RwLock::default(),
        }))
    }

    /// Takes over a topic of an earlier process.
    fn restore_topic(&self, row: &disk::TopicRow) -> Topic {
        let mut registry = self.registry.write();
        let asked = TopicSpec { partitions: Some(row.partitions), ..row.asked.clone() };
        let topic = self.make_topic(row.id, &row.name, row.kind, &asked);
        registry.topics.insert(Arc::from(row.name.as_str()), topic.clone());
        self.core.skip_ids(row.id);
        topic
    }

    /// Messages that are not settled, and events that are kept.
    fn kept(&self) -> u64 {
        let described = self.topics().into_iter().map(|topic| topic.describe());
        described
            .map(|topic| {
                topic.messages + topic.delayed + if topic.kind == TopicKind::Task.name() { topic.unsettled } else { 0 }
            })
            .sum()
    }

    fn make_topic(&self, id: u64, name: &str, kind: TopicKind, asked: &TopicSpec) -> Topic {
        let configured = self.configured.iter().find(|(pattern, _)| pattern.matches(name));
        let settings = Settings::resolve(asked, configured.map(|(_, spec)| spec), self.partitions);
        let name: Arc<str> = Arc::from(name);
        match kind {
            TopicKind::Task => Topic::Tasks(Queue::new(&self.core, id, &name, settings)),
            TopicKind::Event => Topic::Events(Log::new(&self.core, id, &name, settings)),
        }
    }

    /// Drops the oldest events that every group of their topic has settled, until `bytes` are
    /// free. No lock is held.
    fn evict_settled(&self, bytes: usize) {
        let logs: Vec<Arc<Log>> = self.topics().into_iter().filter_map(Topic::into_log).collect();
        for log in &logs {
            log.collect_acks();
        }
        while self.core.memory.missing(bytes) > 0 {
            let oldest = logs.iter().filter_map(|log| log.oldest_settled().map(|seq| (seq, log)));
            let mut oldest: Vec<_> = oldest.collect();
            oldest.sort_by_key(|(seq, _)| *seq);
            let Some((_, log)) = oldest.first() else { return };
            log.evict_settled(bytes, oldest.get(1).map_or(u64::MAX, |(seq, _)| *seq));
        }
    }

    /// Forgets a source that was closed.
    fn forget_source(&self, id: u64) {
        let mut registry = self.registry.write();
        registry.subscriptions.retain(|subscription| subscription.id != id);
    }

    fn topics(&self) -> Vec<Topic> {
        self.registry.read().topics.values().cloned().collect()
    }

    fn find(&self, name: &str) -> Option<Topic> {
        self.registry.read().topics.get(name).cloned()
    }

    /// The topic `name`; made with `asked` if it is not there.
    fn topic(&self, name: &str, kind: TopicKind, asked: &TopicSpec) -> Result<(Topic, Declared)> {
        let mut sinks = Sinks::new();
        let made = self.registry.write().topic(self, name, kind, asked, &mut sinks);
        call_ready(sinks);
        made
    }

    fn declare_now(&self, name: &str, kind: TopicKind, asked: &TopicSpec) -> Result<Declared> {
        settings::check(name, kind, asked)?;
        let (topic, declared) = self.topic(name, kind, asked)?;
        if declared == Declared::Existed {
            topic.settings().check_same(name, asked)?;
        }
        Ok(declared)
    }

    fn subscribe_now(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Result<Arc<dyn Source>> {
        if spec.kind == TopicKind::Task && spec.ordered != Ordered::No {
            let text = "`ordered`: the embedded broker does not keep order by key among tasks that are out";
            return Err(failure(Kind::Unsupported, text));
        }
        let pattern = Pattern::parse(&spec.pattern)?;
        let first_timer = spec.lease.map(|lease| self.core.clock.now().plus(lease));
        let (id, source, answer): (u64, AnySource, Arc<dyn Source>) = match spec.kind {
            TopicKind::Task => {
                let source = TaskSource::new(&self.core, spec, sink);
                first_timer.map_or(Ok(()), |at| source.start_timer(at))?;
                (source.id, AnySource::Tasks(Arc::clone(&source)), source)
            }
            TopicKind::Event => {
                let source = EventSource::new(&self.core, spec, sink);
                first_timer.map_or(Ok(()), |at| source.start_timer(at))?;
                (source.id, AnySource::Events(Arc::clone(&source)), source)
            }
        };
        let mut sinks = Sinks::new();
        {
            let mut registry = self.registry.write();
            if registry.closed {
                return Err(closed());
            }
            // Reading makes nothing: a replay of a name that nobody used is empty.
            if pattern.is_exact() && !spec.read_only {
                registry.topic(self, pattern.as_str(), spec.kind, &TopicSpec::default(), &mut sinks)?;
            }
            for (name, topic) in &registry.topics {
                if pattern.receives(name, spec.kind) {
                    source.attach(topic, &mut sinks);
                }
            }
            registry.subscriptions.push(Subscription { id, pattern, source });
        }
        // A source is born busy: this call of `ready` is the one that makes it fetch first.
        call_ready(sinks);
        Ok(answer)
    }

    fn close_now(&self) -> CloseReport {
        let (topics, subscriptions) = {
            let mut registry = self.registry.write();
            registry.closed = true;
            (std::mem::take(&mut registry.topics), std::mem::take(&mut registry.subscriptions))
        };
        let lost = topics.into_values().map(|topic| topic.end(Life::Closed)).sum();
        for subscription in subscriptions {
            match subscription.source {
                AnySource::Tasks(source) => source.end(),
                AnySource::Events(source) => source.end(),
            }
        }
        self.core.memory.waiters.wake();
        CloseReport { lost, kept: 0 }
    }
}

impl Broker for Embedded {
    fn kind(&self) -> BackendKind {
        BackendKind::Embedded
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tasks: Support::Native,
            events: Support::Native,
            retry_delay: Support::Native,
            priority: Support::Native,
            ttl: Support::Native,
            delay: Support::Native,
            ordered_key: Support::Native,
            replay_time: Support::Native,
            replay_offset: Support::Native,
            headers: Support::Native,
            wildcard_tasks: Support::Native,
            wildcard_events: Support::Native,
            extend: Support::Native,
            payload_bytes_max: self.core.memory.max().min(i32::MAX as usize),
            name_bytes_max: FOREIGN_NAME_BYTES_MAX,
            delay_ms_max: SPAN_MS_MAX,
        }
    }

    fn receipts(&self) -> Receipts {
        Receipts { level: Level::Memory, at_once: true }
    }

    fn storage(&self) -> Option<Storage> {
        let (bytes, bytes_max) = (self.bytes(), self.core.memory.max() as u64);
        Some(Storage { storage: "memory", bytes, bytes_max, ..Storage::default() })
    }

    fn connect(&self, _epoch: Epoch, _deadline: Moment) -> Pending<()> {
        ready(if self.registry.read().closed { Err(closed()) } else { Ok(()) })
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, _deadline: Moment) -> Pending<Declared> {
        ready(self.declare_now(topic, kind, spec))
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>, Error> {
        Ok(match self.topic_for(topic, kind)? {
            Topic::Tasks(queue) => queue,
            Topic::Events(log) => log,
        })
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, _deadline: Moment) -> Pending<Arc<dyn Source>> {
        ready(self.subscribe_now(spec, sink))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn close(&self, _deadline: Moment) -> Pending<CloseReport> {
        ready(Ok(self.close_now()))
    }
}

impl Admin for Embedded {
    fn describe(&self, pattern: &str, _deadline: Moment) -> Pending<Vec<Description>> {
        if self.registry.read().closed {
            return ready(Err(closed()));
        }
        ready(Pattern::parse(pattern).map(|pattern| {
            let topics = self.topics().into_iter().filter(|topic| pattern.matches(topic.name()));
            let mut described: Vec<Description> = topics.map(|topic| topic.describe()).collect();
            described.sort_by(|one, other| one.name.cmp(&other.name));
            described
        }))
    }

    fn purge(&self, topic: &str, _deadline: Moment) -> Pending<u64> {
        ready(self.purge_now(topic))
    }

    fn delete(&self, topic: &str, _deadline: Moment) -> Pending<()> {
        ready(self.delete_now(topic))
    }
}

impl Embedded {
    fn purge_now(&self, topic: &str) -> Result<u64> {
        match self.find(topic) {
            Some(Topic::Tasks(queue)) => Ok(queue.purge()),
            Some(Topic::Events(log)) => Ok(log.purge()),
            None => Err(self.not_found(topic)),
        }
    }

    fn delete_now(&self, topic: &str) -> Result<()> {
        // The lock is let go before anything else is asked.
        let removed = self.registry.write().topics.remove(topic);
        let removed = removed.ok_or_else(|| self.not_found(topic))?;
        removed.end(Life::Deleted);
        if let Some(journal) = &self.core.journal {
            journal.deleted(removed.id());
        }
        Ok(())
    }

    fn topic_for(&self, topic: &str, kind: TopicKind) -> Result<Topic> {
        let found = match self.find(topic) {
            Some(found) => found,
            None => self.topic(topic, kind, &TopicSpec::default())?.0,
        };
        if found.kind() == kind {
            Ok(found)
        } else {
            Err(found.is_not(kind))
        }
    }

    /// Bytes of all messages held.
    fn bytes(&self) -> u64 {
        self.core.memory.used() as u64
    }

    fn not_found(&self, topic: &str) -> Error {
        if self.registry.read().closed {
            return closed();
        }
        failure(Kind::NotFound, format!("there is no topic {topic}"))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl Registry {
    fn topic(
        &mut self,
        broker: &Embedded,
        name: &str,
        kind: TopicKind,
        asked: &TopicSpec,
        sinks: &mut Sinks,
    ) -> Result<(Topic, Declared)> {
        if self.closed {
            return Err(closed());
        }
        if let Some(there) = self.topics.get(name) {
            let same = there.kind() == kind;
            return if same { Ok((there.clone(), Declared::Existed)) } else { Err(there.is_not(kind)) };
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(failure(Kind::Full, format!("the embedded broker holds {TOPICS_MAX} topics already")));
        }
        if !Pattern::parse(name)?.is_exact() {
            return Err(failure(Kind::Name, format!("'{name}' is a pattern, a topic is needed")));
        }
        let topic = broker.make_topic(broker.core.id(), name, kind, asked);
        if let Some(journal) = &broker.core.journal {
            journal.made(topic.id(), name, kind, topic.settings().partitions, asked);
        }
        let shared_name: Arc<str> = Arc::from(name);
        for subscription in &self.subscriptions {
            if subscription.pattern.receives(name, kind) {
                subscription.source.attach(&topic, sinks);
            }
        }
        self.topics.insert(shared_name, topic.clone());
        Ok((topic, Declared::Created))
    }
}

impl AnySource {
    /// Joins `topic` if it is of the kind subscribed to.
    fn attach(&self, topic: &Topic, sinks: &mut Sinks) {
        match (self, topic) {
            (AnySource::Tasks(source), Topic::Tasks(queue)) => {
                if source.attach(queue) {
                    sinks.push(Arc::clone(source.bell().sink()));
                }
            }
            (AnySource::Events(source), Topic::Events(log)) => source.attach(log, sinks),
            (AnySource::Tasks(_), Topic::Events(_)) | (AnySource::Events(_), Topic::Tasks(_)) => {}
        }
    }
}

impl Topic {
    fn name(&self) -> &str {
        match self {
            Topic::Tasks(queue) => &queue.name,
            Topic::Events(log) => &log.name,
        }
    }

    fn id(&self) -> u64 {
        match self {
            Topic::Tasks(queue) => queue.id,
            Topic::Events(log) => log.id,
        }
    }

    fn kind(&self) -> TopicKind {
        match self {
            Topic::Tasks(_) => TopicKind::Task,
            Topic::Events(_) => TopicKind::Event,
        }
    }

    fn settings(&self) -> &Settings {
        match self {
            Topic::Tasks(queue) => &queue.settings,
            Topic::Events(log) => &log.settings,
        }
    }

    fn describe(&self) -> Description {
        match self {
            Topic::Tasks(queue) => queue.describe(),
            Topic::Events(log) => log.describe(),
        }
    }

    fn end(&self, life: Life) -> u64 {
        match self {
            Topic::Tasks(queue) => queue.end(life),
            Topic::Events(log) => log.end(life),
        }
    }

    fn into_log(self) -> Option<Arc<Log>> {
        match self {
            Topic::Tasks(_) => None,
            Topic::Events(log) => Some(log),
        }
    }

    fn is_not(&self, asked: TopicKind) -> Error {
        let (name, there, asked) = (self.name(), self.kind().name(), asked.name());
        failure(Kind::TopicKind, format!("{name} is a topic of kind {there}, asked for as {asked}"))
    }
}

/// Publishes to a topic that was deleted since its destination was given out: it is made again.
fn publish_again(core: &Core, name: &str, kind: TopicKind, batch: &Batch<'_>) -> Taken {
    let broker = core.broker.upgrade().ok_or_else(closed);
    match broker.and_then(|broker| broker.destination(name, kind)) {
        Ok(destination) => destination.publish(batch),
        Err(error) => Taken { count: 0, first_seq: 0, level: None, stopped: Some(error.with_fate(Fate::NotSent)) },
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("core", &self.core)
            .field("topics", &self.registry.read().topics.len())
            .finish()
    }
}
