//! What a hub does while a real server is away: rows T and F of outages. Nothing that was accepted is lost, order is
//! kept by key, and a second copy says that it may be one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use helixmq::broker::Level;
use helixmq::error::{Fate, Kind};

use super::outage::{forwarded, key, publisher_of, Side, KAFKA, RABBITMQ};
use super::*;

/// T11: no server at the start.
fn everything_arrives_though_the_server_came_later(side: Side) {
    let _alone = side.alone();
    let away = side.away("kill");
    // A Kafka that has just started may take long to confirm.
    let hub = side.hub(json!({"connection_timeout_ms": 1000, "failover": {"confirm_timeout_ms": 30_000}}));
    assert_eq!((hub.health()["degraded"].as_bool(), hub.health()["live"].as_bool()), (Some(true), Some(true)));
    let topic = side.topic();
    for number in 0..200 {
        let receipt = side.publish(&hub, &topic, &key(number), &number.to_string()).unwrap();
        assert_eq!((receipt.level, receipt.spooled), (Level::Memory, true), "{number}");
    }
    assert_eq!(own(&hub)["spool"]["records"], 200);
    assert_eq!(hub.wait_forwarded(Some(Duration::ZERO)).unwrap_err().kind(), Kind::Timeout);
    drop(away);
    forwarded(&hub);
    assert_eq!(own(&hub)["spool"]["records"], 0);
    let receipt = side.publish(&hub, &topic, &key(200), "200").unwrap();
    assert_eq!((receipt.level, receipt.spooled), (Level::Broker, false));
    assert_eq!(side.all(&topic, 201, json!({})).check(201), 0, "second copies of what was never in flight");
    hub.close(WAIT).unwrap();
}

#[test]
fn t11_rabbitmq_everything_arrives_though_the_server_came_later() {
    everything_arrives_though_the_server_came_later(RABBITMQ);
}

#[test]
fn t11_kafka_everything_arrives_though_the_server_came_later() {
    everything_arrives_though_the_server_came_later(KAFKA);
}

/// Publishes numbers all the time, while `fault` is made and mended; then nothing may be missing. Answers how many
/// publishes were kept.
fn nothing_is_lost(side: Side, hub: &Hub, topic: &str, more: Value, fault: impl FnOnce(&dyn Fn(u64))) -> usize {
    side.publish(hub, topic, &key(0), "0").unwrap();
    let results = hub.inbox(InboxOptions::from_json(r#"{"capacity": 1000000}"#).unwrap()).unwrap();
    let publisher = publisher_of(hub, side, topic);
    let (done, count) = (AtomicBool::new(false), AtomicU64::new(1));
    /// Also when the test fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let worst = std::thread::scope(|scope| {
        let ends = Ends(&done);
        let publishing = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !done.load(Ordering::SeqCst) {
                let number = count.load(Ordering::SeqCst);
                let (key, payload) = (key(number), number.to_string());
                let record = Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) };
                let begun = Instant::now();
                match publisher.send_inbox(&[record], &[number], &results, None) {
                    (1, None) => drop(count.fetch_add(1, Ordering::SeqCst)),
                    // The publish window: the server stands still, and is not found out yet.
                    (_, Some(full)) if full.kind() == Kind::Full => {}
                    other => panic!("{other:?}"),
                }
                worst = worst.max(begun.elapsed());
                pass(Duration::from_micros(500));
            }
            worst
        });
        let published = |more: u64| {
            let before = count.load(Ordering::SeqCst);
            until("more publishes", || count.load(Ordering::SeqCst) > before + more);
        };
        published(500);
        fault(&published);
        let start = Instant::now();
        while !is_up(hub) {
            assert!(start.elapsed() < Duration::from_secs(30), "{} {:?}", own(hub), hub.health()["state_changes"]);
            pass(Duration::from_millis(10));
        }
        published(500);
        drop(ends);
        publishing.join().unwrap()
    });
    forwarded(hub);
    let count = count.load(Ordering::SeqCst) as usize;
    let told = super::limits::outcomes(&results, count - 1);
    let kept = told.iter().filter(|(_, result)| result.as_ref().unwrap().spooled).count();
    let second = side.all(topic, count, more).check(count);
    println!("{count} published, {kept} of them kept, {second} second copies, the longest call {worst:?}");
    // None of these calls waits; but they share two cores with a server that starts.
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    kept
}

/// T2: the server goes away under load, and comes back.
fn nothing_is_lost_over_an_outage(side: Side, how: &str) {
    let _alone = side.alone();
    // A quorum queue that was made moments before its only node was killed may come back without a leader (3.10.8).
    let classic = json!({"rabbitmq": {"queue_type": "classic"}});
    let more = if side.name == "rabbitmq" && how == "kill" { classic } else { json!({}) };
    let hub = side.hub(more.clone());
    let kept = nothing_is_lost(side, &hub, &side.topic(), more, |_| {
        let away = side.away(how);
        pass(Duration::from_secs(scaled(3, 60) as u64));
        drop(away);
    });
    assert!(kept > 0, "the outage was not noticed");
    hub.close(WAIT).unwrap();
}

#[test]
fn t2_rabbitmq_nothing_is_lost_when_the_server_is_stopped() {
    nothing_is_lost_over_an_outage(RABBITMQ, "stop");
}

#[test]
fn t2_rabbitmq_nothing_is_lost_when_the_server_is_killed() {
    nothing_is_lost_over_an_outage(RABBITMQ, "kill");
}

#[test]
fn t2_kafka_nothing_is_lost_when_the_server_is_stopped() {
    nothing_is_lost_over_an_outage(KAFKA, "stop");
}

#[test]
fn t2_kafka_nothing_is_lost_when_the_server_is_killed() {
    nothing_is_lost_over_an_outage(KAFKA, "kill");
}

/// What a call asks for is what it gets, or it is told at once.
/// It stands still for a little longer than a confirm may take, and goes on: the first messages have waited too long
/// by then, those behind them have not.
fn order_is_kept_over_a_standstill(side: Side) {
    let _alone = side.alone();
    let hub = side.hub(json!({"failover": {"confirm_timeout_ms": 1500}}));
    for _ in 0..scaled(2, 20) {
        nothing_is_lost(side, &hub, &side.topic(), json!({}), |published| {
            let away = side.away("pause");
            published(1);
            pass(Duration::from_millis(2_300));
            drop(away);
        });
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn t4_rabbitmq_order_is_kept_over_a_standstill() {
    order_is_kept_over_a_standstill(RABBITMQ);
}

#[test]
fn t4_kafka_order_is_kept_over_a_standstill() {
    order_is_kept_over_a_standstill(KAFKA);
}

/// What its client held ends with the topic, and is sent again to the new one.
#[test]
fn a_kafka_topic_deleted_under_what_is_kept_is_made_again() {
    let _alone = KAFKA.alone();
    let hub = KAFKA.hub(json!({"failover": {"confirm_timeout_ms": 2000}}));
    let topic = KAFKA.topic();
    KAFKA.publish(&hub, &topic, "k", "0").unwrap();
    kafka::delete_topic(&topic);
    let (mut count, mut direct, start) = (1, 0, Instant::now());
    while direct < 10 {
        let receipt = KAFKA.publish(&hub, &topic, "k", &count.to_string()).unwrap();
        // Until the client hears of it, the old topic's leader may still confirm.
        direct =
            if receipt.level == Level::Broker && start.elapsed() > Duration::from_secs(1) { direct + 1 } else { 0 };
        count += 1;
        assert!(start.elapsed() < Duration::from_secs(60), "{}", own(&hub));
        pass(Duration::from_millis(50));
    }
    forwarded(&hub);
    println!("{count} published in {:?}", start.elapsed());
    let last: Vec<u64> = (count - 10..count).collect();
    KAFKA.gather(&topic, &last);
    hub.close(WAIT).unwrap();
}

fn a_call_gets_what_it_asks_for(side: Side) {
    let _alone = side.alone();
    let other = side.topic();
    let routes = json!([
        {"pattern": format!("{other}.fail"), "kind": side.kind.name(), "on_outage": "fail"},
        {"pattern": format!("{other}.drop"), "kind": side.kind.name(), "on_outage": "drop"},
    ]);
    let failover = json!({"memory_bytes_max": 1 << 21, "suspect_wait_ms": 5000, "down_after_ms": 6000});
    let hub = side.hub(json!({"routes": routes, "failover": failover}));
    let topic = side.topic();
    let publish = |topic: &str, bytes: usize, require| {
        let payload = vec![b'x'; bytes];
        let record = Record { key: Some(b"k"), ..Record::new(&payload) };
        hub.publish(
            topic,
            Some(side.kind),
            &record,
            require,
            Some(Duration::from_millis(if bytes == 1 { 5000 } else { 200 })),
        )
    };
    for topic in [&topic, &format!("{other}.fail"), &format!("{other}.drop")] {
        assert_eq!(publish(topic, 1, None).unwrap().level, Level::Broker, "{topic}");
    }
    // A drill in place of an outage.
    hub.backend_force(side.name, true).unwrap();
    assert_eq!(state(&hub), "down");
    let start = Instant::now();
    let refused = publish(&topic, 1, Some(Level::Broker)).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "{refused}");
    let refused = publish(&topic, 1, Some(Level::Disk)).unwrap_err();
    assert_eq!(refused.kind(), Kind::BackendDown, "{refused}");
    let refused = publish(&format!("{other}.fail"), 1, None).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "{refused}");
    assert_eq!(publish(&format!("{other}.drop"), 1, None).unwrap().level, Level::None);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(metric(&hub, "helixmq_outage_dropped_total"), 1);
    let expires = Record { ttl_ms: 100, ..Record::new(b"soon over") };
    assert!(hub.publish(&format!("{other}.ttl"), Some(side.kind), &expires, None, WAIT).unwrap().spooled);
    until("its end", || metric(&hub, "helixmq_spool_expired_total") == 1);
    // T13: what does not fit stays with the program.
    for _ in 0..3 {
        let receipt = publish(&topic, 600_000, Some(Level::Memory)).unwrap();
        assert_eq!((receipt.level, receipt.spooled), (Level::Memory, true));
    }
    let full = publish(&topic, 600_000, None).unwrap_err();
    assert_eq!((full.kind(), full.fate()), (Kind::Full, Some(Fate::NotSent)), "{full}");
    assert!(full.message().contains("failover.memory_bytes_max"), "{full}");
    // Paused, what is kept stays; then it goes.
    hub.forwarding(false).unwrap();
    hub.backend_force(side.name, false).unwrap();
    until("the end of the drill", || is_up(&hub));
    assert_eq!(publish(&topic, 1, None).unwrap().level, Level::Memory, "it would overtake");
    assert!(hub.wait_forwarded(Some(Duration::from_millis(300))).is_err());
    // One that waits behind them for the server's confirm counts as they do.
    let kept = own(&hub)["spool"]["records"].as_u64().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| publish(&topic, 1, Some(Level::Broker)));
        until("its place behind the others", || own(&hub)["spool"]["records"] == kept + 1);
        hub.forwarding(true).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().level, Level::Broker);
    });
    forwarded(&hub);
    let counted = metric(&hub, "helixmq_forwarded_total") + metric(&hub, "helixmq_spool_expired_total");
    assert_eq!(metric(&hub, "helixmq_spooled_total"), counted);
    assert_eq!(publish(&topic, 1, Some(Level::Broker)).unwrap().level, Level::Broker);
    hub.close(WAIT).unwrap();
}

#[test]
fn rabbitmq_a_call_gets_what_it_asks_for() {
    a_call_gets_what_it_asks_for(RABBITMQ);
}

#[test]
fn kafka_a_call_gets_what_it_asks_for() {
    a_call_gets_what_it_asks_for(KAFKA);
}

/// T15: a hub that closes while its server is away says what it leaves behind, in time; who waits gets an answer.
#[test]
fn t15_a_close_with_messages_kept_is_in_time() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let hub = side.hub(json!({}));
    let topic = side.topic();
    let log = hub.inbox(InboxOptions::from_json(r#"{"log": true}"#).unwrap()).unwrap();
    side.publish(&hub, &topic, "k", "0").unwrap();
    hub.forwarding(false).unwrap();
    hub.backend_force(side.name, true).unwrap();
    for number in 1..=24 {
        assert!(side.publish(&hub, &topic, "k", &number.to_string()).unwrap().spooled);
    }
    hub.backend_force(side.name, false).unwrap();
    until("the end of the drill", || is_up(&hub));
    let (first, second, at) = (hub.clone(), hub.clone(), topic.clone());
    let forwarded = std::thread::spawn(move || first.wait_forwarded(None));
    let confirmed = std::thread::spawn(move || {
        let record = Record { key: Some(b"k"), ..Record::new(b"25") };
        second.publish(&at, Some(side.kind), &record, Some(Level::Broker), None)
    });
    until("its place behind the others", || own(&hub)["spool"]["records"] == 25);
    let late = publisher_of(&hub, side, &topic);
    let away = side.away("kill");
    until("the loss", || !is_up(&hub));
    hub.forwarding(true).unwrap();
    let start = Instant::now();
    hub.close(Some(Duration::from_secs(20))).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(forwarded.join().unwrap().unwrap_err().kind(), Kind::Closed);
    let ended = confirmed.join().unwrap().unwrap_err();
    assert_eq!((ended.kind(), ended.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "it never left the process");
    assert_eq!(late.send(&Record::new(b"late"), WAIT).unwrap_err().kind(), Kind::Closed);
    let mut events = Vec::new();
    while log.poll(100, Some(Duration::ZERO), &mut events) == Polled::Data {}
    let lines = events.iter().filter_map(|event| match event {
        Event::Log { json, .. } if json.contains("closed_with_messages") => Some(json.to_string()),
        _ => None,
    });
    let lines: Vec<String> = lines.collect();
    assert!(matches!(&lines[..], [line] if line.contains("24 messages")), "{lines:?}");
    drop(away);
}

/// What could never be sent is refused at once, and not when it is too late.
#[test]
fn what_cannot_be_sent_is_not_kept() {
    for side in [KAFKA, RABBITMQ] {
        let _alone = side.alone();
        let hub = side.hub(json!({}));
        let topic = side.topic();
        hub.backend_force(side.name, true).unwrap();
        let mut headers = helixmq::message::HeaderBlock::default();
        headers.push(if side.name == "kafka" { "hmq-id" } else { "CC" }, b"not the program's");
        let record = Record { headers: headers.headers(), ..Record::new(b"x") };
        let refused = hub.publish(&topic, Some(side.kind), &record, None, WAIT).unwrap_err();
        assert_eq!(refused.kind(), Kind::Header, "{}: {refused}", side.name);
        assert_eq!(own(&hub)["spool"]["records"], 0);
        hub.close(WAIT).unwrap();
    }
}

/// What its server refuses later becomes a dead letter, and harms none behind it.
#[test]
fn t10_a_kept_message_that_is_refused_becomes_a_dead_letter() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let hub = side.hub(json!({}));
    let (full, good) = (side.topic(), side.topic());
    let options = json!({"name": full, "kind": "task", "messages_max": 1, "overflow": "reject"}).to_string();
    hub.declare(&helixmq::config::options::DeclareOptions::from_json(&options).unwrap(), WAIT).unwrap();
    let refused = (0..1000).find_map(|number| side.publish(&hub, &full, "k", &number.to_string()).err());
    assert_eq!(refused.expect("the limit is kept").fate(), Some(Fate::Refused));
    side.publish(&hub, &good, &key(0), "0").unwrap();
    hub.backend_force(side.name, true).unwrap();
    assert!(side.publish(&hub, &full, "k", "one too many").unwrap().spooled);
    for number in 1..=20 {
        assert!(side.publish(&hub, &good, &key(number), &number.to_string()).unwrap().spooled);
    }
    hub.backend_force(side.name, false).unwrap();
    forwarded(&hub);
    assert_eq!(side.all(&good, 21, json!({})).check(21), 0);
    assert_eq!(metric(&hub, "helixmq_spool_refused_total"), 1);
    let letter = dead_letter(&hub, &format!("{full}.dlq"));
    assert!(letter.to_string().contains(&full), "{letter}");
    hub.close(WAIT).unwrap();
}

/// A publish that waits for room in a full spool sleeps, and is told of it.
#[test]
fn a_full_spool_keeps_publishers_asleep_until_there_is_room() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let hub = side.hub(json!({"failover": {"memory_bytes_max": 1 << 20}}));
    let topic = side.topic();
    let payload = vec![b'x'; 600_000];
    let record = Record { key: Some(b"k"), ..Record::new(&payload) };
    let publish = |timeout| hub.publish(&topic, Some(side.kind), &record, None, timeout);
    publish(WAIT).unwrap();
    hub.backend_force(side.name, true).unwrap();
    assert!(publish(WAIT).unwrap().spooled);
    let waits = metric(&hub, "helixmq_publish_failed_total");
    let (before, start) = (processor_time(), Instant::now());
    assert_eq!(publish(Some(Duration::from_secs(2))).unwrap_err().kind(), Kind::Full);
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(500), "{spent:?} of processor time while waiting two seconds");
    assert_eq!(metric(&hub, "helixmq_publish_failed_total"), waits + 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| publish(Some(Duration::from_secs(20))));
        pass(Duration::from_millis(300));
        hub.backend_force(side.name, false).unwrap();
        waiting.join().unwrap().unwrap();
    });
    forwarded(&hub);
    hub.close(WAIT).unwrap();
}

/// Of this thread, in user mode and in the system.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap().to_owned();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|text| text.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// T3: the server is there and away, again and again.
#[test]
fn t3_nothing_is_stuck_after_many_restarts() {
    let side = KAFKA;
    let _alone = side.alone();
    let hub = side.hub(json!({}));
    let kept = nothing_is_lost(side, &hub, &side.topic(), json!({}), |published| {
        // Stopped, not killed: a Kafka that is killed moments after its start may come back without its SCRAM users.
        for _ in 0..scaled(3, 10) {
            drop(side.away("stop"));
            published(50);
        }
    });
    assert!(kept > 0 && own(&hub)["flaps"].as_u64().unwrap() > 0, "{kept} {}", own(&hub));
    hub.close(WAIT).unwrap();
}

/// T4, T5: a network that swallows everything, after the server has taken what it then cannot confirm.
#[test]
fn t4_t5_silence_is_found_out_and_what_was_not_confirmed_is_sent_again_with_a_mark() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let proxy = proxy::Proxy::to(port());
    let server = json!({"host": "127.0.0.1", "port": proxy.port(), "heartbeat_ms": 1000});
    let hub = side.hub(json!({
        "rabbitmq": server, "connection_timeout_ms": 1000, "failover": {"confirm_timeout_ms": 1000},
    }));
    let kept = nothing_is_lost(side, &hub, &side.topic(), json!({}), |published| {
        // The server hears, and is not heard.
        proxy.set(proxy::Way::Down, network::BLACKHOLE);
        published(200);
        proxy.set(proxy::Way::Up, network::BLACKHOLE);
        until("the loss", || !is_up(&hub));
        published(200);
        proxy.heal();
    });
    assert!(kept > 0, "the silence was not noticed");
    assert!(metric(&hub, "helixmq_maybe_duplicate_total") > 0);
    hub.close(WAIT).unwrap();
}

/// The server's alarm, which ends when this is dropped.
pub(super) struct Alarm(());

impl Alarm {
    pub fn new() -> Self {
        server(&["ctl", "set_vm_memory_high_watermark", "absolute", "1000000"]);
        Self(())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        server(&["ctl", "set_vm_memory_high_watermark", "0.6"]);
    }
}

/// T12: a server that asks publishers to stop.
#[test]
fn t12_an_alarm_keeps_nobody_waiting() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let hub = side.hub(json!({"failover": {"blocked_wait_ms": 1000}}));
    let other = side.topic();
    let kept = nothing_is_lost(side, &hub, &side.topic(), json!({}), |published| {
        let alarm = Alarm::new();
        until("the alarm", || state(&hub) == "blocked");
        let start = Instant::now();
        assert!(side.publish(&hub, &other, "k", "x").unwrap().spooled);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        published(500);
        drop(alarm);
    });
    assert!(kept > 0);
    hub.close(WAIT).unwrap();
}

/// T7: tasks that are kept are done here, once, also by a subscription that is opened while the server is away; what
/// is not done here goes to the server with its attempts.
#[test]
fn t7_kept_tasks_are_done_here_or_sent_and_never_both() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let retry = json!({"delay_ms": 10, "jitter": false});
    let hub = side.hub(json!({"retry": retry, "rabbitmq": {"queue_type": "classic"}}));
    let topic = side.topic();
    side.publish(&hub, &topic, &key(0), "0").unwrap();
    let first = inbox(&hub);
    let sub = subscribe(&hub, json!({"topic": topic, "prefetch": 4}), &first);
    ack(&next(&first));
    let away = side.away("kill");
    until("the loss", || !is_up(&hub));
    for number in 1..=20 {
        assert!(side.publish(&hub, &topic, &key(number), &number.to_string()).unwrap().spooled);
    }
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    let (mut failed, mut rejected) = (None, None);
    for _ in 0..10 {
        let incoming = next(&first);
        if failed.is_none() {
            // It comes again, as a second attempt.
            failed = Some(text(&incoming));
            settle(incoming.token, Decision::Retry { delay: None, reason: "once more" }).unwrap();
            continue;
        }
        let before = done.insert(text(&incoming), incoming.attempt);
        assert_eq!(before, None, "{} twice", text(&incoming));
        if rejected.is_none() {
            rejected = Some(text(&incoming));
            settle(incoming.token, Decision::Reject { reason: "never" }).unwrap();
            continue;
        }
        ack(&incoming);
    }
    until("the dead letter, which is kept, too", || metric(&hub, "helixmq_dead_lettered_total") == 1);
    // One subscription ends, what it holds goes to another that is opened now.
    let held = next(&first);
    assert!(!done.contains_key(&text(&held)));
    sub.close(WAIT).unwrap();
    let second = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 4}), &second);
    for _ in 0..5 {
        let incoming = next(&second);
        assert_eq!(done.insert(text(&incoming), incoming.attempt), None, "{} twice", text(&incoming));
        let before = text(&incoming) == text(&held) || incoming.attempt > 1;
        // Others may have been fetched for the first subscription, too.
        assert!(incoming.redelivered || !before, "{} was handed over before", text(&incoming));
        ack(&incoming);
    }
    // These stay out while the server comes back.
    let out = next(&second);
    drop(away);
    until("the return", || is_up(&hub));
    ack(&out);
    done.insert(text(&out), out.attempt);
    while done.len() < 20 {
        let incoming = next(&second);
        if text(&incoming) == "0" {
            // Its acknowledgement went with the connection.
            ack(&incoming);
            continue;
        }
        assert_eq!(done.insert(text(&incoming), incoming.attempt), None, "{} twice", text(&incoming));
        ack(&incoming);
    }
    forwarded(&hub);
    assert_eq!(done[&failed.unwrap()], 2, "{done:?}");
    assert_eq!(dead_letter(&hub, &format!("{topic}.dlq"))["reason"], "never");
    while let Some(more) = next_within(&second, Duration::from_secs(1)) {
        assert_eq!(text(&more), "0", "one more came");
        ack(&more);
    }
    assert!(metric(&hub, "helixmq_local_done_total") >= 15, "{rejected:?}");
    side.publish(&hub, &topic, "k", "21").unwrap();
    assert_eq!(text(&next(&second)), "21", "by the server again");
    hub.close(WAIT).unwrap();
}

/// What failed here goes to its server with its attempts, where the form has a place for them.
#[test]
fn what_failed_here_is_sent_with_its_attempts() {
    for (side, attempt) in [(RABBITMQ, 2), (Side { kind: TopicKind::Task, ..KAFKA }, 1)] {
        let _alone = side.alone();
        let topic = side.topic();
        let plain = json!([{"pattern": topic, "kind": "task", "backend": "kafka", "wire": "plain"}]);
        let routes = if side.name == "kafka" { plain } else { json!([]) };
        let hub = side.hub(json!({"routes": routes, "retry": {"delay_ms": 1000, "jitter": false}}));
        let (here, there) = (inbox(&hub), inbox(&hub));
        let sub = subscribe(&hub, json!({"topic": topic}), &here);
        until("a connection", || is_up(&hub));
        hub.backend_force(side.name, true).unwrap();
        assert!(side.publish(&hub, &topic, "k", "x").unwrap().spooled);
        settle(next(&here).token, Decision::Retry { delay: None, reason: "once more" }).unwrap();
        sub.close(WAIT).unwrap();
        hub.backend_force(side.name, false).unwrap();
        let _sub = subscribe(&hub, json!({"topic": topic}), &there);
        let incoming = next(&there);
        assert_eq!((text(&incoming).as_str(), incoming.attempt), ("x", attempt), "{}", side.name);
        ack(&incoming);
        hub.close(WAIT).unwrap();
    }
}

/// A subscription that is opened without its server begins when that is there.
#[test]
fn a_subscription_without_its_server_begins_later() {
    for side in [RABBITMQ, KAFKA] {
        let _alone = side.alone();
        let away = side.away("kill");
        let hub = side.hub(json!({"connection_timeout_ms": 1000}));
        let (topic, inbox) = (side.topic(), inbox(&hub));
        let _sub = subscribe(&hub, json!({"topic": topic, "kind": side.kind.name(), "group": "later"}), &inbox);
        assert!(side.publish(&hub, &topic, "k", "kept").unwrap().spooled);
        if side.kind == TopicKind::Task {
            let incoming = next(&inbox);
            assert_eq!(text(&incoming), "kept");
            ack(&incoming);
        }
        drop(away);
        until("the return", || is_up(&hub));
        forwarded(&hub);
        side.publish(&hub, &topic, "k", "sent").unwrap();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|text: &String| text != "sent") {
            let incoming = next_within(&inbox, Duration::from_secs(30)).unwrap();
            seen.push(text(&incoming));
            ack(&incoming);
        }
        let expected: &[&str] = if side.kind == TopicKind::Task { &["sent"] } else { &["kept", "sent"] };
        assert_eq!(seen, expected, "{}", side.name);
        hub.close(WAIT).unwrap();
    }
}
