//! Passwords in every form the configuration takes, through every failure there is, with everything
//! that anybody could see collected: none of it holds one.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::PoisonError;

use helixmq::error::Error;
use helixmq::hub::{set_log, LogLevel, MetricsFormat, TextHandler};

use super::fake::{Fake, TUNE};
use super::proxy::{Proxy, Toxic, Way};
use super::tls::certificate;
use super::*;

pub const CANARY: &str = "hunter2-canary";

/// All that was seen.
static SEEN: Mutex<String> = Mutex::new(String::new());

fn see(text: impl std::fmt::Display) {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = writeln!(seen, "{text}");
}

fn see_error(error: &Error) {
    see(format_args!("{error} {error:?} {}", error.to_json()));
}

/// Every trace of every crate, at the finest level.
struct Traces;

impl tracing::Subscriber for Traces {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Fields);
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields);
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Fields;

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        see(format_args!("trace {field}={value:?}"));
    }
}

struct Lines;

impl TextHandler for Lines {
    fn text(&self, _level: LogLevel, json: &str) {
        see(format_args!("log {json}"));
    }
}

/// The canary as text, as a list of bytes, in hexadecimal and in base64, in any alignment.
fn spellings() -> Vec<String> {
    use base64::Engine as _;
    let list: Vec<String> = CANARY.bytes().map(|byte| byte.to_string()).collect();
    let hex = CANARY.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut all = vec![CANARY.to_owned(), list.join(", "), list.join(","), hex];
    for skipped in 0..3 {
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&CANARY[skipped..]);
        all.push(text[..text.len() - 2].to_owned());
    }
    all
}

#[test]
fn f55_no_secret_is_in_anything_that_can_be_seen() {
    let _alone = alone();
    let user = format!("canary-{}", std::process::id());
    server(&["ctl", "add_user", &user, CANARY]);
    server(&["ctl", "set_permissions", &user, ".*", ".*", ".*"]);
    let told = child("secrets::f55_child", 1000, &[("HMQ_TEST_USER", &user)]);
    server(&["ctl", "delete_user", &user]);
    assert!(told.contains("trace ") && told.contains("log ") && told.contains("ACCESS"), "{} bytes", told.len());
    assert!(told.contains("certificate verify failed") && told.len() > 50_000, "{} bytes", told.len());
    assert_no_secret(&told);
}

/// Looks for the canary in everything that was seen.
pub fn assert_no_secret(told: &str) {
    for spelling in spellings() {
        let hits: Vec<&str> = told.lines().filter(|line| line.contains(&spelling)).collect();
        assert!(hits.is_empty(), "{} lines with a secret, like {}", hits.len(), hits[0]);
    }
}

/// Sees everything from now on.
pub fn begin_to_see() {
    tracing::subscriber::set_global_default(Traces).unwrap();
    set_log(LogLevel::Debug, Some(Box::new(Lines))).unwrap();
}

/// Prints everything that was seen, for the parent process.
pub fn print_seen() {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    std::io::stdout().write_all(seen.as_bytes()).unwrap();
}

/// One hub with this section, seen from all sides; `more` happens while it is open.
fn watch(port: u16, section: Value, more: impl FnOnce(&Hub)) {
    let mut rabbitmq = json!({"host": "127.0.0.1", "port": port});
    rabbitmq.as_object_mut().unwrap().extend(section.as_object().unwrap().clone());
    watch_hub(json!({"connection_timeout_ms": 700, "rabbitmq": rabbitmq}), more);
}

/// The same with any configuration.
pub fn watch_hub(config: Value, more: impl FnOnce(&Hub)) {
    let text = config.to_string();
    let config = match Config::from_json(&text) {
        Ok(config) => config,
        Err(refused) => return see_error(&refused),
    };
    see(format_args!("{config:?} {}", config.effective_json()));
    let hub = match Hub::open(config, WAIT) {
        Ok(hub) => hub,
        Err(refused) => return see_error(&refused),
    };
    let options = InboxOptions::from_json(r#"{"state": true, "log": true}"#).unwrap();
    let inbox = hub.inbox(options).unwrap();
    more(&hub);
    if let Err(failed) = publish(&hub, "tasks.secrets", "x") {
        see_error(&failed);
    }
    let options = SubscribeOptions::from_json(r#"{"topic": "tasks.secrets"}"#).unwrap();
    match hub.subscribe_inbox(options, &inbox, 0, Some(Duration::from_millis(500))) {
        Ok(subscription) => see(format_args!("{subscription:?} {:?}", subscription.progress())),
        Err(failed) => see_error(&failed),
    }
    let mut events = Vec::new();
    let _ = inbox.poll(100, Some(Duration::from_millis(200)), &mut events);
    see(format_args!("{events:?} {hub:?} {}", hub.health()));
    see(format_args!("{} {}", hub.metrics(MetricsFormat::Json), hub.metrics(MetricsFormat::Prometheus)));
    if let Err(failed) = hub.close(Some(Duration::from_secs(2))) {
        see_error(&failed);
    }
}

#[test]
#[ignore = "a process of its own, for f55: it takes all traces"]
fn f55_child() {
    begin_to_see();
    let file = std::env::temp_dir().join(format!("hmq-secret-{}", std::process::id()));
    std::fs::write(&file, CANARY).unwrap();
    let user = std::env::var("HMQ_TEST_USER").unwrap_or_else(|_| "nobody".into());
    let right = json!({"username": user, "password": CANARY});
    let wrong = json!({"username": "nobody", "password": CANARY});
    let nothing = |_: &Hub| {};

    watch(port(), right.clone(), nothing);
    watch(port(), wrong, nothing);
    watch(port(), json!({"username": "nobody", "password_file": file}), nothing);
    // A password in place of what is not one.
    for (name, value) in [
        ("host", format!("amqp://{user}:{CANARY}@127.0.0.1")),
        ("host", format!("{user}:{CANARY}@127.0.0.1")),
        ("password_file", format!("/nowhere/{user}")),
        ("password_env", "HMQ_TEST_NO_SUCH_VARIABLE".to_owned()),
    ] {
        let mut section = json!({"username": user});
        section[name] = json!(value);
        watch(port(), section, nothing);
    }
    watch(port(), json!({"username": user, "nodes": [format!("{user}:{CANARY}@127.0.0.1:5672")]}), nothing);
    watch(port(), json!({"password": CANARY, "password_file": file}), nothing);
    watch(port(), json!({"password": [CANARY]}), nothing);
    watch(port(), json!({"password": CANARY, "port": CANARY}), nothing);
    for tls in [
        json!({"ca_file": certificate("other-ca.pem")}),
        json!({"ca_file": certificate("ca.pem"), "cert_file": certificate("client.pem"),
            "key_file": certificate("client-locked.key"), "key_password": CANARY}),
    ] {
        watch(port() + 1, json!({"username": user, "password": CANARY, "tls": tls}), nothing);
    }
    // The login itself is cut, byte by byte in steps, and lost while it waits.
    let proxy = Proxy::to(port());
    let step = if scaled(1, 2) == 1 { 100 } else { 7 };
    for offset in (20..700).step_by(step) {
        proxy.set(Way::Up, Toxic { cut_after: Some(offset), ..Toxic::default() });
        watch(proxy.port(), right.clone(), |_| proxy.reset());
    }
    proxy.down();
    watch(proxy.port(), right.clone(), nothing);
    let fake = Fake::start(|peer| {
        peer.header()?;
        peer.start("PLAIN")?;
        peer.read()?;
        peer.start("PLAIN")
    });
    watch(fake.port, right.clone(), nothing);
    let fake = Fake::start(|peer| peer.header().and_then(|()| peer.start("EXTERNAL AMQPLAIN")));
    watch(fake.port, right.clone(), nothing);
    let fake = Fake::start(|peer| peer.greet(TUNE));
    watch(fake.port, right, nothing);
    let _ = std::fs::remove_file(&file);
    print_seen();
}
