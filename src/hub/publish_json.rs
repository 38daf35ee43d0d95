//! The convenient door: one message as one JSON document.

use super::publish::check_header;
use super::route::Use;
use super::{Hub, Receipt, Timeout};
use crate::config::MessageDocument;
use crate::error::Result;
use crate::limits::PRIORITY_DEFAULT;
use crate::message::{HeaderBlock, Record};

/// Header that ties an answer to its request.
pub const CORRELATION_ID: &str = "correlation-id";
/// Header that says where an answer goes.
pub const REPLY_TO: &str = "reply-to";
/// Header with the media type of the payload.
pub const CONTENT_TYPE: &str = "content-type";

impl Hub {
    /// Publishes a message given as a document with topic, payload and everything else.
    pub fn publish_json(&self, json: &str, timeout: Timeout) -> Result<Receipt> {
        let message = MessageDocument::from_json(json)?;
        let payload = message.payload()?;
        let mut headers = HeaderBlock::default();
        let rare = [
            (CORRELATION_ID, &message.correlation_id),
            (REPLY_TO, &message.reply_to),
            (CONTENT_TYPE, &message.content_type),
        ];
        for (name, value) in rare {
            if let Some(value) = value {
                check_header(name, value.as_bytes())?;
                headers.push(name, value.as_bytes());
            }
        }
        for (name, value) in &message.headers.0 {
            check_header(name, value.as_bytes())?;
            headers.push(name, value.as_bytes());
        }
        super::publish::check_header_count(headers.headers())?;
        let record = Record {
            key: message.key.as_deref().map(str::as_bytes),
            id: message.id.as_deref().unwrap_or_default(),
            type_: message.type_.as_deref().unwrap_or_default(),
            headers: headers.headers(),
            timestamp_us: message.timestamp.unwrap_or_default(),
            delay_ms: message.delay_ms.unwrap_or_default(),
            ttl_ms: message.ttl_ms.unwrap_or_default(),
            priority: message.priority.unwrap_or(PRIORITY_DEFAULT),
            ..Record::new(&payload)
        };
        self.0.check_record(&record)?;
        let outlet = self.0.outlet(&message.topic, message.kind.map(|kind| (kind, Use::Publish)))?;
        self.0.publish_one(&outlet, &record, message.require, timeout)
    }
}
