//! A subscription on the program's broker: deliveries wait here until they are fetched.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{unsupported, Shared};
use crate::broker::{Delivery, Flow, Sink, Source, Start, Verdict};
use crate::error::{Error, Kind, Result};
use crate::message::{Message, Pool, Record, Stamp};
use crate::sync::Mutex;

/// What broker and source share of one subscription.
pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) sink: Arc<dyn Sink>,
    prefetch: usize,
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<Delivery>,
    /// The program's tokens of deliveries that wait or are out, by our tags.
    tokens: HashMap<u64, (u64, Message)>,
    tags_ever: u64,
    /// The last fetch found nothing, so the next delivery rings.
    idle: bool,
    ended: bool,
    /// Topic of the last delivery: the next one is mostly of the same.
    topic: Arc<str>,
}

impl Subscriber {
    pub(super) fn new(id: u64, prefetch: usize, sink: Arc<dyn Sink>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            tokens: HashMap::new(),
            tags_ever: 0,
            idle: true,
            ended: false,
            topic: Arc::from(""),
        };
        Self { id, sink, prefetch, state: Mutex::new(state) }
    }

    /// Copies a message in; answers whether the sink must be told.
    pub(super) fn take_in(
        &self,
        pool: &Arc<Pool>,
        id_prefix: u64,
        topic: &str,
        record: &Record<'_>,
        stamp: Stamp,
        (their_token, attempt): (u64, u32),
    ) -> Result<bool> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(Error::new(Kind::NotFound, format!("subscription {} has ended", self.id)));
        }
        if state.tokens.len() >= self.prefetch {
            let text = format!("subscription {} holds {} deliveries, its prefetch", self.id, self.prefetch);
            return Err(Error::new(Kind::Full, text));
        }
        if *state.topic != *topic {
            state.topic = Arc::from(topic);
        }
        let message = Message::alone(pool, &state.topic, id_prefix, record, stamp)
            .ok_or_else(|| Error::new(Kind::Resources, "no memory for a delivery"))?;
        state.tags_ever += 1;
        let tag = state.tags_ever;
        state.tokens.insert(tag, (their_token, message.clone()));
        let attempt = attempt.max(1);
        state.waiting.push_back(Delivery {
            message,
            tag,
            attempt,
            unsure: 0,
            redelivered: attempt > 1,
            provisional: false,
            partition: 0,
            offset: -1,
        });
        Ok(std::mem::take(&mut state.idle))
    }

    /// Nothing is given any more; answers the tags that were out.
    pub(super) fn end(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        state.ended = true;
        let waiting: Vec<Delivery> = state.waiting.drain(..).collect();
        for delivery in &waiting {
            state.tokens.remove(&delivery.tag);
        }
        let mut out: Vec<u64> = state.tokens.drain().map(|(tag, _)| tag).collect();
        out.sort_unstable();
        out
    }
}

pub(super) struct CustomSource {
    pub(super) shared: Arc<Shared>,
    pub(super) subscriber: Arc<Subscriber>,
}

impl Source for CustomSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let mut state = self.subscriber.state.lock();
        if state.ended {
            return Flow::Lost;
        }
        let count = state.waiting.len().min(max);
        out.extend(state.waiting.drain(..count));
        if state.waiting.is_empty() {
            state.idle = true;
            return Flow::Idle;
        }
        Flow::More
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let mut ended = Vec::new();
        for (tag, verdict) in verdicts {
            let their_token = self.subscriber.state.lock().tokens.remove(tag);
            let Some((their_token, _)) = their_token else {
                ended.push(*tag);
                continue;
            };
            // A panic has been told to the hub as a loss.
            let id = self.subscriber.id;
            drop(self.shared.operate("custom settle", |ops| ops.settle(id, their_token, *verdict)));
        }
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.subscriber.state.lock().tokens.get(&tag).map(|(_, message)| message.clone())
    }

    fn extend(&self, _tag: u64, _lease: Duration) -> Result<()> {
        Err(unsupported("extending a lease"))
    }

    fn seek(&self, _to: Start) -> Result<()> {
        Err(unsupported("seeking"))
    }

    fn close(&self) {
        self.shared.unsubscribe(&self.subscriber);
    }
}

/// A source that nobody waited for any more ends like one that was closed.
impl Drop for CustomSource {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for CustomSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomSource").field("subscription", &self.subscriber.id).finish()
    }
}
