//! Batches of records: from an array or from packed frames to the hub, in chunks of [`CHUNK`].

use std::ops::Range;

use smallvec::SmallVec;

use super::guard::fail;
use super::objects::Prepared;
use super::record::{own_record, with_scratch};
use super::structs::Step;
use super::text::{put, Timeout};
use super::types::{hmq_error, hmq_record, hmq_status, OK, PARTIAL};
use crate::error::{Error, Kind, Result};
use crate::hub::Inbox;
use crate::message::{HeaderBlock, Headers, Record};

/// Records handed to the hub at once.
pub(super) const CHUNK: usize = 64;

/// A record of a batch: its headers are in the block, at the range, or those it has.
pub(super) struct Item<'a> {
    pub(super) record: Record<'a>,
    pub(super) headers: Option<Range<usize>>,
    pub(super) tag: u64,
}

/// Where the records of a batch come from.
pub(super) trait Source<'a> {
    /// The next one; `None` behind the last.
    fn next(&mut self, own: &'a Prepared, block: &mut HeaderBlock) -> Option<Result<Item<'a>>>;
}

/// An array of `hmq_record`.
pub(super) struct Array {
    records: Step<hmq_record>,
    next: usize,
}

impl Array {
    /// # Safety
    /// `records` is NULL or valid for `count` records, whose pointers are NULL or valid.
    pub(super) unsafe fn new(records: *const hmq_record, count: usize, name: &str) -> Result<Self> {
        // SAFETY: as promised by the caller; nothing is written through it.
        Ok(Self { records: unsafe { Step::of(records.cast_mut(), count, name) }?, next: 0 })
    }
}

impl<'a> Source<'a> for Array {
    #[inline(always)]
    fn next(&mut self, own: &'a Prepared, block: &mut HeaderBlock) -> Option<Result<Item<'a>>> {
        if self.next == self.records.count() {
            return None;
        }
        // SAFETY: `new` was promised valid records, and this index is below their count.
        let item = unsafe {
            self.records.checked(self.next).and_then(|given| {
                if given.size as usize != self.records.size() {
                    return Err(not_from_init(self.next, given.size));
                }
                let (record, headers) = own_record(given, own, block)?;
                Ok(Item { record, headers, tag: given.tag })
            })
        };
        self.next += 1;
        Some(item)
    }
}

/// A record that was only zeroed would be sent with other defaults than its neighbours.
#[cold]
fn not_from_init(index: usize, size: u32) -> Error {
    let text =
        format!("records[{index}].size is {size}, not that of the first: start each record from HMQ_RECORD_INIT");
    Error::new(Kind::Abi, text)
}

/// How far a batch got.
pub(super) struct Sent {
    accepted: usize,
    stopped: Option<Error>,
}

impl Sent {
    /// # Safety
    /// Both outputs are NULL or valid for a write.
    pub(super) unsafe fn into_status(self, accepted: *mut usize, err: *mut *mut hmq_error) -> Result<hmq_status> {
        // SAFETY: as promised by the caller.
        unsafe { put(accepted, self.accepted) };
        match self.stopped {
            None => Ok(OK),
            Some(error) if self.accepted == 0 => Err(error),
            Some(error) => {
                // SAFETY: as promised by the caller.
                unsafe { fail(err, &error) };
                Ok(PARTIAL)
            }
        }
    }
}

/// Hands the records of `source` on in chunks: `send` gets how many went before, the records and
/// their tags, and answers how many of them were taken and why no more.
fn drive<'a>(
    own: &'a Prepared,
    mut source: impl Source<'a>,
    mut send: impl FnMut(usize, &[Record<'_>], &[u64]) -> (usize, Option<Error>),
) -> Sent {
    let mut accepted = 0;
    loop {
        let (taken, count, wrong) = with_scratch(|block| {
            // Room on the stack that is not filled before it is used.
            let mut records = SmallVec::<[Record<'_>; CHUNK]>::new();
            let mut ranges = SmallVec::<[(usize, Range<usize>); CHUNK]>::new();
            let mut tags = SmallVec::<[u64; CHUNK]>::new();
            let mut wrong = None;
            while records.len() < CHUNK {
                match source.next(own, block) {
                    Some(Ok(item)) => {
                        if let Some(range) = item.headers {
                            ranges.push((records.len(), range));
                        }
                        records.push(item.record);
                        tags.push(item.tag);
                    }
                    Some(Err(error)) => {
                        wrong = Some(error);
                        break;
                    }
                    None => break,
                }
            }
            let written = block.headers().bytes();
            for (index, range) in ranges {
                if let Some(record) = records.get_mut(index) {
                    record.headers = Headers::from_bytes(written.get(range).unwrap_or_default());
                }
            }
            let taken = if records.is_empty() { (0, None) } else { send(accepted, &records, &tags) };
            (taken, records.len(), wrong)
        });
        accepted += taken.0;
        let stopped = taken.1.or(wrong);
        if stopped.is_some() || count < CHUNK {
            return Sent { accepted, stopped };
        }
    }
}

/// Publishes a batch and waits; `each` gets the status of every record.
pub(super) fn send_all<'a>(
    own: &'a Prepared,
    source: impl Source<'a>,
    timeout: Timeout,
    each: Option<&mut [hmq_status]>,
) -> Sent {
    let mut sending = own.publisher.sending(timeout);
    let sent = drive(own, source, |_, records, _| sending.send(records));
    let (accepted, stopped) = sending.finish(sent.stopped, each);
    Sent { accepted, stopped }
}

/// Publishes a batch whose outcomes come to `inbox`; `ops` gets their numbers.
pub(super) fn send_all_to_inbox<'a>(
    own: &'a Prepared,
    source: impl Source<'a>,
    inbox: &Inbox,
    mut ops: Option<&mut [u64]>,
) -> Sent {
    drive(own, source, |before, records, tags| {
        let ops = ops.as_deref_mut().and_then(|ops| ops.get_mut(before..));
        own.publisher.send_inbox(records, tags, inbox, ops)
    })
}
