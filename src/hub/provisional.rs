//! Provisional copies of events: which groups have handled one, as its real copy tells by a header.
//!
//! An event that is kept for a server that is away is shown to groups of this process. What a group has acknowledged by
//! the time the event goes to its server is told with it, so that no member of the group, in whatever process, is handed
//! it again.

use super::retry::REDRIVEN;
use crate::broker::{BackendKind, Group, SubscribeSpec};
use crate::message::{Message, TopicKind};

/// Tells who has handled an event: its topic and id, as a copy of the headers elsewhere says nothing, and names, a line
/// each.
pub const HANDLED: &str = "hmq-handled";

/// The name under which an event is handled once: that of the group; with RabbitMQ each pattern has a queue of its own.
/// `None`: a subscription that is shown nothing.
pub(super) fn name_of(backend: BackendKind, spec: &SubscribeSpec) -> Option<String> {
    let Group::Named(group) = &spec.group else { return None };
    if spec.kind != TopicKind::Event || spec.read_only || group.contains('\n') {
        return None;
    }
    match backend {
        BackendKind::Kafka => Some(group.clone()),
        // A pattern has no blanks.
        BackendKind::RabbitMq => Some(format!("{} {group}", spec.pattern)),
        BackendKind::Embedded | BackendKind::Custom => None,
    }
}

/// The header's value.
pub(super) fn handled_by(topic: &str, id: &str, names: &[String]) -> String {
    format!("{topic}\n{id}\n{}", names.join("\n"))
}

/// Whether an event was handled under this name, as its headers say.
pub(super) fn has_handled(message: &Message, name: &str) -> bool {
    let told = message.headers().find(HANDLED).and_then(|value| std::str::from_utf8(value).ok());
    let rest = told.and_then(|value| value.strip_prefix(&**message.topic())?.strip_prefix('\n'));
    let names = rest.and_then(|rest| rest.strip_prefix(message.id().as_str())?.strip_prefix('\n'));
    names.is_some_and(|names| names.split('\n').any(|own| own == name)) && !is_for_all(message)
}

/// Back from the dead letters, it is for all, also for those that had handled it.
pub(super) fn is_for_all(message: &Message) -> bool {
    message.headers().find(REDRIVEN).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{HeaderBlock, Pool, Record, Stamp};

    fn event(topic: &str, id: &str, value: &str) -> Message {
        with_header(topic, id, value, "other")
    }

    fn with_header(topic: &str, id: &str, value: &str, other: &str) -> Message {
        let mut headers = HeaderBlock::default();
        headers.push(HANDLED, value.as_bytes());
        headers.push(other, b"1");
        let record = Record { id, headers: headers.headers(), ..Record::new(b"x") };
        Message::alone(&Pool::new(0, 0), &Arc::from(topic), 1, &record, Stamp { seq: 1, now_us: 0 }).unwrap()
    }

    #[test]
    fn the_header_speaks_of_its_own_event_alone() {
        let value = handled_by("user.created", "1", &["a b".to_owned(), "c".to_owned()]);
        let own = event("user.created", "1", &value);
        assert!(has_handled(&own, "a b") && has_handled(&own, "c") && !has_handled(&own, "b"));
        for (topic, id) in [("user.created", "2"), ("user.created.dlq", "1")] {
            assert!(!has_handled(&event(topic, id, &value), "c"), "{topic} {id}");
        }
        assert!(!has_handled(&with_header("user.created", "1", &value, REDRIVEN), "c"));
        for value in ["", "c", "user.created\n1", "user.created\n1\n", "user.created\nc"] {
            assert!(!has_handled(&event("user.created", "1", value), "c"), "{value}");
        }
    }
}
