//! The courier tells the hub what the program said from inside an operation.
//!
//! An operation runs under the locks of whoever published or settled, and the hub may not be called
//! back there. What is said elsewhere goes straight to the hub.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::{BackendEvent, BackendSink, Outcome, Sink, Ticket, Wake};
use crate::runtime::{contained, spawn_thread};
use crate::sync::{Condvar, Deadline, Mutex};

thread_local! {
    /// How many operations this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Marks the calling thread as inside an operation while it lives.
pub(super) struct Inside(());

impl Inside {
    pub(super) fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// One thing to tell.
pub(super) enum Note {
    Outcomes(Arc<dyn BackendSink>, Vec<(Ticket, Outcome)>),
    Event(Arc<dyn BackendSink>, BackendEvent),
    Ready(Arc<dyn Sink>),
    Revoked(Arc<dyn Sink>, Vec<u64>),
    Wake(Arc<dyn Wake>),
}

impl Note {
    fn tell(self) {
        match self {
            Note::Outcomes(sink, mut outcomes) => sink.complete(&mut outcomes),
            Note::Event(sink, event) => sink.event(event),
            Note::Ready(sink) => sink.ready(),
            Note::Revoked(sink, tags) => sink.revoked(&tags),
            Note::Wake(waker) => waker.wake(),
        }
    }
}

/// Tells notes in the order they were posted.
#[derive(Default)]
pub(super) struct Courier(Arc<Bag>);

#[derive(Default)]
struct Bag {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    notes: VecDeque<Note>,
    runs: bool,
    /// A note has been taken out and is being told.
    telling: bool,
    ended: bool,
}

impl Courier {
    /// Tells `notes`: here and now where that is allowed, else on the courier's thread.
    pub(super) fn post(&self, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let mut state = self.0.state.lock();
        // What waits goes first, or a "connected" could overtake the "lost" before it. Where the
        // thread could not be started, the next thread outside of an operation clears the bag.
        let behind = state.runs && (state.telling || !state.notes.is_empty());
        if DEPTH.get() == 0 && !behind {
            let waiting: Vec<Note> = state.notes.drain(..).chain(notes).collect();
            drop(state);
            waiting.into_iter().for_each(Note::tell);
            return;
        }
        state.notes.extend(notes);
        if !state.runs {
            let bag = Arc::clone(&self.0);
            state.runs = spawn_thread("hmq-courier", move || bag.run()).is_ok();
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// The thread ends once the bag is empty.
    pub(super) fn end(&self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify_all();
    }

    /// Waits until its thread has told everything and ended; `false` if that is late.
    pub(super) fn wait_until_ended(&self, deadline: Deadline) -> bool {
        let mut state = self.0.state.lock();
        while state.runs && !deadline.has_passed() {
            state = self.0.changed.wait_until(state, deadline.instant());
        }
        !state.runs
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.state.lock().ended
    }
}

impl Bag {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(note) = state.notes.pop_front() {
                state.telling = true;
                drop(state);
                // A panic of the hub's must not stop the notes behind it.
                let _ = contained("courier", || note.tell());
                state = self.state.lock();
                state.telling = false;
            } else if state.ended {
                state.runs = false;
                drop(state);
                self.changed.notify_all();
                return;
            } else {
                state = self.changed.wait_until(state, None);
            }
        }
    }
}
