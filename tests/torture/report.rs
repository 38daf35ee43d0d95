//! What a run has shown, for people: figures, what is broken, and where a lost message was seen last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::history::{Attempt, Decision, Ending, History, Level, Name};
use crate::options::Options;
use crate::rules::{self, Broken, RULES};

/// At most so many lines about one rule.
const SHOWN: usize = 5;

pub struct Report {
    pub history: History,
    pub broken: Vec<Broken>,
    pub dir: PathBuf,
}

/// The figures of a run.
struct Figures {
    endings: BTreeMap<&'static str, usize>,
    levels: BTreeMap<&'static str, usize>,
    deliveries: usize,
    provisional: usize,
    messages: usize,
    copies: usize,
    marked: usize,
    longest_call_ms: u64,
    recovery_ms: Option<u64>,
    faults: Vec<(String, usize)>,
}

impl Figures {
    fn of(history: &History) -> Self {
        let (mut endings, mut levels) = (BTreeMap::new(), BTreeMap::new());
        let mut longest_call_ms = 0;
        for attempt in history.attempts.values() {
            let Some(outcome) = attempt.outcome() else {
                *endings.entry("process died").or_default() += 1;
                continue;
            };
            *endings.entry(outcome.ending.name()).or_default() += 1;
            if outcome.ending == Ending::Confirmed {
                *levels.entry(outcome.level.name()).or_default() += 1;
            }
            longest_call_ms = longest_call_ms.max(outcome.at.saturating_sub(attempt.at) / 1000);
        }
        let by_name = history.by_name();
        // Not what a consumer gave back itself, or let go of: what came again though it was acknowledged.
        let twice =
            by_name.values().filter(|copies| copies.iter().filter(|copy| copy.decision == Decision::Ack).count() > 1);
        let twice: Vec<_> = twice.collect();
        let marked = twice.iter().filter(|copies| copies.iter().any(|copy| copy.maybe_dup || copy.redelivered)).count();
        let mut faults: BTreeMap<String, usize> = BTreeMap::new();
        for fault in history.breaks.iter().filter(|broken| !broken.consumer) {
            let side = fault.side.map_or(String::new(), |side| format!("{} ", side.name()));
            *faults.entry(format!("{side}{}", fault.what)).or_default() += 1;
        }
        Self {
            endings,
            levels,
            deliveries: history.deliveries.len(),
            provisional: history.deliveries.iter().filter(|own| history.is_provisional(own)).count(),
            messages: by_name.len(),
            copies: twice.len(),
            marked,
            longest_call_ms,
            recovery_ms: rules::worst_recovery(history).map(|time| time / 1000),
            faults: faults.into_iter().collect(),
        }
    }

    fn faults(&self) -> String {
        let all = self
            .faults
            .iter()
            .map(|(what, count)| if *count == 1 { what.clone() } else { format!("{count} × {what}") });
        let text = all.collect::<Vec<_>>().join(", ");
        if text.is_empty() {
            "none".to_owned()
        } else {
            text
        }
    }
}

fn listed(counts: &BTreeMap<&'static str, usize>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

impl Report {
    pub fn print(&self) {
        let figures = Figures::of(&self.history);
        let Figures { deliveries, provisional, messages, copies, marked, longest_call_ms, .. } = &figures;
        println!("  faults: {}", figures.faults());
        println!("  publishes: {} ({})", self.history.attempts.len(), listed(&figures.endings));
        println!("  confirmed at level: {}", listed(&figures.levels));
        println!(
            "  deliveries: {deliveries} of {messages} messages, {provisional} provisional; acknowledged twice: {copies}, of them marked: {marked}"
        );
        let kept: Vec<String> = self
            .history
            .counters
            .iter()
            .map(|own| format!("{} kept, {} forwarded, {} done here", own.spooled, own.forwarded, own.local_done))
            .collect();
        println!("  spool: {} (at most {} bytes)", kept.join("; "), self.history.spool_bytes_most);
        let recovery = figures.recovery_ms.map_or_else(|| "-".to_owned(), |time| format!("{time} ms"));
        println!("  worst times: {longest_call_ms} ms to an outcome, {recovery} from the end of a fault to the server's next confirm");
        let (before, after) = (self.history.before, self.history.after);
        println!(
            "  host: memory {} → {} KiB, descriptors {} → {}, threads {} → {}",
            before.rss >> 10,
            after.rss >> 10,
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads
        );
        for rule in RULES {
            let all: Vec<&Broken> = self.broken.iter().filter(|broken| broken.rule == rule.number).collect();
            if all.is_empty() {
                continue;
            }
            println!("  BROKEN {}: {} ({} times)", rule.number, rule.says, all.len());
            for broken in all.iter().take(SHOWN) {
                println!("    {}", broken.text);
                if let Some(name) = &broken.message {
                    print!("{}", story(&self.history, name));
                }
            }
        }
        match self.broken.len() {
            0 => println!("  all {} rules hold", RULES.len()),
            _ => println!("  the logs are in {}", self.dir.display()),
        }
    }

    /// The line of the results table in the docs.
    pub fn row(&self, options: &Options) -> String {
        let figures = Figures::of(&self.history);
        let count = |name: &str| figures.endings.get(name).copied().unwrap_or_default();
        let mut rules: Vec<&str> = self.broken.iter().map(|broken| broken.rule).collect();
        rules.dedup();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} ms | {} | {} |\n",
            options.pairing.name(),
            if options.disk { "disk" } else { "memory" },
            options.minutes,
            options.seed,
            figures.faults(),
            count("confirmed"),
            count("unknown"),
            figures.messages,
            figures.copies,
            figures.longest_call_ms,
            figures.recovery_ms.map_or_else(|| "–".to_owned(), |time| format!("{time} ms")),
            if rules.is_empty() { "all hold".to_owned() } else { format!("broken: {}", rules.join(", ")) },
        )
    }
}

/// Everything known of a message, and the leg that it was seen on last.
fn story(history: &History, name: &Name) -> String {
    let mut out = String::new();
    let Some(attempt) = history.attempts.get(name) else { return out };
    let since = |at: u64| (at as f64 - history.load.0 as f64) / 1e6;
    let _ = writeln!(
        out,
        "      {:8.3} s  published (life {}, id {})",
        since(attempt.at),
        attempt.life,
        shown(&attempt.id)
    );
    for outcome in &attempt.outcomes {
        let (ending, level) = (outcome.ending.name(), outcome.level.name());
        let kept = if outcome.spooled { ", kept" } else { "" };
        let _ = writeln!(
            out,
            "      {:8.3} s  {ending}, level {level}{kept} {} id {}",
            since(outcome.at),
            outcome.kind,
            shown(&outcome.id)
        );
    }
    let mut copies = 0;
    for own in history.deliveries.iter().filter(|delivery| delivery.name == *name) {
        copies += 1;
        let _ = writeln!(
            out,
            "      {:8.3} s  to {}: {} (attempt {}, redelivered {}, maybe_dup {}, partition {}, offset {}, id {})",
            since(own.at),
            own.consumer,
            own.decision.name(),
            own.attempt,
            own.redelivered,
            own.maybe_dup,
            own.partition,
            own.offset,
            own.id
        );
    }
    let end = attempt.outcome().map_or(attempt.at, |outcome| outcome.at);
    for broken in &history.breaks {
        let near = broken.overlaps(attempt.at.saturating_sub(3_000_000), end + 3_000_000);
        if near && !broken.consumer {
            let _ = writeln!(out, "      {:8.3} to {:.3} s  {}", since(broken.from), since(broken.to), broken.what);
        }
    }
    if copies == 0 && attempt.ended_as(Ending::Confirmed) {
        let _ = writeln!(out, "      lost: {}", leg(history, attempt));
    }
    out
}

fn shown(id: &str) -> &str {
    if id.is_empty() {
        "not told"
    } else {
        id
    }
}

/// Which leg of its way lost a message that no consumer wrote down: by what the receipt said, and what is left where.
fn leg(history: &History, attempt: &Attempt) -> String {
    let topic = &attempt.name.topic;
    let queued: u64 =
        history.left.iter().filter(|(queue, _)| queue.starts_with(topic.as_str())).map(|(_, count)| count).sum();
    let kept: u64 = history.counters.last().map_or(0, |own| own.records);
    if queued > 0 {
        return format!("perhaps not: {queued} messages are in its queues, and no consumer was handed them");
    }
    if kept > 0 {
        return format!("perhaps not: {kept} messages are in the spool");
    }
    let unread = rules::unread(history, topic);
    if unread > 0 {
        return format!("between Kafka and its consumers: {unread} offsets of its topic were handed to nobody");
    }
    let Some(outcome) = attempt.outcome() else { return "unknown".to_owned() };
    match (outcome.spooled, outcome.level) {
        (true, _) => "between the spool and the server: it was kept, and the spool and the queues are empty".to_owned(),
        (false, Level::Broker) => {
            "behind the server's confirm: the server lost it, or its delivery was acknowledged and not handed over"
                .to_owned()
        }
        (false, level) => format!("inside the hub, at level {}", level.name()),
    }
}
