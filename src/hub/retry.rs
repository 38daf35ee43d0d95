//! Retry and dead letters, once for all backends.
//!
//! What a failed delivery becomes is decided here: handed over again after a growing delay, or,
//! at its last attempt or by the program's word, a *dead letter*: a copy with its reason and
//! origin in the headers, published to the dead-letter topic and confirmed there before the
//! original is acknowledged. A dead letter that cannot be written keeps the original in its queue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::provisional::HANDLED;
use super::settle::{stale, Decision, Open};
use super::Shared;
use crate::broker::{Level, Source, Verdict};
use crate::config::RetryPolicy;
use crate::error::{Error, Kind, Result};
use crate::message::{HeaderBlock, Message, Record, TopicKind};
use crate::metrics::{Counter, Metrics};
use crate::pattern::DEAD_LETTER_SUFFIX;

/// Topic the dead letter came from.
pub const ORIGIN_TOPIC: &str = "hmq-origin-topic";
/// Task or event.
pub const ORIGIN_KIND: &str = "hmq-origin-kind";
/// Why it is a dead letter.
pub const REASON: &str = "hmq-dead-reason";
/// Attempts made.
pub const ATTEMPTS: &str = "hmq-attempts";
/// When it became one, microseconds since 1970.
pub const DEAD_AT: &str = "hmq-dead-at";
/// Sent back from the dead letters: when, in microseconds since 1970, and a number, so that no two are alike.
pub const REDRIVEN: &str = "hmq-redriven";
/// All of those of a dead letter, for the copy that leaves the dead-letter topic.
pub const DEAD_HEADERS: [&str; 5] = [ORIGIN_TOPIC, ORIGIN_KIND, REASON, ATTEMPTS, DEAD_AT];

/// Delay before attempt `attempt + 1`: exponential, capped, and with `jitter` in `0..=1` the later
/// half of it left to chance.
pub fn backoff(policy: &RetryPolicy, attempt: u32, chance: f64) -> Duration {
    let steps = attempt.saturating_sub(1).min(64);
    let grown = policy.delay.as_secs_f64() * policy.factor.powi(steps as i32);
    let capped = grown.min(policy.delay_max.as_secs_f64());
    let spread = if policy.jitter { 0.5 + 0.5 * chance } else { 1.0 };
    Duration::try_from_secs_f64(capped * spread).unwrap_or(policy.delay_max)
}

/// How one subscription treats failed deliveries.
#[derive(Debug)]
pub struct Attempts {
    hub: Weak<Shared>,
    metrics: Arc<Metrics>,
    kind: TopicKind,
    policy: RetryPolicy,
    /// `None`: dropped and counted, as the subscription asked for.
    dead_letter: Option<DeadLetterTopic>,
    random: AtomicU64,
}

/// Where dead letters of a subscription go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterTopic {
    /// The origin's name with `.dlq` behind it.
    OfOrigin,
    /// One topic for all.
    Named(String),
}

/// So many attempts that perhaps were none do not bury a message that no handler has failed; more may mean
/// that it ends each process that has it.
const UNSURE_SPARED: u32 = 16;

impl Attempts {
    /// The treatment of a subscription's deliveries.
    pub(super) fn new(
        hub: &Arc<Shared>,
        kind: TopicKind,
        policy: RetryPolicy,
        dead_letter: Option<DeadLetterTopic>,
    ) -> Self {
        let random = AtomicU64::new(hub.context.id_prefix | 1);
        Self { hub: Arc::downgrade(hub), metrics: Arc::clone(&hub.metrics), kind, policy, dead_letter, random }
    }

    /// Whether a delivery is beyond its last attempt. A dead letter never is.
    pub fn exhausted(&self, attempt: u32, unsure: u32, message: &Message) -> bool {
        attempt.saturating_sub(unsure.min(UNSURE_SPARED)) > self.policy.attempts
            && !self.hub.upgrade().is_some_and(|hub| is_dead_letter(&hub, message))
    }

    /// Counts a settlement.
    pub fn count_settled(&self, decision: Decision<'_>, count: u64) {
        let counter = match decision {
            Decision::Ack => Counter::Acked,
            Decision::Retry { .. } => Counter::Retried,
            Decision::Reject { .. } => Counter::Rejected,
        };
        self.metrics.add(counter, count);
    }

    /// Carries out a decision.
    pub fn decide(&self, source: &Arc<dyn Source>, open: Open, decision: Decision<'_>) -> Result<()> {
        let attempt = open.attempt;
        match decision {
            Decision::Ack => settle_one(source, open, Verdict::Ack)?,
            Decision::Retry { .. } if attempt < self.policy.attempts && self.is_gone(source, open) => {
                settle_one(source, open, Verdict::Ack)?;
                return Err(Error::new(
                    Kind::Stale,
                    "retention or a purge has dropped this event: it cannot come back",
                ));
            }
            Decision::Retry { delay, reason } if attempt < self.policy.attempts => {
                let delay = delay.unwrap_or_else(|| backoff(&self.policy, attempt, self.chance()));
                tracing::debug!(attempt, reason, "handed over again after {delay:?}");
                settle_one(source, open, Verdict::Retry(delay))?;
            }
            Decision::Retry { reason, .. } => {
                let reason = if reason.is_empty() { "all attempts failed" } else { reason };
                self.bury(source, open, reason)?;
            }
            Decision::Reject { reason } => {
                let reason = if reason.is_empty() { "rejected" } else { reason };
                self.bury(source, open, reason)?;
            }
        }
        self.count_settled(decision, 1);
        Ok(())
    }

    /// Whether an event was dropped from its log while it was out.
    fn is_gone(&self, source: &Arc<dyn Source>, open: Open) -> bool {
        self.kind == TopicKind::Event && source.held(open.tag).is_none()
    }

    /// Writes the dead letter and then acknowledges the original; if it cannot be written, the
    /// original is handed over again later.
    pub fn bury(&self, source: &Arc<dyn Source>, open: Open, reason: &str) -> Result<()> {
        let Some(hub) = self.hub.upgrade() else {
            return settle_one(source, open, Verdict::Return);
        };
        // An event that retention has dropped while it was out leaves nothing to keep.
        let (Some(topic), Some(message)) = (&self.dead_letter, source.held(open.tag)) else {
            settle_one(source, open, Verdict::Ack)?;
            hub.metrics.add(Counter::DroppedDead, 1);
            return Ok(());
        };
        let later = backoff(&self.policy, open.attempt, self.chance());
        if is_dead_letter(&hub, &message) {
            // A dead letter has nowhere further to go: it stays, for another look.
            return settle_one(source, open, Verdict::Retry(later));
        }
        let topic = match topic {
            DeadLetterTopic::OfOrigin => format!("{}{DEAD_LETTER_SUFFIX}", message.topic()),
            DeadLetterTopic::Named(name) => name.clone(),
        };
        let require = Some(source.level(open.tag));
        let source = Arc::clone(source);
        let done = move |is_written: bool| {
            let verdict = if is_written { Verdict::Ack } else { Verdict::Retry(later) };
            source.settle(&[(open.tag, verdict)]);
        };
        hub.write_dead_letter(&topic, (&message, self.kind), open.attempt, reason, require, Box::new(done));
        Ok(())
    }

    /// A number in `0..1`; quality does not matter, only that subscriptions differ.
    fn chance(&self) -> f64 {
        let mut word = self.random.load(Ordering::Relaxed);
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        self.random.store(word, Ordering::Relaxed);
        (word >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Shared {
    /// Writes a dead letter, counts it and says so; `done` hears whether it is written.
    fn write_dead_letter(
        self: &Arc<Self>,
        topic: &str,
        (message, kind): (&Message, TopicKind),
        attempt: u32,
        reason: &str,
        require: Option<Level>,
        done: Box<dyn FnOnce(bool) + Send>,
    ) {
        let mut headers = HeaderBlock::default();
        headers.extend(message.headers(), &[&DEAD_HEADERS[..], &[HANDLED]].concat());
        headers.push(ORIGIN_TOPIC, message.topic().as_bytes());
        headers.push(ORIGIN_KIND, kind.name().as_bytes());
        let mut cut = reason.len().min(1_000);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        headers.push(REASON, &reason.as_bytes()[..cut]);
        headers.push(ATTEMPTS, attempt.to_string().as_bytes());
        headers.push(DEAD_AT, self.context.clock.wall_us().to_string().as_bytes());
        let id = message.id();
        // Attempts start again at the dead letter's own consumer; the old count is in the header.
        let record = Record { headers: headers.headers(), attempts: 0, ..Record::again(message, id.as_str()) };
        let told = format!("message {} of `{}` is in `{topic}` now: {reason}", id.as_str(), message.topic());
        let hub = Arc::downgrade(self);
        let written = move |result: Result<()>| {
            if let Some(hub) = hub.upgrade() {
                match &result {
                    Ok(()) => {
                        hub.metrics.add(Counter::DeadLettered, 1);
                        hub.log_warn("dead_lettered", &told);
                    }
                    Err(error) => {
                        hub.log_warn("dead_letter_failed", &format!("a dead letter could not be written: {error}"));
                    }
                }
            }
            done(result.is_ok());
        };
        self.publish_internal(topic, TopicKind::Task, &record, require, Box::new(written));
    }

    /// Writes the dead letter of a message that was kept for its server, which then refused it.
    pub(super) fn bury_spooled(
        self: &Arc<Self>,
        message: &Message,
        kind: TopicKind,
        reason: &str,
        done: Box<dyn FnOnce(bool) + Send>,
    ) {
        if message.topic().ends_with(DEAD_LETTER_SUFFIX) {
            // It has nowhere further to go, and nobody who would try it again.
            let (id, topic) = (message.id(), message.topic());
            let text =
                format!("dead letter {} for `{topic}` was refused by the server, and is lost: {reason}", id.as_str());
            self.log_warn("dead_letter_lost", &text);
            return done(true);
        }
        let topic = format!("{}{DEAD_LETTER_SUFFIX}", message.topic());
        self.write_dead_letter(&topic, (message, kind), 1, reason, None, done);
    }
}

/// Passes one verdict on; it has no effect if the lease has ended since its token was taken.
fn settle_one(source: &Arc<dyn Source>, open: Open, verdict: Verdict) -> Result<()> {
    match source.settle(&[(open.tag, verdict)]).is_empty() {
        true => Ok(()),
        false => Err(stale()),
    }
}

/// Told by topic and header: a message that brings such a header is like any other elsewhere, and
/// so is one that was published to such a topic by its name.
fn is_dead_letter(hub: &Shared, message: &Message) -> bool {
    message.headers().find(ORIGIN_TOPIC).is_some() && hub.keeps_dead_letters(message.topic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = RetryPolicy { jitter: false, ..RetryPolicy::default() };
        let seconds: Vec<u64> = (1..8).map(|attempt| backoff(&policy, attempt, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        let jittered = RetryPolicy { jitter: true, ..policy };
        assert_eq!(backoff(&jittered, 1, 0.0), Duration::from_millis(500));
    }
}
