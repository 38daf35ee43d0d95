//! The inbox: one bounded place, with one pollable descriptor, for deliveries, publish results,
//! state changes and logs.
//!
//! Deliveries are not queued here: the inbox knows which subscriptions are *ready* and a poll pulls
//! from them. Only what nobody can pull (results, state, logs, ends) is queued, bounded by the
//! inbox's capacity; results reserve their place before the publish.
//!
//! Lock order: inbox → feed → source. What a poll decides about deliveries it does not hand over
//! (filtered ones) is settled after the locks are dropped, since settling may ring this inbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use once_cell::sync::OnceCell;

use super::feed::{Deferred, Incoming};
use super::subscribe::{end_of, SubShared};
use super::{Receipt, Shared, Timeout};
use crate::broker::Flow;
use crate::config::options::InboxOptions;
use crate::error::{Error, Kind, Result};
use crate::reentrancy::{as_callback, Caller};
use crate::signal::SignalFd;
use crate::sync::{Bell, Deadline, Mutex};

/// Something that happened, for the program to read.
#[derive(Debug)]
pub enum Event {
    /// A delivery.
    Message {
        /// The subscription's tag.
        tag: u64,
        /// The delivery.
        incoming: Incoming,
    },
    /// A publish has ended.
    Published {
        /// The record's tag.
        tag: u64,
        /// The operation.
        op: u64,
        /// How it ended.
        result: Result<Receipt>,
    },
    /// A backend changed its state.
    State {
        /// The change.
        json: Arc<str>,
    },
    /// A log line.
    Log {
        /// Its level.
        level: super::LogLevel,
        /// The line.
        json: Arc<str>,
    },
    /// The later fate of a spooled message.
    Fate {
        /// The message and its fate.
        json: Arc<str>,
    },
    /// The last event of a subscription.
    End {
        /// The subscription's tag.
        tag: u64,
        /// How it ended.
        result: Result<()>,
    },
}

/// What a poll found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Events.
    Data,
    /// Nothing within the timeout, or the inbox was woken.
    NoData,
    /// Nothing, and nothing will come any more.
    Closed,
}

/// After so many polls that slept all the same, looking first is left ...
const IN_VAIN_MAX: u32 = 8;
/// ... but for one poll in so many.
const TRIED_AGAIN: u32 = 32;

/// A handle on an inbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox(pub(super) Arc<InboxShared>);

/// Shared by the handles and by the subscriptions that feed it.
#[derive(Debug)]
pub struct InboxShared {
    hub: Weak<Shared>,
    hub_id: u64,
    waker: Arc<InboxWaker>,
    capacity: usize,
    spin: Duration,
    /// Polls in a row for which it was no use to look for a while before sleeping.
    spun_in_vain: AtomicU32,
    pub(super) wants: super::Wants,
    state: Mutex<State>,
    on_ready: OnceCell<Arc<OnReady>>,
}

struct OnReady(Box<dyn Fn() + Send + Sync>);

impl OnReady {
    fn call(&self, hub: u64) {
        // On a thread that may be closing this hub.
        as_callback(Caller::Hub(hub), || crate::runtime::contained("on_ready", || (self.0)()));
    }
}

impl std::fmt::Debug for OnReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnReady")
    }
}

/// Guarded together: what there is, and whether the descriptor says so.
#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Arc<SubShared>>,
    events: VecDeque<Event>,
    /// Places promised to results that are not there yet.
    reserved: usize,
    signalled: bool,
    closed: bool,
    /// Closed by its free: nothing comes in or goes out any more.
    freed: bool,
    lost_events: u64,
}

impl State {
    /// Adds a subscription to those that are ready, once.
    fn list(&mut self, feed: Arc<SubShared>) {
        if !feed.listed.swap(true, Ordering::Relaxed) {
            self.ready.push_back(feed);
        }
    }

    /// Makes the descriptor quiet, if there is nothing: no event, no end, and no wake-up that a poll
    /// has not answered.
    fn rest(&mut self, waker: &InboxWaker) {
        if !self.is_empty() || self.closed || waker.woken.load(Ordering::SeqCst) {
            return;
        }
        self.signalled = false;
        waker.signal.clear();
        // A wake-up that came meanwhile may have been cleared, too.
        if waker.woken.load(Ordering::SeqCst) {
            waker.signal.raise();
        }
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.events.is_empty()
    }
}

/// Wakes a poll from anywhere, also from a signal handler.
#[derive(Debug)]
pub struct InboxWaker {
    bell: Bell,
    woken: AtomicBool,
    signal: SignalFd,
}

impl InboxWaker {
    /// Makes the running poll, or else the next one, return; makes the descriptor readable until
    /// then. Takes no lock and allocates nothing.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.signal.raise();
        self.bell.ring();
    }
}

impl Inbox {
    pub(super) fn new(hub: &Arc<Shared>, options: &InboxOptions) -> Result<Self> {
        let signal = SignalFd::new(options.signal)?;
        if options.fate {
            hub.notices.fates.store(true, Ordering::Relaxed);
        }
        let waker = InboxWaker { bell: Bell::new(), woken: AtomicBool::new(false), signal };
        Ok(Self(Arc::new(InboxShared {
            hub: Arc::downgrade(hub),
            hub_id: hub.id,
            waker: Arc::new(waker),
            capacity: options.capacity,
            spin: options.spin,
            spun_in_vain: AtomicU32::new(0),
            wants: super::Wants { state: options.state, log: options.log, fate: options.fate },
            state: Mutex::default(),
            on_ready: OnceCell::new(),
        })))
    }

    /// The descriptor: readable while the inbox is not empty. Owned by the inbox; may be `dup`ed.
    pub fn fd(&self) -> i32 {
        let shared = &self.0;
        let mut state = shared.state.lock();
        let fd = shared.waker.signal.fd();
        if !state.is_empty() || state.closed || shared.waker.woken.load(Ordering::SeqCst) {
            state.signalled = true;
            shared.waker.signal.raise();
        }
        fd
    }

    /// Calls `ready` once each time the inbox stops being empty, from the thread that filled it and
    /// with no lock held. Set once.
    pub fn on_ready(&self, ready: Box<dyn Fn() + Send + Sync>) -> Result<()> {
        let set = self.0.on_ready.set(Arc::new(OnReady(ready)));
        set.map_err(|_| Error::new(Kind::State, "this inbox has an on_ready function already"))?;
        if !self.0.state.lock().is_empty() {
            self.0.call_on_ready();
        }
        Ok(())
    }

    /// The waker, which may outlive the inbox.
    pub fn waker(&self) -> Arc<InboxWaker> {
        Arc::clone(&self.0.waker)
    }

    /// Wakes a poll. See [`InboxWaker::wake`].
    pub fn wake(&self) {
        self.0.waker.wake();
    }

    /// Appends up to `max` events to `out`; waits for the first for at most `timeout`.
    pub fn poll(&self, max: usize, timeout: Timeout, out: &mut Vec<Event>) -> Polled {
        let shared = &*self.0;
        let mut deadline = None;
        loop {
            let heard = shared.waker.bell.heard();
            let polled = shared.take(max, out);
            if polled != Polled::NoData {
                return polled;
            }
            if shared.waker.woken.swap(false, Ordering::SeqCst) {
                shared.state.lock().rest(&shared.waker);
                return polled;
            }
            if timeout == Some(Duration::ZERO) {
                return Polled::NoData;
            }
            let deadline = *deadline.get_or_insert_with(|| Deadline::after(timeout));
            if deadline.has_passed() {
                return Polled::NoData;
            }
            shared.wait(heard, deadline);
        }
    }

    /// Puts events that were polled but not read back to the front, in order. Whoever does it knows
    /// of them, so `on_ready` is not called.
    pub fn unpoll(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.0.fill(|state| {
            for event in events.into_iter().rev() {
                state.events.push_front(event);
            }
        });
    }

    /// Ends the inbox: what is queued can still be read, then polls answer `Closed`.
    pub fn close(&self) {
        self.0.close();
    }

    /// Ends the inbox and the subscriptions that feed it, as nobody will poll it any more.
    pub fn end(&self) {
        self.close();
        let left = {
            let mut state = self.0.state.lock();
            state.freed = true;
            (std::mem::take(&mut state.ready), std::mem::take(&mut state.events))
        };
        drop(left);
        let Some(hub) = self.0.hub.upgrade() else { return };
        let own = Arc::downgrade(&self.0);
        let all: Vec<_> = hub.subscriptions.lock().values().filter_map(Weak::upgrade).collect();
        for subscription in all.into_iter().filter(|subscription| subscription.feeds(&own)) {
            subscription.close_now();
        }
    }
}

impl InboxShared {
    /// Waits for something. Looking before sleeping takes the time of others where what comes takes
    /// longer than that each time, as the answers of a server do.
    fn wait(&self, heard: u32, deadline: Deadline) {
        let in_vain = self.spun_in_vain.load(Ordering::Relaxed);
        let spins = in_vain < IN_VAIN_MAX || in_vain.is_multiple_of(TRIED_AGAIN);
        let spin = if spins { self.spin } else { Duration::ZERO };
        let seen = self.waker.bell.wait_spinning(heard, spin, deadline);
        let in_vain = if seen { 0 } else { in_vain.wrapping_add(1).max(1) };
        self.spun_in_vain.store(in_vain, Ordering::Relaxed);
    }

    /// Refuses an inbox of another hub: it would end with that hub, not with this one.
    pub(super) fn check_hub(&self, hub: u64) -> Result<()> {
        if self.hub_id == hub {
            return Ok(());
        }
        Err(Error::new(Kind::Arg, "the inbox belongs to another hub"))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// A feed has something, or has ended.
    pub(super) fn feed_ready(&self, feed: Arc<SubShared>) {
        self.put(|state| state.list(feed));
    }

    /// Queues an event that must not be lost; its place is not counted against the capacity.
    pub(super) fn push_end(&self, tag: u64, result: Result<()>) {
        self.put(|state| state.events.push_back(Event::End { tag, result }));
    }

    /// Queues a state change or a log line; dropped, and counted, when the inbox is full.
    pub(super) fn push_notice(&self, event: Event) {
        self.put(|state| {
            if state.events.len() + state.reserved < self.capacity {
                state.events.push_back(event);
            } else {
                state.lost_events += 1;
            }
        });
    }

    /// Promises `count` places to results; answers how many there were.
    pub(super) fn reserve(&self, count: usize) -> usize {
        let mut state = self.state.lock();
        if state.closed {
            return 0;
        }
        let granted = self.capacity.saturating_sub(state.events.len() + state.reserved).min(count);
        state.reserved += granted;
        granted
    }

    /// Gives back promised places.
    pub(super) fn unreserve(&self, count: usize) {
        let mut state = self.state.lock();
        state.reserved = state.reserved.saturating_sub(count);
    }

    /// Queues results into their promised places.
    pub(super) fn push_results(&self, results: impl IntoIterator<Item = Event>) {
        self.put(|state| {
            let before = state.events.len();
            state.events.extend(results);
            state.reserved = state.reserved.saturating_sub(state.events.len() - before);
        });
    }

    pub(super) fn close(&self) {
        self.put(|state| state.closed = true);
    }

    fn put(&self, change: impl FnOnce(&mut State)) {
        if self.fill(change) {
            self.call_on_ready();
        }
    }

    /// Changes what there is and wakes polls; answers whether it has stopped being empty.
    fn fill(&self, change: impl FnOnce(&mut State)) -> bool {
        let became_ready = {
            let mut state = self.state.lock();
            if state.freed {
                return false;
            }
            let was_empty = state.is_empty();
            change(&mut state);
            if (!state.is_empty() || state.closed) && !state.signalled && self.waker.signal.is_used() {
                state.signalled = true;
                self.waker.signal.raise();
            }
            was_empty && !state.is_empty()
        };
        self.waker.bell.ring();
        became_ready
    }

    fn call_on_ready(&self) {
        let Some(on_ready) = self.on_ready.get() else { return };
        if !crate::runtime::is_io_thread() {
            return on_ready.call(self.hub_id);
        }
        // A function that takes its time would stop the sockets: it runs where completions do.
        let (own, id) = (Arc::clone(on_ready), self.hub_id);
        let Some(hub) = self.hub.upgrade() else { return };
        match hub.completions.reserve() {
            Ok(()) => hub.completions.push(id, Box::new(move || own.call(id))),
            Err(_) => on_ready.call(id),
        }
    }

    /// One round over what is there. Subscriptions take turns.
    fn take(&self, max: usize, out: &mut Vec<Event>) -> Polled {
        let before = out.len();
        let mut deferred = Deferred::default();
        let closed = {
            let mut state = self.state.lock();
            if state.freed {
                return Polled::Closed;
            }
            let queued = state.events.len().min(max);
            out.extend(state.events.drain(..queued));
            while out.len() - before < max {
                let Some(feed) = state.ready.pop_front() else { break };
                let tag = feed.tag;
                let room = max - (out.len() - before);
                let take = |incoming| out.push(Event::Message { tag, incoming });
                feed.listed.store(false, Ordering::Relaxed);
                let flow = feed.feed.take(room, &mut deferred, take);
                match flow {
                    Flow::More => state.list(feed),
                    Flow::Idle => deferred.let_go(feed),
                    Flow::End | Flow::Lost => {
                        if let Some(result) = feed.end_once(end_of(flow)) {
                            state.events.push_back(Event::End { tag, result });
                        }
                        deferred.let_go(feed);
                        let left = (max - (out.len() - before)).min(state.events.len());
                        out.extend(state.events.drain(..left));
                    }
                }
            }
            state.rest(&self.waker);
            state.closed && state.is_empty()
        };
        deferred.run();
        match (out.len() > before, closed) {
            (true, _) => Polled::Data,
            (false, true) => Polled::Closed,
            (false, false) => Polled::NoData,
        }
    }
}

/// A weak hold, kept by the hub for notices.
pub(super) type WeakInbox = Weak<InboxShared>;
