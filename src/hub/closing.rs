//! Closing a hub: what stops first, what is waited for, what is left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backends::{self, Backend};
use super::Shared;
use crate::error::{Error, Kind, Result};
use crate::reentrancy::{as_callback, Caller};
use crate::sync::Deadline;

/// What is left of the time to close a hub when what is kept may not be sent any more.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// How far the closing of a hub has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// Nobody closes it; perhaps somebody did, and was late.
    #[default]
    Open,
    /// A thread is closing it.
    Closing,
    /// All is closed.
    Closed,
}

/// A thread's turn at closing. Ends with its drop, so that a panic leaves the turn to the next.
struct ClosingTurn<'a> {
    hub: &'a Shared,
    after: Stage,
}

impl Drop for ClosingTurn<'_> {
    fn drop(&mut self) {
        *self.hub.stage.lock() = self.after;
        self.hub.stage_changed.notify_all();
    }
}

impl Shared {
    /// Closes a broker that the hub does not keep, without waiting for it.
    pub(super) fn close_at_once(&self, backend: &Backend) {
        let at_once = Some(Duration::ZERO);
        let _ = crate::runtime::wait(backend.broker.close(backends::deadline(&self.context.clock, at_once)), at_once);
    }

    pub(super) fn close(&self, deadline: Deadline) -> Result<()> {
        let Some(mut turn) = self.closing_turn(deadline)? else { return Ok(()) };
        // What is let go of here may run drop functions of the program.
        let answer = as_callback(Caller::Hub(self.id), || self.close_in_turn(deadline));
        if answer.is_ok() {
            turn.after = Stage::Closed;
        }
        answer
    }

    fn close_in_turn(&self, deadline: Deadline) -> Result<()> {
        self.closing.store(true, Ordering::SeqCst);
        self.stop.bell.ring();
        // Handlers that wait for space would be waited for.
        let waiting = self.waiting_for_space.lock().take();
        waiting.for_each(|publisher| publisher.wake());
        self.inflight.stop_waiting();
        let backends = self.backends();
        backends.iter().filter_map(|backend| backend.driver()).for_each(|driver| driver.stop_intake());
        let subscriptions = std::mem::take(&mut *self.subscriptions.lock());
        for subscription in subscriptions.into_values().filter_map(|weak| weak.upgrade()) {
            subscription.close_now();
        }
        // Counted for the whole hub: also of subscriptions that were closed or freed before.
        let mut answer = self.wait_for_dispatchers(deadline);
        answer = answer.and(self.inflight.wait_empty(deadline));
        self.inflight.cancel_all();
        // Those that are being handed over end by themselves.
        answer = answer.and(self.inflight.wait_empty(deadline));
        answer = answer.and(self.completions.wait_empty(deadline));
        // What closing brokers say of themselves is told to nobody.
        let callback = self.notices.callback.lock().take();
        drop(callback);
        let mut lost = 0;
        // Some of the time is for closing them.
        let rest = deadline.left().map(|left| left.saturating_sub(CLOSING_TIME.min(left / 5)));
        let until = Deadline::after(rest);
        backends.iter().filter_map(|backend| backend.driver()).for_each(|driver| driver.drain(until));
        let retired = std::mem::take(&mut *self.retired.lock());
        for backend in self.backends().into_iter().chain(retired) {
            let until = backends::deadline(&self.context.clock, deadline.left());
            match crate::runtime::wait(backend.broker.close(until), deadline.left()) {
                Ok(report) => lost += report.lost,
                Err(error) => answer = answer.and(Err(error)),
            }
        }
        if lost > 0 {
            self.log_warn("closed_with_messages", &format!("{lost} messages in memory were not delivered"));
        }
        let inboxes = std::mem::take(&mut *self.inboxes.lock());
        for inbox in inboxes.into_iter().filter_map(|weak| weak.upgrade()) {
            inbox.close();
        }
        self.outlets.write().clear();
        // A broker that closes may have told the last outcomes.
        answer = answer.and(self.completions.wait_empty(deadline));
        self.completions.stop();
        answer
    }

    /// Takes the turn at closing; `None` if all is closed. A close that was late, or runs on
    /// another thread, is waited for.
    fn closing_turn(&self, deadline: Deadline) -> Result<Option<ClosingTurn<'_>>> {
        let mut stage = self.stage.lock();
        while *stage == Stage::Closing {
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, "the hub is still being closed by another thread"));
            }
            stage = self.stage_changed.wait_until(stage, deadline.instant());
        }
        if *stage == Stage::Closed {
            return Ok(None);
        }
        *stage = Stage::Closing;
        Ok(Some(ClosingTurn { hub: self, after: Stage::Open }))
    }

    fn wait_for_dispatchers(&self, deadline: Deadline) -> Result<()> {
        loop {
            let heard = self.dispatcher_ended.heard();
            let running = self.dispatchers.load(Ordering::Acquire);
            if running == 0 {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, format!("{running} callbacks of the hub are still running")));
            }
            self.dispatcher_ended.wait(heard, deadline);
        }
    }
}
