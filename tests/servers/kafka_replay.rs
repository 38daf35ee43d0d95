//! The past on a real Kafka server: replay by pattern and time, and groups that are moved.

use helixmq::config::options::{ReplayOptions, SeekOptions};

use super::kafka::{alone, event, hub, member, selector, topic};
use super::*;

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

const SECOND_US: i64 = 1_000_000;

fn begin(hub: &Hub, json: Value, inbox: &Inbox) -> Subscription {
    hub.replay_inbox(ReplayOptions::from_json(&json.to_string()).unwrap(), inbox, 0, WAIT).unwrap()
}

/// Replays to the end; answers topics and payloads in the order they came.
fn replay(hub: &Hub, json: Value) -> Vec<(String, String)> {
    let inbox = inbox(hub);
    let _replay = begin(hub, json, &inbox);
    let (mut events, mut seen) = (Vec::new(), Vec::new());
    loop {
        assert_eq!(inbox.poll(100, WAIT, &mut events), Polled::Data, "{} came, and no end", seen.len());
        for event in events.drain(..) {
            match event {
                Event::Message { incoming, .. } => {
                    assert_eq!(incoming.token, 0, "nothing of a replay is settled");
                    seen.push((incoming.message.topic().to_string(), text(&incoming)));
                }
                Event::End { result, .. } => {
                    result.unwrap();
                    return seen;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Forty events, a second apart, by turns in two topics of `base.*` and with ten keys; and one beside.
fn forty(hub: &Hub, base: &str) -> (i64, Vec<(String, String)>) {
    let start = now_us() / 1000 * 1000 - 3600 * SECOND_US;
    let mut all = Vec::new();
    for number in 0..40 {
        let (topic, payload) = (format!("{base}.{}", ["a", "b"][number % 2]), format!("{number:02}"));
        let key = (number % 10).to_string();
        let record = Record {
            key: Some(key.as_bytes()),
            timestamp_us: start + number as i64 * SECOND_US,
            ..Record::new(payload.as_bytes())
        };
        hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
        all.push((topic, payload));
    }
    event(hub, &format!("{base}.a.deep"), None, "not of the pattern").unwrap();
    (start, all)
}

fn sorted(mut all: Vec<(String, String)>) -> Vec<(String, String)> {
    all.sort_unstable_by(|one, other| one.1.cmp(&other.1));
    all
}

#[test]
fn a_replay_by_pattern_and_time_gives_exactly_what_was_published() {
    let _alone = alone();
    let hub = hub(json!({}));
    let base = topic();
    let (start, all) = forty(&hub, &base);
    let pattern = format!("{base}.*");
    let at = |second: usize| start + second as i64 * SECOND_US;
    assert_eq!(sorted(replay(&hub, json!({"topic": pattern}))), all);
    for (from, to) in [(0, 40), (7, 23), (0, 1), (39, 40), (12, 12)] {
        let seen = replay(&hub, json!({"topic": pattern, "from": at(from), "to": at(to)}));
        assert_eq!(sorted(seen), all[from..to], "from {from} to {to}");
    }
    let seen = replay(&hub, json!({"topic": pattern, "from": at(30)}));
    assert_eq!(sorted(seen), all[30..]);
    assert!(replay(&hub, json!({"topic": pattern, "from": at(40)})).is_empty());
    assert!(replay(&hub, json!({"topic": pattern, "to": at(0)})).is_empty());
    // Each key in order, as each is in one partition.
    for digit in ["0", "7"] {
        let seen = replay(&hub, json!({"topic": pattern, "filter": {"key": digit}}));
        let wanted: Vec<_> = all.iter().filter(|(_, payload)| payload.ends_with(digit)).cloned().collect();
        assert_eq!(seen, wanted, "{digit}");
    }
    let one = format!("{base}.a");
    let wanted: Vec<_> = all.iter().filter(|(topic, _)| *topic == one).cloned().collect();
    assert_eq!(sorted(replay(&hub, json!({"topic": one}))), wanted);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_dry_run_counts_and_hands_over_nothing() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (base, inbox) = (topic(), inbox(&hub));
    let (start, _) = forty(&hub, &base);
    let (from, to) = (start + 10 * SECOND_US, start + 35 * SECOND_US);
    for (more, wanted) in [(json!({}), 25), (json!({"key": "3"}), 3)] {
        let options = json!({"topic": format!("{base}.*"), "from": from, "to": to, "dry_run": true, "filter": more});
        let replay = begin(&hub, options, &inbox);
        let mut events = Vec::new();
        assert_eq!(inbox.poll(10, WAIT, &mut events), Polled::Data);
        assert!(matches!(events[..], [Event::End { result: Ok(()), .. }]), "{events:?}");
        let progress = replay.progress().unwrap();
        assert_eq!((&progress["counted"], &progress["handed_over"]), (&json!(wanted), &json!(0)), "{progress}");
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn a_replay_that_follows_goes_on_and_moves_no_group() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, past, present) = (topic(), inbox(&hub), inbox(&hub));
    for payload in ["0", "1", "2"] {
        event(&hub, &topic, Some("k"), payload).unwrap();
    }
    let sub = member(&hub, &topic, &present, json!({}));
    ack(&next(&present));
    let replay = begin(&hub, json!({"topic": topic, "follow": true}), &past);
    for expected in ["0", "1", "2"] {
        assert_eq!(text(&next(&past)), expected);
    }
    event(&hub, &topic, Some("k"), "3").unwrap();
    assert_eq!(text(&next(&past)), "3");
    for expected in ["1", "2", "3"] {
        let incoming = next(&present);
        assert_eq!((text(&incoming).as_str(), incoming.redelivered), (expected, false));
        ack(&incoming);
    }
    replay.close(WAIT).unwrap();
    sub.close(WAIT).unwrap();
    let group = format!("group-of-{topic}");
    until("no lag", || hub.describe(&selector(&topic), WAIT).unwrap()[0]["lag"][&group] == 0);
    let described = hub.describe(&selector(&topic), WAIT).unwrap();
    assert_eq!(described[0]["lag"].as_object().unwrap().len(), 1, "a replay is no group: {described}");
    hub.close(WAIT).unwrap();
}

/// A replay of what is being written ends all the same.
#[test]
fn a_replay_ends_behind_what_was_there_when_it_began() {
    let _alone = alone();
    let hub = hub(json!({}));
    let topic = topic();
    for number in 0..50 {
        event(&hub, &topic, Some("k"), &format!("{number:02}")).unwrap();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let (seen, later) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let (mut count, start) = (0, Instant::now());
            while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(60) {
                event(&hub, &topic, Some("k"), "later").unwrap();
                count += 1;
            }
            count
        });
        let seen = replay(&hub, json!({"topic": topic}));
        done.store(true, Ordering::SeqCst);
        (seen, publishing.join().unwrap())
    });
    let (first, rest) = seen.split_at(50);
    assert!(first.iter().enumerate().all(|(number, (_, payload))| *payload == format!("{number:02}")), "{first:?}");
    assert!(rest.len() <= later && rest.iter().all(|(_, payload)| payload == "later"), "{} of {later}", rest.len());
    hub.close(WAIT).unwrap();
}

#[test]
fn a_group_can_be_moved() {
    let _alone = alone();
    let hub = hub(json!({"kafka": {"partitions": 1}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let start = now_us() / 1000 * 1000 - 60 * SECOND_US;
    for number in 0..5 {
        let payload = number.to_string();
        let timestamp_us = start + number * SECOND_US;
        let record = Record { timestamp_us, ..Record::new(payload.as_bytes()) };
        hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    }
    let sub = member(&hub, &topic, &inbox, json!({}));
    let take = |wanted: &[&str]| {
        for expected in wanted {
            let incoming = next(&inbox);
            assert_eq!(text(&incoming), *expected);
            ack(&incoming);
        }
    };
    let seek = |to: Value| sub.seek(&SeekOptions::from_json(&json!({"to": to}).to_string()).unwrap(), WAIT).unwrap();
    take(&["0", "1", "2", "3", "4"]);
    seek(json!({"offset": 3}));
    take(&["3", "4"]);
    seek(json!("earliest"));
    take(&["0"]);
    seek(json!({"time": start + 2 * SECOND_US}));
    take(&["2", "3", "4"]);
    seek(json!("earliest"));
    let before = next(&inbox);
    seek(json!("latest"));
    // A verdict from before moves nothing.
    let _ = settle(before.token, Decision::Ack);
    event(&hub, &topic, None, "5").unwrap();
    take(&["5"]);
    sub.close(WAIT).unwrap();
    // Where it was left is where the next member begins.
    let second = super::inbox(&hub);
    let _sub = member(&hub, &topic, &second, json!({}));
    event(&hub, &topic, None, "6").unwrap();
    assert_eq!(text(&next(&second)), "6");
    hub.close(WAIT).unwrap();
}

#[test]
fn a_group_begins_where_it_was_told_to() {
    let _alone = alone();
    let hub = hub(json!({"kafka": {"partitions": 1}}));
    let topic = topic();
    let start = now_us() / 1000 * 1000 - 60 * SECOND_US;
    for number in 0..5 {
        let payload = number.to_string();
        let timestamp_us = start + number * SECOND_US;
        let record = Record { timestamp_us, ..Record::new(payload.as_bytes()) };
        hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    }
    let cases = [
        (json!("earliest"), "0"),
        (json!({"offset": 3}), "3"),
        (json!({"time": start + 2 * SECOND_US - SECOND_US / 2}), "2"),
        (json!("latest"), "5"),
        (json!({"time": start + 50 * SECOND_US}), "5"),
    ];
    let subs: Vec<(Subscription, Inbox, &str)> = cases
        .into_iter()
        .enumerate()
        .map(|(number, (from, expected))| {
            let inbox = inbox(&hub);
            let group = format!("{number}-of-{topic}");
            (member(&hub, &topic, &inbox, json!({"group": group, "start": from})), inbox, expected)
        })
        .collect();
    event(&hub, &topic, None, "5").unwrap();
    for (_, inbox, expected) in &subs {
        assert_eq!(text(&next(inbox)), *expected);
    }
    hub.close(WAIT).unwrap();
}
