//! RabbitMQ: tasks on queues, and events where a route asks for them, through lapin.
//!
//! - Two connections, one to publish and one to consume on. An attempt to connect is one attempt;
//!   the hub tries again, and restores.
//! - Publishing hands jobs to one task per connection; every job ends once, when the server has
//!   confirmed it, returned it, or can no longer tell.
//! - A subscription is a channel, a consumer and a task. Deliveries wait here, at most as many as
//!   its prefetch.
//! - Nothing is deleted, and what exists with other settings is used as it is.
//!
//! What it has not: wildcard subscriptions to tasks (the protocol cannot list queues), leases,
//! replay, order by key, priorities on quorum queues.
//!
//! ```text
//! Destination ── Job ──> Publisher task ──> publishing connection ──> confirms ──> hub
//! Source <── waiting ── Subscriber task <── consuming connection
//!        ── verdicts ─> (acks, delays) ──>
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::Connection;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use self::connect::{watch, Word};
use self::consume::Subscriber;
use self::error::{away, error as failure, BACKEND};
use self::publish::{Job, Publisher, RabbitDestination};
use self::source::RabbitSource;
use self::topology::{Topology, DELAY_S_MAX};
use self::wire::Target;
use super::tls;
use super::wire::Forms;
use super::{
    Admin, BackendEvent, BackendKind, Broker, Capabilities, CloseReport, Context, Declared, Description, Destination,
    Epoch, Sink, Source, Stop, SubscribeSpec, Support, TopicSpec,
};
use crate::clock::Moment;
use crate::config::{QueueType, RabbitmqConfig, RouteConfig, Wire};
use crate::error::{Fate, Kind, Result};
use crate::limits::NAME_BYTES_MAX;
use crate::message::{Pool, TopicKind};
use crate::pattern::Pattern;
use crate::runtime::{ready, Pending};
use crate::sync::{Deadline, Mutex};

mod acks;
mod confirms;
mod connect;
mod consume;
mod error;
mod publish;
mod ready;
mod source;
mod topology;
mod way;
mod wire;

/// What a backend is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its section of the configuration.
    pub rabbitmq: RabbitmqConfig,
    /// Names its connections at the server.
    pub name: String,
    /// How long a confirm may take.
    pub confirm_timeout: Duration,
    /// Largest payload, both ways.
    pub message_bytes_max: usize,
    /// Publishes without an outcome, at most.
    pub publish_window: usize,
    /// What forms the messages of which topics have.
    pub routes: Vec<RouteConfig>,
}

/// The backend.
pub struct RabbitMq {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    forms: Forms,
    tls: Option<openssl::ssl::SslConnector>,
    context: Context,
    pool: Arc<Pool>,
    own: Weak<Shared>,
    received: AtomicU64,
    /// The present connection.
    link: Mutex<Option<Link>>,
    destinations: Mutex<HashMap<(String, TopicKind), Arc<RabbitDestination>>>,
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
    /// Queues that were declared or used here: the protocol cannot list them.
    known: Mutex<BTreeSet<String>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// The user has the rights that delays need, as far as is known.
    may_delay: AtomicBool,
    /// Counts deleted queues: those who declare each once start again.
    deleted: AtomicU64,
    closed: AtomicBool,
}

/// Longest wait for the server's answer to the close of a connection.
const CLOSE_MAX: Duration = Duration::from_secs(2);

struct Link {
    epoch: Epoch,
    /// Those who listen to the connections.
    watching: Vec<JoinHandle<()>>,
    jobs: UnboundedSender<Job>,
    publisher: JoinHandle<()>,
    publishing: Arc<Connection>,
    consuming: Arc<Connection>,
}

impl RabbitMq {
    /// A backend that is not connected.
    ///
    /// # Errors
    /// `Tls` for certificates and keys that cannot be used, `Name` for a route that is no pattern.
    pub fn open(settings: Settings, context: Context) -> Result<Arc<Self>> {
        let tls = settings.rabbitmq.tls.as_ref().map(|own| tls::connector(BACKEND, own)).transpose()?;
        let forms = Forms::new(&settings.routes)?;
        let shared = Arc::new_cyclic(|own| Shared {
            settings,
            forms,
            tls,
            context,
            // Deliveries are of all sizes, so their segments are made to measure and not kept.
            pool: Pool::new(0, 0),
            own: own.clone(),
            received: AtomicU64::new(0),
            link: Mutex::default(),
            destinations: Mutex::default(),
            subscribers: Mutex::default(),
            known: Mutex::default(),
            tasks: Mutex::default(),
            may_delay: AtomicBool::new(true),
            deleted: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        Ok(Arc::new(Self { shared }))
    }
}

impl Shared {
    fn linked<T>(&self, take: impl FnOnce(&Link) -> T) -> Result<T> {
        let link = self.link.lock();
        match &*link {
            _ if self.closed.load(Ordering::Acquire) => {
                Err(failure(Kind::Closed, "the backend is closed").with_fate(Fate::NotSent))
            }
            Some(link) => Ok(take(link)),
            None => Err(away()),
        }
    }

    fn jobs(&self) -> Result<UnboundedSender<Job>> {
        self.linked(|link| link.jobs.clone())
    }

    fn consuming(&self) -> Result<Arc<Connection>> {
        self.linked(|link| Arc::clone(&link.consuming))
    }

    fn publishing(&self) -> Result<Arc<Connection>> {
        self.linked(|link| Arc::clone(&link.publishing))
    }

    fn has_priorities(&self) -> bool {
        self.settings.rabbitmq.queue_type == QueueType::Classic
    }

    fn topology<'a>(&'a self, connection: &'a Connection) -> Topology<'a> {
        Topology::new(connection, self)
    }

    /// A new channel. When the numbers of a connection are used up, but not by subscriptions, it is given
    /// up: the hub makes another one.
    async fn channel(&self, connection: &Connection) -> Result<lapin::Channel> {
        if let Some(channel) = connect::channel(connection).await? {
            return Ok(channel);
        }
        let used_up = failure(Kind::BackendDown, "the connection has used up its channels");
        // So many subscriptions would use up the next connection, too.
        let many = self.live_subscribers().len() >= usize::from(connection.configuration().channel_max() / 2);
        let epoch = self.link.lock().as_ref().and_then(|link| {
            let publishes = std::ptr::eq(&*link.publishing, connection);
            let consumes = std::ptr::eq(&*link.consuming, connection) && !many;
            (publishes || consumes).then_some(link.epoch)
        });
        if let Some(epoch) = epoch {
            self.hear(epoch, Word::Lost(used_up.clone()));
        }
        Err(used_up)
    }

    /// What a message of `topic` is published as.
    fn target<'a>(&'a self, topic: &'a str, kind: TopicKind, wire: Wire) -> Target<'a> {
        let priority = kind == TopicKind::Task && self.has_priorities();
        Target { topic, kind, wire, source: &self.settings.name, priority, again: false }
    }

    fn next_seq(&self) -> u64 {
        self.received.fetch_add(1, Ordering::Relaxed)
    }

    fn know(&self, queue: &str) {
        let mut known = self.known.lock();
        if !known.contains(queue) && known.len() < crate::limits::TOPICS_MAX {
            known.insert(queue.to_owned());
        }
    }

    fn forget(&self, queue: &str) {
        self.known.lock().remove(queue);
    }

    fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn timeout(&self, deadline: Moment) -> Duration {
        deadline.since(self.context.clock.now()).min(Duration::from_secs(3600))
    }

    async fn connect(self: Arc<Self>, epoch: Epoch, timeout: Duration) -> Result<()> {
        let opened = connect::open(&self.settings.rabbitmq, self.tls.as_ref(), &self.settings.name, timeout).await;
        let (publishing, consuming) = opened.map_err(|failed| {
            if failed.denied {
                self.context.sink.event(BackendEvent::Denied(failed.error.clone()));
            }
            failed.error
        })?;
        // Rights may have been given since.
        self.may_delay.store(true, Ordering::Relaxed);
        let (publishing, consuming) = (Arc::new(publishing), Arc::new(consuming));
        let (jobs, taken) = tokio::sync::mpsc::unbounded_channel();
        let publisher = Publisher::new(&self, Arc::clone(&publishing));
        let publisher = tokio::spawn(publisher.run(taken));
        let listened = [(Arc::clone(&publishing), true), (Arc::clone(&consuming), false)];
        let link = Link { epoch, watching: Vec::new(), jobs, publisher, publishing, consuming };
        let before = {
            let mut present = self.link.lock();
            if self.closed.load(Ordering::Acquire) {
                Some(link)
            } else {
                present.replace(link)
            }
        };
        // A loss that is told before the link is in its place would be nobody's.
        for (connection, publishes) in listened {
            let own = self.own.clone();
            let watching = tokio::spawn(async move {
                watch(&connection, publishes, |word| {
                    if let Some(shared) = own.upgrade() {
                        shared.hear(epoch, word);
                    }
                })
                .await;
            });
            match &mut *self.link.lock() {
                Some(link) if link.epoch == epoch => link.watching.push(watching),
                _ => watching.abort(),
            }
        }
        if let Some(before) = before {
            before.watching.iter().for_each(JoinHandle::abort);
            self.keep(before.publisher);
            tokio::join!(connect::close(&before.publishing, CLOSE_MAX), connect::close(&before.consuming, CLOSE_MAX));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(failure(Kind::Closed, "the backend was closed while it connected"));
        }
        Ok(())
    }

    /// A connection of `epoch` says something.
    fn hear(&self, epoch: Epoch, word: Word) {
        if self.link.lock().as_ref().is_none_or(|link| link.epoch != epoch) {
            return;
        }
        let event = match word {
            Word::Blocked(reason) => BackendEvent::Blocked(reason),
            Word::Unblocked => BackendEvent::Unblocked,
            // Else the other connection has said so, or the broker was closed.
            Word::Lost(cause) if self.unlink(epoch) => BackendEvent::Lost(cause),
            Word::Lost(_) => return,
        };
        self.context.sink.event(event);
    }

    /// Lets go of both connections of `epoch`, if they are the present ones.
    fn unlink(&self, epoch: Epoch) -> bool {
        let link = self.link.lock().take_if(|link| link.epoch == epoch);
        let Some(Link { watching, publisher, publishing, consuming, .. }) = link else { return false };
        // Whoever asks may be one of them, and has nothing left to wait for.
        watching.iter().for_each(JoinHandle::abort);
        self.keep(publisher);
        // Their channels would tell them later, and a token that is settled meanwhile would look good.
        self.live_subscribers().iter().for_each(|own| own.disconnected());
        for connection in [publishing, consuming] {
            self.keep(tokio::spawn(async move {
                connect::close(&connection, CLOSE_MAX).await;
            }));
        }
        true
    }

    async fn subscribe(self: Arc<Self>, spec: SubscribeSpec, sink: Arc<dyn Sink>) -> Result<Arc<dyn Source>> {
        let connection = self.consuming()?;
        let subscriber = Subscriber::new(&self, &spec, sink);
        let source = RabbitSource(Arc::clone(&subscriber));
        subscriber.start(&connection).await?;
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|weak| weak.strong_count() > 0);
        subscribers.push(Arc::downgrade(&subscriber));
        Ok(Arc::new(source))
    }

    fn live_subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.subscribers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Each on a task of its own: a queue whose server has just started may take its time.
    async fn restore(self: Arc<Self>) -> Result<()> {
        for subscriber in self.live_subscribers().into_iter().filter(|subscriber| subscriber.wants_channel()) {
            self.keep(tokio::spawn(async move { drop(subscriber.revive().await) }));
        }
        Ok(())
    }

    async fn close(self: Arc<Self>, timeout: Duration) -> Result<CloseReport> {
        let until = Deadline::after(Some(timeout));
        for subscriber in self.live_subscribers() {
            subscriber.close();
        }
        let link = {
            let mut link = self.link.lock();
            self.closed.store(true, Ordering::Release);
            link.take()
        };
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let Some(Link { watching, jobs, publisher, publishing, consuming, .. }) = link else {
            return Ok(CloseReport::default());
        };
        watching.iter().for_each(JoinHandle::abort);
        // Subscriptions tell what was settled, then publishes get their confirms, then the sockets go.
        for task in tasks {
            let stop = task.abort_handle();
            let _ = tokio::time::timeout(until.left().unwrap_or_default(), task).await;
            stop.abort();
        }
        drop(jobs);
        let stop = publisher.abort_handle();
        let in_time = tokio::time::timeout(until.left().unwrap_or_default(), publisher).await.is_ok();
        stop.abort();
        let left = until.left().unwrap_or_default().min(CLOSE_MAX);
        tokio::join!(connect::close(&publishing, left), connect::close(&consuming, left));
        if !in_time {
            return Err(failure(Kind::Timeout, "publishes were still waiting for the server's confirm"));
        }
        Ok(CloseReport::default())
    }

    async fn described(self: Arc<Self>, pattern: Pattern) -> Result<Vec<Description>> {
        let mut names: Vec<String> = self.known.lock().iter().filter(|name| pattern.matches(name)).cloned().collect();
        if names.is_empty() && pattern.is_exact() {
            // Not used here, but there perhaps.
            names.push(pattern.as_str().to_owned());
        }
        let connection = self.consuming()?;
        let topology = self.topology(&connection);
        let mut out = Vec::new();
        for name in names {
            let Some((messages, consumers)) = topology.passive(&name).await? else {
                self.forget(&name);
                continue;
            };
            out.push(Description {
                name,
                kind: TopicKind::Task.name(),
                messages: messages.into(),
                unsettled: 0,
                delayed: 0,
                bytes: 0,
                consumers: consumers.into(),
                expired: 0,
                dropped: 0,
                partitions: Vec::new(),
                lag: BTreeMap::new(),
            });
        }
        Ok(out)
    }
}

/// Runs a call as [`on_runtime`] does, and no longer than until `deadline`: a queue without a leader
/// answers nobody.
fn in_time<T: Send + 'static>(
    shared: &Shared,
    deadline: Moment,
    call: impl Future<Output = Result<T>> + Send + 'static,
) -> Pending<T> {
    let timeout = shared.timeout(deadline);
    let late = |_| failure(Kind::Timeout, "the server did not answer in time");
    on_runtime(async move { tokio::time::timeout(timeout, call).await.map_err(late)? })
}

/// Runs a call where its sockets and timers are, whoever waits for it.
fn on_runtime<T: Send + 'static>(call: impl Future<Output = Result<T>> + Send + 'static) -> Pending<T> {
    crate::runtime::spawned(call, || failure(Kind::Panic, "a call of the RabbitMQ backend panicked"))
}

impl Broker for RabbitMq {
    fn kind(&self) -> BackendKind {
        BackendKind::RabbitMq
    }

    fn capabilities(&self) -> Capabilities {
        let priority = if self.shared.has_priorities() { Support::Native } else { Support::None };
        Capabilities {
            tasks: Support::Native,
            events: Support::Native,
            retry_delay: Support::Native,
            priority,
            ttl: Support::Native,
            delay: Support::Native,
            ordered_key: Support::None,
            replay_time: Support::None,
            replay_offset: Support::None,
            headers: Support::Native,
            wildcard_tasks: Support::None,
            wildcard_events: Support::Native,
            extend: Support::None,
            payload_bytes_max: self.shared.settings.message_bytes_max,
            name_bytes_max: NAME_BYTES_MAX,
            delay_ms_max: DELAY_S_MAX as i64 * 1000,
        }
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        let timeout = self.shared.timeout(deadline);
        on_runtime(Arc::clone(&self.shared).connect(epoch, timeout))
    }

    fn disconnect(&self, epoch: Epoch) {
        self.shared.unlink(epoch);
    }

    fn restore(&self) -> Pending<()> {
        on_runtime(Arc::clone(&self.shared).restore())
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        if let Err(refused) = topology::check(kind, spec) {
            return ready(Err(refused));
        }
        let (shared, topic, spec) = (Arc::clone(&self.shared), topic.to_owned(), spec.clone());
        in_time(&self.shared, deadline, async move {
            let connection = shared.publishing()?;
            let topology = shared.topology(&connection);
            let shares = shared.forms.of(&topic) == Wire::Helixagent;
            if kind == TopicKind::Event {
                let exchange = if shares { &topic } else { topology::EVENTS };
                return topology.exchange(exchange).await.map(|()| Declared::Existed);
            }
            let asks_nothing = spec == TopicSpec::default();
            let existed = topology.passive(&topic).await?.is_some();
            let declared = match existed && asks_nothing {
                true => Declared::Existed,
                false if !shares => topology.task_queue(&topic, &spec, existed).await?,
                false if asks_nothing => topology.shared_queue(&topic).await.map(|()| Declared::Created)?,
                false => {
                    let text = "a queue in the form helixagent has the settings of that package, and no others";
                    return Err(failure(Kind::Unsupported, text));
                }
            };
            shared.know(&topic);
            Ok(declared)
        })
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(failure(Kind::Closed, "the backend is closed"));
        }
        let mut destinations = self.shared.destinations.lock();
        if destinations.len() >= crate::limits::TOPICS_MAX {
            destinations.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let destination = destinations.entry((topic.to_owned(), kind)).or_insert_with(|| {
            Arc::new(RabbitDestination {
                topic: Arc::from(topic),
                kind,
                wire: self.shared.forms.of(topic),
                shared: Arc::downgrade(&self.shared),
                order: Mutex::default(),
            })
        });
        Ok(Arc::clone(destination) as Arc<dyn Destination>)
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, _deadline: Moment) -> Pending<Arc<dyn Source>> {
        let none = |what: &str| ready(Err(failure(Kind::Unsupported, format!("{BACKEND} does not support {what}"))));
        if spec.stop != Stop::Never || spec.read_only {
            return none("replay: it keeps no log of events");
        }
        if spec.lease.is_some() {
            return none("a lease: its server's consumer timeout is for all");
        }
        let shares = |pattern: &Pattern| !pattern.is_exact() && self.shared.forms.shares(pattern);
        if Pattern::parse(&spec.pattern).is_ok_and(|pattern| shares(&pattern)) {
            return none("wildcards over topics in the form helixagent, which have an exchange each");
        }
        on_runtime(Arc::clone(&self.shared).subscribe(spec.clone(), sink))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        let timeout = self.shared.timeout(deadline);
        on_runtime(Arc::clone(&self.shared).close(timeout))
    }
}

/// On the connection that consumes: what is asked waits neither behind all that is published, nor for a server that has
/// blocked publishers.
impl Admin for RabbitMq {
    fn describe(&self, pattern: &str, deadline: Moment) -> Pending<Vec<Description>> {
        match Pattern::parse(pattern) {
            Ok(pattern) => in_time(&self.shared, deadline, Arc::clone(&self.shared).described(pattern)),
            Err(wrong) => ready(Err(wrong)),
        }
    }

    fn purge(&self, topic: &str, deadline: Moment) -> Pending<u64> {
        let (shared, topic) = (Arc::clone(&self.shared), topic.to_owned());
        in_time(&self.shared, deadline, async move {
            let connection = shared.consuming()?;
            shared.topology(&connection).purge(&topic).await
        })
    }

    fn delete(&self, topic: &str, deadline: Moment) -> Pending<()> {
        let (shared, topic) = (Arc::clone(&self.shared), topic.to_owned());
        in_time(&self.shared, deadline, async move {
            let connection = shared.consuming()?;
            shared.topology(&connection).delete(&topic).await?;
            shared.forget(&topic);
            shared.deleted.fetch_add(1, Ordering::AcqRel);
            let all = shared.live_subscribers();
            all.iter().filter(|own| own.spec.pattern == topic).for_each(|own| own.reopen());
            Ok(())
        })
    }
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitMq").finish_non_exhaustive()
    }
}

/// Tasks that are left have nobody to work for.
impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}
