//! Publishes whose outcome is not known yet, and completions on their way to the program.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::inbox::{Event, InboxShared};
use super::receipt::{Receipt, ReceiptId};
use crate::broker::{BackendKind, Level, Outcome, Ticket};
use crate::error::{Error, Fate, Kind, Result};
use crate::numbers::NumberMap;
use crate::reentrancy::{as_callback, Caller};
use crate::sync::{Bell, Deadline, Mutex, MutexGuard};

/// Who is told the outcome of a publish, once.
pub(super) enum Done {
    /// An inbox, in the place that it promised.
    Inbox { inbox: Weak<InboxShared>, tag: u64 },
    /// Whoever made this function.
    Call(Box<dyn FnOnce(Result<Receipt>) + Send>),
}

impl Done {
    pub(super) fn call(done: impl FnOnce(Result<Receipt>) + Send + 'static) -> Self {
        Done::Call(Box::new(done))
    }
}

/// Records handed over to backends that confirm later. Bounded by the publish window.
pub(super) struct Inflight {
    window: usize,
    next: AtomicU64,
    changed: Bell,
    closing: AtomicBool,
    entries: Mutex<NumberMap<Entry>>,
    /// Taken out of `entries`, and not told to the end yet.
    telling: AtomicUsize,
}

struct Entry {
    op: u64,
    backend: BackendKind,
    /// Known once the hand-over has returned. Until then the entry stays, whatever its outcome,
    /// as only the hand-over can say whether the record was taken at all.
    id: Option<ReceiptId>,
    outcome: Option<Outcome>,
    done: Done,
}

impl Inflight {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            next: AtomicU64::new(1),
            changed: Bell::new(),
            closing: AtomicBool::new(false),
            entries: Mutex::default(),
            telling: AtomicUsize::new(0),
        }
    }

    /// Enters a record that is about to be handed over; waits for room in the window.
    pub(super) fn enter(&self, deadline: Deadline, op: u64, backend: BackendKind, done: Done) -> Result<Ticket> {
        let mut one = Some((op, done));
        loop {
            let heard = self.changed.heard();
            let (ticket, entered) = self.enter_all(1, backend, || one.take());
            if entered == 1 {
                return Ok(ticket);
            }
            if deadline.has_passed() {
                return Err(self.full());
            }
            if self.closing.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Closed, "the hub is closed").with_fate(Fate::NotSent));
            }
            self.changed.wait(heard, deadline);
        }
    }

    /// Enters as many of `count` records as there is room for, under tickets that follow each other;
    /// answers the first ticket and how many.
    pub(super) fn enter_all(
        &self,
        count: usize,
        backend: BackendKind,
        mut next: impl FnMut() -> Option<(u64, Done)>,
    ) -> (Ticket, usize) {
        let mut entries = self.entries.lock();
        let room = self.window.saturating_sub(entries.len()).min(count);
        let first = self.next.fetch_add(room as u64, Ordering::Relaxed);
        let mut entered = 0;
        while entered < room {
            let Some((op, done)) = next() else { break };
            entries.insert(first + entered as u64, Entry { op, backend, id: None, outcome: None, done });
            entered += 1;
        }
        (Ticket(first), entered)
    }

    pub(super) fn full(&self) -> Error {
        let text = format!("{} publishes are in flight (publish window)", self.window);
        Error::new(Kind::Full, text).with_fate(Fate::NotSent)
    }

    /// Lets nobody wait for room any more.
    pub(super) fn stop_waiting(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.changed.ring();
    }

    /// The hand-over of `count` records has returned; `level` if they were confirmed by then. `id`
    /// names each, counted from 0.
    pub(super) fn handed_over(
        &self,
        first: Ticket,
        count: usize,
        id: impl Fn(usize) -> ReceiptId,
        level: Option<Level>,
    ) {
        let mut ended = Vec::new();
        let mut entries = self.entries.lock();
        for index in 0..count {
            let ticket = first.0 + index as u64;
            let Some(entry) = entries.get_mut(&ticket) else { continue };
            entry.id = Some(id(index));
            if let Some(level) = level {
                entry.outcome = Some(Outcome::Confirmed(level));
            }
            if entry.outcome.is_some() {
                ended.extend(entries.remove(&ticket));
            }
        }
        self.tell(entries, ended);
    }

    /// `count` records were not taken; their `done` is not called.
    pub(super) fn withdraw(&self, first: Ticket, count: usize) {
        if count == 0 {
            return;
        }
        let mut entries = self.entries.lock();
        let was_full = entries.len() >= self.window;
        let withdrawn: Vec<_> = (0..count as u64).map(|index| entries.remove(&(first.0 + index))).collect();
        // Nobody else has reason to look: a ring for each would keep waiting publishers busy.
        let rings = was_full || entries.is_empty();
        drop(entries);
        drop(withdrawn);
        if rings {
            self.changed.ring();
        }
    }

    /// Late outcomes. A ticket that is not known was completed before, or cancelled.
    pub(super) fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let mut ended = Vec::with_capacity(outcomes.len());
        let mut entries = self.entries.lock();
        for (ticket, outcome) in outcomes.drain(..) {
            let Some(entry) = entries.get_mut(&ticket.0) else { continue };
            // The first word counts.
            entry.outcome.get_or_insert(outcome);
            // One that is still being handed over is told by `handed_over`.
            if entry.id.is_some() {
                ended.extend(entries.remove(&ticket.0));
            }
        }
        self.tell(entries, ended);
    }

    /// Completes an operation as cancelled: its message may or may not have arrived.
    pub(super) fn cancel(&self, op: u64) -> Result<()> {
        let ticket = self.entries.lock().iter().find(|(_, entry)| entry.op == op).map(|(ticket, _)| *ticket);
        let ticket =
            ticket.ok_or_else(|| Error::new(Kind::NotFound, "the operation has completed, or was never started"))?;
        self.complete(&mut vec![(Ticket(ticket), cancelled("the publish was cancelled"))]);
        Ok(())
    }

    /// Completes everything that is left, as a closing hub does. What is being handed over right
    /// now completes when that has returned.
    pub(super) fn cancel_all(&self) {
        let tickets: Vec<u64> = self.entries.lock().keys().copied().collect();
        let outcome = || cancelled("the hub was closed before the outcome was known");
        self.complete(&mut tickets.into_iter().map(|ticket| (Ticket(ticket), outcome())).collect());
    }

    /// Tells the outcomes of entries that were taken out; those of one inbox together.
    fn tell(&self, entries: MutexGuard<'_, NumberMap<Entry>>, ended: Vec<Entry>) {
        if ended.is_empty() {
            return;
        }
        let count = ended.len();
        self.telling.fetch_add(count, Ordering::SeqCst);
        drop(entries);
        let mut together: (Weak<InboxShared>, Vec<Event>) = (Weak::new(), Vec::new());
        for Entry { op, backend, id, outcome, done } in ended {
            let (Some(id), Some(outcome)) = (id, outcome) else { continue };
            let result = outcome.into_result().map(|level| {
                let spooled = backend.is_server() && matches!(level, Level::Memory | Level::Disk);
                Receipt { level, backend, id, spooled }
            });
            match done {
                Done::Inbox { inbox, tag } => {
                    if !together.0.ptr_eq(&inbox) {
                        push(std::mem::replace(&mut together, (inbox, Vec::with_capacity(count))));
                    }
                    together.1.push(Event::Published { tag, op, result });
                }
                Done::Call(done) => done(result),
            }
        }
        push(together);
        self.telling.fetch_sub(count, Ordering::SeqCst);
        self.changed.ring();
    }

    pub(super) fn wait_empty(&self, deadline: Deadline) -> Result<()> {
        loop {
            let heard = self.changed.heard();
            let left = self.entries.lock().len() + self.telling.load(Ordering::SeqCst);
            if left == 0 {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, format!("{left} publishes have no outcome yet")));
            }
            self.changed.wait(heard, deadline);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }
}

fn push((inbox, results): (Weak<InboxShared>, Vec<Event>)) {
    if let Some(inbox) = inbox.upgrade() {
        inbox.push_results(results);
    }
}

fn cancelled(text: &str) -> Outcome {
    Outcome::Unknown(Error::new(Kind::Cancelled, text))
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflight").field("len", &self.len()).finish()
    }
}

/// The outcome of one publish, waited for by its caller.
#[derive(Debug, Default)]
pub(super) struct Answer {
    result: Mutex<Option<Result<Receipt>>>,
    set: Bell,
}

impl Answer {
    pub(super) fn set(&self, result: Result<Receipt>) {
        *self.result.lock() = Some(result);
        self.set.ring();
    }

    /// A wait that ends first leaves the outcome unknown: the record goes on.
    pub(super) fn wait(&self, deadline: Deadline) -> Result<Receipt> {
        loop {
            let heard = self.set.heard();
            if let Some(result) = self.result.lock().take() {
                return result;
            }
            if deadline.has_passed() {
                return Err(no_confirm());
            }
            self.set.wait(heard, deadline);
        }
    }
}

/// The outcomes of the records of a batch, waited for by its caller.
#[derive(Debug, Default)]
pub(super) struct Answers {
    state: Mutex<AnswersState>,
    changed: Bell,
}

/// Guarded together: a place, and the count of those that are open.
#[derive(Debug, Default)]
struct AnswersState {
    places: Vec<Place>,
    open: usize,
    failed: bool,
}

#[derive(Debug)]
enum Place {
    Open,
    Taken,
    Failed(Error),
}

impl Answers {
    /// Makes places for `count` more; answers the first.
    pub(super) fn expect(&self, count: usize) -> usize {
        let mut state = self.state.lock();
        let first = state.places.len();
        state.places.extend(std::iter::repeat_with(|| Place::Open).take(count));
        state.open += count;
        first
    }

    /// The last `count` places are not needed.
    pub(super) fn forget(&self, count: usize) {
        let mut state = self.state.lock();
        let left = state.places.len().saturating_sub(count);
        state.places.truncate(left);
        state.open -= count;
    }

    /// Whether one is known to have failed.
    pub(super) fn failed(&self) -> bool {
        self.state.lock().failed
    }

    pub(super) fn set(&self, index: usize, result: Result<Receipt>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(place) = state.places.get_mut(index) else { return };
        *place = match result {
            Ok(_) => Place::Taken,
            Err(failed) => {
                state.failed = true;
                Place::Failed(failed)
            }
        };
        state.open -= 1;
        if state.open == 0 {
            self.changed.ring();
        }
    }

    /// Waits for all; answers why each failed. A wait that ends first leaves the rest unknown.
    pub(super) fn wait(&self, deadline: Deadline) -> Vec<Option<Error>> {
        loop {
            let heard = self.changed.heard();
            let mut state = self.state.lock();
            if state.open == 0 || deadline.has_passed() {
                return state
                    .places
                    .drain(..)
                    .map(|place| match place {
                        Place::Taken => None,
                        Place::Failed(failed) => Some(failed),
                        Place::Open => Some(no_confirm()),
                    })
                    .collect();
            }
            drop(state);
            self.changed.wait(heard, deadline);
        }
    }
}

fn no_confirm() -> Error {
    let text = "no confirm came in time; the message may or may not have arrived";
    Error::new(Kind::OutcomeUnknown, text).with_fate(Fate::Unknown)
}

/// Completions for callbacks, called one by one on a thread of their own.
#[derive(Default)]
pub(super) struct Completions {
    bell: Bell,
    state: Mutex<Queue>,
}

/// Guarded together: what is to be called, and who calls it.
#[derive(Default)]
struct Queue {
    calls: VecDeque<Box<dyn FnOnce() + Send>>,
    /// Reserved, queued or running.
    open: usize,
    window: usize,
    thread_runs: bool,
    stop: bool,
}

impl Completions {
    pub(super) fn new(window: usize) -> Arc<Self> {
        Arc::new(Self { bell: Bell::new(), state: Mutex::new(Queue { window, ..Queue::default() }) })
    }

    /// Makes room for one completion; refused while as many as the window are not called yet.
    pub(super) fn reserve(self: &Arc<Self>) -> Result<()> {
        let mut queue = self.state.lock();
        if queue.open >= queue.window {
            let text = format!("{} completions have not been called yet (publish window)", queue.window);
            return Err(Error::new(Kind::Full, text).with_fate(Fate::NotSent));
        }
        if !queue.thread_runs {
            let own = Arc::clone(self);
            crate::runtime::spawn_thread("hmq-done", move || own.run())?;
            queue.thread_runs = true;
        }
        queue.open += 1;
        Ok(())
    }

    pub(super) fn unreserve(&self) {
        self.state.lock().open -= 1;
        self.bell.ring();
    }

    pub(super) fn push(&self, hub: u64, call: Box<dyn FnOnce() + Send>) {
        self.state.lock().calls.push_back(Box::new(move || as_callback(Caller::Hub(hub), call)));
        self.bell.ring();
    }

    pub(super) fn wait_empty(&self, deadline: Deadline) -> Result<()> {
        loop {
            let heard = self.bell.heard();
            let open = self.state.lock().open;
            if open == 0 {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, format!("{open} completions have not been called yet")));
            }
            self.bell.wait(heard, deadline);
        }
    }

    /// Lets the thread end once everything that was reserved is called.
    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.bell.ring();
    }

    fn run(&self) {
        loop {
            let heard = self.bell.heard();
            let next = {
                let mut queue = self.state.lock();
                let next = queue.calls.pop_front();
                if next.is_none() && queue.stop && queue.open == 0 {
                    queue.thread_runs = false;
                    return;
                }
                next
            };
            match next {
                Some(call) => {
                    crate::runtime::contained("completion", call);
                    self.unreserve();
                }
                None => self.bell.wait(heard, Deadline::after(None)),
            }
        }
    }
}

impl std::fmt::Debug for Completions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Completions").field("open", &self.state.lock().open).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    fn now() -> Deadline {
        Deadline::after(Some(std::time::Duration::ZERO))
    }

    fn entered(inflight: &Inflight, told: &Arc<AtomicUsize>) -> Ticket {
        let told = Arc::clone(told);
        let done = move |_| {
            told.fetch_add(1, Ordering::SeqCst);
        };
        inflight.enter(now(), 1, BackendKind::Custom, Done::call(done)).unwrap()
    }

    /// Room was seen under one lock and taken under another, so of several that waited for ever some
    /// were told at once that there is none.
    #[test]
    fn those_that_wait_for_room_get_it_one_after_another() {
        let (inflight, told) = (Arc::new(Inflight::new(1)), Arc::new(AtomicUsize::new(0)));
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let (inflight, told) = (Arc::clone(&inflight), Arc::clone(&told));
                std::thread::spawn(move || {
                    for _ in 0..500 {
                        let told = Arc::clone(&told);
                        let done = move |_| {
                            told.fetch_add(1, Ordering::SeqCst);
                        };
                        let forever = Deadline::after(None);
                        let ticket = inflight.enter(forever, 1, BackendKind::Custom, Done::call(done)).unwrap();
                        inflight.handed_over(ticket, 1, |_| ReceiptId::Made(0, 0), Some(Level::Broker));
                    }
                })
            })
            .collect();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(told.load(Ordering::SeqCst), 2000);
        let _open = entered(&inflight, &told);
        assert_eq!(inflight.enter(now(), 1, BackendKind::Custom, Done::call(|_| {})).unwrap_err().kind(), Kind::Full);
        inflight.stop_waiting();
        let forever = Deadline::after(None);
        assert_eq!(
            inflight.enter(forever, 1, BackendKind::Custom, Done::call(|_| {})).unwrap_err().kind(),
            Kind::Closed
        );
    }

    /// A close completed what was still being handed over; a hand-over that then failed was told to
    /// the caller as well, so one publish ended twice.
    #[test]
    fn a_publish_that_is_cancelled_while_it_is_handed_over_ends_once() {
        let (inflight, told) = (Inflight::new(8), Arc::new(AtomicUsize::new(0)));
        let refused = entered(&inflight, &told);
        inflight.cancel_all();
        assert!(inflight.wait_empty(now()).is_err());
        inflight.withdraw(refused, 1);
        assert_eq!(told.load(Ordering::SeqCst), 0, "its caller gets the error");
        let taken = entered(&inflight, &told);
        inflight.cancel_all();
        inflight.handed_over(taken, 1, |_| ReceiptId::Made(0, 0), None);
        inflight.complete(&mut vec![(taken, Outcome::Confirmed(Level::Broker))]);
        assert_eq!(told.load(Ordering::SeqCst), 1);
        inflight.wait_empty(now()).unwrap();
    }
}
