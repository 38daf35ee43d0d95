//! The program's end of a subscription.

use std::sync::Arc;
use std::time::Duration;

use super::consume::{untag, Subscriber};
use super::error::{closed, error};
use crate::broker::{Delivery, Flow, Source, Start, Verdict};
use crate::error::{Kind, Result};
use crate::message::Message;

/// Longest wait for a seek to be carried out.
const SEEK_MAX: Duration = Duration::from_secs(10);

/// It fetches and settles without waiting for the subscription's thread.
pub(super) struct KafkaSource(pub Arc<Subscriber>);

impl Source for KafkaSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let own = &self.0;
        let before = out.len();
        let flow = {
            let mut state = own.state.lock();
            if state.lost {
                return Flow::Lost;
            }
            if state.closed {
                return Flow::Idle;
            }
            let room = match own.spec.read_only {
                true => max,
                false => max.min(own.spec.prefetch.saturating_sub(state.out)),
            };
            state.take(room, out);
            if own.spec.read_only {
                // Nothing of a replay is settled: what is handed over is done.
                let now = own.clock.now();
                for delivery in &out[before..] {
                    let (slot, place) = untag(delivery.tag);
                    if let Some(slot) = state.slots.get_mut(&slot) {
                        slot.partition.settle(place, Verdict::Ack, now);
                    }
                }
                state.out = 0;
            }
            let has_ready = state.has_ready();
            let is_full = !own.spec.read_only && state.out >= own.spec.prefetch;
            let flow = match has_ready && !is_full && max > 0 {
                true => Flow::More,
                false if state.at_end && !has_ready => Flow::End,
                false => Flow::Idle,
            };
            state.set_idle(flow == Flow::Idle && max > 0);
            flow
        };
        if out.len() > before {
            // There is room for more now.
            own.feed();
        }
        flow
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let own = &self.0;
        let now = own.clock.now();
        let mut ended = Vec::new();
        let (rings, rests) = {
            let mut state = own.state.lock();
            let state = &mut *state;
            let mut rests = false;
            for &(tag, verdict) in verdicts {
                let (name, place) = untag(tag);
                let settled = state.slots.get_mut(&name).is_some_and(|slot| {
                    let verdict = if slot.past { Verdict::Ack } else { verdict };
                    slot.partition.settle(place, verdict, now)
                });
                match settled {
                    true => state.out -= 1,
                    false => ended.push(tag),
                }
                rests |= matches!(verdict, Verdict::Retry(delay) if !delay.is_zero());
            }
            let rings = state.out < own.spec.prefetch && state.has_ready() && state.take_idle();
            // The thread looks when a rest is over, or a partition can be given up.
            (rings, rests || state.slots.values().any(|slot| slot.leaving))
        };
        if rests {
            own.wake.raise();
        }
        if rings {
            own.sink.ready();
        }
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        let (name, place) = untag(tag);
        self.0.state.lock().slots.get(&name)?.partition.held(place).cloned()
    }

    fn extend(&self, _tag: u64, _lease: Duration) -> Result<()> {
        Err(error(Kind::Unsupported, "kafka has no leases to extend: a delivery is its member's until it is settled"))
    }

    fn seek(&self, to: Start) -> Result<()> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        {
            let mut state = self.0.state.lock();
            if state.closed || state.lost {
                return Err(closed());
            }
            state.seeks.push((to, answer));
        }
        self.0.wake.raise();
        let pending = Box::pin(async move { answered.await.unwrap_or_else(|_| Err(closed())) });
        crate::runtime::wait(pending, Some(SEEK_MAX))
    }

    fn close(&self) {
        self.0.close();
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource").field("pattern", &self.0.spec.pattern).finish_non_exhaustive()
    }
}
