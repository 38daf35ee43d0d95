//! Rules about single messages: C1, C2, C3, C6, C7.

use super::Broken;
use crate::history::{Attempt, Decision, Ending, History, Level};

/// A confirmed message is handed over and acknowledged; of the level `memory`, if its process was not killed.
pub fn c1_nothing_is_lost(history: &History) -> Vec<Broken> {
    let delivered = history.by_name();
    let mut broken = Vec::new();
    for attempt in history.attempts.values().filter(|attempt| attempt.ended_as(Ending::Confirmed)) {
        let deliveries = delivered.get(&attempt.name).map_or(&[][..], Vec::as_slice);
        let done = deliveries.iter().any(|delivery| delivery.decision == Decision::Ack);
        if !done && !may_be_lost(history, attempt) {
            let level = attempt.outcome().map_or("none", |outcome| outcome.level.name());
            let text = match deliveries.len() {
                0 => format!("confirmed (level {level}) and never delivered"),
                times => {
                    format!("confirmed (level {level}), given back by its consumers {times} times, and not seen again")
                }
            };
            broken.push(Broken::of("C1", &attempt.name, text));
        }
    }
    broken
}

/// What its receipt promised does not outlive the process, and that was killed. `none` promises nothing at all.
fn may_be_lost(history: &History, attempt: &Attempt) -> bool {
    match attempt.outcome().map(|outcome| outcome.level) {
        Some(Level::None) => true,
        Some(Level::Memory) => history.kills.contains_key(&attempt.life),
        _ => false,
    }
}

pub fn c2_nothing_is_invented(history: &History) -> Vec<Broken> {
    let foreign = |delivery: &&crate::history::Delivery| {
        delivery.run != history.run || !history.attempts.contains_key(&delivery.name)
    };
    let text = |delivery: &crate::history::Delivery| {
        format!("delivered to {} (run `{}`) and never published", delivery.consumer, delivery.run)
    };
    history.deliveries.iter().filter(foreign).map(|delivery| Broken::of("C2", &delivery.name, text(delivery))).collect()
}

pub fn c3_no_is_no(history: &History) -> Vec<Broken> {
    let delivered = history.by_name();
    let mut broken = Vec::new();
    for attempt in history.attempts.values() {
        let Some(outcome) = attempt.outcome() else { continue };
        if matches!(outcome.ending, Ending::Refused | Ending::NotSent) && delivered.contains_key(&attempt.name) {
            let text = format!("told as {} ({}), and delivered", outcome.ending.name(), outcome.kind);
            broken.push(Broken::of("C3", &attempt.name, text));
        }
    }
    broken
}

/// Also the id: the one that was given, or that the receipt named, on every copy.
pub fn c6_content_is_intact(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    for delivery in &history.deliveries {
        if !delivery.intact {
            broken.push(Broken::of("C6", &delivery.name, "payload, key or headers are not what was sent"));
        }
        let Some(attempt) = history.attempts.get(&delivery.name) else { continue };
        let told = attempt.outcome().map_or("", |outcome| outcome.id.as_str());
        for expected in [attempt.id.as_str(), told].into_iter().filter(|id| !id.is_empty()) {
            if delivery.id != expected {
                let text = format!("delivered with the id {}, and not {expected}", delivery.id);
                broken.push(Broken::of("C6", &delivery.name, text));
            }
        }
    }
    for copies in history.by_name().values() {
        if let Some(pair) = copies.windows(2).find(|pair| pair[0].id != pair[1].id) {
            let text = format!("two copies have two ids, {} and {}", pair[0].id, pair[1].id);
            broken.push(Broken::of("C6", &pair[0].name, text));
        }
    }
    broken
}

/// None at all is allowed where the process was killed before it could be told.
pub fn c7_one_outcome(history: &History) -> Vec<Broken> {
    let mut broken: Vec<Broken> = history
        .strays
        .iter()
        .map(|line| Broken::run("C7", format!("a line of the logs that does not fit: {line}")))
        .collect();
    for attempt in history.attempts.values() {
        match attempt.outcomes.len() {
            1 => {}
            0 if history.kills.contains_key(&attempt.life) => {}
            0 => broken.push(Broken::of("C7", &attempt.name, "no outcome was told")),
            more => broken.push(Broken::of("C7", &attempt.name, format!("{more} outcomes were told"))),
        }
    }
    broken
}
