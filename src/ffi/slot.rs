//! Handles: pointer-typed numbers that are looked up, never followed.
//!
//! ```text
//! bits 63..56  0x5A: no address on any machine; bits 55..52 below are never all equal either
//! bits 55..52  the type
//! bits 51..24  generation of the slot
//! bits 23..0   index of the slot
//! ```
//!
//! Any garbage is therefore found without touching memory that is not ours. A slot whose
//! generations are used up is never used again, so that a stale handle can never name a later object.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use once_cell::sync::Lazy;

use super::objects::{
    BrokerObject, ErrorObject, HubObject, InboxObject, PublisherObject, SinkObject, SubscriptionObject,
};
use crate::error::{Error, Kind, Result};
use crate::hub::process::{log, LogLevel};
use crate::sync::Mutex;

const MAGIC: u64 = 0x5A;
const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 28;
/// The last generation of a slot.
pub(super) const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;
/// Slots of one type.
pub(super) const INDEX_MAX: u32 = (1 << INDEX_BITS) - 1;
/// Locks of one type's table, so that threads on different objects do not meet.
pub(super) const SHARDS: usize = 16;

/// What a handle names. The numbers are not 0 and not 15; see the top of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Type {
    Hub = 1,
    Broker = 2,
    Publisher = 3,
    Subscription = 4,
    Message = 5,
    Inbox = 6,
    Sink = 7,
    Error = 8,
}

impl Type {
    /// The C type.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Type::Hub => "hmq_hub",
            Type::Broker => "hmq_broker",
            Type::Publisher => "hmq_pub",
            Type::Subscription => "hmq_sub",
            Type::Message => "hmq_msg",
            Type::Inbox => "hmq_inbox",
            Type::Sink => "hmq_sink",
            Type::Error => "hmq_error",
        }
    }

    const fn from_bits(bits: u64) -> Option<Type> {
        match bits {
            1 => Some(Type::Hub),
            2 => Some(Type::Broker),
            3 => Some(Type::Publisher),
            4 => Some(Type::Subscription),
            5 => Some(Type::Message),
            6 => Some(Type::Inbox),
            7 => Some(Type::Sink),
            8 => Some(Type::Error),
            _ => None,
        }
    }
}

/// The parts of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// The handle of a place.
#[inline]
pub(super) const fn handle_of(type_: Type, place: Place) -> usize {
    let word = MAGIC << 56 | (type_ as u64) << 52 | (place.generation as u64) << INDEX_BITS | place.index as u64;
    word as usize
}

/// The type that `handle` claims.
#[inline]
pub(super) const fn type_of(handle: usize) -> Option<Type> {
    let word = handle as u64;
    if word >> 56 != MAGIC {
        return None;
    }
    Type::from_bits(word >> 52 & 15)
}

/// The place that `handle` names, if it claims to be of `type_`.
#[inline]
pub(super) const fn place_of(handle: usize, type_: Type) -> Option<Place> {
    let word = handle as u64;
    if word >> 52 != MAGIC << 4 | type_ as u64 {
        return None;
    }
    Some(Place { index: word as u32 & INDEX_MAX, generation: (word >> INDEX_BITS) as u32 & GENERATION_MAX })
}

/// What is wrong with `handle` where one of `wanted` was asked.
#[cold]
pub(super) fn bad_handle(handle: usize, wanted: Type) -> Error {
    let wanted_name = wanted.name();
    if handle == 0 {
        return Error::new(Kind::Null, format!("the {wanted_name} handle is NULL"));
    }
    match type_of(handle) {
        Some(other) if other != wanted => Error::new(
            Kind::Handle,
            format!("a handle of type {} was given where {wanted_name} is asked", other.name()),
        ),
        Some(_) => Error::new(Kind::Handle, format!("this {wanted_name} handle was freed, or never issued")),
        None => Error::new(Kind::Handle, format!("this is no handle of the library, where {wanted_name} is asked")),
    }
}

/// Frees of handles that named nothing any more.
static USELESS_FREES: AtomicU64 = AtomicU64::new(0);

/// Counts a free of something that is not there: a second free, or a value that was never ours.
#[cold]
pub(super) fn count_useless_free(what: &str) {
    if USELESS_FREES.fetch_add(1, Ordering::Relaxed) == 0 {
        let text = format!("{what}: freed twice, or never issued; further ones are only counted");
        log(LogLevel::Warn, "useless_free", &text);
    }
}

/// How many frees named nothing.
pub fn useless_frees() -> u64 {
    USELESS_FREES.load(Ordering::Relaxed)
}

/// Objects of one type, by handle.
pub(super) struct Table<T> {
    type_: Type,
    next_shard: AtomicUsize,
    shards: [Shard<T>; SHARDS],
}

/// On a cache line of its own, so that two shards do not disturb each other.
#[repr(align(128))]
struct Shard<T>(Mutex<Slots<T>>);

struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    poisoned: bool,
    object: Option<T>,
}

impl<T: Clone> Table<T> {
    pub(super) fn new(type_: Type) -> Self {
        let shard = |_| Shard(Mutex::new(Slots { slots: Vec::new(), free: Vec::new() }));
        Self { type_, next_shard: AtomicUsize::new(0), shards: std::array::from_fn(shard) }
    }

    /// Gives `object` a handle.
    pub(super) fn insert(&self, object: T) -> Result<usize> {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut slots = self.shards[shard].0.lock();
        let slots = &mut *slots;
        let own = match slots.free.pop() {
            Some(own) => own,
            None if slots.slots.len() < (INDEX_MAX as usize + 1) / SHARDS => {
                slots.slots.push(Slot { generation: 0, poisoned: false, object: None });
                slots.slots.len() as u32 - 1
            }
            None => return Err(Error::new(Kind::Resources, format!("no more {} handles", self.type_.name()))),
        };
        let Some(slot) = slots.slots.get_mut(own as usize) else {
            return Err(Error::internal("the free list of handles names no slot"));
        };
        slot.generation += 1;
        slot.poisoned = false;
        slot.object = Some(object);
        let index = own * SHARDS as u32 + shard as u32;
        Ok(handle_of(self.type_, Place { index, generation: slot.generation }))
    }

    /// The object behind `handle`, counted.
    #[inline]
    pub(super) fn find(&self, handle: usize) -> Result<T> {
        let Some(place) = place_of(handle, self.type_) else { return Err(bad_handle(handle, self.type_)) };
        let slots = self.shards[place.index as usize % SHARDS].0.lock();
        match slots.slots.get(place.index as usize / SHARDS) {
            Some(Slot { generation, poisoned: false, object: Some(object) }) if *generation == place.generation => {
                Ok(object.clone())
            }
            Some(Slot { generation, poisoned: true, object: Some(_) }) if *generation == place.generation => {
                Err(Error::new(
                    Kind::Panic,
                    format!("a call on this {} panicked before: it can only be freed", self.type_.name()),
                ))
            }
            _ => Err(bad_handle(handle, self.type_)),
        }
    }

    /// Takes the object out; `None` (counted) if the handle names none. Not for NULL.
    pub(super) fn remove(&self, handle: usize) -> Option<T> {
        let removed = self.try_remove(handle);
        if removed.is_none() {
            count_useless_free(self.type_.name());
        }
        removed
    }

    fn try_remove(&self, handle: usize) -> Option<T> {
        let place = place_of(handle, self.type_)?;
        let mut slots = self.shards[place.index as usize % SHARDS].0.lock();
        let own = place.index / SHARDS as u32;
        let slot = slots.slots.get_mut(own as usize)?;
        if slot.generation != place.generation {
            return None;
        }
        let object = slot.object.take()?;
        if slot.generation < GENERATION_MAX {
            slots.free.push(own);
        }
        Some(object)
    }

    fn poison(&self, handle: usize) {
        let Some(place) = place_of(handle, self.type_) else { return };
        let mut slots = self.shards[place.index as usize % SHARDS].0.lock();
        if let Some(slot) = slots.slots.get_mut(place.index as usize / SHARDS) {
            slot.poisoned |= slot.generation == place.generation;
        }
    }
}

/// The tables of all types but messages, which have their own (`messages.rs`).
pub(super) static HUBS: Lazy<Table<HubObject>> = Lazy::new(|| Table::new(Type::Hub));
pub(super) static BROKERS: Lazy<Table<BrokerObject>> = Lazy::new(|| Table::new(Type::Broker));
pub(super) static PUBLISHERS: Lazy<Table<PublisherObject>> = Lazy::new(|| Table::new(Type::Publisher));
pub(super) static SUBSCRIPTIONS: Lazy<Table<SubscriptionObject>> = Lazy::new(|| Table::new(Type::Subscription));
pub(super) static INBOXES: Lazy<Table<InboxObject>> = Lazy::new(|| Table::new(Type::Inbox));
pub(super) static SINKS: Lazy<Table<SinkObject>> = Lazy::new(|| Table::new(Type::Sink));
pub(super) static ERRORS: Lazy<Table<ErrorObject>> = Lazy::new(|| Table::new(Type::Error));

/// Takes the object behind `handle` out of service: a call on it panicked. Free still works.
pub(super) fn poison(handle: usize) {
    match type_of(handle) {
        Some(Type::Hub) => HUBS.poison(handle),
        Some(Type::Broker) => BROKERS.poison(handle),
        Some(Type::Publisher) => PUBLISHERS.poison(handle),
        Some(Type::Subscription) => SUBSCRIPTIONS.poison(handle),
        Some(Type::Inbox) => INBOXES.poison(handle),
        Some(Type::Sink) => SINKS.poison(handle),
        // Both never change: there is nothing to poison.
        Some(Type::Message | Type::Error) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_no_addresses() {
        for type_ in 1..=8u64 {
            let type_ = Type::from_bits(type_).unwrap();
            let handle = handle_of(type_, Place { index: INDEX_MAX, generation: GENERATION_MAX });
            assert_eq!(place_of(handle, type_), Some(Place { index: INDEX_MAX, generation: GENERATION_MAX }));
            assert_eq!(type_of(handle), Some(type_));
            let top = handle >> 56;
            assert!(top != 0 && top != 0xFF, "canonical on x86-64");
            let tagged = handle >> 52 & 15;
            assert!(tagged != 0 && tagged != 15, "canonical on arm64 with tagged addresses");
        }
    }

    #[test]
    fn a_freed_handle_never_names_a_later_object() {
        let table = Table::new(Type::Hub);
        let first = table.insert(1).unwrap();
        assert_eq!((table.find(first).unwrap(), table.remove(first)), (1, Some(1)));
        let mut seen = std::collections::HashSet::from([first]);
        for round in 0..100_000 {
            let handle = table.insert(round).unwrap();
            assert!(seen.insert(handle));
            assert_eq!(table.remove(handle), Some(round));
        }
        assert_eq!(table.find(first).unwrap_err().kind(), Kind::Handle);
        assert_eq!(table.remove(first), None);
    }

    #[test]
    fn a_slot_retires_when_its_generations_are_used_up() {
        let table = Table::new(Type::Hub);
        let handle = table.insert(()).unwrap();
        let shard = place_of(handle, Type::Hub).unwrap().index as usize % SHARDS;
        table.shards[shard].0.lock().slots[0].generation = GENERATION_MAX;
        let last = handle_of(Type::Hub, Place { index: shard as u32, generation: GENERATION_MAX });
        assert_eq!(table.remove(last), Some(()));
        assert!(table.shards[shard].0.lock().free.is_empty());
    }

    #[test]
    fn errors_name_both_types_and_poison_stays_with_its_object() {
        let table = Table::new(Type::Hub);
        let sub = handle_of(Type::Subscription, Place { index: 0, generation: 1 });
        let text = table.find(sub).unwrap_err().message().to_owned();
        assert!(text.contains("hmq_sub") && text.contains("hmq_hub"), "{text}");
        assert_eq!(table.find(0).unwrap_err().kind(), Kind::Null);
        for garbage in [1, usize::MAX, 0x1234_5678_9ABC] {
            assert_eq!(table.find(garbage).unwrap_err().kind(), Kind::Handle);
        }
        let handle = table.insert(7).unwrap();
        table.poison(handle);
        assert_eq!(table.find(handle).unwrap_err().kind(), Kind::Panic);
        assert_eq!(table.remove(handle), Some(7));
        assert_eq!(table.find(handle).unwrap_err().kind(), Kind::Handle);
    }
}
