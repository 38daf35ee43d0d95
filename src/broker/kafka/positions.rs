//! Where reading begins: names for a subscription, and offsets by start, group and time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::raw::{Client, Code, Failure, List, Result};
use crate::broker::Start;
use crate::pattern::Pattern;
use crate::sync::Deadline;

/// The oldest event kept, as librdkafka says it.
const BEGINNING: i64 = -2;

/// Where reading of one partition begins.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub topic: String,
    pub number: i32,
    /// The offset to read from.
    pub offset: i64,
    /// What is before this is not handed over: it may lie behind the end.
    pub from: i64,
    /// To be committed at once, or another member would begin elsewhere.
    pub noted: Option<i64>,
    /// What is before this was handed over by a member that has not settled it.
    pub handed: i64,
    /// Why it is not known yet where that is.
    pub unknown: Option<Failure>,
}

/// What is committed beside an offset: up to where messages were handed over.
const HANDED: &str = "hmq-handed=";

/// The note for an offset that is committed while later ones are handed over already.
pub(super) fn note(offset: i64, handed: i64) -> String {
    match handed > offset {
        true => format!("{HANDED}{handed}"),
        false => String::new(),
    }
}

fn handed(note: &str) -> i64 {
    note.strip_prefix(HANDED).and_then(|offset| offset.parse().ok()).unwrap_or_default()
}

const ESCAPE: &str = "\\";

/// A pattern as librdkafka takes it: a name, or a regular expression behind `^`.
pub(super) fn subscription(pattern: &Pattern) -> String {
    if pattern.is_exact() {
        return pattern.as_str().to_owned();
    }
    let mut text = String::from("^");
    let words: Vec<&str> = pattern.as_str().split('.').collect();
    // Whether a dot is due before the next word; `None`: only if what was before is there.
    let mut first = true;
    for (index, word) in words.iter().enumerate() {
        match *word {
            "#" if first && words.len() == 1 => text.push_str(".+"),
            // Any number of words, each with the dot on its far side.
            "#" if first => {
                text.push_str("([^.]+\\.)*");
                if words[index + 1..].iter().all(|word| *word == "#") {
                    text.push_str("[^.]+");
                    break;
                }
                continue;
            }
            "#" => text.push_str("(\\.[^.]+)*"),
            word => {
                if !first {
                    text.push_str("\\.");
                }
                match word {
                    "*" => text.push_str("[^.]+"),
                    word => word.chars().for_each(|symbol| {
                        if !symbol.is_alphanumeric() && !matches!(symbol, '_' | '-') {
                            text.push_str(ESCAPE);
                        }
                        text.push(symbol);
                    }),
                }
                first = false;
            }
        }
    }
    text.push('$');
    text
}

/// First offset kept and next offset of a partition.
pub(super) fn marks(client: &Arc<Client>, topic: &str, number: i32, until: Deadline) -> Result<(i64, i64)> {
    client.watermarks(topic, number, left(until)?)
}

/// What is left for one question.
fn left(until: Deadline) -> Result<Duration> {
    match until.has_passed() {
        true => Err(Failure::late()),
        false => Ok(until.left().unwrap_or(ASK_MAX)),
    }
}

/// Longest wait for one answer where there is no deadline.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Where a group goes on in partitions that were assigned: from what it has committed, else from `start`.
pub(super) fn of_group(client: &Arc<Client>, assigned: &List, start: Start, until: Deadline) -> Vec<Place> {
    let mut committed = List::new();
    for own in assigned.iter() {
        // Names came from librdkafka.
        let _ = committed.add(own.topic, own.partition, BEGINNING);
    }
    let mut places = Vec::new();
    let mut fresh = Vec::new();
    if committed.is_empty() {
        return places;
    }
    let asked = left(until).and_then(|left| client.committed(&mut committed, left));
    for own in committed.iter() {
        let (topic, number) = (own.topic.to_owned(), own.partition);
        let place = Place { topic, number, offset: own.offset, from: 0, noted: None, handed: 0, unknown: None };
        match (&asked, own.result, own.offset) {
            (Ok(()), Ok(()), 0..) => places.push(Place { handed: handed(own.note), ..place }),
            (Ok(()), Ok(()), _) => fresh.push((place.topic, number)),
            // librdkafka asks again by itself, and for as long as it takes.
            _ => places.push(Place { offset: STORED, ..place }),
        }
    }
    match of_start(client, &fresh, start, until) {
        Ok(found) => places.extend(found),
        Err(failure) => places.extend(fresh.into_iter().map(|(topic, number)| {
            let unknown = Some(failure.clone());
            Place { topic, number, offset: STORED, from: 0, noted: None, handed: 0, unknown }
        })),
    }
    places
}

/// What the group has committed, as librdkafka says it.
const STORED: i64 = -1000;

/// Where `start` is in these partitions.
pub(super) fn of_start(
    client: &Arc<Client>,
    names: &[(String, i32)],
    start: Start,
    until: Deadline,
) -> Result<Vec<Place>> {
    let times = match start {
        Start::Time(us) => of_time(client, names, us, until)?,
        _ => HashMap::new(),
    };
    let mut places = Vec::new();
    for name in names {
        let (topic, number) = name.clone();
        let (offset, from) = match start {
            Start::Earliest => (BEGINNING, 0),
            Start::Latest => (marks(client, &topic, number, until)?.1, 0),
            Start::Offset(offset) => {
                let (low, high) = marks(client, &topic, number, until)?;
                (offset.clamp(low, high), offset)
            }
            Start::Time(_) => match times.get(name) {
                Some(offset) => (*offset, 0),
                None => (marks(client, &topic, number, until)?.1, 0),
            },
        };
        let noted = (offset >= 0).then_some(offset);
        places.push(Place { topic, number, offset, from, noted, handed: 0, unknown: None });
    }
    Ok(places)
}

/// The first offset at or after a time, of the partitions that have one.
pub(super) fn of_time(
    client: &Arc<Client>,
    names: &[(String, i32)],
    us: i64,
    until: Deadline,
) -> Result<HashMap<(String, i32), i64>> {
    let mut found = HashMap::new();
    if names.is_empty() {
        return Ok(found);
    }
    // Kafka's times are milliseconds, cut off: one that is a part of one later is in the next.
    let millis = us.max(0).saturating_add(999) / 1000;
    let mut list = List::new();
    for (topic, number) in names {
        list.add(topic, *number, millis)?;
    }
    client.offsets_for_times(&mut list, left(until)?)?;
    for own in list.iter() {
        own.result?;
        if own.offset >= 0 {
            found.insert((own.topic.to_owned(), own.partition), own.offset);
        }
    }
    Ok(found)
}

/// Where to go on when what was next is not there: at the oldest that is. It may come twice, and is never
/// skipped unseen.
pub(super) fn after_a_gap(client: &Arc<Client>, topic: &str, number: i32, timeout: Duration) -> Result<i64> {
    client.watermarks(topic, number, timeout).map(|(low, _)| low)
}

/// The partitions of the topics that a pattern has now.
pub(super) fn partitions(client: &Arc<Client>, pattern: &Pattern, timeout: Duration) -> Result<Vec<(String, i32)>> {
    let topics = match pattern.is_exact() {
        true => {
            let topic = super::raw::Topic::new(client, pattern.as_str())?;
            client.topics(Some(&topic), timeout)?
        }
        false => client.all_topics(timeout)?,
    };
    let mut found = Vec::new();
    for (name, count) in topics {
        match count {
            Ok(count) => found.extend((0..count).map(|number| (name.clone(), number))),
            Err(Failure { code: Code::UnknownTopic | Code::UnknownTopicOrPartition, .. }) => {}
            // Not ours to see, among others.
            Err(Failure { code: Code::TopicAuthorizationFailed, .. }) if !pattern.is_exact() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_regular_expressions() {
        for (pattern, expression) in [
            ("user.created", "user.created"),
            ("user.*", r"^user\.[^.]+$"),
            ("user.#", r"^user(\.[^.]+)*$"),
            ("#", "^.+$"),
            ("#.created", r"^([^.]+\.)*created$"),
            ("*.a-b_c.#", r"^[^.]+\.a-b_c(\.[^.]+)*$"),
            ("a.#.b", r"^a(\.[^.]+)*\.b$"),
            ("#.#", r"^([^.]+\.)*[^.]+$"),
        ] {
            assert_eq!(subscription(&Pattern::parse(pattern).unwrap()), expression, "{pattern}");
        }
    }
}
