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

use lapin::{Channel, Confirmation, Connection, ErrorKind};
use tokio::sync::mpsc::UnboundedReceiver;

use super::confirms::{Confirm, Confirms, Ending, Serial};
use super::consume::Subscriber;
use super::error::{away, error, of, unknown};
use super::ready::{Admitted, Answered, Readiness, Served};
use super::topology::{delayed, EVENTS};
use super::way::{Answer, Letter, On, Way};
use super::wire::{self, short, Made, Outgoing};
use super::Shared;
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::clock::{Clock, Moment};
use crate::config::Wire;
use crate::error::{Error, Kind};
use crate::message::{Record, TopicKind};
use crate::numbers::NumberMap;

/// Set in the serials of those without an id that was made for them; the others have its number.
const SERIAL_OF_NO_ID: Serial = 1 << 63;
/// Jobs taken before confirms are looked at again.
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
    /// Nobody: a publish that only brings a confirm, on this line.
    Barrier(To),
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

    fn check(&self, record: &Record<'_>) -> Result<(), Error> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let target = shared.target(&self.topic, self.kind, self.wire);
        let outgoing = wire::outgoing(record, target, Made { prefix: 0, seq: 0 }, 0)?;
        wire::check(&outgoing, super::connect::FRAME_BYTES_MAX)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum To {
    Queue,
    Events,
    Delays,
    /// One of those in the form `helixagent`.
    Helixagent,
}

impl To {
    const ALL: [Self; 4] = [To::Queue, To::Events, To::Delays, To::Helixagent];

    pub fn of(job: &Job) -> Self {
        match (job.kind, job.delay_s) {
            (TopicKind::Task, 1..) => To::Delays,
            _ if job.wire == Wire::Helixagent => To::Helixagent,
            (TopicKind::Event, _) => To::Events,
            (TopicKind::Task, 0) => To::Queue,
        }
    }
}

/// A channel and what is on it.
#[derive(Default)]
struct Line {
    channel: Option<Arc<Channel>>,
    /// Counts the channels there have been: an answer of an earlier one says nothing of this one.
    number: u32,
    confirms: Confirms,
    /// So many have no answer yet.
    flying: usize,
    barrier_open: bool,
    /// Something on it has failed.
    failed: bool,
}

impl Line {
    fn open_channel(&self) -> Option<Arc<Channel>> {
        self.channel.as_ref().filter(|channel| channel.status().connected()).cloned()
    }

    /// Begins again with another channel; answers those that cannot be decided any more.
    fn replace(&mut self, channel: Channel) -> Vec<Serial> {
        let doubtful = self.confirms.give_up();
        *self = Self { channel: Some(Arc::new(channel)), number: self.number.wrapping_add(1), ..Self::default() };
        doubtful
    }
}

/// The publishing end of one connection.
pub(super) struct Publisher {
    shared: Weak<Shared>,
    clock: Clock,
    connection: Arc<Connection>,
    confirm_timeout: Duration,
    /// Publishes that were told as unknown and are still in memory, at most.
    given_up_max: usize,
    readiness: Readiness,
    /// By [`To`].
    lines: [Line; To::ALL.len()],
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
    Answered(Answered),
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
            given_up_max: shared.settings.publish_window,
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
                if let Poll::Ready(answered) = self.readiness.poll_answered(context) {
                    return Poll::Ready(Step::Answered(answered));
                }
                if !ended {
                    match jobs.poll_recv_many(context, &mut batch, JOBS_AT_ONCE) {
                        Poll::Ready(0) => ended = true,
                        Poll::Ready(_) => return Poll::Ready(Step::Jobs),
                        Poll::Pending => {}
                    }
                }
                // What has been told as unknown need not be waited for.
                if ended && self.readiness.nobody_waits() && (self.way.len() == 0 || self.open.is_empty()) {
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
                Step::Answered(answered) => self.on_answered(answered),
                Step::Jobs => batch.drain(..).for_each(|job| self.begin(job)),
                Step::Ended => break,
            }
            self.barriers(false);
            self.tell();
        }
        self.give_up(&away());
        self.tell();
    }

    /// Sends what brings a confirm to those that wait for one more, where none comes by itself; `now`: where
    /// it may not come in time.
    fn barriers(&mut self, now: bool) {
        for to in To::ALL {
            let line = &mut self.lines[to as usize];
            if (line.flying > 0 && !now) || line.barrier_open || !line.confirms.wants_barrier() {
                continue;
            }
            let Some(channel) = line.channel.clone() else { continue };
            line.barrier_open = true;
            let (exchange, key) = ("".into(), "hmq.barrier".into());
            let letter = Letter { channel, exchange, key, outgoing: Box::default(), mandatory: false, serial: None };
            self.send(to, letter, Done::Barrier(to), Arc::from(""));
        }
    }

    /// Hands a publish to the client library, and follows it.
    fn send(&mut self, to: To, mut letter: Letter, done: Done, topic: Arc<str>) {
        // One with an id that was made for it is found by that when it is returned.
        let made = letter.outgoing.made.filter(|number| !self.open.contains_key(number));
        let serial = made.unwrap_or_else(|| {
            self.serials += 1;
            SERIAL_OF_NO_ID | self.serials
        });
        letter.serial = (letter.mandatory && made.is_none()).then_some(serial);
        self.open.insert(serial, Open { done, since: self.clock.now(), topic });
        self.sent.push_back(serial);
        let line = &mut self.lines[to as usize];
        line.flying += 1;
        self.way.send(On { to, number: line.number }, serial, letter);
    }

    /// Sends a job, unless it waits for its topic, or has ended.
    fn begin(&mut self, job: Job) {
        if let Err(refused) = wire::check(&job.outgoing, self.connection.configuration().frame_max()) {
            return self.end(job.done, Outcome::Refused(refused));
        }
        // What was given up is still in memory until the server takes it.
        if self.way.len() > self.open.len() + self.given_up_max {
            let text = "the server takes nothing: as many publishes as the window were given up and are not sent yet";
            return self.refuse(job.done, error(Kind::BackendDown, text));
        }
        let to = To::of(&job);
        let channel = self.lines[to as usize].open_channel();
        let (job, channel) = match (self.readiness.admit(job, channel.is_some()), channel) {
            (Admitted::Ready(job), Some(channel)) => (job, channel),
            (Admitted::Ready(job), None) => return self.refuse(job.done, away()),
            (Admitted::Waits, _) => return,
            (Admitted::Refused(job, why), _) => return self.refuse(job.done, why),
        };
        let Job { topic, kind, mut outgoing, delay_s, done, .. } = job;
        wire::set_ttl(&mut outgoing, (delay_s > 0).then(|| self.clock.wall_us()));
        let (exchange, key) = match to {
            To::Queue => ("".into(), short(&topic)),
            To::Events => (EVENTS.into(), short(&topic)),
            To::Delays => delayed(&topic, delay_s),
            // Its exchange has the name of the topic, too.
            To::Helixagent => (short(&topic), short(&topic)),
        };
        // An event that no group wants is nobody's loss; a task that no queue takes is.
        let mandatory = kind == TopicKind::Task;
        self.send(to, Letter { channel, exchange, key, outgoing, mandatory, serial: None }, done, topic);
    }

    /// Something that jobs wait for is there, or cannot be had.
    fn on_answered(&mut self, answered: Answered) {
        let Served { jobs, refused, result } = self.readiness.on_answered(answered);
        match result {
            Ok(opened) => {
                if let Some((to, channel)) = opened {
                    let doubtful = self.lines[to as usize].replace(channel);
                    self.end_doubtful(doubtful, &away());
                }
            }
            Err(failed) => refused.into_iter().for_each(|job| self.refuse(job.done, failed.clone())),
        }
        jobs.into_iter().for_each(|job| self.begin(job));
    }

    /// Ends a job that was not handed to the client library.
    fn refuse(&mut self, done: Done, why: Error) {
        let outcome = match why.kind() {
            Kind::BackendDown | Kind::Closed | Kind::RabbitMq => Outcome::NotSent(why),
            _ => Outcome::Refused(why),
        };
        self.end(done, outcome);
    }

    fn on_answers(&mut self, answers: &mut Vec<Answer>) {
        let prefix = self.shared.upgrade().map_or(0, |shared| shared.context.id_prefix);
        let mut rounds: [Vec<Confirm>; To::ALL.len()] = Default::default();
        let (mut failed, mut late) = (Vec::new(), Vec::new());
        for Answer { on, serial, result } in answers.drain(..) {
            let own = &mut self.lines[on.to as usize];
            if own.number != on.number {
                late.push((serial, result.err()));
                continue;
            }
            own.flying -= 1;
            let (ack, returned) = match result {
                Ok(Confirmation::Ack(returned)) => (true, returned),
                Ok(Confirmation::Nack(returned)) => (false, returned),
                Ok(Confirmation::NotRequested) => (true, None),
                Err(error) => {
                    failed.push((on.to, serial, error));
                    continue;
                }
            };
            let carries =
                returned.map(|returned| wire::serial_of(&returned.delivery.properties, prefix).unwrap_or(Serial::MAX));
            rounds[on.to as usize].push(Confirm { serial, ack, carries });
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
        for (to, serial, error) in failed {
            self.on_failure(to, serial, &error, alone);
        }
        for (serial, failed) in late {
            self.on_late_answer(serial, failed.as_ref());
        }
    }

    fn on_ending(&mut self, serial: Serial, ending: Ending) {
        let Some(Open { done, topic, .. }) = self.open.remove(&serial) else { return };
        let outcome = match ending {
            Ending::Confirmed => Outcome::Confirmed(Level::Broker),
            Ending::Refused => {
                Outcome::Refused(error(Kind::Refused, format!("the server refused a message for `{topic}` (nack)")))
            }
            Ending::Returned => Outcome::Refused(self.readiness.mark_gone(topic)),
        };
        self.end(done, outcome);
    }

    /// A publish whose channel failed before it was confirmed; `alone`: no other one did now.
    fn on_failure(&mut self, to: To, serial: Serial, failed: &lapin::Error, alone: bool) {
        let cause = of("the channel ended", failed);
        let own = &mut self.lines[to as usize];
        // Nothing else was on it, so it is this one that the server refused.
        let is_the_cause = alone && own.flying == 0 && !own.failed && !own.confirms.wants_barrier();
        if !std::mem::replace(&mut own.failed, true) {
            self.readiness.doubt(to);
        }
        let doubtful = own.confirms.give_up();
        own.channel = None;
        self.end_doubtful(doubtful, &cause);
        if is_the_cause && matches!(cause.kind(), Kind::NotFound | Kind::Refused) {
            if let Some(Open { done, topic, .. }) = self.open.remove(&serial) {
                let text = format!("the server refused a message for `{topic}`");
                self.end(done, Outcome::Refused(of(&text, failed)));
            }
        }
        self.on_late_answer(serial, Some(failed));
    }

    /// What is left to say of a publish whose channel is gone.
    fn on_late_answer(&mut self, serial: Serial, failed: Option<&lapin::Error>) {
        let Some(Open { done, .. }) = self.open.remove(&serial) else { return };
        let outcome = match failed {
            // The same error of another call: the channel ended after the message was sent.
            Some(failed) if matches!(failed.kind(), ErrorKind::InvalidChannelState(_, "basic.publish")) => {
                Outcome::NotSent(away())
            }
            Some(failed) => Outcome::Unknown(unknown(&of("the channel ended", failed))),
            // Whether it was returned cannot be said any more.
            None => Outcome::Unknown(unknown(&away())),
        };
        self.end(done, outcome);
    }

    fn end_doubtful(&mut self, serials: Vec<Serial>, cause: &Error) {
        for serial in serials {
            if let Some(open) = self.open.remove(&serial) {
                self.end(open.done, Outcome::Unknown(unknown(cause)));
            }
        }
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
        let mut came_late = false;
        while let Some(serial) = self.sent.front() {
            match self.open.get(serial) {
                Some(open) if open.since.plus(self.confirm_timeout) > now => break,
                // Posted again it would be there twice: it ends with its confirm or its channel.
                Some(Open { done: Done::Moved(..), .. }) => came_late = true,
                Some(_) => {
                    came_late = true;
                    if let Some(open) = self.open.remove(serial) {
                        let text = format!("the server has not confirmed within {:?}", self.confirm_timeout);
                        self.end(open.done, Outcome::Unknown(error(Kind::OutcomeUnknown, text)));
                    }
                }
                None => {}
            }
            self.sent.pop_front();
        }
        if came_late {
            self.barriers(true);
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
            Done::Barrier(to) => self.lines[to as usize].barrier_open = false,
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
