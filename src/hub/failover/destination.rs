//! The machine of one destination: a topic of a server that is there, but does not take *its* records.
//!
//! A deleted queue, a partition without leader, rights on one topic: such a destination has a gate
//! and epochs of its own, so that its lanes wait and all others go on. It knows nothing of the
//! connection; [`Gate::of`](super::Gate::of) joins both words. See the table in [`super`].
//!
//! ```text
//!        away, overdue               too long              time, back
//!  Fine ───────────────> Doubtful ────────────> Gone <──────────────────> Tried
//!   ^ <──── back, in time ──┘                    ^  probe in vain, gone     │
//!   │ └───────────── gone, probed in vain by the backend ──┘                │
//!   └───────────────────────── probe answered ──────────────────────────────┘
//! ```

use std::time::Duration;

use super::backoff::Backoff;
use super::timers::{Timer, Timers};
use super::{Way, Word};
use crate::clock::Moment;

/// Times of a destination.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// How long its publishes wait when it may be away.
    pub suspect_wait: Duration,
    /// After this long, it counts as away, and its records in flight as unknown.
    pub down_after: Duration,
    /// How long a probe may take.
    pub confirm_timeout: Duration,
    /// First and longest wait between probes.
    pub probe: (Duration, Duration),
}

/// What is known of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes records, for all we know.
    Fine,
    /// It may be away.
    Doubtful,
    /// It is away.
    Gone,
    /// One record shows whether it is back.
    Tried,
}

/// What was seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is gone for sure: deleted, forbidden. What was in flight is unknown.
    Gone,
    /// It may come back by itself: no leader.
    Away,
    /// A confirm is overdue, and the server has confirmed others since (see [`blame`]).
    Overdue,
    /// The backend's own probe went to it, in vain.
    Vain,
    /// It is there again, says the server.
    Back,
    /// No confirm is overdue.
    InTime,
    /// The probe was answered, or there was nothing to send.
    ProbeOk,
    /// The probe was not taken.
    ProbeErr,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Publish its gate word.
    SetGate(Word),
    /// The epoch is over: look whether it is there at all. What the client still holds for it may be taken back, if all
    /// of it is.
    Purge {
        /// The epoch that is over.
        epoch: u32,
    },
    /// It was probed in vain for a while. If the server has confirmed nothing else since this moment
    /// (see [`blame`]), it is the connection that is sick: tell the backend.
    Doubt {
        /// The moment.
        since: Moment,
    },
    /// Send the head record of one of its lanes, when the server is there, and tell how it ended.
    Probe {
        /// Its epoch.
        epoch: u32,
    },
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Destination {
    config: DestinationConfig,
    standing: Standing,
    epoch: u32,
    gate: Word,
    timers: Timers,
    backoff: Backoff,
    /// Probes in vain, and since when nobody was asked whether the connection is well.
    failures: u32,
    since: Moment,
}

/// After so many probes in vain the connection is doubted. A sick connection on which nothing else is
/// sent would never be found out otherwise.
const DOUBT_AFTER: u32 = 3;

impl Destination {
    /// A destination that is fine. `seed` is for jitter.
    pub fn new(config: DestinationConfig, seed: u64) -> Self {
        Self {
            backoff: Backoff::between(seed, config.probe.0, config.probe.1),
            config,
            standing: Standing::Fine,
            epoch: 0,
            gate: Word { epoch: 0, way: Way::Open },
            timers: Timers::default(),
            failures: 0,
            since: Moment(0),
        }
    }

    /// Takes in what was seen of its present epoch; a word on another epoch has no effect.
    pub fn on(&mut self, now: Moment, epoch: u32, seen: Seen, out: &mut Vec<Deed>) {
        if epoch != self.epoch {
            return;
        }
        match (self.standing, seen) {
            (Standing::Fine | Standing::Doubtful | Standing::Tried, Seen::Gone)
            | (Standing::Fine | Standing::Doubtful, Seen::Vain)
            | (Standing::Tried, Seen::ProbeErr | Seen::Away) => self.go(now, out),
            (Standing::Fine, Seen::Away | Seen::Overdue) => {
                self.standing = Standing::Doubtful;
                self.timers.set(Timer::SuspectWait, now.plus(self.config.suspect_wait));
                self.timers.set(Timer::DownAfter, now.plus(self.config.down_after));
                self.set_gate(Way::Wait, out);
            }
            (Standing::Doubtful, Seen::Back | Seen::InTime) | (Standing::Tried, Seen::ProbeOk) => self.fine(out),
            (Standing::Gone, Seen::Back) => self.probe(now, out),
            (
                Standing::Gone,
                Seen::Gone | Seen::Away | Seen::Overdue | Seen::InTime | Seen::ProbeOk | Seen::ProbeErr,
            )
            | (Standing::Gone | Standing::Tried, Seen::Vain)
            | (Standing::Fine, Seen::Back | Seen::InTime | Seen::ProbeOk | Seen::ProbeErr)
            | (Standing::Doubtful, Seen::Away | Seen::Overdue | Seen::ProbeOk | Seen::ProbeErr)
            | (Standing::Tried, Seen::Overdue | Seen::Back | Seen::InTime) => {}
        }
    }

    /// The moment of [`Destination::next_deadline`] has come.
    pub fn tick(&mut self, now: Moment, out: &mut Vec<Deed>) {
        let Some(timer) = self.timers.due(now) else { return };
        self.timers.stop(timer);
        match timer {
            Timer::SuspectWait => self.set_gate(Way::Spool, out),
            Timer::DownAfter | Timer::Answer => self.go(now, out),
            Timer::Reconnect => self.probe(now, out),
            // Timers of a backend; a destination never sets them.
            Timer::BlockedWait | Timer::RampStep | Timer::StableFor | Timer::Sweep | Timer::ConfirmCheck => {}
        }
    }

    /// When it wants a [`Destination::tick`].
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

    /// What is known of it.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// It is gone: what was in flight belongs to an epoch that is over.
    fn go(&mut self, now: Moment, out: &mut Vec<Deed>) {
        match self.standing {
            Standing::Tried => self.failures += 1,
            Standing::Fine | Standing::Doubtful | Standing::Gone => (self.failures, self.since) = (0, now),
        }
        out.push(Deed::Purge { epoch: self.epoch });
        self.epoch += 1;
        self.timers = Timers::default();
        self.timers.set(Timer::Reconnect, now.plus(self.backoff.next(false)));
        self.standing = Standing::Gone;
        self.set_gate(Way::Spool, out);
        if self.failures == DOUBT_AFTER {
            out.push(Deed::Doubt { since: self.since });
            (self.failures, self.since) = (0, now);
        }
    }

    fn probe(&mut self, now: Moment, out: &mut Vec<Deed>) {
        self.timers.stop(Timer::Reconnect);
        self.timers.set(Timer::Answer, now.plus(self.config.confirm_timeout));
        self.standing = Standing::Tried;
        out.push(Deed::Probe { epoch: self.epoch });
    }

    fn fine(&mut self, out: &mut Vec<Deed>) {
        self.timers = Timers::default();
        self.backoff.reset();
        self.standing = Standing::Fine;
        self.set_gate(Way::Open, out);
    }

    fn set_gate(&mut self, way: Way, out: &mut Vec<Deed>) {
        let word = Word { epoch: self.epoch, way };
        if word != self.gate {
            self.gate = word;
            out.push(Deed::SetGate(word));
        }
    }
}

/// Who is to blame for a confirm that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The server has confirmed nothing since: it may be away.
    Backend,
    /// The server has confirmed others since: it is this destination, or this record alone.
    Destination,
}

/// `sent`: when the record whose confirm is overdue was handed over; `confirmed`: the last ending that
/// the server told on the present connection, of whatever record.
pub fn blame(sent: Moment, confirmed: Option<Moment>) -> Blame {
    match confirmed {
        Some(at) if at > sent => Blame::Destination,
        Some(_) | None => Blame::Backend,
    }
}

/// Whether a connection is stuck: since `full_since` its client takes nothing, as too many records have no
/// ending, and for `confirm_timeout` none of them got one. Records that their lanes have given up with
/// their destination still have their places there, so lanes alone would never see it.
pub fn is_stuck(now: Moment, full_since: Option<Moment>, confirmed: Option<Moment>, confirm_timeout: Duration) -> bool {
    full_since.is_some_and(|full| now.since(full.max(confirmed.unwrap_or(full))) >= confirm_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_follows_the_last_confirm() {
        assert_eq!(blame(Moment(5), None), Blame::Backend);
        assert_eq!(blame(Moment(5), Some(Moment(5))), Blame::Backend);
        assert_eq!(blame(Moment(5), Some(Moment(6))), Blame::Destination);
    }

    #[test]
    fn a_full_window_is_stuck_when_nothing_ends() {
        let timeout = Duration::from_nanos(10);
        assert!(!is_stuck(Moment(99), None, None, timeout));
        assert!(!is_stuck(Moment(14), Some(Moment(5)), None, timeout));
        assert!(is_stuck(Moment(15), Some(Moment(5)), Some(Moment(3)), timeout));
        assert!(!is_stuck(Moment(15), Some(Moment(5)), Some(Moment(6)), timeout));
    }
}
