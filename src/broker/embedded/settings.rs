//! The settings of one topic: what was asked for, over what the configuration gives its name,
//! over the defaults.

use std::fmt::Display;
use std::time::Duration;

use super::core::failure;
use crate::broker::TopicSpec;
use crate::error::{Kind, Result};
use crate::limits::PARTITIONS_MAX;
use crate::message::TopicKind;

/// Settings in force. A maximum that nobody gave is the largest number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub partitions: u32,
    pub messages_max: u64,
    pub bytes_max: u64,
    pub drop_oldest: bool,
    pub age_max: Option<Duration>,
    pub ttl: Option<Duration>,
}

impl Settings {
    /// `asked` over `configured` over the defaults.
    pub fn resolve(asked: &TopicSpec, configured: Option<&TopicSpec>, partitions: u32) -> Self {
        let none = TopicSpec::default();
        let configured = configured.unwrap_or(&none);
        Self {
            partitions: asked.partitions.or(configured.partitions).unwrap_or(partitions).clamp(1, PARTITIONS_MAX),
            messages_max: asked.messages_max.or(configured.messages_max).unwrap_or(u64::MAX),
            bytes_max: asked.bytes_max.or(configured.bytes_max).unwrap_or(u64::MAX),
            drop_oldest: asked.drop_oldest.or(configured.drop_oldest).unwrap_or(false),
            age_max: asked.age_max.or(configured.age_max),
            ttl: asked.ttl.or(configured.ttl),
        }
    }

    /// `Conflict` with both values if `asked` names another value than is in force.
    pub fn check_same(&self, topic: &str, asked: &TopicSpec) -> Result<()> {
        same(topic, "partitions", asked.partitions, self.partitions)?;
        same(topic, "messages_max", asked.messages_max, self.messages_max)?;
        same(topic, "bytes_max", asked.bytes_max, self.bytes_max)?;
        same(topic, "drop_oldest", asked.drop_oldest, self.drop_oldest)?;
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis());
        same(topic, "age_max_ms", millis(asked.age_max), millis(self.age_max).unwrap_or(u128::MAX))?;
        same(topic, "ttl_ms", millis(asked.ttl), millis(self.ttl).unwrap_or(u128::MAX))
    }

    /// TTL of messages without their own, in milliseconds; 0: none.
    pub fn ttl_ms(&self) -> i64 {
        self.ttl.map_or(0, |ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1))
    }
}

/// `Arg` if `spec` asks for what cannot be, or for what topics of `kind` do not have.
pub(super) fn check(topic: &str, kind: TopicKind, spec: &TopicSpec) -> Result<()> {
    let wrong = |text: String| Err(failure(Kind::Arg, format!("topic {topic}: {text}")));
    match spec.partitions {
        Some(partitions) if partitions == 0 || partitions > PARTITIONS_MAX => {
            return wrong(format!("partitions is 1 to {PARTITIONS_MAX}, not {partitions}"));
        }
        Some(_) if kind == TopicKind::Task => return wrong("partitions are for events, this is a task".into()),
        _ => {}
    }
    if kind == TopicKind::Task && spec.age_max.is_some() {
        return wrong("age_max is for events; tasks expire by ttl".into());
    }
    if spec.messages_max == Some(0) || spec.bytes_max == Some(0) {
        return wrong("a maximum of 0 would take no message at all".into());
    }
    Ok(())
}

fn same<T: PartialEq + Display>(topic: &str, what: &str, asked: Option<T>, there: T) -> Result<()> {
    match asked {
        Some(asked) if asked != there => {
            Err(failure(Kind::Conflict, format!("topic {topic} exists with {what} {there}, asked for {asked}")))
        }
        _ => Ok(()),
    }
}
