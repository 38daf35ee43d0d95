//! What librdkafka and the brokers report, in the hub's words.

use super::raw::{Code, Failure};
use crate::error::{Error, Fate, Kind};

/// The name under which errors tell of this backend.
pub(super) const BACKEND: &str = "kafka";

/// An error of this backend.
pub(super) fn error(kind: Kind, text: impl Into<String>) -> Error {
    Error::new(kind, text).with_backend(BACKEND)
}

/// `what` failed. The cluster's own words are kept; they hold names, never secrets.
pub(super) fn of(what: &str, failure: &Failure) -> Error {
    error(kind(failure.code), format!("{what}: {failure}")).with_native(failure.code.name())
}

/// Whose fault it is, and what can be done.
pub(super) fn kind(code: Code) -> Kind {
    match code {
        _ if is_denied(code) => Kind::Refused,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::PolicyViolation
        | Code::InvalidConfig
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions => Kind::Refused,
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerNotAvailable
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::LeaderNotAvailable
        | Code::NotEnoughReplicas
        | Code::Fatal
        | Code::PurgeQueue
        | Code::PurgeInflight => Kind::BackendDown,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut | Code::TimedOutQueue => Kind::Timeout,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownGroup => {
            Kind::NotFound
        }
        Code::TopicAlreadyExists => Kind::Conflict,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => Kind::TooLarge,
        Code::QueueFull => Kind::Full,
        Code::SSL => Kind::Tls,
        Code::InvalidTopic => Kind::Name,
        Code::CriticalSystemResource => Kind::Resources,
        _ => Kind::Kafka,
    }
}

/// Whether the cluster refused who we are, so that trying again soon is of no use.
pub(super) fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::UnsupportedFeature
    )
}

/// A publish or call while there is no connection.
pub(super) fn away() -> Error {
    error(Kind::BackendDown, "there is no connection to the cluster").with_fate(Fate::NotSent)
}

/// A call on a backend that is closed.
pub(super) fn closed() -> Error {
    error(Kind::Closed, "the backend is closed").with_fate(Fate::NotSent)
}
