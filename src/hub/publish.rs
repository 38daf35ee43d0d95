//! Publishing: from the caller's record to the backend's answer.
//!
//! The path of one message: the outlet of its topic (found once, then kept by a [`Publisher`], else
//! looked up by name), the gate of its backend (one atomic word), the hand-over. An embedded broker
//! in memory has answered by then; one on disk, and a server, answer later, by ticket, through [`Inflight`].

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::backends::Backend;
use super::batch::Sending;
use super::inflight::{Answer, Done};
use super::patience::{Asked, Call};
use super::receipt::{Receipt, ReceiptId};
use super::route::Use;
use super::{Hub, Shared, Timeout};
use crate::broker::checked::check_record;
use crate::broker::{Batch, Destination, Level, Ticket, Wake};
use crate::config::options::PublisherOptions;
use crate::error::{Error, Fate, Kind, Result};
use crate::limits;
use crate::message::{HeaderBlock, Headers, Record, TopicKind};
use crate::metrics::Counter;
use crate::reentrancy::{as_callback, not_from_callback_of, Caller};
use crate::sync::{Bell, Deadline};

/// Where the messages of one topic go.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) topic: Arc<str>,
    pub(super) kind: TopicKind,
    pub(super) backend: Arc<Backend>,
    pub(super) destination: Arc<dyn Destination>,
    /// Its messages are kept, or dropped, while their server is away.
    pub(super) spools: bool,
}

impl Outlet {
    /// Refuses a publish while its server is away, unless that is the spool's to decide.
    #[inline]
    fn check_up(&self) -> Result<()> {
        if self.spools {
            return Ok(());
        }
        self.backend.check_up()
    }
}

/// What a hand-over of several records did.
pub(super) struct Handed {
    pub(super) count: usize,
    pub(super) first_seq: u64,
    /// `None`: outcomes come by ticket.
    pub(super) level: Option<Level>,
    pub(super) stopped: Option<Error>,
}

/// Options of a prepared publisher that apply to each record that does not say otherwise.
#[derive(Debug, Clone, Default)]
pub struct PublisherDefaults {
    /// Type.
    pub type_: String,
    /// Headers.
    pub headers: HeaderBlock,
    /// Priority of records that name none.
    pub priority: u8,
    /// Time to live of records that name none.
    pub ttl_ms: i64,
    /// Delay of records that name none.
    pub delay_ms: i64,
}

/// A publisher for one topic; cheap to clone.
#[derive(Clone)]
pub struct Publisher(pub(super) Arc<Prepared>);

pub(super) struct Prepared {
    pub(super) hub: Arc<Shared>,
    pub(super) outlet: Arc<Outlet>,
    defaults: PublisherDefaults,
    pub(super) require: Option<Level>,
}

impl Hub {
    /// Publishes one record. `kind`: what the call asks for; `None`: by the routing table.
    pub fn publish(
        &self,
        topic: &str,
        kind: Option<TopicKind>,
        record: &Record<'_>,
        require: Option<Level>,
        timeout: Timeout,
    ) -> Result<Receipt> {
        // First, so that a record that cannot go does not fix the kind of a topic.
        self.0.check_record(record)?;
        let outlet = self.0.outlet(topic, kind.map(|kind| (kind, Use::Publish)))?;
        self.0.publish_one(&outlet, record, require, timeout)
    }

    /// A publisher with its options parsed and its topic resolved once.
    pub fn publisher(&self, options: PublisherOptions) -> Result<Publisher> {
        let outlet = self.0.outlet(&options.topic, options.kind.map(|kind| (kind, Use::Publish)))?;
        let mut headers = HeaderBlock::default();
        for (name, value) in &options.headers {
            check_header(name, value.as_bytes())?;
            headers.push(name, value.as_bytes());
        }
        let defaults = PublisherDefaults {
            type_: options.type_,
            headers,
            priority: options.priority.unwrap_or(limits::PRIORITY_DEFAULT),
            ttl_ms: options.ttl_ms,
            delay_ms: options.delay_ms,
        };
        Ok(Publisher(Arc::new(Prepared { hub: Arc::clone(&self.0), outlet, defaults, require: options.require })))
    }

    /// Withdraws an operation, or stops waiting for it; it completes as cancelled.
    pub fn cancel(&self, op: u64) -> Result<()> {
        self.0.check_open()?;
        self.0.inflight.cancel(op)
    }

    /// Waits until every publish accepted so far has its outcome and its completion has been told.
    pub fn flush(&self, timeout: Timeout) -> Result<()> {
        self.0.check_open()?;
        not_from_callback_of(self.0.id, "hmq_hub_flush")?;
        let deadline = Deadline::after(timeout);
        self.0.inflight.wait_empty(deadline)?;
        self.0.completions.wait_empty(deadline)
    }
}

impl Publisher {
    /// Publishes one record and waits for its outcome.
    #[inline]
    pub fn send(&self, record: &Record<'_>, timeout: Timeout) -> Result<Receipt> {
        let own = &*self.0;
        own.hub.publish_one(&own.outlet, record, own.require, timeout)
    }

    /// Publishes records in order, and waits for their outcomes: see [`Sending`]. Answers how many
    /// were taken and the first failure; `each` gets the status of every record.
    pub fn send_batch(
        &self,
        records: &[Record<'_>],
        timeout: Timeout,
        each: Option<&mut [i32]>,
    ) -> (usize, Option<Error>) {
        let mut sending = self.sending(timeout);
        let (_, stopped) = sending.send(records);
        sending.finish(stopped, each)
    }

    /// The beginning of a batch, whose records may come in several parts.
    pub fn sending(&self, timeout: Timeout) -> Sending<'_> {
        Sending::new(&self.0, timeout)
    }

    /// Publishes one record; `done` is called once with its outcome, on a thread of the library.
    /// Full is answered at once. On an error `done` is dropped and never called.
    pub fn send_async(&self, record: &Record<'_>, done: Box<dyn FnOnce(Result<Receipt>) + Send>) -> Result<u64> {
        let own = &*self.0;
        let hub = &own.hub;
        hub.completions.reserve()?;
        let op = hub.next_id();
        let (id, completions) = (hub.id, Arc::clone(&hub.completions));
        let tell = move |result| completions.push(id, Box::new(move || done(result)));
        // A record that is not taken drops `done` here, while its place is still reserved.
        let started = as_callback(Caller::Hub(id), || hub.publish_async(&own.outlet, record, own.require, op, tell));
        started.inspect_err(|_| hub.completions.unreserve())?;
        Ok(op)
    }

    /// What applies to each record that does not say otherwise.
    pub fn defaults(&self) -> &PublisherDefaults {
        &self.0.defaults
    }

    /// Task or event.
    pub fn kind(&self) -> TopicKind {
        self.0.outlet.kind
    }
}

impl Shared {
    pub(super) fn publish_one(
        &self,
        outlet: &Outlet,
        record: &Record<'_>,
        require: Option<Level>,
        timeout: Timeout,
    ) -> Result<Receipt> {
        self.check_publish(outlet, record, require)?;
        if !outlet.backend.receipts.at_once {
            return self.send_and_wait(outlet, record, require, timeout);
        }
        let handed = self.hand_over(outlet, std::slice::from_ref(record), Ticket(0), Asked::now(require), timeout);
        match (handed.level, handed.stopped) {
            (Some(level), None) => {
                self.count_published(1, record.payload.len());
                let id = ReceiptId::of(record, outlet, handed.first_seq);
                Ok(Receipt { level, backend: outlet.backend.kind, id, spooled: false })
            }
            (_, stopped) => Err(self.count_failed(stopped)),
        }
    }

    /// To an embedded broker in memory, which answers at once.
    pub(super) fn publish_many(
        &self,
        outlet: &Outlet,
        records: &[Record<'_>],
        require: Option<Level>,
        timeout: Timeout,
    ) -> (usize, Option<Error>) {
        // A record that cannot go stops the batch there, so that order is kept.
        let checked = records.iter().position(|record| self.check_publish(outlet, record, require).is_err());
        let (good, bad) = records.split_at(checked.unwrap_or(records.len()));
        let refusal = || bad.first().and_then(|record| self.check_publish(outlet, record, require).err());
        let handed = self.hand_over(outlet, good, Ticket(0), Asked::now(require), timeout);
        let bytes = good.iter().take(handed.count).map(|record| record.payload.len()).sum();
        self.count_published(handed.count as u64, bytes);
        match handed.stopped {
            Some(error) => (handed.count, Some(self.count_failed(Some(error)))),
            None => (handed.count, refusal()),
        }
    }

    /// Starts a publish whose outcome goes to `tell`, perhaps before this returns. On an error
    /// `tell` is not called.
    fn publish_async(
        &self,
        outlet: &Outlet,
        record: &Record<'_>,
        require: Option<Level>,
        op: u64,
        tell: impl FnOnce(Result<Receipt>) + Send + 'static,
    ) -> Result<()> {
        self.check_publish(outlet, record, require)?;
        if outlet.backend.receipts.at_once {
            tell(Ok(self.publish_one(outlet, record, require, Some(Duration::ZERO))?));
            return Ok(());
        }
        self.start_async(outlet, record, require, op, tell)
    }

    /// Hands a record to a broker that answers later; `tell` is called with its outcome.
    fn start_async(
        &self,
        outlet: &Outlet,
        record: &Record<'_>,
        require: Option<Level>,
        op: u64,
        tell: impl FnOnce(Result<Receipt>) + Send + 'static,
    ) -> Result<()> {
        let now = Deadline::after(Some(Duration::ZERO));
        let ticket = self.inflight.enter(now, op, outlet.backend.kind, Done::call(tell))?;
        self.hand_over_ticket(outlet, record, ticket, Asked::now(require))
            .map_err(|error| self.count_failed(Some(error)))
    }

    /// Hands over a record that is in flight already; an error withdraws it.
    fn hand_over_ticket(&self, outlet: &Outlet, record: &Record<'_>, ticket: Ticket, asked: Asked) -> Result<()> {
        let handed = self.hand_over(outlet, std::slice::from_ref(record), ticket, asked, Some(Duration::ZERO));
        match (handed.count, handed.stopped) {
            (1, _) => {
                self.count_published(1, record.payload.len());
                let id = ReceiptId::of(record, outlet, handed.first_seq);
                self.inflight.handed_over(ticket, 1, |_| id, handed.level);
                Ok(())
            }
            (_, stopped) => {
                self.inflight.withdraw(ticket, 1);
                Err(stopped.unwrap_or_else(stopped_without_reason))
            }
        }
    }

    fn send_and_wait(
        &self,
        outlet: &Outlet,
        record: &Record<'_>,
        require: Option<Level>,
        timeout: Timeout,
    ) -> Result<Receipt> {
        let answer = Arc::new(Answer::default());
        let deadline = Deadline::after(timeout);
        self.start_waiting(outlet, record, require, self.call(deadline), || {
            let told = Arc::clone(&answer);
            Done::call(move |result| told.set(result))
        })?;
        answer.wait(deadline).inspect_err(|error| self.count_unknown(error))
    }

    /// Starts a publish, and waits for room, for space, and for a server that may be away; `tell` makes what its
    /// outcome goes to.
    pub(super) fn start_waiting(
        &self,
        outlet: &Outlet,
        record: &Record<'_>,
        require: Option<Level>,
        Call { deadline, since, patience, half }: Call,
        tell: impl Fn() -> Done,
    ) -> Result<()> {
        let (op, kind) = (self.next_id(), outlet.backend.kind);
        let mut space: Option<Arc<SpaceBell>> = None;
        loop {
            self.check_publish(outlet, record, require)?;
            // Its place in the window is given back while it waits for space.
            let ticket = self.inflight.enter(deadline, op, kind, tell())?;
            let heard = space.as_ref().map(|space| space.hang_up(outlet));
            // Of before it is asked: a step that passes meanwhile would be slept over.
            let [for_home, for_server] =
                [patience, half].map(|step| (outlet.spools && !step.has_passed()).then_some(step));
            let asked = Asked { require, since: for_server.map(|_| since) };
            match (self.hand_over_ticket(outlet, record, ticket, asked), &space, heard) {
                (Err(error), ..) if error.kind() != Kind::Full || (asked.since.is_none() && deadline.has_passed()) => {
                    return Err(self.count_failed(Some(error)));
                }
                // The bell has rung for it already, perhaps before it was hung up.
                (Err(_), ..) if self.is_closing() => return Err(closed()),
                (Err(_), Some(space), Some(heard)) => {
                    let steps = for_home.into_iter().chain(for_server);
                    space.0.wait(heard, steps.fold(deadline, Deadline::or_before));
                }
                // Once more, now that a bell is hung up.
                (Err(_), ..) => {
                    self.metrics.add(Counter::PublishWaits, 1);
                    space = Some(self.space_bell());
                }
                (Ok(()), ..) => return Ok(()),
            }
        }
    }

    pub(super) fn count_unknown(&self, error: &Error) {
        if error.fate() == Some(Fate::Unknown) {
            self.metrics.add(Counter::PublishUnknown, 1);
        }
    }

    /// Hands records over in order; waits for space for at most `timeout`.
    pub(super) fn hand_over(
        &self,
        outlet: &Outlet,
        records: &[Record<'_>],
        first_ticket: Ticket,
        Asked { require, since }: Asked,
        timeout: Timeout,
    ) -> Handed {
        let mut handed = Handed { count: 0, first_seq: 0, level: None, stopped: None };
        let mut waiting: Option<(Arc<SpaceBell>, Deadline)> = None;
        let mut backoff = BACKOFF_FIRST;
        loop {
            let rest = records.get(handed.count..).unwrap_or_default();
            let heard = waiting.as_ref().map(|(space, _)| space.hang_up(outlet));
            let batch = Batch {
                records: rest,
                first_ticket: Ticket(first_ticket.0 + handed.count as u64),
                numbers: &self.numbers,
                now_us: self.context.clock.wall_us(),
                require,
                since,
            };
            let taken = outlet.destination.publish(&batch);
            if handed.count == 0 {
                handed.first_seq = taken.first_seq;
            }
            handed.count += taken.count;
            handed.level = taken.level.or(handed.level);
            let Some(error) = taken.stopped else { return handed };
            let waits = error.kind() == Kind::Full && timeout != Some(Duration::ZERO);
            if waits && self.is_closing() {
                // What would make space may have ended; a handler that waits here is waited for.
                handed.stopped = Some(closed());
                return handed;
            }
            if waits && backoff <= BACKOFF_LAST {
                crate::sync::spin_for(backoff);
                backoff *= 2;
                continue;
            }
            let (space, deadline) = match (&waiting, waits) {
                (Some((space, deadline)), true) if !deadline.has_passed() => (Arc::clone(space), *deadline),
                (None, true) => {
                    self.metrics.add(Counter::PublishWaits, 1);
                    waiting = Some((self.space_bell(), Deadline::after(timeout)));
                    // Once more, now that a bell is hung up.
                    continue;
                }
                _ => {
                    handed.stopped = Some(error);
                    return handed;
                }
            };
            space.0.wait_spinning(heard.unwrap_or_default(), SPIN_FOR_SPACE, deadline);
        }
    }

    /// A bell that is rung by space, once it is hung up, and by the closing of the hub.
    fn space_bell(&self) -> Arc<SpaceBell> {
        let space = Arc::<SpaceBell>::default();
        let weak: Weak<SpaceBell> = Arc::downgrade(&space);
        self.waiting_for_space.lock().add(weak);
        space
    }

    pub(super) fn check_publish(&self, outlet: &Outlet, record: &Record<'_>, require: Option<Level>) -> Result<()> {
        self.check_open()?;
        outlet.check_up()?;
        self.check_record(record)?;
        if let Some(level) = require {
            self.check_level(outlet, level)?;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn check_record(&self, record: &Record<'_>) -> Result<()> {
        check_record(record, self.config.message_bytes_max).map_err(|error| error.with_fate(Fate::NotSent))
    }

    fn check_level(&self, outlet: &Outlet, level: Level) -> Result<()> {
        let reached = outlet.backend.receipts.level;
        if level > reached {
            let text = format!(
                "`{}` is carried by the {} backend, whose receipts reach level {}, not {}",
                outlet.topic,
                outlet.backend.kind.name(),
                reached.name(),
                level.name()
            );
            return Err(Error::new(Kind::Unsupported, text).with_fate(Fate::NotSent));
        }
        Ok(())
    }

    pub(super) fn count_published(&self, count: u64, bytes: usize) {
        self.metrics.add(Counter::Published, count);
        self.metrics.add(Counter::PublishedBytes, bytes as u64);
    }

    #[cold]
    pub(super) fn count_failed(&self, stopped: Option<Error>) -> Error {
        self.metrics.add(Counter::PublishFailed, 1);
        let error = stopped.unwrap_or_else(stopped_without_reason);
        if error.fate().is_some() {
            error
        } else {
            error.with_fate(Fate::NotSent)
        }
    }

    /// Publishes on the library's own account (dead letters); `done` may be called before it returns. `require`: the
    /// least level, of a server; a broker inside the process gives what it has.
    pub(super) fn publish_internal(
        &self,
        topic: &str,
        kind: TopicKind,
        record: &Record<'_>,
        require: Option<Level>,
        done: Box<dyn FnOnce(Result<()>) + Send>,
    ) {
        let outlet = match self.outlet_unchecked(topic, Some((kind, Use::Publish))) {
            Ok(outlet) => outlet,
            Err(error) => return done(Err(error)),
        };
        // It may have come by a form that has one, to where there is none.
        let priority = match outlet.backend.broker.capabilities().priority.is_there() {
            true => record.priority,
            false => limits::PRIORITY_DEFAULT,
        };
        let record = &Record { priority, ..*record };
        if outlet.backend.receipts.at_once {
            let handed = self.hand_over(
                &outlet,
                std::slice::from_ref(record),
                Ticket(0),
                Asked::now(None),
                Some(Duration::ZERO),
            );
            return done(handed.stopped.map_or(Ok(()), Err));
        }
        let shared_done = Arc::new(crate::sync::Mutex::new(Some(done)));
        let told = Arc::clone(&shared_done);
        let tell = move |result: Result<Receipt>| {
            // Not under the lock: it may publish.
            let done = told.lock().take();
            if let Some(done) = done {
                done(result.map(drop));
            }
        };
        // What came in may be larger than what may be published here, and must not stay for that.
        let started = self.check_open().and_then(|()| outlet.check_up());
        let started = started.and_then(|()| self.start_async(&outlet, record, require, self.next_id(), tell));
        if let Err(error) = started {
            let done = shared_done.lock().take();
            if let Some(done) = done {
                done(Err(error));
            }
        }
    }
}

/// A consumer at work makes space for a batch within some of these steps, if it is left alone:
/// asking again at once, or a bell that it must ring for every few messages, would slow it down.
const BACKOFF_FIRST: Duration = Duration::from_micros(1);
const BACKOFF_LAST: Duration = Duration::from_micros(16);
/// And then this long before sleeping: a wake-up is dearer than a batch.
const SPIN_FOR_SPACE: Duration = Duration::from_micros(20);

/// Rung when a destination has space again.
#[derive(Debug, Default)]
struct SpaceBell(Bell);

impl SpaceBell {
    /// Hangs it up for the next space; answers the rings heard before.
    fn hang_up(self: &Arc<Self>, outlet: &Outlet) -> u32 {
        let heard = self.0.heard();
        let weak: Weak<Self> = Arc::downgrade(self);
        outlet.destination.on_space(weak);
        heard
    }
}

impl Wake for SpaceBell {
    fn wake(&self) {
        self.0.ring();
    }
}

/// Refuses a header that some backend could not carry.
pub fn check_header(name: &str, value: &[u8]) -> Result<()> {
    let refuse = |text: String| Err(Error::new(Kind::Header, text));
    if name.is_empty() {
        return refuse("a header has an empty name".into());
    }
    if name.len() > limits::HEADER_NAME_BYTES_MAX {
        return refuse(format!(
            "a header name has {} bytes; the limit is {}",
            name.len(),
            limits::HEADER_NAME_BYTES_MAX
        ));
    }
    if let Some(at) = name.chars().position(char::is_control) {
        return refuse(format!("a header name has a control character at position {at}"));
    }
    if value.len() > limits::HEADER_VALUE_BYTES_MAX {
        return refuse(format!(
            "the value of header `{name}` has {} bytes; the limit is {}",
            value.len(),
            limits::HEADER_VALUE_BYTES_MAX
        ));
    }
    Ok(())
}

/// Refuses more headers than some backend could carry.
pub fn check_header_count(headers: Headers<'_>) -> Result<()> {
    let count = headers.into_iter().count();
    if count <= limits::HEADERS_MAX {
        return Ok(());
    }
    Err(Error::new(Kind::Header, format!("the message has {count} headers; the limit is {}", limits::HEADERS_MAX)))
}

fn stopped_without_reason() -> Error {
    Error::internal("a backend stopped without a reason")
}

fn closed() -> Error {
    Error::new(Kind::Closed, "the hub is closed").with_fate(Fate::NotSent)
}

pub(super) fn full(text: &str) -> Error {
    Error::new(Kind::Full, text).with_fate(Fate::NotSent)
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("outlet", &self.0.outlet).finish()
    }
}
