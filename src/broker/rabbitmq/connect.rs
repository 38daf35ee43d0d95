//! Connections: one to publish on and one to consume on, so that a server that stops reading
//! publishers (an alarm) still reads acknowledgements.
//!
//! Everything the server could choose is asked for: it would otherwise decide about our memory.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Connection, ConnectionProperties, Event};
use openssl::ssl::SslConnector;

use super::error::{error, is_denied, of};
use crate::config::{split_address, AuthMechanism, RabbitmqConfig};
use crate::error::{Error, Kind};

/// Largest frame, the server's own default; the client keeps 64 of them as buffers.
pub(super) const FRAME_BYTES_MAX: u32 = 131_072;
/// Channels of one connection: one for each subscription, and a few.
const CHANNELS_MAX: u16 = 2047;

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub host: String,
    pub port: u16,
}

/// The nodes of a configuration, in the order they are tried.
pub(super) fn nodes(config: &RabbitmqConfig) -> Vec<Node> {
    let port = config.port.unwrap_or(if config.tls.is_some() { 5671 } else { 5672 });
    let first = config.host.iter().map(|host| Node { host: host.clone(), port });
    let further = config.nodes.iter().filter_map(|address| {
        let (host, own_port) = split_address(address)?;
        Some(Node { host: host.to_owned(), port: own_port.unwrap_or(port) })
    });
    first.chain(further).collect()
}

/// What went wrong with an attempt, and whether another one soon is of any use.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: Error,
    pub denied: bool,
}

/// Both connections, to the first node that takes them. Tries each node once.
pub(super) async fn open(
    config: &RabbitmqConfig,
    tls: Option<&SslConnector>,
    name: &str,
    timeout: Duration,
) -> std::result::Result<(Connection, Connection), Failed> {
    let nodes = nodes(config);
    let share = timeout / u32::try_from(nodes.len().max(1)).unwrap_or(u32::MAX);
    let mut last = Failed { error: error(Kind::BackendDown, "no node is configured"), denied: false };
    for node in nodes {
        let both = async {
            let publishing = one(config, tls, &node, &format!("{name} publish")).await?;
            let consuming = one(config, tls, &node, &format!("{name} consume")).await?;
            Ok((publishing, consuming))
        };
        let place = format!("{}:{}", node.host, node.port);
        match tokio::time::timeout(share, both).await {
            Ok(Ok(connections)) => return Ok(connections),
            Ok(Err(failed)) => {
                let denied = is_denied(&failed);
                let mut error = of(&format!("cannot connect to {place}"), &failed);
                if is_untrusted(&failed) {
                    error = super::error::error(Kind::Tls, error.message()).with_native(failed.to_string());
                } else if !denied && error.kind() != Kind::Closed {
                    error = super::error::error(Kind::BackendDown, error.message()).with_native(failed.to_string());
                }
                // Another node may know us; if none does, a refusal is what there is to tell.
                if denied || !last.denied {
                    last = Failed { error, denied };
                }
            }
            Err(_) => {
                let text = format!("{place} did not answer within {share:?}");
                if !last.denied {
                    last = Failed { error: error(Kind::BackendDown, text), denied: false };
                }
            }
        }
    }
    Err(last)
}

async fn one(
    config: &RabbitmqConfig,
    tls: Option<&SslConnector>,
    node: &Node,
    name: &str,
) -> lapin::Result<Connection> {
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.username.clone(),
                password: config.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default(),
            },
            host: node.host.clone(),
            port: node.port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_BYTES_MAX),
            channel_max: Some(CHANNELS_MAX),
            auth_mechanism: Some(match config.auth_mechanism {
                AuthMechanism::Plain => SASLMechanism::Plain,
                AuthMechanism::External => SASLMechanism::External,
            }),
            heartbeat: Some(u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX)),
            ..AMQPQueryString::default()
        },
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let peer = Peer {
        host: node.host.clone(),
        port: node.port,
        // Told by our configuration, never by what the other end says of itself.
        server_name: config.tls.as_ref().and_then(|tls| tls.server_name.clone()).unwrap_or_else(|| node.host.clone()),
        tls: tls.cloned(),
    };
    let connect = async move |_: AMQPUri, runtime: Runtime| {
        let stream = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs((peer.host.clone(), peer.port))).await?;
        match &peer.tls {
            Some(connector) => Ok(stream.into_openssl(connector, &peer.server_name).await?),
            None => Ok(stream),
        }
    };
    Connection::connector(uri, lapin::runtime::default_runtime()?, connect, properties).await
}

/// The runtime that the call is made on, as the client library has it.
type Runtime = async_rs::TokioRuntime;

struct Peer {
    host: String,
    port: u16,
    server_name: String,
    tls: Option<SslConnector>,
}

/// Whether the peer could not be trusted, or did not speak TLS.
fn is_untrusted(failed: &lapin::Error) -> bool {
    match failed.kind() {
        lapin::ErrorKind::IOError(failed) => failed
            .get_ref()
            .is_some_and(|inner| inner.is::<openssl::ssl::Error>() || inner.is::<openssl::error::ErrorStack>()),
        _ => false,
    }
}

/// What a connection tells of itself.
#[derive(Debug)]
pub(super) enum Word {
    Lost(Error),
    Blocked(String),
    Unblocked,
}

/// Passes on what `connection` says, until it is lost. `publishes`: alarms concern it.
pub(super) async fn watch(connection: &Connection, publishes: bool, mut tell: impl FnMut(Word)) {
    let mut events = connection.events_listener();
    if !connection.status().connected() {
        return tell(Word::Lost(error(Kind::BackendDown, "the connection ended at once")));
    }
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) if publishes => tell(Word::Blocked(reason)),
            Event::ConnectionUnblocked if publishes => tell(Word::Unblocked),
            // Errors of channels are told here, too.
            Event::Error(lost) if !lost.is_amqp_soft_error() => {
                return tell(Word::Lost(of("the connection ended", &lost)))
            }
            _ => {}
        }
    }
    tell(Word::Lost(error(Kind::BackendDown, "the connection ended")));
}

/// A new channel; `None`: there are no more. The client library never uses the number of a channel again that
/// the server has closed: opening it fails with the error of then, and the next number may do.
pub(super) async fn channel(connection: &Connection) -> Result<Option<lapin::Channel>, Error> {
    loop {
        match connection.create_channel().await {
            Ok(channel) => return Ok(Some(channel)),
            Err(failed) if failed.is_amqp_soft_error() => {}
            Err(failed) if matches!(failed.kind(), lapin::ErrorKind::ChannelsLimitReached) => return Ok(None),
            Err(failed) => return Err(of("a channel", &failed)),
        }
    }
}

/// Closes within `timeout`. Everything that matters has been told before: an answer that does not
/// come (the client library misses one at times) is nobody's loss.
pub(super) async fn close(connection: &Connection, timeout: Duration) {
    let _ = tokio::time::timeout(timeout, connection.close(200, "OK".into())).await;
}
