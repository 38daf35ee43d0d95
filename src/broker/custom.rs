//! `Custom`: a broker that the program supplies.
//!
//! The program implements [`CustomOps`]; this module makes a [`Broker`] of it and gives the program
//! a [`CustomSink`] to hand in deliveries, outcomes and news of its connection. The program is not
//! trusted to keep the contract of a backend, so it is kept here:
//!
//! - Every record taken completes exactly once: a second outcome is refused, and whatever is open
//!   when the connection is lost or closed completes as unknown.
//! - A subscription never holds more deliveries than its prefetch; more is `Full`.
//! - An error of an operation is an error of that call. A panic is caught and counts as a lost
//!   connection: a later connect may make it good.
//! - `connect`, `subscribe` and `close` may block: each runs on a thread of its own. The others are
//!   called on the thread of the publisher or settler and must not block, nor call anything of
//!   this library but the sink.
//! - The hub is never called back from inside an operation, even if the program calls the sink
//!   there; a thread of this broker, started when first needed, tells it (see [`courier`]).
//!
//! The program decides where a group starts, when a message is delivered again, and when a lease
//! ends (by losing the connection). A start at an offset or time, an end, reading without a
//! group, order by key, a declaration with settings, seeking and extending are `Unsupported`.

mod courier;
mod destination;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use once_cell::sync::OnceCell;

use self::courier::{Courier, Inside, Note};
use self::destination::CustomDestination;
use self::source::{CustomSource, Subscriber};
use super::checked::{check_name, check_record};
use super::{
    Admin, BackendEvent, BackendKind, Broker, Capabilities, CloseReport, Context, Declared, Destination, Epoch, Group,
    Ordered, Outcome, Sink, Source, Start, Stop, SubscribeSpec, Support, Ticket, TopicSpec, Verdict, Wakers,
};
use crate::clock::{Alarm, Moment};
use crate::error::{Error, Kind, Result};
use crate::limits::{FOREIGN_NAME_BYTES_MAX, TOPICS_MAX};
use crate::message::{Pool, Record, TopicKind};
use crate::reentrancy::{as_callback, Caller};
use crate::runtime::{contained, ready, spawn_thread, Pending};
use crate::sync::{Condvar, Deadline, Mutex};

/// What the program's broker can be asked.
pub trait CustomOps: Send + Sync {
    /// What it can do. Asked often; must not block.
    fn capabilities(&self) -> Capabilities;

    /// One attempt to connect. May block for `timeout`. Subscriptions are not restored.
    fn connect(&self, timeout: Duration) -> Result<()>;

    /// Takes one record, copying what it keeps. Its outcome comes by [`CustomSink::complete`] with
    /// `ticket`, perhaps before this returns. An error means it was not taken: `Full` asks to come
    /// again when there is space (the next outcome or `Unblocked` says so). Must not block.
    fn publish(&self, topic: &str, kind: TopicKind, record: &Record<'_>, seq: u64, ticket: u64) -> Result<()>;

    /// Opens subscription `sub`; deliveries may start at once. `group` is `None` for a private one.
    /// May block.
    fn subscribe(&self, pattern: &str, kind: TopicKind, group: Option<&str>, prefetch: usize, sub: u64) -> Result<()>;

    /// Ends subscription `sub`; what was delivered and not settled goes to others. Must not block.
    fn unsubscribe(&self, sub: u64);

    /// A delivery was decided on. Must not block.
    fn settle(&self, sub: u64, their_token: u64, verdict: Verdict);

    /// Flushes and closes. May block for `timeout`. Outcomes are taken until it returns.
    fn close(&self, timeout: Duration) -> Result<()>;
}

/// The program's end: it hands in what its broker has to say. Any thread, also inside an
/// operation; never blocks. Everything answers `Closed` once the broker is gone.
#[derive(Clone)]
pub struct CustomSink(Weak<Shared>);

/// The broker made of the program's operations.
pub struct Custom {
    shared: Arc<Shared>,
}

struct Shared {
    ops: Box<dyn CustomOps>,
    /// Given when a hub takes the broker in.
    context: OnceCell<Context>,
    pool: Arc<Pool>,
    /// Prefix and counter of ids for deliveries that bring none.
    id_prefix: OnceCell<u64>,
    delivered: AtomicU64,
    courier: Courier,
    own: Weak<Shared>,
    /// Guarded together: a ticket, a subscription and a waiter all end with the connection.
    state: Mutex<State>,
    close_returned: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Some thread runs the program's close.
    close_begun: bool,
    /// The program's close has returned.
    close_returned: bool,
    tickets: HashMap<u64, Open>,
    subscribers: HashMap<u64, Arc<Subscriber>>,
    subscribers_ever: u64,
    destinations: HashMap<(String, TopicKind), Arc<CustomDestination>>,
    wakers: Wakers,
    /// Counts the signs of space, so that one between `Full` and `on_space` is not missed.
    space_signs: u64,
}

/// A record handed to the program, its outcome not yet told to the hub.
enum Open {
    /// Its batch is being published.
    Publishing,
    /// As above, and the outcome has come already.
    Early(Outcome),
    /// Taken.
    Out,
}

impl Custom {
    /// A broker over `ops`, and the sink for the program.
    pub fn over(ops: Box<dyn CustomOps>) -> (Arc<Self>, CustomSink) {
        let shared = Arc::new_cyclic(|own| Shared {
            ops,
            context: OnceCell::new(),
            // Deliveries are of all sizes, so their segments are made to measure and not kept.
            pool: Pool::new(0, 0),
            id_prefix: OnceCell::new(),
            delivered: AtomicU64::new(0),
            courier: Courier::default(),
            own: own.clone(),
            state: Mutex::default(),
            close_returned: Condvar::new(),
        });
        let sink = CustomSink(Arc::downgrade(&shared));
        (Arc::new(Self { shared }), sink)
    }

    /// Joins it to a hub.
    ///
    /// # Errors
    /// `State` if it belongs to one already.
    pub fn attach(&self, context: Context) -> Result<()> {
        self.shared.context.set(context).map_err(|_| Error::new(Kind::State, "this broker belongs to a hub already"))
    }
}

impl CustomSink {
    /// Hands a message to subscription `sub`. `their_token` comes back in [`CustomOps::settle`];
    /// `attempt` is 1 for the first handing-over.
    ///
    /// # Errors
    /// `Full` when the subscription holds as many deliveries as its prefetch: again after a settle.
    /// `NotFound` when it has ended.
    pub fn deliver(&self, topic: &str, record: &Record<'_>, sub: u64, their_token: u64, attempt: u32) -> Result<()> {
        let shared = self.shared()?;
        let context = shared.context()?;
        check_name(topic, FOREIGN_NAME_BYTES_MAX)?;
        check_record(record, shared.capabilities().payload_bytes_max)?;
        let subscriber = shared.state.lock().subscribers.get(&sub).map(Arc::clone);
        let subscriber = subscriber.ok_or_else(|| Error::new(Kind::NotFound, format!("no subscription {sub}")))?;
        let stamp = crate::message::Stamp {
            seq: shared.delivered.fetch_add(1, Ordering::Relaxed),
            now_us: context.clock.wall_us(),
        };
        let prefix = shared.id_prefix(context);
        if subscriber.take_in(&shared.pool, prefix, topic, record, stamp, (their_token, attempt))? {
            shared.post(vec![Note::Ready(Arc::clone(&subscriber.sink))]);
        }
        Ok(())
    }

    /// Tells how the publish of `ticket` ended.
    ///
    /// # Errors
    /// `NotFound` for a ticket that was never given, or whose outcome is known: told before, or
    /// unknown since the connection was lost or closed.
    pub fn complete(&self, ticket: u64, outcome: Outcome) -> Result<()> {
        let shared = self.shared()?;
        let context = shared.context()?;
        let mut notes = Vec::new();
        {
            let mut state = shared.state.lock();
            match state.tickets.get_mut(&ticket) {
                Some(open @ Open::Publishing) => *open = Open::Early(outcome),
                Some(Open::Out) => {
                    state.tickets.remove(&ticket);
                    notes.push(Note::Outcomes(Arc::clone(&context.sink), vec![(Ticket(ticket), outcome)]));
                }
                Some(Open::Early(_)) | None => {
                    let text = format!("ticket {ticket} is not open: never given, or its outcome is known");
                    return Err(Error::new(Kind::NotFound, text));
                }
            }
            state.announce_space(&mut notes);
        }
        shared.post(notes);
        Ok(())
    }

    /// Tells that the connection changed. `Lost` ends all subscriptions and leases, and every open
    /// publish as unknown.
    pub fn event(&self, event: BackendEvent) -> Result<()> {
        let shared = self.shared()?;
        let context = shared.context()?;
        let mut notes = Vec::new();
        match &event {
            BackendEvent::Lost(cause) => shared.end_all(cause, &mut notes),
            BackendEvent::Unblocked => shared.state.lock().announce_space(&mut notes),
            BackendEvent::Connected(_)
            | BackendEvent::Blocked(_)
            | BackendEvent::Denied(_)
            | BackendEvent::Warned(_) => {}
        }
        notes.push(Note::Event(Arc::clone(&context.sink), event));
        shared.post(notes);
        Ok(())
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let shared = self.0.upgrade().filter(|shared| !shared.courier.has_ended());
        shared.ok_or_else(|| Error::new(Kind::Closed, "the broker is closed").with_backend("custom"))
    }
}

impl State {
    fn announce_space(&mut self, notes: &mut Vec<Note>) {
        self.space_signs += 1;
        notes.extend(self.wakers.take().map(Note::Wake));
    }

    fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::new(Kind::Closed, "the broker is closed").with_backend("custom"));
        }
        Ok(())
    }
}

impl Shared {
    fn context(&self) -> Result<&Context> {
        self.context.get().ok_or_else(|| Error::new(Kind::State, "this broker belongs to no hub yet"))
    }

    /// Differs from the hub's own prefix and from that of other custom brokers.
    fn id_prefix(&self, context: &Context) -> u64 {
        static BROKERS: AtomicU64 = AtomicU64::new(0);
        *self.id_prefix.get_or_init(|| (!context.id_prefix).wrapping_add(BROKERS.fetch_add(1, Ordering::Relaxed)))
    }

    fn capabilities(&self) -> Capabilities {
        contained("custom capabilities", || self.ops.capabilities()).unwrap_or(NO_CAPABILITIES)
    }

    /// Runs an operation of the program on this thread. A panic loses the connection.
    fn operate<T>(&self, name: &str, op: impl FnOnce(&dyn CustomOps) -> T) -> Result<T> {
        let inside = Inside::enter();
        // Its hub waits for it: to wait for the hub from inside would be for ever.
        let hub = self.context.get().map_or(0, |context| context.hub);
        let answer = as_callback(Caller::Hub(hub), || contained(name, || op(&*self.ops)));
        let Some(answer) = answer else {
            let error = Error::new(Kind::Panic, format!("{name} panicked")).with_backend("custom");
            let mut notes = Vec::new();
            self.end_all(&error, &mut notes);
            if let Some(context) = self.context.get() {
                notes.push(Note::Event(Arc::clone(&context.sink), BackendEvent::Lost(error.clone())));
            }
            self.post(notes);
            drop(inside);
            return Err(error);
        };
        Ok(answer)
    }

    /// Runs an operation that may block, on a thread of its own.
    fn aside<T: Send + 'static>(&self, body: impl FnOnce(Arc<Shared>) -> Result<T> + Send + 'static) -> Pending<T> {
        let Some(shared) = self.own.upgrade() else {
            return ready(Err(Error::internal("a custom broker is used while it is dropped")));
        };
        let (answer, answered) = tokio::sync::oneshot::channel();
        let started = spawn_thread("hmq-custom", move || {
            // Nobody waits any more after a timeout; what was made is undone by its drop.
            drop(answer.send(body(shared)));
        });
        if let Err(refused) = started {
            return ready(Err(refused));
        }
        Box::pin(async move {
            answered.await.unwrap_or_else(|_| Err(Error::new(Kind::Panic, "an operation of the broker panicked")))
        })
    }

    fn timeout_until(&self, deadline: Moment) -> Result<Duration> {
        Ok(deadline.since(self.context()?.clock.now()))
    }

    /// The connection has ended: so does everything that was open over it.
    fn end_all(&self, cause: &Error, notes: &mut Vec<Note>) {
        let text = "the connection ended before the outcome was known";
        let unknown = Error::new(Kind::OutcomeUnknown, text).with_backend("custom").caused_by(cause.clone());
        let mut outcomes = Vec::new();
        let mut state = self.state.lock();
        state.tickets.retain(|ticket, open| match open {
            Open::Early(_) => true,
            Open::Publishing => {
                *open = Open::Early(Outcome::Unknown(unknown.clone()));
                true
            }
            Open::Out => {
                outcomes.push((Ticket(*ticket), Outcome::Unknown(unknown.clone())));
                false
            }
        });
        outcomes.sort_unstable_by_key(|(ticket, _)| ticket.0);
        if let (Some(context), false) = (self.context.get(), outcomes.is_empty()) {
            notes.push(Note::Outcomes(Arc::clone(&context.sink), outcomes));
        }
        for (_, subscriber) in state.subscribers.drain() {
            let tags = subscriber.end();
            if !tags.is_empty() {
                notes.push(Note::Revoked(Arc::clone(&subscriber.sink), tags));
            }
            // To fetch that it is lost.
            notes.push(Note::Ready(Arc::clone(&subscriber.sink)));
        }
        state.announce_space(notes);
    }

    /// Closes the program's broker, or waits for a close that was late. On a thread of its own.
    fn close(&self, deadline: Moment, timeout: Duration) -> Result<CloseReport> {
        if std::mem::replace(&mut self.state.lock().close_begun, true) {
            return self.wait_until_closed(Deadline::after(Some(timeout)));
        }
        let until = Deadline::after(Some(timeout));
        let clock = self.context()?.clock.clone();
        let alarm = clock.alarm();
        let late: Weak<dyn Alarm> = Weak::<Shared>::clone(&self.own);
        clock.set_alarm(alarm, deadline, late).inspect_err(|_| self.state.lock().close_begun = false)?;
        let answer = self.operate("custom close", |ops| ops.close(timeout)).and_then(|answer| answer);
        let unset: Weak<dyn Alarm> = Weak::<Shared>::clone(&self.own);
        clock.set_alarm(alarm, Moment::NEVER, unset)?;
        let mut notes = Vec::new();
        self.end_all(&closed_in_doubt(), &mut notes);
        self.post(notes);
        self.courier.end();
        // Its words reach the program; after a close there are none.
        let told = self.courier.wait_until_ended(until);
        self.state.lock().close_returned = true;
        self.close_returned.notify_all();
        answer?;
        if !told {
            return Err(Error::new(Kind::Timeout, "what the broker said is still being told").with_backend("custom"));
        }
        Ok(CloseReport::default())
    }

    fn wait_until_closed(&self, deadline: Deadline) -> Result<CloseReport> {
        let mut state = self.state.lock();
        while !state.close_returned {
            if deadline.has_passed() {
                let text = "the broker's close function has not returned yet";
                return Err(Error::new(Kind::Timeout, text).with_backend("custom"));
            }
            state = self.close_returned.wait_until(state, deadline.instant());
        }
        Ok(CloseReport::default())
    }

    fn post(&self, notes: Vec<Note>) {
        self.courier.post(notes);
    }

    fn unsubscribe(&self, subscriber: &Subscriber) {
        subscriber.end();
        if self.state.lock().subscribers.remove(&subscriber.id).is_some() {
            // A panic has been told to the hub as a loss.
            drop(self.operate("custom unsubscribe", |ops| ops.unsubscribe(subscriber.id)));
        }
    }

    fn subscribe(self: Arc<Self>, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Result<Arc<dyn Source>> {
        let subscriber = {
            let mut state = self.state.lock();
            state.check_open()?;
            state.subscribers_ever += 1;
            let id = state.subscribers_ever;
            let subscriber = Arc::new(Subscriber::new(id, spec.prefetch, sink));
            // Before the call, as deliveries may come inside it.
            state.subscribers.insert(id, Arc::clone(&subscriber));
            subscriber
        };
        let id = subscriber.id;
        let group = match &spec.group {
            Group::Named(name) => Some(name.as_str()),
            Group::Private => None,
        };
        let opened =
            self.operate("custom subscribe", |ops| ops.subscribe(&spec.pattern, spec.kind, group, spec.prefetch, id));
        if let Err(refused) = opened.and_then(|answer| answer) {
            self.state.lock().subscribers.remove(&id);
            subscriber.end();
            return Err(refused);
        }
        Ok(Arc::new(CustomSource { shared: self, subscriber }))
    }

    /// What the operations have no words for.
    fn check_spec(spec: &SubscribeSpec) -> Result<()> {
        let lacking = match spec {
            SubscribeSpec { read_only: true, .. } => "reading without a group",
            SubscribeSpec { ordered: Ordered::Key | Ordered::Strict, .. } => "order by key",
            SubscribeSpec { stop: Stop::Now | Stop::Time(_), .. } => "a subscription that ends",
            SubscribeSpec { start: Start::Offset(_) | Start::Time(_), .. } => "a start at an offset or time",
            _ => return Ok(()),
        };
        Err(unsupported(lacking))
    }
}

/// Ends a close that the program does not finish in time.
impl Alarm for Shared {
    fn ring(&self, _now: Moment) {
        let mut notes = Vec::new();
        self.end_all(&closed_in_doubt(), &mut notes);
        self.post(notes);
    }
}

impl Broker for Custom {
    fn kind(&self) -> BackendKind {
        BackendKind::Custom
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.capabilities()
    }

    fn connect(&self, _epoch: Epoch, deadline: Moment) -> Pending<()> {
        let timeout = match self.shared.timeout_until(deadline) {
            Ok(timeout) => timeout,
            Err(wrong) => return ready(Err(wrong)),
        };
        if let Err(closed) = self.shared.state.lock().check_open() {
            return ready(Err(closed));
        }
        self.shared.aside(move |shared| shared.operate("custom connect", |ops| ops.connect(timeout))?)
    }

    fn declare(&self, _topic: &str, _kind: TopicKind, spec: &TopicSpec, _deadline: Moment) -> Pending<Declared> {
        let open = self.shared.state.lock().check_open();
        ready(match open {
            Ok(()) if *spec == TopicSpec::default() => Ok(Declared::Existed),
            Ok(()) => Err(unsupported("a declaration with settings")),
            Err(closed) => Err(closed),
        })
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let mut state = self.shared.state.lock();
        state.check_open()?;
        if state.destinations.len() >= TOPICS_MAX {
            // Those that nobody holds; the others would lose their order.
            state.destinations.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let destination = state
            .destinations
            .entry((topic.to_owned(), kind))
            .or_insert_with(|| Arc::new(CustomDestination::new(Weak::clone(&self.shared.own), topic, kind)));
        let destination: Arc<dyn Destination> = Arc::<CustomDestination>::clone(destination);
        Ok(destination)
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, _deadline: Moment) -> Pending<Arc<dyn Source>> {
        if let Err(wrong) = Shared::check_spec(spec) {
            return ready(Err(wrong));
        }
        let spec = spec.clone();
        self.shared.aside(move |shared| shared.subscribe(&spec, sink))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        None
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        let returned = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.close_returned
        };
        match self.shared.context() {
            Ok(context) if !returned => {
                let timeout = deadline.since(context.clock.now());
                self.shared.aside(move |shared| shared.close(deadline, timeout))
            }
            _ => ready(Ok(CloseReport::default())),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.courier.end();
    }
}

fn unsupported(feature: &str) -> Error {
    Error::new(Kind::Unsupported, format!("custom does not support {feature}")).with_backend("custom")
}

fn closed_in_doubt() -> Error {
    Error::new(Kind::OutcomeUnknown, "the broker was closed before the outcome was known").with_backend("custom")
}

/// Of a program that cannot even say what it can do.
pub const NO_CAPABILITIES: Capabilities = Capabilities {
    tasks: Support::None,
    events: Support::None,
    retry_delay: Support::None,
    priority: Support::None,
    ttl: Support::None,
    delay: Support::None,
    ordered_key: Support::None,
    replay_time: Support::None,
    replay_offset: Support::None,
    headers: Support::None,
    wildcard_tasks: Support::None,
    wildcard_events: Support::None,
    extend: Support::None,
    payload_bytes_max: 0,
    name_bytes_max: 0,
    delay_ms_max: 0,
};

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").finish_non_exhaustive()
    }
}

impl fmt::Debug for CustomSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomSink").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
