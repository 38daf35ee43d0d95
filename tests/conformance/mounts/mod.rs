//! The mounted backends: one file each.

pub mod embedded;
pub mod hub;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
