//! Where records for the program's broker go: handed over one by one, their tickets watched.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::courier::{Inside, Note};
use super::{Open, Shared};
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::error::{Error, Fate, Kind};
use crate::message::TopicKind;
use crate::sync::Mutex;

pub(super) struct CustomDestination {
    /// Weak, because the broker keeps its destinations.
    shared: Weak<Shared>,
    topic: String,
    kind: TopicKind,
    /// Signs of space that had been seen when the program last said `Full`.
    signs_seen: AtomicU64,
    /// Held over a batch, so that the order of numbers is the order in which records are handed over.
    order: Mutex<()>,
}

impl CustomDestination {
    pub(super) fn new(shared: Weak<Shared>, topic: &str, kind: TopicKind) -> Self {
        Self { shared, topic: topic.to_owned(), kind, signs_seen: AtomicU64::new(0), order: Mutex::default() }
    }

    /// Hands records over one by one; answers how many were taken, and what stopped it.
    fn hand_over(&self, shared: &Shared, batch: &Batch<'_>, first_seq: u64) -> (usize, Option<Error>) {
        for (index, record) in batch.records.iter().enumerate() {
            let ticket = batch.first_ticket.0 + index as u64;
            let signs = shared.state.lock().space_signs;
            let answer = shared.operate("custom publish", |ops| {
                ops.publish(&self.topic, self.kind, record, first_seq + index as u64, ticket)
            });
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => {
                    // An outcome that came first decides: it has been accepted.
                    if matches!(shared.state.lock().tickets.get(&ticket), Some(Open::Early(_))) {
                        continue;
                    }
                    self.signs_seen.store(signs, Ordering::Relaxed);
                    return (index, Some(with_some_fate(refused)));
                }
                // Nobody knows what had been done of it: taken, and unknown since `end_all`.
                Err(panicked) => return (index + 1, Some(panicked.with_fate(Fate::NotSent))),
            }
        }
        (batch.records.len(), None)
    }

    /// Settles what the tickets of a batch are from now on; answers the level if all of them
    /// were confirmed at the same one already.
    fn conclude(shared: &Shared, batch: &Batch<'_>, count: usize) -> Option<Level> {
        let ticket = |index: usize| batch.first_ticket.0 + index as u64;
        let mut state = shared.state.lock();
        for index in count..batch.records.len() {
            state.tickets.remove(&ticket(index));
        }
        let mut levels = (0..count).map(|index| match state.tickets.get(&ticket(index)) {
            Some(Open::Early(Outcome::Confirmed(level))) => Some(*level),
            _ => None,
        });
        let first = levels.next().flatten();
        if first.is_some() && levels.all(|level| level == first) {
            for index in 0..count {
                state.tickets.remove(&ticket(index));
            }
            return first;
        }
        let mut early = Vec::new();
        for index in 0..count {
            match state.tickets.insert(ticket(index), Open::Out) {
                Some(Open::Early(outcome)) => {
                    state.tickets.remove(&ticket(index));
                    early.push((Ticket(ticket(index)), outcome));
                }
                Some(Open::Publishing | Open::Out) | None => {}
            }
        }
        drop(state);
        if let (Some(context), false) = (shared.context.get(), early.is_empty()) {
            let inside = Inside::enter();
            shared.post(vec![Note::Outcomes(Arc::clone(&context.sink), early)]);
            drop(inside);
        }
        None
    }
}

impl Destination for CustomDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let nothing = |why: Error| Taken { count: 0, first_seq: 0, level: None, stopped: Some(with_some_fate(why)) };
        let Some(shared) = self.shared.upgrade() else {
            return nothing(Error::new(Kind::Closed, "the broker is gone").with_backend("custom"));
        };
        let order = self.order.lock();
        {
            let mut state = shared.state.lock();
            if let Err(closed) = state.check_open() {
                return nothing(closed);
            }
            let tickets = (0..batch.records.len() as u64).map(|index| batch.first_ticket.0 + index);
            state.tickets.extend(tickets.map(|ticket| (ticket, Open::Publishing)));
        }
        let first_seq = batch.number(batch.records.len());
        let (count, stopped) = self.hand_over(&shared, batch, first_seq);
        let level = Self::conclude(&shared, batch, count);
        drop(order);
        Taken { count, first_seq, level, stopped }
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = shared.state.lock();
            if !state.closed && state.space_signs == self.signs_seen.load(Ordering::Relaxed) {
                return state.wakers.add(waker);
            }
        }
        if let Some(waker) = waker.upgrade() {
            waker.wake();
        }
    }
}

/// What the program did not say of a record that it did not take: it has not been sent.
fn with_some_fate(error: Error) -> Error {
    if error.fate().is_some() {
        return error;
    }
    error.with_fate(Fate::NotSent)
}

impl fmt::Debug for CustomDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomDestination").field("topic", &self.topic).field("kind", &self.kind).finish()
    }
}
