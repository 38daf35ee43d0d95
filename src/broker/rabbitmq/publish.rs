//! Publishing: destinations hand jobs over, and one task per connection brings them to the server
//! and follows them until each has ended.
//!
//! A job's publish is never awaited by itself: many are on their way at once, and their confirms
//! are taken in rounds ([`Confirms`]). Every job ends exactly once:
//!
//! ```text
//! confirmed   the server has it          unknown    lost connection, or late: handed to the socket
//! refused     nacked, or unroutable      not sent   never handed to the socket
//! ```
//!
//! How many jobs there can be is bounded above: by the hub's publish window, and by the prefetch of
//! the sources whose messages are moved.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Connection, ErrorKind};
use tokio::sync::mpsc::UnboundedReceiver;

use super::confirms::{Confirm, Confirms, Ending, Serial};
use super::consume::Subscriber;
use super::error::{away, error, of, unknown};
use super::ready::{Admitted, Prepared, Readiness};
use super::topology::{delayed, EVENTS};
use super::way::{Answer, Letter, Way};
use super::wire::{self, short, Made, Outgoing};
use super::Shared;
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::clock::{Clock, Moment};
use crate::config::Wire;
use crate::error::{Error, Kind};
use crate::message::TopicKind;
use crate::numbers::NumberMap;

/// Set in the serials of those without an id that was made for them; the others have its number.
const SERIAL_OF_NO_ID: Serial = 1 << 63;
/// Rounds of jobs taken before confirms are looked at again.
const JOBS_AT_ONCE: usize = 64;
/// One message on its way to the server.
#[derive(Debug)]
pub(super) struct Job {
    pub topic: Arc<str>,
    pub kind: TopicKind,
    /// Where messages of its topic go depends on their form.
    pub wire: Wire,
    pub outgoing: Box<Outgoing>,
    /// Whole seconds.
    pub delay_s: u64,
    pub done: Done,
}

/// Who is told how it ended.
#[derive(Debug)]
pub(super) enum Done {
    /// The hub.
    Ticket(Ticket),
    /// A source that moves a delivery elsewhere: it settles its own when that is confirmed.
    Moved(Weak<Subscriber>, u64),
    /// Nobody: a publish that only brings a confirm.
    Barrier,
}

/// Where records of one topic go.
pub(super) struct RabbitDestination {
    pub topic: Arc<str>,
    pub kind: TopicKind,
    pub wire: Wire,
    pub shared: Weak<Shared>,
    /// Publishers of one topic hand over one after another, so that numbers are in order.
    pub order: crate::sync::Mutex<()>,
}

impl Destination for RabbitDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let nothing = |why: Error| Taken { count: 0, first_seq: 0, level: None, stopped: Some(why) };
        let Some(shared) = self.shared.upgrade() else { return nothing(away()) };
        let order = self.order.lock();
        let jobs = match shared.jobs() {
            Ok(jobs) => jobs,
            Err(down) => return nothing(down),
        };
        let first_seq = batch.number(batch.records.len());
        let target = shared.target(&self.topic, self.kind, self.wire);
        for (index, record) in batch.records.iter().enumerate() {
            let made = Made { prefix: shared.context.id_prefix, seq: first_seq + index as u64 };
            let outgoing = match wire::outgoing(record, target, made, batch.now_us) {
                Ok(outgoing) => outgoing,
                Err(refused) => return Taken { count: index, first_seq, level: None, stopped: Some(refused) },
            };
            let job = Job {
                topic: Arc::clone(&self.topic),
                kind: self.kind,
                wire: self.wire,
                outgoing,
                delay_s: u64::try_from(record.delay_ms).unwrap_or_default().div_ceil(1000),
                done: Done::Ticket(Ticket(batch.first_ticket.0 + index as u64)),
            };
            if jobs.send(job).is_err() {
                drop(order);
                return Taken { count: index, first_seq, level: None, stopped: Some(away()) };
            }
        }
        drop(order);
        Taken { count: batch.records.len(), first_seq, level: None, stopped: None }
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        // Nothing is ever full here: the hub's window is the bound.
        if let Some(waker) = waker.upgrade() {
            waker.wake();
        }
    }
}

impl std::fmt::Debug for RabbitDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitDestination").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// A job whose publish is on its way.
struct Open {
    done: Done,
    since: Moment,
    topic: Arc<str>,
}

/// The publishing end of one connection.
pub(super) struct Publisher {
    shared: Weak<Shared>,
    clock: Clock,
    connection: Arc<Connection>,
    confirm_timeout: Duration,
    channel: Option<Arc<Channel>>,
    readiness: Readiness,
    confirms: Confirms,
    open: NumberMap<Open>,
    way: Way,
    /// In the order they were sent, to find those that are late.
    sent: VecDeque<Serial>,
    serials: Serial,
    barrier_open: bool,
    told: Vec<(Ticket, Outcome)>,
}

/// What the task goes on with.
enum Step {
    Answers,
    Jobs,
    Prepared(Prepared),
    Late,
    Ended,
}

impl Publisher {
    pub fn new(shared: &Arc<Shared>, connection: Arc<Connection>) -> Self {
        let confirm_timeout = shared.settings.confirm_timeout;
        Self {
            shared: Arc::downgrade(shared),
            clock: shared.context.clock.clone(),
            readiness: Readiness::new(shared, Arc::clone(&connection), confirm_timeout),
            connection,
            confirm_timeout,
            channel: None,
            confirms: Confirms::default(),
            open: NumberMap::default(),
            way: Way::new(),
            sent: VecDeque::new(),
            serials: 0,
            barrier_open: false,
            told: Vec::new(),
        }
    }

    /// Runs until all senders of jobs are gone and every publish has ended.
    pub async fn run(mut self, mut jobs: UnboundedReceiver<Job>) {
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        let mut ended = false;
        loop {
            let late = tokio::time::sleep(self.next_late());
            tokio::pin!(late);
            let step = poll_fn(|context| {
                self.way.drain(context, &mut answers);
                if !answers.is_empty() {
                    return Poll::Ready(Step::Answers);
                }
                if let Poll::Ready(prepared) = self.readiness.poll_prepared(context) {
                    return Poll::Ready(Step::Prepared(prepared));
                }
                if !ended {
                    match jobs.poll_recv_many(context, &mut batch, JOBS_AT_ONCE) {
                        Poll::Ready(0) => ended = true,
                        Poll::Ready(_) => return Poll::Ready(Step::Jobs),
                        Poll::Pending => {}
                    }
                }
                // What has been told as unknown need not be waited for.
                if ended && self.readiness.nobody_waits() && (self.way.is_empty() || self.open.is_empty()) {
                    return Poll::Ready(Step::Ended);
                }
                std::future::Future::poll(late.as_mut(), context).map(|()| Step::Late)
            })
            .await;
            match step {
                // Also when answers come without a pause. Only now: every confirm that is here was taken.
                Step::Answers => {
                    self.on_answers(&mut answers);
                    self.on_late();
                }
                Step::Late => self.on_late(),
                Step::Prepared(prepared) => {
                    let (jobs, result) = self.readiness.on_prepared(prepared);
                    for job in jobs {
                        match &result {
                            Ok(()) => self.begin(job).await,
                            Err(failed) => self.refuse(job.done, failed.clone()),
                        }
                    }
                }
                Step::Jobs => {
                    for job in batch.drain(..) {
                        self.begin(job).await;
                    }
                }
                Step::Ended => break,
            }
            if self.way.is_empty() {
                self.barrier();
            }
            self.tell();
        }
        self.give_up(&away());
        self.tell();
    }

    /// Sends what brings a confirm to those that wait for one more.
    fn barrier(&mut self) {
        if !self.confirms.wants_barrier() || self.barrier_open {
            return;
        }
        let Some(channel) = self.channel.clone() else { return };
        self.barrier_open = true;
        self.send(channel, "".into(), "hmq.barrier".into(), Done::Barrier, Arc::from(""), Box::default());
    }

    /// Hands a publish to the client library, and follows it.
    fn send(
        &mut self,
        channel: Arc<Channel>,
        exchange: ShortString,
        key: ShortString,
        done: Done,
        topic: Arc<str>,
        outgoing: Box<Outgoing>,
    ) {
        // One with an id that was made for it is found by that when it is returned.
        let made = outgoing.made.filter(|number| !self.open.contains_key(number));
        let serial = made.unwrap_or_else(|| {
            self.serials += 1;
            SERIAL_OF_NO_ID | self.serials
        });
        let told = (outgoing.mandatory && made.is_none()).then_some(serial);
        self.open.insert(serial, Open { done, since: self.clock.now(), topic });
        self.sent.push_back(serial);
        self.way.send(serial, Letter { channel, exchange, key, outgoing, serial: told });
    }

    /// Sends a job, unless it waits for its topic, or has ended.
    async fn begin(&mut self, job: Job) {
        if let Err(refused) = wire::check(&job.outgoing, self.connection.configuration().frame_max()) {
            return self.end(job.done, Outcome::Refused(refused));
        }
        let Job { topic, kind, wire, mut outgoing, delay_s, done } = match self.readiness.admit(job) {
            Admitted::Ready(job) => job,
            Admitted::Waits => return,
            Admitted::Refused(job, why) => return self.refuse(job.done, why),
        };
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(failed) => return self.refuse(done, failed),
        };
        wire::set_ttl(&mut outgoing, (delay_s > 0).then(|| self.clock.wall_us()));
        let (exchange, key) = match (kind, delay_s) {
            (TopicKind::Task, 1..) => delayed(&topic, delay_s),
            // Its exchange has the name of the topic, too.
            _ if wire == Wire::Helixagent => (short(&topic), short(&topic)),
            (TopicKind::Event, _) => (EVENTS.into(), short(&topic)),
            (TopicKind::Task, 0) => ("".into(), short(&topic)),
        };
        // An event that no group wants is nobody's loss; a task that no queue takes is.
        outgoing.mandatory = kind == TopicKind::Task;
        self.send(channel, exchange, key, done, topic, outgoing);
    }

    /// Ends a job that was not handed to the client library.
    fn refuse(&mut self, done: Done, why: Error) {
        let outcome = match why.kind() {
            Kind::BackendDown | Kind::Closed | Kind::RabbitMq => Outcome::NotSent(why),
            _ => Outcome::Refused(why),
        };
        self.end(done, outcome);
    }

    async fn channel(&mut self) -> Result<Arc<Channel>, Error> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(Arc::clone(channel));
        }
        let open = async {
            let channel = self.connection.create_channel().await.map_err(|refused| of("a channel", &refused))?;
            let select = channel.confirm_select(ConfirmSelectOptions::default()).await;
            select.map(|()| channel).map_err(|refused| of("confirms", &refused))
        };
        let late = |_| error(Kind::BackendDown, "the server did not open a channel in time");
        let channel = tokio::time::timeout(self.confirm_timeout, open).await.map_err(late)??;
        Ok(Arc::clone(self.channel.insert(Arc::new(channel))))
    }

    fn on_answers(&mut self, answers: &mut Vec<Answer>) {
        let prefix = self.shared.upgrade().map_or(0, |shared| shared.context.id_prefix);
        let mut confirms = Vec::with_capacity(answers.len());
        let mut failed = None;
        for (serial, answer) in answers.drain(..) {
            let (ack, returned) = match answer {
                Ok(Confirmation::Ack(returned)) => (true, returned),
                Ok(Confirmation::Nack(returned)) => (false, returned),
                Ok(Confirmation::NotRequested) => (true, None),
                Err(error) => {
                    self.on_failure(serial, &error);
                    failed = Some(error);
                    continue;
                }
            };
            let carries =
                returned.map(|returned| wire::serial_of(&returned.delivery.properties, prefix).unwrap_or(Serial::MAX));
            confirms.push(Confirm { serial, ack, carries });
        }
        let mut endings = Vec::new();
        self.confirms.round(&confirms, &mut endings);
        // The client library resolves a confirm of many in no order; they are told in theirs.
        endings.sort_unstable_by_key(|(serial, _)| *serial);
        for (serial, ending) in endings {
            self.on_ending(serial, ending);
        }
        if let Some(error) = failed {
            // A channel that failed once is of no use; queues may be gone, too.
            self.channel = None;
            self.readiness.doubt();
            let cause = of("the channel ended", &error);
            for serial in self.confirms.give_up() {
                if let Some(open) = self.open.remove(&serial) {
                    self.end(open.done, Outcome::Unknown(unknown(&cause)));
                }
            }
        }
    }

    fn on_ending(&mut self, serial: Serial, ending: Ending) {
        let Some(Open { done, topic, .. }) = self.open.remove(&serial) else { return };
        if matches!(done, Done::Barrier) {
            self.barrier_open = false;
            return;
        }
        let outcome = match ending {
            Ending::Confirmed => Outcome::Confirmed(Level::Broker),
            Ending::Refused => {
                Outcome::Refused(error(Kind::Refused, format!("the server refused a message for `{topic}` (nack)")))
            }
            Ending::Returned => Outcome::Refused(self.readiness.is_gone(topic)),
        };
        self.end(done, outcome);
    }

    fn on_failure(&mut self, serial: Serial, failed: &lapin::Error) {
        let Some(Open { done, .. }) = self.open.remove(&serial) else { return };
        if matches!(done, Done::Barrier) {
            self.barrier_open = false;
            return;
        }
        let outcome = match failed.kind() {
            // It was refused before a frame of it was written.
            // The same error of another call: the channel ended after the message was sent.
            ErrorKind::InvalidChannelState(_, "basic.publish") => Outcome::NotSent(away()),
            _ => Outcome::Unknown(unknown(&of("the connection failed", failed))),
        };
        self.end(done, outcome);
    }

    /// How long until the oldest publish is late.
    fn next_late(&mut self) -> Duration {
        while self.sent.front().is_some_and(|serial| !self.open.contains_key(serial)) {
            self.sent.pop_front();
        }
        let oldest = self.sent.front().and_then(|serial| self.open.get(serial));
        let due = |open: &Open| open.since.plus(self.confirm_timeout).since(self.clock.now());
        oldest.map_or(Duration::from_secs(3600), due)
    }

    /// Ends those whose confirm is late; when it comes after all, nobody waits for it.
    fn on_late(&mut self) {
        let now = self.clock.now();
        while let Some(serial) = self.sent.front().copied() {
            match self.open.get(&serial) {
                // Posted again it would be there twice: it ends with its confirm or its channel.
                Some(Open { done: Done::Moved(..), .. }) => {
                    self.sent.pop_front();
                    continue;
                }
                Some(open) if open.since.plus(self.confirm_timeout) > now => break,
                Some(_) => {}
                None => {
                    self.sent.pop_front();
                    continue;
                }
            }
            self.sent.pop_front();
            if let Some(open) = self.open.remove(&serial) {
                let text = format!("the server has not confirmed within {:?}", self.confirm_timeout);
                if matches!(open.done, Done::Barrier) {
                    self.barrier_open = false;
                }
                self.end(open.done, Outcome::Unknown(error(Kind::OutcomeUnknown, text)));
            }
        }
    }

    fn give_up(&mut self, cause: &Error) {
        drop(self.confirms.give_up());
        for job in self.readiness.give_up() {
            self.end(job.done, Outcome::NotSent(away()));
        }
        for (_, open) in std::mem::take(&mut self.open) {
            self.end(open.done, Outcome::Unknown(unknown(cause)));
        }
    }

    fn end(&mut self, done: Done, outcome: Outcome) {
        match done {
            Done::Ticket(ticket) => self.told.push((ticket, outcome)),
            Done::Moved(source, tag) => {
                if let Some(source) = source.upgrade() {
                    source.moved(tag, matches!(outcome, Outcome::Confirmed(_)));
                }
            }
            Done::Barrier => {}
        }
    }

    fn tell(&mut self) {
        if self.told.is_empty() {
            return;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.context.sink.complete(&mut self.told);
        }
        self.told.clear();
    }
}
