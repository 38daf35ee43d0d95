//! The option documents of the calls. `{}` is the defaults, where nothing is required.

mod start;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::document::read;
use super::forms::{words, As, Factor, Maybe, Ms, Num, Text, Time, Us, Word};
pub use super::message::Meta;
pub use super::routes::DeclareOptions;
use super::{check_name, check_pattern, is_pattern, EmbeddedConfig, RetryPolicy, DAY_MS, DECADE_MS, TIB};
use crate::broker::{BackendKind, Level, Ordered, Start};
use crate::error::{Error, Kind, Result};
use crate::limits::{CONCURRENCY_MAX, PARTITIONS_MAX, PREFETCH_MAX, PRIORITY_MAX, TYPE_BYTES_MAX};
use crate::message::TopicKind;

/// Options of `hmq_subscribe` and `hmq_subscribe_inbox`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SubscribeOptions {
    /// A topic, or a pattern.
    pub topic: String,
    /// Task or event; none: by route.
    #[serde(default, with = "Maybe::<Word<TopicKind>>")]
    pub kind: Option<TopicKind>,
    /// Who shares the messages.
    #[serde(default)]
    pub group: GroupChoice,
    /// Deliveries out and not settled, at most; none: the hub's.
    #[serde(default, with = "Maybe::<Num<usize, 1, { PREFETCH_MAX as u64 }>>")]
    pub prefetch: Option<usize>,
    /// Who asks for deliveries.
    #[serde(default = "auto", with = "As::<Word<Credit>>")]
    pub credit: Credit,
    /// Calls of the handler at the same time.
    #[serde(default = "one", with = "As::<Num<usize, 1, { CONCURRENCY_MAX as u64 }>>")]
    pub concurrency: usize,
    /// Order among them; none: the route's.
    #[serde(default, with = "Maybe::<Word<Ordered>>")]
    pub ordered: Option<Ordered>,
    /// What happens to a message whose handler failed; what is absent is the hub's.
    #[serde(default)]
    pub retry: RetryOverride,
    /// Where messages go that used up their attempts.
    #[serde(default)]
    pub dead_letter: DeadLetterChoice,
    /// Which messages are handed over; the others count as handled.
    #[serde(default)]
    pub filter: Option<Filter>,
    /// Events: where a group without offsets starts.
    #[serde(default, deserialize_with = "start::maybe_start")]
    #[cfg_attr(test, schemars(schema_with = "start::start_schema_or_null"))]
    pub start: Option<Start>,
    /// A delivery not settled for this long is taken back; none: when the subscription ends.
    #[serde(default, rename = "lease_ms", with = "Maybe::<Ms<1, DAY_MS>>")]
    pub lease: Option<Duration>,
    /// A message whose id was handled within `failover.dedup_window_ms` is acknowledged and not handed over.
    #[serde(default)]
    pub dedup: bool,
}

impl SubscribeOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape. `Name`: the topic is not one.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("subscribe options", json)?;
        check_pattern("subscribe options: `topic`", &options.topic)?;
        if let DeadLetterChoice::Topic(topic) = &options.dead_letter {
            check_name("subscribe options: `dead_letter`", topic)?;
        }
        Ok(options)
    }
}

fn auto() -> Credit {
    Credit::Auto
}

fn one() -> usize {
    1
}

words! {
    /// Who asks for deliveries.
    Credit {
        /// They come as long as there is room in the prefetch.
        Auto = "auto",
        /// They come when `hmq_sub_request` asked for them.
        Manual = "manual",
    }
}

/// Who shares the messages of an event subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GroupChoice {
    /// The hub's group.
    #[default]
    Hub,
    /// Nobody: this subscriber gets all.
    Private,
    /// The members of this group.
    Named(String),
}

impl<'de> Deserialize<'de> for GroupChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Maybe::<Text<200>>::deserialize(deserializer)?;
        Ok(name.map_or(GroupChoice::Private, GroupChoice::Named))
    }
}

/// Where messages go that used up their attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeadLetterChoice {
    /// To `<topic>.dlq`.
    #[default]
    Default,
    /// Nowhere: they are dropped and counted.
    None,
    /// To this topic.
    Topic(String),
}

impl<'de> Deserialize<'de> for DeadLetterChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;

        impl Visitor<'_> for Choice {
            type Value = DeadLetterChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or the name of a topic")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<DeadLetterChoice, E> {
                Ok(if on { DeadLetterChoice::Default } else { DeadLetterChoice::None })
            }

            fn visit_unit<E: de::Error>(self) -> Result<DeadLetterChoice, E> {
                Ok(DeadLetterChoice::None)
            }

            fn visit_str<E: de::Error>(self, topic: &str) -> Result<DeadLetterChoice, E> {
                Ok(DeadLetterChoice::Topic(topic.to_owned()))
            }
        }

        deserializer.deserialize_any(Choice)
    }
}

/// Retry settings of one subscription; what is absent is the hub's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RetryOverride {
    /// Times a message is handed over before it becomes a dead letter.
    #[serde(with = "Maybe::<Num<u32, 1, 10_000>>")]
    pub attempts: Option<u32>,
    /// Wait before the second attempt.
    #[serde(rename = "delay_ms", with = "Maybe::<Ms<0, DAY_MS>>")]
    pub delay: Option<Duration>,
    /// By which the wait grows with each attempt.
    #[serde(with = "Maybe::<Factor>")]
    pub factor: Option<f64>,
    /// Longest wait.
    #[serde(rename = "delay_max_ms", with = "Maybe::<Ms<0, DAY_MS>>")]
    pub delay_max: Option<Duration>,
    /// Spreads the waits.
    pub jitter: Option<bool>,
}

impl RetryOverride {
    /// The settings in force, given the hub's. A delay and a longest delay of which only one is
    /// set here pull the other along.
    ///
    /// `Config`: both are set, and contradict each other.
    pub fn over(&self, hub: &RetryPolicy) -> Result<RetryPolicy> {
        if let (Some(delay), Some(delay_max)) = (self.delay, self.delay_max) {
            if delay_max < delay {
                let text = "subscribe options: `retry.delay_max_ms` is less than `retry.delay_ms`";
                return Err(Error::new(Kind::Config, text).at("retry.delay_max_ms", 0, 0));
            }
        }
        let delay_max = self.delay_max.unwrap_or_else(|| hub.delay_max.max(self.delay.unwrap_or_default()));
        Ok(RetryPolicy {
            attempts: self.attempts.unwrap_or(hub.attempts),
            delay: self.delay.unwrap_or(hub.delay).min(delay_max),
            factor: self.factor.unwrap_or(hub.factor),
            delay_max,
            jitter: self.jitter.unwrap_or(hub.jitter),
        })
    }
}

/// Which messages are handed over: those that fit all that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Exactly this key.
    pub key: Option<String>,
    /// Exactly this type.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// All of these headers, with exactly these values.
    pub headers: BTreeMap<String, String>,
}

/// Options of `hmq_replay` and `hmq_replay_inbox`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplayOptions {
    /// A topic, or a pattern.
    pub topic: String,
    /// Events at or after this time; none: from the oldest kept.
    #[serde(default, with = "Maybe::<Time>")]
    pub from: Option<i64>,
    /// Events before this time; none: to the last one that is there now.
    #[serde(default, with = "Maybe::<Time>")]
    pub to: Option<i64>,
    /// Which events are handed over.
    #[serde(default)]
    pub filter: Option<Filter>,
    /// Counts only.
    #[serde(default)]
    pub dry_run: bool,
    /// Events per second, at most; none: as fast as they are handled.
    #[serde(default, with = "Maybe::<Num<u32, 1, 10_000_000>>")]
    pub rate_per_second: Option<u32>,
    /// Goes on with new events instead of ending.
    #[serde(default)]
    pub follow: bool,
}

impl ReplayOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape, or contradictory. `Name`: the topic is not one.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("replay options", json)?;
        check_pattern("replay options: `topic`", &options.topic)?;
        let conflict =
            |path: &str, text: &str| Err(Error::new(Kind::Config, format!("replay options: {text}")).at(path, 0, 0));
        match (options.from, options.to) {
            (Some(from), Some(to)) if to < from => conflict("to", "`to` is before `from`"),
            (_, Some(_)) if options.follow => conflict("follow", "`follow` never ends, but `to` is set"),
            _ if options.follow && options.dry_run => conflict("follow", "`follow` never ends, but `dry_run` is set"),
            _ => Ok(options),
        }
    }
}

/// Options of `hmq_pub_new`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PublisherOptions {
    /// Where its messages go.
    pub topic: String,
    /// Task or event; none: by route.
    #[serde(default, with = "Maybe::<Word<TopicKind>>")]
    pub kind: Option<TopicKind>,
    /// Priority of messages that have none.
    #[serde(default, with = "Maybe::<Num<u8, 0, { PRIORITY_MAX as u64 }>>")]
    pub priority: Option<u8>,
    /// Time to live of messages that have none; 0: they do not expire.
    #[serde(default, with = "As::<Num<i64, 0, DECADE_MS>>")]
    pub ttl_ms: i64,
    /// Delay of messages that have none; 0: at once.
    #[serde(default, with = "As::<Num<i64, 0, DECADE_MS>>")]
    pub delay_ms: i64,
    /// Type of messages that have none.
    #[serde(default, rename = "type", with = "As::<Text<TYPE_BYTES_MAX>>")]
    pub type_: String,
    /// Headers that all messages get, beside their own.
    #[serde(default, deserialize_with = "pairs")]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub headers: Vec<(String, String)>,
    /// How safe a message must be for its publish to succeed.
    #[serde(default, with = "Maybe::<Word<Level>>")]
    pub require: Option<Level>,
}

impl PublisherOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape. `Name`: the topic is not one.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("publisher options", json)?;
        check_name("publisher options: `topic`", &options.topic)?;
        Ok(options)
    }
}

fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    BTreeMap::deserialize(deserializer).map(|map: BTreeMap<String, String>| map.into_iter().collect())
}

impl DeclareOptions {
    /// Reads the options of `hmq_declare`.
    ///
    /// `Config`: not a document of this shape. `Name`: the name is not one.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("declare options", json)?;
        check_name("declare options: `name`", &options.name)?;
        Ok(options)
    }
}

/// Options of `hmq_describe`, `hmq_purge` and `hmq_delete`: which topics.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TopicSelector {
    /// One topic.
    pub name: Option<String>,
    /// The topics of a pattern; `#` if neither is set.
    pub pattern: Option<String>,
    /// Only of this kind.
    #[serde(with = "Maybe::<Word<TopicKind>>")]
    pub kind: Option<TopicKind>,
}

impl TopicSelector {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape, or both set. `Name`: not a name, not a pattern.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("topic selector", json)?;
        match (&options.name, &options.pattern) {
            (Some(_), Some(_)) => {
                let text = "topic selector: `name` and `pattern` are both set; keep one of them";
                return Err(Error::new(Kind::Config, text).at("pattern", 0, 0));
            }
            (Some(name), None) => check_name("topic selector: `name`", name)?,
            (None, Some(pattern)) => check_pattern("topic selector: `pattern`", pattern)?,
            (None, None) => {}
        }
        Ok(options)
    }

    /// The name or pattern; `#` if neither is set.
    pub fn as_pattern(&self) -> &str {
        self.name.as_deref().or(self.pattern.as_deref()).unwrap_or("#")
    }
}

words! {
    /// What is done with dead letters.
    DeadLetterAction {
        /// They are listed.
        List = "list",
        /// They are published again to where they came from.
        Redrive = "redrive",
        /// They are removed.
        Discard = "discard",
    }
}

/// Options of `hmq_dead_letters`: what is done with which.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterQuery {
    /// What is done.
    #[serde(with = "As::<Word<DeadLetterAction>>")]
    pub action: DeadLetterAction,
    /// Those of this topic, or of the topics of a pattern.
    pub topic: Option<String>,
    /// Those with these ids.
    pub ids: Option<Vec<String>>,
    /// Those with exactly this reason.
    pub reason: Option<String>,
    /// So many, at most.
    #[serde(with = "As::<Num<usize, 1, 10_000>>")]
    pub limit: usize,
    /// Tells what would be done.
    pub dry_run: bool,
}

impl Default for DeadLetterQuery {
    fn default() -> Self {
        Self { action: DeadLetterAction::List, topic: None, ids: None, reason: None, limit: 100, dry_run: false }
    }
}

fn refused(path: &str, text: &str) -> Error {
    Error::new(Kind::Config, text).at(path, 0, 0)
}

impl DeadLetterQuery {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape. `Name`: the topic is not one.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("dead letter query", json)?;
        if let Some(topic) = &options.topic {
            check_pattern("dead letter query: `topic`", topic)?;
        }
        // A list that came out empty, or a topic left out, must not become "all there are".
        if options.ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(refused("ids", "dead letter query: `ids` is empty: name some, or leave it out"));
        }
        if options.action != DeadLetterAction::List && options.topic.is_none() {
            return Err(refused(
                "topic",
                "dead letter query: `topic` is missing: name the topic, or a pattern; \"#\" is all of them",
            ));
        }
        Ok(options)
    }

    /// Whether it speaks of more than one topic.
    pub fn is_wide(&self) -> bool {
        self.topic.as_deref().is_none_or(is_pattern)
    }
}

words! {
    /// What an inbox's descriptor is.
    Signal {
        /// An eventfd: cheapest, to be polled only.
        Eventfd = "eventfd",
        /// A socket: for loops that insist on reading.
        Socket = "socket",
    }
}

/// Options of `hmq_inbox_new`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct InboxOptions {
    /// Events it holds, beside deliveries, which are bounded by their prefetch.
    #[serde(with = "As::<Num<usize, 1, 1_048_576>>")]
    pub capacity: usize,
    /// What its descriptor is.
    #[serde(with = "As::<Word<Signal>>")]
    pub signal: Signal,
    /// How long a poll watches before it sleeps, in microseconds: costs a core, saves a wake-up.
    #[serde(rename = "spin_us", with = "As::<Us<0, 1000>>")]
    pub spin: Duration,
    /// Receives state changes of backends too.
    pub state: bool,
    /// Receives log lines too.
    pub log: bool,
    /// Receives what became of kept messages too.
    pub fate: bool,
}

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            capacity: 1024,
            signal: Signal::Eventfd,
            spin: crate::limits::SPIN,
            state: false,
            log: false,
            fate: false,
        }
    }
}

impl InboxOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape.
    pub fn from_json(json: &str) -> Result<Self> {
        read("inbox options", json)
    }
}

/// Options of `hmq_sub_seek`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SeekOptions {
    /// Where the group goes on.
    #[serde(deserialize_with = "start::start")]
    #[cfg_attr(test, schemars(schema_with = "start::start_schema"))]
    pub to: Start,
}

impl SeekOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape.
    pub fn from_json(json: &str) -> Result<Self> {
        read("seek options", json)
    }
}

/// Options of `hmq_broker_open`: a broker on its own.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BrokerOptions {
    /// Which kind.
    #[serde(with = "As::<Word<BackendKind>>")]
    pub backend: BackendKind,
    /// Embedded: memory that its messages may take.
    #[serde(with = "As::<Num<usize, 65_536, TIB>>")]
    pub memory_bytes_max: usize,
    /// Embedded: partitions of an event topic that names no number.
    #[serde(with = "As::<Num<u32, 1, { PARTITIONS_MAX as u64 }>>")]
    pub partitions: u32,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        let EmbeddedConfig { memory_bytes_max, partitions } = EmbeddedConfig::default();
        Self { backend: BackendKind::Embedded, memory_bytes_max, partitions }
    }
}

impl BrokerOptions {
    /// Reads the options. The document may not be empty: which broker is a choice.
    ///
    /// `Config`: not a document of this shape. `Unsupported`: this build has no such backend.
    pub fn from_json(json: &str) -> Result<Self> {
        let options: Self = read("broker options", json)?;
        match options.backend {
            BackendKind::Embedded => Ok(options),
            BackendKind::Custom => {
                let text = "broker options: a custom broker is made by hmq_broker_custom";
                Err(Error::new(Kind::Config, text).at("backend", 0, 0))
            }
            BackendKind::RabbitMq | BackendKind::Kafka => {
                let text = format!("broker options: this build has no {} backend yet", options.backend.name());
                Err(Error::new(Kind::Unsupported, text).at("backend", 0, 0))
            }
        }
    }
}

/// Options of `hmq_init`: none so far.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct InitOptions {}

impl InitOptions {
    /// Reads the options.
    ///
    /// `Config`: not a document of this shape.
    pub fn from_json(json: &str) -> Result<Self> {
        read("init options", json)
    }
}

#[cfg(test)]
super::forms::inline_schema!([] GroupChoice, serde_json::json!({"type": ["string", "null"], "minLength": 1}));
#[cfg(test)]
super::forms::inline_schema!([] DeadLetterChoice, serde_json::json!({"type": ["boolean", "string", "null"]}));

#[cfg(test)]
mod tests;
