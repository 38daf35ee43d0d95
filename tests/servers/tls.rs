//! Encryption: who is trusted, who is not, and that nobody untrusted is told a password.

use helixmq::error::Kind;

use super::proxy::Proxy;
use super::*;

fn tls_port() -> u16 {
    port() + 1
}

pub fn certificate(name: &str) -> String {
    let dir = std::env::var("HMQ_RABBITMQ_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target/infra/rabbitmq").into());
    format!("{dir}/tls/{name}")
}

fn with_tls(tls: Value) -> Hub {
    hub_at(tls_port(), json!({"connection_timeout_ms": 3000, "rabbitmq": {"tls": tls}}))
}

pub fn cause(hub: &Hub) -> String {
    hub.health()["backends"].to_string()
}

#[test]
fn a_server_that_is_trusted_is_talked_to() {
    let _alone = alone();
    let hub = with_tls(json!({"ca_file": certificate("ca.pem")}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "secret").unwrap();
    ack(&next(&inbox));
    hub.close(WAIT).unwrap();
}

#[test]
fn a_client_shows_its_certificate() {
    let _alone = alone();
    for (key, password) in [("client.key", None), ("client-locked.key", Some("open sesame"))] {
        let hub = with_tls(json!({
            "ca_file": certificate("ca.pem"), "cert_file": certificate("client.pem"), "key_file": certificate(key),
            "key_password": password,
        }));
        publish(&hub, &topic(), "x").unwrap();
        hub.close(WAIT).unwrap();
    }
}

/// EXTERNAL: who it is, its certificate says.
#[test]
fn a_client_logs_in_by_its_certificate() {
    let _alone = alone();
    let external = || {
        let tls = json!({
            "ca_file": certificate("ca.pem"), "cert_file": certificate("client.pem"), "key_file": certificate("client.key"),
        });
        let more = json!({"connection_timeout_ms": 3000, "rabbitmq": {"tls": tls, "auth_mechanism": "EXTERNAL"}});
        hub_at(tls_port(), more)
    };
    let hub = external();
    until("the refusal", || state(&hub) == "refused");
    hub.close(WAIT).unwrap();
    server(&["ctl", "add_user", "client", "not told to the client"]);
    server(&["ctl", "set_permissions", "client", ".*", ".*", ".*"]);
    let hub = external();
    let sent = publish(&hub, &topic(), "x");
    server(&["ctl", "delete_user", "client"]);
    sent.unwrap();
    hub.close(WAIT).unwrap();
}

/// F48, F49: an authority that is not known, and a certificate of another name.
#[test]
fn f48_f49_a_server_that_is_not_trusted_is_refused() {
    let _alone = alone();
    for tls in [
        json!({"ca_file": certificate("other-ca.pem")}),
        json!({}),
        json!({"ca_file": certificate("ca.pem"), "server_name": "rabbit.example"}),
    ] {
        let hub = with_tls(tls.clone());
        assert_eq!(publish(&hub, "tasks.x", "x").unwrap_err().kind(), Kind::BackendDown, "{tls}");
        let told = cause(&hub);
        assert!(told.contains("HMQ_E_TLS") && told.contains("certificate verify failed"), "{tls}: {told}");
        hub.close(WAIT).unwrap();
    }
}

/// A port that does not speak TLS, and a TLS port that is spoken to in the clear.
#[test]
fn encryption_on_one_side_only_is_told() {
    let _alone = alone();
    let hub =
        hub_at(port(), json!({"connection_timeout_ms": 1500, "rabbitmq": {"tls": {"ca_file": certificate("ca.pem")}}}));
    assert_eq!(publish(&hub, "tasks.x", "x").unwrap_err().kind(), Kind::BackendDown);
    hub.close(WAIT).unwrap();
    let hub = hub_at(tls_port(), json!({"connection_timeout_ms": 1500}));
    assert_eq!(publish(&hub, "tasks.x", "x").unwrap_err().kind(), Kind::BackendDown);
    hub.close(WAIT).unwrap();
}

/// B29: told when the hub is opened, with the path.
#[test]
fn b29_certificates_and_keys_that_cannot_be_used() {
    let _alone = alone();
    let (ca, own) = (certificate("ca.pem"), certificate("client.pem"));
    for (tls, path) in [
        (json!({"ca_file": "/nowhere/ca.pem"}), "rabbitmq.tls.ca_file"),
        (json!({"ca_file": certificate("client.key")}), "rabbitmq.tls.ca_file"),
        (json!({"ca_file": ca, "cert_file": certificate("client.key"), "key_file": own}), "rabbitmq.tls.cert_file"),
        (json!({"ca_file": ca, "cert_file": own, "key_file": own}), "rabbitmq.tls.key_file"),
        (json!({"ca_file": ca, "cert_file": own, "key_file": certificate("server.key")}), "rabbitmq.tls.key_file"),
        (
            json!({"ca_file": ca, "cert_file": own, "key_file": certificate("client-locked.key")}),
            "rabbitmq.tls.key_file",
        ),
    ] {
        let config = json!({"rabbitmq": {"host": "127.0.0.1", "tls": tls}});
        let refused = Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap_err();
        assert_eq!((refused.kind(), refused.path()), (Kind::Tls, Some(path)), "{refused}");
    }
}

/// B48: a host that has not ignored SIGPIPE lives on when the server resets its connections.
#[test]
fn b48_resets_do_not_end_a_process_that_minds_broken_pipes() {
    let _alone = alone();
    child("tls::b48_child", 1024, &[]);
}

#[test]
#[ignore = "a process of its own, for b48: signals are of a whole process"]
fn b48_child() {
    // SAFETY: no other thread of this process has been started that minds the signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for (port, tls) in [(port(), Value::Null), (tls_port(), json!({"ca_file": certificate("ca.pem")}))] {
        let proxy = Proxy::to(port);
        for round in 0..scaled(10, 500) {
            let hub = hub_at(proxy.port(), json!({"rabbitmq": {"tls": tls, "heartbeat_ms": 1000}}));
            let (topic, results) = (format!("tasks.b48-{}", round % 10), inbox(&hub));
            publish(&hub, &topic, "x").unwrap();
            let publisher = publisher(&hub, &topic);
            let send = || publisher.send_inbox(&vec![Record::new(&[0; 1000]); 100], &[], &results, None);
            assert_eq!(send().0, 100);
            proxy.reset();
            while send().1.is_none() {}
            hub.close(Some(Duration::ZERO)).ok();
        }
    }
}
