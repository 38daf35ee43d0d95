//! Wide events: what an inbox holds, written into the caller's array with everything a consumer
//! needs, so that no call per message follows.

use std::cell::Cell;

use super::convert::{backend_number, level_number};
use super::inbox::polled;
use super::messages::{self, Intake};
use super::structs::Step;
use super::text::{self, Timeout};
use super::types::{
    hmq_event, hmq_msg, hmq_status, EV_END, EV_FATE, EV_LOG, EV_MESSAGE, EV_PUBLISHED, EV_STATE, MSG_MAYBE_DUP,
    MSG_PROVISIONAL, MSG_REDELIVERED, OK, RECEIPT_SPOOLED,
};
use crate::error::{Error, Kind, Result};
use crate::hub::{Event, Inbox, Incoming, Polled};

/// Events taken out of an inbox at once, at most.
pub(super) const POLL_MAX: usize = 1024;

thread_local! {
    static POLLED: Cell<Vec<Event>> = const { Cell::new(Vec::new()) };
}

/// Lends this thread's list of events, empty; a call inside a call gets a fresh one.
pub(super) fn with_events<T>(work: impl FnOnce(&mut Vec<Event>) -> T) -> T {
    let mut events = POLLED.try_with(Cell::take).unwrap_or_default();
    let out = work(&mut events);
    events.clear();
    // Fails only on a thread that is ending.
    let _ = POLLED.try_with(|kept| kept.set(events));
    out
}

/// Flags of a message, as events and frames show them.
pub(super) fn message_flags(incoming: &Incoming) -> u32 {
    let flag = |set, flag| if set { flag } else { 0 };
    flag(incoming.redelivered, MSG_REDELIVERED)
        | flag(incoming.provisional, MSG_PROVISIONAL)
        | flag(incoming.message.maybe_dup(), MSG_MAYBE_DUP)
}

/// The caller's array, checked.
pub(super) struct Room(Step<hmq_event>);

impl Room {
    /// # Safety
    /// `events` is NULL or valid for writes of `max` events of the size in the first.
    pub(super) unsafe fn new(events: *mut hmq_event, max: usize) -> Result<Self> {
        if max == 0 {
            return Err(Error::new(Kind::Arg, "max is 0: there is room for no event"));
        }
        // SAFETY: as promised by the caller.
        Ok(Self(unsafe { Step::of(events, max, "events") }?))
    }

    /// Writes an event, and zero into what a newer caller has behind it.
    ///
    /// # Safety
    /// As of [`Room::new`]; `index` is below `max`.
    #[inline]
    unsafe fn write(&self, index: usize, event: hmq_event) {
        let place = self.0.at(index);
        let known = size_of::<hmq_event>();
        // SAFETY: as promised by the caller.
        unsafe {
            place.write(event);
            if self.0.size() > known {
                std::ptr::write_bytes(place.cast::<u8>().add(known), 0, self.0.size() - known);
            }
        }
    }
}

/// Polls `inbox` into the caller's array.
///
/// # Safety
/// `room` is as [`Room::new`] asks; `count` is valid for a write.
pub(super) unsafe fn poll_into(inbox: &Inbox, room: Room, timeout: Timeout, count: *mut usize) -> Result<hmq_status> {
    with_events(|events| {
        let found = inbox.poll(room.0.count().min(POLL_MAX), timeout, events);
        if found != Polled::Data {
            return Ok(polled(found));
        }
        let mut intake = None;
        let mut written = 0;
        let mut waiting = events.drain(..);
        while let Some(event) = waiting.next() {
            let size = room.0.size() as u32;
            let shown = match event {
                Event::Message { tag, incoming } => {
                    let intake = intake.get_or_insert_with(Intake::open);
                    if !intake.has_room() {
                        let first = Event::Message { tag, incoming };
                        inbox.unpoll(std::iter::once(first).chain(waiting).collect());
                        break;
                    }
                    show_message(size, tag, incoming, intake)
                }
                other => show_other(size, other),
            };
            // SAFETY: no more events were polled than there is room for.
            unsafe { room.write(written, shown) };
            written += 1;
        }
        if written == 0 {
            return Err(messages::no_room());
        }
        // SAFETY: as promised by the caller.
        unsafe { count.write(written) };
        Ok(OK)
    })
}

#[inline]
fn empty(size: u32, kind: u32) -> hmq_event {
    // SAFETY: integers and pointers, of which zero is a value.
    let mut event: hmq_event = unsafe { std::mem::zeroed() };
    event.size = size;
    event.kind = kind;
    event
}

#[inline]
fn show_message(size: u32, tag: u64, incoming: Incoming, intake: &mut Intake) -> hmq_event {
    let message = &incoming.message;
    let key = message.key();
    // The pointers stay good: they point into the message's segment, which its entry keeps.
    let (payload, payload_len) = (message.payload().as_ptr(), message.payload().len());
    let (key, key_len) = (key.map_or(std::ptr::null(), <[u8]>::as_ptr), key.map_or(0, <[u8]>::len));
    let (timestamp_us, flags) = (message.timestamp_us(), message_flags(&incoming));
    let Incoming { token, attempt, partition, offset, .. } = incoming;
    let (handle, (topic, topic_len)) = intake.insert(incoming);
    hmq_event {
        tag,
        token,
        attempt,
        timestamp_us,
        msg: handle as *mut hmq_msg,
        payload: payload.cast(),
        payload_len,
        topic,
        topic_len,
        key: key.cast(),
        key_len,
        flags,
        partition,
        offset,
        ..empty(size, EV_MESSAGE)
    }
}

fn show_other(size: u32, event: Event) -> hmq_event {
    let with_json = |kind, json: &str| hmq_event { json: text::own(json), json_len: json.len(), ..empty(size, kind) };
    let failed = |kind, error: &Error| hmq_event {
        status: error.kind().code(),
        ..with_json(kind, &error.to_json().to_string())
    };
    match event {
        Event::Published { tag, op, result: Ok(receipt) } => hmq_event {
            tag,
            token: op,
            level: level_number(receipt.level),
            backend: backend_number(receipt.backend),
            flags: if receipt.spooled { RECEIPT_SPOOLED } else { 0 },
            ..empty(size, EV_PUBLISHED)
        },
        Event::Published { tag, op, result: Err(error) } => {
            hmq_event { tag, token: op, ..failed(EV_PUBLISHED, &error) }
        }
        Event::State { json } => with_json(EV_STATE, &json),
        Event::Log { level, json } => hmq_event { attempt: level as u32, ..with_json(EV_LOG, &json) },
        Event::Fate { json } => with_json(EV_FATE, &json),
        Event::End { tag, result: Ok(()) } => hmq_event { tag, ..empty(size, EV_END) },
        Event::End { tag, result: Err(error) } => hmq_event { tag, ..failed(EV_END, &error) },
        // Shown by `show_message`; a message without a handle is not shown at all.
        Event::Message { tag, .. } => hmq_event { tag, ..empty(size, EV_MESSAGE) },
    }
}

/// Frees what events hold, and empties them.
///
/// # Safety
/// `events` is NULL or valid for reads and writes of `count` events of the size in the first.
pub(super) unsafe fn clear_all(events: *mut hmq_event, count: usize) {
    // SAFETY: as promised by the caller.
    let Ok(room) = (unsafe { Step::of(events, count, "events") }).map(Room) else { return };
    // SAFETY: the index is below the count.
    let at = |index| unsafe { &*room.0.at(index) };
    messages::release_many((0..count).map(|index| at(index).msg as usize).filter(|msg| *msg != 0));
    for index in 0..count {
        text::free(at(index).json.cast());
        // SAFETY: the index is below the count, and each event has the first one's size.
        unsafe { room.write(index, empty(at(index).size, 0)) };
    }
}
