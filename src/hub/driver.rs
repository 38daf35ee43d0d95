//! Runs the machine of one server: tells it what happened, and does what it says. It holds no rule; those are in
//! [`failover::backend`](super::failover::backend).
//!
//! The gate is set by whoever brings the news, before anything else; all that may take time is done by one task.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::backends::{self, Backend};
use super::failover::backend::{self, Action, BackendConfig, Command, Input, Sign, View};
use super::failover::{Way, Word};
use super::spool::Spool;
use super::Shared;
use crate::broker::{BackendEvent, BackendKind, Epoch, Wake};
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::runtime::Pending;
use crate::sync::{Bell, Deadline, Mutex};

/// One server's machine, and what it asks for.
pub(super) struct Driver {
    clock: Clock,
    machine: Mutex<backend::Backend>,
    /// The gate word, packed.
    gate: AtomicU64,
    todo: Mutex<VecDeque<Action>>,
    /// Something is to be done, or the hub closes.
    woken: Notify,
    ends: OnceLock<(Weak<Shared>, Weak<Backend>)>,
    spool: OnceLock<Weak<Spool>>,
    /// The last thing that went wrong.
    last: Mutex<Option<Error>>,
    attempts: AtomicU64,
    first: Mutex<Option<Result<()>>>,
    answered: Bell,
}

impl Driver {
    /// A server that is not connected. `seed` is for jitter.
    pub fn new(clock: &Clock, config: &Config, seed: u64) -> Arc<Self> {
        let failover = &config.failover;
        let machine = BackendConfig {
            suspect_wait: failover.suspect_wait,
            down_after: failover.down_after,
            down_after_attempts: failover.down_after_attempts,
            blocked_wait: failover.blocked_wait,
            confirm_timeout: failover.confirm_timeout,
            // The attempt itself ends in time; this is for one that does not.
            connection_timeout: config.connection_timeout.saturating_mul(2) + Duration::from_secs(1),
            reconnect: (failover.reconnect_min, failover.reconnect_max),
            stable_for: failover.stable_for,
            window: config.publish_window as u64,
        };
        let machine = backend::Backend::new(clock.now(), machine, seed);
        Arc::new(Self {
            clock: clock.clone(),
            gate: AtomicU64::new(machine.gate().pack()),
            machine: Mutex::new(machine),
            todo: Mutex::default(),
            woken: Notify::new(),
            ends: OnceLock::new(),
            spool: OnceLock::new(),
            last: Mutex::default(),
            attempts: AtomicU64::new(0),
            first: Mutex::default(),
            answered: Bell::new(),
        })
    }

    /// Names the spool that forwards.
    pub fn serve(&self, spool: &Arc<Spool>) {
        let _ = self.spool.set(Arc::downgrade(spool));
    }

    /// The spool, as long as the hub is there.
    pub fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.get()?.upgrade()
    }

    /// The gate.
    #[inline]
    pub fn word(&self) -> Word {
        Word::unpack(self.gate.load(Ordering::Acquire))
    }

    /// Whether publishes go to the server.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.word().way == Way::Open
    }

    /// What health tells.
    pub fn view(&self) -> View {
        self.machine.lock().view()
    }

    /// Attempts to connect, ever.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// The last thing that went wrong.
    pub fn last_error(&self) -> Option<Error> {
        self.last.lock().clone()
    }

    /// Why nothing can be sent.
    pub fn down_error(&self, kind: BackendKind) -> Error {
        let view = self.view();
        backends::down_error(kind, view.state.into(), view.forced, self.last_error())
    }

    /// Takes in what happened. The gate is set before this returns.
    pub fn input(&self, input: Input) {
        let mut actions = Vec::new();
        let mut gate_moved = None;
        {
            let mut machine = self.machine.lock();
            let before = machine.view().state;
            machine.on(self.clock.now(), input, &mut actions);
            let after = machine.view().state;
            let told = actions.iter().any(|action| matches!(action, Action::Notify { .. }));
            if before != after && !told {
                // Forced, or let go again: the machine's own state is as it was.
                actions.push(Action::Notify { from: before, to: after });
            }
            for action in &actions {
                if let Action::SetGate(word) = action {
                    self.gate.store(word.pack(), Ordering::Release);
                    gate_moved = Some(word.way);
                }
            }
            self.todo.lock().extend(actions.iter().filter(|action| !is_told_here(action)));
        }
        if let (Some(way), Some(spool)) = (gate_moved, self.spool()) {
            spool.wake();
            match way {
                Way::Open => {
                    spool.server_is_back();
                    spool.open_sources();
                }
                Way::Wait | Way::Blocked | Way::Spool | Way::Refuse => spool.ring_sources(),
            }
        }
        let told = actions.iter().filter_map(|action| match action {
            Action::Notify { from, to } => Some((*from, *to)),
            _ => None,
        });
        for (from, to) in told {
            self.tell(from, to);
        }
        self.woken.notify_one();
    }

    fn tell(&self, from: backend::State, to: backend::State) {
        let Some((hub, backend)) = self.ends() else { return };
        use backend::State;
        let is_well = matches!(to, State::Up | State::Forwarding | State::Probing);
        let cause = self.last_error().filter(|_| !is_well);
        let change = backend.changed(&self.clock, from.into(), to.into(), cause);
        hub.tell(Some(change));
        if hub.is_closing() {
            self.end_waiting();
        }
    }

    fn ends(&self) -> Option<(Arc<Shared>, Arc<Backend>)> {
        let (hub, backend) = self.ends.get()?;
        Some((hub.upgrade()?, backend.upgrade()?))
    }

    /// Something is due earlier than it was.
    pub fn look(&self) {
        self.woken.notify_one();
    }

    /// Takes in what the backend says of itself.
    pub fn event(&self, event: BackendEvent) {
        let note = |cause: Error| *self.last.lock() = Some(cause);
        let sign = match event {
            BackendEvent::Warned(_) | BackendEvent::Connected(_) => return,
            BackendEvent::Unblocked => Sign::Unblocked,
            BackendEvent::Lost(cause) => {
                note(cause);
                Sign::Lost
            }
            BackendEvent::Blocked(reason) => {
                note(Error::new(Kind::BackendDown, format!("the server asks publishers to stop: {reason}")));
                Sign::Blocked
            }
            BackendEvent::Denied(cause) => {
                note(cause);
                Sign::Denied
            }
        };
        let epoch = self.view().epoch;
        self.input(Input::Link(epoch, sign));
    }

    /// Waits for the first attempt that succeeds; answers why there was none in time.
    pub fn wait_connected(&self, deadline: Deadline) -> Result<()> {
        loop {
            let heard = self.answered.heard();
            let first = self.first.lock().clone();
            match first {
                Some(Ok(())) => return Ok(()),
                Some(Err(denied)) if denied.kind() == Kind::Refused => return Err(denied),
                failed if deadline.has_passed() => {
                    let none = || Error::new(Kind::Timeout, "the first attempt to connect has not ended yet");
                    return failed.unwrap_or_else(|| Err(none()));
                }
                _ => self.answered.wait(heard, deadline),
            }
        }
    }

    fn answer(&self, answer: &Result<()>) {
        let mut first = self.first.lock();
        if !matches!(&*first, Some(Ok(()))) {
            *first = Some(answer.clone());
        }
        drop(first);
        self.answered.ring();
    }

    /// Starts it, for a hub and its backend.
    pub fn start(self: &Arc<Self>, hub: &Arc<Shared>, backend: &Arc<Backend>) -> Result<()> {
        let _ = self.ends.set((Arc::downgrade(hub), Arc::downgrade(backend)));
        let own = Arc::clone(self);
        crate::runtime::handle()?.spawn(async move { own.run().await });
        Ok(())
    }

    async fn run(self: Arc<Self>) {
        loop {
            // A panic is told there, and must not end all that follows.
            let left = crate::runtime::contained("failover", || self.step());
            let Some(left) = left.unwrap_or(Some(QUIET)) else { return };
            let _ = tokio::time::timeout(left, self.woken.notified()).await;
        }
    }

    /// Does what is to be done now; answers how long there is nothing more, `None` if the hub is gone.
    fn step(self: &Arc<Self>) -> Option<Duration> {
        let (hub, backend) = self.ends().filter(|(hub, _)| !hub.is_gone())?;
        let spool = self.spool()?;
        while let Some(action) = self.next_action() {
            self.perform(&hub, &backend, &spool, action);
        }
        spool.run_later();
        let until = |next: Option<Moment>| next.map_or(QUIET, |at| at.since(self.clock.now()));
        let own = until(self.machine.lock().next_deadline());
        if own.is_zero() {
            self.input(Input::Tick);
        }
        let topics = until(spool.next_deadline());
        if topics.is_zero() {
            spool.tick();
        }
        Some(own.min(topics).min(QUIET))
    }

    fn next_action(&self) -> Option<Action> {
        self.todo.lock().pop_front()
    }

    fn perform(self: &Arc<Self>, hub: &Arc<Shared>, backend: &Arc<Backend>, spool: &Arc<Spool>, action: Action) {
        match action {
            Action::Connect { epoch, .. } => self.connect(hub, backend, epoch),
            Action::Probe { epoch, turn } => spool.probe(epoch, turn),
            Action::BlameProbed => spool.blame_probed(),
            Action::Forward { budget } => spool.forward(budget),
            Action::Sweep => spool.sweep(),
            Action::CheckConfirms => spool.check_confirms(self.view().epoch),
            Action::Disconnect { epoch } => backend.broker.disconnect(Epoch(epoch)),
            // What is not asked for is not forwarded.
            Action::StopForwarding => {}
            // Done by whoever brought the news.
            Action::SetGate(_) | Action::Notify { .. } => {}
        }
    }

    fn connect(self: &Arc<Self>, hub: &Arc<Shared>, backend: &Arc<Backend>, epoch: u32) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let timeout = hub.config.connection_timeout;
        let (own, backend) = (Arc::clone(self), Arc::clone(backend));
        let connecting = backend.broker.connect(Epoch(epoch), self.clock.now().plus(timeout));
        let attempt = async move {
            let mut answer = limited(timeout, connecting).await;
            if answer.is_ok() {
                answer = limited(timeout, backend.broker.restore()).await;
            }
            if answer.is_err() {
                // It may have come about all the same.
                backend.broker.disconnect(Epoch(epoch));
            }
            let sign = match &answer {
                Ok(()) => Sign::ConnectOk,
                Err(failed) => {
                    *own.last.lock() = Some(failed.clone());
                    match failed.kind() {
                        Kind::Refused => Sign::Denied,
                        _ => Sign::ConnectErr,
                    }
                }
            };
            own.input(Input::Link(epoch, sign));
            own.answer(&answer);
        };
        // Without a runtime the attempt is not made, and is missed when its time is over.
        if let Ok(runtime) = crate::runtime::handle() {
            runtime.spawn(attempt);
        }
    }

    /// Takes in nothing new from now on. What is kept still goes out.
    pub fn stop_intake(&self) {
        self.input(Input::Command(Command::Close));
        self.end_waiting();
    }

    /// Publishes of a closing hub do not wait for the word of a server that is away.
    fn end_waiting(&self) {
        if let Some(spool) = self.spool().filter(|_| self.is_away()) {
            spool.end_waiting();
        }
    }

    /// Lets what is kept go out, as long as the server is there.
    pub fn drain(&self, deadline: Deadline) {
        if let Some(spool) = self.spool() {
            spool.wait_empty(deadline, || self.is_away() || self.view().paused || !spool.can_go());
        }
    }

    /// Whether a closing hub need not wait for it: one that was lost a moment ago may be back in another.
    fn is_away(&self) -> bool {
        use backend::State;
        !matches!(self.view().state, State::Up | State::Forwarding | State::Probing | State::Suspect)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("word", &self.word()).finish_non_exhaustive()
    }
}

/// Longest sleep of a driver: a hub that is gone is noticed.
const QUIET: Duration = Duration::from_secs(1);

fn is_told_here(action: &Action) -> bool {
    matches!(action, Action::SetGate(_) | Action::Notify { .. })
}

async fn limited(timeout: Duration, pending: Pending<()>) -> Result<()> {
    let text = "the server did not answer in time";
    tokio::time::timeout(timeout, pending).await.unwrap_or_else(|_| Err(Error::new(Kind::BackendDown, text)))
}
