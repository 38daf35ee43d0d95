//! The option documents, one test per call.

use super::*;

fn path_of<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error) => error.path().unwrap_or(error.kind().name()).to_owned(),
    }
}

#[test]
fn subscribe() {
    let least = SubscribeOptions::from_json(r#"{"topic":"tasks"}"#).unwrap();
    assert_eq!(least.group, GroupChoice::Hub);
    assert_eq!(least.dead_letter, DeadLetterChoice::Default);
    assert_eq!((least.credit, least.concurrency, least.prefetch), (Credit::Auto, 1, None));

    let full = SubscribeOptions::from_json(
        r##"{"topic":"user.#","kind":"event","group":null,"prefetch":100,"credit":"manual","concurrency":8,
            "ordered":"strict","retry":{"attempts":2,"delay_ms":60000},"dead_letter":"dead",
            "filter":{"key":"k","type":"t","headers":{"a":"b"}},"start":{"time":"1970-01-01T00:00:01Z"},
            "lease_ms":1500}"##,
    )
    .unwrap();
    assert_eq!(full.group, GroupChoice::Private);
    assert_eq!(full.ordered, Some(Ordered::Strict));
    assert_eq!(full.dead_letter, DeadLetterChoice::Topic("dead".into()));
    assert_eq!(full.start, Some(Start::Time(1_000_000)));
    assert_eq!(full.lease, Some(Duration::from_millis(1500)));
    let policy = full.retry.over(&RetryPolicy::default()).unwrap();
    assert_eq!((policy.attempts, policy.delay, policy.delay_max), {
        let minute = Duration::from_secs(60);
        (2, minute, minute)
    });

    for (json, path) in [
        ("{}", ""),
        (r#"{"topic":""}"#, "HMQ_E_NAME"),
        (r#"{"topic":"a b"}"#, "HMQ_E_NAME"),
        (r#"{"topic":"t","group":""}"#, "group"),
        (r#"{"topic":"t","group":1}"#, "group"),
        (r#"{"topic":"t","concurrency":65}"#, "concurrency"),
        (r#"{"topic":"t","ordered":null}"#, "accepted"),
        (r#"{"topic":"t","ordered":true}"#, "ordered"),
        (r#"{"topic":"t","retry":{"factor":0.5}}"#, "retry.factor"),
        (r#"{"topic":"t","dead_letter":[]}"#, "dead_letter"),
        (r#"{"topic":"t","dead_letter":"a*"}"#, "HMQ_E_NAME"),
        (r#"{"topic":"t","filter":{"header":{}}}"#, "filter.header"),
        (r#"{"topic":"t","start":"now"}"#, "start"),
        (r#"{"topic":"t","start":{}}"#, "start"),
        (r#"{"topic":"t","start":{"offset":1,"time":0}}"#, "start"),
        (r#"{"topic":"t","start":{"offset":-1}}"#, "start.offset"),
        (r#"{"topic":"t","start":{"tim":2}}"#, "start.tim"),
        (r#"{"topic":"t","start":["earliest"]}"#, "start"),
        (r#"{"topic":"t","lease_ms":0}"#, "lease_ms"),
    ] {
        assert_eq!(path_of(SubscribeOptions::from_json(json)), path, "{json}");
    }
}

#[test]
fn a_retry_that_contradicts_itself() {
    let retry = RetryOverride {
        delay: Some(Duration::from_secs(2)),
        delay_max: Some(Duration::from_secs(1)),
        ..RetryOverride::default()
    };
    assert_eq!(path_of(retry.over(&RetryPolicy::default())), "retry.delay_max_ms");
    let lower = RetryOverride { delay_max: Some(Duration::from_millis(10)), ..RetryOverride::default() };
    assert_eq!(lower.over(&RetryPolicy::default()).unwrap().delay, Duration::from_millis(10));
}

#[test]
fn replay() {
    let json =
        r#"{"topic":"user.*","from":1700000000000005,"to":"2024-01-01T00:00:00Z","dry_run":true,"rate_per_second":10}"#;
    let replay = ReplayOptions::from_json(json).unwrap();
    assert_eq!((replay.from, replay.to), (Some(1_700_000_000_000_005), Some(1_704_067_200_000_000)));
    for (json, path) in [
        (r#"{"topic":"t","from":1700000000000002,"to":1700000000000001}"#, "to"),
        (r#"{"topic":"t","from":1700000000}"#, "from"),
        (r#"{"topic":"t","to":1700000000000}"#, "to"),
        (r#"{"topic":"t","to":0,"follow":true}"#, "follow"),
        (r#"{"topic":"t","dry_run":true,"follow":true}"#, "follow"),
        (r#"{"topic":"t","from":"yesterday"}"#, "from"),
        (r#"{"topic":"t","rate_per_second":0}"#, "rate_per_second"),
    ] {
        assert_eq!(path_of(ReplayOptions::from_json(json)), path, "{json}");
    }
}

#[test]
fn publisher() {
    let json = r#"{"topic":"t","priority":10,"type":"x","headers":{"b":"2","a":"1"},"require":"memory","ttl_ms":5}"#;
    let options = PublisherOptions::from_json(json).unwrap();
    assert_eq!(options.headers, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    assert_eq!((options.ttl_ms, options.delay_ms, options.require), (5, 0, Some(Level::Memory)));
    assert_eq!(path_of(PublisherOptions::from_json(r#"{"topic":"a.*"}"#)), "HMQ_E_NAME");
    assert_eq!(path_of(PublisherOptions::from_json(r#"{"topic":"a","require":"none"}"#)), "require");
}

#[test]
fn declare_and_select() {
    let json = r#"{"name":"t","kind":"event","partitions":2,"overflow":"drop_oldest","age_max_ms":1000,"ttl_ms":null}"#;
    let spec = DeclareOptions::from_json(json).unwrap().spec();
    assert_eq!((spec.partitions, spec.drop_oldest, spec.ttl), (Some(2), Some(true), None));
    assert_eq!(spec.age_max, Some(Duration::from_secs(1)));
    assert_eq!(path_of(DeclareOptions::from_json(r#"{"name":"t","partitions":0}"#)), "partitions");
    assert_eq!(path_of(DeclareOptions::from_json(r#"{"kind":"task"}"#)), "");

    assert_eq!(TopicSelector::from_json("{}").unwrap().as_pattern(), "#");
    assert_eq!(TopicSelector::from_json(r#"{"pattern":"a.*"}"#).unwrap().as_pattern(), "a.*");
    assert_eq!(path_of(TopicSelector::from_json(r#"{"name":"a","pattern":"b"}"#)), "pattern");
}

#[test]
fn dead_letters() {
    let query = DeadLetterQuery::from_json("{}").unwrap();
    assert_eq!((query.action, query.limit, query.is_wide()), (DeadLetterAction::List, 100, true));
    let query = DeadLetterQuery::from_json(r#"{"action":"redrive","topic":"t","ids":["a"],"dry_run":true}"#).unwrap();
    assert!(query.dry_run && !query.is_wide());
    assert_eq!(path_of(DeadLetterQuery::from_json(r#"{"limit":10001}"#)), "limit");
    assert_eq!(path_of(DeadLetterQuery::from_json(r#"{"action":"drop"}"#)), "action");
}

#[test]
fn inbox_seek_broker_init() {
    let inbox = InboxOptions::from_json(r#"{"signal":"socket","spin_us":50,"fate":true}"#).unwrap();
    assert_eq!((inbox.capacity, inbox.signal, inbox.spin), (1024, Signal::Socket, Duration::from_micros(50)));
    assert!(inbox.fate && !inbox.state);
    assert_eq!(path_of(InboxOptions::from_json(r#"{"spin_us":1001}"#)), "spin_us");

    assert_eq!(SeekOptions::from_json(r#"{"to":"earliest"}"#).unwrap().to, Start::Earliest);
    assert_eq!(SeekOptions::from_json(r#"{"to":{"offset":7}}"#).unwrap().to, Start::Offset(7));
    assert_eq!(path_of(SeekOptions::from_json(r#"{"to":null}"#)), "to");

    assert_eq!(BrokerOptions::from_json("{}").unwrap().partitions, 4);
    let kafka = BrokerOptions::from_json(r#"{"backend":"kafka"}"#).unwrap_err();
    assert_eq!(kafka.kind(), Kind::Unsupported);
    InitOptions::from_json("{}").unwrap();
    assert_eq!(path_of(InitOptions::from_json(r#"{"a":1}"#)), "a");
}
