//! Error codes, as numbers. librdkafka hands on what a broker answers, and a newer broker knows more codes than
//! the bindings do: read as their enumeration, such a code would be undefined behaviour.

use std::ffi::{c_char, c_int, c_void};

use rdkafka_sys as sys;

use super::Failure;

/// What was reported, as far as it is told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(c_int);

macro_rules! codes {
    ($($name:ident = $number:ident;)*) => {
        #[allow(non_upper_case_globals, reason = "read like the variants of an enumeration")]
        impl Code {
            $(pub const $name: Self = Self(sys::rd_kafka_resp_err_t::$number as c_int);)*

            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

codes! {
    AssignPartitions = RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
    AllBrokersDown = RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
    Authentication = RD_KAFKA_RESP_ERR__AUTHENTICATION;
    AutoOffsetReset = RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET;
    BrokerNotAvailable = RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE;
    BrokerTransportFailure = RD_KAFKA_RESP_ERR__TRANSPORT;
    ClusterAuthorizationFailed = RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    CoordinatorLoadInProgress = RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    CoordinatorNotAvailable = RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE;
    CriticalSystemResource = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
    Fatal = RD_KAFKA_RESP_ERR__FATAL;
    GroupAuthorizationFailed = RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    GroupIdNotFound = RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND;
    IllegalSASLState = RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE;
    InvalidArgument = RD_KAFKA_RESP_ERR__INVALID_ARG;
    InvalidConfig = RD_KAFKA_RESP_ERR_INVALID_CONFIG;
    InvalidMessageSize = RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE;
    InvalidPartitions = RD_KAFKA_RESP_ERR_INVALID_PARTITIONS;
    InvalidReplicationFactor = RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR;
    InvalidTopic = RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    LeaderNotAvailable = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
    MessageBatchTooLarge = RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE;
    MessageSizeTooLarge = RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    MessageTimedOut = RD_KAFKA_RESP_ERR__MSG_TIMED_OUT;
    NotCoordinator = RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    NotEnoughReplicas = RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    NotLeaderForPartition = RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    OffsetOutOfRange = RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
    OperationTimedOut = RD_KAFKA_RESP_ERR__TIMED_OUT;
    PartitionEOF = RD_KAFKA_RESP_ERR__PARTITION_EOF;
    PolicyViolation = RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
    PurgeInflight = RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
    PurgeQueue = RD_KAFKA_RESP_ERR__PURGE_QUEUE;
    QueueFull = RD_KAFKA_RESP_ERR__QUEUE_FULL;
    RequestTimedOut = RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT;
    Resolve = RD_KAFKA_RESP_ERR__RESOLVE;
    SSL = RD_KAFKA_RESP_ERR__SSL;
    SaslAuthenticationFailed = RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
    TimedOutQueue = RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE;
    TopicAlreadyExists = RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS;
    TopicAuthorizationFailed = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    UnknownGroup = RD_KAFKA_RESP_ERR__UNKNOWN_GROUP;
    UnknownPartition = RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
    UnknownTopic = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    UnknownTopicOrPartition = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    UnsupportedFeature = RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE;
    UnsupportedSASLMechanism = RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM;
    WaitingForCoordinator = RD_KAFKA_RESP_ERR__WAIT_COORD;
}

impl Code {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn of(number: c_int) -> Self {
        Self(number)
    }

    /// Its name, or its number.
    pub fn name(self) -> String {
        let found = Self::NAMES.iter().find(|(code, _)| *code == self);
        found.map_or_else(|| format!("code {}", self.0), |(_, name)| (*name).to_owned())
    }

    /// The code behind a field of librdkafka's.
    ///
    /// # Safety
    /// `field` is readable.
    pub(super) unsafe fn read(field: *const sys::rd_kafka_resp_err_t) -> Self {
        // SAFETY: by this function's contract; the enumeration is as wide as a number.
        Self(unsafe { field.cast::<c_int>().read() })
    }

    pub(super) fn text(self) -> String {
        // SAFETY: answers a static text for any number.
        unsafe { super::text_of(rd_kafka_err2str(self.0)) }
    }
}

/// Nothing went wrong, or what did.
pub(super) fn checked(code: c_int) -> super::Result<()> {
    match Code(code) {
        Code::NONE => Ok(()),
        code => Err(Failure::of(code)),
    }
}

// The same functions as in the bindings, with numbers for codes.
#[allow(clashing_extern_declarations, reason = "an enumeration of the bindings is as wide as a number")]
extern "C" {
    fn rd_kafka_err2str(code: c_int) -> *const c_char;
    pub(super) fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> c_int;
    pub(super) fn rd_kafka_event_error(event: *mut sys::rd_kafka_event_t) -> c_int;
    pub(super) fn rd_kafka_topic_result_error(result: *const sys::rd_kafka_topic_result_t) -> c_int;
    pub(super) fn rd_kafka_ConfigResource_error(resource: *const sys::rd_kafka_ConfigResource_t) -> c_int;
    pub(super) fn rd_kafka_last_error() -> c_int;
    pub(super) fn rd_kafka_list_groups(
        client: *mut sys::rd_kafka_t,
        group: *const c_char,
        list: *mut *const sys::rd_kafka_group_list,
        timeout_ms: c_int,
    ) -> c_int;
    pub(super) fn rd_kafka_metadata(
        client: *mut sys::rd_kafka_t,
        all: c_int,
        only: *mut sys::rd_kafka_topic_t,
        metadata: *mut *const sys::rd_kafka_metadata,
        timeout_ms: c_int,
    ) -> c_int;
    pub(super) fn rd_kafka_query_watermark_offsets(
        client: *mut sys::rd_kafka_t,
        topic: *const c_char,
        partition: i32,
        low: *mut i64,
        high: *mut i64,
        timeout_ms: c_int,
    ) -> c_int;
    pub(super) fn rd_kafka_offsets_for_times(
        client: *mut sys::rd_kafka_t,
        list: *mut sys::rd_kafka_topic_partition_list_t,
        timeout_ms: c_int,
    ) -> c_int;
    pub(super) fn rd_kafka_oauthbearer_set_token(
        client: *mut sys::rd_kafka_t,
        token: *const c_char,
        lifetime_ms: i64,
        principal: *const c_char,
        extensions: *mut *const c_char,
        extension_count: usize,
        text: *mut c_char,
        text_size: usize,
    ) -> c_int;
    pub(super) fn rd_kafka_subscribe(
        client: *mut sys::rd_kafka_t,
        list: *const sys::rd_kafka_topic_partition_list_t,
    ) -> c_int;
    pub(super) fn rd_kafka_assign(
        client: *mut sys::rd_kafka_t,
        list: *const sys::rd_kafka_topic_partition_list_t,
    ) -> c_int;
    pub(super) fn rd_kafka_committed(
        client: *mut sys::rd_kafka_t,
        list: *mut sys::rd_kafka_topic_partition_list_t,
        timeout_ms: c_int,
    ) -> c_int;
    pub(super) fn rd_kafka_commit_queue(
        client: *mut sys::rd_kafka_t,
        list: *const sys::rd_kafka_topic_partition_list_t,
        queue: *mut sys::rd_kafka_queue_t,
        call: *const c_void,
        opaque: *mut c_void,
    ) -> c_int;
    pub(super) fn rd_kafka_message_headers(
        message: *const sys::rd_kafka_message_t,
        headers: *mut *mut sys::rd_kafka_headers_t,
    ) -> c_int;
    pub(super) fn rd_kafka_header_get_all(
        headers: *const sys::rd_kafka_headers_t,
        index: usize,
        name: *mut *const c_char,
        value: *mut *const c_void,
        size: *mut usize,
    ) -> c_int;
}
