//! The timers of a machine: a fixed table, one moment for each kind.

use crate::clock::Moment;

/// What a timer of the backend machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The next attempt to connect.
    Reconnect,
    /// The attempt to connect, or the probe, takes too long.
    Answer,
    /// Publishes have waited long enough for a server that may be away.
    SuspectWait,
    /// It has been away for so long that it counts as down.
    DownAfter,
    /// Publishes have waited long enough for a server that asked them to stop.
    BlockedWait,
    /// The next part of the spool is forwarded, the rate may rise.
    RampStep,
    /// The spool has been empty for so long that the server counts as up.
    StableFor,
    /// Looks for records that were left behind.
    Sweep,
    /// Looks for records whose confirm is overdue.
    ConfirmCheck,
}

/// All of them.
pub(super) const KINDS: [Timer; 9] = [
    Timer::Reconnect,
    Timer::Answer,
    Timer::SuspectWait,
    Timer::DownAfter,
    Timer::BlockedWait,
    Timer::RampStep,
    Timer::StableFor,
    Timer::Sweep,
    Timer::ConfirmCheck,
];

/// When each timer rings; those that are not set never do.
#[derive(Debug, Clone)]
pub struct Timers([(Timer, Moment); 9]);

impl Default for Timers {
    fn default() -> Self {
        Self(KINDS.map(|kind| (kind, Moment::NEVER)))
    }
}

impl Timers {
    /// Sets `timer`, replacing an earlier setting.
    pub fn set(&mut self, timer: Timer, at: Moment) {
        for (kind, moment) in &mut self.0 {
            if *kind == timer {
                *moment = at;
            }
        }
    }

    /// Unsets `timer`.
    pub fn stop(&mut self, timer: Timer) {
        self.set(timer, Moment::NEVER);
    }

    /// Whether `timer` is set.
    pub fn is_set(&self, timer: Timer) -> bool {
        self.0.iter().any(|(kind, at)| *kind == timer && *at != Moment::NEVER)
    }

    /// When `timer` rings; [`Moment::NEVER`] if it is not set.
    pub fn at(&self, timer: Timer) -> Moment {
        self.0.iter().find(|(kind, _)| *kind == timer).map_or(Moment::NEVER, |(_, at)| *at)
    }

    /// When the first one rings.
    pub fn next(&self) -> Option<Moment> {
        self.0.iter().map(|(_, at)| *at).min().filter(|at| *at != Moment::NEVER)
    }

    /// The timer that is due at `now`; of several the earliest, of those the first in the table.
    pub fn due(&self, now: Moment) -> Option<Timer> {
        let (kind, at) = self.0.iter().min_by_key(|(_, at)| *at)?;
        (*at != Moment::NEVER && *at <= now).then_some(*kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_due_first_and_each_once() {
        let mut timers = Timers::default();
        assert_eq!((timers.next(), timers.due(Moment(u64::MAX))), (None, None));
        timers.set(Timer::Sweep, Moment(20));
        timers.set(Timer::Reconnect, Moment(10));
        assert_eq!((timers.next(), timers.due(Moment(9))), (Some(Moment(10)), None));
        assert_eq!(timers.due(Moment(30)), Some(Timer::Reconnect));
        timers.stop(Timer::Reconnect);
        assert_eq!(timers.due(Moment(30)), Some(Timer::Sweep));
        assert!(timers.is_set(Timer::Sweep) && !timers.is_set(Timer::Reconnect));
    }
}
