//! The kinds of failure, grouped by who is to blame, and their numbers in the C ABI.
//!
//! Numbers never move; a retired one stays reserved. 1…99 caller, 100… library, 200… RabbitMQ,
//! 300… Kafka, 400… embedded broker (all negative in C).

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The calling program.
    Caller,
    /// This library, or the resources of its process.
    Library,
    /// A RabbitMQ server.
    RabbitMq,
    /// A Kafka cluster.
    Kafka,
    /// The embedded broker.
    Embedded,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $origin:literal, $flags:expr;)*) => {
        /// What went wrong. One number, one name, for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Kind { $($(#[$doc])* $name = $code,)* }

        impl Kind {
            /// All kinds, in the order of the table.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The name of the C constant.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }

            /// The name of the same failure in the original messaging package.
            pub const fn origin_name(self) -> &'static str {
                match self { $(Kind::$name => $origin,)* }
            }

            /// `RETRIABLE`, `FATAL`, `MISUSE`, `UNKNOWN_OUTCOME` as bits.
            pub const fn flags(self) -> u32 {
                match self { $(Kind::$name => $flags,)* }
            }
        }
    };
}

/// The same call may succeed later.
pub const RETRIABLE: u32 = 1;
/// The object cannot be used any more.
pub const FATAL: u32 = 2;
/// The calling program must be changed.
pub const MISUSE: u32 = 4;
/// The message may or may not have arrived.
pub const UNKNOWN_OUTCOME: u32 = 8;

kinds! {
    /// A required pointer is NULL.
    Null = -1, "HMQ_E_NULL", "MESSAGE_INVALID", MISUSE;
    /// A handle is stale, foreign, of another type, or was never issued.
    Handle = -2, "HMQ_E_HANDLE", "MESSAGE_INVALID", MISUSE;
    /// An argument is outside its range.
    Arg = -3, "HMQ_E_ARG", "MESSAGE_INVALID", MISUSE;
    /// A text is not UTF-8.
    Utf8 = -4, "HMQ_E_UTF8", "SERIALIZATION_FAILED", MISUSE;
    /// A name is empty, too long, reserved, or has a character that no broker takes.
    Name = -5, "HMQ_E_NAME", "MESSAGE_INVALID", MISUSE;
    /// A header is not acceptable.
    Header = -6, "HMQ_E_HEADER", "MESSAGE_INVALID", MISUSE;
    /// A JSON document (configuration, options, message) is not acceptable.
    Config = -7, "HMQ_E_CONFIG", "INVALID_CONFIG", MISUSE;
    /// A secret cannot be read.
    Secret = -8, "HMQ_E_SECRET", "MISSING_CONFIG", MISUSE;
    /// TLS material is not usable, or the peer's is not trusted.
    Tls = -9, "HMQ_E_TLS", "INVALID_CONFIG", MISUSE;
    /// Larger than a limit.
    TooLarge = -10, "HMQ_E_TOO_LARGE", "MESSAGE_TOO_LARGE", MISUSE;
    /// Not possible in the object's present state.
    State = -11, "HMQ_E_STATE", "UNKNOWN_ERROR", MISUSE;
    /// The object is closed.
    Closed = -12, "HMQ_E_CLOSED", "CONNECTION_CLOSED", MISUSE;
    /// The call would wait for the callback it is made from.
    Reentrant = -13, "HMQ_E_REENTRANT", "UNKNOWN_ERROR", MISUSE;
    /// The delivery's lease has ended: its subscription or connection is gone, or it timed out.
    Stale = -14, "HMQ_E_STALE", "ACK_FAILED", 0;
    /// The delivery was settled before.
    Settled = -15, "HMQ_E_SETTLED", "ACK_FAILED", MISUSE;
    /// The topic is used as the other kind (task or event).
    TopicKind = -16, "HMQ_E_KIND", "INVALID_CONFIG", MISUSE;
    /// A struct's size or the header's version does not fit this library.
    Abi = -17, "HMQ_E_ABI", "INVALID_CONFIG", MISUSE | FATAL;
    /// Called in a child after fork.
    Forked = -18, "HMQ_E_FORKED", "UNKNOWN_ERROR", MISUSE | FATAL;

    /// A bounded queue is full; the message names which.
    Full = -100, "HMQ_E_FULL", "PUBLISH_REJECTED", RETRIABLE;
    /// The time given has passed.
    Timeout = -101, "HMQ_E_TIMEOUT", "CONNECTION_TIMEOUT", RETRIABLE;
    /// Ended by a cancel, or by the closing of its object.
    Cancelled = -102, "HMQ_E_CANCELLED", "OPERATION_CANCELED", 0;
    /// Messaging is switched off by configuration.
    Disabled = -103, "HMQ_E_DISABLED", "BROKER_UNAVAILABLE", 0;
    /// The backend is away.
    BackendDown = -104, "HMQ_E_BACKEND_DOWN", "BROKER_UNAVAILABLE", RETRIABLE;
    /// The backend, or this build, does not have the feature.
    Unsupported = -105, "HMQ_E_UNSUPPORTED", "UNKNOWN_ERROR", 0;
    /// Another process holds the data directory.
    Locked = -106, "HMQ_E_LOCKED", "UNKNOWN_ERROR", RETRIABLE;
    /// A panic was caught; the object it happened in is poisoned.
    Panic = -107, "HMQ_E_PANIC", "UNKNOWN_ERROR", FATAL;
    /// A defect of this library.
    Internal = -108, "HMQ_E_INTERNAL", "UNKNOWN_ERROR", 0;
    /// There is no such topic, queue, group or dead letter.
    NotFound = -109, "HMQ_E_NOT_FOUND", "QUEUE_NOT_FOUND", 0;
    /// It exists with other settings; the message names both values.
    Conflict = -110, "HMQ_E_CONFLICT", "QUEUE_DECLARE_FAILED", 0;
    /// The operating system refused a thread, memory or a descriptor.
    Resources = -111, "HMQ_E_RESOURCES", "UNKNOWN_ERROR", RETRIABLE;
    /// The broker took the message or not: nobody can tell.
    OutcomeUnknown = -112, "HMQ_E_OUTCOME_UNKNOWN", "CONFIRM_TIMEOUT", RETRIABLE | UNKNOWN_OUTCOME;
    /// A broker refused the message or the request.
    Refused = -113, "HMQ_E_REFUSED", "PUBLISH_REJECTED", 0;

    /// RabbitMQ reported an error that has no kind of its own.
    RabbitMq = -200, "HMQ_E_RABBITMQ", "CONNECTION_FAILED", RETRIABLE;
    /// RabbitMQ could not route the message to any queue.
    Unroutable = -201, "HMQ_E_UNROUTABLE", "EXCHANGE_NOT_FOUND", 0;

    /// Kafka reported an error that has no kind of its own.
    Kafka = -300, "HMQ_E_KAFKA", "CONNECTION_FAILED", RETRIABLE;

    /// The embedded broker's storage failed.
    Storage = -400, "HMQ_E_STORAGE", "UNKNOWN_ERROR", RETRIABLE;
}

impl Kind {
    /// The number in the C ABI.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The kind behind a number.
    pub fn from_code(code: i32) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// Who can mend it.
    pub const fn blame(self) -> Blame {
        match self.code() {
            -99..=-1 => Blame::Caller,
            -299..=-200 => Blame::RabbitMq,
            -399..=-300 => Blame::Kafka,
            -499..=-400 => Blame::Embedded,
            _ => Blame::Library,
        }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retriable(self) -> bool {
        self.flags() & RETRIABLE != 0
    }
}
