//! Defaults, the environment, secrets, and what this build does not have.

use super::*;

type Variables = [(&'static str, &'static str)];

fn from_env(variables: &Variables) -> Result<Config> {
    over("{}", variables)
}

fn over(json: &str, variables: &Variables) -> Result<Config> {
    let get = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
    let all = || variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let environment = Environment { get: &get, all: &all };
    match json {
        "{}" => Config::from_env_with(&get, &all),
        _ => Config::from_json_with(json, &environment),
    }
}

#[test]
fn nothing_set_is_the_embedded_broker_alone() {
    for config in [Config::from_json("{}").unwrap(), from_env(&[]).unwrap()] {
        assert!(config.enabled && config.fallback && config.rabbitmq.is_none() && config.kafka.is_none());
        assert_eq!((config.prefetch, config.publish_window, config.message_bytes_max), (32, 5000, 1 << 20));
        assert_eq!(config.connection_timeout, Duration::from_secs(10));
        assert_eq!(config.on_outage(None), OnOutage::Local);
        assert!(config.unsupported().is_none() && config.warnings.is_empty());
    }
}

#[test]
fn the_ten_variables() {
    let config = from_env(&[
        ("MESSAGING_ENABLED", "Yes"),
        ("MESSAGING_FALLBACK_INMEMORY", "off"),
        ("RABBITMQ_HOST", "rabbit"),
        ("RABBITMQ_PORT", "5673"),
        ("RABBITMQ_USER", "user"),
        ("RABBITMQ_PASSWORD", "12345"),
        ("RABBITMQ_VHOST", "/app"),
        ("KAFKA_BROKERS", "a:9092, b:9093"),
        ("KAFKA_CLIENT_ID", "client"),
        ("KAFKA_GROUP_ID", "group"),
    ])
    .unwrap();
    assert!(config.enabled && !config.fallback);
    let rabbitmq = config.rabbitmq.as_ref().unwrap();
    assert_eq!((rabbitmq.host.as_deref(), rabbitmq.port), (Some("rabbit"), Some(5673)));
    assert_eq!((rabbitmq.username.as_str(), rabbitmq.vhost.as_str()), ("user", "/app"));
    assert_eq!(rabbitmq.password.as_ref().unwrap().expose(), "12345");
    let kafka = config.kafka.as_ref().unwrap();
    assert_eq!(kafka.brokers, ["a:9092", "b:9093"]);
    assert_eq!((kafka.client_id.as_str(), kafka.group_id.as_deref()), ("client", Some("group")));
    assert_eq!(config.group_id, "group");
    assert_eq!(config.on_outage(None), OnOutage::Fail);
}

#[test]
fn the_named_few_and_every_other_option() {
    let config = from_env(&[
        ("MESSAGING_CONNECTION_TIMEOUT", "2m"),
        ("MESSAGING_DATA_DIR", "/var/lib/app"),
        ("RABBITMQ_HOST", "rabbit"),
        ("RABBITMQ_TLS", "true"),
        ("HELIXMQ__RABBITMQ__TLS__CA_FILE", "/ca.pem"),
        ("HELIXMQ__PREFETCH", "64"),
        ("HELIXMQ__NAME", "123"),
        ("HELIXMQ__RETRY__FACTOR", "1.5"),
        ("HELIXMQ__RETRY__DELAY_MAX_MS", "40s"),
        ("HELIXMQ__KAFKA__OPTIONS", r#"{"linger.ms":5}"#),
        ("HELIXMQ__ROUTES", r#"[{"pattern":"a.*","kind":"task"}]"#),
        ("HELIXMQ__KAFKA__BROKERS", ""),
    ])
    .unwrap();
    assert_eq!(config.connection_timeout, Duration::from_secs(120));
    assert_eq!(config.failover.dir.as_deref(), Some(std::path::Path::new("/var/lib/app")));
    assert_eq!(config.failover.sync, Some(SyncMode::Each));
    let rabbitmq = config.rabbitmq.as_ref().unwrap();
    assert_eq!(rabbitmq.port, Some(5671));
    assert!(rabbitmq.tls.as_ref().unwrap().ca_file.is_some());
    assert_eq!((config.prefetch, config.name.as_deref(), config.retry.factor), (64, Some("123"), 1.5));
    assert_eq!(config.retry.delay_max, Duration::from_secs(40));
    assert_eq!(config.routes.len(), 1);
}

#[test]
fn errors_of_the_environment_name_the_variable() {
    let cases: &[(&Variables, &[&str])] = &[
        (&[("MESSAGING_ENABLED", "maybe")], &["MESSAGING_ENABLED", "yes, no, on, off"]),
        (&[("RABBITMQ_PORT", "0")], &["RABBITMQ_PORT", "1 to 65535"]),
        (&[("RABBITMQ_PORT", "05672")], &["RABBITMQ_PORT"]),
        (&[("RABBITMQ_TLS", "perhaps")], &["RABBITMQ_TLS", "yes, no"]),
        (&[("RABBITMQ_PORT", "5672")], &["RABBITMQ_PORT", "RABBITMQ_HOST"]),
        (&[("RABBITMQ_PASSWORD", "hunter2")], &["RABBITMQ_PASSWORD", "RABBITMQ_HOST"]),
        (&[("KAFKA_SASL_PASSWORD", "hunter2")], &["KAFKA_SASL_PASSWORD", "KAFKA_BROKERS"]),
        (&[("MESSAGING_CONNECTION_TIMEOUT", "soon")], &["MESSAGING_CONNECTION_TIMEOUT", "milliseconds"]),
        (&[("HELIXMQ__FAILOVER__SINC", "each")], &["HELIXMQ__FAILOVER__SINC", "did you mean `sync`?"]),
        (&[("HELIXMQ__", "1")], &["HELIXMQ__"]),
        (&[("HELIXMQ__A____B", "1")], &["HELIXMQ__A____B"]),
        (&[("HELIXMQ__FAILOVER__SYNC", "each")], &["HELIXMQ__FAILOVER__SYNC", "MESSAGING_DATA_DIR"]),
        (&[("MESSAGING_FALLBACK_INMEMORY", "0")], &["MESSAGING_FALLBACK_INMEMORY", "RABBITMQ_HOST"]),
        (&[("RABBITMQ_HOST", "a"), ("HELIXMQ__RABBITMQ__HOST", "b")], &["RABBITMQ_HOST", "HELIXMQ__RABBITMQ__HOST"]),
        (&[("KAFKA_BROKERS", "a:9092,b")], &["kafka.brokers[1]"]),
    ];
    for (variables, parts) in cases {
        let error = from_env(variables).expect_err(parts[0]);
        assert_eq!(error.kind(), Kind::Config, "{error}");
        for part in *parts {
            assert!(error.message().contains(part), "{part}: {error}");
        }
        assert!(!error.to_json().to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn the_environment_over_a_document() {
    let json = r#"{"env":true,"prefetch":7,"rabbitmq":{"host":"a","password_env":"OTHER","username":"u"}}"#;
    let config = over(json, &[("RABBITMQ_HOST", "b"), ("RABBITMQ_PASSWORD", "p")]).unwrap();
    let rabbitmq = config.rabbitmq.unwrap();
    assert_eq!((config.prefetch, rabbitmq.host.as_deref()), (7, Some("b")));
    assert_eq!(rabbitmq.password.unwrap().expose(), "p");

    let config = over(r#"{"prefetch":7}"#, &[("HELIXMQ__PREFETCH", "9")]).unwrap();
    assert_eq!(config.prefetch, 7, "without `env` it is not looked at");
}

#[test]
fn secrets_come_from_one_place_and_are_not_shown() {
    let json = r#"{"rabbitmq":{"host":"a","username":"u","password_env":"PW"},
                   "kafka":{"brokers":["k:1"],"options":{"client.rack":"hunter2","linger.ms":5}}}"#;
    let config = over(json, &[("PW", "hunter2")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.rabbitmq.as_ref().unwrap().password.as_ref().unwrap().expose(), "hunter2");
    let shown = config.effective_json();
    assert_eq!(shown["rabbitmq"]["password"], "***");
    assert_eq!(shown["kafka"]["options"]["linger.ms"], "5");
    let elsewhere = r#"{"kafka":{"brokers":["k:1"],"options":{"ssl.key.password":"hunter2"}}}"#;
    let refused = over(elsewhere, &[]).unwrap_err();
    assert_eq!(refused.path(), Some("kafka.options.ssl.key.password"));
    assert!(!refused.to_json().to_string().contains("hunter2"));
    assert_eq!(over(json, &[]).unwrap_err().kind(), Kind::Secret);
    let twice = r#"{"rabbitmq":{"host":"a","password":"x","password_file":"/y"}}"#;
    assert!(over(twice, &[]).unwrap_err().message().contains("rabbitmq.password_file"));
    let missing = r#"{"rabbitmq":{"host":"a","password_file":"/nowhere/secret"}}"#;
    assert_eq!(over(missing, &[]).unwrap_err().kind(), Kind::Secret);
}

#[test]
fn a_login_by_certificate_needs_one_and_no_password() {
    let with = |more: &str| over(&format!(r#"{{"rabbitmq":{{"host":"a","auth_mechanism":"external"{more}}}}}"#), &[]);
    let tls = r#","tls":{"cert_file":"/c.pem","key_file":"/k.pem"}"#;
    let config = with(tls).unwrap();
    assert_eq!(config.rabbitmq.unwrap().auth_mechanism, AuthMechanism::External);
    for (more, paths) in [
        ("", ["rabbitmq.auth_mechanism", "rabbitmq.tls.cert_file"]),
        (r#","tls":{}"#, ["rabbitmq.auth_mechanism", "rabbitmq.tls.cert_file"]),
        (&format!(r#"{tls},"password":"hunter2""#), ["rabbitmq.password", "rabbitmq.auth_mechanism"]),
    ] {
        let refused = with(more).unwrap_err();
        assert!(paths.iter().all(|path| refused.message().contains(path)), "{refused}");
        assert!(!refused.message().contains("hunter2"));
    }
}

#[test]
fn what_is_in_force_is_a_document_again() {
    let json = r##"{"routes":[{"pattern":"#","wire":"native"}],"topics":[{"pattern":"a","partitions":2}]}"##;
    let config = Config::from_json(json).unwrap();
    let shown = config.effective_json();
    assert_eq!(shown["routes"][0]["on_outage"], "local");
    assert_eq!(shown["connection_timeout_ms"], 10_000);
    assert_eq!(shown["retry"]["attempts"], 4);
    let again = Config::from_json(&shown.to_string()).unwrap();
    assert_eq!(again.effective_json(), shown);
}

#[test]
fn parts_that_are_not_built_are_named() {
    let cases = [
        #[cfg(not(feature = "rabbitmq"))]
        (r#"{"rabbitmq":{"host":"a"}}"#, "rabbitmq"),
        #[cfg(not(feature = "kafka"))]
        (r#"{"kafka":{"brokers":["a:1"]}}"#, "kafka"),
        (r#"{"routes":[{"pattern":"a"},{"pattern":"b","wire":"plain"}]}"#, "routes[1].wire"),
    ];
    for (json, path) in cases {
        let error = Config::from_json(json).unwrap().unsupported().expect(json);
        assert_eq!((error.kind(), error.path()), (Kind::Unsupported, Some(path)));
    }
    let not_configured = Config::from_json(r#"{"rabbitmq":{"enabled":false,"host":"a"},"kafka":{}}"#).unwrap();
    assert!(not_configured.unsupported().is_none());
}

#[test]
fn disabled_needs_no_broker() {
    assert!(!Config::from_json(r#"{"enabled":false,"fallback_to_inmemory":false}"#).unwrap().enabled);
}

#[test]
fn risky_settings_are_warned_about() {
    let json = r#"{"rabbitmq":{"host":"a","tls":{"unsafe_skip_verify":true}}}"#;
    assert!(Config::from_json(json).unwrap().warnings[0].contains("rabbitmq.tls"));
    assert!(Config::from_json(r#"{"rabbitmq":{"vhost":"/a"}}"#).unwrap().warnings[0].contains("no host"));
}
