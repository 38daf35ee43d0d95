//! Bad documents, B19 to B25 of the list of promises: each is refused with its path, nothing of a
//! value is repeated, and no document takes long or deep.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]

use std::time::{Duration, Instant};

use helixmq::config::{
    BrokerOptions, Config, DeadLetterQuery, DeclareOptions, InboxOptions, InitOptions, MessageDocument, Meta,
    PublisherOptions, ReplayOptions, SeekOptions, SubscribeOptions, TopicSelector,
};
use helixmq::error::{Error, Kind};
use serde_json::{json, Map, Value};

/// A value that must never come back.
const SECRET: &str = "hunter2";

fn refused(json: &str) -> Error {
    let shown: String = json.chars().take(80).collect();
    let error = Config::from_json(json).err().unwrap_or_else(|| panic!("accepted: {shown}"));
    assert_eq!(error.kind(), Kind::Config, "{shown}: {error}");
    assert!(!error.to_json().to_string().contains(SECRET), "{error}");
    error
}

fn place(error: &Error) -> (u64, u64) {
    let json = error.to_json();
    (json["line"].as_u64().unwrap_or(0), json["column"].as_u64().unwrap_or(0))
}

#[test]
fn b19_not_a_document() {
    for empty in ["", " ", "\n\t"] {
        assert!(refused(empty).message().contains("hmq_hub_open_env"));
    }
    let cases = [
        ("null", 1, 1, "found null"),
        ("[]", 1, 1, "found an array"),
        ("\"hunter2\"", 1, 1, "found a string"),
        ("1", 1, 1, "found a number"),
        ("hunter2", 1, 1, "not JSON"),
        ("{", 1, 2, "cut off"),
        ("{\"name\":\"hunter2", 1, 17, "cut off"),
        ("{\"name\":\"hunter2\"", 1, 18, "cut off"),
        ("{\"rabbitmq\":{\"password\":\"hunter2\"}", 1, 35, "cut off"),
        ("{} hunter2", 1, 4, "text follows"),
        ("{}{}", 1, 3, "text follows"),
        ("\u{feff}{}", 1, 1, "byte order mark"),
        ("{\n // hunter2\n}", 2, 2, "no comments"),
        ("{\n # hunter2\n}", 2, 2, "no comments"),
        ("{'name':'hunter2'}", 1, 2, "double quotes"),
        ("{\"name\":'hunter2'}", 1, 9, "double quotes"),
        ("{\"enabled\":true,}", 1, 17, "comma"),
        ("{\"enabled\" true}", 1, 12, "`:`"),
        ("{name:\"hunter2\"}", 1, 2, "key in double quotes"),
        ("{\"name\":\"hunter2\n\"}", 1, 17, "control character"),
        ("{\"name\":\"hunter2\\x\"}", 1, 17, "escape"),
        ("{\"name\":\"\\ud800\"}", 1, 10, "escape"),
        ("{\"enabled\":True}", 1, 12, "not JSON"),
        ("{\"enabled\":tru}", 1, 12, "not JSON"),
        ("{\"prefetch\":NaN}", 1, 13, "not JSON"),
    ];
    for (json, line, column, part) in cases {
        let error = refused(json);
        assert!(error.message().contains(part), "{json}: {error}");
        assert_eq!(place(&error), (line, column), "{json}: {error}");
    }
}

#[test]
fn b20_unknown_keys() {
    let cases = [
        ("{\"prefetc\":1}", "prefetc", "did you mean `prefetch`?"),
        ("{\"connection_timeout\":\"hunter2\"}", "connection_timeout", "did you mean `connection_timeout_ms`?"),
        ("{\"failover\":{\"synk\":\"each\"}}", "failover.synk", "did you mean `sync`?"),
        ("{\"rabbitmq\":{\"pasword\":\"hunter2\"}}", "rabbitmq.pasword", "did you mean `password`?"),
        ("{\"rabbitmq\":{\"tls\":{\"ca\":\"hunter2\"}}}", "rabbitmq.tls.ca", "allowed: ca_file"),
        ("{\"routes\":[{\"pattern\":\"a\"},{\"patern\":\"b\"}]}", "routes[1].patern", "did you mean `pattern`?"),
        ("{\"colour\":1}", "colour", "allowed: enabled"),
        ("{\"\":1}", "", "unknown key"),
        ("{\"a.b\\n\":1}", "[\"a.b\\\\n\"]", "unknown key"),
    ];
    for (json, path, part) in cases {
        let error = refused(json);
        assert!(error.message().contains(part), "{json}: {error}");
        assert_eq!(error.path(), Some(path), "{json}: {error}");
        assert!(place(&error).0 == 1, "{json}: {error}");
    }
    let long = format!("{{\"{}\":1}}", "k".repeat(100_000));
    assert!(refused(&long).message().len() < 2000);
}

#[test]
fn b21_keys_that_come_twice() {
    let cases = [
        ("{\"enabled\":true,\n\"enabled\":true}", "enabled", (2, 1)),
        ("{\"rabbitmq\":{\"password\":\"hunter2\",\"password\":\"hunter2\"}}", "rabbitmq.password", (1, 35)),
        ("{\"enabled\":true,\"en\\u0061bled\":true}", "enabled", (1, 17)),
        ("{\"kafka\":{\"options\":{\"a\":1,\"a\":2}}}", "kafka.options.a", (1, 28)),
    ];
    for (json, path, at) in cases {
        let error = refused(json);
        assert!(error.message().contains("twice"), "{json}: {error}");
        assert_eq!((error.path(), place(&error)), (Some(path), at), "{json}: {error}");
    }
}

/// The JSON types, each with a value that is not in the range of any option.
fn one_of_each_type() -> [(&'static str, Value); 6] {
    [
        ("string", json!(SECRET)),
        ("number", json!(1.5)),
        ("boolean", json!(true)),
        ("array", json!([[]])),
        ("object", json!({"hunter2": {}})),
        ("null", Value::Null),
    ]
}

/// One step into a document: a key, or the first item of a list.
#[derive(Clone)]
enum Step {
    Key(String),
    First,
}

struct Walker<'a> {
    definitions: &'a Map<String, Value>,
    /// What else an object needs so that it is refused for the one value only.
    read: &'a dyn Fn(&str) -> Result<(), Error>,
    checked: usize,
}

impl Walker<'_> {
    fn resolve<'b>(&'b self, schema: &'b Value) -> Vec<&'b Value> {
        if let Some(name) = schema["$ref"].as_str() {
            return self.resolve(&self.definitions[name.trim_start_matches("#/$defs/")]);
        }
        match schema["anyOf"].as_array() {
            Some(all) => all.iter().flat_map(|one| self.resolve(one)).collect(),
            None => vec![schema],
        }
    }

    /// Checks every key under `schema`, reached by `steps`; `around` puts a value there.
    fn walk(&mut self, schema: &Value, steps: &[Step], around: &dyn Fn(Value) -> Value) {
        let shapes: Vec<Value> = self.resolve(schema).into_iter().cloned().collect();
        for shape in &shapes {
            let required: Map<String, Value> = shape["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|name| Some((name.as_str()?.to_owned(), sample(&shape["properties"][name.as_str()?]))))
                .collect();
            for (name, property) in shape["properties"].as_object().into_iter().flatten() {
                let mut path = steps.to_vec();
                path.push(Step::Key(name.clone()));
                let with = |value: Value| {
                    let mut object = required.clone();
                    object.insert(name.clone(), value);
                    around(Value::Object(object))
                };
                self.check(property, &path, &with);
                self.walk(property, &path, &with);
            }
            if !shape["items"].is_null() {
                let mut path = steps.to_vec();
                path.push(Step::First);
                let with = |value: Value| around(json!([value]));
                self.check(&shape["items"], &path, &with);
                self.walk(&shape["items"], &path, &with);
            }
        }
    }

    fn check(&mut self, property: &Value, steps: &[Step], with: &dyn Fn(Value) -> Value) {
        let allowed = self.allowed(property);
        let expected = text(steps);
        for (name, value) in one_of_each_type() {
            if allowed.iter().any(|own| own == name) || allowed.is_empty() {
                continue;
            }
            let json = with(value).to_string();
            let error = (self.read)(&json).expect_err(&json);
            assert_eq!(error.kind(), Kind::Config, "{json}: {error}");
            assert_eq!(error.path(), Some(expected.as_str()), "{json}: {error}");
            assert!(error.message().contains("expected"), "{json}: {error}");
            assert!(!error.to_json().to_string().contains(SECRET), "{json}: {error}");
            self.checked += 1;
        }
        for shape in self.resolve(property).into_iter().cloned().collect::<Vec<_>>() {
            let beyond = [("minimum", -1), ("maximum", 1)];
            for (bound, step) in beyond {
                let Some(limit) = shape[bound].as_i64() else { continue };
                let json = with(json!(limit.saturating_add(step))).to_string();
                let Err(error) = (self.read)(&json) else {
                    assert_eq!(limit, i64::MAX, "accepted: {json}");
                    continue;
                };
                assert_eq!(error.path(), Some(expected.as_str()), "{json}: {error}");
                self.checked += 1;
            }
        }
    }

    /// The types that may stand there; none: any.
    fn allowed(&self, property: &Value) -> Vec<String> {
        let mut all = Vec::new();
        for shape in self.resolve(property) {
            match &shape["type"] {
                Value::Array(types) => all.extend(types.iter().filter_map(Value::as_str).map(str::to_owned)),
                Value::String(one) => all.push(one.clone()),
                _ => return Vec::new(),
            }
        }
        // A fraction, which stands for "number" here, is no integer.
        all
    }
}

/// Some good value.
fn sample(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("integer") => schema["minimum"].clone(),
        Some("string") => json!("sample"),
        _ => json!("earliest"),
    }
}

fn text(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::First => path + "[0]",
        Step::Key(key) if path.is_empty() => key.clone(),
        Step::Key(key) => path + "." + key,
    })
}

fn committed(file: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn b22_wrong_types_of_the_configuration() {
    let schema = committed("config.schema.json");
    let read = |json: &str| Config::from_json(json).map(drop);
    let mut walker = Walker { definitions: schema["$defs"].as_object().unwrap(), read: &read, checked: 0 };
    walker.walk(&schema, &[], &|value| value);
    assert!(walker.checked > 400, "only {} cases", walker.checked);
}

#[test]
fn b22_wrong_types_of_the_options() {
    let schema = committed("options.schema.json");
    let definitions = schema["$defs"].as_object().unwrap();
    type Read = fn(&str) -> Result<(), Error>;
    let documents: [(&str, Read); 12] = [
        ("SubscribeOptions", |json| SubscribeOptions::from_json(json).map(drop)),
        ("ReplayOptions", |json| ReplayOptions::from_json(json).map(drop)),
        ("PublisherOptions", |json| PublisherOptions::from_json(json).map(drop)),
        ("DeclareOptions", |json| DeclareOptions::from_json(json).map(drop)),
        ("TopicSelector", |json| TopicSelector::from_json(json).map(drop)),
        ("DeadLetterQuery", |json| DeadLetterQuery::from_json(json).map(drop)),
        ("InboxOptions", |json| InboxOptions::from_json(json).map(drop)),
        ("SeekOptions", |json| SeekOptions::from_json(json).map(drop)),
        ("InitOptions", |json| InitOptions::from_json(json).map(drop)),
        ("BrokerOptions", |json| BrokerOptions::from_json(json).map(drop)),
        ("MessageDocument", |json| MessageDocument::from_json(json).map(drop)),
        ("Meta", |json| Meta::from_json(json).map(drop)),
    ];
    for (name, read) in documents {
        let mut walker = Walker { definitions, read: &read, checked: 0 };
        walker.walk(&definitions[name], &[], &|value| value);
        assert!(walker.checked > 0 || name == "InitOptions", "{name}");
    }
}

#[test]
fn b23_numbers() {
    for number in ["-1", "0", "1e400", "-1e400", "18446744073709551616", "1.5", "\"10\"", "1e3", "32769", "-0.0"] {
        let error = refused(&format!("{{\"prefetch\":{number}}}"));
        assert!(matches!(error.path(), Some("prefetch")), "{number}: {error}");
        let said = ["out of range", "expected a whole number from 1 to 32768"];
        assert!(said.iter().any(|part| error.message().contains(part)), "{number}: {error}");
    }
    for number in ["010", "00", "+1", ".5", "1.", "0x10", "1_000", "--1", "1e", "Infinity"] {
        assert_eq!(place(&refused(&format!("{{\"prefetch\":{number}}}"))).0, 1, "{number}");
    }
    for factor in ["0.99", "-1", "101", "\"2\""] {
        assert_eq!(refused(&format!("{{\"retry\":{{\"factor\":{factor}}}}}")).path(), Some("retry.factor"));
    }
    assert_eq!(Config::from_json("{\"retry\":{\"factor\":1e0}}").unwrap().retry.factor, 1.0);
}

#[test]
fn b24_deep_and_large() {
    let timed = |json: String| {
        let start = Instant::now();
        let error = refused(&json);
        let took = start.elapsed();
        assert!(took < Duration::from_millis(50), "{took:?}: {error}");
        error
    };
    for depth in [33, 129, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            timed(format!("{{\"routes\":{value}}}"));
            timed(value);
            let options = format!("{{\"topic\":\"t\",\"payload\":{}1{}}}", open.repeat(depth), close.repeat(depth));
            let error = MessageDocument::from_json(&options).unwrap_err();
            assert!(error.message().contains("deeper than 32"), "{error}");
        }
    }
    // The document's own object is the first level, so 31 more fit.
    let deep = format!("{{\"topic\":\"t\",\"payload\":{}{}}}", "[".repeat(31), "]".repeat(31));
    MessageDocument::from_json(&deep).unwrap();

    let mib = 1024 * 1024;
    let padded = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    Config::from_json(&padded(mib)).unwrap();
    assert!(timed(padded(mib + 1)).message().contains("1048576"));

    let keys = |count: usize| {
        let entries: Vec<String> = (0..count).map(|key| format!("\"{key:x}\":1")).collect();
        format!("{{\"kafka\":{{\"options\":{{{}}}}}}}", entries.join(","))
    };
    timed(keys(1_000_000));
    // As many as fit: read in full, the last one twice.
    let many = keys(100_000).replacen("}}}", ",\"0\":2}}}", 1);
    assert!(many.len() < mib);
    let start = Instant::now();
    assert!(refused(&many).message().contains("twice"));
    // Unoptimised builds are slower by an order of magnitude.
    let limit = if cfg!(debug_assertions) { 1000 } else { 50 };
    assert!(start.elapsed() < Duration::from_millis(limit), "{:?}", start.elapsed());
}

#[test]
fn b25_contradictions() {
    let both = [
        (json!({"failover": {"sync": "each"}}), "failover.sync", "failover.dir"),
        (json!({"failover": {"sync": "none"}}), "failover.sync", "failover.dir"),
        (json!({"failover": {"sync_interval_ms": 5}}), "failover.sync_interval_ms", "failover.dir"),
        (json!({"failover": {"dir": "/x", "sync_interval_ms": 5}}), "failover.sync_interval_ms", "failover.sync"),
        (
            json!({"fallback_to_inmemory": false, "rabbitmq": {"host": "a"},
                   "routes": [{"pattern": "a", "on_outage": "local"}]}),
            "routes[0].on_outage",
            "fallback_to_inmemory",
        ),
        (json!({"fallback_to_inmemory": false}), "fallback_to_inmemory", "rabbitmq.host"),
        (json!({"rabbitmq": {"port": 5672}}), "rabbitmq.port", "rabbitmq.host"),
        (json!({"rabbitmq": {"password": SECRET}}), "rabbitmq.password", "rabbitmq.host"),
        (json!({"kafka": {"sasl_password": SECRET}}), "kafka.sasl_password", "kafka.brokers"),
        (json!({"rabbitmq": {"host": "a", "username": "u"}}), "rabbitmq.username", "rabbitmq.password"),
        (json!({"connect": "require"}), "connect", "rabbitmq.host"),
        (json!({"clock": "virtual", "rabbitmq": {"host": "a"}}), "clock", "rabbitmq.host"),
        (json!({"retry": {"delay_ms": 60_000}}), "retry.delay_max_ms", "retry.delay_ms"),
        (json!({"message_bytes_max": 100_000_000}), "message_bytes_max", "embedded.memory_bytes_max"),
        (json!({"failover": {"suspect_wait_ms": 5000}}), "failover.suspect_wait_ms", "failover.down_after_ms"),
        (json!({"failover": {"reconnect_min_ms": 6000}}), "failover.reconnect_min_ms", "failover.reconnect_max_ms"),
        (json!({"routes": [{"pattern": "a", "backend": "kafka"}]}), "routes[0].backend", "kafka.brokers"),
        (json!({"routes": [{"pattern": "a"}, {"pattern": "a"}]}), "routes[1].pattern", "routes[0].pattern"),
        (json!({"tls": {"required": true}, "rabbitmq": {"host": "a"}}), "tls.required", "rabbitmq.tls"),
        (json!({"tls": {"required": true}, "kafka": {"brokers": ["a:1"]}}), "tls.required", "kafka.security_protocol"),
        (
            json!({"kafka": {"brokers": ["a:1"], "security_protocol": "SASL_SSL"}}),
            "kafka.security_protocol",
            "kafka.sasl_mechanism",
        ),
        (
            json!({"kafka": {"brokers": ["a:1"], "sasl_username": "u"}}),
            "kafka.sasl_username",
            "kafka.security_protocol",
        ),
        (
            json!({"rabbitmq": {"host": "a", "tls": {"cert_file": "/c"}}}),
            "rabbitmq.tls.cert_file",
            "rabbitmq.tls.key_file",
        ),
    ];
    for (document, first, second) in both {
        let error = refused(&document.to_string());
        assert_eq!(error.path(), Some(first), "{document}: {error}");
        for path in [first, second] {
            assert!(error.message().contains(&format!("`{path}`")), "{document}: {error}");
        }
    }
}

#[test]
fn b25_addresses_and_patterns() {
    let one = [
        (json!({"rabbitmq": {"host": "a", "port": 0}}), "rabbitmq.port"),
        (json!({"rabbitmq": {"host": "amqp://a:b@c"}}), "rabbitmq.host"),
        (json!({"rabbitmq": {"host": "a:5672"}}), "rabbitmq.host"),
        (json!({"rabbitmq": {"nodes": ["a", "b:0"]}}), "rabbitmq.nodes[1]"),
        (json!({"kafka": {"brokers": ["a"]}}), "kafka.brokers[0]"),
        (json!({"kafka": {"brokers": ["a:65536"]}}), "kafka.brokers[0]"),
        (json!({"kafka": {"brokers": [""]}}), "kafka.brokers[0]"),
        (json!({"routes": [{"pattern": "a*"}]}), "routes[0].pattern"),
        (json!({"topics": [{"pattern": "a b"}]}), "topics[0].pattern"),
    ];
    for (document, path) in one {
        assert_eq!(refused(&document.to_string()).path(), Some(path), "{document}");
    }
    for good in [json!({"rabbitmq": {"host": "::1"}}), json!({"kafka": {"brokers": ["[::1]:9092", "a.b:1"]}})] {
        Config::from_json(&good.to_string()).unwrap();
    }
}

#[test]
fn b27_a_uri_is_no_host_and_is_not_echoed() {
    for uri in
        ["amqp://user:hunter2@host:5672/v", "amqps://hunter2@[::1]", "user:hunter2@host", "hunter2%00", "host/hunter2"]
    {
        for document in [json!({"rabbitmq": {"host": uri}}), json!({"rabbitmq": {"nodes": [uri]}})] {
            let error = refused(&document.to_string());
            assert!(error.path().unwrap().starts_with("rabbitmq."), "{error}");
            assert!(!error.to_json().to_string().contains("hunter2"), "{error}");
        }
    }
}
