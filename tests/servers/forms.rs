//! Messages as other programs see them: a plain AMQP client stands for those.

use helixmq::error::Kind;
use helixmq::message::HeaderBlock;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use super::*;

/// Another program on the same server.
struct Other {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    _connection: Connection,
}

impl Other {
    fn program() -> Self {
        Self::at("%2f")
    }

    fn at(vhost: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", port());
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        });
        Self { runtime, channel, _connection: connection }
    }

    fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let publish = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        self.runtime.block_on(async { drop(publish.await.unwrap().await.unwrap()) });
    }

    /// Takes the next message out of a queue.
    fn take(&self, queue: &str) -> (Vec<u8>, BasicProperties) {
        let mut message = None;
        until("a message in the queue", || {
            let get = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
            message = self.runtime.block_on(get).unwrap();
            message.is_some()
        });
        let delivery = message.unwrap().delivery;
        (delivery.data, delivery.properties)
    }

    fn declare(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.runtime.block_on(self.channel.queue_declare(queue.into(), options, arguments)).unwrap();
    }
}

fn routed(wire: &str) -> Value {
    json!({"name": "shop", "routes": [{"pattern": "tasks.#", "wire": wire}, {"pattern": "shared.#", "kind": "event", "wire": wire}]})
}

fn long(table: &FieldTable, name: &str) -> Option<String> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{other:?}"),
    }
}

pub fn headers(incoming: &Incoming) -> Vec<(String, String)> {
    let all = incoming.message.headers().into_iter();
    all.map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned())).collect()
}

pub fn block(headers: &[(&str, &str)]) -> HeaderBlock {
    let mut block = HeaderBlock::default();
    headers.iter().for_each(|(name, value)| block.push(name, value.as_bytes()));
    block
}

pub fn named(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn properties_of_the_protocol_are_headers_of_the_program() {
    let _alone = alone();
    let (hub, other, topic) = (hub(json!({})), Other::program(), topic());
    let block = block(&[("correlation-id", "c"), ("reply-to", "r"), ("content-type", "text/plain"), ("own", "x")]);
    let record = Record { headers: block.headers(), ..Record::new(b"x") };
    hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT).unwrap();
    let (body, properties) = other.take(&topic);
    assert_eq!(body, b"x");
    let text = |text: &str| Some(lapin::types::ShortString::from(text));
    assert_eq!(*properties.correlation_id(), text("c"));
    assert_eq!((properties.reply_to(), properties.content_type()), (&text("r"), &text("text/plain")));
    assert_eq!(long(properties.headers().as_ref().unwrap(), "own").as_deref(), Some("x"));

    other.publish("", &topic, b"y", BasicProperties::default().with_correlation_id("c2".into()));
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let incoming = next(&inbox);
    assert_eq!(
        (text(&String::from_utf8_lossy(incoming.message.payload())), headers(&incoming)),
        (text("y"), vec![named("correlation-id", "c2")])
    );
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_cloudevent_has_its_attributes_beside_the_payload() {
    let _alone = alone();
    let (hub, other, topic) = (hub(routed("cloudevents")), Other::program(), topic());
    let block = block(&[("ce_subject", "order 7"), ("content-type", "application/json"), ("own", "x")]);
    let record = Record { key: Some(b"k"), id: "1", type_: "paid", headers: block.headers(), ..Record::new(b"{}") };
    hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT).unwrap();
    let (body, properties) = other.take(&topic);
    assert_eq!((&body[..], properties.content_type().as_ref().unwrap().as_str()), (&b"{}"[..], "application/json"));
    let table = properties.headers().as_ref().unwrap();
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "1"),
        ("type", "paid"),
        ("source", "shop"),
        ("subject", "order 7"),
        ("partitionkey", "k"),
    ] {
        assert_eq!(long(table, &format!("cloudEvents:{name}")).as_deref(), Some(value), "{name}");
    }
    assert_eq!((long(table, "own").as_deref(), long(table, "ce_subject")), (Some("x"), None));

    let mut table = FieldTable::default();
    for (name, value) in [("id", "2"), ("type", "t"), ("source", "s"), ("time", "2026-01-02T03:04:05Z")] {
        table.insert(format!("cloudEvents_{name}").into(), AMQPValue::LongString(value.into()));
    }
    other.publish("", &topic, b"y", BasicProperties::default().with_headers(table));
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let incoming = next(&inbox);
    assert_eq!((incoming.message.id().as_str(), incoming.message.type_()), ("2", "t"));
    assert_eq!(incoming.message.timestamp_us(), 1_767_323_045_000_000);
    assert_eq!(headers(&incoming), [named("ce_source", "s")]);
    // By way of a delay it stays what it is.
    settle(incoming.token, Decision::Retry { delay: Some(Duration::from_secs(1)), reason: "later" }).unwrap();
    let incoming = next(&inbox);
    assert_eq!((incoming.attempt, incoming.message.id().as_str(), incoming.message.type_()), (2, "2", "t"));
    assert_eq!(headers(&incoming), [named("ce_source", "s")]);
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

/// What the Go package declares, publishes and reads.
#[test]
fn a_queue_is_shared_with_the_package_helixagent() {
    let _alone = alone();
    let (hub, other, topic) = (hub(routed("helixagent")), Other::program(), topic());
    let block = block(&[("trace-id", "t"), ("own", "x")]);
    let record = Record { type_: "mail", headers: block.headers(), ..Record::new(b"hi") };
    hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT).unwrap();
    let (body, properties) = other.take(&topic);
    let message: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&message["type"], &message["trace_id"], &message["headers"]["own"]),
        (&json!("mail"), &json!("t"), &json!("x"))
    );
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(long(properties.headers().as_ref().unwrap(), "trace-id").as_deref(), Some("t"));

    // The other package declares the same.
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("helixagent.dlq".into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString("dlq".into()));
    other
        .runtime
        .block_on(other.channel.exchange_declare(
            topic.as_str().into(),
            ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        ))
        .unwrap();
    other.declare(&topic, arguments);
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(86_400_000));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(100_000));
    other.declare("helixagent.dlq", arguments);

    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let body = br#"{"id":"m","type":"note","payload":"aGk=","timestamp":"2026-01-02T03:04:05Z","priority":8,"retry_count":1,"max_retries":3,"trace_id":"t2","expiration":"0001-01-01T00:00:00Z","delivery_mode":2,"state":"pending"}"#;
    other.publish(&topic, &topic, body, BasicProperties::default());
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.attempt, incoming.message.id().as_str()), ("hi", 2, "m"));
    assert_eq!(headers(&incoming), [named("trace-id", "t2")]);
    settle(incoming.token, Decision::Retry { delay: Some(Duration::from_secs(1)), reason: "later" }).unwrap();
    let incoming = next(&inbox);
    assert_eq!(
        (text(&incoming).as_str(), incoming.attempt, headers(&incoming)),
        ("hi", 3, vec![named("trace-id", "t2")])
    );
    ack(&incoming);

    // Nobody could handle it, so it is told of, once.
    other.publish(&topic, &topic, b"not JSON", BasicProperties::default());
    let dead = dead_letter(&hub, &topic);
    assert!(dead["reason"].as_str().unwrap().contains("helixagent"), "{dead}");
    assert_eq!(dead["payload_text"], "not JSON");
    hub.close(WAIT).unwrap();
}

#[test]
fn events_in_the_form_helixagent_reach_each_group() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("helixagent")), topic().replace("tasks", "shared"));
    let inboxes = ["a", "b"].map(|group| {
        let inbox = inbox(&hub);
        (subscribe(&hub, json!({"topic": topic, "group": group}), &inbox), inbox)
    });
    let record = Record { key: Some(b"k"), type_: "made", ..Record::new(b"hi") };
    hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    for (_, inbox) in &inboxes {
        let incoming = next(inbox);
        assert_eq!(
            (text(&incoming).as_str(), incoming.message.type_(), incoming.message.key()),
            ("hi", "made", Some(&b"k"[..]))
        );
        assert_eq!(headers(&incoming), [named("ce_source", "shop")]);
        ack(&incoming);
    }
    let options = SubscribeOptions::from_json(r#"{"topic": "shared.*", "kind": "event"}"#).unwrap();
    let refused = hub.subscribe_inbox(options, &inboxes[0].1, 0, WAIT).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    hub.close(WAIT).unwrap();
}

#[test]
fn a_passive_hub_makes_nothing_and_uses_what_is_there() {
    let _alone = alone();
    // Where no other hub has made anything.
    server(&["ctl", "add_vhost", "passive"]);
    server(&["ctl", "set_permissions", "-p", "passive", "guest", ".*", ".*", ".*"]);
    let hub = hub(json!({"rabbitmq": {"declare": "passive", "vhost": "passive"}}));
    let (other, topic) = (Other::at("passive"), topic());
    let missing = publish(&hub, &topic, "x").unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    let inbox = inbox(&hub);
    let options = || SubscribeOptions::from_json(&json!({"topic": topic}).to_string()).unwrap();
    assert_eq!(hub.subscribe_inbox(options(), &inbox, 0, WAIT).unwrap_err().kind(), Kind::NotFound);

    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(7));
    other.declare(&topic, arguments);
    until("the refusal to be forgotten", || publish(&hub, &topic, "x").is_ok());
    let _sub = hub.subscribe_inbox(options(), &inbox, 0, WAIT).unwrap();
    ack(&next(&inbox));
    hub.close(WAIT).unwrap();
    server(&["ctl", "delete_vhost", "passive"]);
}

fn helixagent(id: &str, type_: &str) -> Vec<u8> {
    json!({"id": id, "type": type_, "payload": "aGk="}).to_string().into_bytes()
}

/// Other programs keep to no limits of ours. A length that does not fit would shift what is behind it.
#[test]
fn fields_longer_than_any_of_ours_do_no_harm() {
    let _alone = alone();
    let other = Other::program();
    for wire in ["helixagent", "cloudevents"] {
        let (hub, topic, long) = (hub(routed(wire)), topic(), "T".repeat(300));
        let inbox = inbox(&hub);
        let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
        let send = |id: &str, type_: &str| {
            let mut table = FieldTable::default();
            for (name, value) in [("id", id), ("type", type_)] {
                table.insert(format!("cloudEvents:{name}").into(), AMQPValue::LongString(value.into()));
            }
            match wire {
                "helixagent" => other.publish("", &topic, &helixagent(id, type_), BasicProperties::default()),
                _ => other.publish("", &topic, b"hi", BasicProperties::default().with_headers(table)),
            }
        };
        send(&"é".repeat(150), "t");
        let incoming = next(&inbox);
        assert_eq!((text(&incoming), incoming.message.id().as_str().len()), ("hi".to_owned(), 62));
        ack(&incoming);
        send("1", &long);
        let reason = dead_letter(&hub, &topic)["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("a type of 300 bytes"), "{reason}");
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn a_body_of_helixagent_that_is_far_too_large_is_not_read() {
    let _alone = alone();
    let (hub, other, topic) = (hub(routed("helixagent")), Other::program(), topic());
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let numbers = "0,".repeat(2_000_000);
    let body = format!(r#"{{"id":"m","type":"t","payload":"aGk=","x":[{numbers}0]}}"#);
    other.publish("", &topic, body.as_bytes(), BasicProperties::default());
    other.publish("", &topic, &helixagent("small", "t"), BasicProperties::default());
    let incoming = next(&inbox);
    assert_eq!(incoming.message.id().as_str(), "small");
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

/// The time to live counts from the publish, whatever time the message has.
#[test]
fn an_old_message_with_a_time_to_live_arrives() {
    let _alone = alone();
    let (hub, topic) = (hub(routed("helixagent")), topic());
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let record = Record { timestamp_us: 1_700_000_000_000_000, ttl_ms: 60_000, ..Record::new(b"hi") };
    hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT).unwrap();
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.message.timestamp_us()), ("hi", 1_700_000_000_000_000));
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

/// What nobody can handle is not handed over when its dead letter cannot be written.
#[test]
fn a_message_that_cannot_be_buried_waits() {
    let _alone = alone();
    let (other, topic) = (Other::program(), topic());
    let own = format!("^({}|helixagent\\.dlq|amq\\.default)$", topic.replace('.', "\\."));
    let user = User::with("gravedigger", [&own, &own, &own]);
    let hub = user.hub(routed("helixagent"));
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    other.publish("", &topic, b"not JSON", BasicProperties::default());
    other.publish("", &topic, &helixagent("good", "t"), BasicProperties::default());
    let incoming = next(&inbox);
    assert_eq!(incoming.message.id().as_str(), "good");
    ack(&incoming);
    assert!(next_within(&inbox, Duration::from_millis(1500)).is_none());
    user.may([".*", ".*", ".*"]);
    dead_letter(&hub, &topic);
    hub.close(WAIT).unwrap();
}

#[test]
fn an_event_of_helixagent_may_have_any_routing_key() {
    let _alone = alone();
    let (hub, other, topic) = (hub(routed("helixagent")), Other::program(), topic().replace("tasks", "shared"));
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic, "group": "g"}), &inbox);
    other.publish(&topic, "user.created", &helixagent("1", "t"), BasicProperties::default());
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), &**incoming.message.topic()), ("hi", &*topic));
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

/// Names of attributes that we would refuse travel on as they came.
#[test]
fn a_cloudevent_of_others_can_be_delayed() {
    let _alone = alone();
    let (hub, other, topic) = (hub(routed("cloudevents")), Other::program(), topic());
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let mut table = FieldTable::default();
    for name in ["cloudEvents:averyveryverylongextension", "cloudEvents:source", "cloudEvents_source"] {
        table.insert(name.into(), AMQPValue::LongString("x".into()));
    }
    other.publish("", &topic, b"hi", BasicProperties::default().with_headers(table));
    let start = Instant::now();
    settle(next(&inbox).token, Decision::Retry { delay: Some(Duration::from_secs(2)), reason: "later" }).unwrap();
    let incoming = next(&inbox);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(headers(&incoming).contains(&named("ce_averyveryverylongextension", "x")), "{:?}", headers(&incoming));
    ack(&incoming);
    hub.close(WAIT).unwrap();
}
