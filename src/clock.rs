//! Time. Everything that waits, expires or is due asks a [`Clock`], so that tests do not sleep.
//!
//! A clock gives two readings: a monotonic [`Moment`] for waits and due times, and wall time for
//! time stamps. It also keeps *alarms*: an alarm is set to one moment and rings once, on the
//! clock's own thread (real) or inside [`Clock::advance`] (virtual).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};
use crate::sync::{Condvar, Mutex};

/// Nanoseconds since the clock was made. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than every alarm.
    pub const NEVER: Moment = Moment(u64::MAX);

    /// This moment and `after` later; saturates.
    #[must_use]
    pub fn plus(self, after: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Something that can be woken at a moment.
pub trait Alarm: Send + Sync {
    /// The moment has come. Called with no lock of the clock held; must not block.
    fn ring(&self, now: Moment);
}

/// Identifies an alarm of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmId(u64);

/// A clock, real or virtual; cheap to clone.
#[derive(Clone)]
pub struct Clock {
    shared: Arc<Shared>,
    /// Wall time at moment zero, read when this clock was made.
    wall_zero_us: i64,
}

struct Shared {
    /// Real time, or `None` for a virtual clock.
    start: Option<Instant>,
    virtual_now: AtomicU64,
    next_id: AtomicU64,
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

/// Guarded together: the two indexes of the same set, and the life of the thread that serves it.
#[derive(Default)]
struct Alarms {
    due: BTreeMap<(Moment, AlarmId), Weak<dyn Alarm>>,
    at: BTreeMap<AlarmId, Moment>,
    thread_runs: bool,
    stop: bool,
}

/// All real clocks share one set of alarms and one thread.
static REAL: once_cell::sync::Lazy<Arc<Shared>> =
    once_cell::sync::Lazy::new(|| Arc::new(Shared::new(Some(Instant::now()))));

/// Ends the timer thread; the next alarm that is set starts it again.
pub(crate) fn stop_timer() {
    if let Some(shared) = once_cell::sync::Lazy::get(&REAL) {
        let mut alarms = shared.alarms.lock();
        alarms.stop = alarms.thread_runs;
        drop(alarms);
        shared.changed.notify_all();
    }
}

impl Clock {
    /// A clock that follows the machine's.
    pub fn real() -> Self {
        Self::over(Arc::clone(&REAL))
    }

    /// A clock that stands until [`Clock::advance`] moves it.
    pub fn virtual_() -> Self {
        Self::over(Arc::new(Shared::new(None)))
    }

    fn over(shared: Arc<Shared>) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_us = i64::try_from(wall.as_micros()).unwrap_or(i64::MAX);
        let wall_zero_us = wall_us.saturating_sub((shared.now().0 / 1_000) as i64);
        Self { shared, wall_zero_us }
    }

    /// Moves a virtual clock, ringing every alarm on the way in order. A real one answers `State`.
    pub fn advance(&self, by: Duration) -> Result<()> {
        if self.shared.start.is_some() {
            return Err(Error::new(Kind::State, "the clock is real; open the hub with \"clock\":\"virtual\""));
        }
        let end = self.now().plus(by);
        loop {
            let next = self.shared.pop_due(end);
            let Some((at, alarm)) = next else { break };
            self.shared.virtual_now.fetch_max(at.0, Ordering::AcqRel);
            if let Some(alarm) = alarm.upgrade() {
                alarm.ring(self.now());
            }
        }
        self.shared.virtual_now.fetch_max(end.0, Ordering::AcqRel);
        Ok(())
    }

    /// Starts the timer thread, so that setting an alarm cannot fail later for want of a thread.
    pub fn start(&self) -> Result<()> {
        start_thread(&self.shared, &mut self.shared.alarms.lock())
    }

    /// A new alarm, not set.
    pub fn alarm(&self) -> AlarmId {
        AlarmId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Sets `id` to ring `alarm` at `at`, replacing an earlier setting; [`Moment::NEVER`] unsets it.
    pub fn set_alarm(&self, id: AlarmId, at: Moment, alarm: Weak<dyn Alarm>) -> Result<()> {
        let mut alarms = self.shared.alarms.lock();
        if let Some(old) = alarms.at.remove(&id) {
            alarms.due.remove(&(old, id));
        }
        if at == Moment::NEVER {
            return Ok(());
        }
        start_thread(&self.shared, &mut alarms)?;
        alarms.at.insert(id, at);
        alarms.due.insert((at, id), alarm);
        drop(alarms);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Whether [`Clock::advance`] moves it.
    pub fn is_virtual(&self) -> bool {
        self.shared.start.is_none()
    }

    /// The present moment.
    #[inline]
    pub fn now(&self) -> Moment {
        self.shared.now()
    }

    /// Wall time in microseconds since 1970. It follows the monotonic clock from the time the hub
    /// was opened, so a jump of the machine's clock neither expires nor revives a message.
    #[inline]
    pub fn wall_us(&self) -> i64 {
        self.wall_us_at(self.now())
    }

    /// Wall time of `moment`.
    pub fn wall_us_at(&self, moment: Moment) -> i64 {
        self.wall_zero_us.saturating_add((moment.0 / 1_000) as i64)
    }

    /// The moment of a wall time; wall times before the clock was made are moment zero.
    pub fn moment_of_wall_us(&self, wall_us: i64) -> Moment {
        let after = wall_us.saturating_sub(self.wall_zero_us);
        Moment(u64::try_from(after).unwrap_or(0).saturating_mul(1_000))
    }
}

impl Shared {
    fn new(start: Option<Instant>) -> Self {
        Self {
            start,
            virtual_now: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            alarms: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn now(&self) -> Moment {
        match self.start {
            Some(start) => Moment(start.elapsed().as_nanos() as u64),
            None => Moment(self.virtual_now.load(Ordering::Acquire)),
        }
    }

    fn pop_due(&self, until: Moment) -> Option<(Moment, Weak<dyn Alarm>)> {
        let mut alarms = self.alarms.lock();
        let (&(at, id), _) = alarms.due.first_key_value()?;
        if at > until {
            return None;
        }
        let alarm = alarms.due.remove(&(at, id))?;
        alarms.at.remove(&id);
        Some((at, alarm))
    }
}

fn start_thread(shared: &Arc<Shared>, alarms: &mut Alarms) -> Result<()> {
    // Whoever needs the thread outvotes a stop that it has not obeyed yet.
    alarms.stop = false;
    if shared.start.is_some() && !alarms.thread_runs {
        spawn_alarm_thread(shared)?;
        alarms.thread_runs = true;
    }
    Ok(())
}

fn spawn_alarm_thread(shared: &Arc<Shared>) -> Result<()> {
    let shared = Arc::clone(shared);
    crate::runtime::spawn_thread("hmq-timer", move || loop {
        while let Some((_, alarm)) = shared.pop_due(shared.now()) {
            if let Some(alarm) = alarm.upgrade() {
                let now = shared.now();
                crate::runtime::contained("timer", || alarm.ring(now));
            }
        }
        let mut alarms = shared.alarms.lock();
        if std::mem::take(&mut alarms.stop) {
            alarms.thread_runs = false;
            return;
        }
        let now = shared.now();
        let deadline = match alarms.due.first_key_value() {
            Some((&(at, _), _)) if at <= now => continue,
            Some((&(at, _), _)) => Some(Instant::now() + at.since(now)),
            None => None,
        };
        drop(shared.changed.wait_until(alarms, deadline));
    })
    .map(drop)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("virtual", &self.is_virtual()).field("now", &self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<u64>>);

    impl Alarm for Recorder {
        fn ring(&self, now: Moment) {
            self.0.lock().push(now.0);
        }
    }

    #[test]
    fn a_virtual_clock_rings_in_order_and_once() {
        let clock = Clock::virtual_();
        let recorder = Arc::new(Recorder::default());
        let weak = || Arc::downgrade(&recorder) as Weak<dyn Alarm>;
        let (first, second) = (clock.alarm(), clock.alarm());
        clock.set_alarm(second, Moment(20), weak()).unwrap();
        clock.set_alarm(first, Moment(10), weak()).unwrap();
        clock.set_alarm(first, Moment(15), weak()).unwrap();
        clock.advance(Duration::from_nanos(14)).unwrap();
        assert!(recorder.0.lock().is_empty());
        clock.advance(Duration::from_nanos(100)).unwrap();
        assert_eq!(*recorder.0.lock(), vec![15, 20]);
        assert_eq!(clock.now(), Moment(114));
    }

    #[test]
    fn a_real_clock_rings() {
        let clock = Clock::real();
        let (sent, received) = std::sync::mpsc::channel();
        struct Sender(Mutex<std::sync::mpsc::Sender<Moment>>);
        impl Alarm for Sender {
            fn ring(&self, now: Moment) {
                self.0.lock().send(now).unwrap();
            }
        }
        let sender = Arc::new(Sender(Mutex::new(sent)));
        let at = clock.now().plus(Duration::from_millis(5));
        clock.set_alarm(clock.alarm(), at, Arc::downgrade(&sender) as Weak<dyn Alarm>).unwrap();
        assert!(received.recv_timeout(Duration::from_secs(10)).unwrap() >= at);
    }
}
