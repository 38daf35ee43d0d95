//! Lists of partitions with an offset each.

use std::ffi::CStr;
use std::fmt;
use std::ptr::NonNull;

use rdkafka_sys as sys;

use super::{c_text, code_of, Result};

/// A list that is owned.
pub struct List(NonNull<sys::rd_kafka_topic_partition_list_t>);

// SAFETY: plain memory; only the owner touches it.
unsafe impl Send for List {}

/// One entry of a list.
#[derive(Debug, Clone)]
pub struct Partition<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// What was committed beside the offset.
    pub note: &'a str,
    pub result: Result<()>,
}

impl List {
    /// An empty one.
    pub fn new() -> Self {
        // SAFETY: answers a list, or ends the process where there is no memory, as librdkafka does throughout.
        Self(unsafe { NonNull::new_unchecked(sys::rd_kafka_topic_partition_list_new(8)) })
    }

    /// A copy of one that librdkafka keeps; empty for null.
    ///
    /// # Safety
    /// `list` is null, or lives for the call.
    pub(super) unsafe fn copy(list: *const sys::rd_kafka_topic_partition_list_t) -> Self {
        if list.is_null() {
            return Self::new();
        }
        // SAFETY: not null; the copy is ours.
        Self(unsafe { NonNull::new_unchecked(sys::rd_kafka_topic_partition_list_copy(list)) })
    }

    pub(super) fn ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    /// Adds a partition; of a subscription's list, -1 is any.
    pub fn add(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let topic = c_text(topic)?;
        // SAFETY: the list is ours; the name is copied; the entry lives until the next change of the list.
        unsafe {
            let entry = sys::rd_kafka_topic_partition_list_add(self.ptr(), topic.as_ptr(), partition);
            (*entry).offset = offset;
        }
        Ok(())
    }

    /// Adds a partition and a note, which is committed beside its offset.
    pub fn add_noted(&mut self, topic: &str, partition: i32, offset: i64, note: &str) -> Result<()> {
        self.add(topic, partition, offset)?;
        if note.is_empty() {
            return Ok(());
        }
        // SAFETY: the list is ours and has an entry; notes are freed by librdkafka with `free`, which is that of
        // the C library.
        unsafe {
            let count = usize::try_from((*self.ptr()).cnt).unwrap_or_default();
            let entry = (*self.ptr()).elems.add(count.saturating_sub(1));
            let copy = libc::malloc(note.len());
            if !copy.is_null() {
                std::ptr::copy_nonoverlapping(note.as_ptr(), copy.cast(), note.len());
                (*entry).metadata = copy;
                (*entry).metadata_size = note.len();
            }
        }
        Ok(())
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = Partition<'_>> {
        // SAFETY: the array has the length told beside it and lives as long as the list does.
        let entries = unsafe {
            let count = usize::try_from((*self.ptr()).cnt).unwrap_or_default();
            match count {
                0 => &[][..],
                count => std::slice::from_raw_parts((*self.ptr()).elems, count),
            }
        };
        entries.iter().map(|entry| Partition {
            // SAFETY: every entry has a name, a C string that lives with it.
            topic: unsafe { CStr::from_ptr(entry.topic) }.to_str().unwrap_or_default(),
            partition: entry.partition,
            offset: entry.offset,
            // SAFETY: note and length belong together, and live with the entry.
            note: unsafe { note(entry) },
            // SAFETY: a field of an entry that lives.
            result: unsafe { code_of(&raw const entry.err) },
        })
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// # Safety
/// `entry` is one of a list that lives as long as the answer.
unsafe fn note(entry: &sys::rd_kafka_topic_partition_t) -> &str {
    if entry.metadata.is_null() {
        return "";
    }
    // SAFETY: by this function's contract.
    let bytes = unsafe { std::slice::from_raw_parts(entry.metadata.cast::<u8>(), entry.metadata_size) };
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the last hold.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.ptr()) };
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.iter().map(|entry| format!("{}[{}]@{}", entry.topic, entry.partition, entry.offset));
        f.debug_list().entries(names).finish()
    }
}
