//! What servers refuse, time out and count, and what a process runs out of.

use std::fs::File;

use helixmq::config::options::{DeclareOptions, TopicSelector};
use helixmq::error::{Fate, Kind};

use super::proxy::Proxy;
use super::*;

/// The outcomes that an inbox was told of, by tag.
pub fn outcomes(inbox: &Inbox, count: usize) -> Vec<(u64, helixmq::error::Result<helixmq::hub::Receipt>)> {
    let (mut events, mut all) = (Vec::new(), Vec::new());
    while all.len() < count {
        assert_eq!(inbox.poll(1000, WAIT, &mut events), Polled::Data, "{} were told", all.len());
        for event in events.drain(..) {
            let Event::Published { tag, result, .. } = event else { panic!("{event:?}") };
            all.push((tag, result));
        }
    }
    all
}

/// The exchange of events is deleted by somebody; F17 deletes a queue. The server closes the channel for
/// that; tasks are on another one.
#[test]
fn f16_a_publish_to_an_exchange_that_is_gone_harms_no_other() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox, results) = (topic(), inbox(&hub), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 1000}), &inbox);
    let name = topic.replace("tasks.", "user.");
    let event = || hub.publish(&name, Some(TopicKind::Event), &Record::new(b"x"), None, WAIT);
    event().unwrap();
    publish(&hub, &topic, "first").unwrap();
    eval("rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"hmq.events\">>), false, <<\"test\">>).");
    let tasks = publisher(&hub, &topic);
    let payloads: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let (before, after) = payloads.split_at(100);
    let send = |payloads: &[String]| {
        for payload in payloads {
            let tag = payload.parse().unwrap();
            assert_eq!(tasks.send_inbox(&[Record::new(payload.as_bytes())], &[tag], &results, None).0, 1);
        }
    };
    send(before);
    let failed = event().unwrap_err();
    assert_eq!((failed.kind(), failed.fate()), (Kind::NotFound, Some(Fate::Refused)), "{failed}");
    assert!(failed.to_json().to_string().contains("no exchange 'hmq.events'"), "{failed:?}");
    send(after);
    let told = outcomes(&results, 200);
    until("the exchange again", || event().is_ok());
    publish(&hub, &topic, "last").unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "last") {
        let incoming = next(&inbox);
        ack(&incoming);
        seen.push(text(&incoming));
    }
    for (tag, result) in told {
        let count = seen.iter().filter(|payload| **payload == tag.to_string()).count();
        assert_eq!((result.map(drop).map_err(|failed| failed.to_string()), count), (Ok(()), 1), "{tag}");
    }
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    hub.close(WAIT).unwrap();
}

#[test]
fn f18_declaring_a_queue_otherwise_is_a_conflict_and_nobody_elses() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (first, second, inbox) = (topic(), topic(), inbox(&hub));
    let _subs = [&first, &second].map(|topic| subscribe(&hub, json!({"topic": topic}), &inbox));
    publish(&hub, &first, "held").unwrap();
    let held = next(&inbox);
    let otherwise = DeclareOptions::from_json(&json!({"name": first, "messages_max": 7}).to_string()).unwrap();
    let refused = hub.declare(&otherwise, WAIT).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.message().contains("x-max-length"), "{refused}");
    ack(&held);
    for topic in [&first, &second] {
        publish(&hub, topic, topic).unwrap();
        let incoming = next(&inbox);
        assert_eq!((text(&incoming), incoming.redelivered), (topic.clone(), false));
        ack(&incoming);
    }
    assert_eq!(attempts(&hub), 1);
    hub.close(WAIT).unwrap();
}

/// The server's timeout of acknowledgements, short for one test. Channels take it when they open.
struct ShortTimeout;

impl ShortTimeout {
    fn set() -> Self {
        eval("application:set_env(rabbit, consumer_timeout, 1000).");
        eval("application:set_env(rabbit, channel_tick_interval, 500).");
        Self
    }
}

impl Drop for ShortTimeout {
    fn drop(&mut self) {
        eval("application:set_env(rabbit, consumer_timeout, 1800000).");
        eval("application:set_env(rabbit, channel_tick_interval, 60000).");
    }
}

#[test]
fn f19_a_delivery_held_too_long_comes_again_and_disturbs_no_other() {
    let _alone = alone();
    let _short = ShortTimeout::set();
    let hub = hub(json!({}));
    let (slow, quick) = (inbox(&hub), inbox(&hub));
    let topics = [topic(), topic()];
    let _subs =
        [subscribe(&hub, json!({"topic": topics[0]}), &slow), subscribe(&hub, json!({"topic": topics[1]}), &quick)];
    publish(&hub, &topics[0], "held").unwrap();
    let mut held = next(&slow);
    let start = Instant::now();
    let retry = Decision::Retry { delay: None, reason: "" };
    for last in [false, true] {
        // It comes again, and waits for the handler that has it.
        while held_back(&hub) == 0 {
            assert!(start.elapsed() < Duration::from_secs(40), "it does not come again");
            publish(&hub, &topics[1], "other").unwrap();
            let other = next(&quick);
            assert!(!other.redelivered);
            ack(&other);
            assert!(next_within(&slow, Duration::from_millis(20)).is_none());
        }
        if last {
            ack(&held);
        } else {
            assert_eq!(settle(held.token, retry).unwrap_err().kind(), Kind::Stale);
            held = next(&slow);
            assert_eq!((text(&held).as_str(), held.redelivered), ("held", true));
        }
    }
    until("its acknowledgement", || metric(&hub, "helixmq_ledger_acked_total") == 1);
    assert!(next_within(&slow, Duration::from_millis(500)).is_none());
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    hub.close(WAIT).unwrap();
}

/// One of the attempts ends with the connection, and the server counts it.
#[test]
fn f20_a_poison_message_has_its_attempts_and_no_more_and_the_innocent_pass() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = hub_at(proxy.port(), json!({"retry": {"attempts": 4, "delay_ms": 1000, "factor": 1, "jitter": false}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 3}), &inbox);
    let innocent: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for payload in innocent.iter().take(10).map(String::as_str).chain(["poison"]) {
        publish(&hub, &topic, payload).unwrap();
    }
    for payload in innocent.iter().skip(10) {
        publish(&hub, &topic, payload).unwrap();
    }
    let (mut passed, mut attempts, mut resets) = (Vec::new(), Vec::new(), 0);
    while attempts.len() < 4 || passed.len() < 20 {
        let incoming = next(&inbox);
        if text(&incoming) != "poison" {
            match settle(incoming.token, Decision::Ack) {
                // Its acknowledgement may have been lost with the connection.
                Ok(()) if !passed.contains(&text(&incoming)) => passed.push(text(&incoming)),
                _ => {}
            }
            continue;
        }
        attempts.push(incoming.attempt);
        if attempts.len() == 2 {
            let before = super::attempts(&hub);
            proxy.reset();
            until("the loss", || super::attempts(&hub) > before);
            let retry = Decision::Retry { delay: None, reason: "poison" };
            assert_eq!(settle(incoming.token, retry).unwrap_err().kind(), Kind::Stale);
            resets += 1;
        } else {
            settle(incoming.token, Decision::Retry { delay: None, reason: "poison" }).unwrap();
        }
    }
    assert_eq!((attempts, resets), (vec![1, 2, 3, 4], 1));
    passed.sort_by_key(|payload| payload.parse::<u32>().unwrap());
    assert_eq!(passed, innocent);
    let dead = dead_letter(&hub, &topic);
    assert_eq!((&dead["attempts"], &dead["reason"]), (&json!(4), &json!("poison")));
    assert!(next_within(&inbox, Duration::from_millis(500)).is_none());
    hub.close(WAIT).unwrap();
}

/// Tasks by the rights on queues, events by those on routing keys.
#[test]
fn f51_a_topic_that_is_denied_fails_alone() {
    let _alone = alone();
    let queues = "^(tasks\\.server-|hmq\\.)";
    let user = User::with("denied", [queues, &format!("{queues}|^amq\\.default$"), queues]);
    server(&["ctl", "set_topic_permissions", &user.0, "hmq.events", "^user\\.", "^user\\."]);
    let forbidden = format!("tasks.forbidden-{}", std::process::id());
    let hub = user.hub(json!({}));
    let (topic, inbox, results) = (topic(), inbox(&hub), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 1000}), &inbox);
    publish(&hub, &topic, "first").unwrap();
    ack(&next(&inbox));
    let refused = publish(&hub, &forbidden, "x").unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::Refused, Some(Fate::Refused)), "{refused}");
    let options = SubscribeOptions::from_json(&json!({"topic": forbidden}).to_string()).unwrap();
    assert_eq!(hub.subscribe_inbox(options, &inbox, 0, WAIT).unwrap_err().kind(), Kind::Refused);

    let (allowed, denied) = (publisher(&hub, &topic), publisher(&hub, &forbidden));
    for tag in 0..200 {
        let publisher = if tag == 50 { &denied } else { &allowed };
        assert_eq!(publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None).0, 1);
    }
    for (tag, result) in outcomes(&results, 200) {
        assert_eq!(
            result.map(drop).map_err(|failed| failed.kind()),
            if tag == 50 { Err(Kind::Refused) } else { Ok(()) }
        );
    }
    for _ in 0..199 {
        ack(&next(&inbox));
    }
    let event = |topic: &str| hub.publish(topic, Some(TopicKind::Event), &Record::new(b"x"), None, WAIT);
    event("user.x").unwrap();
    let refused = event("other.x").unwrap_err();
    assert!(refused.to_json().to_string().contains("access to topic 'other.x'"), "{refused:?}");
    event("user.x").unwrap();
    publish(&hub, &topic, "last").unwrap();
    ack(&next(&inbox));
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    hub.close(WAIT).unwrap();
}

#[test]
fn f52_a_process_without_descriptors_goes_on_when_it_has_some() {
    let _alone = alone();
    child("limits::f52_child", 96, &[]);
}

#[test]
#[ignore = "a process of its own, for f52"]
fn f52_child() {
    without_descriptors(json!({"rabbitmq": {"host": "127.0.0.1", "port": port()}}), |hub| {
        publish(hub, "tasks.f52", "x")
    });
}

/// Opens hubs with few descriptors left, and publishes; takes all there are of this process.
pub fn without_descriptors(mut config: Value, publish: fn(&Hub) -> helixmq::error::Result<helixmq::hub::Receipt>) {
    config["connection_timeout_ms"] = json!(500);
    config["fallback_to_inmemory"] = json!(false);
    let config = config.to_string();
    let open = || Hub::open(Config::from_json(&config).unwrap(), WAIT);
    let first = open().unwrap();
    publish(&first).unwrap();
    first.close(WAIT).unwrap();
    let mut rest = 0;
    until("rest", || {
        pass(Duration::from_millis(50));
        std::mem::replace(&mut rest, descriptors()) == rest
    });
    let mut failures = 0;
    for left in 0..8 {
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        taken.truncate(taken.len() - left);
        match open() {
            Ok(hub) => {
                failures += usize::from(publish(&hub).is_err());
                println!("{left} left: {} {}", state(&hub), own(&hub)["last_error"]["message"]);
                drop(taken);
                until("a connection", || publish(&hub).is_ok());
                hub.close(WAIT).unwrap();
            }
            Err(refused) => {
                println!("{left} left: {refused}");
                failures += 1;
                drop(taken);
            }
        }
        until("the descriptors", || descriptors() <= rest);
    }
    assert!(failures > 1, "{failures}");
}

#[test]
fn f54_a_slow_consumer_of_a_fast_publisher_costs_no_memory() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 20}), &inbox);
    publish_faster_than_consume(&hub, &topic, &inbox);
    hub.close(WAIT).unwrap();
    server(&["ctl", "delete_queue", &topic]);
}

/// Publishes as fast as it goes and takes one message a second from the inbox, within so much memory.
pub fn publish_faster_than_consume(hub: &Hub, topic: &str, inbox: &Inbox) {
    let results = hub.inbox(InboxOptions::from_json(r#"{"capacity": 8000}"#).unwrap()).unwrap();
    let publisher = publisher(hub, topic);
    publisher.send(&Record::new(&[0; 1024]), WAIT).unwrap();
    forget_peak();
    let begin = resident(false);
    let (start, mut steady, time) = (Instant::now(), None, Duration::from_secs(scaled(4, 60) as u64));
    let (mut sent, mut full, mut confirmed, mut consumed) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut events = Vec::new();
    let count = |events: &mut Vec<Event>| {
        events.drain(..).filter(|event| matches!(event, Event::Published { result: Ok(_), .. })).count() as u64
    };
    while start.elapsed() < time {
        match publisher.send_inbox(&[Record::new(&[0; 1024])], &[], &results, None) {
            (1, _) => sent += 1,
            (_, Some(failed)) => {
                assert_eq!(failed.kind(), Kind::Full, "{failed}");
                full += 1;
                results.poll(1000, Some(Duration::from_millis(10)), &mut events);
                confirmed += count(&mut events);
            }
            other => panic!("{other:?}"),
        }
        if steady.is_none() && start.elapsed() > time / 2 {
            steady = Some(resident(true));
        }
        if start.elapsed().as_secs() > consumed {
            ack(&next(inbox));
            consumed += 1;
        }
    }
    while confirmed < sent {
        assert_eq!(results.poll(1000, WAIT, &mut events), Polled::Data);
        confirmed += count(&mut events);
    }
    let (all, grown) = (resident(true).saturating_sub(begin), resident(true).saturating_sub(steady.unwrap()));
    println!("{sent} sent, {full} times full, {consumed} consumed, {} KiB, then {} KiB", all / 1024, grown / 1024);
    assert!(all < 128 << 20 && grown < 32 << 20, "{all} bytes, then {grown}");
    assert!(full > 0 && confirmed == sent && sent > 1000 * consumed, "{sent} {full} {confirmed} {consumed}");
}

/// The client library never uses a channel's number again that the server has closed: each topic that is
/// not found costs one of 2,047.
#[test]
fn channels_that_the_server_closed_are_done_without() {
    let _alone = alone();
    let hub = hub(json!({"rabbitmq": {"queue_type": "classic"}}));
    let (gone, there) = (topic(), topic());
    publish(&hub, &gone, "x").unwrap();
    publish(&hub, &there, "x").unwrap();
    server(&["ctl", "delete_queue", &gone]);
    let selector = TopicSelector::from_json(&json!({"name": gone}).to_string()).unwrap();
    let missing = || hub.describe(&selector, WAIT).unwrap_err().kind();
    let mut again = 0;
    for _ in 0..2200 {
        if missing() != Kind::NotFound {
            again += 1;
            until("another connection", || missing() == Kind::NotFound);
        }
    }
    assert!(again < 3, "{again} connections more");
    until("a publish", || publish(&hub, &there, "x").is_ok());
    publish(&hub, &topic(), "new").unwrap();
    hub.close(WAIT).unwrap();
}

/// Who may not delay tasks can still publish them, also those behind a delayed one.
#[test]
fn a_delay_that_is_refused_takes_no_other_task_along() {
    let _alone = alone();
    let user = User::with("undelayed", TASKS_ALONE);
    let hub = user.hub(json!({}));
    let (topic, results) = (topic(), inbox(&hub));
    let publisher = publisher(&hub, &topic);
    publisher.send_inbox(&[Record { delay_ms: 2000, ..Record::new(b"d") }], &[1000], &results, None);
    for tag in 0..50 {
        assert_eq!(publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None).0, 1);
    }
    for (tag, result) in outcomes(&results, 51) {
        let refused = result.is_err_and(|failed| failed.fate() == Some(Fate::Refused));
        assert_eq!(refused, tag == 1000, "{tag}");
    }
    hub.close(WAIT).unwrap();
}
