//! What must fit together: contradictions between options, told with both paths.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::backends::{split_address, AuthMechanism, KafkaConfig, RabbitmqConfig, SaslMechanism, TlsConfig};
use super::env::NAMED;
use super::failover::{SyncMode, SYNC_INTERVAL};
use super::routes::{OnOutage, RouteConfig, Wire};
use super::{check_pattern, ClockChoice, Config, Connect, Secret};
use crate::broker::BackendKind;
use crate::error::{Error, Kind, Result};

/// How options are called in errors: by path, and by variable where there is one.
pub(super) struct Labels {
    variables: Option<BTreeMap<String, String>>,
}

impl Labels {
    /// For a document alone.
    pub(super) fn document() -> Self {
        Self { variables: None }
    }

    /// For an environment that set these paths by these variables.
    pub(super) fn environment(variables: BTreeMap<String, String>) -> Self {
        Self { variables: Some(variables) }
    }

    fn label(&self, path: &str) -> String {
        let Some(variables) = &self.variables else { return format!("`{path}`") };
        let named = || NAMED.iter().find(|(_, paths)| paths.contains(&path)).map(|(name, _)| *name);
        match variables.get(path).map(String::as_str).or_else(named) {
            Some(variable) => format!("`{path}` ({variable})"),
            None => format!("`{path}`"),
        }
    }

    /// An error about two options; `{0}` and `{1}` in `text` stand for them.
    fn conflict(&self, paths: [&str; 2], text: &str) -> Error {
        let text = text.replace("{0}", &self.label(paths[0])).replace("{1}", &self.label(paths[1]));
        Error::new(Kind::Config, format!("config: {text}")).at(paths[0], 0, 0)
    }
}

/// Turns fields that are each in their range into a configuration that holds together.
pub(super) fn finish(mut config: Config, labels: &Labels, get: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
    let mut context = Context { labels, get, warnings: Vec::new() };
    config.rabbitmq = match config.rabbitmq.take() {
        Some(section) => context.rabbitmq(*section)?.map(Box::new),
        None => None,
    };
    config.kafka = match config.kafka.take() {
        Some(section) => context.kafka(*section, &config.group_id)?.map(Box::new),
        None => None,
    };
    check_general(&config, labels)?;
    check_failover(&mut config, labels)?;
    check_tls_policy(&config, labels)?;
    check_lists(&mut config, labels)?;
    if config.failover.dir.is_some() && !config.fallback {
        let text = "failover.dir is set, but fallback_to_inmemory is false: it keeps only what is routed to `embedded`";
        context.warnings.push(text.into());
    }
    config.warnings = context.warnings;
    Ok(config)
}

/// Names the first part that this build does not have.
pub(super) fn unsupported(config: &Config) -> Option<Error> {
    if config.rabbitmq.is_some() && !cfg!(feature = "rabbitmq") {
        let text =
            "config: `rabbitmq`: this library was built without the feature `rabbitmq` (`make lib` builds it in)";
        return Some(Error::new(Kind::Unsupported, text).at("rabbitmq", 0, 0));
    }
    if config.kafka.is_some() && !cfg!(feature = "kafka") {
        let text = "config: `kafka`: this library was built without the feature `kafka` (`make lib` builds it in)";
        return Some(Error::new(Kind::Unsupported, text).at("kafka", 0, 0));
    }
    let plain = config.routes.iter().position(|route| route.wire == Wire::Plain);
    let path = format!("routes[{}].wire", plain.filter(|_| config.kafka.is_none())?);
    let text = format!("config: `{path}`: the form `plain` is for Kafka, and `kafka.brokers` is not set");
    Some(Error::new(Kind::Unsupported, text).at(path, 0, 0))
}

struct Context<'a> {
    labels: &'a Labels,
    get: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Context<'_> {
    fn rabbitmq(&mut self, mut section: RabbitmqConfig) -> Result<Option<RabbitmqConfig>> {
        if !section.enabled {
            return Ok(None);
        }
        let passwords = [
            ("rabbitmq.password", section.password.is_some()),
            ("rabbitmq.password_env", section.password_env.is_some()),
            ("rabbitmq.password_file", section.password_file.is_some()),
        ];
        if section.host.is_none() && section.nodes.is_empty() {
            let alone = [("rabbitmq.port", section.port.is_some())].into_iter().chain(passwords);
            if let Some((path, _)) = alone.into_iter().find(|(_, set)| *set) {
                return Err(self.labels.conflict([path, "rabbitmq.host"], "{0} is set, but {1} is not"));
            }
            if section.username != "guest" || section.vhost != "/" || section.tls.is_some() {
                self.warnings.push("rabbitmq has settings but no host, so it is not used".into());
            }
            return Ok(None);
        }
        if section.host.as_deref().is_some_and(|host| split_host(host).is_none()) {
            let text = "config: `rabbitmq.host`: expected a host name or an address, without scheme and port";
            return Err(Error::new(Kind::Config, text).at("rabbitmq.host", 0, 0));
        }
        check_addresses("rabbitmq.nodes", &section.nodes, false)?;
        let RabbitmqConfig { password, password_env, password_file, .. } = &mut section;
        self.secret("rabbitmq.password", password, password_env.as_deref(), password_file)?;
        if section.auth_mechanism == AuthMechanism::External {
            let with_certificate = section.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
            if !with_certificate {
                let paths = ["rabbitmq.auth_mechanism", "rabbitmq.tls.cert_file"];
                return Err(self.labels.conflict(paths, "{0} is EXTERNAL, but {1} is not set"));
            }
            if section.password.is_some() {
                let paths = ["rabbitmq.password", "rabbitmq.auth_mechanism"];
                return Err(self
                    .labels
                    .conflict(paths, "{0} is set, but {1} is EXTERNAL, which logs in by certificate"));
            }
        } else if section.password.is_none() {
            if section.username != "guest" {
                let text = "{0} is set, but {1} is not";
                return Err(self.labels.conflict(["rabbitmq.username", "rabbitmq.password"], text));
            }
            section.password = Some(Secret::new("guest"));
        }
        if let Some(tls) = &mut section.tls {
            self.tls("rabbitmq.tls", tls)?;
        }
        section.port = section.port.or(Some(if section.tls.is_some() { 5671 } else { 5672 }));
        Ok(Some(section))
    }

    fn kafka(&mut self, mut section: KafkaConfig, group_id: &str) -> Result<Option<KafkaConfig>> {
        if !section.enabled {
            return Ok(None);
        }
        let KafkaConfig { brokers, sasl_password, sasl_password_env, sasl_password_file, .. } = &mut section;
        let with_login = sasl_password.is_some() || sasl_password_env.is_some() || sasl_password_file.is_some();
        if brokers.is_empty() {
            if with_login {
                let paths = ["kafka.sasl_password", "kafka.brokers"];
                return Err(self.labels.conflict(paths, "{0} is set, but {1} is not"));
            }
            return Ok(None);
        }
        check_addresses("kafka.brokers", brokers, true)?;
        let refused =
            |(name, value): (&String, &String)| Some((name.clone(), super::client_options::refused(name, value)?));
        if let Some((name, why)) = section.options.iter().find_map(refused) {
            let text = format!("`kafka.options`: `{name}` {why}");
            return Err(Error::new(Kind::Config, text).at(format!("kafka.options.{name}"), 0, 0));
        }
        let KafkaConfig { sasl_password, sasl_password_env, sasl_password_file, .. } = &mut section;
        self.secret("kafka.sasl_password", sasl_password, sasl_password_env.as_deref(), sasl_password_file)?;
        self.kafka_login(&section)?;
        if let Some(tls) = &mut section.tls {
            if !section.security_protocol.is_encrypted() {
                let paths = ["kafka.tls", "kafka.security_protocol"];
                return Err(self.labels.conflict(paths, "{0} is set, but {1} does not encrypt"));
            }
            self.tls("kafka.tls", tls)?;
            if tls.server_name.is_some() {
                let text = "`kafka.tls.server_name`: a broker's certificate must be for the name it is reached by";
                return Err(Error::new(Kind::Unsupported, text).at("kafka.tls.server_name", 0, 0));
            }
        }
        section.group_id.get_or_insert_with(|| group_id.to_owned());
        Ok(Some(section))
    }

    fn kafka_login(&self, section: &KafkaConfig) -> Result<()> {
        let set = [
            ("kafka.sasl_mechanism", section.sasl_mechanism.is_some()),
            ("kafka.sasl_username", section.sasl_username.is_some()),
            ("kafka.sasl_password", section.sasl_password.is_some()),
            ("kafka.token_provider", section.token_provider.is_some()),
        ];
        let protocol = "kafka.security_protocol";
        if !section.security_protocol.has_login() {
            return match set.into_iter().find(|(_, set)| *set) {
                Some((path, _)) => Err(self.labels.conflict([path, protocol], "{0} is set, but {1} has no login")),
                None => Ok(()),
            };
        }
        let token = section.sasl_mechanism == Some(SaslMechanism::OauthBearer);
        if section.sasl_mechanism == Some(SaslMechanism::Plain) && !section.security_protocol.is_encrypted() {
            let paths = ["kafka.sasl_mechanism", protocol];
            return Err(self.labels.conflict(paths, "{0} PLAIN sends the password as it is, and {1} does not encrypt"));
        }
        let needed: &[&str] = match token {
            true => &["kafka.sasl_mechanism", "kafka.token_provider"],
            false => &["kafka.sasl_mechanism", "kafka.sasl_username", "kafka.sasl_password"],
        };
        match set.into_iter().find(|(path, set)| !set && needed.contains(path)) {
            Some((path, _)) => Err(self.labels.conflict([protocol, path], "{0} asks for a login, but {1} is not set")),
            None => Ok(()),
        }
    }

    fn tls(&mut self, path: &str, tls: &mut TlsConfig) -> Result<()> {
        let (cert, key) = (format!("{path}.cert_file"), format!("{path}.key_file"));
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            let paths = if tls.cert_file.is_some() { [cert.as_str(), &key] } else { [key.as_str(), &cert] };
            return Err(self.labels.conflict(paths, "{0} is set, but {1} is not"));
        }
        let TlsConfig { key_password, key_password_env, key_password_file, .. } = tls;
        let password = format!("{path}.key_password");
        self.secret(&password, key_password, key_password_env.as_deref(), key_password_file)?;
        if tls.key_password.is_some() && tls.key_file.is_none() {
            return Err(self.labels.conflict([&password, &key], "{0} is set, but {1} is not"));
        }
        if tls.unsafe_skip_verify {
            self.warnings.push(format!("{path}.unsafe_skip_verify is on: anyone can pose as the server"));
        }
        Ok(())
    }

    /// Fetches a secret from the one place that is named.
    fn secret(
        &mut self,
        path: &str,
        value: &mut Option<Secret>,
        variable: Option<&str>,
        file: &Option<PathBuf>,
    ) -> Result<()> {
        let (by_env, by_file) = (format!("{path}_env"), format!("{path}_file"));
        let twice = |first: &str, second: &str| {
            Err(self.labels.conflict([first, second], "{0} and {1} are both set; keep one of them"))
        };
        match (value.is_some(), variable, file) {
            (true, Some(_), _) => twice(path, &by_env),
            (true, _, Some(_)) => twice(path, &by_file),
            (_, Some(_), Some(_)) => twice(&by_env, &by_file),
            (_, None, None) => Ok(()),
            (false, Some(name), None) => match (self.get)(name).filter(|text| !text.is_empty()) {
                Some(text) => {
                    *value = Some(Secret::new(text));
                    Ok(())
                }
                None => {
                    let text = format!("config: `{by_env}`: the environment variable it names is not set");
                    Err(Error::new(Kind::Secret, text).at(by_env, 0, 0))
                }
            },
            (false, None, Some(file)) => {
                let read = Secret::from_file(file, &mut self.warnings);
                let told = |error: Error| {
                    Error::new(Kind::Secret, format!("config: `{by_file}`: {}", error.message())).at(&*by_file, 0, 0)
                };
                *value = Some(read.map_err(told)?);
                Ok(())
            }
        }
    }
}

/// A host stands alone here: a colon is fine in an IPv6 address only.
fn split_host(host: &str) -> Option<()> {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(());
    }
    split_address(host).filter(|(_, port)| port.is_none()).map(|_| ())
}

fn check_addresses(path: &str, addresses: &[String], port_needed: bool) -> Result<()> {
    for (index, address) in addresses.iter().enumerate() {
        let good = split_address(address).is_some_and(|(_, port)| port.is_some() || !port_needed);
        if !good {
            let path = format!("{path}[{index}]");
            let text = format!("config: `{path}`: expected `host:port`, with a port from 1 to 65535");
            return Err(Error::new(Kind::Config, text).at(path, 0, 0));
        }
    }
    Ok(())
}

fn check_general(config: &Config, labels: &Labels) -> Result<()> {
    let backends = config.rabbitmq.is_some() || config.kafka.is_some();
    if config.enabled && !config.fallback && !backends {
        let text = "{0} is false and neither {1} nor `kafka.brokers` is set: there is no broker to use";
        return Err(labels.conflict(["fallback_to_inmemory", "rabbitmq.host"], text));
    }
    if config.enabled && config.connect == Connect::Require && !backends {
        let text = "{0} is \"require\", but no server is configured ({1} and `kafka.brokers` are not set)";
        return Err(labels.conflict(["connect", "rabbitmq.host"], text));
    }
    if config.clock == ClockChoice::Virtual && backends {
        let server = if config.rabbitmq.is_some() { "rabbitmq.host" } else { "kafka.brokers" };
        return Err(labels.conflict(["clock", server], "{0} is \"virtual\", which no server follows, but {1} is set"));
    }
    if config.retry.delay_max < config.retry.delay {
        return Err(labels.conflict(["retry.delay_max_ms", "retry.delay_ms"], "{0} is less than {1}"));
    }
    // With a data directory another size counts; see `check_failover`.
    if config.failover.dir.is_none() && config.message_bytes_max > config.embedded.memory_bytes_max {
        let paths = ["message_bytes_max", "embedded.memory_bytes_max"];
        return Err(labels.conflict(paths, "a message of {0} does not fit into {1}"));
    }
    Ok(())
}

fn check_failover(config: &mut Config, labels: &Labels) -> Result<()> {
    let failover = &mut config.failover;
    match (&failover.dir, failover.sync) {
        (None, Some(_)) => {
            let text = "{0} is set, but {1} is not: there is no disk to sync";
            return Err(labels.conflict(["failover.sync", "failover.dir"], text));
        }
        (Some(_), None) => failover.sync = Some(SyncMode::Each),
        _ => {}
    }
    match (failover.sync_every, failover.sync) {
        (Some(_), None) => {
            let text = "{0} is set, but {1} is not: there is no disk to sync";
            return Err(labels.conflict(["failover.sync_interval_ms", "failover.dir"], text));
        }
        (Some(_), Some(SyncMode::Each | SyncMode::None)) => {
            let text = "{0} is set, but {1} is not \"interval\"";
            return Err(labels.conflict(["failover.sync_interval_ms", "failover.sync"], text));
        }
        (None, Some(SyncMode::Interval)) => failover.sync_every = Some(SYNC_INTERVAL),
        _ => {}
    }
    if failover.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
        return Err(Error::new(Kind::Config, "config: `failover.dir`: it is empty").at("failover.dir", 0, 0));
    }
    if failover.suspect_wait > failover.down_after {
        let paths = ["failover.suspect_wait_ms", "failover.down_after_ms"];
        return Err(labels.conflict(paths, "{0} is more than {1}"));
    }
    if failover.reconnect_min > failover.reconnect_max {
        let paths = ["failover.reconnect_min_ms", "failover.reconnect_max_ms"];
        return Err(labels.conflict(paths, "{0} is more than {1}"));
    }
    let (path, size) = match failover.dir {
        Some(_) => ("failover.disk_bytes_max", failover.disk_bytes_max),
        None => ("failover.memory_bytes_max", failover.memory_bytes_max),
    };
    if config.message_bytes_max as u64 > size {
        return Err(labels.conflict(["message_bytes_max", path], "a message of {0} does not fit into {1}"));
    }
    Ok(())
}

fn check_tls_policy(config: &Config, labels: &Labels) -> Result<()> {
    if !config.tls.required {
        return Ok(());
    }
    let clear = [
        ("rabbitmq.tls", config.rabbitmq.as_ref().is_some_and(|section| section.tls.is_none())),
        ("kafka.security_protocol", config.kafka.as_ref().is_some_and(|k| !k.security_protocol.is_encrypted())),
    ];
    match clear.into_iter().find(|(_, clear)| *clear) {
        Some((path, _)) => Err(labels.conflict(["tls.required", path], "{0} is true, but {1} does not encrypt")),
        None => Ok(()),
    }
}

fn check_lists(config: &mut Config, labels: &Labels) -> Result<()> {
    for index in 0..config.routes.len() {
        let Some((route, before)) = config.routes.get(..=index).and_then(<[RouteConfig]>::split_last) else { continue };
        check_route(config, index, route, labels)?;
        if let Some(first) = before.iter().position(|earlier| earlier.pattern == route.pattern) {
            let paths = [format!("routes[{index}].pattern"), format!("routes[{first}].pattern")];
            return Err(labels.conflict([&paths[0], &paths[1]], "{0} is never reached: {1} is the same"));
        }
    }
    for (index, topic) in config.topics.iter().enumerate() {
        check_listed(&format!("topics[{index}].pattern"), &topic.pattern)?;
    }
    let unset = config.on_outage(None);
    for route in &mut config.routes {
        route.on_outage.get_or_insert(unset);
    }
    Ok(())
}

fn check_route(config: &Config, index: usize, route: &RouteConfig, labels: &Labels) -> Result<()> {
    check_listed(&format!("routes[{index}].pattern"), &route.pattern)?;
    if !config.fallback && matches!(route.on_outage, Some(OnOutage::Local | OnOutage::Spool)) {
        let path = format!("routes[{index}].on_outage");
        let text = "{0} keeps messages in this process, but {1} is false";
        return Err(labels.conflict([&path, "fallback_to_inmemory"], text));
    }
    let needed = match route.backend {
        Some(BackendKind::RabbitMq) => "rabbitmq.host",
        Some(BackendKind::Kafka) => "kafka.brokers",
        Some(BackendKind::Embedded | BackendKind::Custom) | None => return Ok(()),
    };
    let path = format!("routes[{index}].backend");
    match route.backend.is_some_and(|backend| config.has_backend(backend)) {
        true => Ok(()),
        false => Err(labels.conflict([&path, needed], "{0} names a server, but {1} is not set")),
    }
}

fn check_listed(path: &str, pattern: &str) -> Result<()> {
    check_pattern(&format!("config: `{path}`"), pattern)
        .map_err(|error| Error::new(Kind::Config, error.message()).at(path, 0, 0))
}
