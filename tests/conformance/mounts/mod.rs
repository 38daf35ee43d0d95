//! The mounted backends: one file each.

pub mod embedded;
pub mod hub;
