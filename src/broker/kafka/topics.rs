//! Topics of the cluster: made when they are first used, declared, and what is known of them here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::error::{error, of};
use super::raw::{Client, Code, NewTopic, Topic};
use super::Shared;
use crate::broker::{Declared, TopicSpec};
use crate::clock::{Clock, Moment};
use crate::error::{Error, Kind, Result};
use crate::limits::TOPICS_MAX;
use crate::message::TopicKind;
use crate::sync::Mutex;

/// A topic that could not be made is not asked for again before this.
const REFUSED_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
enum Known {
    /// It is being made.
    Making,
    /// It is there, or was.
    There,
    /// It is not there and could not be made.
    Refused(Error, Moment),
}

/// The kind that a topic is used as here, and whether it is there.
type Entry = (Option<TopicKind>, Option<Known>);

/// What is known of topics.
pub(super) struct Topics {
    clock: Clock,
    known: Mutex<HashMap<String, Entry>>,
    /// Some topic is not as it should be: whoever publishes looks which.
    troubled: AtomicBool,
}

impl Topics {
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), known: Mutex::default(), troubled: AtomicBool::new(false) }
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
        if !matches!(state, Some(Known::There)) {
            self.troubled.store(true, Ordering::Release);
        }
        self.known.lock().entry(topic.to_owned()).or_default().1 = state;
    }

    /// Whether a topic may have to be made before it is published to.
    pub fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Acquire)
    }

    /// Why nothing can be published to a topic, if that is known.
    pub fn refused(&self, topic: &str) -> Option<Error> {
        let known = self.known.lock();
        match &known.get(topic)?.1 {
            Some(Known::Refused(why, until)) if *until > self.clock.now() => Some(why.clone()),
            _ => None,
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
                self.troubled.store(true, Ordering::Release);
            }
        }
    }

    pub fn forget(&self, topic: &str) {
        self.known.lock().remove(topic);
        self.troubled.store(true, Ordering::Release);
    }
}

impl Shared {
    /// Sees to it that a topic is there, without waiting for it: what is published meanwhile waits at the
    /// client.
    pub fn make_soon(self: &Arc<Self>, topic: &str) {
        if !self.topics.begin(topic) {
            return;
        }
        let (own, topic) = (Arc::clone(self), topic.to_owned());
        let unmade = topic.clone();
        let timeout = self.settings.connection_timeout;
        let started = crate::runtime::handle().map(|handle| {
            handle.spawn_blocking(move || drop(own.make(&topic, timeout)));
        });
        if started.is_err() {
            // Nobody makes it now.
            self.topics.set(&unmade, None);
        }
    }

    /// Makes a topic if it is not there; waits for the answer.
    pub fn make(&self, topic: &str, timeout: Duration) -> Result<Declared> {
        let made = self.producer().and_then(|producer| {
            let spec = self.configured(topic);
            make(&producer.client, topic, &self.settings, &spec, timeout)
        });
        let state = match &made {
            Ok(_) => Some(Known::There),
            Err(why) if matches!(why.kind(), Kind::BackendDown | Kind::Timeout | Kind::Closed) => None,
            Err(why) => Some(Known::Refused(why.clone(), self.context.clock.now().plus(REFUSED_FOR))),
        };
        self.topics.set(topic, state);
        self.wake_publishers();
        made
    }

    /// What the configuration says of a topic that is made here.
    fn configured(&self, topic: &str) -> TopicSpec {
        let found = self.settings.topics.iter().find(|(pattern, _)| pattern.matches(topic));
        found.map(|(_, spec)| spec.clone()).unwrap_or_default()
    }

    /// Makes a topic with these settings, or compares them with what is there.
    pub fn declared(&self, topic: &str, spec: &TopicSpec, timeout: Duration) -> Result<Declared> {
        check(spec)?;
        let producer = self.producer()?;
        let declared = match make(&producer.client, topic, &self.settings, spec, timeout)? {
            Declared::Created => Declared::Created,
            Declared::Existed => compare(&producer.client, topic, spec, timeout)?,
        };
        self.topics.set(topic, Some(Known::There));
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

fn make(
    client: &Arc<Client>,
    topic: &str,
    settings: &super::Settings,
    spec: &TopicSpec,
    timeout: Duration,
) -> Result<Declared> {
    if partitions(client, topic, timeout)?.is_some() {
        return Ok(Declared::Existed);
    }
    let count = spec.partitions.unwrap_or(settings.kafka.partitions);
    let new = NewTopic {
        name: topic,
        partitions: i32::try_from(count).unwrap_or(i32::MAX),
        replication: i32::from(settings.kafka.replication),
        settings: &own_settings(spec, count),
    };
    match client.create_topic(&new, timeout) {
        Ok(()) => {
            // The client hears of it now, and not by and by. What it answers is not the matter.
            drop(partitions(client, topic, timeout));
            Ok(Declared::Created)
        }
        Err(failure) if failure.code == Code::TopicAlreadyExists => Ok(Declared::Existed),
        Err(failure) => Err(of(&format!("topic `{topic}` is not there and was not made"), &failure)),
    }
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
