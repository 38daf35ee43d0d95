//! The hub: the object a program opens. It owns backends, routes and subscriptions.
//!
//! - one hub has one embedded broker, and at most one other broker for each role;
//! - a topic has one kind per hub (see [`route`]) and, from its first use, one backend;
//! - nothing here holds a lock while it calls the program;
//! - closing makes every child *closed*; children stay valid until they are freed.
//!
//! Where things live:
//!
//! ```text
//! route        topic → kind, backend, policy        backends   roles, states, brokers opened alone
//! publish      record → backend → receipt           inflight   outcomes that come later
//! subscribe    callbacks and their threads          inbox      one descriptor for everything
//! feed         source → filter → ledger → consumer  settle     tokens and ledgers
//! retry        backoff, dead letters                replay     the past, by pattern and time
//! dead_letters list, redrive, discard               health     status, metrics, state changes
//! dedup        ids seen before, acks over a break
//! servers      made, and connected to               driver     runs the machine of one of them
//! failover     what is done when one is away        spool      what is kept for it meanwhile
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::broker::{BackendKind, Context, Sink, Source, SubscribeSpec, Support, Wakers};
use crate::clock::Clock;
use crate::config::options::InboxOptions;
use crate::config::{ClockChoice, Config, OnOutage};
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::message::TopicKind;
use crate::metrics::Metrics;
use crate::pattern::DEAD_LETTER_SUFFIX;
use crate::reentrancy::not_from_callback_of;
use crate::sync::{Bell, Condvar, Deadline, Mutex, RwLock};

pub mod backends;
mod batch;
mod closing;
pub mod dead_letters;
mod dedup;
#[cfg_attr(not(any(feature = "rabbitmq", feature = "kafka")), allow(dead_code))]
mod driver;
#[doc(hidden)]
pub mod failover;
mod feed;
pub mod health;
pub mod inbox;
mod inflight;
mod kinds;
mod patience;
pub mod process;
mod provisional;
pub mod publish;
mod publish_json;
pub mod receipt;
pub mod replay;
pub mod retry;
pub mod route;
#[cfg_attr(not(any(feature = "rabbitmq", feature = "kafka")), allow(unused_imports))]
mod servers;
pub mod settle;
#[cfg_attr(not(any(feature = "rabbitmq", feature = "kafka")), allow(dead_code))]
mod spool;
pub mod subscribe;
mod topics;

pub use crate::sync::Timeout;
pub use backends::{BrokerHandle, Role};
pub use batch::Sending;
pub use feed::Incoming;
pub use health::MetricsFormat;
pub use inbox::{Event, Inbox, InboxWaker, Polled};
pub use process::{set_log, set_token_provider, shutdown, LogLevel, TextHandler};
pub use publish::{check_header, Publisher, PublisherDefaults};
pub use receipt::{Receipt, ReceiptId};
pub use settle::{extend, settle, settle_many, Decision, Token};
pub use subscribe::{Handler, HandlerVerdict, Subscription};

use backends::{Backend, Relay, StateChange};
use closing::Stage;
use inflight::{Completions, Inflight};
use process::{new_id_prefix, next_hub_id};
use publish::Outlet;
use route::{Routes, Use};
use subscribe::SubShared;

/// A handle on a hub; cheap to clone. Dropping handles does not close it.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

/// Everything of one hub.
#[derive(Debug)]
pub struct Shared {
    id: u64,
    config: Config,
    context: Context,
    metrics: Arc<Metrics>,
    routes: Arc<Routes>,
    roles: Mutex<Roles>,
    outlets: RwLock<HashMap<Arc<str>, Arc<Outlet>>>,
    /// First uses that fixed a kind without an outlet (subscriptions).
    kinds: Mutex<HashMap<String, (TopicKind, Use)>>,
    /// Dead-letter topics that subscriptions named themselves, and which backend those have.
    dead_letter_names: Mutex<BTreeMap<String, BackendKind>>,
    numbers: AtomicU64,
    ids: AtomicU64,
    inflight: Inflight,
    memories: dedup::group::Memories,
    waiting_for_space: Mutex<Wakers>,
    completions: Arc<Completions>,
    subscriptions: Mutex<BTreeMap<u64, Weak<SubShared>>>,
    inboxes: Mutex<Vec<inbox::WeakInbox>>,
    dispatchers: AtomicUsize,
    dispatcher_ended: Bell,
    notices: Notices,
    used: AtomicBool,
    closing: AtomicBool,
    stage: Mutex<Stage>,
    stage_changed: Condvar,
    stop: Arc<StopFlag>,
    /// Brokers that were replaced, and are closed with the hub.
    retired: Mutex<Vec<Arc<Backend>>>,
}

/// Which broker does what. The embedded one is always there.
#[derive(Debug)]
struct Roles {
    tasks: Option<Arc<Backend>>,
    events: Option<Arc<Backend>>,
    fallback: Arc<Backend>,
}

/// Which notices an inbox wants.
#[derive(Debug, Clone, Copy, Default)]
struct Wants {
    state: bool,
    log: bool,
    fate: bool,
}

/// State changes: the last ones, and who wants to hear of new ones.
#[derive(Default)]
struct Notices {
    kept: Mutex<VecDeque<StateChange>>,
    warnings: Mutex<Vec<String>>,
    callback: Mutex<Option<Arc<dyn TextHandler>>>,
    /// An inbox has asked what becomes of kept messages.
    fates: AtomicBool,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").field("kept", &self.kept.lock().len()).finish()
    }
}

/// "Run until stopped": raised from anywhere, also from a signal handler.
#[derive(Debug, Default)]
pub struct StopFlag {
    raised: AtomicBool,
    bell: Bell,
}

impl StopFlag {
    /// Ends every [`Hub::wait`], now and later. Takes no lock and allocates nothing.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

impl Hub {
    /// Opens a hub. Backends are tried for at most `timeout` and the configured connection timeout.
    pub fn open(config: Config, timeout: Timeout) -> Result<Hub> {
        process::start();
        if let Some(error) = config.unsupported() {
            return Err(error);
        }
        let limit = config.connection_timeout.min(timeout.unwrap_or(Duration::MAX));
        let hub = Hub(Shared::new(config)?);
        if hub.0.config.enabled {
            hub.0.context.clock.start()?;
            let change = hub.0.roles.lock().fallback.connect(&hub.0.context.clock, limit)?;
            hub.0.tell(change);
            hub.0.connect_servers(Deadline::after(Some(limit)))?;
        }
        for warning in &hub.0.config.warnings {
            hub.0.log_warn("config", warning);
        }
        process::register(&hub.0);
        Ok(hub)
    }

    /// Gives the hub a broker for a role. Possible until the hub is first used.
    pub fn set_broker(&self, role: Role, broker: &BrokerHandle) -> Result<()> {
        let shared = &self.0;
        shared.check_open()?;
        if shared.used.load(Ordering::Acquire) {
            return Err(Error::new(Kind::State, "brokers are set before the hub is first used"));
        }
        if role == Role::Fallback && broker.kind() != BackendKind::Embedded {
            let text = format!("the fallback is an embedded broker, not {}", broker.kind().name());
            return Err(Error::new(Kind::Arg, text));
        }
        let backend = broker.give_to(shared)?;
        let given = Arc::clone(&backend);
        let connected = backend.connect(&shared.context.clock, shared.config.connection_timeout);
        let before = {
            let mut roles = shared.roles.lock();
            match role {
                Role::TaskQueue => roles.tasks.replace(backend),
                Role::EventStream => roles.events.replace(backend),
                Role::Fallback => Some(std::mem::replace(&mut roles.fallback, backend)),
            }
        };
        if let Some(before) = before.filter(|before| !shared.backends().iter().any(|own| Arc::ptr_eq(own, before))) {
            match shared.keeps_for_servers() && role == Role::Fallback {
                // What is kept for servers is on its disk.
                true => shared.retired.lock().push(before),
                false => shared.close_at_once(&before),
            }
        }
        match connected {
            Ok(change) => shared.tell(change),
            // A hub opens with a broker down; it says so in its health.
            Err(error) => shared.log_warn("connect_failed", &error.to_string()),
        }
        // A close that has looked at the brokers before has not seen this one.
        if shared.is_closing() {
            shared.close_at_once(&given);
        }
        shared.check_open()
    }

    /// A new inbox.
    pub fn inbox(&self, options: InboxOptions) -> Result<Inbox> {
        self.0.check_open()?;
        let inbox = Inbox::new(&self.0, &options)?;
        {
            let mut inboxes = self.0.inboxes.lock();
            inboxes.retain(|weak| weak.strong_count() > 0);
            inboxes.push(Arc::downgrade(&inbox.0));
        }
        // A close that has looked at the list before has not seen this one.
        if self.0.is_closing() {
            inbox.close();
        }
        self.0.check_open()?;
        Ok(inbox)
    }

    /// Waits until [`StopFlag::raise`] or the closing of the hub.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        not_from_callback_of(self.0.id, "hmq_hub_wait")?;
        let deadline = Deadline::after(timeout);
        let stop = &self.0.stop;
        loop {
            let heard = stop.bell.heard();
            if stop.raised.load(Ordering::SeqCst) || self.0.is_closing() {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, "the hub has not been stopped"));
            }
            stop.bell.wait(heard, deadline);
        }
    }

    /// The flag that ends [`Hub::wait`].
    pub fn stop_flag(&self) -> Arc<StopFlag> {
        Arc::clone(&self.0.stop)
    }

    /// Stops intake, lets running callbacks finish, flushes, closes the brokers. Returns in time;
    /// closing again waits for what was late, and is success once all is closed.
    pub fn close(&self, timeout: Timeout) -> Result<()> {
        not_from_callback_of(self.0.id, "hmq_hub_close")?;
        self.0.close(Deadline::after(timeout))
    }

    /// The bounded close of a hub that is freed without one, on a thread of the library.
    pub fn close_in_background(&self) {
        if self.0.closing.load(Ordering::Acquire) {
            return;
        }
        let own = Arc::clone(&self.0);
        let close = move || drop(own.close(Deadline::after(Some(BACKGROUND_CLOSE))));
        if crate::runtime::spawn_thread("hmq-close", close).is_err() {
            // No thread to be had: what needs no waiting is done here.
            let _ = self.0.close(Deadline::after(Some(Duration::ZERO)));
        }
    }

    /// Moves the clock of a hub that was opened with `"clock": "virtual"`.
    pub fn clock_advance(&self, by: Duration) -> Result<()> {
        self.0.check_open()?;
        self.0.context.clock.advance(by)
    }
}

impl Shared {
    fn new(config: Config) -> Result<Arc<Self>> {
        let clock = match config.clock {
            ClockChoice::Real => Clock::real(),
            ClockChoice::Virtual => Clock::virtual_(),
        };
        let relay = Arc::new(Relay::default());
        let (id, id_prefix) = (next_hub_id(), new_id_prefix());
        let context = Context { clock, limits: Limits::production(), id_prefix, hub: id, sink: relay.clone() };
        let backends::OwnBroker { broker: embedded, disk } = backends::open_embedded(&config, context.clone())?;
        let fallback = Backend::new(embedded, context.id_prefix, config.message_bytes_max);
        let shared = Arc::new(Self {
            id,
            routes: Arc::new(Routes::new(&config)?),
            metrics: Arc::default(),
            roles: Mutex::new(Roles { tasks: None, events: None, fallback: Arc::clone(&fallback) }),
            outlets: RwLock::default(),
            kinds: Mutex::default(),
            dead_letter_names: Mutex::default(),
            // Above all that an earlier process has left in the directory.
            numbers: AtomicU64::new(disk.as_ref().map_or(1, |disk| disk.next_number())),
            ids: AtomicU64::new(1),
            memories: dedup::group::Memories::default(),
            waiting_for_space: Mutex::default(),
            inflight: Inflight::new(config.publish_window),
            completions: Completions::new(config.publish_window),
            subscriptions: Mutex::default(),
            inboxes: Mutex::default(),
            dispatchers: AtomicUsize::new(0),
            dispatcher_ended: Bell::new(),
            notices: Notices::default(),
            used: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            stage: Mutex::default(),
            stage_changed: Condvar::new(),
            stop: Arc::default(),
            retired: Mutex::default(),
            context,
            config,
        });
        relay.connect(&shared, &fallback);
        shared.make_servers(disk.as_ref())?;
        Ok(shared)
    }

    /// Refuses calls on a hub that is closed or switched off.
    #[inline]
    fn check_open(&self) -> Result<()> {
        if self.is_closing() {
            return Err(Error::new(Kind::Closed, "the hub is closed"));
        }
        if !self.config.enabled {
            return Err(Error::new(Kind::Disabled, "messaging is switched off (`enabled` or MESSAGING_ENABLED)"));
        }
        Ok(())
    }

    #[inline]
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// All is closed: nothing of it goes on.
    fn is_gone(&self) -> bool {
        *self.stage.lock() == Stage::Closed
    }

    fn mark_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// All backends, each once.
    fn backends(&self) -> Vec<Arc<Backend>> {
        let roles = self.roles.lock();
        let mut out: Vec<Arc<Backend>> = Vec::new();
        for backend in [roles.tasks.as_ref(), roles.events.as_ref(), Some(&roles.fallback)].into_iter().flatten() {
            if !out.iter().any(|known| Arc::ptr_eq(known, backend)) {
                out.push(Arc::clone(backend));
            }
        }
        out
    }

    /// The backend of a topic: the route's, else the role's, else whatever single broker there is.
    fn backend_for(&self, topic: &str, kind: TopicKind) -> Result<Arc<Backend>> {
        let roles = self.roles.lock();
        // A pattern that covers dead letters by the way does not say where they go.
        let is_dead = topic.ends_with(DEAD_LETTER_SUFFIX);
        let says = |route: &&route::Route| !is_dead || route.text.ends_with(DEAD_LETTER_SUFFIX);
        let asked = self.routes.route(topic).filter(says).and_then(|route| route.backend);
        if let Some(asked) = asked {
            let all = [roles.tasks.as_ref(), roles.events.as_ref(), Some(&roles.fallback)];
            let found = all.into_iter().flatten().find(|backend| backend.kind == asked);
            return found.cloned().ok_or_else(|| {
                let text = format!("the route of `{topic}` names the {} backend, which this hub has not", asked.name());
                Error::new(Kind::Unsupported, text)
            });
        }
        if let Some(home) = self.home_of_dead_letters(topic, &roles) {
            return Ok(home);
        }
        let (first, second) = match kind {
            TopicKind::Task => (&roles.tasks, &roles.events),
            TopicKind::Event => (&roles.events, &roles.tasks),
        };
        // A log can do for a queue, but only where a route asks for it.
        let carries = |backend: &&Arc<Backend>| {
            let capabilities = backend.broker.capabilities();
            match kind {
                TopicKind::Task => capabilities.tasks == Support::Native,
                TopicKind::Event => capabilities.events == Support::Native,
            }
        };
        let chosen = first.as_ref().or(second.as_ref().filter(carries)).unwrap_or(&roles.fallback);
        Ok(Arc::clone(chosen))
    }

    /// Dead letters are beside what they were, so that they are as safe.
    fn home_of_dead_letters(&self, topic: &str, roles: &Roles) -> Option<Arc<Backend>> {
        if crate::config::is_pattern(topic) {
            return None;
        }
        let named = self.dead_letter_names.lock().get(topic).copied();
        let kind = match (named, topic.strip_suffix(DEAD_LETTER_SUFFIX)) {
            (Some(kind), _) => kind,
            (None, Some(origin)) => {
                let routed = self.routes.route(origin).and_then(|route| route.backend);
                let is_event = self.peek_kind(origin, None).is_ok_and(|kind| kind == TopicKind::Event);
                routed.or_else(|| roles.events.as_ref().filter(|_| is_event).map(|events| events.kind))?
            }
            (None, None) => return None,
        };
        let all = [roles.tasks.as_ref(), roles.events.as_ref(), Some(&roles.fallback)];
        let home = all.into_iter().flatten().find(|backend| backend.kind == kind)?;
        home.broker.capabilities().tasks.is_there().then(|| Arc::clone(home))
    }

    /// Whether the embedded broker's disk is that of spools as well.
    fn keeps_for_servers(&self) -> bool {
        self.config.failover.dir.is_some() && (self.config.rabbitmq.is_some() || self.config.kafka.is_some())
    }

    /// Whether messages of a topic are kept, or dropped, while `backend` is away.
    fn spools(&self, backend: &Backend, topic: &str) -> bool {
        backend.driver().is_some() && self.routes.on_outage(topic) != OnOutage::Fail
    }

    /// The outlet of a topic, found or made.
    fn outlet(&self, topic: &str, asked: Option<(TopicKind, Use)>) -> Result<Arc<Outlet>> {
        self.check_open()?;
        if let Some(outlet) = self.known_outlet(topic, asked) {
            return Ok(outlet);
        }
        crate::config::check_name("topic", topic)?;
        self.outlet_unchecked(topic, asked)
    }

    fn known_outlet(&self, topic: &str, asked: Option<(TopicKind, Use)>) -> Option<Arc<Outlet>> {
        let outlets = self.outlets.read();
        outlets.get(topic).filter(|outlet| asked.is_none_or(|(kind, _)| kind == outlet.kind)).cloned()
    }

    /// As [`Shared::outlet`], also while closing and for names of the library's own making.
    fn outlet_unchecked(&self, topic: &str, asked: Option<(TopicKind, Use)>) -> Result<Arc<Outlet>> {
        if let Some(outlet) = self.known_outlet(topic, asked) {
            return Ok(outlet);
        }
        self.mark_used();
        let kind = self.kind_of(topic, asked, false)?;
        let backend = self.backend_for(topic, kind)?;
        let destination = backend.broker.destination(topic, kind)?;
        let spools = self.spools(&backend, topic);
        let topic: Arc<str> = Arc::from(topic);
        let outlet = Arc::new(Outlet { topic: Arc::clone(&topic), kind, backend, destination, spools });
        let mut outlets = self.outlets.write();
        if outlets.len() >= crate::limits::TOPICS_MAX {
            outlets.clear();
        }
        outlets.insert(topic, Arc::clone(&outlet));
        Ok(outlet)
    }

    /// Opens a source on the backend that a subscription's topic has.
    fn open_source(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, timeout: Timeout) -> Result<Arc<dyn Source>> {
        let backend = self.backend_for(&spec.pattern, spec.kind)?;
        if spec.read_only || !self.spools(&backend, &spec.pattern) {
            backend.check_up()?;
        }
        let until = backends::deadline(&self.context.clock, timeout);
        crate::runtime::wait(backend.broker.subscribe(spec, sink, until), timeout)
    }
}

/// How long the close of a hub that was only freed may take.
const BACKGROUND_CLOSE: Duration = Duration::from_secs(30);
