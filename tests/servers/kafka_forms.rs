//! Messages as other programs see them: Kafka's own console programs, in Java, stand for those.

use std::io::Write as _;
use std::process::Stdio;

use helixmq::error::Kind;

use super::forms::{block, headers, named};
use super::kafka::{alone, event, hub, member, options, server, topic};
use super::*;

/// The messages of a topic from the oldest on, as headers, key and value.
fn read(topic: &str, count: usize) -> Vec<[String; 3]> {
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let count = count.to_string();
    let printed = server(&[
        "tool",
        class,
        "--topic",
        topic,
        "--from-beginning",
        "--max-messages",
        &count,
        "--timeout-ms",
        "30000",
        "--property",
        "print.headers=true",
        "--property",
        "print.key=true",
    ]);
    let parts = |line: &str| -> [String; 3] {
        let parts: Vec<String> = line.splitn(3, '\t').map(str::to_owned).collect();
        parts.try_into().unwrap_or_else(|parts| panic!("{parts:?}"))
    };
    printed.lines().map(parts).collect()
}

/// Publishes lines of headers, key and value.
fn write(topic: &str, lines: &[[&str; 3]]) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kafka.sh");
    let mut program = Command::new(path)
        .args(["tool", "org.apache.kafka.tools.ConsoleProducer", "--topic", topic])
        .args(["--property", "parse.headers=true", "--property", "parse.key=true"])
        .args(["--property", "null.marker=NULL"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{}", line.join("\t")).unwrap();
    }
    drop(input);
    assert!(program.wait().unwrap().success());
}

/// The value of a header in the list that the console prints.
fn printed<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix(':'))
}

fn routed(wire: &str) -> Value {
    json!({
        "name": "shop", "kafka": {"partitions": 1},
        "routes": [{"pattern": "events.#", "kind": "event", "wire": wire}],
    })
}

#[test]
fn a_native_message_is_what_any_program_can_read() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("native")), topic());
    let own = block(&[("own", "x"), ("content-type", "text/plain")]);
    let full = Record { key: Some(b"k"), id: "1", type_: "paid", headers: own.headers(), ..Record::new(b"value") };
    for record in [full, Record::new(b"bare")] {
        hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    }
    let [first, second]: [_; 2] = read(&topic, 2).try_into().unwrap();
    assert_eq!((first[1].as_str(), first[2].as_str()), ("k", "value"));
    for (name, value) in [("hmq-id", "1"), ("hmq-type", "paid"), ("own", "x"), ("content-type", "text/plain")] {
        assert_eq!(printed(&first[0], name), Some(value), "{name}: {first:?}");
    }
    assert_eq!((second[1].as_str(), second[2].as_str()), ("null", "bare"));
    assert!(second[0].starts_with("hmq-id:") && !second[0].contains(','), "{second:?}");

    write(&topic, &[["a:1,b:2", "key", "foreign"], ["NULL", "NULL", "without anything"]]);
    let inbox = inbox(&hub);
    let _sub = member(&hub, &topic, &inbox, json!({"start": {"offset": 2}}));
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.message.key()), ("foreign", Some(&b"key"[..])));
    assert_eq!(headers(&incoming), [named("a", "1"), named("b", "2")]);
    // Its place names it.
    assert_eq!(incoming.message.id().as_str(), format!("{topic}-0-2"));
    ack(&incoming);
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.message.key()), ("without anything", None));
    assert!(headers(&incoming).is_empty() && incoming.message.timestamp_us() > 0, "{incoming:?}");
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_plain_message_is_its_payload_and_nothing_else() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("plain")), topic());
    event(&hub, &topic, Some("k"), "value").unwrap();
    assert_eq!(read(&topic, 1), [["NO_HEADERS".to_owned(), "k".to_owned(), "value".to_owned()]]);
    let own = block(&[("own", "x")]);
    for record in [
        Record { headers: own.headers(), ..Record::new(b"x") },
        Record { type_: "t", ..Record::new(b"x") },
        Record { ttl_ms: 1000, ..Record::new(b"x") },
    ] {
        let refused = hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
        assert!(refused.message().contains("plain"), "{refused}");
    }
    write(&topic, &[["a:1", "key", "foreign"]]);
    let inbox = inbox(&hub);
    let _sub = member(&hub, &topic, &inbox, json!({}));
    for (value, key) in [("value", "k"), ("foreign", "key")] {
        let incoming = next(&inbox);
        assert_eq!((text(&incoming).as_str(), incoming.message.key()), (value, Some(key.as_bytes())));
        ack(&incoming);
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn a_cloudevent_has_its_attributes_in_headers() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("cloudevents")), topic());
    let own = block(&[("ce_subject", "order 7"), ("content-type", "application/json"), ("own", "x")]);
    let record = Record { key: Some(b"k"), id: "1", type_: "paid", headers: own.headers(), ..Record::new(b"{}") };
    hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    let [seen]: [_; 1] = read(&topic, 1).try_into().unwrap();
    assert_eq!((seen[1].as_str(), seen[2].as_str()), ("k", "{}"));
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_type", "paid"),
        ("ce_source", "shop"),
        ("ce_subject", "order 7"),
        ("content-type", "application/json"),
        ("own", "x"),
    ] {
        assert_eq!(printed(&seen[0], name), Some(value), "{name}: {seen:?}");
    }
    write(&topic, &[["ce_specversion:1.0,ce_id:2,ce_type:t,ce_source:s", "key", "foreign"]]);
    let inbox = inbox(&hub);
    let retry = json!({"delay_ms": 0});
    let _sub = member(&hub, &topic, &inbox, json!({"start": {"offset": 1}, "retry": retry}));
    for attempt in 1..=2 {
        let incoming = next(&inbox);
        assert_eq!((text(&incoming).as_str(), incoming.attempt), ("foreign", attempt));
        assert_eq!((incoming.message.id().as_str(), incoming.message.type_()), ("2", "t"));
        assert_eq!(headers(&incoming), [named("ce_source", "s")]);
        match attempt {
            1 => settle(incoming.token, Decision::Retry { delay: None, reason: "again" }).unwrap(),
            _ => ack(&incoming),
        }
    }
    hub.close(WAIT).unwrap();
}

/// What the Go package writes and reads.
#[test]
fn a_topic_is_shared_with_the_package_helixagent() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("helixagent")), topic());
    let own = block(&[("trace-id", "t"), ("own", "x")]);
    let record = Record { key: Some(b"k"), type_: "made", headers: own.headers(), ..Record::new(b"hi") };
    hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    let [seen]: [_; 1] = read(&topic, 1).try_into().unwrap();
    let message: Value = serde_json::from_str(&seen[2]).unwrap();
    assert_eq!((seen[1].as_str(), &message["type"], &message["trace_id"]), ("k", &json!("made"), &json!("t")));
    for (name, value) in [("type", "made"), ("own", "x"), ("trace-id", "t")] {
        assert_eq!(printed(&seen[0], name), Some(value), "{name}: {seen:?}");
    }

    let body = r#"{"id":"m","type":"note","payload":"aGk=","timestamp":"2026-01-02T03:04:05Z","retry_count":0,"max_retries":3,"trace_id":"t2"}"#;
    write(&topic, &[["type:note,id:m", "m", body], ["a:1", "k", "not JSON"], ["type:note,id:n", "n", body]]);
    let inbox = inbox(&hub);
    let _sub = member(&hub, &topic, &inbox, json!({}));
    let first = next(&inbox);
    assert_eq!((text(&first).as_str(), first.message.type_(), first.message.key()), ("hi", "made", Some(&b"k"[..])));
    ack(&first);
    for _ in 0..2 {
        let incoming = next(&inbox);
        assert_eq!((text(&incoming).as_str(), incoming.message.id().as_str()), ("hi", "m"));
        assert_eq!((incoming.message.type_(), incoming.message.timestamp_us()), ("note", 1_767_323_045_000_000));
        assert!(headers(&incoming).contains(&named("trace-id", "t2")), "{:?}", headers(&incoming));
        ack(&incoming);
    }
    // Nobody could handle it, so it is told of, once.
    let dead = dead_letter(&hub, &topic);
    assert!(dead["reason"].as_str().unwrap().contains("helixagent"), "{dead}");
    assert_eq!(dead["payload_text"], "not JSON");
    hub.close(WAIT).unwrap();
}

/// A message over the limit becomes one dead letter, and the others pass.
#[test]
fn a_message_over_the_limit_becomes_one_dead_letter() {
    let _alone = alone();
    let more = json!({"message_bytes_max": 1000, "kafka": {"partitions": 1}});
    let (large, small) = (hub(json!({"kafka": {"partitions": 1}})), hub(more));
    let (topic, inbox) = (topic(), inbox(&small));
    for length in [1000, 1001, 999] {
        event(&large, &topic, None, &"x".repeat(length)).unwrap();
    }
    let _sub = member(&small, &topic, &inbox, json!({}));
    for length in [1000, 999] {
        let incoming = next(&inbox);
        assert_eq!((incoming.message.payload().len(), incoming.redelivered), (length, false));
        ack(&incoming);
    }
    let reason = dead_letter(&large, &topic)["reason"].to_string();
    assert!(reason.contains("1001 bytes") && reason.contains("1000"), "{reason}");
    for hub in [large, small] {
        hub.close(WAIT).unwrap();
    }
}

/// One topic, two forms: each hub reads what the other wrote.
#[test]
fn hubs_of_different_forms_can_read_each_other() {
    let _alone = alone();
    let hubs = ["native", "plain", "cloudevents"].map(|wire| hub(routed(wire)));
    let topic = topic();
    for hub in &hubs {
        event(hub, &topic, Some("k"), "x").unwrap();
    }
    for (number, hub) in hubs.iter().enumerate() {
        let inbox = inbox(hub);
        let group = format!("{number}-of-{topic}");
        let sub = hub
            .subscribe_inbox(options(json!({"topic": topic, "kind": "event", "group": group})), &inbox, 0, WAIT)
            .unwrap();
        for _ in 0..3 {
            let incoming = next(&inbox);
            assert_eq!((text(&incoming).as_str(), incoming.message.key()), ("x", Some(&b"k"[..])));
            ack(&incoming);
        }
        sub.close(WAIT).unwrap();
    }
    hubs.iter().for_each(|hub| hub.close(WAIT).unwrap());
}
