//! What a hub does in normal life: handling, retry, dead letters, replay, groups, bounds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::Duration;

use helixmq::config::options::{DeadLetterQuery, PublisherOptions, ReplayOptions, SubscribeOptions};
use helixmq::error::Kind;
use helixmq::hub::{settle, settle_many, Decision, Event, HandlerVerdict, Polled};
use helixmq::message::{Record, TopicKind};

use super::*;

#[test]
fn a_task_is_handled_once_and_acknowledged() {
    let hub = open("{}");
    let (sent, received) = mpsc::channel();
    let sent = Mutex::new(sent);
    let handle = handler(move |incoming| {
        sent.lock().unwrap().send(incoming.message.payload().to_vec()).unwrap();
        Some(HandlerVerdict::Ack)
    });
    let sub = hub.subscribe(SubscribeOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap(), handle, WAIT).unwrap();
    let receipt = hub.publish("tasks.a", None, &Record::new(b"one"), None, NOW).unwrap();
    assert_eq!(receipt.id.text().as_str().len(), 32);
    assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), b"one");
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
    assert_eq!(hub.publish("tasks.a", None, &Record::new(b""), None, NOW).unwrap_err().kind(), Kind::Closed);
}

#[test]
fn a_failing_task_is_retried_with_growing_delays_and_ends_as_a_dead_letter() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 7);
    publish(&hub, "tasks.a", "poison");
    for (attempt, delay_ms) in [(1, 1000), (2, 2000), (3, 0)] {
        let incoming = next(&inbox);
        assert_eq!((incoming.attempt, incoming.redelivered), (attempt, attempt > 1));
        settle(incoming.token, Decision::Retry { delay: None, reason: "no luck" }).unwrap();
        assert_quiet(&inbox);
        if delay_ms > 0 {
            hub.clock_advance(Duration::from_millis(delay_ms - 1)).unwrap();
            assert_quiet(&inbox);
            hub.clock_advance(Duration::from_millis(1)).unwrap();
        }
    }
    let list = hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap();
    assert_eq!(list["count"], 1, "{list}");
    assert_eq!(list["dead_letters"][0]["reason"], "no luck");
    assert_eq!(list["dead_letters"][0]["attempts"], 3);
    let redrive = DeadLetterQuery::from_json(r#"{"action":"redrive","topic":"tasks.a"}"#).unwrap();
    assert_eq!(hub.dead_letters(&redrive, WAIT).unwrap()["count"], 1);
    let again = next(&inbox);
    assert_eq!((again.attempt, again.message.payload()), (1, &b"poison"[..]));
    settle(again.token, Decision::Ack).unwrap();
    let none = hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap();
    assert_eq!(none["count"], 0, "{none}");
}

#[test]
fn a_second_settle_and_a_closed_subscription_are_answered_locally() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "1");
    publish(&hub, "tasks.a", "2");
    let (one, two) = (next(&inbox), next(&inbox));
    settle(one.token, Decision::Ack).unwrap();
    assert_eq!(settle(one.token, Decision::Ack).unwrap_err().kind(), Kind::Settled);
    assert_eq!(settle(one.token ^ 1 << 40, Decision::Ack).unwrap_err().kind(), Kind::Stale);
    sub.close(WAIT).unwrap();
    assert_eq!(settle(two.token, Decision::Ack).unwrap_err().kind(), Kind::Closed);
    let mut events = Vec::new();
    assert_eq!(inbox.poll(8, NOW, &mut events), Polled::Data);
    assert!(matches!(events[..], [Event::End { tag: 0, result: Ok(()) }]), "{events:?}");
    let _again = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    let two = next(&inbox);
    assert_eq!((two.message.payload(), two.redelivered), (&b"2"[..], true));
}

#[test]
fn settle_many_has_a_result_for_each() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","dead_letter":null}"#, &inbox, 0);
    let publisher = hub.publisher(PublisherOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap()).unwrap();
    let records = [Record::new(b"a"), Record::new(b"b"), Record::new(b"c")];
    assert_eq!(publisher.send_batch(&records, NOW, None).0, 3);
    let tokens: Vec<u64> = (0..3).map(|_| next(&inbox).token).collect();
    let many = [
        (tokens[0], Decision::Ack),
        (tokens[0], Decision::Ack),
        (tokens[1], Decision::Reject { reason: "" }),
        (tokens[2], Decision::Ack),
        (u64::MAX, Decision::Ack),
    ];
    let mut kinds: [Option<Kind>; 5] = Default::default();
    settle_many(5, |index| many[index], |index, result| kinds[index] = result.err().map(|error| error.kind()));
    assert_eq!(kinds, [None, Some(Kind::Settled), None, None, Some(Kind::Stale)]);
}

#[test]
fn replay_gives_what_was_published_and_ends() {
    let hub = open("{}");
    for name in ["user.created", "user.deleted", "order.created", "user.created.twice"] {
        publish(&hub, name, name);
    }
    let inbox = inbox(&hub);
    let options = ReplayOptions::from_json(r#"{"topic":"user.*"}"#).unwrap();
    let replay = hub.replay_inbox(options, &inbox, 3, WAIT).unwrap();
    let mut seen = Vec::new();
    loop {
        let mut events = Vec::new();
        assert_eq!(inbox.poll(8, WAIT, &mut events), Polled::Data);
        for event in events {
            match event {
                Event::Message { tag: 3, incoming } => {
                    seen.push(String::from_utf8(incoming.message.payload().to_vec()).unwrap());
                }
                Event::End { tag: 3, result } => {
                    result.unwrap();
                    assert_eq!(seen, ["user.created", "user.deleted"]);
                    replay.wait(WAIT).unwrap();
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn groups_see_all_and_members_share() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _subs = [
        subscribe_to(&hub, r#"{"topic":"event.x","group":"a"}"#, &inbox, 1),
        subscribe_to(&hub, r#"{"topic":"event.x","group":"a"}"#, &inbox, 2),
        subscribe_to(&hub, r#"{"topic":"event.#","group":null}"#, &inbox, 3),
    ];
    for index in 0..20 {
        let key = format!("k{index}");
        let record = Record { key: Some(key.as_bytes()), ..Record::new(b"") };
        hub.publish("event.x", None, &record, None, NOW).unwrap();
    }
    let mut counts = [0; 4];
    let mut events = Vec::new();
    while counts.iter().sum::<usize>() < 40 {
        assert_eq!(inbox.poll(64, WAIT, &mut events), Polled::Data, "{counts:?}");
        for event in events.drain(..) {
            if let Event::Message { tag, incoming } = event {
                counts[tag as usize] += 1;
                settle(incoming.token, Decision::Ack).unwrap();
            }
        }
    }
    assert_eq!((counts[1] + counts[2], counts[3]), (20, 20));
    assert!(counts[1] > 0 && counts[2] > 0, "{counts:?}");
}

#[test]
fn a_full_topic_makes_the_publisher_wait_and_then_say_full() {
    let hub = open(r#"{"topics":[{"pattern":"tasks.small","messages_max":2}]}"#);
    publish(&hub, "tasks.small", "1");
    publish(&hub, "tasks.small", "2");
    let third = hub.publish("tasks.small", None, &Record::new(b"3"), None, Some(Duration::from_millis(20)));
    assert_eq!(third.unwrap_err().kind(), Kind::Full);
    let waiting = {
        let hub = hub.clone();
        std::thread::spawn(move || hub.publish("tasks.small", None, &Record::new(b"3"), None, WAIT).map(drop))
    };
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.small"}"#, &inbox, 0);
    for expected in [b"1", b"2", b"3"] {
        let incoming = next(&inbox);
        assert_eq!(incoming.message.payload(), expected);
        settle(incoming.token, Decision::Ack).unwrap();
    }
    waiting.join().unwrap().unwrap();
}

#[test]
fn one_topic_has_one_kind() {
    let hub = open("{}");
    hub.publish("x", Some(TopicKind::Task), &Record::new(b""), None, NOW).unwrap();
    let error = hub.publish("x", Some(TopicKind::Event), &Record::new(b""), None, NOW).unwrap_err();
    assert_eq!(error.kind(), Kind::TopicKind);
}

#[test]
fn a_callback_that_closes_its_own_subscription_is_refused_and_closing_waits_for_it() {
    let hub = open("{}");
    let (own, slot) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (entered, inside) = mpsc::channel();
    let entered = Mutex::new(entered);
    let (kept, answers) = (Arc::clone(&own), Arc::clone(&slot));
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counted = Counted(Arc::clone(&dropped));
    let handle = handler(move |_| {
        let _moved = &counted;
        let sub: Option<helixmq::hub::Subscription> = kept.lock().unwrap().clone();
        *answers.lock().unwrap() = sub.map(|sub| sub.close(WAIT).unwrap_err().kind());
        entered.lock().unwrap().send(()).unwrap();
        Some(HandlerVerdict::Ack)
    });
    let sub = hub.subscribe(SubscribeOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap(), handle, WAIT).unwrap();
    *own.lock().unwrap() = Some(sub.clone());
    publish(&hub, "tasks.a", "");
    inside.recv_timeout(Duration::from_secs(10)).unwrap();
    sub.close(WAIT).unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(*slot.lock().unwrap(), Some(Kind::Reentrant));
}

#[test]
fn a_pattern_does_not_receive_the_dead_letters_it_makes() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.#"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "bad");
    settle(next(&inbox).token, Decision::Reject { reason: "" }).unwrap();
    assert_quiet(&inbox);
    let refused = SubscribeOptions::from_json(r#"{"topic":"tasks.*","dead_letter":"tasks.own"}"#).unwrap();
    let error = hub.subscribe_inbox(refused, &inbox, 0, WAIT).unwrap_err();
    assert_eq!((error.kind(), error.path()), (Kind::Config, Some("dead_letter")));
}

#[test]
fn a_dead_letter_that_fails_stays() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","dead_letter":"graves"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "bad");
    settle(next(&inbox).token, Decision::Reject { reason: "x" }).unwrap();
    let _dead = subscribe_to(&hub, r#"{"topic":"graves","kind":"task"}"#, &inbox, 1);
    for attempt in 1..10 {
        let dead = next(&inbox);
        assert_eq!((dead.attempt, dead.message.payload()), (attempt, &b"bad"[..]));
        settle(dead.token, Decision::Reject { reason: "again" }).unwrap();
        hub.clock_advance(Duration::from_secs(3600)).unwrap();
    }
    let by_origin = DeadLetterQuery::from_json(r#"{"topic":"tasks.a"}"#).unwrap();
    let held = next(&inbox);
    assert_eq!(hub.dead_letters(&by_origin, WAIT).unwrap()["count"], 0, "a consumer holds it");
    _dead.close(WAIT).unwrap();
    assert_eq!(settle(held.token, Decision::Ack).unwrap_err().kind(), Kind::Closed);
    assert_eq!(hub.dead_letters(&by_origin, WAIT).unwrap()["count"], 1);
}

#[test]
fn a_long_name_has_dead_letters_too() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let topic = format!("tasks.{}", "x".repeat(194));
    let _sub = subscribe_to(&hub, &format!(r#"{{"topic":"{topic}"}}"#), &inbox, 0);
    publish(&hub, &topic, "bad");
    settle(next(&inbox).token, Decision::Reject { reason: "" }).unwrap();
    assert_eq!(hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap()["count"], 1);
}

#[test]
fn an_inbox_serves_its_own_hub_only() {
    let (hub, other) = (open("{}"), open("{}"));
    let inbox = inbox(&other);
    let options = SubscribeOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap();
    assert_eq!(hub.subscribe_inbox(options, &inbox, 0, WAIT).unwrap_err().kind(), Kind::Arg);
}

/// A source without room tells another one while it is being fetched from, under the lock of the
/// inbox that both feed: telling must wait until that lock is dropped.
#[test]
fn a_subscription_without_room_passes_on_to_another_of_the_same_inbox() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _all = subscribe_to(&hub, r#"{"topic":"tasks.*","prefetch":1}"#, &inbox, 1);
    let _own = subscribe_to(&hub, r#"{"topic":"tasks.b","prefetch":1}"#, &inbox, 2);
    for _ in 0..10 {
        // Both wait for tasks.b; the first one is then filled up from tasks.a.
        assert_quiet(&inbox);
        publish(&hub, "tasks.a", "first");
        let first = next(&inbox);
        publish(&hub, "tasks.b", "second");
        let second = next(&inbox);
        assert_eq!((first.message.payload(), second.message.payload()), (&b"first"[..], &b"second"[..]));
        settle(second.token, Decision::Ack).unwrap();
        settle(first.token, Decision::Ack).unwrap();
    }
}

/// A pattern for events and a task of a name it matches missed each other in silence.
#[test]
fn a_pattern_of_the_other_kind_is_warned_of() {
    for pattern_first in [true, false] {
        let hub = open("{}");
        let inbox = inbox(&hub);
        let mut subs = Vec::new();
        if pattern_first {
            subs.push(subscribe_to(&hub, r#"{"topic":"work.*"}"#, &inbox, 0));
        }
        hub.publish("work.a", Some(TopicKind::Task), &Record::new(b""), None, NOW).unwrap();
        if !pattern_first {
            subs.push(subscribe_to(&hub, r#"{"topic":"work.*"}"#, &inbox, 0));
        }
        let warnings = hub.health()["warnings"].to_string();
        assert!(warnings.contains("`work.a` carries tasks") && warnings.contains("work.*"), "{warnings}");
        subs.push(subscribe_to(&hub, r#"{"topic":"work.*","kind":"task"}"#, &inbox, 1));
        publish(&hub, "other", "");
        assert_eq!(hub.health()["warnings"].as_array().unwrap().len(), 1);
    }
}

/// A list of ids that came out empty meant all of them; a topic left out did, too.
#[test]
fn dead_letters_are_not_discarded_by_leaving_something_out() {
    let hub = open("{}");
    for json in
        [r#"{"topic":"tasks.a","action":"discard","ids":[]}"#, r#"{"action":"discard"}"#, r#"{"action":"redrive"}"#]
    {
        assert_eq!(DeadLetterQuery::from_json(json).unwrap_err().kind(), Kind::Config, "{json}");
    }
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    for _ in 0..3 {
        publish(&hub, "tasks.a", "bad");
        settle(next(&inbox).token, Decision::Reject { reason: "" }).unwrap();
    }
    for (limit, more) in [(2, true), (3, false)] {
        let query = DeadLetterQuery::from_json(&format!(r#"{{"limit":{limit}}}"#)).unwrap();
        let list = hub.dead_letters(&query, WAIT).unwrap();
        assert_eq!((&list["count"], &list["more"]), (&limit.into(), &more.into()));
    }
    let all = DeadLetterQuery::from_json(r##"{"action":"discard","topic":"#"}"##).unwrap();
    assert_eq!(hub.dead_letters(&all, WAIT).unwrap()["count"], 3);
}
