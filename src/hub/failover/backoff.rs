//! Waits between attempts to connect: doubling up to a cap, each with full jitter, without an end.

use std::time::Duration;

/// Mean wait before the second attempt, doubled: with full jitter a wait is anything up to it.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// Wait after a refusal of who we are: at most six attempts a minute, as each may count against the
/// account.
pub const DENIED: Duration = Duration::from_secs(10);

/// The waits of one backend.
#[derive(Debug, Clone)]
pub struct Backoff {
    failures: u32,
    random: u64,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// `seed` differs between programs that lose their server at one moment.
    pub fn new(seed: u64) -> Self {
        Self::between(seed, FIRST, LONGEST)
    }

    /// The cap of the waits begins at `first` and grows up to `longest`.
    pub fn between(seed: u64, first: Duration, longest: Duration) -> Self {
        Self { failures: 0, random: seed | 1, first, longest }
    }

    /// It is connected: the next loss starts from the beginning.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait before the next attempt; `denied`: the server knows us and says no.
    pub fn next(&mut self, denied: bool) -> Duration {
        if denied {
            return DENIED;
        }
        let cap = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        cap.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_spread_between_nothing_and_a_growing_cap() {
        let mut all = Vec::new();
        for seed in 1..200 {
            let mut backoff = Backoff::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let waits: Vec<Duration> = (0..12).map(|_| backoff.next(false)).collect();
            for (failures, wait) in waits.iter().enumerate() {
                assert!(*wait <= (FIRST * (1 << failures)).min(LONGEST), "{failures}: {wait:?}");
            }
            all.push(waits[11].as_secs_f64());
            backoff.reset();
            assert!(backoff.next(false) <= FIRST);
            assert_eq!(backoff.next(true), DENIED);
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((2.0..3.0).contains(&mean), "full jitter has half the cap as its mean, not {mean}");
    }
}
