//! The program's end of a subscription.

use std::sync::Arc;
use std::time::Duration;

use super::consume::Subscriber;
use super::error::error;
use crate::broker::{Delivery, Flow, Source, Start, Verdict};
use crate::error::{Kind, Result};
use crate::message::Message;

/// Delays below this are held here; the server's are whole seconds.
const HELD_HERE: Duration = Duration::from_secs(1);

/// It fetches and settles without waiting for the subscription's task.
pub(super) struct RabbitSource(pub Arc<Subscriber>);

impl Source for RabbitSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let mut state = self.0.state.lock();
        let state = &mut *state;
        if state.lost.is_some() {
            return Flow::Lost;
        }
        if state.closed {
            return Flow::Idle;
        }
        let count = max.min(state.waiting.len());
        for held in state.waiting.drain(..count) {
            state.names += 1;
            out.push(Delivery {
                message: held.message.clone(),
                tag: state.names,
                attempt: held.attempts + 1,
                unsure: held.counted,
                redelivered: held.redelivered,
                provisional: false,
                partition: 0,
                offset: -1,
            });
            state.out.insert(state.names, held);
        }
        state.idle = max > 0 && state.waiting.is_empty();
        if state.waiting.is_empty() || max == 0 {
            Flow::Idle
        } else {
            Flow::More
        }
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let own = &self.0;
        let Some(shared) = own.shared.upgrade() else {
            return verdicts.iter().map(|(tag, _)| *tag).collect();
        };
        let mut ended = Vec::new();
        let rings = {
            let mut state = own.state.lock();
            let state = &mut *state;
            let mut came = false;
            for &(tag, verdict) in verdicts {
                let Some(mut held) = state.out.remove(&tag) else {
                    ended.push(tag);
                    continue;
                };
                match verdict {
                    Verdict::Ack => state.acks.ack(held.server_tag),
                    Verdict::Return => state.acks.requeue(held.server_tag),
                    Verdict::Retry(delay) => {
                        held.attempts += 1;
                        held.redelivered = true;
                        if delay >= HELD_HERE {
                            own.delay(&shared, state, held, delay);
                        } else if delay.is_zero() {
                            state.waiting.push_back(held);
                            came = true;
                        } else {
                            state.put_later(held, own.clock.now().plus(delay));
                        }
                    }
                }
            }
            came && std::mem::take(&mut state.idle)
        };
        own.changed.notify_one();
        if rings {
            own.sink.ready();
        }
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.0.state.lock().out.get(&tag).map(|held| held.message.clone())
    }

    fn extend(&self, _tag: u64, _lease: Duration) -> Result<()> {
        Err(error(Kind::Unsupported, "rabbitmq has no leases to extend: its server's consumer timeout is for all"))
    }

    fn seek(&self, _to: Start) -> Result<()> {
        Err(error(Kind::Unsupported, "rabbitmq keeps no log of events: there is nothing to seek"))
    }

    fn close(&self) {
        self.0.close();
    }
}

impl Drop for RabbitSource {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl std::fmt::Debug for RabbitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitSource").field("pattern", &self.0.spec.pattern).finish_non_exhaustive()
    }
}
