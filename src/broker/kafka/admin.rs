//! Administration: what is in topics, how far groups are, emptying and deleting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::consume::Subscriber;
use super::error::{error, of};
use super::raw::{Client, Code, Failure, List};
use super::{login, positions, Kafka, Shared, TASK_GROUP};
use crate::broker::{Admin, Description};
use crate::clock::Moment;
use crate::error::{Kind, Result};
use crate::message::TopicKind;
use crate::pattern::{Pattern, DEAD_LETTER_SUFFIX};
use crate::runtime::Pending;
use crate::sync::Deadline;

/// Between two questions to a coordinator that is not ready yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A deleted topic that is there longer than this was made again.
const GONE_WITHIN: Duration = Duration::from_secs(3);

impl Admin for Kafka {
    fn describe(&self, pattern: &str, deadline: Moment) -> Pending<Vec<Description>> {
        let pattern = Pattern::parse(pattern);
        self.blocking(deadline, move |shared, timeout| describe(shared, &pattern?, timeout))
    }

    fn purge(&self, topic: &str, deadline: Moment) -> Pending<u64> {
        let topic = topic.to_owned();
        self.blocking(deadline, move |shared, timeout| purge(shared, &topic, timeout))
    }

    fn delete(&self, topic: &str, deadline: Moment) -> Pending<()> {
        let topic = topic.to_owned();
        self.blocking(deadline, move |shared, timeout| {
            let producer = shared.producer()?;
            shared.topics.forget(&topic);
            match producer.client.delete_topic(&topic, timeout) {
                Err(failure) if failure.code != Code::UnknownTopicOrPartition => {
                    return Err(of("delete a topic", &failure));
                }
                _ => {}
            }
            wait_gone(&producer.client, &topic, Deadline::after(Some(timeout.min(GONE_WITHIN))));
            shared.live_subscribers().iter().for_each(|own| own.drop_waiting(&topic, |_| i64::MAX));
            Ok(())
        })
    }
}

/// The controller has deleted a topic; brokers hear of it in a moment, and show it till then. Asks for all topics: to ask
/// for one may make it again.
fn wait_gone(client: &Client, topic: &str, until: Deadline) {
    while let Some(left) = until.left().filter(|left| !left.is_zero()) {
        match client.all_topics(left) {
            Ok(all) if all.iter().any(|(name, partitions)| name == topic && partitions.is_ok()) => pause(),
            Ok(_) | Err(_) => return,
        }
    }
}

fn describe(shared: &Arc<Shared>, pattern: &Pattern, timeout: Duration) -> Result<Vec<Description>> {
    let client = Arc::clone(&shared.producer()?.client);
    let until = Deadline::after(Some(timeout));
    let left = || until.left().unwrap_or(timeout).max(Duration::from_millis(1));
    let failed = |failure: Failure| of("describe", &failure);
    let topics = watermarks(&client, pattern, &left).map_err(failed)?;
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    // What is settled here by now counts.
    let concerned = |own: &Arc<Subscriber>| topics.keys().any(|topic| own.receives(topic));
    shared.live_subscribers().iter().filter(|own| concerned(own)).for_each(|own| own.commit(until));
    let kind = |topic: &str| {
        let of_name = if topic.ends_with(DEAD_LETTER_SUFFIX) { TopicKind::Task } else { TopicKind::Event };
        shared.topics.kind(topic).unwrap_or(of_name)
    };
    let mut groups: Vec<String> = Vec::new();
    if topics.keys().any(|topic| kind(topic) == TopicKind::Event) {
        // Each costs a client of its own, so not those that nobody is in, and that nobody here was in.
        let names: Vec<&str> = topics.keys().map(String::as_str).collect();
        groups = again(&left, || client.groups_of(&names, left())).map_err(|failure| of("list groups", &failure))?;
        groups.extend(shared.groups.lock().iter().cloned());
        groups.sort_unstable();
        groups.dedup();
        groups.retain(|group| !group.starts_with(TASK_GROUP));
    }
    groups.extend(topics.keys().filter(|topic| kind(topic) == TopicKind::Task).map(|topic| task_group(topic)));
    let lags = lags(shared, groups, &topics, &left)?;
    let described = topics.iter().map(|(topic, own)| {
        let kind = kind(topic);
        let lag = lags.get(topic.as_str()).cloned().unwrap_or_default();
        let all = own.values().map(|(low, high)| u64::try_from(high - low).unwrap_or_default()).sum();
        Description {
            name: topic.clone(),
            kind: kind.name(),
            messages: match (kind, lag.get(&task_group(topic))) {
                // Of tasks, what is done stays in the log for a while.
                (TopicKind::Task, Some(lag)) => lag.saturating_sub(shared.unsettled(topic)),
                (TopicKind::Task, None) => u64::saturating_sub(all, shared.unsettled(topic)),
                (TopicKind::Event, _) => all,
            },
            unsettled: shared.unsettled(topic),
            delayed: 0,
            bytes: 0,
            consumers: shared.consumers(topic),
            expired: 0,
            dropped: own.values().map(|(low, _)| u64::try_from(*low).unwrap_or_default()).sum(),
            partitions: own.values().copied().collect(),
            lag,
        }
    });
    Ok(described.collect())
}

/// The first offset and the next one of each partition.
type Watermarks = BTreeMap<i32, (i64, i64)>;

/// Those of all topics that a pattern has now.
fn watermarks(
    client: &Arc<Client>,
    pattern: &Pattern,
    left: &impl Fn() -> Duration,
) -> std::result::Result<BTreeMap<String, Watermarks>, Failure> {
    loop {
        let mut topics: BTreeMap<String, Watermarks> = BTreeMap::new();
        for (topic, number) in positions::partitions(client, pattern, left())? {
            if pattern.matches(&topic) && !topic.starts_with("__") {
                topics.entry(topic).or_default().insert(number, (0, 0));
            }
        }
        let mut partitions =
            topics.iter_mut().flat_map(|(topic, own)| own.iter_mut().map(move |(number, own)| (topic, *number, own)));
        let answer = partitions.try_for_each(|(topic, number, own)| {
            // Of a topic that was just made, the leader may not be known yet.
            again(left, || client.watermarks(topic, number, left())).map(|marks| *own = marks)
        });
        match answer {
            // Deleted meanwhile: the next list does not have it.
            Err(Failure { code: Code::UnknownTopicOrPartition, .. }) if left() > ASK_AGAIN => pause(),
            answer => return answer.map(|()| topics),
        }
    }
}

/// Asks until it is answered, or until it is late, as long as the cluster is only not ready.
fn again<T>(
    left: &impl Fn() -> Duration,
    ask: impl Fn() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    loop {
        match ask() {
            Err(failure) if is_not_ready(failure.code) && left() > ASK_AGAIN => pause(),
            answer => return answer,
        }
    }
}

fn is_not_ready(code: Code) -> bool {
    matches!(
        code,
        Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::UnknownPartition
    )
}

/// By topic and group.
type Lags<'a> = BTreeMap<&'a str, BTreeMap<String, u64>>;

fn task_group(topic: &str) -> String {
    format!("{TASK_GROUP}{topic}")
}

/// Groups that are asked about at once.
const ASKED_AT_ONCE: usize = 32;

/// What each group has not settled, of the topics of which it has committed something.
fn lags<'a>(
    shared: &Arc<Shared>,
    groups: Vec<String>,
    topics: &'a BTreeMap<String, Watermarks>,
    left: &impl Fn() -> Duration,
) -> Result<Lags<'a>> {
    let mut lags = Lags::new();
    let runtime = crate::runtime::handle()?;
    for some in groups.chunks(ASKED_AT_ONCE) {
        let asked = some.iter().map(|group| {
            let mut list = List::new();
            for (topic, number) in topics.iter().flat_map(|(topic, own)| own.keys().map(move |number| (topic, number)))
            {
                list.add(topic, *number, 0).map_err(|failure| of("offsets of a group", &failure))?;
            }
            let (shared, name, left) = (Arc::clone(shared), group.clone(), left());
            Ok((group, runtime.spawn_blocking(move || observed(&shared, &name, list, left))))
        });
        for (group, answer) in asked.collect::<Result<Vec<_>>>()? {
            let answer =
                runtime.block_on(answer).map_err(|_| error(Kind::Panic, "a question about a group panicked"))?;
            if let Some(committed) = answer.map_err(|failure| of(&format!("offsets of group `{group}`"), &failure))? {
                add_lag(&mut lags, group, &committed, topics);
            }
        }
    }
    Ok(lags)
}

fn add_lag<'a>(lags: &mut Lags<'a>, group: &str, committed: &List, topics: &'a BTreeMap<String, Watermarks>) {
    let at = |topic: &str, number: i32| {
        let own = committed.iter().find(|own| own.topic == topic && own.partition == number && own.result.is_ok());
        own.map(|own| own.offset).filter(|offset| *offset >= 0)
    };
    for (topic, own) in topics {
        if !own.keys().any(|number| at(topic, *number).is_some()) {
            continue;
        }
        // Of a partition of which it has committed nothing, all is still to come.
        let lag = own.iter().map(|(number, (low, high))| high - at(topic, *number).unwrap_or(*low).clamp(*low, *high));
        let lag = lag.map(|events| u64::try_from(events).unwrap_or_default()).sum();
        lags.entry(topic).or_default().insert(group.to_owned(), lag);
    }
}

/// Fills in what a group has committed; `None`: it is not there any more, or not ours to look at. Each group
/// is asked about by a client of its own: one knows one group.
fn observed(
    shared: &Shared,
    group: &str,
    mut list: List,
    timeout: Duration,
) -> std::result::Result<Option<List>, Failure> {
    let until = Deadline::after(Some(timeout));
    let left = || until.left().unwrap_or(timeout).max(Duration::from_millis(1));
    let client = shared.reading_client(&login::observer(&shared.settings, group), &Arc::default())?;
    loop {
        match client.committed(&mut list, left()) {
            Ok(()) => return Ok(Some(list)),
            Err(failure) if is_not_ready(failure.code) && left() > ASK_AGAIN => pause(),
            Err(Failure { code: Code::GroupIdNotFound | Code::GroupAuthorizationFailed, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
}

fn pause() {
    let bell = crate::sync::Bell::new();
    bell.wait(bell.heard(), Deadline::after(Some(ASK_AGAIN)));
}

/// Everything that is there now is deleted, whoever waits for it.
fn purge(shared: &Arc<Shared>, topic: &str, timeout: Duration) -> Result<u64> {
    let client = Arc::clone(&shared.producer()?.client);
    let failed = |failure: Failure| of("purge a topic", &failure);
    let until = Deadline::after(Some(timeout));
    let left = || until.left().unwrap_or(timeout).max(Duration::from_millis(1));
    let is_task = shared.topics.kind(topic) == Some(TopicKind::Task) || topic.ends_with(DEAD_LETTER_SUFFIX);
    let waiting = match is_task {
        true => describe(shared, &Pattern::parse(topic)?, left())?.first().map(|own| own.messages),
        false => None,
    };
    let mut all = 0;
    let mut list = List::new();
    let mut before = BTreeMap::new();
    let marks = watermarks(&client, &Pattern::parse(topic)?, &left).map_err(failed)?;
    for (number, (low, high)) in marks.get(topic).into_iter().flatten() {
        all += u64::try_from(high - low).unwrap_or_default();
        before.insert(*number, *high);
        list.add(topic, *number, *high).map_err(failed)?;
    }
    if !list.is_empty() {
        client.delete_records(&list, left()).map_err(failed)?;
    }
    let before = |number: i32| before.get(&number).copied().unwrap_or_default();
    shared.live_subscribers().iter().for_each(|own| own.drop_waiting(topic, before));
    Ok(waiting.unwrap_or(all))
}
