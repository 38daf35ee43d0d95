//! Provisional copies of events: which groups have handled one, as its real copy tells by a header.
//!
//! An event that is kept for a server that is away is shown to groups of this process. What a group has acknowledged by
//! the time the event goes to its server is told with it, so that no member of the group, in whatever process, is handed
//! it again.

use serde::{Deserialize, Serialize};

use crate::message::Message;

/// Tells the groups that have handled an event.
pub const HANDLED: &str = "hmq-handled";

/// Bound to its message: a copy of the headers elsewhere says nothing.
#[derive(Serialize, Deserialize)]
struct Handled<'a> {
    topic: &'a str,
    id: &'a str,
    #[serde(borrow)]
    groups: Vec<std::borrow::Cow<'a, str>>,
}

/// The header's value.
pub(super) fn handled_by(topic: &str, id: &str, groups: &[String]) -> String {
    let groups = groups.iter().map(|group| group.as_str().into()).collect();
    serde_json::to_string(&Handled { topic, id, groups }).unwrap_or_default()
}

/// Whether a group has handled an event, as its headers say.
pub(super) fn has_handled(message: &Message, group: &str) -> bool {
    let told = message.headers().find(HANDLED);
    let told = told.and_then(|value| serde_json::from_slice::<Handled<'_>>(value).ok());
    told.is_some_and(|own| {
        own.topic == &**message.topic()
            && own.id == message.id().as_str()
            && own.groups.iter().any(|handled| handled == group)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{HeaderBlock, Pool, Record, Stamp};

    fn event(topic: &str, id: &str, value: &str) -> Message {
        let mut headers = HeaderBlock::default();
        headers.push(HANDLED, value.as_bytes());
        let record = Record { id, headers: headers.headers(), ..Record::new(b"x") };
        Message::alone(&Pool::new(0, 0), &Arc::from(topic), 1, &record, Stamp { seq: 1, now_us: 0 }).unwrap()
    }

    #[test]
    fn the_header_speaks_of_its_own_event_alone() {
        let value = handled_by("user.created", "1", &["a \"b\"".to_owned(), "c".to_owned()]);
        let own = event("user.created", "1", &value);
        assert!(has_handled(&own, "a \"b\"") && has_handled(&own, "c") && !has_handled(&own, "b"));
        for (topic, id) in [("user.created", "2"), ("user.created.dlq", "1")] {
            assert!(!has_handled(&event(topic, id, &value), "c"), "{topic} {id}");
        }
        for value in ["", "c", "[]", "{}", r#"{"topic":"user.created","id":"1"}"#] {
            assert!(!has_handled(&event("user.created", "1", value), "c"), "{value}");
        }
    }
}
