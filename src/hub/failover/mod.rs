//! What a hub does about servers that come and go: pure machines, and nothing else.
//!
//! No I/O, no threads, no clock, no logging: what happened and the moment are passed in, what is to be
//! done comes back as values, in order. A driver executes them and holds no rule. `tests/sim` runs these
//! machines in a world of faults; it finds the tables below in this text, as `tests.rs` here does.
//!
//! ```text
//!  signs, commands, ticks            publish, endings, answers of the store
//!          │                                      │
//!  ┌───────▼────────┐   gate word        ┌────────▼───────┐
//!  │ Backend        ├──────────┐         │ Lane           │  one per backend, topic and key
//!  └───────┬────────┘          ├─> Gate ─> policy::decide │  (tasks: and priority) that has
//!  ┌───────▼────────┐          │         │ records        │  unsettled records
//!  │ Destination    ├──────────┘         └────────┬───────┘
//!  └───────┬────────┘   gate word                 │
//!   connect, probe,                       send, append, mark, remove,
//!   forward, sweep                        complete, fate, wake
//! ```
//!
//! - `backend`: one per server. `Init → Up → Suspect → Down → Probing → Forwarding → Up`, and `Blocked`,
//!   `Refused`. It paces what is forwarded (`ramp`), damps servers that flap (`flap`) and waits between
//!   attempts (`backoff`).
//! - `destination`: one per topic of a server. A deleted queue or a partition without leader shuts its own
//!   lanes and no others.
//! - `lane`: numbers, order, what is in flight, what is stored, local leases. `policy` decides on publishes.
//!
//! # How a driver uses them
//!
//! - Each machine of a backend or destination publishes one gate word. A lane reads both words after its
//!   lock was taken ([`Gate::of`]) and, if told to send, hands over to the client before the lock is let
//!   go: the order of numbers is the order on the wire.
//! - The epoch of a word rises when what was in flight is over. Whoever looks at a lane next puts such
//!   records back first ([`lane::Lane::meet`]; every operation that takes a gate does it).
//! - What a lane asks of the store is done in the order given. A client that cannot take a record of
//!   [`lane::LaneAction::Send`] (its window is full) is handed none of the sends that follow in that list;
//!   all of them end as [`Ending::NotSent`] in the same hold of the lock.
//! - A lane that is idle is dropped; it is made again by the next publish. Numbers rise for the hub and
//!   all its runs: a new run begins above every number that an earlier one gave.
//! - At `CheckConfirms` a driver looks at the oldest record in flight of each destination ([`blame`]) and at
//!   the client's window, where that can be full without an end ([`is_stuck`], told as `Sick`). Where a client
//!   ends nothing for its time alone (`one_copy`), what is overdue is stored ([`lane::Lane::overdue`]), so that
//!   its caller is told, while its copy goes on.
//! - Facts for the backend ([`backend::Input::Spool`]) may be reported at any time; the sweep, each second,
//!   makes up for a report or a wake-up that was missed.
//! - Leases and provisional copies are for the time of an outage: there are none while the gate is open.
//!
//! # Decisions that are easily taken the other way
//!
//! - A late `Confirmed` of a copy that was given up settles its record, unless that was sent again: then
//!   the newer copy's ending counts. A late `NotSent` or `Refused` takes the flag `maybe_dup` back.
//! - `maybe_dup` is durable before a stored record is handed over (`Mark`, then `Send`). A crash in
//!   between makes a flag too many, never one too few.
//! - A call that has waited long enough: what was handed over, or may be, is `Unknown` and goes on; what
//!   was not is withdrawn, and `NotSent` once it has left the store for good.
//! - A call that requires the server's word is never stored in place of it. Behind a backlog, with the gate
//!   open, it has its place in the spool, and is told when the server has confirmed it.
//! - A record that is in flight at a loss comes back whatever the caps say: the store's reserve has to hold
//!   one publish window for each loss.
//! - `ForceDown` shuts the gate and stops forwarding; the connection stays, so that consumers go on.
//! - `Refused` as a backend's state spools like `Down`: who refuses us today may know us tomorrow.
//! - A confirm that is overdue is the destination's fault if the server has confirmed others since, else the
//!   backend's ([`blame`]). A destination that is probed in vain three times asks whether the connection
//!   has confirmed anything since; if not, that is sick. A backend's probe that is in vain shuts the
//!   destination that it went to, so that a silent one cannot keep its server down for all others.
//!
//! # Limits
//!
//! - A lane keeps about a hundred bytes for each record that is not settled; a million spooled records are a
//!   hundred megabytes. Looking one up is a binary search; `expire`, `evict` and `lease` without a key
//!   walk the lane.
//! - Sixty-four local groups can be shown provisional copies; a group is one bit.
//! - Order in a lane is that of one connection, which a client keeps. A client that ends one record as
//!   `NotSent` or `Unknown`, goes on, and delivers later ones of the same lane has broken it: such an ending
//!   is to be told with the end of the destination's epoch (`Gone`), or not be made at all: with `one_copy` the
//!   client keeps what it has over every loss, and a record is not sent again while a copy of it owes its ending.
//! - A task that was done here and whose removal a crash undid is done again; its order is lost with it.
//!   The same holds for what was evicted.
//! - Each `Append`, `Mark` and `Withdraw` has to be answered once; a store that forgets one stops the lane.
//!
//! # Tables
//!
//! `any`: every state; `=`: it stays. After a comma: what tells one case of an input from another. What is
//! in no row has no effect. Each change of a backend's state is also told by `Notify`, which is left out.
//!
//! ```text
//! table of the backend: begin
//! state | input | to | actions
//! Init | timer Reconnect | = | Connect
//! Init | ConnectOk, never lost | Up | Gate(Open)
//! Init | ConnectOk, backlog | Probing | Gate(Spool) Probe
//! Init | ConnectOk, paused | Forwarding | Gate(Open)
//! Init | ConnectErr | Down |
//! Init | Lost | Down | Disconnect
//! Init | timer Answer | Down | Disconnect
//! Init | Denied | Refused | Gate(Spool)
//! Up | Lost | Suspect | Disconnect Gate(Spool)
//! Up | Sick | Suspect | Disconnect Gate(Spool)
//! Up | Overdue | Suspect | Gate(Wait)
//! Up | Blocked | Blocked | Gate(Blocked)
//! Up | Denied | Refused | Disconnect Gate(Spool)
//! Up | backlog | Forwarding | Forward
//! Suspect | InTime, connected | Forwarding | Gate(Open) Forward
//! Suspect | timer SuspectWait, connected | = | Gate(Spool)
//! Suspect | timer DownAfter, connected | Down | Disconnect Gate(Spool)
//! Suspect | Lost, connected | = | Disconnect Gate(Spool)
//! Suspect | Sick, connected | = | Disconnect Gate(Spool)
//! Suspect | Blocked, connected | Blocked | Gate(Blocked)
//! Suspect | Denied | Refused | Gate(Spool)
//! Suspect | Denied, connected | Refused | Disconnect Gate(Spool)
//! Suspect | timer Reconnect, away | = | Connect
//! Suspect | timer DownAfter | Down |
//! Suspect | ConnectOk, backlog | Probing | Gate(Spool) Probe
//! Suspect | ConnectOk | Forwarding | Gate(Open)
//! Suspect | ConnectErr | = |
//! Suspect | ConnectErr, third | Down |
//! Suspect | Lost | = | Disconnect
//! Suspect | Lost, third | Down | Disconnect
//! Suspect | timer Answer | = | Disconnect
//! Suspect | timer Answer, third | Down | Disconnect
//! Down | timer Reconnect, away | = | Connect
//! Down | ConnectOk, backlog | Probing | Gate(Spool) Probe
//! Down | ConnectOk, lost before | Forwarding | Gate(Open)
//! Down | ConnectOk, never lost | Up | Gate(Open)
//! Down | ConnectErr | = |
//! Down | Lost | = | Disconnect
//! Down | timer Answer | = | Disconnect
//! Down | Denied | Refused | Gate(Spool)
//! Probing | ProbeOk | Forwarding | Gate(Open) Forward
//! Probing | no backlog | Forwarding | Gate(Open)
//! Probing | ProbeErr | Down | BlameProbed Disconnect Gate(Spool)
//! Probing | timer Answer | Down | BlameProbed Disconnect Gate(Spool)
//! Probing | Lost | Down | Disconnect Gate(Spool)
//! Probing | Sick | Down | Disconnect Gate(Spool)
//! Probing | Blocked | Blocked |
//! Probing | Denied | Refused | Disconnect Gate(Spool)
//! Forwarding | timer RampStep | = | Forward
//! Forwarding | backlog, none before | = | Forward
//! Forwarding | timer StableFor, no backlog | Up |
//! Forwarding | Lost | Suspect | StopForwarding Disconnect Gate(Spool)
//! Forwarding | Sick | Suspect | StopForwarding Disconnect Gate(Spool)
//! Forwarding | Overdue | Suspect | StopForwarding Gate(Wait)
//! Forwarding | Blocked | Blocked | StopForwarding Gate(Blocked)
//! Forwarding | Denied | Refused | StopForwarding Disconnect Gate(Spool)
//! Blocked | Unblocked | Forwarding | Gate(Open) Forward
//! Blocked | timer BlockedWait | = | Gate(Spool)
//! Blocked | Lost | Suspect | Disconnect Gate(Spool)
//! Blocked | Sick | Suspect | Disconnect Gate(Spool)
//! Blocked | Denied | Refused | Disconnect Gate(Spool)
//! Refused | timer Reconnect, away | = | Connect
//! Refused | ConnectOk, backlog | Probing | Gate(Spool) Probe
//! Refused | ConnectOk, lost before | Forwarding | Gate(Open)
//! Refused | ConnectOk, never lost | Up | Gate(Open)
//! Refused | ConnectErr | Down |
//! Refused | Lost | Down | Disconnect
//! Refused | timer Answer | Down | Disconnect
//! Refused | Denied | = | Gate(Spool)
//! any | timer Sweep | = | Sweep
//! Up Probing Forwarding Blocked | timer ConfirmCheck | = | CheckConfirms
//! Suspect | timer ConfirmCheck, connected | = | CheckConfirms
//! Up Suspect Blocked | ForceDown | = | Gate(Spool)
//! Forwarding | ForceDown | = | Gate(Spool) StopForwarding
//! Up | Auto, forced | = | Gate(Open)
//! Suspect | Auto, forced | = | Gate(Wait)
//! Blocked | Auto, forced | = | Gate(Blocked)
//! Forwarding | Auto, forced | = | Gate(Open) Forward
//! Forwarding | Pause | = | StopForwarding
//! Forwarding | Resume, paused | = | Forward
//! any | Close | = | Gate(Refuse)
//! table of the backend: end
//!
//! table of the destination: begin
//! state | input | to | actions
//! Fine | Away | Doubtful | Gate(Wait)
//! Fine | Overdue | Doubtful | Gate(Wait)
//! Fine | Gone | Gone | Purge Gate(Spool)
//! Fine | Vain | Gone | Purge Gate(Spool)
//! Doubtful | Back | Fine | Gate(Open)
//! Doubtful | InTime | Fine | Gate(Open)
//! Doubtful | timer SuspectWait | = | Gate(Spool)
//! Doubtful | timer DownAfter | Gone | Purge Gate(Spool)
//! Doubtful | Gone | Gone | Purge Gate(Spool)
//! Doubtful | Vain | Gone | Purge Gate(Spool)
//! Gone | timer Reconnect | Tried | Probe
//! Gone | Back | Tried | Probe
//! Tried | ProbeOk | Fine | Gate(Open)
//! Tried | ProbeErr | Gone | Purge Gate(Spool)
//! Tried | timer Answer | Gone | Purge Gate(Spool)
//! Tried | timer Answer, third | Gone | Purge Gate(Spool) Doubt
//! Tried | Gone | Gone | Purge Gate(Spool)
//! Tried | Away | Gone | Purge Gate(Spool)
//! table of the destination: end
//! ```
//!
//! A lane is what its records are. `Direct`: none is stored. `Spooling`: some are, and none of them is
//! on its way. `Forwarding`: some are on their way. `Held`: its head is leased and it has a key, or a
//! record was refused and the route is strict. So the table of the lane is that of one record: where it
//! is, what happens, where it is then. `-`: nowhere, before it has a number and when it is settled; the
//! lane's last stored record to be settled also gives `Wake`. The first column is how it got there. With
//! `one_copy`, `forward` leaves a record alone, and `probe` sends none, as long as a copy of it owes its ending.
//!
//! ```text
//! table of the record: begin
//! given | state | input | to | actions
//! | - | publish, open | Direct | decided(Send)
//! | - | publish, shut | Appending | decided(Append)
//! direct | Direct | confirmed | - | Complete(Broker)
//! direct, timed_out | Direct | confirmed | - | Fate(Confirmed)
//! direct | Direct | refused | - | Complete(Refused)
//! direct, timed_out | Direct | refused | - | DeadLetter Fate(Refused)
//! direct | Direct | not_sent | Appending | Append
//! direct server | Direct | not_sent | - | Complete(NotSent)
//! direct | Direct | unknown | Appending | Append(maybe_dup)
//! direct fail | Direct | not_sent | - | Complete(NotSent)
//! direct fail | Direct | unknown | - | Complete(Unknown)
//! direct | Direct | epoch | Appending | Append(maybe_dup)
//! direct fail | Direct | epoch | - | Complete(Unknown)
//! direct | Direct | overdue | Appending | Append(maybe_dup)
//! direct | Direct | timed_out | = | Complete(Unknown)
//! direct | Direct | not taken | - |
//! stored | Appending | appended | Queued | Complete(Disk)
//! direct server, epoch | Appending | appended | Queued |
//! stored | Appending | append_failed | - | Remove Complete(NotSent) Wake
//! direct, epoch | Appending | append_failed | - | Remove Complete(Unknown) Wake
//! stored | Appending | timed_out | Withdrawing | Withdraw
//! direct, epoch | Appending | timed_out | = | Complete(Unknown)
//! direct, epoch | Appending | confirmed | - | Remove Complete(Broker) Wake
//! stored, appended | Queued | forward | Marking | Mark
//! stored, appended, marked before | Queued | forward | Flying | Send
//! direct, epoch, appended | Queued | forward | Flying | Send(maybe_dup)
//! short, appended | Queued | forward, late | - | Remove Fate(Expired) Wake
//! stored, appended | Queued | probe | Marking | Mark
//! direct, epoch, appended | Queued | probe | Flying | Send(maybe_dup)
//! short, appended | Queued | probe, late | - | Remove Fate(Expired) Wake
//! stored, appended | Queued | lease | Leased |
//! short, appended | Queued | lease, late | - | Remove Fate(Expired) Wake
//! short, appended | Queued | expire, late | - | Remove Fate(Expired) Wake
//! stored, appended | Queued | evict | - | Remove Fate(Evicted) Wake
//! direct, epoch, appended | Queued | confirmed | - | Remove Fate(Confirmed) Wake
//! behind server, appended | Queued | timed_out | Withdrawing | Withdraw
//! direct server, epoch, appended | Queued | timed_out | = | Complete(Unknown)
//! event, appended | Queued | handled | = | Note
//! strict, appended, forward, marked, refused | Queued | skip | - | DeadLetter Remove Fate(Refused) Wake
//! stored, appended, forward | Marking | marked | Flying | Send
//! stored, appended, forward, shut | Marking | marked | Queued |
//! stored, appended, forward | Marking | mark_failed | Queued |
//! behind server, appended, forward | Marking | timed_out | = | Complete(Unknown)
//! event, appended, forward | Marking | handled | = | Note
//! stored, appended, forward, marked | Flying | confirmed | - | Remove Fate(Confirmed) Wake
//! stored, appended, forward, marked | Flying | refused | - | DeadLetter Remove Fate(Refused) Wake
//! strict, appended, forward, marked | Flying | refused | Queued | Alarm
//! stored, appended, forward, marked | Flying | not_sent | Queued |
//! stored, appended, forward, marked | Flying | unknown | Queued |
//! stored, appended, forward, marked | Flying | epoch | Queued |
//! behind server, appended, forward, marked | Flying | timed_out | = | Complete(Unknown)
//! event, appended, forward, marked | Flying | handled | = | Note
//! stored, appended, lease | Leased | done | - | Remove Fate(LocalDone) Wake
//! stored, appended, lease | Leased | dead | - | Remove Fate(LocalDone) Wake
//! stored, appended, lease | Leased | failed | Queued | Note
//! stored, appended, lease | Leased | returned | Queued |
//! stored, timed_out | Withdrawing | withdrawn | - | Remove Complete(NotSent) Wake
//! stored, timed_out | Withdrawing | not_withdrawn | - | Remove Complete(Unknown) Wake
//! stored, timed_out | Withdrawing | append_failed | - | Remove Complete(NotSent) Wake
//! table of the record: end
//! ```
//!
//! # Invariants, checked after each step of the simulation
//!
//! - I1: every receipt is confirmed, in the spool, done locally, or ended with its completion; what is told
//!   is so.
//! - I2: per lane the server's first sightings rise; of a repeated pair one carries `maybe_dup`.
//! - I3: nothing is sent direct while the lane has unsettled spool records.
//! - I4: a task is done locally or sent, never both; what may be at the server is never leased.
//! - I5: a call completes once.
//! - I6: no cap is passed.
//! - I7: one connect at a time, epochs rise, waits stay in bounds.
//! - I8: no deadline lies in the past; at most 64 steps at one moment.
//! - I9: only rows of the tables occur.
//! - I10: receipts of level disk survive a crash at any step.
//! - I11: nothing of a keyed lane passes a local lease.

pub mod backend;
pub mod backoff;
pub mod destination;
pub mod flap;
mod going;
pub mod inputs;
pub mod lane;
mod leaving;
mod local;
pub mod policy;
pub mod ramp;
pub mod record;
pub mod timers;

pub use crate::broker::Level;
pub use destination::{blame, is_stuck, Blame};

/// How a record that was handed to a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server has it.
    Confirmed,
    /// The server said no, for a fault of the record: not taken.
    Refused,
    /// It never left this process.
    NotSent,
    /// It may or may not have arrived.
    Unknown,
}

/// Where publishes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the server.
    Open,
    /// They wait a moment: the server may be away.
    Wait,
    /// They wait: the server asks publishers to stop.
    Blocked,
    /// Into the spool, or what the route has in its place.
    Spool,
    /// Nowhere: the hub closes.
    Refuse,
}

/// The gate of a backend or a destination: what fits one atomic word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Rises whenever what was in flight is to be taken as unknown.
    pub epoch: u32,
    /// Where publishes go.
    pub way: Way,
}

const WAYS: [Way; 5] = [Way::Open, Way::Wait, Way::Blocked, Way::Spool, Way::Refuse];

impl Word {
    /// As one number.
    pub fn pack(self) -> u64 {
        (u64::from(self.epoch) << 8) | self.way as u64
    }

    /// From [`Word::pack`]. What no gate has packed is the spool: the safe side.
    pub fn unpack(word: u64) -> Self {
        let way = usize::try_from(word & 0xff).ok().and_then(|way| WAYS.get(way).copied());
        Self { epoch: (word >> 8) as u32, way: way.unwrap_or(Way::Spool) }
    }
}

/// The gate of a lane: that of its backend and that of its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Both epochs; rises if one of them does, as neither falls.
    pub epoch: u64,
    /// The narrower way.
    pub way: Way,
}

impl Gate {
    /// Joins the words.
    pub fn of(backend: Word, destination: Word) -> Self {
        let epoch = (u64::from(backend.epoch) << 32) | u64::from(destination.epoch);
        Self { epoch, way: backend.way.max(destination.way) }
    }
}

#[cfg(test)]
mod tests;
