//! Groups on a real Kafka server: who has what while members come, go, are slow, and fail.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use helixmq::config::options::TopicSelector;
use helixmq::hub::{HandlerVerdict, LogLevel};

use super::kafka::{alone, event, hub, member, options, selector, server, topic, Calls};
use super::*;

const ONE_PARTITION: &str = r#"{"kafka": {"partitions": 1}}"#;

fn narrow(more: Value) -> Hub {
    let mut config: Value = serde_json::from_str(ONE_PARTITION).unwrap();
    for (name, value) in more.as_object().unwrap() {
        config[name.as_str()] = value.clone();
    }
    hub(config)
}

#[test]
fn every_group_sees_all_and_members_share() {
    let _alone = alone();
    let hub = hub(json!({}));
    let topic = topic();
    let groups = [format!("alone-{topic}"), format!("shared-{topic}"), format!("shared-{topic}")];
    let inboxes = groups.each_ref().map(|group| {
        let inbox = inbox(&hub);
        (member(&hub, &topic, &inbox, json!({"group": group})), inbox)
    });
    let wanted: BTreeSet<String> = (0..100).map(|number| number.to_string()).collect();
    for payload in &wanted {
        event(&hub, &topic, Some(payload), payload).unwrap();
    }
    // A member that comes while the other has some may see those again; otherwise each is seen once.
    let take = |inboxes: &[&Inbox]| {
        let mut seen = vec![BTreeSet::new(); inboxes.len()];
        let start = Instant::now();
        while seen.iter().flatten().collect::<BTreeSet<&String>>().len() < 100 {
            assert!(start.elapsed() < Duration::from_secs(30), "{seen:?}");
            for (inbox, seen) in inboxes.iter().zip(&mut seen) {
                while let Some(incoming) = next_within(inbox, Duration::from_millis(20)) {
                    ack(&incoming);
                    seen.insert(text(&incoming));
                }
            }
        }
        seen
    };
    let [(_, first), (_, second), (_, third)] = &inboxes;
    assert_eq!(take(&[first]), std::slice::from_ref(&wanted));
    let shared = take(&[second, third]);
    assert!(shared.iter().all(|own| !own.is_empty() && *own != wanted), "{shared:?}");
    // A third group comes later, and sees all from the oldest on.
    let late = inbox(&hub);
    let _sub = member(&hub, &topic, &late, json!({"group": format!("late-{topic}")}));
    assert_eq!(take(&[&late]), [wanted]);
    hub.close(WAIT).unwrap();
}

/// F45: what is out is drained, committed, and handed over. Nothing is lost, and what comes twice was out
/// when its member left.
#[test]
fn f45_members_come_and_go_and_nothing_is_lost() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, prefetch, changes) = (topic(), 10, scaled(6, 50));
    let seen = Arc::new(Mutex::new(BTreeMap::<usize, usize>::new()));
    let join = || {
        let seen = Arc::clone(&seen);
        let handler = Calls(move |incoming: &Incoming| {
            pass(Duration::from_millis(5));
            *seen.lock().unwrap().entry(text(incoming).parse().unwrap()).or_default() += 1;
            HandlerVerdict::Ack
        });
        let json = json!({"topic": topic, "kind": "event", "group": topic, "prefetch": prefetch});
        hub.subscribe(options(json), Box::new(handler), WAIT).unwrap()
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let (mut number, start) = (0, Instant::now());
            while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(600) {
                event(&hub, &topic, Some(&(number % 31).to_string()), &number.to_string()).unwrap();
                number += 1;
                pass(Duration::from_millis(3));
            }
            number
        });
        let mut members = VecDeque::from([join(), join(), join()]);
        for change in 0..changes {
            pass(Duration::from_millis(if changes > 6 { 5000 } else { 1000 }));
            match change % 2 {
                0 => members.pop_front().unwrap().close(WAIT).unwrap(),
                _ => members.push_back(join()),
            }
        }
        done.store(true, Ordering::SeqCst);
        let published: usize = publishing.join().unwrap();
        until("all events", || seen.lock().unwrap().len() >= published);
        members.iter().for_each(|member| member.close(WAIT).unwrap());
        published
    });
    let seen = seen.lock().unwrap();
    let twice: usize = seen.values().map(|count| count - 1).sum();
    let again: Vec<usize> = seen.iter().filter(|(_, count)| **count > 1).map(|(number, _)| *number).collect();
    println!("{published} published, {twice} twice, {changes} changes: {again:?}");
    assert!(published > 200 && seen.len() == published && *seen.keys().next_back().unwrap() == published - 1);
    // Those who come in the beginning are changes, too.
    assert!(twice <= prefetch * (changes + 3), "{twice}");
    hub.close(WAIT).unwrap();
}

/// F46: a handler that is slower than the group's patience keeps its partition, and nothing is handed
/// over meanwhile.
#[test]
fn f46_a_slow_handler_keeps_its_partition() {
    let _alone = alone();
    let hub = narrow(json!({"kafka": {
        "partitions": 1, "options": {"max.poll.interval.ms": 6000, "session.timeout.ms": 6000},
    }}));
    let (topic, slow, other) = (topic(), inbox(&hub), inbox(&hub));
    for payload in ["held", "second", "third"] {
        event(&hub, &topic, None, payload).unwrap();
    }
    let sub = member(&hub, &topic, &slow, json!({"prefetch": 1}));
    let held = next(&slow);
    // Another member that waits gets the partition if it is lost.
    let waiting = member(&hub, &topic, &other, json!({"prefetch": 1}));
    assert!(next_within(&other, Duration::from_secs(scaled(9, 60) as u64)).is_none());
    assert!(next_within(&slow, Duration::from_millis(10)).is_none());
    assert_eq!((text(&held).as_str(), state(&hub).as_str(), attempts(&hub)), ("held", "up", 1));
    ack(&held);
    // The partition may be given to the other between two of them, not with one of them out.
    let mut seen = Vec::new();
    let start = Instant::now();
    while seen.len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "{seen:?}");
        for inbox in [&slow, &other] {
            if let Some(incoming) = next_within(inbox, Duration::from_millis(50)) {
                ack(&incoming);
                seen.push((text(&incoming), incoming.redelivered));
            }
        }
    }
    assert_eq!(seen, [("second".to_owned(), false), ("third".to_owned(), false)]);
    sub.close(WAIT).unwrap();
    waiting.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
}

/// F47: the events at which a group would go on are gone. It goes on at the oldest that there is, never
/// at the end, and says so.
#[test]
fn f47_a_group_whose_place_is_gone_goes_on_at_the_oldest_and_says_so() {
    let _alone = alone();
    let hub = narrow(json!({}));
    let topic = topic();
    let publish = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            event(&hub, &topic, None, &number.to_string()).unwrap();
        }
    };
    publish(0..5);
    let first = inbox(&hub);
    let sub = member(&hub, &topic, &first, json!({}));
    for expected in ["0", "1"] {
        let incoming = next(&first);
        assert_eq!(text(&incoming), expected);
        ack(&incoming);
    }
    sub.close(WAIT).unwrap();
    assert!(hub.purge(&selector(&topic), WAIT).unwrap() >= 3);
    publish(5..7);
    let log = hub.inbox(InboxOptions::from_json(r#"{"log": true}"#).unwrap()).unwrap();
    let second = inbox(&hub);
    let _sub = member(&hub, &topic, &second, json!({}));
    for expected in ["5", "6"] {
        let incoming = next(&second);
        assert_eq!((text(&incoming).as_str(), incoming.attempt), (expected, 1));
        ack(&incoming);
    }
    assert!(warned(&log, &topic), "nobody was told that events are gone");
    let described = hub.describe(&selector(&topic), WAIT).unwrap();
    assert_eq!((&described[0]["partitions"], &described[0]["messages"]), (&json!([[5, 7]]), &json!(2)), "{described}");
    hub.close(WAIT).unwrap();
}

/// The same to a member that is behind while it happens.
#[test]
fn f47_events_that_go_under_a_member_leave_it_at_the_oldest() {
    let _alone = alone();
    // So little is fetched ahead that most of it is still at the server.
    let hub = narrow(json!({"kafka": {"partitions": 1, "options": {
        "fetch.message.max.bytes": 200_000, "queued.min.messages": 1, "queued.max.messages.kbytes": 1,
        "compression.type": "none",
    }}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let large = "x".repeat(100_000);
    for number in 0..200 {
        event(&hub, &topic, None, &format!("{number} {large}")).unwrap();
    }
    let _sub = member(&hub, &topic, &inbox, json!({"prefetch": 1}));
    let held = next(&inbox);
    assert!(text(&held).starts_with("0 "));
    hub.purge(&selector(&topic), WAIT).unwrap();
    event(&hub, &topic, None, "new").unwrap();
    ack(&held);
    let mut last = 0;
    loop {
        let incoming = next(&inbox);
        ack(&incoming);
        if text(&incoming) == "new" {
            break;
        }
        // What had been fetched before may still come, in order.
        let number: usize = text(&incoming).split(' ').next().unwrap().parse().unwrap();
        assert!(number == last + 1, "{number} after {last}");
        last = number;
    }
    assert!(last < 199, "nothing was gone");
    hub.close(WAIT).unwrap();
}

/// Whether an inbox for log lines was told a warning about a topic.
fn warned(log: &Inbox, topic: &str) -> bool {
    let (start, mut events) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(5) {
        log.poll(100, Some(Duration::from_millis(100)), &mut events);
        let fits = |event: Event| match event {
            Event::Log { level, json } => level == LogLevel::Warn && json.contains(topic),
            _ => false,
        };
        if events.drain(..).any(fits) {
            return true;
        }
    }
    false
}

/// Three events of one key, of which the first fails once; answers in which order they were handled.
fn with_a_retry(ordered: &str) -> Vec<(String, u32)> {
    let hub = narrow(json!({"retry": {"delay_ms": 1500, "factor": 1, "jitter": false}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    for payload in ["1", "2", "3"] {
        event(&hub, &topic, Some("k"), payload).unwrap();
    }
    let sub = member(&hub, &topic, &inbox, json!({"ordered": ordered}));
    let mut seen = Vec::new();
    let mut failed = None;
    while seen.len() < 4 {
        let incoming = next(&inbox);
        seen.push((text(&incoming), incoming.attempt));
        match seen.len() {
            1 => {
                settle(incoming.token, Decision::Retry { delay: None, reason: "later" }).unwrap();
                failed = Some(Instant::now());
            }
            _ => ack(&incoming),
        }
        if incoming.attempt == 2 {
            assert!(failed.unwrap().elapsed() >= Duration::from_millis(1400), "{:?}", failed.unwrap().elapsed());
        }
    }
    sub.close(WAIT).unwrap();
    // All of it is done: the next member begins behind.
    let second = super::inbox(&hub);
    let _sub = member(&hub, &topic, &second, json!({}));
    event(&hub, &topic, Some("k"), "last").unwrap();
    let last = next(&second);
    assert_eq!((text(&last).as_str(), last.attempt), ("last", 1));
    ack(&last);
    hub.close(WAIT).unwrap();
    seen
}

#[test]
fn a_retry_keeps_nobody_waiting_who_need_not_wait() {
    let _alone = alone();
    let own = |all: [(&str, u32); 4]| all.map(|(text, attempt)| (text.to_owned(), attempt));
    for ordered in ["none", "key"] {
        assert_eq!(with_a_retry(ordered), own([("1", 1), ("2", 1), ("3", 1), ("1", 2)]), "{ordered}");
    }
    assert_eq!(with_a_retry("strict"), own([("1", 1), ("1", 2), ("2", 1), ("3", 1)]));
}

/// A retry that rests when its member leaves is not lost with it.
#[test]
fn a_retry_survives_its_member() {
    let _alone = alone();
    let hub = narrow(json!({}));
    let (topic, first, second) = (topic(), inbox(&hub), inbox(&hub));
    for payload in ["1", "2"] {
        event(&hub, &topic, None, payload).unwrap();
    }
    let sub = member(&hub, &topic, &first, json!({}));
    let failed = next(&first);
    settle(failed.token, Decision::Retry { delay: Some(Duration::from_secs(60)), reason: "later" }).unwrap();
    ack(&next(&first));
    sub.close(WAIT).unwrap();
    let _sub = member(&hub, &topic, &second, json!({}));
    let again = next(&second);
    assert_eq!(text(&again), "1");
    ack(&again);
    hub.close(WAIT).unwrap();
}

#[test]
fn an_event_that_fails_for_good_is_a_dead_letter_and_can_go_back() {
    let _alone = alone();
    let hub = hub(json!({"retry": {"attempts": 2, "delay_ms": 0}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = member(&hub, &topic, &inbox, json!({}));
    let record = Record { key: Some(b"k"), id: "own-id", type_: "made", ..Record::new(b"bad") };
    hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    event(&hub, &topic, Some("k"), "innocent").unwrap();
    let mut attempts = Vec::new();
    let mut passed = 0;
    while attempts.len() < 2 || passed < 1 {
        let incoming = next(&inbox);
        match text(&incoming).as_str() {
            "bad" => {
                attempts.push(incoming.attempt);
                settle(incoming.token, Decision::Retry { delay: None, reason: "no luck" }).unwrap();
            }
            _ => {
                passed += 1;
                ack(&incoming);
            }
        }
    }
    assert_eq!((attempts, passed), (vec![1, 2], 1));
    let dead = dead_letter(&hub, &topic);
    assert_eq!((&dead["reason"], &dead["attempts"], &dead["id"]), (&json!("no luck"), &json!(2), &json!("own-id")));
    assert_eq!((&dead["origin"], &dead["kind"]), (&json!(topic), &json!("event")));
    assert_eq!((&dead["topic"], &dead["payload_text"]), (&json!(format!("{topic}.dlq")), &json!("bad")));
    // It is where other programs find it, as a topic of Kafka.
    assert!(server(&["tool", "TopicCommand", "--list"]).lines().any(|line| line == format!("{topic}.dlq")));
    let query = |action: &str| {
        let query = DeadLetterQuery::from_json(&json!({"topic": topic, "action": action}).to_string()).unwrap();
        hub.dead_letters(&query, WAIT).unwrap()
    };
    let mut sent = json!({});
    until("the dead letter goes back", || {
        sent = query("redrive");
        sent["count"] == 1
    });
    assert_eq!(sent["failed"], json!([]), "{sent}");
    let again = next(&inbox);
    assert_eq!((text(&again).as_str(), again.attempt, again.message.id().as_str()), ("bad", 1, "own-id"));
    assert_eq!((again.message.key(), again.message.type_()), (Some(&b"k"[..]), "made"));
    let own = again.message.headers().into_iter().filter(|(name, _)| name.starts_with("hmq-"));
    assert_eq!(own.map(|(name, _)| name).collect::<Vec<_>>(), ["hmq-redriven"]);
    ack(&again);
    until("an empty list", || query("list")["count"] == 0);
    hub.close(WAIT).unwrap();
}

/// A subscription to the dead letters as to any task topic.
#[test]
fn dead_letters_are_tasks_of_their_own_topic() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox, graves) = (topic(), inbox(&hub), inbox(&hub));
    let _sub = member(&hub, &topic, &inbox, json!({}));
    event(&hub, &topic, None, "bad").unwrap();
    settle(next(&inbox).token, Decision::Reject { reason: "never" }).unwrap();
    let _graves = subscribe(&hub, json!({"topic": format!("{topic}.dlq"), "kind": "task"}), &graves);
    let dead = next(&graves);
    let headers = super::forms::headers(&dead);
    assert_eq!(text(&dead), "bad");
    for (name, value) in [("hmq-origin-topic", topic.as_str()), ("hmq-dead-reason", "never"), ("hmq-attempts", "1")] {
        assert!(headers.contains(&super::forms::named(name, value)), "{name}: {headers:?}");
    }
    ack(&dead);
    hub.close(WAIT).unwrap();
}

/// Other selectors of the same call.
#[test]
fn a_pattern_describes_its_topics_alone() {
    let _alone = alone();
    let hub = hub(json!({}));
    let base = topic();
    for name in ["x", "y", "y.z"] {
        event(&hub, &format!("{base}.{name}"), None, "1").unwrap();
    }
    let selector = TopicSelector::from_json(&json!({"pattern": format!("{base}.*")}).to_string()).unwrap();
    let told = hub.describe(&selector, WAIT).unwrap();
    let mut names: Vec<&str> = told.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, [format!("{base}.x"), format!("{base}.y")]);
    hub.delete(&kafka::selector(&format!("{base}.x")), WAIT).unwrap();
    until("its end", || hub.describe(&selector, WAIT).unwrap().as_array().unwrap().len() == 1);
    hub.close(WAIT).unwrap();
}
