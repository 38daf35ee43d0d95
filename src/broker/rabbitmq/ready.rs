//! What the server must have before the first message of a topic goes to it, and the jobs that wait
//! for that: those of one topic in order, and never those of another.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};

use super::error::{error, of};
use super::publish::{Job, To};
use super::topology::{level_of, EVENTS};
use super::Shared;
use crate::clock::{Clock, Moment};
use crate::config::Wire;
use crate::error::{Error, Kind, Result};
use crate::message::TopicKind;

/// A queue that was deleted is not made again for so long.
const GONE_FOR: Duration = Duration::from_secs(1);

/// Things asked of the server at once: each takes a channel.
const ASKED_MAX: usize = 32;

/// What could not be had is asked for again after this, and later the more often it could not.
const DENIED_FOR: Duration = Duration::from_secs(1);
const DENIED_FOR_MAX: Duration = Duration::from_secs(15);
/// So many are remembered.
const DENIED_MAX: usize = 10_000;

/// Something that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Need {
    Queue(Arc<str>),
    Events,
    /// Exchange and queue of a topic in the form `helixagent`.
    Helixagent(Arc<str>),
    /// Its exchange alone.
    HelixagentEvents(Arc<str>),
    Delays(u32, Arc<str>),
    /// A channel to publish on.
    Channel(To),
}

impl Need {
    /// Everything that a job needs, but the channel.
    fn of(job: &Job) -> impl Iterator<Item = Self> {
        let base = match (job.kind, job.wire) {
            (TopicKind::Task, Wire::Helixagent) => Need::Helixagent(Arc::clone(&job.topic)),
            (TopicKind::Event, Wire::Helixagent) => Need::HelixagentEvents(Arc::clone(&job.topic)),
            (TopicKind::Task, _) => Need::Queue(Arc::clone(&job.topic)),
            (TopicKind::Event, _) => Need::Events,
        };
        let delays = (To::of(job) == To::Delays).then(|| Need::Delays(level_of(job.delay_s), Arc::clone(&job.topic)));
        std::iter::once(base).chain(delays)
    }

    /// Whether it is in doubt when a channel that publishes to `to` was closed by the server.
    fn is_for(&self, to: To) -> bool {
        match self {
            Need::Queue(_) => to == To::Queue,
            Need::Events => to == To::Events,
            Need::Helixagent(_) | Need::HelixagentEvents(_) => to == To::Helixagent,
            Need::Delays(..) => to == To::Delays,
            Need::Channel(_) => false,
        }
    }

    /// Whether it is gone with the queue of `topic`.
    fn is_of(&self, topic: &str) -> bool {
        match self {
            Need::Queue(own) | Need::Helixagent(own) | Need::Delays(_, own) => **own == *topic,
            Need::Events | Need::HelixagentEvents(_) | Need::Channel(_) => false,
        }
    }
}

/// What the server answered to a need of a topic.
pub(super) struct Answered {
    topic: Arc<str>,
    need: Need,
    result: Result<Option<Channel>>,
}

/// What became of the jobs that waited for it.
pub(super) struct Served {
    /// To be admitted again, in order.
    pub jobs: VecDeque<Job>,
    /// Cannot go.
    pub refused: VecDeque<Job>,
    /// Why not; or the channel that was opened.
    pub result: Result<Option<(To, Channel)>>,
}

/// Where a job goes next.
pub(super) enum Admitted {
    /// Everything is there.
    Ready(Job),
    /// It waits here.
    Waits,
    Refused(Job, Error),
}

/// What is ready on one connection.
pub(super) struct Readiness {
    shared: Weak<Shared>,
    clock: Clock,
    connection: Arc<Connection>,
    timeout: Duration,
    ready: HashSet<Need>,
    waiting: HashMap<Arc<str>, VecDeque<Job>>,
    /// The server is asked for so many things at once ...
    asked: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
    /// ... and these are asked for next.
    next: VecDeque<(Arc<str>, Need)>,
    /// Channels that are being opened, and the topics that wait for them.
    opening: HashMap<To, Vec<Arc<str>>>,
    /// What could not be had, why, and until when that is not asked again; and the pause of then.
    denied: HashMap<Need, (Error, Moment, Duration)>,
    /// Deleted by others a moment ago, and when they may be made again.
    gone: HashMap<Arc<str>, Moment>,
    deleted_seen: u64,
}

impl Readiness {
    pub fn new(shared: &Arc<Shared>, connection: Arc<Connection>, timeout: Duration) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            clock: shared.context.clock.clone(),
            connection,
            timeout,
            ready: HashSet::new(),
            waiting: HashMap::new(),
            asked: FuturesUnordered::new(),
            next: VecDeque::new(),
            opening: HashMap::new(),
            denied: HashMap::new(),
            gone: HashMap::new(),
            deleted_seen: 0,
        }
    }

    /// Lets a job pass, or keeps it until what it needs is there. `has_channel`: to publish on.
    pub fn admit(&mut self, job: Job, has_channel: bool) -> Admitted {
        if let Some(waiting) = self.waiting.get_mut(&job.topic) {
            waiting.push_back(job);
            return Admitted::Waits;
        }
        let Some(shared) = self.shared.upgrade() else { return Admitted::Refused(job, super::error::away()) };
        let deleted = shared.deleted.load(Ordering::Acquire);
        if std::mem::replace(&mut self.deleted_seen, deleted) != deleted {
            self.ready.clear();
        }
        if !self.gone.is_empty() {
            let now = self.clock.now();
            self.gone.retain(|_, until| *until > now);
            if self.gone.contains_key(&job.topic) {
                let refused = unroutable(&job.topic);
                return Admitted::Refused(job, refused);
            }
        }
        let channel = (!has_channel).then(|| Need::Channel(To::of(&job)));
        let Some(need) = Need::of(&job).find(|need| !self.ready.contains(need)).or(channel) else {
            return Admitted::Ready(job);
        };
        if let Some((why, until, _)) = self.denied.get(&need) {
            if *until > self.clock.now() {
                let why = why.clone();
                return Admitted::Refused(job, why);
            }
        }
        let topic = Arc::clone(&job.topic);
        self.waiting.insert(Arc::clone(&topic), VecDeque::from([job]));
        match need {
            Need::Channel(to) => {
                let waiting = self.opening.entry(to).or_default();
                waiting.push(Arc::clone(&topic));
                if waiting.len() == 1 {
                    self.ask(shared, topic, need);
                }
            }
            need => self.next.push_back((topic, need)),
        }
        Admitted::Waits
    }

    fn ask(&self, shared: Arc<Shared>, topic: Arc<str>, need: Need) {
        let (connection, timeout) = (Arc::clone(&self.connection), self.timeout);
        self.asked.push(Box::pin(async move {
            let topology = shared.topology(&connection);
            let make = async {
                let made = match &need {
                    Need::Channel(_) => return confirming(&shared, &connection).await.map(Some),
                    Need::Queue(queue) => topology.usable_task_queue(queue).await,
                    Need::Events => topology.exchange(EVENTS).await,
                    Need::Helixagent(name) => topology.shared_queue(name).await,
                    Need::HelixagentEvents(name) => topology.exchange(name).await,
                    Need::Delays(level, queue) => topology.delays(*level, queue).await,
                };
                made.map(|()| None)
            };
            let late = |_| Err(error(Kind::BackendDown, format!("the server did not make `{topic}` ready in time")));
            let result = tokio::time::timeout(timeout, make).await.unwrap_or_else(late);
            if let (Need::Queue(queue) | Need::Helixagent(queue), Ok(_)) = (&need, &result) {
                shared.know(queue);
            }
            Answered { topic, need, result }
        }));
    }

    /// The next answer of the server.
    pub fn poll_answered(&mut self, context: &mut TaskContext<'_>) -> Poll<Answered> {
        while self.asked.len() < ASKED_MAX {
            let Some((topic, need)) = self.next.pop_front() else { break };
            match self.shared.upgrade() {
                Some(shared) => self.ask(shared, topic, need),
                None => return Poll::Ready(Answered { topic, need, result: Err(super::error::away()) }),
            }
        }
        match self.asked.poll_next_unpin(context) {
            Poll::Ready(Some(answered)) => Poll::Ready(answered),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// What is there now is not looked for again until something fails: a job that is published to what
    /// is gone meanwhile is told so by the server.
    pub fn on_answered(&mut self, answered: Answered) -> Served {
        let Answered { topic, need, result } = answered;
        let topics = match need {
            Need::Channel(to) => self.opening.remove(&to).unwrap_or_default(),
            _ => vec![topic],
        };
        let waited: VecDeque<Job> = topics.iter().filter_map(|topic| self.waiting.remove(topic)).flatten().collect();
        self.deny(&need, result.as_ref().err());
        // Those of the topic that can do without it go on.
        let wants = |job: &Job| match &need {
            Need::Channel(to) => To::of(job) == *to,
            need => Need::of(job).any(|own| own == *need),
        };
        let (jobs, refused) = match result.is_err() {
            true => waited.into_iter().partition(|job| !wants(job)),
            false => (waited, VecDeque::new()),
        };
        let result = result.map(|channel| match (need, channel) {
            (Need::Channel(to), Some(channel)) => Some((to, channel)),
            (need, _) => {
                self.ready.insert(need);
                None
            }
        });
        Served { jobs, refused, result }
    }

    /// What was refused is not asked for again at once: each refusal costs a channel of the connection.
    fn deny(&mut self, need: &Need, why: Option<&Error>) {
        let Some(why) = why else {
            self.denied.remove(need);
            return;
        };
        // One that was long ago says nothing of this one.
        let now = self.clock.now();
        self.denied.retain(|_, (_, until, _)| until.plus(DENIED_FOR_MAX) > now);
        let before = self.denied.get(need).map_or(Duration::ZERO, |(_, _, pause)| *pause);
        let pause = (before * 2).clamp(DENIED_FOR, DENIED_FOR_MAX);
        if self.denied.len() < DENIED_MAX {
            self.denied.insert(need.clone(), (why.clone(), now.plus(pause), pause));
        }
    }

    /// A queue was deleted by somebody else. Made again at once, its consumers would not be told that
    /// it was gone, and would wait for ever (3.10).
    pub fn mark_gone(&mut self, topic: Arc<str>) -> Error {
        self.ready.retain(|need| !need.is_of(&topic));
        if let Some(shared) = self.shared.upgrade() {
            shared.forget(&topic);
        }
        let unroutable = unroutable(&topic);
        self.gone.insert(topic, self.clock.now().plus(GONE_FOR));
        unroutable
    }

    /// The server closed a channel that publishes to `to`: what that needs may be gone.
    pub fn doubt(&mut self, to: To) {
        self.ready.retain(|need| !need.is_for(to));
    }

    pub fn nobody_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All who wait, as the connection is gone.
    pub fn give_up(&mut self) -> impl Iterator<Item = Job> {
        self.next.clear();
        self.opening.clear();
        self.asked = FuturesUnordered::new();
        std::mem::take(&mut self.waiting).into_values().flatten()
    }
}

async fn confirming(shared: &Shared, connection: &Connection) -> Result<Channel> {
    let channel = shared.channel(connection).await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default()).await;
    select.map(|()| channel).map_err(|refused| of("confirms", &refused))
}

fn unroutable(topic: &str) -> Error {
    error(Kind::Unroutable, format!("no queue takes messages for `{topic}`: it was deleted"))
}
