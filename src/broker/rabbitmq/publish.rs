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

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Wake as TaskWake, Waker};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::StreamExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use tokio::sync::mpsc::UnboundedReceiver;

use super::confirms::{Confirm, Confirms, Ending, Serial};
use super::consume::Subscriber;
use super::error::{away, error, of, unknown};
use super::topology::{delayed, level_of, Topology, EVENTS};
use super::wire::{self, Outgoing};
use super::Shared;
use crate::broker::{Batch, Destination, Level, Outcome, Taken, Ticket, Wake};
use crate::clock::{Clock, Moment};
use crate::config::QueueType;
use crate::error::{Error, Kind};
use crate::message::{MessageId, TopicKind};

/// Rounds of jobs taken before confirms are looked at again.
const JOBS_AT_ONCE: usize = 64;
/// A queue that was deleted is not made again for so long.
const GONE_FOR: Duration = Duration::from_secs(1);

/// One message on its way to the server.
#[derive(Debug)]
pub(super) struct Job {
    pub topic: Arc<str>,
    pub kind: TopicKind,
    pub outgoing: Outgoing,
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
        let priority = self.kind == TopicKind::Task && shared.has_priorities();
        for (index, record) in batch.records.iter().enumerate() {
            if let Err(refused) = wire::check_names(record.headers) {
                return Taken { count: index, first_seq, level: None, stopped: Some(refused) };
            }
            let made = MessageId::made(shared.context.id_prefix, first_seq + index as u64);
            let job = Job {
                topic: Arc::clone(&self.topic),
                kind: self.kind,
                outgoing: wire::outgoing(record, made, batch.now_us, priority),
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

/// How the server answered a publish.
type Answer = (Serial, lapin::Result<Confirmation>);

async fn send(
    channel: Channel,
    exchange: String,
    key: String,
    mandatory: bool,
    serial: Serial,
    out: Outgoing,
) -> Answer {
    let Outgoing { body, mut properties, .. } = out;
    if mandatory {
        wire::set_serial(&mut properties, serial);
    }
    let options = BasicPublishOptions { mandatory, immediate: false };
    let handed = channel.basic_publish(wire::short(&exchange), wire::short(&key), options, &body, properties).await;
    let answer = match handed {
        Ok(confirm) => confirm.await,
        Err(failed) => Err(failed),
    };
    (serial, answer)
}

/// A job whose publish is on its way.
struct Open {
    done: Done,
    since: Moment,
    topic: Arc<str>,
}

/// What a topic needs before the first message goes to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Ready {
    Queue(Arc<str>),
    Events,
    Delays(u32, Arc<str>),
}

/// The publishing end of one connection.
pub(super) struct Publisher {
    shared: Weak<Shared>,
    clock: Clock,
    connection: Arc<Connection>,
    queue_type: QueueType,
    confirm_timeout: Duration,
    channel: Option<Channel>,
    ready: HashSet<Ready>,
    /// Deleted by others a moment ago, and when they may be made again.
    gone: HashMap<Arc<str>, Moment>,
    deleted_seen: u64,
    confirms: Confirms,
    open: HashMap<Serial, Open>,
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
    Late,
    Ended,
}

impl Publisher {
    pub fn new(
        shared: &Arc<Shared>,
        connection: Arc<Connection>,
        queue_type: QueueType,
        confirm_timeout: Duration,
    ) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            clock: shared.context.clock.clone(),
            connection,
            queue_type,
            confirm_timeout,
            channel: None,
            ready: HashSet::new(),
            gone: HashMap::new(),
            deleted_seen: 0,
            confirms: Confirms::default(),
            open: HashMap::new(),
            sent: VecDeque::new(),
            serials: 0,
            barrier_open: false,
            told: Vec::new(),
        }
    }

    /// Runs until all senders of jobs are gone and every publish has ended.
    pub async fn run(mut self, mut jobs: UnboundedReceiver<Job>) {
        let mut flying = FuturesUnordered::new();
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        let mut ended = false;
        loop {
            let late = tokio::time::sleep(self.next_late());
            tokio::pin!(late);
            let step = poll_fn(|context| {
                drain(&mut flying, &flag, &mut answers);
                if answers.is_empty() {
                    if let Poll::Ready(Some(answer)) = flying.poll_next_unpin(context) {
                        answers.push(answer);
                        drain(&mut flying, &flag, &mut answers);
                    }
                }
                if !answers.is_empty() {
                    return Poll::Ready(Step::Answers);
                }
                if !ended {
                    match jobs.poll_recv_many(context, &mut batch, JOBS_AT_ONCE) {
                        Poll::Ready(0) => ended = true,
                        Poll::Ready(_) => return Poll::Ready(Step::Jobs),
                        Poll::Pending => {}
                    }
                }
                // What has been told as unknown need not be waited for.
                if ended && (flying.is_empty() || self.open.is_empty()) {
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
                Step::Jobs => {
                    for job in batch.drain(..) {
                        if let Some((channel, exchange, key, mandatory, serial, out)) = self.begin(job).await {
                            flying.push(send(channel, exchange, key, mandatory, serial, out));
                        }
                    }
                }
                Step::Ended => break,
            }
            if self.confirms.wants_barrier() && !self.barrier_open && flying.is_empty() {
                if let Some(channel) = self.channel.clone() {
                    self.barrier_open = true;
                    let serial = self.enter(Done::Barrier, Arc::from(""));
                    let out = Outgoing { body: Vec::new(), properties: BasicProperties::default(), ttl_ms: 0 };
                    flying.push(send(channel, String::new(), "hmq.barrier".into(), false, serial, out));
                }
            }
            self.tell();
        }
        self.give_up(&away());
        self.tell();
    }

    fn enter(&mut self, done: Done, topic: Arc<str>) -> Serial {
        self.serials += 1;
        self.open.insert(self.serials, Open { done, since: self.clock.now(), topic });
        self.sent.push_back(self.serials);
        self.serials
    }

    /// Makes the server ready for a job; answers how it is sent. `None`: it has ended.
    async fn begin(&mut self, job: Job) -> Option<(Channel, String, String, bool, Serial, Outgoing)> {
        let Job { topic, kind, mut outgoing, delay_s, done } = job;
        if let Err(refused) = wire::check(&outgoing, self.connection.configuration().frame_max()) {
            self.end(done, Outcome::Refused(refused));
            return None;
        }
        wire::set_ttl(&mut outgoing, (delay_s > 0).then(|| self.clock.wall_us()));
        let late = || Err(error(Kind::BackendDown, format!("the server did not make `{topic}` ready in time")));
        let prepared = tokio::time::timeout(self.confirm_timeout, self.prepare(&topic, kind, delay_s)).await;
        match prepared.unwrap_or_else(|_| late()) {
            Ok(channel) => {
                let (exchange, key) = match (kind, delay_s) {
                    (TopicKind::Event, _) => (EVENTS.to_owned(), topic.to_string()),
                    (TopicKind::Task, 0) => (String::new(), topic.to_string()),
                    (TopicKind::Task, seconds) => delayed(&topic, seconds),
                };
                // An event that no group wants is nobody's loss; a task that no queue takes is.
                let mandatory = kind == TopicKind::Task;
                let serial = self.enter(done, topic);
                Some((channel, exchange, key, mandatory, serial, outgoing))
            }
            Err(failed) => {
                let outcome = match failed.kind() {
                    Kind::BackendDown | Kind::Closed | Kind::RabbitMq => Outcome::NotSent(failed),
                    _ => Outcome::Refused(failed),
                };
                self.end(done, outcome);
                None
            }
        }
    }

    async fn prepare(&mut self, topic: &Arc<str>, kind: TopicKind, delay_s: u64) -> Result<Channel, Error> {
        let deleted = self.shared.upgrade().map_or(0, |shared| shared.deleted.load(Ordering::Acquire));
        if std::mem::replace(&mut self.deleted_seen, deleted) != deleted {
            self.ready.clear();
        }
        let now = self.clock.now();
        self.gone.retain(|_, until| *until > now);
        if self.gone.contains_key(topic) {
            return Err(unroutable(topic));
        }
        let topology = Topology { connection: &self.connection, queue_type: self.queue_type };
        let needs = match kind {
            TopicKind::Task => Ready::Queue(Arc::clone(topic)),
            TopicKind::Event => Ready::Events,
        };
        if !self.ready.contains(&needs) {
            match kind {
                TopicKind::Task => topology.usable_task_queue(topic).await?,
                TopicKind::Event => topology.events().await?,
            }
            self.ready.insert(needs);
            if let (TopicKind::Task, Some(shared)) = (kind, self.shared.upgrade()) {
                shared.know(topic);
            }
        }
        if delay_s > 0 && kind == TopicKind::Task {
            let needs = Ready::Delays(level_of(delay_s), Arc::clone(topic));
            if !self.ready.contains(&needs) {
                topology.delays(level_of(delay_s), topic).await?;
                self.ready.insert(needs);
            }
        }
        match &self.channel {
            Some(channel) if channel.status().connected() => Ok(channel.clone()),
            _ => {
                let channel = self.connection.create_channel().await.map_err(|refused| of("a channel", &refused))?;
                let select = channel.confirm_select(ConfirmSelectOptions::default()).await;
                select.map_err(|refused| of("confirms", &refused))?;
                self.channel = Some(channel.clone());
                Ok(channel)
            }
        }
    }

    fn on_answers(&mut self, answers: &mut Vec<Answer>) {
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
                returned.map(|returned| wire::serial_of(&returned.delivery.properties).unwrap_or(Serial::MAX));
            confirms.push(Confirm { serial, ack, carries });
        }
        let mut endings = Vec::new();
        self.confirms.round(&confirms, &mut endings);
        for (serial, ending) in endings {
            self.on_ending(serial, ending);
        }
        if let Some(error) = failed {
            // A channel that failed once is of no use; queues may be gone, too.
            self.channel = None;
            self.ready.clear();
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
            Ending::Returned => {
                // Deleted since it was declared. Made again at once, its consumers would not be told
                // that it was gone, and would wait for ever (3.10).
                self.ready.clear();
                let unroutable = unroutable(&topic);
                self.gone.insert(topic, self.clock.now().plus(GONE_FOR));
                Outcome::Refused(unroutable)
            }
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
            ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_) => Outcome::NotSent(away()),
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

fn unroutable(topic: &str) -> Error {
    error(Kind::Unroutable, format!("no queue takes messages for `{topic}`: it was deleted"))
}

/// Whether somebody was woken during a poll.
struct Flag(AtomicBool);

impl TaskWake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Takes every answer that is there. One that was resolved before another that is taken is taken,
/// too: the set yields early at times, waking itself, and is then asked again.
fn drain<F: std::future::Future<Output = Answer>>(
    flying: &mut FuturesUnordered<F>,
    flag: &Arc<Flag>,
    answers: &mut Vec<Answer>,
) {
    let waker = Waker::from(Arc::clone(flag));
    let mut context = TaskContext::from_waker(&waker);
    loop {
        flag.0.store(false, Ordering::SeqCst);
        match flying.poll_next_unpin(&mut context) {
            Poll::Ready(Some(answer)) => answers.push(answer),
            Poll::Ready(None) => return,
            Poll::Pending if flag.0.load(Ordering::SeqCst) => {}
            Poll::Pending => return,
        }
    }
}
