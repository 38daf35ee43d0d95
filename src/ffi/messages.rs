//! Messages that programs hold, by handle.
//!
//! A delivery makes a handle and an acknowledgement frees it, so this table is on the hot path:
//! a thread has its own shard, a batch goes in or out under one lock, and a slot is reused without
//! allocation. A reference count lives in the slot. The topic's text is kept once per shard, with
//! a NUL behind it, and counted in plain numbers under the same lock.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use serde_json::{json, Map, Value};

use super::slot::{
    bad_handle, count_useless_free, handle_of, place_of, Place, Type, GENERATION_MAX, INDEX_MAX, SHARDS,
};
use super::text::with_nul;
use crate::error::{Error, Kind, Result};
use crate::hub::Incoming;
use crate::message::{release_all, Message};
use crate::sync::{Mutex, MutexGuard};

/// Unused topic texts of a shard that are kept for the next message.
const IDLE_TOPICS_MAX: usize = 1024;

/// On a cache line of its own.
#[repr(align(128))]
struct Shard(Mutex<Entries>);

static TABLE: [Shard; SHARDS] = [const { Shard(Mutex::new(Entries::new())) }; SHARDS];

/// A held message.
pub(super) struct Entry {
    generation: u32,
    /// References; 0: the slot is free.
    count: u32,
    topic: u32,
    incoming: Option<Incoming>,
    texts: Option<Box<Texts>>,
}

/// Texts of a message that are not kept with a NUL in its segment; made when first asked.
pub(super) struct Texts {
    id: Box<[u8]>,
    type_: Box<[u8]>,
    names: Vec<Box<[u8]>>,
}

/// A text and its length without the NUL.
type Text = (*const c_char, usize);

fn shown(text: &[u8]) -> Text {
    (text.as_ptr().cast(), text.len() - 1)
}

impl Texts {
    fn of(message: &Message) -> Self {
        Self {
            id: with_nul(message.id().as_str().as_bytes()),
            type_: with_nul(message.type_().as_bytes()),
            names: message.headers().into_iter().map(|(name, _)| with_nul(name.as_bytes())).collect(),
        }
    }

    pub(super) fn id_text(&self) -> Text {
        shown(&self.id)
    }

    pub(super) fn type_text(&self) -> Text {
        shown(&self.type_)
    }

    pub(super) fn header_name(&self, index: usize) -> Option<Text> {
        self.names.get(index).map(|name| shown(name))
    }
}

/// A live entry, under the lock of its shard.
pub(super) struct Held<'a> {
    incoming: &'a Incoming,
    texts: &'a mut Option<Box<Texts>>,
}

impl Held<'_> {
    pub(super) fn incoming(&self) -> &Incoming {
        self.incoming
    }

    pub(super) fn message(&self) -> &Message {
        &self.incoming.message
    }

    pub(super) fn texts(&mut self) -> &Texts {
        self.texts.get_or_insert_with(|| Box::new(Texts::of(&self.incoming.message)))
    }

    /// Everything, to be used after the lock.
    pub(super) fn copy(&self) -> Incoming {
        let own = self.incoming;
        Incoming { message: own.message.clone(), ..*own }
    }
}

/// The entries of a shard, and the topics they name.
pub(super) struct Entries {
    entries: Vec<Entry>,
    free: Vec<u32>,
    topics: Vec<TopicText>,
    /// Places of `topics` that hold nothing.
    topics_free: Vec<u32>,
    topics_by_name: Option<HashMap<usize, u32>>,
    /// Address of the topic found last, and its place: most batches are of one topic.
    last_topic: (usize, u32),
    idle_topics: usize,
}

/// A topic's text. The name is held, so its address names nothing else meanwhile.
struct TopicText {
    name: Option<Arc<str>>,
    text: Box<[u8]>,
    users: u32,
}

impl Entries {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            topics: Vec::new(),
            topics_free: Vec::new(),
            topics_by_name: None,
            last_topic: (0, 0),
            idle_topics: 0,
        }
    }

    /// Whether one more message fits.
    #[inline]
    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.entries.len() < (INDEX_MAX as usize + 1) / SHARDS
    }

    /// Puts `incoming` in with one reference.
    #[inline]
    fn insert(&mut self, shard: usize, incoming: Incoming) -> (usize, Text) {
        let topic = self.topic(&incoming);
        let (own, generation) = match self.free.pop() {
            Some(own) => {
                let slot = &mut self.entries[own as usize];
                slot.generation += 1;
                (slot.count, slot.topic, slot.incoming) = (1, topic, Some(incoming));
                (own, slot.generation)
            }
            None => {
                self.entries.push(Entry { generation: 1, count: 1, topic, incoming: Some(incoming), texts: None });
                (self.entries.len() as u32 - 1, 1)
            }
        };
        let handle = handle_of(Type::Message, Place { index: own * SHARDS as u32 + shard as u32, generation });
        (handle, shown(&self.topics[topic as usize].text))
    }

    /// Takes one more use of the topic's text.
    #[inline]
    fn topic(&mut self, incoming: &Incoming) -> u32 {
        let name = incoming.message.topic();
        let address = Arc::as_ptr(name).cast::<u8>() as usize;
        if self.last_topic.0 != address {
            let place = self.find_topic(address, name);
            self.last_topic = (address, place);
        }
        let text = &mut self.topics[self.last_topic.1 as usize];
        if text.users == 0 {
            self.idle_topics -= 1;
        }
        text.users += 1;
        self.last_topic.1
    }

    fn find_topic(&mut self, address: usize, name: &Arc<str>) -> u32 {
        if self.idle_topics > IDLE_TOPICS_MAX {
            self.forget_idle_topics();
        }
        let by_name = self.topics_by_name.get_or_insert_with(HashMap::new);
        if let Some(place) = by_name.get(&address) {
            return *place;
        }
        let text = TopicText { name: Some(Arc::clone(name)), text: with_nul(name.as_bytes()), users: 0 };
        self.idle_topics += 1;
        let place = match self.topics_free.pop() {
            Some(place) => {
                self.topics[place as usize] = text;
                place
            }
            None => {
                self.topics.push(text);
                self.topics.len() as u32 - 1
            }
        };
        by_name.insert(address, place);
        place
    }

    #[cold]
    fn forget_idle_topics(&mut self) {
        let Some(by_name) = &mut self.topics_by_name else { return };
        for (place, text) in self.topics.iter_mut().enumerate().filter(|(_, text)| text.users == 0) {
            if let Some(name) = text.name.take() {
                by_name.remove(&(Arc::as_ptr(&name).cast::<u8>() as usize));
                self.topics_free.push(place as u32);
            }
        }
        self.idle_topics = 0;
        self.last_topic = (0, 0);
    }

    #[inline]
    fn live(&mut self, place: Place) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(place.index as usize / SHARDS)?;
        (entry.generation == place.generation && entry.count > 0).then_some(entry)
    }

    /// Gives a reference back; the last one gives the message, to be let go after the lock.
    #[inline]
    fn release(&mut self, place: Place) -> Option<Option<Message>> {
        let entry = self.live(place)?;
        entry.count -= 1;
        if entry.count > 0 {
            return Some(None);
        }
        entry.texts = None;
        let message = entry.incoming.take().map(|incoming| incoming.message);
        let topic = entry.topic as usize;
        if entry.generation < GENERATION_MAX {
            self.free.push(place.index / SHARDS as u32);
        }
        let text = &mut self.topics[topic];
        text.users -= 1;
        if text.users == 0 {
            self.idle_topics += 1;
        }
        Some(message)
    }
}

thread_local! {
    static OWN_SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
    static RELEASED: Cell<Vec<Message>> = const { Cell::new(Vec::new()) };
}

/// The shard in which this thread makes handles.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let given = OWN_SHARD.try_with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        own.get()
    });
    // A thread that is ending has no variables any more.
    given.unwrap_or(0)
}

/// A shard, locked to take in a batch.
pub(super) struct Intake {
    entries: MutexGuard<'static, Entries>,
    shard: usize,
}

impl Intake {
    /// Locks this thread's shard.
    pub(super) fn open() -> Self {
        let shard = own_shard();
        Self { entries: TABLE[shard].0.lock(), shard }
    }

    /// Whether one more message fits.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.entries.has_room()
    }

    /// Puts a message in, for which there is room; answers its handle and its topic's text.
    #[inline]
    pub(super) fn insert(&mut self, incoming: Incoming) -> (usize, Text) {
        self.entries.insert(self.shard, incoming)
    }
}

#[cold]
pub(super) fn no_room() -> Error {
    Error::new(Kind::Resources, "no more message handles: free messages before taking more")
}

/// Gives one message a handle.
pub(super) fn insert(incoming: Incoming) -> Result<usize> {
    let mut intake = Intake::open();
    if intake.has_room() {
        Ok(intake.insert(incoming).0)
    } else {
        drop(intake);
        drop(incoming);
        Err(no_room())
    }
}

fn entries_of(place: Place) -> MutexGuard<'static, Entries> {
    TABLE[place.index as usize % SHARDS].0.lock()
}

/// Looks at a message under its lock; `None` if the handle names none.
pub(super) fn with<T>(handle: usize, look: impl FnOnce(&mut Held<'_>) -> T) -> Option<T> {
    let place = place_of(handle, Type::Message)?;
    let mut entries = entries_of(place);
    let Entry { incoming: Some(incoming), texts, .. } = entries.live(place)? else { return None };
    Some(look(&mut Held { incoming, texts }))
}

/// As [`with`], with an error that says what is wrong with the handle.
pub(super) fn find<T>(handle: usize, look: impl FnOnce(&mut Held<'_>) -> T) -> Result<T> {
    with(handle, look).ok_or_else(|| bad_handle(handle, Type::Message))
}

/// The topic's text; it lives as long as the message.
pub(super) fn topic(handle: usize) -> Option<Text> {
    let place = place_of(handle, Type::Message)?;
    let mut entries = entries_of(place);
    let topic = entries.live(place)?.topic as usize;
    entries.topics.get(topic).map(|topic| shown(&topic.text))
}

/// Takes one more reference; `false` if they cannot be counted any more.
pub(super) fn retain(handle: usize) -> Result<bool> {
    let place = place_of(handle, Type::Message).ok_or_else(|| bad_handle(handle, Type::Message))?;
    let mut entries = entries_of(place);
    let entry = entries.live(place).ok_or_else(|| bad_handle(handle, Type::Message))?;
    match entry.count.checked_add(1) {
        Some(count) => entry.count = count,
        None => return Ok(false),
    }
    Ok(true)
}

/// Gives one reference back.
pub(super) fn release(handle: usize) {
    let released = place_of(handle, Type::Message).and_then(|place| entries_of(place).release(place));
    match released {
        // Let go here, with no lock held.
        Some(message) => drop(message),
        None => count_useless_free(Type::Message.name()),
    }
}

/// Gives one reference of each handle back: one lock for each run in one shard, and the messages
/// are let go together.
pub(super) fn release_many(handles: impl Iterator<Item = usize>) {
    let mut messages = RELEASED.try_with(Cell::take).unwrap_or_default();
    let mut locked: Option<(usize, MutexGuard<'static, Entries>)> = None;
    for handle in handles {
        let Some(place) = place_of(handle, Type::Message) else {
            count_useless_free(Type::Message.name());
            continue;
        };
        let shard = place.index as usize % SHARDS;
        let entries = match &mut locked {
            Some((own, entries)) if *own == shard => entries,
            _ => {
                // The lock before is given back first: nobody holds two.
                locked = None;
                &mut locked.insert((shard, TABLE[shard].0.lock())).1
            }
        };
        match entries.release(place) {
            Some(message) => messages.extend(message),
            None => count_useless_free(Type::Message.name()),
        }
    }
    drop(locked);
    release_all(&mut messages);
    // Fails only on a thread that is ending.
    let _ = RELEASED.try_with(|kept| kept.set(messages));
}

/// Lets go of messages that were never given a handle, with one step of the count for each run.
pub(super) fn let_go(gone: impl Iterator<Item = Message>) {
    let mut messages = RELEASED.try_with(Cell::take).unwrap_or_default();
    messages.extend(gone);
    release_all(&mut messages);
    let _ = RELEASED.try_with(|kept| kept.set(messages));
}

/// All of a message as a document. A payload that is JSON or text is shown so, else as base64.
pub(super) fn to_json(incoming: &Incoming) -> Value {
    use base64::prelude::{Engine, BASE64_STANDARD};

    let message = &incoming.message;
    let mut out = Map::new();
    let mut bytes = |name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => drop(out.insert(format!("{name}_text"), json!(text))),
        Err(_) => drop(out.insert(format!("{name}_base64"), json!(BASE64_STANDARD.encode(bytes)))),
    };
    bytes("payload", message.payload());
    if let Some(key) = message.key() {
        bytes("key", key);
    }
    out.insert("topic".into(), json!(&**message.topic()));
    out.insert("id".into(), json!(message.id().as_str()));
    if !message.type_().is_empty() {
        out.insert("type".into(), json!(message.type_()));
    }
    let headers: Vec<Value> = message
        .headers()
        .into_iter()
        .map(|(name, value)| match std::str::from_utf8(value) {
            Ok(text) => json!({"name": name, "value": text}),
            Err(_) => json!({"name": name, "value_base64": BASE64_STANDARD.encode(value)}),
        })
        .collect();
    out.insert("headers".into(), Value::Array(headers));
    out.insert("timestamp_us".into(), json!(message.timestamp_us()));
    out.insert("priority".into(), json!(message.priority()));
    out.insert("attempt".into(), json!(incoming.attempt));
    out.insert("redelivered".into(), json!(incoming.redelivered));
    out.insert("provisional".into(), json!(incoming.provisional));
    out.insert("maybe_dup".into(), json!(message.maybe_dup()));
    out.insert("token".into(), json!(incoming.token));
    if incoming.offset >= 0 {
        out.insert("partition".into(), json!(incoming.partition));
        out.insert("offset".into(), json!(incoming.offset));
    }
    Value::Object(out)
}
