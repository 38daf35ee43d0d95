//! What handles name.

use std::sync::Arc;

use crate::broker::custom::CustomSink;
use crate::hub::{BrokerHandle, Hub, Inbox, Publisher, Subscription};

pub(super) type HubObject = Hub;
pub(super) type BrokerObject = BrokerHandle;
pub(super) type PublisherObject = Arc<Prepared>;
pub(super) type SubscriptionObject = Subscription;
pub(super) type InboxObject = Inbox;
pub(super) type SinkObject = CustomSink;
pub(super) type ErrorObject = Arc<ErrorText>;

/// A publisher, and the topic its records may name.
pub(super) struct Prepared {
    pub(super) publisher: Publisher,
    pub(super) topic: String,
}

/// An error as callers read it.
pub(super) struct ErrorText {
    pub(super) code: i32,
    /// Ends with a NUL, as the message does.
    pub(super) json: Box<[u8]>,
    pub(super) message: Box<[u8]>,
}
