//! The sections of the backends: `embedded`, `rabbitmq`, `kafka`, and their encryption.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{words, As, Many, Maybe, Ms, Num, Text, Word};
use super::secret::{Secret, MASK};
use super::TIB;
use crate::limits::PARTITIONS_MAX;

/// The broker inside the library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Memory that its messages may take; then publishing waits.
    #[serde(with = "As::<Num<usize, 65_536, TIB>>")]
    pub memory_bytes_max: usize,
    /// Partitions of an event topic that names no number.
    #[serde(with = "As::<Num<u32, 1, { PARTITIONS_MAX as u64 }>>")]
    pub partitions: u32,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { memory_bytes_max: 64 * 1024 * 1024, partitions: 4 }
    }
}

/// Encryption that every server connection must have.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TlsPolicy {
    /// Refuses a configuration in which a server is reached without TLS.
    pub required: bool,
}

/// Encryption towards one server. The peer is verified unless told otherwise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates to trust (PEM); none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Own certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// Key of the own certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// Password of the key.
    pub key_password: Option<Secret>,
    /// Environment variable that holds the password of the key.
    #[serde(with = "Maybe::<Text<200>>")]
    pub key_password_env: Option<String>,
    /// File that holds the password of the key.
    pub key_password_file: Option<PathBuf>,
    /// Name that the server's certificate must have, where it is not the host.
    #[serde(with = "Maybe::<Text<255>>")]
    pub server_name: Option<String>,
    /// Talks to anyone who claims to be the server. For trials only.
    pub unsafe_skip_verify: bool,
}

words! {
    /// Kinds of RabbitMQ queue.
    QueueType {
        /// Replicated.
        Quorum = "quorum",
        /// On one node; knows priorities on every version.
        Classic = "classic",
    }
}

words! {
    /// How a login to a RabbitMQ server is made.
    AuthMechanism {
        /// Name and password.
        Plain = "PLAIN",
        /// The certificate of the client.
        External = "EXTERNAL",
    } ANY_CASE
}

words! {
    /// What is done about queues and exchanges that are not there.
    Declare {
        /// They are made.
        Active = "active",
        /// Nothing is made; what is there is used as it is.
        Passive = "passive",
    }
}

/// A RabbitMQ server or cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RabbitmqConfig {
    /// `false`: as if the section were not there.
    pub enabled: bool,
    /// Host name or address.
    #[serde(with = "Maybe::<Text<255>>")]
    pub host: Option<String>,
    /// Port; 5672, with TLS 5671.
    #[serde(with = "Maybe::<Num<u16, 1, 65_535>>")]
    pub port: Option<u16>,
    /// Further nodes of the cluster, `host` or `host:port`.
    #[serde(with = "Many::<Text<261>>")]
    pub nodes: Vec<String>,
    /// User name.
    #[serde(with = "As::<Text<255>>")]
    pub username: String,
    /// Password.
    pub password: Option<Secret>,
    /// Environment variable that holds the password.
    #[serde(with = "Maybe::<Text<200>>")]
    pub password_env: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// How the login is made.
    #[serde(with = "As::<Word<AuthMechanism>>")]
    pub auth_mechanism: AuthMechanism,
    /// Virtual host.
    #[serde(with = "As::<Text<255>>")]
    pub vhost: String,
    /// Silence after which a connection counts as lost: two of these; 0 asks for none.
    #[serde(rename = "heartbeat_ms", with = "As::<Ms<0, 3_600_000>>")]
    pub heartbeat: Duration,
    /// Kind of the queues that are made here.
    #[serde(with = "As::<Word<QueueType>>")]
    pub queue_type: QueueType,
    /// Whether queues and exchanges are made.
    #[serde(with = "As::<Word<Declare>>")]
    pub declare: Declare,
    /// Encryption; none: in the clear.
    pub tls: Option<TlsConfig>,
}

impl Default for RabbitmqConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            host: None,
            port: None,
            nodes: Vec::new(),
            username: "guest".into(),
            password: None,
            password_env: None,
            password_file: None,
            auth_mechanism: AuthMechanism::Plain,
            vhost: "/".into(),
            heartbeat: Duration::from_secs(10),
            queue_type: QueueType::Quorum,
            declare: Declare::Active,
            tls: None,
        }
    }
}

words! {
    /// How a Kafka cluster is talked to.
    SecurityProtocol {
        /// In the clear, nobody logs in.
        Plaintext = "plaintext",
        /// Encrypted.
        Ssl = "ssl",
        /// In the clear, with a login.
        SaslPlaintext = "sasl_plaintext",
        /// Encrypted, with a login.
        SaslSsl = "sasl_ssl",
    } ANY_CASE
}

impl SecurityProtocol {
    /// Whether it encrypts.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Whether it logs in.
    pub const fn has_login(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }
}

words! {
    /// How a login to a Kafka cluster is made.
    SaslMechanism {
        /// Name and password as they are.
        Plain = "PLAIN",
        /// Challenge with SHA-256.
        ScramSha256 = "SCRAM-SHA-256",
        /// Challenge with SHA-512.
        ScramSha512 = "SCRAM-SHA-512",
        /// Tokens that the program supplies.
        OauthBearer = "OAUTHBEARER",
    } ANY_CASE
}

/// A Kafka cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `false`: as if the section were not there.
    pub enabled: bool,
    /// Brokers to start from, `host:port`.
    #[serde(with = "Many::<Text<261>>")]
    pub brokers: Vec<String>,
    /// Names this client at the brokers.
    #[serde(with = "As::<Text<200>>")]
    pub client_id: String,
    /// Consumer group, where it is not the hub's.
    #[serde(with = "Maybe::<Text<200>>")]
    pub group_id: Option<String>,
    /// Encryption and login.
    #[serde(with = "As::<Word<SecurityProtocol>>")]
    pub security_protocol: SecurityProtocol,
    /// How the login is made.
    #[serde(with = "Maybe::<Word<SaslMechanism>>")]
    pub sasl_mechanism: Option<SaslMechanism>,
    /// Name of the login.
    #[serde(with = "Maybe::<Text<255>>")]
    pub sasl_username: Option<String>,
    /// Password of the login.
    pub sasl_password: Option<Secret>,
    /// Environment variable that holds the password.
    #[serde(with = "Maybe::<Text<200>>")]
    pub sasl_password_env: Option<String>,
    /// File that holds the password.
    pub sasl_password_file: Option<PathBuf>,
    /// Function that supplies tokens, by the name it was set with.
    #[serde(with = "Maybe::<Text<200>>")]
    pub token_provider: Option<String>,
    /// Partitions of topics that are made here.
    #[serde(with = "As::<Num<u32, 1, 100_000>>")]
    pub partitions: u32,
    /// Copies of topics that are made here.
    #[serde(with = "As::<Num<u16, 1, 100>>")]
    pub replication: u16,
    /// Certificates and keys, where the protocol encrypts.
    pub tls: Option<TlsConfig>,
    /// Options of librdkafka, by its names.
    #[serde(with = "Properties")]
    pub options: ClientOptions,
}

/// Options of a client library by their names. Values are not shown: one may be a secret in a wrong place.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientOptions(pub BTreeMap<String, String>);

impl std::ops::Deref for ClientOptions {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            brokers: Vec::new(),
            client_id: "helixmq".into(),
            group_id: None,
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            sasl_password_env: None,
            sasl_password_file: None,
            token_provider: None,
            partitions: 3,
            replication: 1,
            tls: None,
            options: ClientOptions::default(),
        }
    }
}

/// Options of librdkafka that a document must never set, whoever wrote it.
const FORBIDDEN: [&str; 5] =
    ["plugin.library.paths", "ssl.engine.location", "ssl.providers", "sasl.kerberos.kinit.cmd", "interceptors"];

/// Options of a client library: names with texts, numbers or booleans.
struct Properties;

impl Properties {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientOptions, D::Error> {
        let all: BTreeMap<String, Property> = BTreeMap::deserialize(deserializer)?;
        let forbidden = |name: &&String| FORBIDDEN.contains(&name.trim().to_ascii_lowercase().as_str());
        if let Some(name) = all.keys().find(forbidden) {
            let text = format!("`{name}` is forbidden: it loads code into the process or runs a program");
            return Err(serde::de::Error::custom(text));
        }
        Ok(ClientOptions(all.into_iter().map(|(name, property)| (name, property.0)).collect()))
    }

    /// Values of options that may hold secrets are not shown.
    fn serialize<S: Serializer>(all: &ClientOptions, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|(name, value)| {
            let lower = name.to_ascii_lowercase();
            let secret = ["password", "secret", "token", "key", "pem", "jaas"].iter().any(|word| lower.contains(word));
            (name, if secret { MASK } else { value })
        }))
    }
}

#[cfg(test)]
super::forms::inline_schema!(
    [] Properties,
    serde_json::json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
);

struct Property(String);

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = Property;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Property, E> {
                Ok(Property(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Property, E> {
                Ok(Property(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Property, E> {
                Ok(Property(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Property, E> {
                Ok(Property(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Property, E> {
                Ok(Property(value.to_string()))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`. `None`: it is none of them.
pub(crate) fn split_address(address: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']')?;
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let bad = |symbol: char| symbol.is_whitespace() || symbol.is_control() || "/@\\\"'?#%".contains(symbol);
    if host.is_empty() || host.contains(bad) {
        return None;
    }
    match port {
        None => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0).map(|port| (host, Some(port)))
        }
        Some(_) => None,
    }
}
