//! What the machine of a backend is told, and what it answers.

use super::Word;
use crate::clock::Moment;

/// What is known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not connected yet.
    Init,
    /// There, and nothing is left to forward.
    Up,
    /// It may be away.
    Suspect,
    /// It is away.
    Down,
    /// Connected; one record shows whether it takes them.
    Probing,
    /// There; the spool is forwarded beside live traffic.
    Forwarding,
    /// Connected, but it asks publishers to stop.
    Blocked,
    /// It refuses who we are.
    Refused,
}

/// What a person orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Publishers are to behave as if the server were down (drill).
    ForceDown,
    /// Its own state counts again.
    Auto,
    /// Nothing is forwarded until `Resume`.
    Pause,
    /// Forwarding goes on.
    Resume,
    /// The hub closes: nothing new is accepted. What is stored is still forwarded.
    Close,
}

/// What the connection of an epoch said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The attempt has succeeded.
    ConnectOk,
    /// The attempt has failed.
    ConnectErr,
    /// The connection is gone: reset, end of file, closed by the server.
    Lost,
    /// Credentials, rights or encryption were refused.
    Denied,
    /// The server asks publishers to stop.
    Blocked,
    /// It takes records again.
    Unblocked,
    /// A confirm is overdue, and nothing was confirmed since (see [`blame`](super::blame)).
    Overdue,
    /// No confirm is overdue.
    InTime,
    /// Nothing that was sent on this connection is confirmed, though it looks alive.
    Sick,
    /// The probe was answered, or there was nothing to send.
    ProbeOk,
    /// The probe was not taken.
    ProbeErr,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// On the connection, or the attempt, of this epoch. Signs of another epoch have no effect.
    Link(u32, Sign),
    /// The spool of this backend; told after each [`Action::Forward`] that was executed, and whenever
    /// it suits. Absolute numbers of this process, so they belong to no epoch.
    Spool {
        /// Unsettled records that could be forwarded: those of destinations that are away, and of lanes
        /// that are held, do not count.
        backlog: u64,
        /// Spool records handed over, or being marked for it, of all destinations.
        inflight: u64,
    },
    /// An order.
    Command(Command),
    /// The moment of [`Backend::next_deadline`](super::backend::Backend::next_deadline) has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish the gate word.
    SetGate(Word),
    /// Begin one attempt to connect.
    Connect {
        /// Its epoch.
        epoch: u32,
        /// Counted from 1 since the server last was up.
        attempt: u32,
    },
    /// Give up the connection or attempt of this epoch.
    Disconnect {
        /// The epoch.
        epoch: u32,
    },
    /// Send the head record of one lane and tell how it ended. `turn` rises, so that another lane
    /// is taken each time.
    Probe {
        /// The epoch.
        epoch: u32,
        /// Which lane, modulo their number.
        turn: u32,
    },
    /// The probe was in vain: tell its destination ([`super::destination::Seen::Vain`]). If it is that
    /// which is away, the next probe goes elsewhere.
    BlameProbed,
    /// Forward up to so many records now.
    Forward {
        /// Records.
        budget: u64,
    },
    /// Forward nothing more.
    StopForwarding,
    /// Report the backlog (as [`Input::Spool`]); drop what has expired.
    Sweep,
    /// Report whether a confirm is overdue.
    CheckConfirms,
    /// Tell the program.
    Notify {
        /// Before.
        from: State,
        /// After.
        to: State,
    },
}

/// What health tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The state that counts for publishers: [`State::Down`] while it is forced.
    pub state: State,
    /// Forced down for a drill.
    pub forced: bool,
    /// Forwarding is paused.
    pub paused: bool,
    /// Since when.
    pub since: Moment,
    /// The epoch.
    pub epoch: u32,
    /// Attempts to connect since the server last was up.
    pub attempts: u32,
    /// The next attempt.
    pub next_try: Option<Moment>,
    /// Losses within the last five minutes, as of the last one.
    pub flaps: u32,
    /// Records per second, while it forwards.
    pub rate: u64,
}
