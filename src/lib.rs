//! helixmq: tasks and events through one C library, with or without a server.
//!
//! A program opens a *hub* and publishes tasks (work, done once by any one worker) and events
//! (facts in a log, seen by every consumer group). RabbitMQ carries tasks, Kafka carries events,
//! and a broker embedded in this library carries both where there is no server.
//!
//! It is not a server, not a framework, and not a database: nothing listens on a port, no handler
//! is wrapped, and no message is decoded.
//!
//! Data flows down one staircase, and nothing below knows what is above:
//!
//! ```text
//! ffi     the C ABI: convert, call, convert back; nearly all unsafe code of the crate
//! hub     routes, publishing, subscriptions, settlement, retry, dead letters, replay, health
//! broker  one trait; the embedded broker, and the servers' backends
//! ```
//!
//! The C header `include/helixmq.h` is the product. The Rust items are public for the tests of
//! this repository and carry no promise of stability.

pub mod broker;
pub mod clock;
pub mod config;
pub mod error;
pub mod ffi;
pub mod hub;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod numbers;
pub mod pattern;
pub mod reentrancy;
pub mod runtime;
pub mod signal;
pub mod sync;
