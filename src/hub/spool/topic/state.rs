//! What a topic knows of its records that are not settled.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::showing::View;
use crate::broker::Ticket;
use crate::clock::Moment;
use crate::error::Error;
use crate::hub::failover::lane::{Lane, LaneAction};
use crate::message::{Message, TopicKind};
use crate::numbers::NumberMap;

/// What keeps an order of its own: a key, of tasks with a priority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::hub::spool) struct LaneKey {
    key: Option<SmallVec<[u8; 24]>>,
    priority: u8,
}

impl LaneKey {
    pub fn of(kind: TopicKind, key: Option<&[u8]>, priority: u8) -> Self {
        let priority = if kind == TopicKind::Task { priority } else { 0 };
        Self { key: key.map(SmallVec::from_slice), priority }
    }

    pub fn is_keyed(&self) -> bool {
        self.key.is_some()
    }
}

/// Guarded together: what is decided about a record, and its hand-over.
#[derive(Default)]
pub(in crate::hub::spool) struct State {
    pub lanes: HashMap<LaneKey, Lane>,
    pub records: NumberMap<Kept>,
    pub flights: NumberMap<Flight>,
    pub next_flight: u64,
    /// Of the groups that are shown what is kept.
    pub views: Vec<View>,
    /// Reused.
    pub actions: Vec<LaneAction>,
}

impl State {
    pub fn bytes_of(&self, seq: u64) -> usize {
        self.records.get(&seq).and_then(|kept| kept.message.as_ref()).map_or(0, Message::size)
    }
}

/// A record that is not settled.
pub(in crate::hub::spool) struct Kept {
    pub lane: LaneKey,
    /// `None` where the route does not keep it.
    pub message: Option<Message>,
    /// Of the publish that has not been told yet.
    pub ticket: Option<Ticket>,
    /// When it is due, if it was delayed.
    pub due: Moment,
    /// Why it was not confirmed, as far as it is known.
    pub why: Option<Error>,
    /// What the disk has of it: how often workers of this process have tried it, and whether it may be at the server.
    pub tries: u16,
    pub handed: bool,
    /// A worker of this process has had it, and may have done it.
    pub leased: bool,
    /// Its row stays until its dead letter is written.
    pub is_dead: bool,
}

impl Kept {
    pub fn new(lane: LaneKey, message: Option<Message>, ticket: Option<Ticket>, due: Moment) -> Self {
        Self { lane, message, ticket, due, why: None, tries: 0, handed: false, leased: false, is_dead: false }
    }

    /// What the disk has of it.
    pub fn written(self, tries: u16, handed: bool) -> Self {
        Self { tries, handed, ..self }
    }
}

/// A record at the server's client.
pub(in crate::hub::spool) struct Flight {
    pub seq: u64,
    pub epoch: u64,
    /// It came out of the spool.
    pub forwarded: bool,
}
