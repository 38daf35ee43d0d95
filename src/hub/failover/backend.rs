//! The machine of one backend: whether its server is there, and what publishers do meanwhile.
//!
//! It is fed with what happened and answers with what to do; see the table in [`super`]. Each call
//! takes one step: of several timers that are due the earliest, the rest at the next call.
//!
//! ```text
//!            connected, never lost
//!  Init ───────────────────────────────> Up <────────── stable ────────┐
//!   │                                     │ lost, overdue              │
//!   │ failed          ┌───────────────────▼──┐ in time, connected  ┌───┴────────┐
//!   │                 │ Suspect              ├────────────────────>│ Forwarding │
//!   │                 └──┬───────────────────┘ <──── lost, overdue ┴─────▲──────┘
//!   │                    │ too long, third attempt failed                │ probe answered,
//!   ▼                    ▼                                               │ or nothing to probe with
//!  Down <────────────────┴──── probe in vain, lost ──── Probing ─────────┘
//!   └──────────────────── connected ──────────────────────^
//!
//!  Blocked: from any state with a connection; back to Forwarding, or lost.
//!  Refused: from anywhere; asked again each ten seconds; connected as from Down, failed: Down.
//! ```

use std::time::Duration;

use super::backoff::Backoff;
use super::flap::Flap;
use super::ramp::Ramp;
use super::timers::{Timer, Timers};
use super::{Way, Word};
use crate::clock::Moment;

pub use super::inputs::{Action, Command, Input, Sign, State, View};

/// Times and sizes of a backend; the defaults are those of the configuration.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    /// How long publishes wait for a server that may be away.
    pub suspect_wait: Duration,
    /// After this long without it, a server counts as down.
    pub down_after: Duration,
    /// After so many failed connects in a row, too.
    pub down_after_attempts: u32,
    /// How long publishes wait for a server that asks them to stop.
    pub blocked_wait: Duration,
    /// How long a server may take to confirm a record.
    pub confirm_timeout: Duration,
    /// How long an attempt to connect may take.
    pub connection_timeout: Duration,
    /// First and longest wait before connecting again.
    pub reconnect: (Duration, Duration),
    /// How long a server that is back has to stay.
    pub stable_for: Duration,
    /// Records in flight to this server, at most.
    pub window: u64,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            suspect_wait: Duration::from_millis(250),
            down_after: Duration::from_secs(3),
            down_after_attempts: 3,
            blocked_wait: Duration::from_secs(2),
            confirm_timeout: Duration::from_secs(5),
            connection_timeout: Duration::from_secs(10),
            reconnect: (Duration::from_millis(100), Duration::from_secs(5)),
            stable_for: Duration::from_secs(10),
            window: 5_000,
        }
    }
}

/// Time between two looks for records left behind.
pub const SWEEP: Duration = Duration::from_secs(1);

/// The connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Away,
    Connecting,
    Connected,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Backend {
    config: BackendConfig,
    state: State,
    link: Link,
    epoch: u32,
    gate: Word,
    timers: Timers,
    backoff: Backoff,
    flap: Flap,
    flaps: u32,
    ramp: Ramp,
    since: Moment,
    attempts: u32,
    turn: u32,
    backlog: u64,
    inflight: u64,
    forced: bool,
    paused: bool,
    closing: bool,
}

impl Backend {
    /// A backend that connects at the first tick. `seed` is for jitter.
    pub fn new(now: Moment, config: BackendConfig, seed: u64) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Reconnect, now);
        timers.set(Timer::Sweep, now.plus(SWEEP));
        Self {
            backoff: Backoff::between(seed, config.reconnect.0, config.reconnect.1),
            config,
            state: State::Init,
            link: Link::Away,
            epoch: 0,
            gate: Word { epoch: 0, way: Way::Spool },
            timers,
            flap: Flap::default(),
            flaps: 0,
            ramp: Ramp::default(),
            since: now,
            attempts: 0,
            turn: 0,
            backlog: 0,
            inflight: 0,
            forced: false,
            paused: false,
            closing: false,
        }
    }

    /// Takes in what happened; appends what to do.
    pub fn on(&mut self, now: Moment, input: Input, out: &mut Vec<Action>) {
        match input {
            // The one place where words of an earlier connection are dropped.
            Input::Link(epoch, _) if epoch != self.epoch => {}
            Input::Link(_, sign) => self.on_sign(now, sign, out),
            Input::Spool { backlog, inflight } => self.on_spool(now, backlog, inflight, out),
            Input::Command(command) => self.on_command(now, command, out),
            Input::Tick => {
                if let Some(timer) = self.timers.due(now) {
                    self.timers.stop(timer);
                    self.on_timer(now, timer, out);
                }
            }
        }
    }

    /// When it wants a [`Input::Tick`].
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// The timer that a tick at `now` would serve.
    pub fn due(&self, now: Moment) -> Option<Timer> {
        self.timers.due(now)
    }

    /// The gate word.
    pub fn gate(&self) -> Word {
        self.gate
    }

    /// The machine's own state, whatever is forced.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its state, for people.
    pub fn view(&self) -> View {
        let next_try = self.timers.is_set(Timer::Reconnect).then(|| self.timers.at(Timer::Reconnect));
        View {
            state: if self.forced { State::Down } else { self.state },
            forced: self.forced,
            paused: self.paused,
            since: self.since,
            epoch: self.epoch,
            attempts: self.attempts,
            next_try,
            flaps: self.flaps,
            rate: if self.state == State::Forwarding { self.ramp.rate() } else { 0 },
        }
    }

    fn on_sign(&mut self, now: Moment, sign: Sign, out: &mut Vec<Action>) {
        match sign {
            Sign::ConnectOk => self.connected(now, out),
            Sign::ConnectErr => self.connect_failed(now, out),
            Sign::Lost => self.lost(now, out),
            Sign::Sick => {
                if self.link == Link::Connected {
                    self.lost(now, out);
                }
            }
            Sign::Denied => self.denied(now, out),
            Sign::Blocked => self.blocked(now, out),
            Sign::Unblocked => {
                if self.state == State::Blocked {
                    self.forward(now, out);
                }
            }
            Sign::Overdue => self.overdue(now, out),
            Sign::InTime => {
                // Only a soft suspicion has a connection whose confirms can be in time.
                if self.state == State::Suspect && self.link == Link::Connected {
                    self.forward(now, out);
                }
            }
            Sign::ProbeOk => {
                if self.state == State::Probing {
                    self.forward(now, out);
                }
            }
            Sign::ProbeErr => {
                if self.state == State::Probing {
                    self.probed_in_vain(now, out);
                }
            }
        }
    }

    fn on_timer(&mut self, now: Moment, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Reconnect => self.connect(now, out),
            Timer::Answer => match self.link {
                Link::Connecting => {
                    out.push(Action::Disconnect { epoch: self.epoch });
                    self.connect_failed(now, out);
                }
                Link::Connected => self.probed_in_vain(now, out),
                Link::Away => {}
            },
            Timer::SuspectWait | Timer::BlockedWait => self.set_gate(Way::Spool, out),
            Timer::DownAfter => match self.link {
                Link::Connected => self.give_up(now, State::Down, false, out),
                Link::Away | Link::Connecting => self.enter(now, State::Down, out),
            },
            Timer::RampStep => self.step(now, out),
            Timer::StableFor => {
                self.backoff.reset();
                self.attempts = 0;
                self.timers.stop(Timer::RampStep);
                self.enter(now, State::Up, out);
            }
            Timer::Sweep => {
                self.timers.set(Timer::Sweep, now.plus(SWEEP));
                out.push(Action::Sweep);
            }
            Timer::ConfirmCheck => {
                self.timers.set(Timer::ConfirmCheck, now.plus(self.check_every()));
                out.push(Action::CheckConfirms);
            }
        }
    }

    fn on_spool(&mut self, now: Moment, backlog: u64, inflight: u64, out: &mut Vec<Action>) {
        (self.backlog, self.inflight) = (backlog, inflight);
        match self.state {
            // Something was left behind, or came back from a destination.
            State::Up if backlog > 0 => self.forward(now, out),
            State::Probing if backlog == 0 => self.forward(now, out),
            State::Forwarding if backlog > 0 => {
                self.timers.stop(Timer::StableFor);
                if !self.timers.is_set(Timer::RampStep) && !self.is_quiet() {
                    self.step(now, out);
                }
            }
            State::Forwarding if !self.timers.is_set(Timer::StableFor) => self.wait_stable(now),
            State::Init
            | State::Up
            | State::Suspect
            | State::Down
            | State::Probing
            | State::Forwarding
            | State::Blocked
            | State::Refused => {}
        }
    }

    fn on_command(&mut self, now: Moment, command: Command, out: &mut Vec<Action>) {
        let before = self.is_quiet();
        match command {
            Command::ForceDown => self.forced = true,
            Command::Auto => self.forced = false,
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
            Command::Close => self.closing = true,
        }
        let own = self.own_way();
        if self.allowed(own) != self.gate.way {
            self.set_gate(own, out);
        }
        if self.state == State::Forwarding && before != self.is_quiet() {
            match before {
                true => self.step(now, out),
                false => {
                    self.timers.stop(Timer::RampStep);
                    out.push(Action::StopForwarding);
                }
            }
        }
    }

    fn connect(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.epoch += 1;
        self.attempts = self.attempts.saturating_add(1);
        self.link = Link::Connecting;
        self.timers.set(Timer::Answer, now.plus(self.config.connection_timeout));
        out.push(Action::Connect { epoch: self.epoch, attempt: self.attempts });
    }

    fn connected(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.link != Link::Connecting {
            return;
        }
        self.link = Link::Connected;
        self.timers.stop(Timer::Answer);
        self.timers.stop(Timer::DownAfter);
        self.timers.set(Timer::ConfirmCheck, now.plus(self.check_every()));
        if self.backlog > 0 && !self.is_quiet() {
            // Still shut, but of this epoch: the probe belongs to it.
            self.set_gate(Way::Spool, out);
            self.turn = self.turn.wrapping_add(1);
            self.timers.set(Timer::Answer, now.plus(self.config.confirm_timeout));
            out.push(Action::Probe { epoch: self.epoch, turn: self.turn });
            self.enter(now, State::Probing, out);
        } else if self.backlog == 0 && self.flap.count(now) == 0 {
            // Never lost yet: there is nothing to be careful about.
            self.attempts = 0;
            self.backoff.reset();
            self.set_gate(Way::Open, out);
            self.enter(now, State::Up, out);
        } else {
            self.forward(now, out);
        }
    }

    fn connect_failed(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.link != Link::Connecting {
            return;
        }
        self.drop_link(now, false);
        match self.state {
            State::Init | State::Refused => self.enter(now, State::Down, out),
            State::Suspect if self.attempts >= self.config.down_after_attempts => {
                self.timers.stop(Timer::DownAfter);
                self.enter(now, State::Down, out);
            }
            State::Up | State::Suspect | State::Down | State::Probing | State::Forwarding | State::Blocked => {}
        }
    }

    fn lost(&mut self, now: Moment, out: &mut Vec<Action>) {
        match (self.link, self.state) {
            (Link::Away, _) => {}
            (Link::Connecting, _) => {
                // An attempt that goes on would be a second one beside the next.
                out.push(Action::Disconnect { epoch: self.epoch });
                self.connect_failed(now, out);
            }
            (Link::Connected, State::Probing) => self.give_up(now, State::Down, false, out),
            (Link::Connected, _) => {
                // A soft suspicion may have begun before: its time goes on.
                let down_at = self.timers.at(Timer::DownAfter).min(now.plus(self.config.down_after));
                self.give_up(now, State::Suspect, false, out);
                self.timers.set(Timer::DownAfter, down_at);
            }
        }
    }

    fn denied(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.link != Link::Away {
            self.give_up(now, State::Refused, true, out);
        }
    }

    fn blocked(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.link != Link::Connected || self.state == State::Blocked {
            return;
        }
        self.stop_work(out);
        // Nobody waits anew for a gate that was at the spool already.
        if self.gate.way != Way::Spool {
            self.set_gate(Way::Blocked, out);
            self.timers.set(Timer::BlockedWait, now.plus(self.config.blocked_wait));
        }
        self.enter(now, State::Blocked, out);
    }

    fn overdue(&mut self, now: Moment, out: &mut Vec<Action>) {
        match self.state {
            State::Up | State::Forwarding => {
                self.stop_work(out);
                self.set_gate(Way::Wait, out);
                self.timers.set(Timer::SuspectWait, now.plus(self.config.suspect_wait));
                self.timers.set(Timer::DownAfter, now.plus(self.config.down_after));
                self.enter(now, State::Suspect, out);
            }
            // A probe has its own time; a blocked server says why it confirms nothing.
            State::Init | State::Suspect | State::Down | State::Probing | State::Blocked | State::Refused => {}
        }
    }

    fn probed_in_vain(&mut self, now: Moment, out: &mut Vec<Action>) {
        out.push(Action::BlameProbed);
        self.give_up(now, State::Down, false, out);
    }

    /// Gives up the connection, or a connection that is being made, and goes to `state`.
    fn give_up(&mut self, now: Moment, state: State, denied: bool, out: &mut Vec<Action>) {
        self.stop_work(out);
        if self.link == Link::Connected {
            out.push(Action::Disconnect { epoch: self.epoch });
            self.flap.lost(now);
            self.flaps = self.flap.count(now);
        }
        self.drop_link(now, denied);
        self.set_gate(Way::Spool, out);
        self.enter(now, state, out);
    }

    /// There is no connection: what was in flight belongs to an epoch that is over.
    fn drop_link(&mut self, now: Moment, denied: bool) {
        self.epoch += 1;
        self.link = Link::Away;
        self.timers.stop(Timer::Answer);
        self.timers.stop(Timer::ConfirmCheck);
        self.timers.set(Timer::Reconnect, now.plus(self.backoff.next(denied)));
    }

    /// The gate opens, and what is stored goes out.
    fn forward(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.stop_work(out);
        self.ramp = Ramp::default();
        self.set_gate(Way::Open, out);
        if self.backlog == 0 {
            self.wait_stable(now);
        }
        self.enter(now, State::Forwarding, out);
        if !self.is_quiet() {
            self.step(now, out);
        }
    }

    fn step(&mut self, now: Moment, out: &mut Vec<Action>) {
        // The next report of a backlog takes the next step.
        if self.backlog == 0 {
            return;
        }
        self.timers.set(Timer::RampStep, Ramp::next(now));
        let budget = self.ramp.step(self.inflight, self.config.window);
        out.push(Action::Forward { budget });
    }

    fn wait_stable(&mut self, now: Moment) {
        let stable_for = self.flap.stable_for(now, self.config.stable_for);
        self.timers.set(Timer::StableFor, now.plus(stable_for));
    }

    /// Stops the timers that belong to a state, and forwarding.
    fn stop_work(&mut self, out: &mut Vec<Action>) {
        for timer in [Timer::Answer, Timer::SuspectWait, Timer::DownAfter, Timer::BlockedWait, Timer::StableFor] {
            self.timers.stop(timer);
        }
        self.timers.stop(Timer::RampStep);
        if self.state == State::Forwarding {
            out.push(Action::StopForwarding);
        }
    }

    fn enter(&mut self, now: Moment, to: State, out: &mut Vec<Action>) {
        let from = self.state;
        if from != to {
            (self.state, self.since) = (to, now);
            out.push(Action::Notify { from, to });
        }
    }

    /// What the machine's own state says of the gate.
    fn own_way(&self) -> Way {
        match self.state {
            State::Up | State::Forwarding => Way::Open,
            State::Suspect if self.timers.is_set(Timer::SuspectWait) => Way::Wait,
            State::Blocked if self.timers.is_set(Timer::BlockedWait) => Way::Blocked,
            State::Init | State::Suspect | State::Down | State::Probing | State::Blocked | State::Refused => Way::Spool,
        }
    }

    fn set_gate(&mut self, own: Way, out: &mut Vec<Action>) {
        let word = Word { epoch: self.epoch, way: self.allowed(own) };
        if word != self.gate {
            self.gate = word;
            out.push(Action::SetGate(word));
        }
    }

    /// Orders go before the machine's own state.
    fn allowed(&self, own: Way) -> Way {
        match (self.closing, self.forced) {
            (true, _) => Way::Refuse,
            (false, true) => Way::Spool,
            (false, false) => own,
        }
    }

    /// Nothing is forwarded, by order.
    fn is_quiet(&self) -> bool {
        self.forced || self.paused
    }

    /// Often enough that a missing confirm is noticed soon after its time.
    fn check_every(&self) -> Duration {
        (self.config.confirm_timeout / 8).clamp(Duration::from_millis(1), SWEEP)
    }
}
