//! Encryption: who is trusted, who is not, and that nobody untrusted is told a password.

use helixmq::error::Kind;

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

fn cause(hub: &Hub) -> String {
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
