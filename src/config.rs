//! Configuration: documents and environment on one side, checked types on the other.
//!
//! A [`Config`] can only come out of [`Config::from_json`] or [`Config::from_env`], so whoever
//! holds one needs no more checks. It is made in three steps:
//!
//! ```text
//! text ── document ──> fields, each in its range ── relations ──> Config
//!         (path, line, column of what is wrong)     (both paths of what contradicts)
//! ```
//!
//! * `document` reads JSON strictly, for every call that takes JSON;
//! * `forms` are the kinds of values, with ranges; `backends`, `failover`, `routes` the sections;
//! * `env` lays the environment over a document; `relations` finds contradictions;
//! * `options` and `message` are the documents of the calls.

mod backends;
pub(crate) mod client_options;
pub mod document;
mod env;
mod failover;
pub mod forms;
pub mod message;
mod names;
pub mod options;
mod relations;
mod routes;
mod secret;
mod time;

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "rabbitmq")]
pub(crate) use backends::split_address;
pub use backends::{
    AuthMechanism, Declare, EmbeddedConfig, KafkaConfig, QueueType, RabbitmqConfig, SaslMechanism, SecurityProtocol,
    TlsConfig, TlsPolicy,
};
pub(crate) use failover::SYNC_INTERVAL;
pub use failover::{FailoverConfig, Overflow, SyncMode};
pub use message::MessageDocument;
pub use names::{check_name, check_pattern, is_pattern};
pub use options::{
    BrokerOptions, Credit, DeadLetterAction, DeadLetterChoice, DeadLetterQuery, DeclareOptions, Filter, GroupChoice,
    InboxOptions, InitOptions, Meta, PublisherOptions, ReplayOptions, RetryOverride, SeekOptions, Signal,
    SubscribeOptions, TopicSelector,
};
pub use routes::{OnOutage, RouteConfig, TopicConfig, Wire};
pub use secret::Secret;
pub use time::{format_rfc3339, parse_rfc3339};

use crate::broker::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::limits::PREFETCH_MAX;
use forms::{words, As, Factor, Maybe, Ms, Num, Text, Word};

/// One day: longer waits are mistakes in the unit.
pub(crate) const DAY_MS: u64 = 24 * 3600 * 1000;
/// Ten years: retention and times to live.
pub(crate) const DECADE_MS: u64 = crate::limits::SPAN_MS_MAX as u64;
/// More memory than this is a mistake in the unit.
pub(crate) const TIB: u64 = 1 << 40;
/// Largest message that may be allowed; a payload has to fit into one segment in memory.
const MESSAGE_BYTES_CEILING: u64 = 256 * 1024 * 1024;

words! {
    /// What opening does about servers that are away.
    Connect {
        /// Waits for them, at most the connection timeout; then opens all the same.
        Wait = "wait",
        /// Does not wait.
        Background = "background",
        /// Fails.
        Require = "require",
    }
}

words! {
    /// Which clock a hub runs on.
    ClockChoice {
        /// The machine's.
        Real = "real",
        /// One that stands still until the program moves it: for tests.
        Virtual = "virtual",
    }
}

/// The checked configuration of one hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `false`: the hub opens, and every messaging call answers `HMQ_E_DISABLED`.
    pub enabled: bool,
    /// Lays the environment over this document.
    pub env: bool,
    /// Names the hub in health, logs and at servers.
    #[serde(with = "Maybe::<Text<100>>")]
    pub name: Option<String>,
    /// Keeps messages inside this process while their server is away, and serves programs that
    /// have no server at all.
    #[serde(rename = "fallback_to_inmemory")]
    pub fallback: bool,
    /// Longest time that opening waits for servers.
    #[serde(rename = "connection_timeout_ms", with = "As::<Ms<1, 600_000>>")]
    pub connection_timeout: Duration,
    /// What opening does about servers that are away.
    #[serde(with = "As::<Word<Connect>>")]
    pub connect: Connect,
    /// Consumer group of event subscriptions that name none.
    #[serde(with = "As::<Text<200>>")]
    pub group_id: String,
    /// Which clock the hub runs on.
    #[serde(with = "As::<Word<ClockChoice>>")]
    pub clock: ClockChoice,
    /// Deliveries of one subscription that are out and not settled, at most.
    #[serde(with = "As::<Num<usize, 1, { PREFETCH_MAX as u64 }>>")]
    pub prefetch: usize,
    /// Largest payload.
    #[serde(with = "As::<Num<usize, 1, MESSAGE_BYTES_CEILING>>")]
    pub message_bytes_max: usize,
    /// Publishes on their way to servers, at most; then publishing waits.
    #[serde(with = "As::<Num<usize, 1, 1_000_000>>")]
    pub publish_window: usize,
    /// What happens to a message whose handler failed.
    pub retry: RetryPolicy,
    /// Encryption that every server connection must have.
    pub tls: TlsPolicy,
    /// The broker inside the library.
    pub embedded: EmbeddedConfig,
    /// The RabbitMQ server; none without a `host` or `nodes`.
    pub rabbitmq: Option<Box<RabbitmqConfig>>,
    /// The Kafka cluster; none without `brokers`.
    pub kafka: Option<Box<KafkaConfig>>,
    /// What happens while a server is away.
    pub failover: FailoverConfig,
    /// Which kind and backend topics have; the first match wins.
    pub routes: Vec<RouteConfig>,
    /// Settings of topics that this hub makes; the first match wins.
    pub topics: Vec<TopicConfig>,
    /// What works, but is not wise. Never holds secrets.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// What happens to a message whose handler failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Times a message is handed over before it becomes a dead letter; the first one counts.
    #[serde(with = "As::<Num<u32, 1, 10_000>>")]
    pub attempts: u32,
    /// Wait before the second attempt.
    #[serde(rename = "delay_ms", with = "As::<Ms<0, DAY_MS>>")]
    pub delay: Duration,
    /// By which the wait grows with each attempt.
    #[serde(with = "As::<Factor>")]
    pub factor: f64,
    /// Longest wait.
    #[serde(rename = "delay_max_ms", with = "As::<Ms<0, DAY_MS>>")]
    pub delay_max: Duration,
    /// Spreads the waits, so that failed messages do not all come back at one moment.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            delay: Duration::from_secs(1),
            factor: 2.0,
            delay_max: Duration::from_secs(30),
            jitter: true,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            env: false,
            name: None,
            fallback: true,
            connection_timeout: Duration::from_secs(10),
            connect: Connect::Wait,
            group_id: "helixmq".into(),
            clock: ClockChoice::Real,
            prefetch: 32,
            message_bytes_max: 1024 * 1024,
            publish_window: 5000,
            retry: RetryPolicy::default(),
            tls: TlsPolicy::default(),
            embedded: EmbeddedConfig::default(),
            rabbitmq: None,
            kafka: None,
            failover: FailoverConfig::default(),
            routes: Vec::new(),
            topics: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a document; with `"env": true` in it, the environment is laid over it. Reads the
    /// secret files it names.
    ///
    /// `Config`: not a valid document (path, line and column are told), or two settings contradict
    /// each other (both paths are told). `Secret`: a secret is not readable.
    pub fn from_json(json: &str) -> Result<Config> {
        env::with_process(|environment| Self::from_json_with(json, environment))
    }

    /// As [`from_json`](Self::from_json), with the environment given.
    pub fn from_json_with(json: &str, environment: &Environment<'_>) -> Result<Config> {
        if json.trim_ascii().is_empty() {
            let text = "config: the document is empty; hand in a JSON object (`{}` for the defaults), \
                        or call hmq_hub_open_env to read the environment";
            return Err(Error::new(Kind::Config, text).at("", 0, 0));
        }
        let config: Config = document::read("config", json)?;
        match config.env {
            true => env::over_document(json, environment),
            false => relations::finish(config, &relations::Labels::document(), environment.get),
        }
    }

    /// Reads the environment of the process alone.
    ///
    /// `Config`: as [`from_json`](Self::from_json), naming the variable. `Secret`: a secret is not
    /// readable. `Utf8`: a variable of ours is not UTF-8.
    pub fn from_env() -> Result<Config> {
        env::with_process(|environment| env::over_document("{}", environment))
    }

    /// As [`from_env`](Self::from_env), with the environment given.
    pub fn from_env_with(
        get: &dyn Fn(&str) -> Option<String>,
        all: &dyn Fn() -> Vec<(String, String)>,
    ) -> Result<Config> {
        env::over_document("{}", &Environment { get, all })
    }

    /// Everything that is in force, defaults filled in, secrets as `***`.
    pub fn effective_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Why this build cannot run it: it is valid, but names a part that is not there. `None`: it can.
    pub fn unsupported(&self) -> Option<Error> {
        relations::unsupported(self)
    }

    /// What happens to publishes of `route` (`None`: the default table) while its backend is away.
    pub fn on_outage(&self, route: Option<&RouteConfig>) -> OnOutage {
        let unset = if self.fallback { OnOutage::Local } else { OnOutage::Fail };
        route.and_then(|route| route.on_outage).unwrap_or(unset)
    }

    /// Whether a server of this kind is configured; the embedded broker always is.
    pub fn has_backend(&self, kind: BackendKind) -> bool {
        match kind {
            BackendKind::Embedded => true,
            BackendKind::RabbitMq => self.rabbitmq.is_some(),
            BackendKind::Kafka => self.kafka.is_some(),
            BackendKind::Custom => false,
        }
    }
}

/// An environment: one variable by name, and all of them.
pub struct Environment<'a> {
    /// One variable.
    pub get: &'a dyn Fn(&str) -> Option<String>,
    /// All variables.
    pub all: &'a dyn Fn() -> Vec<(String, String)>,
}

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
