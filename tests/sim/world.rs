//! The world: one heap of events in virtual time, the hub's process, and all that is outside of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;

use helixmq::clock::Moment;
use helixmq::hub::failover::backend::{Action, Backend, BackendConfig, Command, Input, Sign, State};
use helixmq::hub::failover::backoff::DENIED;
use helixmq::hub::failover::destination::{Deed, Destination, DestinationConfig, Seen};
use helixmq::hub::failover::flap::STABLE_MAX;
use helixmq::hub::failover::lane::{Decision, Lane, LaneAction, Place, Probe, Verdict};
use helixmq::hub::failover::Ending;

use crate::broker_model::{Server, Wire};
use crate::checker::Checker;
use crate::clients::Call;
use crate::nemesis::Fault;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::store_model::Store;
use crate::table::Marks;
use crate::LaneId;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
/// Shorter than in a real hub, so that a run sees it end.
pub const STABLE_FOR: Duration = Duration::from_secs(2);

/// What can happen. `run`: the process that it belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    Publish,
    Ask {
        run: u32,
        call: usize,
    },
    Deadline {
        run: u32,
        call: usize,
    },
    Sign {
        run: u32,
        epoch: u32,
        sign: Sign,
    },
    /// A sign that comes once more, when its epoch is over.
    Echo {
        run: u32,
        epoch: u32,
        sign: Sign,
    },
    Seen {
        run: u32,
        topic: usize,
        epoch: u32,
        seen: Seen,
    },
    Attempt {
        run: u32,
        epoch: u32,
    },
    Lost {
        conn: u32,
    },
    Arrive {
        conn: u32,
    },
    Ends {
        run: u32,
        lane: LaneId,
        seq: u64,
        epoch: u64,
        ending: Ending,
        conn: u32,
    },
    Written,
    Work,
    Worked {
        run: u32,
        lane: LaneId,
        seq: u64,
        verdict: Option<Verdict>,
    },
    Show,
    Shown {
        run: u32,
        lane: LaneId,
        seq: u64,
        group: u64,
    },
    Order(Command),
    Release {
        run: u32,
        lane: LaneId,
        skip: bool,
    },
    Nemesis,
    Heal(Fault, usize),
    Restart,
}

/// A line of the report of a failure.
#[expect(dead_code, reason = "the fields are for the report, which prints them by `Debug`")]
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Event(Event),
    Tick,
    Backend(State, Input, State),
    Action(Action),
    Deed(usize, Deed),
    Lane(LaneId, LaneAction),
    Decided(LaneId, Decision),
    Read(u64, bool, bool),
}

/// The hub's process: what a crash takes away.
pub struct Hub {
    pub backend: Backend,
    pub destinations: Vec<Destination>,
    pub lanes: BTreeMap<LaneId, Lane>,
    pub calls: Vec<Call>,
    /// Calls that wait for a gate or a lane.
    pub waiting: Vec<usize>,
    /// The record that shows whether the server takes any.
    pub probe: Option<(u32, LaneId, Probe)>,
    pub tried: Vec<Option<(u32, LaneId, Probe)>>,
    /// When the server last confirmed something on the present connection.
    pub confirmed: Option<Moment>,
    pub connecting: Option<u32>,
    /// When it was last refused who it is.
    pub denied: Option<Moment>,
    pub last_epoch: u32,
}

pub struct World {
    pub setup: Setup,
    pub rng: Rng,
    pub now: Moment,
    pub run: u32,
    pub hub: Option<Hub>,
    pub server: Server,
    pub store: Store,
    pub checker: Checker,
    pub marks: Marks,
    pub numbers: Arc<AtomicU64>,
    /// Where the records of a lane were, before it was asked something.
    pub before: Vec<(u64, Place)>,
    pub calm: bool,
    pub actions: Vec<Action>,
    /// Of this process, told as not sent: may be told again.
    pub told: Vec<Wire>,
    /// When the connection said its last word.
    pub said: u64,
    pub published: usize,
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    trace: VecDeque<(Moment, Step)>,
    ticks_now: (Moment, u32),
    /// Steps that a report shows; `SIM_LAST` asks for more.
    last_steps: usize,
}

impl World {
    pub fn new(setup: Setup, marks: Marks) -> Self {
        let mut world = Self {
            rng: Rng::new(setup.seed ^ 0xfeed),
            now: Moment(0),
            run: 0,
            hub: None,
            server: Server::new(setup.rules.len(), setup.window, setup.rules.iter().any(|rules| rules.one_copy)),
            store: Store::new(),
            checker: Checker::new(&setup),
            marks,
            numbers: Arc::new(AtomicU64::new(1)),
            before: Vec::new(),
            calm: false,
            actions: Vec::new(),
            told: Vec::new(),
            said: 0,
            published: 0,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            trace: VecDeque::new(),
            ticks_now: (Moment(0), 0),
            last_steps: std::env::var("SIM_LAST").map_or(40, |text| text.parse().unwrap()),
            setup,
        };
        world.start_process();
        world.after(0, Event::Publish);
        if world.setup.chance {
            let first = world.rng.below(world.setup.fault_every);
            world.after(first, Event::Nemesis);
            // A disk that is slow all the time: what is being written is met more often.
            world.store.slow = world.rng.chance(30);
            if world.rng.chance(10) {
                world.after(0, Event::Order(Command::Pause));
                world.after(SECOND, Event::Order(Command::Resume));
            }
            if world.rng.chance(30) {
                // The program starts before its server does.
                let fault = world.rng.pick(&[Fault::Down, Fault::Hole, Fault::Denied, Fault::Blocked]);
                world.fault(fault, 0);
                let lasts = world.rng.between(100, 5_000) * MS;
                world.after(lasts, Event::Heal(fault, 0));
            }
        }
        world.after(5 * MS, Event::Work);
        world.after(7 * MS, Event::Show);
        world
    }

    /// A process begins: the machines are new, the lanes are those of the store.
    pub fn start_process(&mut self) {
        self.run += 1;
        self.server.forget_client();
        self.told.clear();
        let config = BackendConfig {
            confirm_timeout: Duration::from_secs(1),
            connection_timeout: Duration::from_millis(1_500),
            stable_for: STABLE_FOR,
            window: self.setup.window as u64,
            ..BackendConfig::default()
        };
        let per_topic = DestinationConfig {
            suspect_wait: config.suspect_wait,
            down_after: config.down_after,
            confirm_timeout: config.confirm_timeout,
            probe: config.reconnect,
        };
        let config = match self.setup.chance {
            true => self.other_times(config),
            false => config,
        };
        let seed = self.rng.next();
        let topics = self.setup.rules.len();
        self.hub = Some(Hub {
            backend: Backend::new(self.now, config, seed),
            destinations: (0..topics).map(|at| Destination::new(per_topic.clone(), seed ^ at as u64)).collect(),
            lanes: self.recovered_lanes(),
            calls: Vec::new(),
            waiting: Vec::new(),
            probe: None,
            tried: vec![None; topics],
            confirmed: None,
            connecting: None,
            denied: None,
            last_epoch: 0,
        });
    }

    /// Other figures than the usual ones.
    fn other_times(&mut self, config: BackendConfig) -> BackendConfig {
        BackendConfig {
            suspect_wait: self.setup.rules[0].suspect_wait,
            blocked_wait: self.setup.rules[0].blocked_wait,
            down_after: Duration::from_millis(self.rng.pick(&[400, 3_000])),
            down_after_attempts: self.rng.pick(&[1, 3]) as u32,
            ..config
        }
    }

    pub fn after(&mut self, nanos: u64, event: Event) {
        self.at(Moment(self.now.0 + nanos), event);
    }

    pub fn at(&mut self, at: Moment, event: Event) {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.events.push(None);
                self.events.len() - 1
            }
        };
        self.events[place] = Some(event);
        let tie = self.rng.next();
        self.heap.push(Reverse((at, tie, place)));
    }

    /// Faults, until the time for them is over.
    pub fn run_faults(&mut self) {
        while self.now.0 < self.setup.until {
            self.step();
        }
    }

    /// A few publishes, with one fault at the given step; answers whether they were over before.
    pub fn run_small(&mut self, fault: Fault, at: usize) -> bool {
        for step in 0.. {
            if step == at {
                self.fault(fault, 0);
                let lasts = self.rng.between(20, 3_000) * MS;
                self.after(lasts, Event::Heal(fault, 0));
            }
            let settled = self.checker.open() == 0 && self.published >= 3;
            if settled && (step > at || step < at && self.lanes_idle()) {
                return step < at;
            }
            if self.now.0 > 60 * SECOND {
                return false;
            }
            self.step();
        }
        false
    }

    /// Steps until `there`, for at most so many seconds of the world's time.
    pub fn step_until(&mut self, seconds: u64, there: impl Fn(&World) -> bool) {
        let until = self.now.0 + seconds * SECOND;
        while !there(self) {
            if self.now.0 > until {
                self.fail("what was waited for does not happen");
            }
            self.step();
        }
    }

    pub fn state(&self) -> State {
        self.hub.as_ref().unwrap().backend.state()
    }

    pub fn stored(&self, topic: usize) -> usize {
        self.checker.stored(topic)
    }

    pub fn lanes_idle_of(&self, topic: usize) -> bool {
        self.hub.as_ref().unwrap().lanes.keys().all(|id| id.topic != topic)
    }

    /// No more faults: everything stored goes out, in the time that the ramp takes, and the server
    /// counts as up.
    pub fn run_to_rest(&mut self) {
        self.calm = true;
        self.heal_all();
        if self.rng.chance(30) {
            let later = if self.rng.chance(50) { 0 } else { self.rng.between(1, 2_000) };
            self.after(later * MS, Event::Order(Command::Close));
        }
        let backlog = self.hub.as_ref().map_or(0, |hub| hub.lanes.values().map(Lane::backlog).sum());
        // The ramp may begin anew once for each destination that comes back; a login that was
        // refused is tried again after a while; a soft suspicion takes its time.
        let ramps = ramp_time(backlog + 100, self.setup.window) * (2 + self.setup.rules.len() as u32);
        let bound = self.now.plus(DENIED + ramps + Duration::from_secs(40));
        while !self.lanes_idle() || self.hub.is_none() {
            if self.now > bound {
                let lanes = self.hub.as_ref().map(|hub| &hub.lanes);
                let text = format!("liveness: not empty in time, server {:?}: {lanes:?}", self.server);
                self.fail(&text);
            }
            self.step();
        }
        let bound = self.now.plus(STABLE_MAX + Duration::from_secs(40));
        while self.hub.as_ref().is_some_and(|hub| hub.backend.state() != State::Up) {
            if self.now > bound {
                self.fail("liveness: the backend is not up in time");
            }
            self.step();
        }
        let checked = self.checker.at_rest();
        self.check(checked);
    }

    pub fn lanes_idle(&self) -> bool {
        self.hub.as_ref().is_some_and(|hub| hub.lanes.is_empty() && hub.waiting.is_empty())
    }

    /// One thing happens: a timer of a machine, or the next event.
    pub fn step(&mut self) {
        let next = self.heap.peek().map(|Reverse((at, _, _))| *at);
        if let Some(at) = self.next_deadline().filter(|at| next.is_none_or(|next| *at <= next)) {
            if at < self.now {
                self.fail("I8: a deadline lies in the past");
            }
            self.now = at;
            self.trace(Step::Tick);
            self.count_tick();
            self.tick();
        } else if let Some(Reverse((at, _, place))) = self.heap.pop() {
            self.now = at;
            if let Some(event) = self.events[place].take() {
                self.free.push(place);
                self.trace(Step::Event(event));
                self.happens(event);
            }
        } else {
            self.fail("nothing will ever happen again");
        }
        self.after_step();
    }

    /// Machines that ask for one tick after another at one moment spin.
    fn count_tick(&mut self) {
        self.ticks_now = match self.ticks_now {
            (at, count) if at == self.now => (at, count + 1),
            _ => (self.now, 0),
        };
        if self.ticks_now.1 > 64 {
            self.fail("I8: more than 64 steps at one moment");
        }
    }

    fn after_step(&mut self) {
        let checked = self.checker.after_step(self.hub.as_ref());
        self.check(checked);
    }

    pub fn trace(&mut self, step: Step) {
        if self.trace.len() >= self.last_steps {
            self.trace.pop_front();
        }
        self.trace.push_back((self.now, step));
    }

    pub fn check(&self, checked: Result<(), String>) {
        if let Err(text) = checked {
            self.fail(&text);
        }
    }

    pub fn fail(&self, text: &str) -> ! {
        let mut report = format!("seed {} at {} ms: {text}\nthe last steps:\n", self.setup.seed, self.now.0 / MS);
        for (at, step) in &self.trace {
            report.push_str(&format!("{:>12.3} ms  {step:?}\n", at.0 as f64 / MS as f64));
        }
        panic!("{report}");
    }
}

/// Seconds that the ramp takes: 64 in the first, twice as many in each that follows, and no more in
/// a tenth of a second than half of the window.
pub fn ramp_time(records: usize, window: usize) -> Duration {
    let (mut left, mut rate, mut seconds) = (records, 64, 0);
    while left > 0 {
        left = left.saturating_sub(rate.min(window / 2 * 10));
        rate = (rate * 2).min(1 << 20);
        seconds += 1;
    }
    Duration::from_secs(seconds)
}
