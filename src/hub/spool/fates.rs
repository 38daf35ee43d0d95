//! What became of messages that were kept, told one by one to the inboxes that ask for it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use serde_json::json;

use super::topic::SpoolTopic;
use super::Spool;
use crate::error::Error;
use crate::hub::failover::lane::Fate;
use crate::hub::inbox::Event;
use crate::message::Message;

/// The end of a message whose publish was told before.
pub(super) struct Ended {
    pub message: Message,
    pub kind: &'static str,
    pub fate: Fate,
    pub why: Option<Error>,
}

impl SpoolTopic {
    /// The end of a record, for those who ask.
    pub(super) fn ended(
        &self,
        spool: &Spool,
        message: Option<Message>,
        fate: Fate,
        why: Option<Error>,
    ) -> Option<Ended> {
        let is_asked = spool.hub.upgrade().is_some_and(|hub| hub.notices.fates.load(Ordering::Relaxed));
        let message = message.filter(|_| is_asked)?;
        Some(Ended { message, kind: self.kind().name(), fate, why })
    }
}

impl Spool {
    /// Tells them. No lock is held.
    pub(super) fn tell_fates(&self, ended: Vec<Ended>) {
        let Some(hub) = self.hub.upgrade().filter(|_| !ended.is_empty()) else { return };
        let inboxes: Vec<_> = hub.inboxes.lock().iter().filter_map(Weak::upgrade).collect();
        for Ended { message, kind, fate, why } in ended {
            let id = message.id();
            let mut document = json!({
                "fate": name(fate), "id": id.as_str(), "topic": &**message.topic(), "kind": kind,
                "backend": self.server.kind().name(),
            });
            let why = why.filter(|_| matches!(fate, Fate::Refused | Fate::Unknown));
            if let (Some(why), Some(document)) = (why, document.as_object_mut()) {
                document.insert("why".into(), why.message().into());
            }
            let json: Arc<str> = Arc::from(document.to_string());
            for inbox in inboxes.iter().filter(|inbox| inbox.wants.fate) {
                inbox.push_notice(Event::Fate { json: Arc::clone(&json) });
            }
        }
    }
}

fn name(fate: Fate) -> &'static str {
    match fate {
        Fate::Confirmed => "confirmed",
        Fate::Refused => "refused",
        Fate::Expired => "expired",
        Fate::Evicted => "evicted",
        Fate::LocalDone => "local_done",
        Fate::Unknown => "unknown",
    }
}
