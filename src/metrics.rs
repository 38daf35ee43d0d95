//! Counters of a hub and their export as JSON and Prometheus text.
//!
//! The table below is the one list of names; `docs/metrics.md` is generated from it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{json, Map, Value};

macro_rules! counters {
    ($($name:ident $text:literal $help:literal;)*) => {
        /// A number that only rises.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $(#[doc = $help] $name,)* }

        /// All counters: name without prefix, help.
        pub const COUNTERS: &[(&str, &str)] = &[$(($text, $help),)*];
    };
}

counters! {
    Published "published_total" "Messages that publish calls handed over with success.";
    PublishedBytes "published_bytes_total" "Payload bytes of those.";
    PublishFailed "publish_failed_total" "Messages refused or not sent.";
    PublishUnknown "publish_unknown_total" "Messages whose outcome is unknown.";
    PublishWaits "publish_waits_total" "Publish calls that had to wait for space, or for a server that may be away.";
    Spooled "spooled_total" "Messages kept here while their server was away.";
    Forwarded "forwarded_total" "Messages of the spool that their server has confirmed.";
    MaybeDuplicate "maybe_duplicate_total" "Messages sent again, marked, after an outcome that was not known.";
    SpoolExpired "spool_expired_total" "Messages of the spool whose time to live was over.";
    SpoolEvicted "spool_evicted_total" "Messages of the spool that made room for newer ones.";
    SpoolRefused "spool_refused_total" "Messages of the spool that their server refused: dead letters, unless their publish failed by it.";
    SpoolFailed "spool_failed_total" "Messages that had a place in the spool when their publish failed: not sent, or outcome unknown.";
    LocalDone "local_done_total" "Tasks of the spool that were done in this process.";
    OutageDropped "outage_dropped_total" "Messages dropped while their server was away, as their route asks.";
    Delivered "delivered_total" "Messages handed over to handlers and inboxes.";
    Redelivered "redelivered_total" "Those among them that had been handed over before.";
    Filtered "filtered_total" "Deliveries skipped by a subscription's filter.";
    Acked "acked_total" "Deliveries acknowledged.";
    Retried "retried_total" "Deliveries given back for another attempt.";
    Rejected "rejected_total" "Deliveries rejected.";
    DeadLettered "dead_lettered_total" "Dead letters written.";
    DroppedDead "dead_dropped_total" "Failed messages dropped: their subscription keeps no dead letters, or retention had dropped the event.";
    NotSettled "not_settled_total" "Callback returns that were no verdict; handed over again.";
    HandlerPanics "handler_panics_total" "Panics caught in handlers.";
    Revoked "leases_ended_total" "Deliveries taken back because their lease ended.";
    DuplicatesDropped "duplicates_dropped_total" "Deliveries acknowledged and not handed over: a subscription with dedup had seen their id done.";
    LedgerAcked "ledger_acked_total" "Deliveries acknowledged and not handed over: their handler was done after their connection had broken, or had had a provisional copy.";
    Provisional "provisional_total" "Events handed over as provisional copies, while their server was away.";
    ProvisionalDone "provisional_done_total" "Deliveries acknowledged and not handed over: by their header, their group had handled the provisional copy.";
    Replayed "replayed_total" "Messages handed over by replays.";
}

/// Padding keeps the counters of publishers and of consumers on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

/// All counters of one hub.
#[derive(Debug, Default)]
pub struct Metrics([Line; COUNTERS.len().div_ceil(5)]);

impl Metrics {
    /// Adds to a counter.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        self.slot(counter as usize).fetch_add(amount, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn read(&self, counter: Counter) -> u64 {
        self.slot(counter as usize).load(Ordering::Relaxed)
    }

    /// All counters and the given gauges as one JSON object.
    pub fn to_json(&self, gauges: &[Gauge]) -> Value {
        let mut out = Map::new();
        for (index, (name, _)) in COUNTERS.iter().enumerate() {
            out.insert(format!("helixmq_{name}"), json!(self.slot(index).load(Ordering::Relaxed)));
        }
        for gauge in gauges {
            let entry = out.entry(format!("helixmq_{}", gauge.name)).or_insert_with(|| json!({}));
            if let Value::Object(entry) = entry {
                entry.insert(gauge.label_value.clone(), json!(gauge.value));
            }
        }
        Value::Object(out)
    }

    /// The same in the text format of Prometheus.
    pub fn to_prometheus(&self, gauges: &[Gauge]) -> String {
        let mut out = String::new();
        for (index, (name, help)) in COUNTERS.iter().enumerate() {
            let value = self.slot(index).load(Ordering::Relaxed);
            let _ =
                write!(out, "# HELP helixmq_{name} {help}\n# TYPE helixmq_{name} counter\nhelixmq_{name} {value}\n");
        }
        for (name, label, help) in GAUGES {
            let own: Vec<&Gauge> = gauges.iter().filter(|gauge| gauge.name == *name).collect();
            if own.is_empty() {
                continue;
            }
            let _ = write!(out, "# HELP helixmq_{name} {help}\n# TYPE helixmq_{name} gauge\n");
            for gauge in own {
                let escaped = escaped(&gauge.label_value);
                let _ = writeln!(out, "helixmq_{name}{{{label}=\"{escaped}\"}} {}", gauge.value);
            }
        }
        out
    }

    #[allow(clippy::indexing_slicing, reason = "both indexes are derived from the table's length")]
    fn slot(&self, index: usize) -> &AtomicU64 {
        &self.0[index / 5].0[index % 5]
    }
}

/// A label's value as Prometheus writes it.
fn escaped(value: &str) -> String {
    value.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n")
}

/// A number read at the time of the export.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// One of [`GAUGES`].
    pub name: &'static str,
    /// Value of its label.
    pub label_value: String,
    /// The number.
    pub value: u64,
}

/// All gauges: name without prefix, label, help.
pub const GAUGES: &[(&str, &str, &str)] = &[
    ("backend_state", "backend", "1 takes messages (up, forwarding), else 0."),
    ("spool_records", "backend", "Messages kept for a server that was away."),
    ("spool_bytes", "backend", "Bytes of those."),
    ("spool_pressure", "backend", "1 from four fifths of what may be kept on, until it is below three fifths; else 0."),
    ("topic_messages", "topic", "Tasks waiting and due; events in the log."),
    ("topic_unsettled", "topic", "Tasks handed over and not settled."),
    ("topic_delayed", "topic", "Tasks waiting for their time."),
    ("topic_bytes", "topic", "Bytes kept."),
    ("topic_expired", "topic", "Messages that expired."),
    ("topic_dropped", "topic", "Messages dropped by retention or drop_oldest."),
    ("subscriptions", "hub", "Open subscriptions."),
    ("inflight", "hub", "Publishes whose outcome is not known yet."),
    (
        "remembered_ids",
        "use",
        "Ids known by subscriptions with dedup (`dedup`), or of deliveries whose connection broke (`ledger`).",
    ),
    ("held_back", "use", "Deliveries that wait here for the handler of the same message."),
];

/// The text of `docs/metrics.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\nGenerated from `src/metrics.rs`. `hmq_metrics` gives them as one JSON object or as Prometheus \
         text; all belong to one hub and start at zero when it opens.\n\n## Counters\n\n| name | meaning |\n| --- | --- |\n",
    );
    for (name, help) in COUNTERS {
        let _ = writeln!(out, "| `helixmq_{name}` | {help} |");
    }
    out.push_str(
        "\n## Gauges\n\nIn JSON a gauge is an object from label value to number. Topics are those of brokers inside the \
         process; `hmq_describe` asks a server for its own.\n",
    );
    out.push_str("\n| name | label | meaning |\n| --- | --- | --- |\n");
    for (name, label, help) in GAUGES {
        let _ = writeln!(out, "| `helixmq_{name}` | `{label}` | {help} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("HMQ_BLESS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), reference(), "run `make headers`");
    }

    #[test]
    fn both_formats_show_every_counter() {
        let metrics = Metrics::default();
        metrics.add(Counter::Acked, 3);
        let gauge = Gauge { name: "topic_bytes", label_value: "a\"b".into(), value: 9 };
        let json = metrics.to_json(std::slice::from_ref(&gauge));
        assert_eq!(json["helixmq_acked_total"], 3);
        assert_eq!(json["helixmq_topic_bytes"]["a\"b"], 9);
        let text = metrics.to_prometheus(&[gauge]);
        assert!(text.contains("helixmq_acked_total 3\n"));
        assert!(text.contains("helixmq_topic_bytes{topic=\"a\\\"b\"} 9\n"));
        assert!(COUNTERS.iter().all(|(name, _)| text.contains(name)));
    }
}
