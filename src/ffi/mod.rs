//! The C ABI: convert, call, convert back. Nothing here knows about messaging, and nearly all
//! `unsafe` code of the crate is here.
//!
//! - Every exported function runs its body behind one guard ([`guard`]): a forked child is turned
//!   away, a panic becomes a status, outputs are always written.
//! - Handles are numbers that are looked up ([`slot`], [`messages`]); no input is ever followed as
//!   an address but those that the header says are pointers to the caller's memory.
//! - Owned texts are found by address ([`text`]), so that freeing anything else does nothing.
//! - What signal handlers may call takes no lock ([`signal`]).
//!
//! One file for each group of the header; `types` has its structs and numbers. The header is
//! generated from these files (`tests/header.rs`), so their comments are written for C readers.
#![allow(clippy::missing_safety_doc, reason = "the comments become the header; its contract is in `guard::body`")]
#![allow(clippy::too_many_arguments, reason = "the shapes of C: pointer and length, output, error")]
#![allow(non_camel_case_types, reason = "the types carry their names of C")]

mod batch;
mod broker;
mod broker_ops;
mod callback;
mod convert;
mod error;
mod event;
mod frame;
mod guard;
mod hub;
mod inbox;
mod message;
mod messages;
mod objects;
mod ops;
mod process;
mod publish;
mod publisher;
mod record;
mod settle;
mod signal;
mod slot;
mod structs;
mod subscribe;
#[cfg(hmq_test)]
mod testing;
mod text;
mod topic;
mod types;

pub use broker::*;
pub use broker_ops::hmq_broker_ops;
pub use error::*;
pub use hub::*;
pub use inbox::*;
pub use message::*;
pub use ops::*;
pub use process::*;
pub use publish::*;
pub use publisher::*;
pub use settle::*;
pub use slot::useless_frees;
pub use subscribe::*;
#[cfg(hmq_test)]
pub use testing::*;
pub use topic::*;
pub use types::*;
