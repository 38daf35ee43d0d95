//! The environment, laid over a document.
//!
//! A variable becomes the value at its path, as if the document had it there. Variables hold text,
//! so a value is tried in the forms a text can mean (JSON, a word for a boolean, a duration, the
//! text itself, a comma list) until one fits the option.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::relations::{finish, Labels};
use super::time::parse_duration;
use super::{document, Config, Environment};
use crate::error::{Error, Kind, Result};

/// Variables with names of their own, and the paths they set.
pub(super) const NAMED: &[(&str, &[&str])] = &[
    ("MESSAGING_ENABLED", &["enabled"]),
    ("MESSAGING_FALLBACK_INMEMORY", &["fallback_to_inmemory"]),
    ("MESSAGING_CONNECTION_TIMEOUT", &["connection_timeout_ms"]),
    ("MESSAGING_DATA_DIR", &["failover.dir"]),
    ("RABBITMQ_HOST", &["rabbitmq.host"]),
    ("RABBITMQ_PORT", &["rabbitmq.port"]),
    ("RABBITMQ_USER", &["rabbitmq.username"]),
    ("RABBITMQ_PASSWORD", &["rabbitmq.password"]),
    ("RABBITMQ_PASSWORD_FILE", &["rabbitmq.password_file"]),
    ("RABBITMQ_VHOST", &["rabbitmq.vhost"]),
    ("RABBITMQ_TLS", &["rabbitmq.tls"]),
    ("KAFKA_BROKERS", &["kafka.brokers"]),
    ("KAFKA_CLIENT_ID", &["kafka.client_id"]),
    // One name for the group of this program, with Kafka or without it.
    ("KAFKA_GROUP_ID", &["kafka.group_id", "group_id"]),
    ("KAFKA_SECURITY_PROTOCOL", &["kafka.security_protocol"]),
    ("KAFKA_SASL_MECHANISM", &["kafka.sasl_mechanism"]),
    ("KAFKA_SASL_USERNAME", &["kafka.sasl_username"]),
    ("KAFKA_SASL_PASSWORD", &["kafka.sasl_password"]),
    ("KAFKA_SASL_PASSWORD_FILE", &["kafka.sasl_password_file"]),
];

/// Every other option: `HELIXMQ__FAILOVER__SYNC` is `failover.sync`.
const PREFIX: &str = "HELIXMQ__";

/// Calls `then` with the environment of the process.
pub(super) fn with_process<T>(then: impl FnOnce(&Environment<'_>) -> Result<T>) -> Result<T> {
    let mut ours = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().map(str::to_owned) else { continue };
        match value.into_string() {
            Ok(value) => drop(ours.insert(name, value)),
            Err(_) if is_ours(&name) => {
                return Err(Error::new(Kind::Utf8, format!("environment variable {name} is not UTF-8")));
            }
            Err(_) => {}
        }
    }
    let get = |name: &str| ours.get(name).cloned();
    let all = || ours.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    then(&Environment { get: &get, all: &all })
}

/// Reads a document that was checked before, with the environment over it.
pub(super) fn over_document(json: &str, environment: &Environment<'_>) -> Result<Config> {
    let mut whole: Value = serde_json::from_str(json)
        .map_err(|error| Error::new(Kind::Config, "config: this is not JSON").at("", error.line(), error.column()))?;
    let mut origins: BTreeMap<String, String> = BTreeMap::new();
    for (variable, path, text) in settings(environment)? {
        if let Some(other) = origins.insert(path.clone(), variable.clone()) {
            let text = format!("environment variables {other} and {variable} both set `{path}`; keep one of them");
            return Err(Error::new(Kind::Config, text).at(path, 0, 0));
        }
        let value = meant(&variable, &path, &text)?;
        forget_other_sources(&mut whole, &path, &origins);
        set(&mut whole, &path, value);
    }
    let config: Config = document::read("config and environment", &whole.to_string())?;
    finish(config, &Labels::environment(origins), environment.get)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || NAMED.iter().any(|(own, _)| *own == name)
}

/// All (variable, path, text) that are set. Empty is not set: that is how shells and container
/// files switch a variable off.
fn settings(environment: &Environment<'_>) -> Result<Vec<(String, String, String)>> {
    let mut found = Vec::new();
    for (name, paths) in NAMED {
        if let Some(text) = (environment.get)(name).filter(|text| !text.is_empty()) {
            found.extend(paths.iter().map(|path| ((*name).to_owned(), (*path).to_owned(), text.clone())));
        }
    }
    let mut others: Vec<(String, String)> = (environment.all)();
    others.sort();
    for (name, text) in others {
        let Some(path) = name.strip_prefix(PREFIX).filter(|_| !text.is_empty()) else { continue };
        if path.is_empty() || path.split("__").any(str::is_empty) {
            let text = format!("environment variable {name}: after {PREFIX} stands a path, its steps split by `__`");
            return Err(Error::new(Kind::Config, text).at("", 0, 0));
        }
        let path = path.to_ascii_lowercase().replace("__", ".");
        // A named variable for the group speaks for two paths; one said by itself is closer.
        let spoken_for = found.iter().position(|(_, other, _)| *other == path && path == "group_id");
        if let Some(index) = spoken_for {
            found.remove(index);
        }
        found.push((name, path, text));
    }
    Ok(found)
}

/// The value that `text` means at `path`.
fn meant(variable: &str, path: &str, text: &str) -> Result<Value> {
    let mut first_error = None;
    for value in candidates(path, text) {
        let mut alone = Value::Object(Map::new());
        set(&mut alone, path, value.clone());
        match document::read::<Config>("", &alone.to_string()) {
            Ok(_) => return Ok(value),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    let why = first_error.map(|error| error.message().trim_start_matches([':', ' ']).to_owned()).unwrap_or_default();
    let why = why.split(" (line ").next().unwrap_or_default();
    let words =
        if why.contains("a boolean") || path == "rabbitmq.tls" { " (true, false, 1, 0, yes, no, on, off)" } else { "" };
    Err(Error::new(Kind::Config, format!("environment variable {variable}: {why}{words}")).at(path, 0, 0))
}

fn candidates(path: &str, text: &str) -> Vec<Value> {
    let trimmed = text.trim();
    let mut all = Vec::new();
    if let Ok(value) = serde_json::from_str::<Value>(trimmed) {
        if !value.is_string() && !value.is_null() {
            all.push(value);
        }
    }
    let boolean = match trimmed.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    };
    all.extend(boolean.map(Value::Bool));
    if path == "rabbitmq.tls" {
        // On means: with the certificates of the system.
        all.extend(boolean.map(|on| if on { Value::Object(Map::new()) } else { Value::Null }));
    }
    if path.ends_with("_ms") {
        let millis = parse_duration(trimmed).and_then(|duration| u64::try_from(duration.as_millis()).ok());
        all.extend(millis.map(Value::from));
    }
    all.push(Value::from(text));
    all.push(text.split(',').map(|item| Value::from(item.trim())).collect());
    all
}

/// A password of the environment replaces one that the document takes from elsewhere.
fn forget_other_sources(whole: &mut Value, path: &str, origins: &BTreeMap<String, String>) {
    let Some(stem) = ["_env", "_file"].iter().find_map(|end| path.strip_suffix(end)).or(Some(path)) else { return };
    if !stem.ends_with("password") {
        return;
    }
    for other in [stem.to_owned(), format!("{stem}_env"), format!("{stem}_file")] {
        if other != path && !origins.contains_key(&other) {
            set(whole, &other, Value::Null);
        }
    }
}

fn set(whole: &mut Value, path: &str, value: Value) {
    let mut place = whole;
    for step in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(entries) = place else { return };
        place = entries.entry(step).or_insert(Value::Null);
    }
    // "With TLS" must not throw away what the document says about it.
    if !(place.is_object() && value.as_object().is_some_and(Map::is_empty)) {
        *place = value;
    }
}
