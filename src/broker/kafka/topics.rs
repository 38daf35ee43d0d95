//! Topics of the cluster: made when they are first used, declared, and what is known of them here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::error::{error, of};
use super::raw::{Client, Code, List, NewTopic, Topic};
use super::Shared;
use crate::broker::{Declared, TopicSpec};
use crate::clock::{Clock, Moment};
use crate::error::{Error, Kind, Result};
use crate::limits::TOPICS_MAX;
use crate::message::TopicKind;
use crate::sync::{Bell, Deadline, Mutex};

/// A topic that could not be made is not asked for again before this.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Longest wait for the leaders of a topic's partitions, and how often they are asked.
const LEADERS_MAX: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Asks for the end of a partition, in place of a time.
const LATEST: i64 = -1;

#[derive(Debug, Clone)]
enum Known {
    /// It is being made.
    Making,
    /// It is there, or was.
    There,
    /// It is not there and could not be made.
    Refused(Error, Moment),
}

/// Whether records for a topic can be handed over.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    There,
    /// It is being made, or has to be.
    Away,
    Refused(Error),
}

/// The kind that a topic is used as here, and whether it is there.
type Entry = (Option<TopicKind>, Option<Known>);

/// What is known of topics.
pub(super) struct Topics {
    clock: Clock,
    known: Mutex<HashMap<String, Entry>>,
    /// Rises whenever one may not be there any more: whoever publishes looks which.
    changes: AtomicU64,
}

impl Topics {
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), known: Mutex::default(), changes: AtomicU64::new(0) }
    }

    /// Fixes the kind of a topic, which the cluster does not know.
    pub fn fix_kind(&self, topic: &str, kind: TopicKind) -> Result<()> {
        let mut known = self.known.lock();
        if known.len() >= TOPICS_MAX && !known.contains_key(topic) {
            known.clear();
        }
        let (own, _) = known.entry(topic.to_owned()).or_default();
        match own {
            Some(own) if *own != kind => {
                let text = format!("`{topic}` is used for {}s here, not for {}s", own.name(), kind.name());
                Err(error(Kind::TopicKind, text))
            }
            _ => {
                *own = Some(kind);
                Ok(())
            }
        }
    }

    /// The kind of a topic that was used here.
    pub fn kind(&self, topic: &str) -> Option<TopicKind> {
        self.known.lock().get(topic).and_then(|(kind, _)| *kind)
    }

    fn set(&self, topic: &str, state: Option<Known>) {
        self.known.lock().entry(topic.to_owned()).or_default().1 = state;
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What changes when one that was there may not be there any more.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether a topic can be published to.
    pub fn standing(&self, topic: &str) -> Standing {
        match self.known.lock().get(topic).and_then(|(_, known)| known.as_ref()) {
            Some(Known::There) => Standing::There,
            Some(Known::Refused(why, until)) if *until > self.clock.now() => Standing::Refused(why.clone()),
            _ => Standing::Away,
        }
    }

    /// Why a topic could not be made when that was tried last.
    pub fn last_refusal(&self, topic: &str) -> Option<Error> {
        match &self.known.lock().get(topic)?.1 {
            Some(Known::Refused(why, _)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Whether somebody has to see to it that a topic is there; it is then theirs to do.
    fn begin(&self, topic: &str) -> bool {
        let mut known = self.known.lock();
        let state = &mut known.entry(topic.to_owned()).or_default().1;
        match state {
            Some(Known::Making | Known::There) => false,
            Some(Known::Refused(_, until)) if *until > self.clock.now() => false,
            _ => {
                *state = Some(Known::Making);
                true
            }
        }
    }

    /// Whether a topic is being made, after which publishers are woken.
    pub fn is_making(&self, topic: &str) -> bool {
        matches!(self.known.lock().get(topic), Some((_, Some(Known::Making))))
    }

    /// The topic may be gone: it is looked for again.
    pub fn doubt(&self, topic: &str) {
        if let Some((_, state)) = self.known.lock().get_mut(topic) {
            if matches!(state, Some(Known::There)) {
                *state = None;
                self.changes.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    pub fn forget(&self, topic: &str) {
        self.known.lock().remove(topic);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Sees to it that a topic is there, without waiting for it: what is published meanwhile waits.
    pub fn make_soon(self: &Arc<Self>, topic: &str) {
        if !self.topics.begin(topic) {
            return;
        }
        let (own, topic) = (Arc::clone(self), topic.to_owned());
        let unmade = topic.clone();
        let timeout = self.settings.connection_timeout;
        let started = crate::runtime::handle().map(|handle| {
            handle.spawn_blocking(move || {
                drop(own.make(&topic, timeout));
            });
        });
        if started.is_err() {
            // Nobody makes it now.
            self.topics.set(&unmade, None);
        }
    }

    /// Makes a topic if it is not there; waits for the answer.
    pub fn make(self: &Arc<Self>, topic: &str, timeout: Duration) -> Result<Declared> {
        let made = self.producer().and_then(|producer| {
            let spec = self.configured(topic);
            let (declared, partitions) = make(&producer.client, topic, &self.settings, &spec, timeout)?;
            await_leaders(&producer.client, topic, partitions);
            Ok(declared)
        });
        let state = match &made {
            Ok(_) => Some(Known::There),
            Err(why) if matches!(why.kind(), Kind::BackendDown | Kind::Timeout | Kind::Closed) => None,
            Err(why) => Some(Known::Refused(why.clone(), self.context.clock.now().plus(REFUSED_FOR))),
        };
        self.topics.set(topic, state);
        self.tend_kept();
        self.wake_publishers();
        made
    }

    /// What the configuration says of a topic that is made here.
    fn configured(&self, topic: &str) -> TopicSpec {
        let found = self.settings.topics.iter().find(|(pattern, _)| pattern.matches(topic));
        found.map(|(_, spec)| spec.clone()).unwrap_or_default()
    }

    /// Makes a topic with these settings, or compares them with what is there.
    pub fn declared(self: &Arc<Self>, topic: &str, spec: &TopicSpec, timeout: Duration) -> Result<Declared> {
        check(spec)?;
        let producer = self.producer()?;
        let (declared, partitions) = make(&producer.client, topic, &self.settings, spec, timeout)?;
        if declared == Declared::Existed {
            compare(&producer.client, topic, spec, timeout)?;
        }
        await_leaders(&producer.client, topic, partitions);
        self.topics.set(topic, Some(Known::There));
        self.tend_kept();
        Ok(declared)
    }
}

/// What a topic of a cluster cannot be told.
fn check(spec: &TopicSpec) -> Result<()> {
    let cannot = |what: &str| Err(error(Kind::Unsupported, format!("kafka does not support {what}")));
    match spec {
        TopicSpec { messages_max: Some(_), .. } => {
            cannot("a number of messages for a topic; bytes_max and age_max_ms are there")
        }
        TopicSpec { ttl: Some(_), .. } => cannot("a time to live for all messages of a topic; age_max_ms is there"),
        TopicSpec { drop_oldest: Some(false), .. } => cannot("topics that refuse what is new when they are full"),
        _ => Ok(()),
    }
}

/// Partitions of a topic, if it is there. A client that has never heard of one asks for it.
fn partitions(client: &Arc<Client>, topic: &str, timeout: Duration) -> Result<Option<i32>> {
    let named = |failure| of(&format!("topic `{topic}`"), &failure);
    let handle = Topic::new(client, topic).map_err(named)?;
    let found = client.topics(Some(&handle), timeout).map_err(named)?;
    match found.into_iter().find(|(name, _)| name == topic) {
        Some((_, Ok(count))) => Ok(Some(count)),
        Some((_, Err(failure))) if !matches!(failure.code, Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
            Err(named(failure))
        }
        _ => Ok(None),
    }
}

/// Makes a topic if it is not there; answers how many partitions it has.
fn make(
    client: &Arc<Client>,
    topic: &str,
    settings: &super::Settings,
    spec: &TopicSpec,
    timeout: Duration,
) -> Result<(Declared, i32)> {
    if let Some(count) = partitions(client, topic, timeout)? {
        return Ok((Declared::Existed, count));
    }
    let count = spec.partitions.unwrap_or(settings.kafka.partitions);
    let new = NewTopic {
        name: topic,
        partitions: i32::try_from(count).unwrap_or(i32::MAX),
        replication: i32::from(settings.kafka.replication),
        settings: &own_settings(spec, count),
    };
    match client.create_topic(&new, timeout) {
        Ok(()) => Ok((Declared::Created, new.partitions)),
        Err(failure) if failure.code == Code::TopicAlreadyExists => Ok((Declared::Existed, new.partitions)),
        Err(failure) => Err(of(&format!("topic `{topic}` is not there and was not made"), &failure)),
    }
}

/// Waits until every partition is answered for by its leader, but not for ever: one without a leader must not
/// keep the others waiting.
fn await_leaders(client: &Arc<Client>, topic: &str, partitions: i32) {
    let (pause, until) = (Bell::new(), Deadline::after(Some(LEADERS_MAX)));
    while !all_answer(client, topic, partitions, until) && !until.has_passed() {
        pause.wait(pause.heard(), Deadline::after(Some(ASK_AGAIN)));
    }
}

fn all_answer(client: &Arc<Client>, topic: &str, partitions: i32, until: Deadline) -> bool {
    let mut list = List::new();
    for number in 0..partitions {
        if list.add(topic, number, LATEST).is_err() {
            return false;
        }
    }
    let asked = client.offsets_for_times(&mut list, until.left().unwrap_or(LEADERS_MAX));
    asked.is_ok() && list.iter().all(|own| own.result.is_ok())
}

/// The settings of a topic by Kafka's names.
fn own_settings(spec: &TopicSpec, partitions: u32) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(age) = spec.age_max {
        settings.push(("retention.ms", age.as_millis().to_string()));
    }
    if let Some(bytes) = spec.bytes_max {
        // The cluster counts them for each partition.
        settings.push(("retention.bytes", (bytes / u64::from(partitions.max(1))).max(1).to_string()));
    }
    settings
}

/// Every setting that was asked for must be as it was asked for.
fn compare(client: &Arc<Client>, topic: &str, spec: &TopicSpec, timeout: Duration) -> Result<Declared> {
    let count = partitions(client, topic, timeout)?.unwrap_or_default();
    let conflict = |what: &str, there: &str, asked: &str| {
        Err(error(Kind::Conflict, format!("topic `{topic}` has {what} {there}, not {asked}")))
    };
    if let Some(asked) = spec.partitions.filter(|asked| i64::from(*asked) != i64::from(count)) {
        return conflict("partitions", &count.to_string(), &asked.to_string());
    }
    let asked = own_settings(spec, u32::try_from(count).unwrap_or_default());
    if asked.is_empty() {
        return Ok(Declared::Existed);
    }
    let there = client.topic_settings(topic, timeout).map_err(|failure| of("describe a topic", &failure))?;
    for (name, asked) in asked {
        let own = there.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value);
        if own != asked {
            return conflict(name, own, &asked);
        }
    }
    Ok(Declared::Existed)
}
