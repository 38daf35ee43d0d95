//! How fast the spool is forwarded: a slow start that doubles, and never more than half of the window.
//!
//! A server that has just come back gets little at first. Each second the rate doubles, unless the
//! server did not confirm what the last second brought. Live traffic keeps the other half of the
//! publish window.

use std::time::Duration;

use crate::clock::Moment;

/// Records per second in the first second.
pub const RATE_FIRST: u64 = 64;
/// Records per second, at most: more than any server takes, so that the window is the limit.
pub const RATE_MAX: u64 = 1 << 20;
/// A budget is given this often, so that a second's worth does not go out as one burst.
/// Half of the window goes with each at most, so the window and this bound what is forwarded in a second.
pub const STEP: Duration = Duration::from_millis(1000 / STEPS_PER_SECOND);
const STEPS_PER_SECOND: u64 = 50;

/// The rate of one recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    rate: u64,
    steps: u64,
    /// Of a second's worth, what earlier steps were entitled to.
    carried: u64,
}

impl Default for Ramp {
    fn default() -> Self {
        // The first record goes at once.
        Self { rate: RATE_FIRST, steps: 0, carried: STEPS_PER_SECOND - 1 }
    }
}

impl Ramp {
    /// The number of records that may go out in this step. `inflight`: forwarded before, not
    /// confirmed yet; `window`: records that may be in flight to this server in all.
    pub fn step(&mut self, inflight: u64, window: u64) -> u64 {
        if self.steps == STEPS_PER_SECOND {
            self.steps = 0;
            // More than a second's worth in flight: the server is slower than this already.
            if inflight <= self.rate {
                self.rate = self.rate.saturating_mul(2).min(RATE_MAX);
            }
        }
        self.steps += 1;
        let parts = self.carried + self.rate;
        self.carried = parts % STEPS_PER_SECOND;
        let half = (window / 2).max(1);
        (parts / STEPS_PER_SECOND).min(half.saturating_sub(inflight))
    }

    /// Records per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// When the next step is.
    pub fn next(now: Moment) -> Moment {
        now.plus(STEP)
    }
}

/// What each of `lanes` lanes gets of a budget, so that one long lane does not starve the others.
/// Lanes are served by the age of their oldest record, until the budget is used up.
pub fn share(budget: u64, lanes: u64) -> u64 {
    budget.div_ceil(lanes.max(1))
}

/// Time in which `backlog` records are forwarded to a server that confirms in time: the bound that
/// `time to empty` and the tests use.
pub fn time_to_empty(backlog: u64, window: u64) -> Duration {
    let (mut ramp, mut left, mut steps) = (Ramp::default(), backlog, 0_u32);
    while left > 0 {
        left = left.saturating_sub(ramp.step(0, window));
        steps = steps.saturating_add(1);
    }
    STEP.saturating_mul(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_slowly_doubles_each_second_and_keeps_half_of_the_window_free() {
        let mut ramp = Ramp::default();
        let second = |ramp: &mut Ramp, inflight| (0..50).map(|_| ramp.step(inflight, 5_000)).sum::<u64>();
        assert_eq!(Ramp::default().step(0, 5_000), 2, "the first goes at once");
        assert_eq!([0; 4].map(|inflight| second(&mut ramp, inflight)), [64, 128, 256, 512]);
        assert_eq!(ramp.step(2_400, 5_000), 11, "a server that is behind is not asked for more");
        assert_eq!(ramp.rate(), 512);
        assert_eq!(ramp.step(2_500, 5_000), 0);
        for _ in 0..2_000 {
            assert!(ramp.step(0, 5_000) <= 2_500);
        }
        assert_eq!(ramp.rate(), RATE_MAX);
    }

    #[test]
    fn a_budget_is_shared_and_its_time_is_known() {
        assert_eq!([share(6, 3), share(7, 3), share(1, 9), share(5, 0)], [2, 3, 1, 5]);
        assert_eq!(time_to_empty(0, 5_000), Duration::ZERO);
        assert_eq!(time_to_empty(64 + 128, 5_000), Duration::from_secs(2));
        assert!(time_to_empty(1_000_000, 5_000) < Duration::from_secs(60));
    }
}
