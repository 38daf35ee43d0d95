//! What lapin and the server report, in the hub's words.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::ErrorKind;

use crate::error::{Error, Fate, Kind};

/// The name under which errors tell of this backend.
pub(super) const BACKEND: &str = "rabbitmq";

/// An error of this backend.
pub(super) fn error(kind: Kind, text: impl Into<String>) -> Error {
    Error::new(kind, text).with_backend(BACKEND)
}

/// `what` failed. The server's own words are kept; they hold names, never secrets.
pub(super) fn of(what: &str, failed: &lapin::Error) -> Error {
    let kind = match failed.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Kind::NotFound,
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Kind::Conflict,
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                Kind::Refused
            }
            _ => Kind::RabbitMq,
        },
        ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError | ErrorKind::InvalidConnectionState(_) => {
            Kind::BackendDown
        }
        ErrorKind::RuntimeShutdownError(_) => Kind::Closed,
        _ => Kind::RabbitMq,
    };
    error(kind, format!("{what}: {failed}")).with_native(failed.to_string())
}

/// Whether the server refused who we are, so that trying again soon is of no use.
pub(super) fn is_denied(failed: &lapin::Error) -> bool {
    match failed.kind() {
        ErrorKind::ProtocolError(said) => matches!(
            said.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
        ),
        ErrorKind::AuthProviderError(_) => true,
        _ => false,
    }
}

/// A publish or call while there is no connection.
pub(super) fn away() -> Error {
    error(Kind::BackendDown, "there is no connection to the server").with_fate(Fate::NotSent)
}

/// The connection ended before the server had answered.
pub(super) fn unknown(cause: &Error) -> Error {
    error(Kind::OutcomeUnknown, "the connection ended before the server had confirmed").caused_by(cause.clone())
}
