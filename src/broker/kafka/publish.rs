//! Publishing: one client hands everything over, and its thread hears how each record ended.
//!
//! A record is named at librdkafka by its ticket, so nothing is kept of it here. It ends once: by the
//! cluster's confirm, by its refusal, or when the client gives it up, and then the client knows whether
//! it may have arrived.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::{error, is_denied, kind, of};
use super::raw::{About, Client, Code, Delivered, Event, Failure, Persisted, Queue, Role};
use super::{login, Shared};
use crate::broker::{Level, Outcome, Ticket};
use crate::error::{Error, Kind, Result};
use crate::sync::{Bell, Deadline, Mutex, RwLock};

/// Tickets of this backend's own records; the hub's are smaller.
pub(super) const OWN: u64 = 1 << 63;
/// How often a quiet thread looks around.
const QUIET: Duration = Duration::from_millis(500);
/// How long records are sent without waiting for others, once the first has been.
const HURRY: Duration = Duration::from_millis(1);
/// Longest wait for records that were given up to be told.
const PURGE_MAX: Duration = Duration::from_secs(10);

/// Hears how a record of the backend's own ended.
pub(super) type Told = Box<dyn FnOnce(bool) + Send>;

/// The client that publishes, and asks.
pub(super) struct Producer {
    pub client: Arc<Client>,
    /// What the client says of itself, and how records ended.
    queue: Queue,
    /// Which one it is: topics belong to one client.
    pub serial: u64,
    stop: Mutex<Option<Deadline>>,
    /// It can do nothing any more: refused, or broken.
    pub failed: Mutex<Option<Error>>,
    /// The last thing that went wrong with a connection: the cause of what times out.
    last: Mutex<Option<Failure>>,
    pub has_failed: Notify,
    /// No broker can be trusted.
    pub distrusted: Notify,
    pub over: AtomicBool,
    /// Closed before the last reports are heard: what is handed over later would never be told of.
    pub gate: RwLock<Gate>,
    /// Counts how often every broker was away.
    pub downs: AtomicU64,
    /// The program had no token: that is no refusal.
    pub without_token: Arc<AtomicBool>,
    /// Records handed over and not told of yet.
    under_way: AtomicUsize,
    /// The first record after none has been handed over; `None`: the program decides how long it waits.
    first: Option<Bell>,
}

/// Whether anything may be handed over.
#[derive(PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Shut,
}

impl Producer {
    /// A new one, with its thread.
    pub fn start(shared: &Arc<Shared>) -> Result<Arc<Self>> {
        let client = Client::new(Role::Producer, &login::producer(&shared.settings))
            .map_err(|failure| error(Kind::Config, format!("config: `kafka`: {failure}")).at("kafka", 0, 0))?;
        client.set_patience(Arc::clone(&shared.settings.patience));
        let queue = Queue::main(&client).ok_or_else(|| error(Kind::Resources, "librdkafka gave no queue"))?;
        let own = Arc::new(Self {
            client,
            queue,
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
            stop: Mutex::default(),
            failed: Mutex::default(),
            last: Mutex::default(),
            has_failed: Notify::new(),
            distrusted: Notify::new(),
            over: AtomicBool::new(false),
            gate: RwLock::new(Gate::Open),
            downs: AtomicU64::new(0),
            without_token: Arc::default(),
            under_way: AtomicUsize::new(0),
            first: login::linger_is_ours(&shared.settings).then(Bell::new),
        });
        shared.supply_token(&own.client, &own.without_token);
        own.start_hurrying()?;
        let (producer, weak) = (Arc::clone(&own), Arc::downgrade(shared));
        crate::runtime::spawn_thread("hmq-kafka-out", move || {
            producer.run(&weak);
            producer.over.store(true, Ordering::Release);
            producer.first.iter().for_each(Bell::ring);
            if let Some(shared) = weak.upgrade() {
                shared.thread_ended.ring();
            }
        })?;
        Ok(own)
    }

    fn run(&self, weak: &Weak<Shared>) {
        loop {
            let event = self.queue.poll(QUIET);
            let Some(shared) = weak.upgrade() else { break };
            if let Some(event) = event {
                self.hear(&shared, event);
            }
            shared.tend_kept();
            let stop = *self.stop.lock();
            let Some(deadline) = stop else { continue };
            self.flush(&shared, deadline);
            break;
        }
    }

    /// Sends the first record after none at once: there is nothing that it could wait for.
    fn start_hurrying(self: &Arc<Self>) -> Result<()> {
        let own = Arc::clone(self);
        if own.first.is_none() {
            return Ok(());
        }
        crate::runtime::spawn_thread("hmq-kafka-send", move || {
            while let Some(first) = own.first.as_ref().filter(|_| !own.is_over()) {
                let heard = first.heard();
                if own.under_way.load(Ordering::Acquire) > 0 {
                    own.client.hurry(HURRY);
                }
                first.wait(heard, Deadline::after(Some(QUIET)));
            }
        })
    }

    /// So many records were handed over.
    pub fn handed_over(&self, count: usize) {
        if count > 0 && self.under_way.fetch_add(count, Ordering::AcqRel) == 0 {
            if let Some(first) = &self.first {
                first.ring();
            }
        }
    }

    /// Everything ends, in time or as given up.
    fn flush(&self, shared: &Arc<Shared>, deadline: Deadline) {
        let queue = &self.queue;
        let step = |until: Deadline| until.left().unwrap_or(QUIET).min(Duration::from_millis(50));
        // A cluster that says nothing for so long is not waited for, whatever time there is.
        let mut patience = Deadline::after(Some(shared.settings.confirm_timeout));
        while self.client.unfinished() > 0 && !deadline.has_passed() && !patience.has_passed() {
            let Some(event) = queue.poll(step(deadline)) else { continue };
            // Each attempt to connect in vain has something to say, too.
            if event.about() == About::Deliveries {
                patience = Deadline::after(Some(shared.settings.confirm_timeout));
            }
            self.hear(shared, event);
        }
        *self.gate.write() = Gate::Shut;
        shared.tend_kept();
        let last = Deadline::after(Some(PURGE_MAX));
        // As long as the backend is used each record has its ending: one that is between two brokers is not purged at
        // once.
        let is_used = || !shared.is_closed() && Arc::strong_count(shared) > 1;
        while self.client.unfinished() > 0 && (is_used() || !last.has_passed()) {
            self.client.purge();
            if let Some(event) = queue.poll(step(Deadline::after(None))) {
                self.hear(shared, event);
            }
        }
        while let Some(event) = queue.poll(Duration::ZERO) {
            self.hear(shared, event);
        }
    }

    /// Ends it: what is under way is waited for until `deadline`.
    pub fn stop(&self, deadline: Deadline) {
        self.stop.lock().get_or_insert(deadline);
        self.queue.interrupt();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn hear(&self, shared: &Arc<Shared>, event: Event) {
        match event.about() {
            About::Deliveries => {
                let mut outcomes = Vec::new();
                event.deliveries(|delivered| {
                    let opaque = delivered.opaque;
                    outcomes.push((Ticket(opaque), self.outcome(shared, delivered)));
                });
                self.under_way.fetch_sub(outcomes.len(), Ordering::AcqRel);
                shared.tell(outcomes);
                // Its records take their space until then.
                drop(event);
                shared.wake_publishers();
            }
            About::Failure => {
                if let Err(failure) = event.result() {
                    self.on_failure(shared, failure);
                }
            }
            About::Log => {
                let (level, text) = event.log();
                super::log(level, &text);
            }
            About::TokenWanted => shared.supply_token(&self.client, &self.without_token),
            _ => {}
        }
    }

    fn on_failure(&self, shared: &Shared, failure: Failure) {
        let all_down = failure.code == Code::AllBrokersDown;
        if failure.code == Code::Authentication && self.without_token.swap(false, Ordering::AcqRel) {
            *self.last.lock() = Some(failure);
            return;
        }
        let error = of("the cluster", &failure);
        if failure.fatal || is_denied(failure.code) {
            let error = match is_denied(failure.code) {
                true => error,
                false => super::error::error(Kind::BackendDown, format!("the client had to be given up: {failure}")),
            };
            *self.failed.lock() = Some(error.clone());
            self.has_failed.notify_waiters();
            shared.give_up(self, error);
        } else if all_down {
            self.downs.fetch_add(1, Ordering::AcqRel);
            let cause = self.cause();
            // What else it is comes and goes, and is tried again; a certificate stays as it is.
            let is_final = cause.as_ref().is_some_and(|cause| cause.code == Code::SSL);
            let error = cause.map_or(error, |cause| of("no broker can be reached", &cause));
            shared.lost(self, error);
            if is_final {
                self.distrusted.notify_waiters();
            }
        } else {
            tracing::debug!("{error}");
            *self.last.lock() = Some(failure);
        }
    }

    /// It goes well now.
    pub fn forget_cause(&self) {
        *self.last.lock() = None;
    }

    /// Why nothing was answered, as far as is known.
    pub fn cause(&self) -> Option<Failure> {
        self.last.lock().clone()
    }

    fn outcome(&self, shared: &Shared, delivered: Delivered) -> Outcome {
        let Delivered { result, persisted, topic, offset, .. } = delivered;
        let Err(failure) = result else { return confirmed(offset) };
        // Of a topic that was deleted, the client may not hear for minutes.
        if matches!(kind(failure.code), Kind::NotFound | Kind::Timeout) && shared.is_linked() {
            shared.topics.doubt(&topic);
        }
        if persisted == Persisted::Yes {
            return Outcome::Confirmed(Level::Broker);
        }
        let cause = self.failed.lock().clone();
        let cause = cause.or_else(|| self.cause().map(|last| of("the cluster", &last)));
        let with_cause = |error: Error| match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        if persisted == Persisted::Perhaps {
            let text = format!("the cluster did not confirm: {failure}");
            return Outcome::Unknown(with_cause(error(Kind::OutcomeUnknown, text)));
        }
        let is_given_up = matches!(failure.code, Code::PurgeQueue | Code::PurgeInflight);
        if let Some(why) = shared.topics.last_refusal(&topic).filter(|_| !is_given_up) {
            return Outcome::Refused(why);
        }
        let said = of(&format!("the cluster did not take a message for `{topic}`"), &failure);
        match said.kind() {
            Kind::BackendDown => Outcome::NotSent(with_cause(said)),
            Kind::Timeout if shared.is_linked() => Outcome::NotSent(with_cause(said)),
            // A topic that was deleted is made again, for those who wait for it.
            Kind::NotFound if (shared.settings.patience)(&topic) => Outcome::NotSent(with_cause(said)),
            Kind::Timeout => {
                let text = format!("the cluster could not be reached: {failure}");
                Outcome::NotSent(with_cause(error(Kind::BackendDown, text)))
            }
            _ => Outcome::Refused(said),
        }
    }
}

/// A confirm that names no offset is librdkafka's own inference, from the confirm of a later request. It is wrong of
/// a partition that had not heard of this producer: such a one takes whatever comes first, also when what was
/// sent before it had been refused.
fn confirmed(offset: i64) -> Outcome {
    if offset >= 0 {
        return Outcome::Confirmed(Level::Broker);
    }
    let text = "the cluster confirmed a later message, and this one not";
    Outcome::Unknown(error(Kind::OutcomeUnknown, text))
}

static SERIALS: AtomicU64 = AtomicU64::new(1);

/// Records that the backend publishes itself.
#[derive(Default)]
pub(super) struct OwnRecords {
    told: Mutex<(u64, HashMap<u64, Told>)>,
}

impl OwnRecords {
    /// The ticket of one; `told` is called once.
    pub fn enter(&self, told: Told) -> Ticket {
        let mut all = self.told.lock();
        all.0 += 1;
        let ticket = OWN | all.0;
        all.1.insert(ticket, told);
        Ticket(ticket)
    }

    /// It was not handed over.
    pub fn give_up(&self, ticket: Ticket) {
        let told = self.told.lock().1.remove(&ticket.0);
        if let Some(told) = told {
            told(false);
        }
    }

    pub fn tell(&self, ticket: u64, outcome: &Outcome) {
        let told = self.told.lock().1.remove(&ticket);
        if let Some(told) = told {
            told(matches!(outcome, Outcome::Confirmed(_)));
        }
    }
}

impl Shared {
    /// Tells how records ended: the hub of its own, and others of theirs. No lock is held.
    pub(super) fn tell(&self, mut outcomes: Vec<(Ticket, Outcome)>) {
        let mut own = Vec::new();
        if outcomes.iter().any(|(ticket, _)| ticket.0 & OWN != 0) {
            (own, outcomes) = outcomes.into_iter().partition(|(ticket, _)| ticket.0 & OWN != 0);
        }
        if !outcomes.is_empty() {
            self.context.sink.complete(&mut outcomes);
        }
        own.into_iter().for_each(|(ticket, outcome)| self.own_records.tell(ticket.0, &outcome));
    }
}
