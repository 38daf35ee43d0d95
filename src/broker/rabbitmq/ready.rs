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
use lapin::Connection;

use super::error::error;
use super::publish::Job;
use super::topology::level_of;
use super::Shared;
use crate::clock::{Clock, Moment};
use crate::config::Wire;
use crate::error::{Error, Kind, Result};
use crate::message::TopicKind;

/// A queue that was deleted is not made again for so long.
const GONE_FOR: Duration = Duration::from_secs(1);

/// Something that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Need {
    Queue(Arc<str>),
    Events,
    /// Exchange and queue of a topic in the form `helixagent`.
    Shared(Arc<str>),
    /// Its exchange alone.
    SharedEvents(Arc<str>),
    Delays(u32, Arc<str>),
}

/// An answer of the server to a need.
pub(super) struct Prepared {
    topic: Arc<str>,
    need: Need,
    generation: u64,
    result: Result<()>,
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
    /// Counts how often all that was ready has come into doubt.
    generation: u64,
    waiting: HashMap<Arc<str>, VecDeque<Job>>,
    preparing: FuturesUnordered<Pin<Box<dyn Future<Output = Prepared> + Send>>>,
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
            generation: 0,
            waiting: HashMap::new(),
            preparing: FuturesUnordered::new(),
            gone: HashMap::new(),
            deleted_seen: 0,
        }
    }

    /// Lets a job pass, or keeps it until what it needs is there.
    pub fn admit(&mut self, job: Job) -> Admitted {
        if let Some(waiting) = self.waiting.get_mut(&job.topic) {
            waiting.push_back(job);
            return Admitted::Waits;
        }
        let Some(shared) = self.shared.upgrade() else { return Admitted::Refused(job, super::error::away()) };
        let deleted = shared.deleted.load(Ordering::Acquire);
        if std::mem::replace(&mut self.deleted_seen, deleted) != deleted {
            self.doubt();
        }
        if !self.gone.is_empty() {
            let now = self.clock.now();
            self.gone.retain(|_, until| *until > now);
            if self.gone.contains_key(&job.topic) {
                let refused = unroutable(&job.topic);
                return Admitted::Refused(job, refused);
            }
        }
        let base = match (job.kind, job.wire) {
            (TopicKind::Task, Wire::Helixagent) => Need::Shared(Arc::clone(&job.topic)),
            (TopicKind::Event, Wire::Helixagent) => Need::SharedEvents(Arc::clone(&job.topic)),
            (TopicKind::Task, _) => Need::Queue(Arc::clone(&job.topic)),
            (TopicKind::Event, _) => Need::Events,
        };
        let delays = (job.delay_s > 0 && job.kind == TopicKind::Task)
            .then(|| Need::Delays(level_of(job.delay_s), Arc::clone(&job.topic)));
        let Some(need) = [Some(base), delays].into_iter().flatten().find(|need| !self.ready.contains(need)) else {
            return Admitted::Ready(job);
        };
        let topic = Arc::clone(&job.topic);
        self.waiting.insert(Arc::clone(&topic), VecDeque::from([job]));
        self.prepare(shared, topic, need);
        Admitted::Waits
    }

    fn prepare(&self, shared: Arc<Shared>, topic: Arc<str>, need: Need) {
        let (connection, timeout, generation) = (Arc::clone(&self.connection), self.timeout, self.generation);
        self.preparing.push(Box::pin(async move {
            let topology = shared.topology(&connection);
            let make = async {
                match &need {
                    Need::Queue(queue) => topology.usable_task_queue(queue).await,
                    Need::Events => topology.events().await,
                    Need::Shared(name) => topology.shared_queue(name).await,
                    Need::SharedEvents(name) => topology.shared_exchange(name).await,
                    Need::Delays(level, queue) => topology.delays(*level, queue).await,
                }
            };
            let late = |_| Err(error(Kind::BackendDown, format!("the server did not make `{topic}` ready in time")));
            let result = tokio::time::timeout(timeout, make).await.unwrap_or_else(late);
            Prepared { topic, need, generation, result }
        }));
    }

    /// The next answer of the server.
    pub fn poll_prepared(&mut self, context: &mut TaskContext<'_>) -> Poll<Prepared> {
        match self.preparing.poll_next_unpin(context) {
            Poll::Ready(Some(prepared)) => Poll::Ready(prepared),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The jobs that waited for it, in order, to be admitted again; or why they cannot go.
    pub fn on_prepared(&mut self, prepared: Prepared) -> (VecDeque<Job>, Result<()>) {
        let Prepared { topic, need, generation, result } = prepared;
        if result.is_ok() && generation == self.generation {
            if let (Need::Queue(queue) | Need::Shared(queue), Some(shared)) = (&need, self.shared.upgrade()) {
                shared.know(queue);
            }
            self.ready.insert(need);
        }
        (self.waiting.remove(&topic).unwrap_or_default(), result)
    }

    /// A queue was deleted by somebody else. Made again at once, its consumers would not be told that
    /// it was gone, and would wait for ever (3.10).
    pub fn is_gone(&mut self, topic: Arc<str>) -> Error {
        self.doubt();
        let unroutable = unroutable(&topic);
        self.gone.insert(topic, self.clock.now().plus(GONE_FOR));
        unroutable
    }

    /// What was there may be gone.
    pub fn doubt(&mut self) {
        self.ready.clear();
        self.generation += 1;
    }

    pub fn nobody_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All who wait, as the connection is gone.
    pub fn give_up(&mut self) -> impl Iterator<Item = Job> {
        std::mem::take(&mut self.waiting).into_values().flatten()
    }
}

fn unroutable(topic: &str) -> Error {
    error(Kind::Unroutable, format!("no queue takes messages for `{topic}`: it was deleted"))
}
