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
//! The server closes a channel on which it refuses something, and tells nothing of what else was on it.
//! So what goes to different exchanges goes through different channels, the *lines*.
//!
//! How many jobs there can be is bounded above: by the hub's publish window, and by the prefetch of
//! the sources whose messages are moved.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
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
    /// Nobody: a publish that only brings a confirm, to this line.
    Barrier(usize),
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

/// Exchanges that share a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Queue,
    Events,
    Delays,
    /// One of those in the form `helixagent`.
    Shared,
}

/// A channel and what is on it.
#[derive(Default)]
struct Line {
    channel: Option<Arc<Channel>>,
    confirms: Confirms,
    /// So many have no answer yet.
    flying: usize,
    barrier_open: bool,
}

/// The publishing end of one connection.
pub(super) struct Publisher {
    shared: Weak<Shared>,
    clock: Clock,
    connection: Arc<Connection>,
    confirm_timeout: Duration,
    readiness: Readiness,
    /// By [`To`].
    lines: [Line; 4],
    open: NumberMap<Open>,
    way: Way,
    /// In the order they were sent, to find those that are late.
    sent: VecDeque<Serial>,
    serials: Serial,
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
            lines: Default::default(),
            open: NumberMap::default(),
            way: Way::new(),
            sent: VecDeque::new(),
            serials: 0,
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
            self.barriers();
            self.tell();
        }
        self.give_up(&away());
        self.tell();
    }

    /// Sends what brings a confirm to those that wait for one more.
    fn barriers(&mut self) {
        for index in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(index) else { return };
            if line.flying > 0 || line.barrier_open || !line.confirms.wants_barrier() {
                continue;
            }
            let Some(channel) = line.channel.clone() else { continue };
            line.barrier_open = true;
            let (exchange, key) = ("".into(), "hmq.barrier".into());
            let letter = Letter { channel, exchange, key, outgoing: Box::default(), serial: None };
            self.send(index, letter, Done::Barrier(index), Arc::from(""));
        }
    }

    /// Hands a publish to the client library, and follows it.
    fn send(&mut self, line: usize, mut letter: Letter, done: Done, topic: Arc<str>) {
        // One with an id that was made for it is found by that when it is returned.
        let made = letter.outgoing.made.filter(|number| !self.open.contains_key(number));
        let serial = made.unwrap_or_else(|| {
            self.serials += 1;
            SERIAL_OF_NO_ID | self.serials
        });
        letter.serial = (letter.outgoing.mandatory && made.is_none()).then_some(serial);
        self.open.insert(serial, Open { done, since: self.clock.now(), topic });
        self.sent.push_back(serial);
        if let Some(line) = self.lines.get_mut(line) {
            line.flying += 1;
        }
        self.way.send(line, serial, letter);
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
        let to = match (kind, delay_s) {
            (TopicKind::Task, 1..) => To::Delays,
            _ if wire == Wire::Helixagent => To::Shared,
            (TopicKind::Event, _) => To::Events,
            (TopicKind::Task, 0) => To::Queue,
        };
        let channel = match self.channel(to).await {
            Ok(channel) => channel,
            Err(failed) => return self.refuse(done, failed),
        };
        wire::set_ttl(&mut outgoing, (delay_s > 0).then(|| self.clock.wall_us()));
        let (exchange, key) = match to {
            To::Queue => ("".into(), short(&topic)),
            To::Events => (EVENTS.into(), short(&topic)),
            To::Delays => delayed(&topic, delay_s),
            // Its exchange has the name of the topic, too.
            To::Shared => (short(&topic), short(&topic)),
        };
        // An event that no group wants is nobody's loss; a task that no queue takes is.
        outgoing.mandatory = kind == TopicKind::Task;
        self.send(to as usize, Letter { channel, exchange, key, outgoing, serial: None }, done, topic);
    }

    /// Ends a job that was not handed to the client library.
    fn refuse(&mut self, done: Done, why: Error) {
        let outcome = match why.kind() {
            Kind::BackendDown | Kind::Closed | Kind::RabbitMq => Outcome::NotSent(why),
            _ => Outcome::Refused(why),
        };
        self.end(done, outcome);
    }

    async fn channel(&mut self, to: To) -> Result<Arc<Channel>, Error> {
        let line = self.lines.get(to as usize);
        let present = line.and_then(|line| line.channel.as_ref());
        if let Some(channel) = present.filter(|channel| channel.status().connected()) {
            return Ok(Arc::clone(channel));
        }
        let open = async {
            let channel = self.connection.create_channel().await.map_err(|refused| of("a channel", &refused))?;
            let select = channel.confirm_select(ConfirmSelectOptions::default()).await;
            select.map(|()| channel).map_err(|refused| of("confirms", &refused))
        };
        let late = |_| error(Kind::BackendDown, "the server did not open a channel in time");
        let channel = tokio::time::timeout(self.confirm_timeout, open).await.map_err(late)??;
        let channel = Arc::new(channel);
        if let Some(line) = self.lines.get_mut(to as usize) {
            line.channel = Some(Arc::clone(&channel));
        }
        Ok(channel)
    }

    fn on_answers(&mut self, answers: &mut Vec<Answer>) {
        let prefix = self.shared.upgrade().map_or(0, |shared| shared.context.id_prefix);
        let mut rounds: [Vec<Confirm>; 4] = Default::default();
        let mut failed = Vec::new();
        for Answer { line, serial, result } in answers.drain(..) {
            let (Some(own), Some(round)) = (self.lines.get_mut(line), rounds.get_mut(line)) else { continue };
            own.flying -= 1;
            let (ack, returned) = match result {
                Ok(Confirmation::Ack(returned)) => (true, returned),
                Ok(Confirmation::Nack(returned)) => (false, returned),
                Ok(Confirmation::NotRequested) => (true, None),
                Err(error) => {
                    failed.push((line, serial, error));
                    continue;
                }
            };
            let carries =
                returned.map(|returned| wire::serial_of(&returned.delivery.properties, prefix).unwrap_or(Serial::MAX));
            round.push(Confirm { serial, ack, carries });
        }
        let mut endings = Vec::new();
        for (line, round) in self.lines.iter_mut().zip(&rounds) {
            line.confirms.round(round, &mut endings);
        }
        // The client library resolves a confirm of many in no order; they are told in theirs.
        endings.sort_unstable_by_key(|(serial, _)| *serial);
        for (serial, ending) in endings {
            self.on_ending(serial, ending);
        }
        let alone = failed.len() == 1;
        for (line, serial, error) in failed {
            self.on_failure(line, serial, &error, alone);
        }
    }

    fn on_ending(&mut self, serial: Serial, ending: Ending) {
        let Some(Open { done, topic, .. }) = self.open.remove(&serial) else { return };
        let outcome = match ending {
            Ending::Confirmed => Outcome::Confirmed(Level::Broker),
            Ending::Refused => {
                Outcome::Refused(error(Kind::Refused, format!("the server refused a message for `{topic}` (nack)")))
            }
            Ending::Returned => Outcome::Refused(self.readiness.is_gone(topic)),
        };
        self.end(done, outcome);
    }

    /// A publish whose channel failed before it was confirmed; `alone`: no other one did now.
    fn on_failure(&mut self, line: usize, serial: Serial, failed: &lapin::Error, alone: bool) {
        let Some(own) = self.lines.get_mut(line) else { return };
        // A channel that failed once is of no use; queues may be gone, too.
        own.channel = None;
        let doubtful = own.confirms.give_up();
        let is_the_cause = alone && own.flying == 0 && doubtful.is_empty();
        self.readiness.doubt();
        let cause = of("the channel ended", failed);
        for serial in doubtful {
            if let Some(open) = self.open.remove(&serial) {
                self.end(open.done, Outcome::Unknown(unknown(&cause)));
            }
        }
        let Some(Open { done, topic, .. }) = self.open.remove(&serial) else { return };
        let outcome = match failed.kind() {
            // The same error of another call: the channel ended after the message was sent.
            ErrorKind::InvalidChannelState(_, "basic.publish") => Outcome::NotSent(away()),
            // Nothing else was on it, so it is this one that the server refused.
            _ if is_the_cause && matches!(cause.kind(), Kind::NotFound | Kind::Refused) => {
                Outcome::Refused(of(&format!("the server refused a message for `{topic}`"), failed))
            }
            _ => Outcome::Unknown(unknown(&cause)),
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
                self.end(open.done, Outcome::Unknown(error(Kind::OutcomeUnknown, text)));
            }
        }
    }

    fn give_up(&mut self, cause: &Error) {
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
            Done::Barrier(line) => {
                if let Some(line) = self.lines.get_mut(line) {
                    line.barrier_open = false;
                }
            }
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
