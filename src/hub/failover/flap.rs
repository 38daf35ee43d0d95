//! Damping of servers that come and go: each loss within five minutes doubles the time for which the
//! server has to stay before it counts as up.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// A loss counts for this long.
pub const WINDOW: Duration = Duration::from_secs(300);
/// The longest that a server has to stay.
pub const STABLE_MAX: Duration = Duration::from_secs(120);
/// More are not remembered: by then the time is at its longest.
const REMEMBERED: usize = 16;

/// The losses of one server.
#[derive(Debug, Clone, Default)]
pub struct Flap {
    losses: VecDeque<Moment>,
}

impl Flap {
    /// The connection was lost.
    pub fn lost(&mut self, now: Moment) {
        self.forget(now);
        if self.losses.len() == REMEMBERED {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
    }

    /// Losses that count now.
    pub fn count(&mut self, now: Moment) -> u32 {
        self.forget(now);
        u32::try_from(self.losses.len()).unwrap_or(u32::MAX)
    }

    /// How long the server has to stay; `base` after the first loss.
    pub fn stable_for(&mut self, now: Moment, base: Duration) -> Duration {
        let doublings = self.count(now).saturating_sub(1).min(16);
        base.saturating_mul(1 << doublings).min(STABLE_MAX.max(base))
    }

    fn forget(&mut self, now: Moment) {
        while self.losses.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.losses.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_doubles_the_time_until_five_minutes_have_passed() {
        let mut flap = Flap::default();
        let base = Duration::from_secs(10);
        let mut waits = Vec::new();
        for loss in 0..6 {
            let now = Moment(0).plus(Duration::from_secs(loss));
            flap.lost(now);
            waits.push(flap.stable_for(now, base).as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 80, 120, 120]);
        assert_eq!(flap.count(Moment(0).plus(Duration::from_secs(303))), 2);
        assert_eq!(flap.stable_for(Moment(0).plus(Duration::from_secs(400)), base), base);
        for loss in 0..100 {
            flap.lost(Moment(0).plus(Duration::from_secs(500 + loss)));
        }
        assert_eq!(flap.losses.len(), REMEMBERED);
    }
}
