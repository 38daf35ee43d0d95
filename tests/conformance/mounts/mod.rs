//! The mounted backends: one file each.

pub mod disk;
pub mod embedded;
pub mod hub;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
