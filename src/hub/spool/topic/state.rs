//! What a topic knows of its records that are not settled.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::showing::View;
use crate::broker::Ticket;
use crate::clock::Moment;
use crate::error::Error;
use crate::hub::failover::lane::{Lane, LaneAction};
use crate::message::{Message, TopicKind, Writer};
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

/// The place of a lane among those of its topic; when it is gone, another may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::hub::spool) struct LaneId(usize);

/// The lanes that have records, each at a place of its own, by which its records name it.
#[derive(Default)]
pub(in crate::hub::spool) struct Lanes {
    by_key: HashMap<LaneKey, LaneId>,
    places: Vec<Option<(LaneKey, Lane)>>,
    free: Vec<LaneId>,
    /// The one that was found last: many records of one key come one behind the other.
    last: Option<LaneId>,
}

/// Places that are kept when no lane is left.
const PLACES_KEPT: usize = 64;

impl Lanes {
    pub fn find(&mut self, key: &LaneKey) -> Option<LaneId> {
        let last = self.last.filter(|id| self.key(*id) == Some(key));
        if last.is_none() {
            self.last = self.by_key.get(key).copied();
        }
        self.last
    }

    /// Its lane, found or made.
    pub fn enter(&mut self, key: LaneKey, make: impl FnOnce() -> Lane) -> LaneId {
        if let Some(known) = self.find(&key) {
            return known;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            LaneId(self.places.len() - 1)
        });
        if let Some(place) = self.places.get_mut(id.0) {
            *place = Some((key.clone(), make()));
        }
        self.by_key.insert(key, id);
        self.last = Some(id);
        id
    }

    pub fn remove(&mut self, id: LaneId) {
        let Some((key, _)) = self.places.get_mut(id.0).and_then(Option::take) else { return };
        self.by_key.remove(&key);
        self.free.push(id);
        if self.by_key.is_empty() && self.places.len() > PLACES_KEPT {
            *self = Self::default();
        }
    }

    pub fn key(&self, id: LaneId) -> Option<&LaneKey> {
        self.places.get(id.0)?.as_ref().map(|(key, _)| key)
    }

    pub fn get(&self, id: LaneId) -> Option<&Lane> {
        self.places.get(id.0)?.as_ref().map(|(_, lane)| lane)
    }

    pub fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.places.get_mut(id.0)?.as_mut().map(|(_, lane)| lane)
    }

    pub fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(at, place)| Some((LaneId(at), place.as_ref().map(|(_, lane)| lane)?)))
    }

    pub fn ids(&self) -> Vec<LaneId> {
        self.iter().map(|(id, _)| id).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// Guarded together: what is decided about a record, and its hand-over.
#[derive(Default)]
pub(in crate::hub::spool) struct State {
    pub lanes: Lanes,
    pub records: NumberMap<Kept>,
    /// What came out of the spool and is at the server's client. What went there at once is known by its own number.
    pub flights: NumberMap<Flight>,
    pub next_flight: u64,
    /// Where copies are made of what goes to the server at once, as long as some of it has no ending.
    pub shared: Option<Writer>,
    /// Of the groups that are shown what is kept.
    pub views: Vec<View>,
    /// Reused.
    pub actions: Vec<LaneAction>,
}

impl State {
    /// A lane has no records any more.
    pub fn forget(&mut self, id: LaneId) {
        self.lanes.remove(id);
        if self.records.is_empty() {
            self.shared = None;
        }
    }

    pub fn bytes_of(&self, seq: u64) -> usize {
        self.records.get(&seq).and_then(|kept| kept.message.as_ref()).map_or(0, Message::size)
    }
}

/// A record that is not settled.
pub(in crate::hub::spool) struct Kept {
    pub lane: LaneId,
    /// The epoch in which it was handed over without having been stored.
    pub direct: u64,
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
    pub fn new(lane: LaneId, message: Option<Message>, ticket: Option<Ticket>, due: Moment) -> Self {
        Self {
            lane,
            direct: 0,
            message,
            ticket,
            due,
            why: None,
            tries: 0,
            handed: false,
            leased: false,
            is_dead: false,
        }
    }

    /// What the disk has of it.
    pub fn written(self, tries: u16, handed: bool) -> Self {
        Self { tries, handed, ..self }
    }
}

/// A record of the spool at the server's client.
pub(in crate::hub::spool) struct Flight {
    pub seq: u64,
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Level;
    use crate::config::OnOutage;
    use crate::hub::failover::lane::Rules;

    fn key(number: u64) -> LaneKey {
        LaneKey::of(TopicKind::Event, Some(&number.to_le_bytes()), 0)
    }

    fn lane() -> Lane {
        let wait = std::time::Duration::ZERO;
        Lane::new(
            true,
            &Rules {
                kind: TopicKind::Event,
                on_outage: OnOutage::Spool,
                strict: false,
                spool_level: Level::Memory,
                suspect_wait: wait,
                blocked_wait: wait,
                short_backlog: 0,
                one_copy: false,
            },
        )
    }

    #[test]
    fn a_lane_is_found_by_its_key_and_a_place_serves_again() {
        let mut lanes = Lanes::default();
        let (one, two) = (lanes.enter(key(1), lane), lanes.enter(key(2), lane));
        assert_ne!(one, two);
        assert_eq!([1, 2, 3].map(|number| lanes.find(&key(number))), [Some(one), Some(two), None]);
        assert_eq!(lanes.enter(key(1), || unreachable!("it is there")), one);
        lanes.remove(one);
        assert!(lanes.get(one).is_none() && lanes.find(&key(1)).is_none());
        assert_eq!(lanes.enter(key(3), lane), one);
        assert_eq!([1, 2, 3].map(|number| lanes.find(&key(number))), [None, Some(two), Some(one)]);
        assert_eq!(lanes.key(one), Some(&key(3)));
        lanes.remove(one);
        lanes.remove(one);
        assert_eq!(lanes.ids(), [two]);
    }

    #[test]
    fn the_memory_of_many_lanes_goes_with_the_last() {
        let mut lanes = Lanes::default();
        let ids: Vec<LaneId> = (0..1_000).map(|number| lanes.enter(key(number), lane)).collect();
        ids.into_iter().for_each(|id| lanes.remove(id));
        assert!(lanes.is_empty() && lanes.places.capacity() == 0);
    }
}
