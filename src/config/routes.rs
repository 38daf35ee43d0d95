//! The lists `routes` and `topics`: what is so for which names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failover::Overflow;
use super::forms::{words, As, Maybe, Ms, Num, Word};
use super::DECADE_MS;
use crate::broker::{BackendKind, Ordered, TopicSpec};
use crate::limits::PARTITIONS_MAX;
use crate::message::TopicKind;

words! {
    /// What happens to publishes while their backend is away.
    OnOutage {
        /// Kept for the server, and open to the subscribers in this process.
        Local = "local",
        /// Kept for the server only.
        Spool = "spool",
        /// They fail at once.
        Fail = "fail",
        /// They are dropped and counted: for messages without value later.
        Drop = "drop",
    }
}

words! {
    /// How a message looks at a server.
    Wire {
        /// The payload as it is, metadata beside it.
        Native = "native",
        /// The payload, the key and the time; nothing else.
        Plain = "plain",
        /// CloudEvents 1.0, binary mode.
        CloudEvents = "cloudevents",
        /// As the original messaging package writes it.
        Helixagent = "helixagent",
    }
}

/// A route: which kind and backend the topics of a pattern have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Words split by `.`; `*` is one word, `#` zero or more.
    pub pattern: String,
    /// Task or event; none: as the first use says.
    #[serde(default, with = "Maybe::<Word<TopicKind>>")]
    pub kind: Option<TopicKind>,
    /// Where the messages go; none: the usual backend of the kind.
    #[serde(default, with = "Maybe::<Word<BackendKind>>")]
    pub backend: Option<BackendKind>,
    /// What happens while that backend is away; `local`, without the fallback `fail`.
    #[serde(default, with = "Maybe::<Word<OnOutage>>")]
    pub on_outage: Option<OnOutage>,
    /// How the messages look at the server.
    #[serde(default = "native", with = "As::<Word<Wire>>")]
    pub wire: Wire,
    /// Order that subscriptions keep if they do not say.
    #[serde(default, with = "Maybe::<Word<Ordered>>")]
    pub ordered: Option<Ordered>,
}

fn native() -> Wire {
    Wire::Native
}

/// Declares a document with the settings of a topic, next to what the settings are for.
macro_rules! topic_document {
    ($(#[$meta:meta])* $document:ident { $(#[$doc:meta])* $subject:ident }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $document {
            $(#[$doc])*
            pub $subject: String,
            /// Task or event; none: as routes and the first use say.
            #[serde(default, with = "Maybe::<Word<TopicKind>>")]
            pub kind: Option<TopicKind>,
            /// Events: number of partitions.
            #[serde(default, with = "Maybe::<Num<u32, 1, { PARTITIONS_MAX as u64 }>>")]
            pub partitions: Option<u32>,
            /// Messages kept, at most.
            #[serde(default, with = "Maybe::<Num<u64, 1, 1_000_000_000_000>>")]
            pub messages_max: Option<u64>,
            /// Bytes kept, at most.
            #[serde(default, with = "Maybe::<Num<u64, 1, 1_000_000_000_000_000>>")]
            pub bytes_max: Option<u64>,
            /// What happens at a maximum.
            #[serde(default, with = "Maybe::<Word<Overflow>>")]
            pub overflow: Option<Overflow>,
            /// Events: age at which they are dropped.
            #[serde(default, rename = "age_max_ms", with = "Maybe::<Ms<1, DECADE_MS>>")]
            pub age_max: Option<Duration>,
            /// Messages without a time to live of their own expire after this.
            #[serde(default, rename = "ttl_ms", with = "Maybe::<Ms<1, DECADE_MS>>")]
            pub ttl: Option<Duration>,
        }

        impl $document {
            /// The settings, for a broker.
            pub fn spec(&self) -> TopicSpec {
                TopicSpec {
                    partitions: self.partitions,
                    messages_max: self.messages_max,
                    bytes_max: self.bytes_max,
                    drop_oldest: self.overflow.map(|overflow| overflow == Overflow::DropOldest),
                    age_max: self.age_max,
                    ttl: self.ttl,
                }
            }
        }
    };
}

topic_document! {
    /// Settings of the topics of a pattern.
    TopicConfig {
        /// Words split by `.`; `*` is one word, `#` zero or more.
        pattern
    }
}

topic_document! {
    /// Options of `hmq_declare`.
    DeclareOptions {
        /// The topic.
        name
    }
}
