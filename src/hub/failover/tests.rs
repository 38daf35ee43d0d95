//! The tables in the documentation of this module, replayed row by row.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::backend::{Action, Backend, BackendConfig, Command, Input, Sign, State};
use super::destination::{Deed, Destination, DestinationConfig, Seen, Standing};
use super::lane::{Ask, Completed, Decision, Fate, Kind, Lane, LaneAction, Place, Probe, Rules, Verdict};
use super::policy::{OnOutage, Room};
use super::timers::{Timer, KINDS};
use super::{Ending, Gate, Level, Way, Word};
use crate::clock::Moment;

/// The rows of one table: its cells, without the header.
fn table(name: &str) -> Vec<Vec<&'static str>> {
    let text = include_str!("mod.rs");
    let after = text.split(&format!("table of the {name}: begin")).nth(1).unwrap();
    let rows = after.split(&format!("table of the {name}: end")).next().unwrap().lines().skip(2);
    let cells = |line: &'static str| line.trim_start_matches("//!").split('|').map(str::trim).collect::<Vec<_>>();
    rows.map(cells).filter(|cells| cells.len() > 3).collect()
}

const STATES: [State; 8] = [
    State::Init,
    State::Up,
    State::Suspect,
    State::Down,
    State::Probing,
    State::Forwarding,
    State::Blocked,
    State::Refused,
];

const SIGNS: [Sign; 11] = [
    Sign::ConnectOk,
    Sign::ConnectErr,
    Sign::Lost,
    Sign::Denied,
    Sign::Blocked,
    Sign::Unblocked,
    Sign::Overdue,
    Sign::InTime,
    Sign::Sick,
    Sign::ProbeOk,
    Sign::ProbeErr,
];

/// A backend and the time.
struct Bench {
    machine: Backend,
    now: Moment,
    out: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        let config = BackendConfig { connection_timeout: Duration::from_secs(2), ..BackendConfig::default() };
        Self { machine: Backend::new(Moment(0), config, 7), now: Moment(0), out: Vec::new() }
    }

    fn on(&mut self, input: Input) {
        self.machine.on(self.now, input, &mut self.out);
    }

    fn sign(&mut self, sign: Sign) {
        let epoch = self.machine.view().epoch;
        self.on(Input::Link(epoch, sign));
    }

    fn spool(&mut self, backlog: u64) {
        self.on(Input::Spool { backlog, inflight: 0 });
    }

    /// Lets time pass until this timer is due.
    fn until(&mut self, timer: Timer) {
        for _ in 0..10_000 {
            self.now = self.now.max(self.machine.next_deadline().unwrap());
            if self.machine.due(self.now) == Some(timer) {
                return;
            }
            self.on(Input::Tick);
        }
        panic!("{timer:?} never comes in {:?}", self.machine);
    }

    fn ring(&mut self, timer: Timer) {
        self.until(timer);
        self.on(Input::Tick);
    }

    /// The machine in a state; `case` says which of several ways it got there.
    fn prepared(state: State, input: &str, case: &str) -> Self {
        let mut bench = Self::new();
        let goes_on = case != "away" && !input.starts_with("timer Reconnect");
        let lose = |bench: &mut Self| {
            bench.ring(Timer::Reconnect);
            bench.sign(Sign::ConnectOk);
            bench.sign(Sign::Lost);
        };
        match state {
            State::Init => {}
            State::Up => {
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::ConnectOk);
            }
            State::Suspect if matches!(case, "connected" | "forced") || input == "ForceDown" => {
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::ConnectOk);
                bench.spool(5);
                bench.sign(Sign::Overdue);
            }
            State::Suspect => lose(&mut bench),
            State::Down if case == "lost before" => {
                lose(&mut bench);
                bench.ring(Timer::DownAfter);
            }
            State::Down => {
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::ConnectErr);
            }
            State::Probing => {
                bench.spool(5);
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::ConnectOk);
            }
            State::Forwarding | State::Blocked => {
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::ConnectOk);
                bench.spool(5);
            }
            State::Refused => {
                if case == "lost before" {
                    lose(&mut bench);
                }
                bench.ring(Timer::Reconnect);
                bench.sign(Sign::Denied);
            }
        }
        match state {
            State::Blocked => bench.sign(Sign::Blocked),
            State::Init | State::Suspect | State::Down | State::Refused if goes_on => bench.connecting(),
            State::Init | State::Up | State::Suspect | State::Down | State::Probing => {}
            State::Forwarding | State::Refused => {}
        }
        bench.case(case);
        assert_eq!(bench.machine.state(), state, "{input}, {case}");
        bench.out.clear();
        bench
    }

    /// An attempt to connect is on its way, where there is no connection.
    fn connecting(&mut self) {
        if self.machine.view().next_try.is_some() {
            self.ring(Timer::Reconnect);
        }
    }

    fn case(&mut self, case: &str) {
        match case {
            "backlog" => self.spool(5),
            "no backlog" => self.spool(0),
            "none before" => {
                self.spool(0);
                self.ring(Timer::RampStep);
            }
            "paused" => {
                self.spool(5);
                self.on(Input::Command(Command::Pause));
            }
            "forced" => self.on(Input::Command(Command::ForceDown)),
            "third" => {
                for _ in 0..2 {
                    self.sign(Sign::ConnectErr);
                    self.ring(Timer::Reconnect);
                }
            }
            "" | "never lost" | "lost before" | "away" | "connected" => {}
            _ => panic!("{case}"),
        }
    }

    fn apply(&mut self, input: &str) {
        let commands = [Command::ForceDown, Command::Auto, Command::Pause, Command::Resume, Command::Close];
        let sign = SIGNS.into_iter().find(|sign| format!("{sign:?}") == input);
        let command = commands.into_iter().find(|command| format!("{command:?}") == input);
        match (input, sign, command) {
            (_, Some(sign), _) => self.sign(sign),
            (_, _, Some(command)) => self.on(Input::Command(command)),
            ("backlog", ..) => self.spool(5),
            ("no backlog", ..) => self.spool(0),
            _ => {
                let named = |timer: &Timer| format!("timer {timer:?}") == input;
                self.until(KINDS.into_iter().find(named).unwrap_or_else(|| panic!("{input}")));
                self.out.clear();
                self.on(Input::Tick);
            }
        }
    }
}

fn name(action: &Action) -> Option<String> {
    match action {
        Action::SetGate(word) => Some(format!("Gate({:?})", word.way)),
        Action::Connect { .. } => Some("Connect".into()),
        Action::Disconnect { .. } => Some("Disconnect".into()),
        Action::Probe { .. } => Some("Probe".into()),
        Action::BlameProbed => Some("BlameProbed".into()),
        Action::Forward { .. } => Some("Forward".into()),
        Action::StopForwarding => Some("StopForwarding".into()),
        Action::Sweep => Some("Sweep".into()),
        Action::CheckConfirms => Some("CheckConfirms".into()),
        Action::Notify { .. } => None,
    }
}

/// The backend's rows, with `any`, lists and `=` written out.
fn backend_rows() -> Vec<(State, &'static str, &'static str, State, &'static str)> {
    let state = |name: &str| STATES.into_iter().find(|state| format!("{state:?}") == name).unwrap();
    let mut out = Vec::new();
    for row in table("backend") {
        let [states, input, to, actions] = row[..] else { panic!("{row:?}") };
        let (input, case) = input.split_once(", ").unwrap_or((input, ""));
        let all: Vec<State> = if states == "any" { STATES.into() } else { states.split(' ').map(state).collect() };
        for from in all {
            out.push((from, input, case, if to == "=" { from } else { state(to) }, actions));
        }
    }
    out
}

#[test]
fn the_table_of_the_backend_is_what_it_does() {
    for (from, input, case, to, actions) in backend_rows() {
        let mut bench = Bench::prepared(from, input, case);
        bench.apply(input);
        let done: Vec<String> = bench.out.iter().filter_map(name).collect();
        assert_eq!(
            (bench.machine.state(), done.join(" ").as_str()),
            (to, actions),
            "{from:?} | {input}, {case}: {:?}",
            bench.out
        );
    }
}

#[test]
fn what_is_in_no_row_of_the_backend_has_no_effect() {
    let rows = backend_rows();
    let mut quiet = 0;
    for from in STATES {
        for case in ["", "away", "connected"] {
            if case == "connected" && from != State::Suspect {
                continue;
            }
            for sign in SIGNS {
                let input = format!("{sign:?}");
                if rows.iter().any(|row| row.0 == from && row.1 == input) {
                    continue;
                }
                let mut bench = Bench::prepared(from, "", case);
                bench.sign(sign);
                assert_eq!((bench.machine.state(), bench.out.len()), (from, 0), "{from:?} | {input}, {case}");
                quiet += 1;
            }
        }
        // Words of another epoch have no effect, whatever they are.
        for sign in SIGNS {
            let mut bench = Bench::prepared(from, "", "");
            let epoch = bench.machine.view().epoch;
            bench.on(Input::Link(epoch.wrapping_sub(1), sign));
            bench.on(Input::Link(epoch + 1, sign));
            assert_eq!((bench.machine.state(), bench.out.len()), (from, 0), "{from:?} | {sign:?} of another epoch");
        }
    }
    assert!(quiet > 60, "{quiet}");
}

#[test]
fn the_table_of_the_destination_is_what_it_does() {
    let all =
        [Seen::Gone, Seen::Vain, Seen::Away, Seen::Overdue, Seen::Back, Seen::InTime, Seen::ProbeOk, Seen::ProbeErr];
    let standings = [Standing::Fine, Standing::Doubtful, Standing::Gone, Standing::Tried];
    let prepared = |from: Standing, case: &str| {
        let wait = Duration::from_millis(100);
        let config = DestinationConfig {
            suspect_wait: wait,
            down_after: wait * 10,
            confirm_timeout: wait * 20,
            probe: (wait, wait),
        };
        let (mut machine, mut out) = (Destination::new(config, 3), Vec::new());
        match from {
            Standing::Fine => {}
            Standing::Doubtful => machine.on(Moment(0), 0, Seen::Overdue, &mut out),
            Standing::Gone | Standing::Tried => machine.on(Moment(0), 0, Seen::Gone, &mut out),
        }
        let ticks = match (from, case) {
            (Standing::Tried, "third") => 5,
            (Standing::Tried, _) => 1,
            _ => 0,
        };
        (0..ticks).for_each(|_| machine.tick(machine.next_deadline().unwrap(), &mut out));
        assert_eq!(machine.standing(), from);
        machine
    };
    let done = |out: &[Deed]| {
        let name = |deed: &Deed| match deed {
            Deed::SetGate(word) => format!("Gate({:?})", word.way),
            Deed::Purge { .. } => "Purge".into(),
            Deed::Doubt { .. } => "Doubt".into(),
            Deed::Probe { .. } => "Probe".into(),
        };
        out.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let rows = table("destination");
    for row in &rows {
        let [from, input, to, actions] = row[..] else { panic!("{row:?}") };
        let (input, case) = input.split_once(", ").unwrap_or((input, ""));
        let from = standings.into_iter().find(|standing| format!("{standing:?}") == from).unwrap();
        let (mut machine, mut out) = (prepared(from, case), Vec::new());
        match all.into_iter().find(|seen| format!("{seen:?}") == input) {
            Some(seen) => machine.on(Moment(1), machine.gate().epoch, seen, &mut out),
            None => loop {
                let due = machine.next_deadline().unwrap();
                let timer = format!("timer {:?}", machine.due(due).unwrap());
                out.clear();
                machine.tick(due, &mut out);
                if timer == input {
                    break;
                }
            },
        }
        let to = if to == "=" { format!("{from:?}") } else { to.to_owned() };
        assert_eq!((format!("{:?}", machine.standing()), done(&out).as_str()), (to, actions), "{row:?}");
    }
    for (from, seen) in standings.iter().flat_map(|from| all.map(|seen| (*from, seen))) {
        let mut out = Vec::new();
        let (mut machine, input) = (prepared(from, ""), format!("{seen:?}"));
        machine.on(Moment(1), machine.gate().epoch + 1, seen, &mut out);
        assert!(out.is_empty(), "{from:?} | {seen:?} of another epoch");
        if !rows.iter().any(|row| row[0] == format!("{from:?}") && row[1] == input) {
            machine.on(Moment(1), machine.gate().epoch, seen, &mut out);
            assert_eq!((machine.standing(), out.len()), (from, 0), "{from:?} | {seen:?}");
        }
    }
}

/// A lane with one record, and what drives it.
struct Script {
    lane: Lane,
    rules: Rules,
    gate: Gate,
    now: Moment,
    numbers: AtomicU64,
    seq: u64,
    sent: u64,
    out: Vec<LaneAction>,
    decided: Option<Decision>,
}

impl Script {
    fn new() -> Self {
        let rules = Rules {
            kind: Kind::Task,
            on_outage: OnOutage::Local,
            strict: false,
            spool_level: Level::Disk,
            suspect_wait: Duration::ZERO,
            blocked_wait: Duration::ZERO,
            short_backlog: 0,
            one_copy: false,
        };
        let gate = Gate { epoch: 1, way: Way::Open };
        let (lane, numbers) = (Lane::new(false, &rules), AtomicU64::new(1));
        Self { lane, rules, gate, now: Moment(0), numbers, seq: 0, sent: 1, out: Vec::new(), decided: None }
    }

    fn publish(&mut self, way: Way, require: Option<Level>, expires: Moment) {
        self.gate.way = way;
        let (began, deadline, due) = (self.now, self.now, Moment(0));
        let ask = Ask { began, deadline, require, expires, due, room: Room::Free };
        let decided = self.lane.publish(self.now, self.gate, &self.rules, &ask, &self.numbers, &mut self.out);
        if let Decision::Send(seq) | Decision::Append(seq) = decided {
            self.seq = seq;
        }
        self.decided = Some(decided);
    }

    fn does(&mut self, word: &str) {
        let (seq, now, gate) = (self.seq, self.now, self.gate);
        let (lane, rules, out) = (&mut self.lane, &self.rules, &mut self.out);
        let shut = Gate { way: Way::Spool, ..gate };
        let open = Gate { way: Way::Open, ..gate };
        match word {
            "" => {}
            "direct" | "publish, open" => self.publish(Way::Open, None, Moment::NEVER),
            "direct server" => self.publish(Way::Open, Some(Level::Broker), Moment::NEVER),
            "direct fail" => {
                self.rules.on_outage = OnOutage::Fail;
                self.publish(Way::Open, None, Moment::NEVER);
            }
            "stored" | "publish, shut" => self.publish(Way::Spool, None, Moment::NEVER),
            "short" => self.publish(Way::Spool, None, Moment(1)),
            "event" => {
                self.rules.kind = Kind::Event;
                self.publish(Way::Spool, None, Moment::NEVER);
            }
            "strict" => {
                self.rules.strict = true;
                self.publish(Way::Spool, None, Moment::NEVER);
            }
            "behind server" => {
                self.publish(Way::Spool, None, Moment::NEVER);
                self.does("appended");
                self.publish(Way::Open, Some(Level::Broker), Moment::NEVER);
                self.lane.evict(&mut self.out);
            }
            "epoch" => {
                self.gate.epoch += 1;
                self.lane.meet(self.gate, out);
            }
            "overdue" => lane.overdue(now, Duration::ZERO, out),
            "late" => self.now = Moment(2),
            "shut" => self.gate.way = Way::Spool,
            "confirmed" => lane.complete(seq, self.sent, Ending::Confirmed, rules, out),
            "refused" => lane.complete(seq, self.sent, Ending::Refused, rules, out),
            "not_sent" => lane.complete(seq, self.sent, Ending::NotSent, rules, out),
            "unknown" => lane.complete(seq, self.sent, Ending::Unknown, rules, out),
            "not taken" => lane.not_taken(seq),
            "appended" => lane.appended(seq, Level::Disk, out),
            "append_failed" => lane.append_failed(seq, false, out),
            "timed_out" => lane.timed_out(seq, out),
            "withdrawn" => lane.withdrawn(seq, true, out),
            "not_withdrawn" => lane.withdrawn(seq, false, out),
            "forward" => {
                self.gate = open;
                let _ = lane.forward(now, open, 10, out);
            }
            "probe" => assert!(lane.probe(now, shut, out).is_some() || lane.is_idle()),
            "marked" => lane.marked(now, seq, true, gate, out),
            "marked before" => {
                lane.forward(now, open, 10, out);
                lane.marked(now, seq, true, shut, out);
            }
            "mark_failed" => lane.marked(now, seq, false, gate, out),
            "lease" => assert!(lane.lease(now, shut, rules, out).is_some() || lane.is_idle()),
            "done" => lane.settle(seq, Verdict::Done, out),
            "dead" => lane.settle(seq, Verdict::Dead, out),
            "failed" => lane.settle(seq, Verdict::Failed(now), out),
            "returned" => lane.settle(seq, Verdict::Returned, out),
            "handled" => lane.handled(seq, 1, out),
            "expire" => lane.expire(now, out),
            "evict" => drop(lane.evict(out)),
            "skip" => lane.release(true, out),
            _ => panic!("{word}"),
        }
    }

    /// Whoever looks at many lanes passes those over that would do nothing.
    fn tells_whether_it_may_forward(&self) {
        let (mut lane, open) = (self.lane.clone(), Gate { way: Way::Open, ..self.gate });
        lane.meet(open, &mut Vec::new());
        let (may, held_up, mut out) = (lane.may_forward(), lane.held_up, Vec::new());
        lane.forward(self.now, open, 1, &mut out);
        assert_eq!(may, !out.is_empty() || lane.held_up != held_up, "{:?}", self.lane);
    }

    fn place(&self) -> String {
        let place = self.lane.places().find(|(seq, _)| *seq == self.seq).map(|(_, place)| place);
        place.map_or("-".into(), |place: Place| format!("{place:?}"))
    }

    fn actions(&self) -> String {
        let decided = self.decided.map(|decided| match decided {
            Decision::Send(_) => "decided(Send)".into(),
            Decision::Append(_) => "decided(Append)".into(),
            _ => format!("{decided:?}"),
        });
        let flag = |name: &str, maybe_dup: bool| if maybe_dup { format!("{name}(maybe_dup)") } else { name.into() };
        let name = |action: &LaneAction| match *action {
            LaneAction::Append { maybe_dup, .. } => flag("Append", maybe_dup),
            LaneAction::Send { maybe_dup, .. } => flag("Send", maybe_dup),
            LaneAction::Mark { .. } => "Mark".into(),
            LaneAction::Remove { .. } => "Remove".into(),
            LaneAction::Withdraw { .. } => "Withdraw".into(),
            LaneAction::Note { .. } => "Note".into(),
            LaneAction::Complete { completed: Completed::Reached(level), .. } => format!("Complete({level:?})"),
            LaneAction::Complete { completed, .. } => format!("Complete({completed:?})"),
            LaneAction::Fate { fate, .. } => format!("Fate({fate:?})"),
            LaneAction::DeadLetter { .. } => "DeadLetter".into(),
            LaneAction::Alarm { .. } => "Alarm".into(),
            LaneAction::Wake => "Wake".into(),
        };
        decided.into_iter().chain(self.out.iter().map(name)).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn the_table_of_the_record_is_what_the_lane_does() {
    for row in table("record") {
        let [given, from, input, to, actions] = row[..] else { panic!("{row:?}") };
        let mut script = Script::new();
        given.split(", ").for_each(|word| script.does(word));
        assert_eq!(script.place(), from, "{row:?}: {:?}", script.lane);
        script.tells_whether_it_may_forward();
        script.out.clear();
        script.decided = None;
        match input {
            "publish, open" | "publish, shut" => script.does(input),
            _ => {
                let (input, case) = input.split_once(", ").unwrap_or((input, ""));
                script.does(case);
                script.does(input);
            }
        }
        let to = if to == "=" { from } else { to };
        assert_eq!((script.place().as_str(), script.actions().as_str()), (to, actions), "{row:?}: {:?}", script.lane);
        script.tells_whether_it_may_forward();
    }
}

/// Several records of one lane, as they come and go.
#[test]
fn a_lane_keeps_its_order_across_a_loss_and_goes_direct_with_its_last_record() {
    let mut script = Script::new();
    (0..3).for_each(|_| script.does("direct"));
    script.gate.epoch = 2;
    script.publish(Way::Spool, None, Moment::NEVER);
    for seq in 1..=4 {
        script.lane.appended(seq, Level::Disk, &mut script.out);
    }
    script.out.clear();
    script.does("forward");
    let marks = |flag: bool, seq| LaneAction::Send { seq, epoch: 2, maybe_dup: flag, attempt: 0, handled: 0 };
    assert_eq!(script.out, [marks(true, 1), marks(true, 2), marks(true, 3), LaneAction::Mark { seq: 4 }]);
    script.lane.marked(script.now, 4, true, script.gate, &mut script.out);
    for seq in [2, 1, 3] {
        script.lane.complete(seq, 2, Ending::Confirmed, &script.rules, &mut script.out);
        script.publish(Way::Open, None, Moment::NEVER);
        assert!(matches!(script.decided, Some(Decision::Append(_))), "{:?}", script.lane);
        let last = script.seq;
        script.lane.append_failed(last, false, &mut script.out);
    }
    script.out.clear();
    script.lane.complete(4, 2, Ending::Confirmed, &script.rules, &mut script.out);
    let fate = LaneAction::Fate { seq: 4, fate: Fate::Confirmed };
    assert_eq!(script.out, [LaneAction::Remove { seq: 4 }, fate, LaneAction::Wake]);
    assert!(script.lane.is_idle());
    script.publish(Way::Open, None, Moment::NEVER);
    assert!(matches!(script.decided, Some(Decision::Send(_))));
}

/// A client told an ending twice: the second one came when the record was out again, and took back the
/// flag of the newer copy.
#[test]
fn an_ending_counts_for_its_own_copy_alone() {
    let mut script = Script::new();
    let words = ["direct", "epoch", "not_sent", "appended", "forward", "marked"];
    words.iter().for_each(|word| script.does(word));
    assert!(matches!(script.out.last(), Some(LaneAction::Send { maybe_dup: false, epoch: 2, .. })), "{:?}", script.out);
    // Still the first epoch: to the copy that flies it says nothing.
    script.does("not_sent");
    assert_eq!(script.place(), "Flying");
    ["epoch", "not_sent", "forward"].iter().for_each(|word| script.does(word));
    assert!(matches!(script.out.last(), Some(LaneAction::Send { maybe_dup: true, epoch: 3, .. })), "{:?}", script.out);
}

#[test]
fn a_copy_that_has_no_ending_is_the_only_one() {
    let mut script = Script::new();
    script.rules.one_copy = true;
    script.lane = Lane::new(false, &script.rules);
    ["direct", "epoch", "appended", "late", "forward"].iter().for_each(|word| script.does(word));
    assert_eq!((script.place().as_str(), script.lane.oldest_flight()), ("Queued", Some(Moment(2))));
    let probe = script.lane.probe(script.now, script.gate, &mut script.out);
    assert_eq!(probe, Some(Probe { seq: script.seq, awaits: Some(1) }));
    ["unknown", "forward"].iter().for_each(|word| script.does(word));
    assert!(matches!(script.out.last(), Some(LaneAction::Send { maybe_dup: true, .. })), "{:?}", script.out);
}

/// What a long backlog costs in memory, each record.
#[test]
fn a_record_is_small() {
    assert!(std::mem::size_of::<super::record::Record>() <= 104);
}

#[test]
fn a_gate_fits_a_word_and_its_epochs_only_rise() {
    for way in [Way::Open, Way::Wait, Way::Blocked, Way::Spool, Way::Refuse] {
        let word = Word { epoch: u32::MAX - 1, way };
        assert_eq!(Word::unpack(word.pack()), word);
    }
    assert_eq!(Word::unpack(u64::MAX).way, Way::Spool);
    let word = |epoch, way| Word { epoch, way };
    let gate = Gate::of(word(2, Way::Open), word(9, Way::Spool));
    assert_eq!(gate.way, Way::Spool);
    assert!(Gate::of(word(3, Way::Open), word(9, Way::Open)).epoch > gate.epoch);
    assert!(Gate::of(word(2, Way::Open), word(10, Way::Open)).epoch > gate.epoch);
}
