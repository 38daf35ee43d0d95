//! The backends of a hub: which broker has which role, and the state of each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde_json::{json, Value};

use super::driver::Driver;
use super::failover::backend::{Command, Input, State};
use super::{new_id_prefix, Shared, Timeout};
use crate::broker::checked::{Checked, Enforced};
use crate::broker::custom::{Custom, CustomOps, CustomSink};
use crate::broker::embedded::disk::{DiskConfig, Durable};
use crate::broker::embedded::{Embedded, EmbeddedConfig};
use crate::broker::{BackendEvent, BackendKind, BackendSink, Broker, Context, Epoch, Outcome, Receipts, Ticket};
use crate::clock::{Clock, Moment};
use crate::config::options::BrokerOptions;
use crate::config::{Config, SyncMode, SYNC_INTERVAL};
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::runtime::Pending;
use crate::sync::Mutex;

/// What a broker does in a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Carries tasks.
    TaskQueue,
    /// Carries events.
    EventStream,
    /// Carries both where there is no other. Embedded only.
    Fallback,
}

/// The state of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum BackendState {
    /// Not connected yet.
    Init,
    /// Connected.
    Up,
    /// Away, or forced down for a drill.
    Down,
    /// Connected, but takes no messages for now.
    Blocked,
    /// It refused our credentials or rights.
    Refused,
    /// It may be away.
    Suspect,
    /// Connected again; one message shows whether it takes them.
    Probing,
    /// It takes messages; what was kept for it is on its way, or it has not stood for long enough yet.
    Forwarding,
}

impl BackendState {
    /// Those of backends without a driver, in the order of their numbers.
    const ALL: [BackendState; 5] =
        [BackendState::Init, BackendState::Up, BackendState::Down, BackendState::Blocked, BackendState::Refused];

    /// Whether it takes messages.
    pub const fn takes(self) -> bool {
        matches!(self, BackendState::Up | BackendState::Forwarding)
    }

    /// The word used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            BackendState::Init => "init",
            BackendState::Up => "up",
            BackendState::Down => "down",
            BackendState::Blocked => "blocked",
            BackendState::Refused => "refused",
            BackendState::Suspect => "suspect",
            BackendState::Probing => "probing",
            BackendState::Forwarding => "forwarding",
        }
    }
}

impl From<State> for BackendState {
    fn from(state: State) -> Self {
        match state {
            State::Init => BackendState::Init,
            State::Up => BackendState::Up,
            State::Suspect => BackendState::Suspect,
            State::Down => BackendState::Down,
            State::Probing => BackendState::Probing,
            State::Forwarding => BackendState::Forwarding,
            State::Blocked => BackendState::Blocked,
            State::Refused => BackendState::Refused,
        }
    }
}

/// One broker of a hub, behind the checks of its capabilities.
#[derive(Debug)]
pub struct Backend {
    /// Its kind.
    pub kind: BackendKind,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Prefix of the message ids it makes.
    pub id_prefix: u64,
    /// What its receipts say.
    pub receipts: Receipts,
    /// The gate that publishers read: a [`BackendState`].
    gate: AtomicU32,
    detail: Mutex<Detail>,
    /// Servers have one; others are connected once.
    driver: Option<Arc<Driver>>,
}

/// What health tells beside the gate.
#[derive(Debug, Clone)]
struct Detail {
    real: BackendState,
    forced: bool,
    since_us: i64,
    epoch: Epoch,
    attempts: u64,
    /// The backend has spoken since the attempt began: its word is newer than the attempt's end.
    told: bool,
    last_error: Option<Error>,
}

/// What errors and health tell of a backend, whoever knows it.
struct Told {
    state: BackendState,
    forced: bool,
    since_us: i64,
    attempts: u64,
    last_error: Option<Error>,
}

/// A change of state, for callbacks and inboxes.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// The backend.
    pub backend: BackendKind,
    /// Before.
    pub from: BackendState,
    /// After.
    pub to: BackendState,
    /// When, wall microseconds.
    pub at_us: i64,
    /// Why, where there is a why.
    pub cause: Option<Error>,
}

impl StateChange {
    /// The change as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "backend": self.backend.name(), "from": self.from.name(), "to": self.to.name(), "at_us": self.at_us,
            "cause": self.cause.as_ref().map(Error::to_json),
        })
    }
}

impl Backend {
    /// A backend that is not connected. `broker` is wrapped in the checks; records were checked
    /// against `payload_bytes_max` by whoever publishes.
    pub fn new(broker: Arc<dyn Broker>, id_prefix: u64, payload_bytes_max: usize) -> Arc<Self> {
        Self::with(broker, id_prefix, payload_bytes_max, None)
    }

    /// A server, whose state is its driver's matter.
    #[cfg(any(feature = "rabbitmq", feature = "kafka"))]
    pub(super) fn server(
        broker: Arc<dyn Broker>,
        id_prefix: u64,
        payload_bytes_max: usize,
        driver: Arc<Driver>,
    ) -> Arc<Self> {
        Self::with(broker, id_prefix, payload_bytes_max, Some(driver))
    }

    fn with(
        broker: Arc<dyn Broker>,
        id_prefix: u64,
        payload_bytes_max: usize,
        driver: Option<Arc<Driver>>,
    ) -> Arc<Self> {
        let detail = Detail {
            real: BackendState::Init,
            forced: false,
            since_us: 0,
            epoch: Epoch(0),
            attempts: 0,
            told: false,
            last_error: None,
        };
        let (broker_kind, receipts) = (broker.kind(), broker.receipts());
        Arc::new(Self {
            kind: broker_kind,
            broker: Checked::over(broker, Enforced::Records { payload_bytes_max }),
            id_prefix,
            receipts,
            gate: AtomicU32::new(BackendState::Init as u32),
            detail: Mutex::new(detail),
            driver,
        })
    }

    /// What keeps its connection, if it is a server.
    pub(super) fn driver(&self) -> Option<&Arc<Driver>> {
        self.driver.as_ref()
    }

    /// The state that counts for publishers.
    #[inline]
    pub fn state(&self) -> BackendState {
        if let Some(driver) = &self.driver {
            return driver.view().state.into();
        }
        let word = self.gate.load(Ordering::Acquire) as usize;
        BackendState::ALL.get(word).copied().unwrap_or(BackendState::Down)
    }

    /// Refuses a publish while the backend is away.
    #[inline]
    pub fn check_up(&self) -> Result<()> {
        let is_up = match &self.driver {
            Some(driver) => driver.is_open(),
            None => self.state() == BackendState::Up,
        };
        match is_up {
            true => Ok(()),
            false => Err(self.down_error()),
        }
    }

    /// Takes over a change of the driver's.
    pub(super) fn changed(
        &self,
        clock: &Clock,
        from: BackendState,
        to: BackendState,
        cause: Option<Error>,
    ) -> StateChange {
        let mut detail = self.detail.lock();
        detail.since_us = clock.wall_us();
        StateChange { backend: self.kind, from, to, at_us: detail.since_us, cause }
    }

    #[cold]
    fn down_error(&self) -> Error {
        let told = self.told();
        down_error(self.kind, told.state, told.forced, told.last_error)
    }

    fn told(&self) -> Told {
        let (state, detail) = (self.state(), self.detail.lock().clone());
        let Detail { forced, since_us, attempts, last_error, .. } = detail;
        match &self.driver {
            None => Told { state, forced, since_us, attempts, last_error },
            Some(driver) => {
                let (forced, attempts) = (driver.view().forced, driver.attempts());
                Told { state, forced, since_us, attempts, last_error: driver.last_error() }
            }
        }
    }

    /// One attempt to connect.
    pub fn connect(&self, clock: &Clock, timeout: Duration) -> Result<Option<StateChange>> {
        let (_, pending) = self.attempt(clock, timeout);
        let answer = crate::runtime::wait(pending, Some(timeout));
        let change = self.concluded(clock, &answer);
        answer.map(|()| change)
    }

    /// Begins an attempt to connect, in an epoch of its own.
    pub(super) fn attempt(&self, clock: &Clock, timeout: Duration) -> (Epoch, Pending<()>) {
        let epoch = {
            let mut detail = self.detail.lock();
            detail.attempts += 1;
            detail.told = false;
            detail.epoch = Epoch(detail.epoch.0 + 1);
            detail.epoch
        };
        (epoch, self.broker.connect(epoch, clock.now().plus(timeout)))
    }

    /// Takes over how an attempt ended.
    pub(super) fn concluded(&self, clock: &Clock, answer: &Result<()>) -> Option<StateChange> {
        match answer {
            Ok(()) => {
                let mut detail = self.detail.lock();
                match detail.told {
                    // Lost or blocked while it was being restored.
                    true => None,
                    false => self.set_detail(clock, &mut detail, BackendState::Up, None),
                }
            }
            Err(error) if error.kind() == Kind::Refused => self.set(clock, BackendState::Refused, Some(error.clone())),
            Err(error) => self.set(clock, BackendState::Down, Some(error.clone())),
        }
    }

    /// Takes over what the backend says of itself.
    pub fn on_event(&self, clock: &Clock, event: BackendEvent) -> Option<StateChange> {
        self.detail.lock().told = true;
        match event {
            BackendEvent::Warned(_) => None,
            BackendEvent::Connected(_) | BackendEvent::Unblocked => self.set(clock, BackendState::Up, None),
            BackendEvent::Lost(cause) => self.set(clock, BackendState::Down, Some(cause)),
            BackendEvent::Blocked(reason) => {
                let cause = Error::new(Kind::BackendDown, format!("the server asks publishers to stop: {reason}"));
                self.set(clock, BackendState::Blocked, Some(cause))
            }
            BackendEvent::Denied(cause) => self.set(clock, BackendState::Refused, Some(cause)),
        }
    }

    /// Forces the backend down for a drill, or lets its own state count again.
    pub fn force(&self, clock: &Clock, down: bool) -> Option<StateChange> {
        if let Some(driver) = &self.driver {
            driver.input(Input::Command(if down { Command::ForceDown } else { Command::Auto }));
            return None;
        }
        let mut detail = self.detail.lock();
        let before = self.state();
        detail.forced = down;
        let after = if down { BackendState::Down } else { detail.real };
        self.publish_gate(clock, &mut detail, before, after, None)
    }

    fn set(&self, clock: &Clock, real: BackendState, cause: Option<Error>) -> Option<StateChange> {
        self.set_detail(clock, &mut self.detail.lock(), real, cause)
    }

    fn set_detail(
        &self,
        clock: &Clock,
        detail: &mut Detail,
        real: BackendState,
        cause: Option<Error>,
    ) -> Option<StateChange> {
        let before = self.state();
        detail.real = real;
        if cause.is_some() {
            detail.last_error.clone_from(&cause);
        }
        let after = if detail.forced { BackendState::Down } else { real };
        self.publish_gate(clock, detail, before, after, cause)
    }

    fn publish_gate(
        &self,
        clock: &Clock,
        detail: &mut Detail,
        from: BackendState,
        to: BackendState,
        cause: Option<Error>,
    ) -> Option<StateChange> {
        if from == to {
            return None;
        }
        detail.since_us = clock.wall_us();
        self.gate.store(to as u32, Ordering::Release);
        Some(StateChange { backend: self.kind, from, to, at_us: detail.since_us, cause })
    }

    /// State, capabilities and last error as JSON.
    pub fn to_json(&self) -> Value {
        let Told { state, forced, since_us, attempts, last_error } = self.told();
        let mut json = json!({
            "backend": self.kind.name(), "state": state.name(), "forced": forced, "since_us": since_us,
            "attempts": attempts, "last_error": last_error.as_ref().map(Error::to_json),
            "capabilities": self.broker.capabilities(), "level": self.receipts.level.name(),
        });
        match self.driver.as_ref().and_then(|driver| Some((driver.view(), driver.spool()?))) {
            None => json["storage"] = json!(self.broker.storage()),
            Some((view, spool)) => {
                let (level, (records, bytes)) = (spool.level(), spool.held());
                json["flaps"] = json!(view.flaps);
                json["spool"] = json!({
                    "level": level.name(), "records": records, "bytes": bytes, "paused": view.paused, "rate": view.rate,
                    "pressure": spool.is_pressed(),
                });
            }
        }
        json
    }
}

/// Why nothing can be published to a backend.
pub(super) fn down_error(kind: BackendKind, state: BackendState, forced: bool, last: Option<Error>) -> Error {
    let state = if forced { "forced down" } else { state.name() };
    let cause = last.as_ref().map(|cause| format!(": {}", cause.message())).unwrap_or_default();
    let error = Error::new(Kind::BackendDown, format!("the backend {} is {state}{cause}", kind.name()))
        .with_backend(kind.name())
        .with_fate(crate::error::Fate::NotSent);
    match last {
        Some(cause) => error.caused_by(cause),
        None => error,
    }
}

/// The embedded broker of a hub.
pub(super) struct OwnBroker {
    pub broker: Arc<dyn Broker>,
    /// The same, if it is on disk: spools are there, too.
    pub disk: Option<Arc<Durable>>,
}

/// Opens it: on disk where there is a directory for it.
pub(super) fn open_embedded(config: &Config, context: Context) -> Result<OwnBroker> {
    let topics = config.topics.iter().map(|topic| (topic.pattern.clone(), topic.spec())).collect();
    let partitions = config.embedded.partitions;
    // A hub that is switched off leaves the directory to others.
    let Some(dir) = config.failover.dir.as_ref().filter(|_| config.enabled) else {
        let memory_bytes_max = config.embedded.memory_bytes_max;
        let broker = Embedded::open(EmbeddedConfig { memory_bytes_max, partitions, topics }, context)?;
        return Ok(OwnBroker { broker, disk: None });
    };
    let failover = &config.failover;
    let disk = DiskConfig {
        dir: dir.clone(),
        sync: failover.sync.unwrap_or(SyncMode::Each),
        sync_every: failover.sync_every.unwrap_or(SYNC_INTERVAL),
        bytes_max: failover.disk_bytes_max,
        free_space_floor: failover.free_space_floor,
        partitions,
        topics,
    };
    let durable = Durable::open(disk, context).map_err(|error| error.at("failover.dir", 0, 0))?;
    Ok(OwnBroker { broker: Arc::clone(&durable) as Arc<dyn Broker>, disk: Some(durable) })
}

/// A broker opened alone, to be given to a hub.
#[derive(Debug, Clone)]
pub struct BrokerHandle(Arc<Alone>);

#[derive(Debug)]
struct Alone {
    broker: Arc<dyn Broker>,
    relay: Arc<Relay>,
    /// The id prefix the broker was made with; its hub takes it over.
    id_prefix: u64,
    /// One of the program's gets its context from its hub; others have one with real time.
    custom: Option<Arc<Custom>>,
}

impl BrokerHandle {
    /// Opens a broker by its options. Connecting happens in the hub that gets it.
    pub fn open(json: &str, _timeout: Timeout) -> Result<Self> {
        let options = BrokerOptions::from_json(json)?;
        Self::make(|context| {
            let config = EmbeddedConfig {
                memory_bytes_max: options.memory_bytes_max,
                partitions: options.partitions,
                topics: Vec::new(),
            };
            Ok(Embedded::open(config, context)? as Arc<dyn Broker>)
        })
    }

    /// A broker supplied by the program, and the sink it answers through.
    pub fn custom(ops: Box<dyn CustomOps>) -> Result<(Self, CustomSink)> {
        let (custom, sink) = Custom::over(ops);
        let broker = Arc::clone(&custom) as Arc<dyn Broker>;
        let alone = Alone { broker, relay: Arc::default(), id_prefix: new_id_prefix(), custom: Some(custom) };
        Ok((Self(Arc::new(alone)), sink))
    }

    /// Any broker, for tests.
    pub fn make(open: impl FnOnce(Context) -> Result<Arc<dyn Broker>>) -> Result<Self> {
        let relay = Arc::new(Relay::default());
        let id_prefix = new_id_prefix();
        let sink = Arc::clone(&relay) as Arc<dyn BackendSink>;
        let broker = open(Context { clock: Clock::real(), limits: Limits::production(), id_prefix, hub: 0, sink })?;
        Ok(Self(Arc::new(Alone { broker, relay, id_prefix, custom: None })))
    }

    /// What it is and whether a hub has it.
    pub fn health(&self, _timeout: Timeout) -> Result<Value> {
        Ok(json!({
            "backend": self.0.broker.kind().name(), "in_a_hub": self.0.relay.ends().is_some(),
            "capabilities": self.0.broker.capabilities(),
        }))
    }

    /// Its kind.
    pub fn kind(&self) -> BackendKind {
        self.0.broker.kind()
    }

    /// Gives it to `hub`; a broker belongs to one hub for ever, in one role or more.
    pub(super) fn give_to(&self, hub: &Arc<Shared>) -> Result<Arc<Backend>> {
        let alone = &self.0;
        if alone.custom.is_none() && hub.context.clock.is_virtual() {
            let text = "a broker opened alone keeps real time, and this hub has a virtual clock";
            return Err(Error::new(Kind::State, text));
        }
        let backend = Backend::new(Arc::clone(&alone.broker), alone.id_prefix, hub.config.message_bytes_max);
        if alone.relay.connect(hub, &backend) {
            if let Some(custom) = &alone.custom {
                let sink = Arc::clone(&alone.relay) as Arc<dyn BackendSink>;
                custom.attach(Context { id_prefix: alone.id_prefix, sink, ..hub.context.clone() })?;
            }
            return Ok(backend);
        }
        match alone.relay.ends() {
            Some((own_hub, own_backend)) if Arc::ptr_eq(&own_hub, hub) => Ok(own_backend),
            _ => Err(Error::new(Kind::State, "this broker was given to another hub")),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A hub closes its own brokers.
        if self.relay.ends().is_none() {
            let _ = crate::runtime::wait(self.broker.close(Moment(0)), Some(Duration::ZERO));
        }
    }
}

/// Passes a backend's words on to its hub, once it has one.
#[derive(Debug, Default)]
pub struct Relay {
    ends: OnceLock<(Weak<Shared>, Weak<Backend>)>,
}

impl Relay {
    /// Connects both ends; `false` if that was done before.
    pub(super) fn connect(&self, hub: &Arc<Shared>, backend: &Arc<Backend>) -> bool {
        self.ends.set((Arc::downgrade(hub), Arc::downgrade(backend))).is_ok()
    }

    fn ends(&self) -> Option<(Arc<Shared>, Arc<Backend>)> {
        let (hub, backend) = self.ends.get()?;
        Some((hub.upgrade()?, backend.upgrade()?))
    }
}

impl BackendSink for Relay {
    fn event(&self, event: BackendEvent) {
        if let Some((hub, backend)) = self.ends() {
            if let BackendEvent::Warned(text) = &event {
                return hub.log_warn(backend.kind.name(), text);
            }
            if let Some(driver) = backend.driver() {
                return driver.event(event);
            }
            let change = backend.on_event(&hub.context.clock, event);
            hub.tell(change);
        }
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        if let Some((hub, _)) = self.ends() {
            hub.inflight.complete(outcomes);
        }
    }
}

/// Far enough for calls that do not wait.
pub(super) fn deadline(clock: &Clock, timeout: Timeout) -> Moment {
    timeout.map_or(Moment::NEVER, |limit| clock.now().plus(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    /// A connection that was lost before its attempt had ended was taken for one that stands.
    #[test]
    fn what_a_broker_says_during_an_attempt_is_newer_than_its_end() {
        let (clock, second) = (Clock::virtual_(), Duration::from_secs(1));
        let sink = Arc::new(Relay::default());
        let context = Context { clock: clock.clone(), limits: Limits::tiny(), id_prefix: 7, hub: 0, sink };
        let config = EmbeddedConfig { memory_bytes_max: 1 << 20, partitions: 1, topics: Vec::new() };
        let backend = Backend::new(Embedded::open(config, context).unwrap(), 7, 1024);
        drop(backend.attempt(&clock, second));
        backend.on_event(&clock, BackendEvent::Lost(Error::new(Kind::BackendDown, "gone again")));
        backend.concluded(&clock, &Ok(()));
        assert_eq!(backend.state(), BackendState::Down);
        drop(backend.attempt(&clock, second));
        backend.concluded(&clock, &Ok(()));
        assert_eq!(backend.state(), BackendState::Up);
    }
}
