//! Who is let in at a Kafka server, who is not, what they may do, and that nobody untrusted is told a
//! password.

use helixmq::config::options::ReplayOptions;
use helixmq::error::{Fate, Kind};

use super::kafka::{alone, event, hub, member, options, port, selector, server, topic};
use super::secrets::{assert_no_secret, begin_to_see, print_seen, watch_hub, CANARY};
use super::tls::cause;
use super::*;

/// A file that the server's own certificates are beside.
fn certificate(name: &str) -> String {
    let version = std::env::var("HMQ_KAFKA_VERSION").unwrap_or_else(|_| "4.1.0".into());
    let infra = concat!(env!("CARGO_MANIFEST_DIR"), "/target/infra");
    let dir = std::env::var("HMQ_KAFKA_DIR").unwrap_or_else(|_| format!("{infra}/kafka-{version}"));
    format!("{dir}/tls/{name}")
}

/// The port of a protocol, which is behind the plain one.
fn port_of(protocol: &str) -> u16 {
    let names = ["plaintext", "ssl", "sasl_ssl", "sasl_plaintext"];
    port() + names.iter().position(|name| *name == protocol).unwrap() as u16
}

/// A section for a protocol, with a trusted authority where it encrypts.
fn section(protocol: &str, more: Value) -> Value {
    let mut section = json!({"brokers": [format!("127.0.0.1:{}", port_of(protocol))], "security_protocol": protocol});
    if protocol.ends_with("ssl") {
        section["tls"] = json!({"ca_file": certificate("ca.pem")});
    }
    section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    section
}

fn login(mechanism: &str, user: &str, password: &str) -> Value {
    json!({"sasl_mechanism": mechanism, "sasl_username": user, "sasl_password": password})
}

fn with(section: Value) -> Hub {
    hub(json!({"connection_timeout_ms": 3000, "kafka": section}))
}

/// Publishes and takes one event.
fn works(hub: &Hub) {
    let (topic, inbox) = (topic(), inbox(hub));
    event(hub, &topic, None, "x").unwrap();
    let _sub = member(hub, &topic, &inbox, json!({}));
    ack(&next(&inbox));
}

#[test]
fn everybody_who_may_is_let_in() {
    let _alone = alone();
    for section in [
        section("ssl", json!({})),
        section("sasl_ssl", login("PLAIN", "alice", "alice-secret")),
        section("sasl_ssl", login("SCRAM-SHA-256", "bob", "bob-secret")),
        section("sasl_ssl", login("SCRAM-SHA-512", "bob", "bob-secret")),
        section("sasl_plaintext", login("SCRAM-SHA-256", "bob", "bob-secret")),
        section("sasl_plaintext", login("SCRAM-SHA-512", "bob", "bob-secret")),
    ] {
        let hub = with(section.clone());
        assert_eq!(state(&hub), "up", "{section}: {}", cause(&hub));
        works(&hub);
        hub.close(WAIT).unwrap();
    }
}

/// Tokens as the server's trial of them takes: nobody has signed them.
struct Tokens {
    asked: std::sync::atomic::AtomicUsize,
}

impl helixmq::broker::TokenProvider for Tokens {
    fn token(&self) -> helixmq::error::Result<(String, i64)> {
        use base64::Engine as _;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let text = |json: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string());
        let claims = json!({"sub": "alice", "iat": now, "exp": now + 600});
        let token = format!("{}.{}.", text(json!({"alg": "none"})), text(claims));
        Ok((token, i64::try_from((now + 600) * 1000).unwrap()))
    }
}

/// Each client asks: the publisher, a member, a replay, and who asks for the lag of a group.
#[test]
fn a_login_by_token_lets_everybody_in() {
    let _alone = alone();
    let tokens = std::sync::Arc::new(Tokens { asked: Default::default() });
    helixmq::hub::set_token_provider("test-tokens", std::sync::Arc::<Tokens>::clone(&tokens)).unwrap();
    let own = json!({"sasl_mechanism": "OAUTHBEARER", "token_provider": "test-tokens"});
    let hub = with(section("sasl_plaintext", own));
    assert_eq!(state(&hub), "up", "{}", cause(&hub));
    let (topic, inbox, past) = (topic(), inbox(&hub), inbox(&hub));
    event(&hub, &topic, None, "x").unwrap();
    let _sub = member(&hub, &topic, &inbox, json!({}));
    ack(&next(&inbox));
    let replay = ReplayOptions::from_json(&json!({"topic": topic}).to_string()).unwrap();
    let _replay = hub.replay_inbox(replay, &past, 0, WAIT).unwrap();
    assert_eq!(text(&next(&past)), "x");
    until("no lag", || hub.describe(&selector(&topic), WAIT).unwrap()[0]["lag"][format!("group-of-{topic}")] == 0);
    assert!(tokens.asked.load(Ordering::SeqCst) >= 4);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_client_shows_its_certificate() {
    let _alone = alone();
    for (key, password) in [("client.key", None), ("client-locked.key", Some("open sesame"))] {
        let tls = json!({
            "ca_file": certificate("ca.pem"), "cert_file": certificate("client.pem"), "key_file": certificate(key),
            "key_password": password,
        });
        let hub = with(section("ssl", json!({"tls": tls})));
        works(&hub);
        hub.close(WAIT).unwrap();
    }
}

/// F48, F49: an authority that is not known, none at all, and a certificate of another name. Nobody is told
/// a password.
#[test]
fn f48_f49_a_server_that_is_not_trusted_is_refused() {
    let _alone = alone();
    for tls in [json!({"ca_file": certificate("other-ca.pem")}), json!({})] {
        for protocol in ["ssl", "sasl_ssl"] {
            let mut own = section(protocol, json!({}));
            if protocol == "sasl_ssl" {
                own.as_object_mut()
                    .unwrap()
                    .extend(login("PLAIN", "alice", "alice-secret").as_object().unwrap().clone());
            }
            own["tls"] = tls.clone();
            let hub = with(own);
            assert_eq!(event(&hub, "events.server-x", None, "x").unwrap_err().kind(), Kind::BackendDown, "{tls}");
            let told = cause(&hub);
            assert!(told.contains("HMQ_E_TLS") && told.contains("certificate"), "{tls} {protocol}: {told}");
            hub.close(WAIT).unwrap();
        }
    }
    // The certificate is for 127.0.0.1 and localhost; this is another name of the same place.
    let mut own = section("ssl", json!({}));
    own["brokers"] = json!([format!("127.1:{}", port_of("ssl"))]);
    let hub = with(own);
    assert_eq!(event(&hub, "events.server-x", None, "x").unwrap_err().kind(), Kind::BackendDown);
    let told = cause(&hub);
    assert!(told.contains("HMQ_E_TLS") && told.contains("certificate"), "{told}");
    hub.close(WAIT).unwrap();
}

/// A name of its own for the certificate is nothing that can be checked here, so it is refused.
#[test]
fn a_server_name_is_refused_rather_than_not_checked() {
    let tls = json!({"ca_file": certificate("ca.pem"), "server_name": "kafka.example"});
    let own = json!({"kafka": {"brokers": ["127.0.0.1:9393"], "security_protocol": "ssl", "tls": tls}});
    let refused = Config::from_json(&own.to_string()).unwrap_err();
    assert_eq!((refused.kind(), refused.path()), (Kind::Unsupported, Some("kafka.tls.server_name")), "{refused}");
}

/// A port that does not speak TLS, a TLS port that is spoken to in the clear, a login where there is none.
#[test]
fn encryption_or_a_login_on_one_side_only_is_told() {
    let _alone = alone();
    for (protocol, at) in
        [("ssl", "plaintext"), ("plaintext", "ssl"), ("plaintext", "sasl_ssl"), ("ssl", "sasl_plaintext")]
    {
        let mut own = section(protocol, json!({}));
        own["brokers"] = json!([format!("127.0.0.1:{}", port_of(at))]);
        let hub = hub(json!({"connection_timeout_ms": 1500, "kafka": own}));
        assert_eq!(
            event(&hub, "events.server-x", None, "x").unwrap_err().kind(),
            Kind::BackendDown,
            "{protocol} at {at}"
        );
        hub.close(WAIT).unwrap();
    }
}

/// F50: a wrong password is told, is not in the text, is not tried in a tight loop, and nothing weaker is
/// tried in its place.
#[test]
fn f50_a_wrong_password_is_refused_and_not_repeated_at_once() {
    let _alone = alone();
    for (mechanism, user) in [
        ("PLAIN", "alice"),
        ("PLAIN", "nobody"),
        ("SCRAM-SHA-256", "bob"),
        ("SCRAM-SHA-512", "bob"),
        ("SCRAM-SHA-512", "nobody"),
    ] {
        let hub = with(section("sasl_ssl", login(mechanism, user, CANARY)));
        until("the refusal", || state(&hub) == "refused");
        let failed = event(&hub, "events.server-x", None, "x").unwrap_err();
        assert_eq!((failed.kind(), failed.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "{failed}");
        let last = own(&hub)["last_error"].clone();
        assert_eq!(last["name"], "HMQ_E_REFUSED", "{mechanism} {user}: {last}");
        let told = format!("{failed} {failed:?} {}", hub.health());
        assert_no_secret(&told);
        let before = attempts(&hub);
        pass(Duration::from_millis(1500));
        assert_eq!(attempts(&hub), before);
        hub.close(WAIT).unwrap();
    }
    // Whoever requires a server is told at once.
    let config = json!({"connect": "require", "kafka": section("sasl_ssl", login("PLAIN", "alice", CANARY))});
    let start = Instant::now();
    let refused = Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused, "{refused}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// No program supplies a token here.
#[test]
fn f50_a_login_by_token_without_a_token_lets_nobody_in() {
    let _alone = lock();
    for more in [json!({}), json!({"token_provider": "nobody set this"})] {
        let mut own = section("sasl_ssl", json!({"sasl_mechanism": "OAUTHBEARER"}));
        own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let read = Config::from_json(&json!({"connection_timeout_ms": 2000, "kafka": own}).to_string());
        let refused = read.and_then(|config| Hub::open(config, WAIT)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{refused}");
        assert!(refused.message().contains("token_provider"), "{refused}");
    }
}

#[test]
fn a_password_in_the_clear_is_refused_before_anything_is_sent() {
    let login = login("PLAIN", "alice", CANARY);
    let mut kafka = json!({"brokers": ["127.0.0.1:9395"], "security_protocol": "sasl_plaintext"});
    kafka.as_object_mut().unwrap().extend(login.as_object().unwrap().clone());
    let read = Config::from_json(&json!({"kafka": kafka}).to_string());
    let refused = read.and_then(|config| Hub::open(config, WAIT)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Config, "{refused}");
    assert!(refused.message().contains("PLAIN"), "{refused}");
    assert_no_secret(&format!("{refused:?}"));
}

/// Rights on a topic, taken from all but the three who have every right.
struct Denied(String);

impl Denied {
    fn topic(topic: &str) -> Self {
        let deny = ["--add", "--deny-principal", "User:mallory", "--operation", "All", "--topic", topic];
        server(&[&["tool", "AclCommand"][..], &deny].concat());
        Self(topic.to_owned())
    }
}

impl Drop for Denied {
    fn drop(&mut self) {
        server(&["tool", "AclCommand", "--remove", "--force", "--topic", &self.0]);
    }
}

/// F51: a topic that is denied fails alone.
#[test]
fn f51_a_topic_that_is_denied_fails_alone() {
    let _alone = alone();
    let hub = with(section("sasl_ssl", login("PLAIN", "mallory", "mallory-secret")));
    let (topic, forbidden) = (topic(), topic().replace("server", "alien"));
    let (inbox, results) = (inbox(&hub), inbox(&hub));
    let ours = super::kafka::hub(json!({}));
    event(&ours, &forbidden, None, "ours").unwrap();
    let _denied = Denied::topic(&forbidden);
    let _sub = member(&hub, &topic, &inbox, json!({"prefetch": 1000}));
    event(&hub, &topic, None, "first").unwrap();
    ack(&next(&inbox));
    let refused = event(&hub, &forbidden, None, "x").unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::Refused, Some(Fate::Refused)), "{refused}");
    assert!(refused.to_json().to_string().contains(&forbidden), "{refused:?}");
    let asked = options(json!({"topic": forbidden, "kind": "event", "group": forbidden}));
    let refused = hub.subscribe_inbox(asked, &inbox, 0, WAIT).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused, "{refused}");

    let (allowed, denied) = (publisher(&hub, &topic), publisher(&hub, &forbidden));
    let mut told_at_once = 0;
    for tag in 0..200 {
        let publisher = if tag % 50 == 7 { &denied } else { &allowed };
        match publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None) {
            (1, None) => {}
            // A refusal that is known is told by the call.
            (0, Some(refused)) if tag % 50 == 7 && refused.kind() == Kind::Refused => told_at_once += 1,
            other => panic!("{tag}: {other:?}"),
        }
    }
    for (tag, result) in super::limits::outcomes(&results, 200 - told_at_once) {
        let wanted = if tag % 50 == 7 { Err(Kind::Refused) } else { Ok(()) };
        assert_eq!(result.map(drop).map_err(|failed| failed.kind()), wanted, "{tag}");
    }
    for _ in 0..196 {
        ack(&next(&inbox));
    }
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    // Nothing of it arrived.
    let other = super::inbox(&ours);
    let _ours = member(&ours, &forbidden, &other, json!({}));
    assert_eq!(text(&next(&other)), "ours");
    assert!(next_within(&other, Duration::from_millis(500)).is_none());
    for hub in [hub, ours] {
        hub.close(WAIT).unwrap();
    }
}

/// B26: what would load code or run a program is forbidden, and what is not known to be harmless is not
/// taken; in any case and spacing.
#[test]
fn b26_options_of_the_client_library_are_those_of_a_list() {
    let _alone = alone();
    let open = |name: &str, value: Value| {
        let mut kafka = json!({"brokers": [format!("127.0.0.1:{}", port())], "options": {}});
        kafka["options"][name] = value;
        let config = json!({"connection_timeout_ms": 3000, "kafka": kafka}).to_string();
        Config::from_json(&config).and_then(|config| Hub::open(config, WAIT))
    };
    for name in [
        "plugin.library.paths",
        " plugin.library.paths ",
        "PLUGIN.Library.paths",
        "ssl.engine.location",
        "ssl.providers",
        "sasl.kerberos.kinit.cmd",
        "interceptors",
    ] {
        let refused = open(name, json!("/tmp/x.so")).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{name}: {refused}");
        assert!(refused.message().contains("forbidden"), "{name}: {refused}");
    }
    for name in [
        "bootstrap.servers",
        "metadata.broker.list",
        "sasl.password",
        "sasl.oauthbearer.token.endpoint.url",
        "ssl.ca.location",
        "enable.ssl.certificate.verification",
        "enable.auto.offset.store",
        "enable.idempotence",
        "auto.offset.reset",
        "acks",
        "debug",
        "linger.ms ",
        "Linger.ms",
        "no.such.option",
        "",
    ] {
        let refused = open(name, json!(CANARY)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{name}: {refused}");
        assert_no_secret(&format!("{refused:?}"));
    }
    // A value that the client library does not take is found out when the hub is opened.
    let refused = open("linger.ms", json!("soon")).unwrap_err();
    assert_eq!(refused.kind(), Kind::Config, "{refused}");
    assert!(refused.message().contains("linger.ms"), "{refused}");
    for (name, value) in [("linger.ms", json!(5)), ("compression.type", json!("zstd")), ("client.rack", json!("a"))] {
        match open(name, value) {
            Ok(hub) => {
                works(&hub);
                hub.close(WAIT).unwrap();
            }
            // A codec may be left out of the build, and then it is said.
            Err(refused) => assert!(name == "compression.type" && refused.kind() == Kind::Config, "{name}: {refused}"),
        }
    }
}

/// Nothing but variables.
#[test]
fn the_environment_alone_configures_a_login() {
    let _alone = alone();
    let port = port_of("sasl_plaintext");
    let get = |name: &str| {
        let value = match name {
            "KAFKA_BROKERS" => format!("127.0.0.1:{port}"),
            "KAFKA_SECURITY_PROTOCOL" => "SASL_PLAINTEXT".into(),
            "KAFKA_SASL_MECHANISM" => "SCRAM-SHA-512".into(),
            "KAFKA_SASL_USERNAME" => "bob".into(),
            "KAFKA_SASL_PASSWORD" => "bob-secret".into(),
            "KAFKA_CLIENT_ID" => "from-the-environment".into(),
            "KAFKA_GROUP_ID" => "group-from-the-environment".into(),
            _ => return None,
        };
        Some(value)
    };
    let none = Vec::<(String, String)>::new;
    let hub = Hub::open(Config::from_env_with(&get, &none).unwrap(), WAIT).unwrap();
    let (topic, inbox) = (topic(), inbox(&hub));
    event(&hub, &topic, None, "x").unwrap();
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    ack(&next(&inbox));
    let group = "group-from-the-environment";
    until("the group", || hub.describe(&selector(&topic), WAIT).unwrap()[0]["lag"][group] == 0);
    hub.close(WAIT).unwrap();
}

/// B29: told when the hub is opened, with the path.
#[test]
fn b29_certificates_and_keys_that_cannot_be_used() {
    let _alone = alone();
    let (ca, own) = (certificate("ca.pem"), certificate("client.pem"));
    for (tls, path) in [
        (json!({"ca_file": "/nowhere/ca.pem"}), "kafka.tls.ca_file"),
        (json!({"ca_file": certificate("client.key")}), "kafka.tls.ca_file"),
        (json!({"ca_file": ca, "cert_file": certificate("client.key"), "key_file": own}), "kafka.tls.cert_file"),
        (json!({"ca_file": ca, "cert_file": own, "key_file": own}), "kafka.tls.key_file"),
        (json!({"ca_file": ca, "cert_file": own, "key_file": certificate("server.key")}), "kafka.tls.key_file"),
        (json!({"ca_file": ca, "cert_file": own, "key_file": certificate("client-locked.key")}), "kafka.tls.key_file"),
    ] {
        let config = json!({"kafka": section("ssl", json!({"tls": tls}))});
        let refused = Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap_err();
        assert_eq!((refused.kind(), refused.path()), (Kind::Tls, Some(path)), "{refused}");
    }
}

/// F55: no secret is in anything that can be seen.
#[test]
fn f55_no_secret_of_kafka_is_in_anything_that_can_be_seen() {
    let _alone = alone();
    let user = format!("canary-{}", std::process::id());
    // One mechanism in one call, as the server wants it.
    let change = |what: &str, mechanism: &str, password: &str| {
        let setting = format!("{mechanism}{password}");
        let class = "kafka.admin.ConfigCommand";
        let entity = ["--entity-type", "users", "--entity-name", user.as_str()];
        server(&[&["tool", class, "--alter", what, setting.as_str()][..], &entity].concat());
    };
    let mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
    mechanisms.iter().for_each(|mechanism| change("--add-config", mechanism, &format!("=[password={CANARY}]")));
    let told = child("kafka_login::f55_child", 1000, &[("HMQ_TEST_USER", &user)]);
    mechanisms.iter().for_each(|mechanism| change("--delete-config", mechanism, ""));
    assert!(told.contains("log ") && told.contains("HMQ_E_REFUSED") && told.contains("HMQ_E_TLS"), "{told}");
    assert!(told.len() > 20_000, "{} bytes", told.len());
    assert_no_secret(&told);
}

#[test]
#[ignore = "a process of its own, for f55: it takes all traces"]
fn f55_child() {
    begin_to_see();
    let file = std::env::temp_dir().join(format!("hmq-kafka-secret-{}", std::process::id()));
    std::fs::write(&file, CANARY).unwrap();
    let user = std::env::var("HMQ_TEST_USER").unwrap_or_else(|_| "nobody".into());
    let routes = super::kafka::tasks_by_kafka();
    let watch = |kafka: Value| {
        watch_hub(json!({"connection_timeout_ms": 1000, "routes": routes, "kafka": kafka}), |_| {});
    };
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for protocol in ["sasl_ssl", "sasl_plaintext"] {
            watch(section(protocol, login(mechanism, &user, CANARY)));
            watch(section(protocol, login(mechanism, "nobody", CANARY)));
        }
    }
    watch(section("sasl_ssl", login("PLAIN", &user, CANARY)));
    watch(section("sasl_plaintext", login("PLAIN", &user, CANARY)));
    // A login that the server has never heard of, and one at a port without logins.
    watch(section("sasl_ssl", login("KERBEROS", &user, CANARY)));
    let mut elsewhere = section("sasl_ssl", login("PLAIN", &user, CANARY));
    elsewhere["brokers"] = json!([format!("127.0.0.1:{}", port_of("ssl"))]);
    watch(elsewhere);
    for (name, value) in [
        ("sasl_password_file", json!(file)),
        ("sasl_password_file", json!(format!("/nowhere/{user}"))),
        ("sasl_password_env", json!("HMQ_TEST_NO_SUCH_VARIABLE")),
    ] {
        let mut own = section("sasl_ssl", json!({"sasl_mechanism": "PLAIN", "sasl_username": user}));
        own[name] = value;
        watch(own);
    }
    // A password in place of what is not one.
    watch(json!({"brokers": [format!("{user}:{CANARY}@127.0.0.1:9392")]}));
    watch(section("sasl_ssl", json!({"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": [CANARY]})));
    watch(section("plaintext", json!({"options": {"sasl.password": CANARY}})));
    watch(section("plaintext", json!({"options": {"linger.ms": CANARY}})));
    for tls in [
        json!({"ca_file": certificate("other-ca.pem")}),
        json!({"ca_file": certificate("ca.pem"), "cert_file": certificate("client.pem"),
            "key_file": certificate("client-locked.key"), "key_password": CANARY}),
    ] {
        let mut own = section("sasl_ssl", login("SCRAM-SHA-256", &user, CANARY));
        own["tls"] = tls;
        watch(own);
    }
    let mut dead = section("sasl_ssl", login("PLAIN", &user, CANARY));
    dead["brokers"] = json!(["127.0.0.1:1"]);
    watch(dead);
    let _ = std::fs::remove_file(&file);
    print_seen();
}
