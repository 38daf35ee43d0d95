//! The rows with a Kafka server: ours beside librdkafka's own program and the clients of the `rdkafka`
//! crate.

mod cluster;
mod load;
mod ours;
mod performance;
mod rdkafka;
mod rows;

pub use cluster::{Cluster, NATIVE};
pub use load::{Codec, Load, Publishes};
pub use ours::Ours;
pub use rows::{load, solo, Rows, WINDOW};
