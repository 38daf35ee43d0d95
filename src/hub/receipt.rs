//! What a publish that succeeded answers: who has the message, how safe it is, and its id.

use super::publish::Outlet;
use crate::broker::{BackendKind, Level};
use crate::message::{MessageId, Record};

/// What a successful publish answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// How safe the message is.
    pub level: Level,
    /// Who has it.
    pub backend: BackendKind,
    /// Its id.
    pub id: ReceiptId,
    /// It waits in the spool for its backend to come back.
    pub spooled: bool,
}

/// The id of a message that was taken. Most callers never look, so its text is made when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptId {
    /// Made here, from the hub's prefix and the message's number.
    Made(u64, u64),
    /// Brought by the record.
    Given(MessageId),
}

impl ReceiptId {
    pub(super) fn of(record: &Record<'_>, outlet: &Outlet, seq: u64) -> Self {
        match record.id {
            "" => ReceiptId::Made(outlet.backend.id_prefix, seq),
            given => ReceiptId::Given(MessageId::given(given)),
        }
    }

    /// The text.
    pub fn text(&self) -> MessageId {
        match self {
            ReceiptId::Made(prefix, seq) => MessageId::made(*prefix, *seq),
            ReceiptId::Given(id) => *id,
        }
    }
}
