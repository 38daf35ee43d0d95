//! Everything of one broker that is due later, on one alarm of the clock.
//!
//! Queues, logs and sources each have one entry at most: the moment of their earliest need. An
//! entry that rings is gone; its owner looks what is due and sets the next. With no entry there
//! is no alarm, and no thread.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};

use crate::clock::{Alarm, AlarmId, Clock, Moment};
use crate::error::Result;
use crate::sync::Mutex;

/// Something with a moment at which it must be called.
pub(super) trait Timed: Send + Sync {
    /// The moment has come. Called with no lock held.
    fn due(&self, now: Moment);
}

/// The timers of one broker.
pub(super) struct Timers {
    clock: Clock,
    alarm: AlarmId,
    own: Weak<Timers>,
    table: Mutex<Table>,
}

/// Guarded together: the two indexes of the same set.
#[derive(Default)]
struct Table {
    due: BTreeMap<(Moment, u64), Weak<dyn Timed>>,
    at: HashMap<u64, Moment>,
}

impl Timers {
    /// No timers, on `clock`.
    pub fn new(clock: &Clock) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            clock: clock.clone(),
            alarm: clock.alarm(),
            own: own.clone(),
            table: Mutex::default(),
        })
    }

    /// Calls `who` at `at` unless the owner `id` has an earlier entry. Fails where the system
    /// refuses the thread that a real clock needs.
    pub fn set(&self, id: u64, at: Moment, who: Weak<dyn Timed>) -> Result<()> {
        let mut table = self.table.lock();
        if let Some(&old) = table.at.get(&id) {
            if old <= at {
                return Ok(());
            }
            table.due.remove(&(old, id));
        }
        table.at.insert(id, at);
        table.due.insert((at, id), who);
        self.set_alarm(&table)
    }

    /// Forgets the entry of `id`.
    pub fn forget(&self, id: u64) {
        let mut table = self.table.lock();
        if let Some(at) = table.at.remove(&id) {
            table.due.remove(&(at, id));
        }
    }

    fn set_alarm(&self, table: &Table) -> Result<()> {
        let at = table.due.first_key_value().map_or(Moment::NEVER, |(&(at, _), _)| at);
        self.clock.set_alarm(self.alarm, at, self.own.clone() as Weak<dyn Alarm>)
    }
}

impl Alarm for Timers {
    fn ring(&self, now: Moment) {
        loop {
            let mut table = self.table.lock();
            let next = match table.due.first_key_value() {
                Some((&key, _)) if key.0 <= now => key,
                _ => {
                    // The thread that rings is the one that an alarm needs, so it cannot be refused.
                    let set = self.set_alarm(&table);
                    debug_assert!(set.is_ok());
                    return;
                }
            };
            let who = table.due.remove(&next);
            table.at.remove(&next.1);
            drop(table);
            if let Some(who) = who.and_then(|who| who.upgrade()) {
                who.due(now);
            }
        }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("entries", &self.table.lock().at.len()).finish()
    }
}
