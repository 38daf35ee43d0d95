//! The part of `include/helixmq.h` that the benchmarks call, declared by hand: they use the shared
//! library as a C program does, and nothing else of it.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_void};

pub type hmq_status = i32;
pub const HMQ_OK: hmq_status = 0;
pub const HMQ_NO_DATA: hmq_status = 1;
pub const HMQ_ACK: i32 = 0x2B5A_C401;
pub const HMQ_EV_MESSAGE: u32 = 1;
pub const HMQ_EV_PUBLISHED: u32 = 2;
pub const HMQ_LEVEL_BROKER: i32 = 3;
pub const HMQ_FORCE_AUTO: i32 = 0;
pub const HMQ_FORCE_DOWN: i32 = 1;

macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque! { hmq_hub hmq_pub hmq_sub hmq_msg hmq_inbox hmq_error }

#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_record {
    pub size: u32,
    pub kind: i32,
    pub topic: *const c_char,
    pub topic_len: usize,
    pub payload: *const c_void,
    pub payload_len: usize,
    pub key: *const c_void,
    pub key_len: usize,
    pub id: *const c_char,
    pub id_len: usize,
    pub type_: *const c_char,
    pub type_len: usize,
    pub headers: *const hmq_header,
    pub header_count: usize,
    pub timestamp_us: i64,
    pub delay_ms: i64,
    pub ttl_ms: i64,
    pub priority: i32,
    pub flags: u32,
    pub meta: *const c_char,
    pub meta_len: usize,
    pub tag: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_header {
    pub name: *const c_char,
    pub name_len: usize,
    pub value: *const c_void,
    pub value_len: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_event {
    pub size: u32,
    pub kind: u32,
    pub status: hmq_status,
    pub attempt: u32,
    pub tag: u64,
    pub token: u64,
    pub timestamp_us: i64,
    pub msg: *mut hmq_msg,
    pub payload: *const c_void,
    pub payload_len: usize,
    pub topic: *const c_char,
    pub topic_len: usize,
    pub key: *const c_void,
    pub key_len: usize,
    pub json: *const c_char,
    pub json_len: usize,
    pub flags: u32,
    pub partition: u32,
    pub offset: i64,
    pub level: i32,
    pub backend: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_settlement {
    pub size: u32,
    pub verdict: i32,
    pub token: u64,
    pub delay_ms: i64,
    pub reason: *const c_char,
    pub reason_len: usize,
    pub result: hmq_status,
    pub reserved: u32,
}

extern "C" {
    pub fn hmq_version_string() -> *const c_char;
    pub fn hmq_error_json(error: *const hmq_error, len: *mut usize) -> *const c_char;
    pub fn hmq_error_free(error: *mut hmq_error);
    pub fn hmq_hub_open(
        config: *const c_char,
        config_len: usize,
        timeout_ms: i32,
        out: *mut *mut hmq_hub,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_hub_close(hub: *mut hmq_hub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status;
    pub fn hmq_hub_free(hub: *mut hmq_hub);
    pub fn hmq_declare(
        hub: *mut hmq_hub,
        options: *const c_char,
        options_len: usize,
        timeout_ms: i32,
        created: *mut i32,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_backend_force(
        hub: *mut hmq_hub,
        backend: *const c_char,
        backend_len: usize,
        mode: i32,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_wait_forwarded(hub: *mut hmq_hub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status;
    pub fn hmq_health(
        hub: *mut hmq_hub,
        json: *mut *mut c_char,
        len: *mut usize,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_free(text: *mut c_void);
    pub fn hmq_purge(
        hub: *mut hmq_hub,
        topic: *const c_char,
        topic_len: usize,
        timeout_ms: i32,
        removed: *mut u64,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_publish_json(
        hub: *mut hmq_hub,
        message: *const c_char,
        message_len: usize,
        timeout_ms: i32,
        receipt: *mut c_void,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_pub_new(
        hub: *mut hmq_hub,
        options: *const c_char,
        options_len: usize,
        out: *mut *mut hmq_pub,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_pub_free(publisher: *mut hmq_pub);
    pub fn hmq_pub_send(
        publisher: *mut hmq_pub,
        record: *const hmq_record,
        timeout_ms: i32,
        receipt: *mut c_void,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_pub_send_batch(
        publisher: *mut hmq_pub,
        records: *const hmq_record,
        count: usize,
        timeout_ms: i32,
        each: *mut hmq_status,
        accepted: *mut usize,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_pub_send_inbox(
        publisher: *mut hmq_pub,
        records: *const hmq_record,
        count: usize,
        inbox: *mut hmq_inbox,
        ops: *mut u64,
        accepted: *mut usize,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_subscribe_inbox(
        hub: *mut hmq_hub,
        options: *const c_char,
        options_len: usize,
        inbox: *mut hmq_inbox,
        tag: u64,
        timeout_ms: i32,
        out: *mut *mut hmq_sub,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_sub_close(sub: *mut hmq_sub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status;
    pub fn hmq_sub_free(sub: *mut hmq_sub);
    pub fn hmq_inbox_new(
        hub: *mut hmq_hub,
        options: *const c_char,
        options_len: usize,
        out: *mut *mut hmq_inbox,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_inbox_poll(
        inbox: *mut hmq_inbox,
        events: *mut hmq_event,
        max: usize,
        timeout_ms: i32,
        count: *mut usize,
    ) -> hmq_status;
    pub fn hmq_events_clear(events: *mut hmq_event, count: usize);
    pub fn hmq_inbox_free(inbox: *mut hmq_inbox);
    pub fn hmq_settle(
        token: u64,
        verdict: i32,
        delay_ms: i64,
        reason: *const c_char,
        reason_len: usize,
        err: *mut *mut hmq_error,
    ) -> hmq_status;
    pub fn hmq_settle_many(settlements: *mut hmq_settlement, count: usize, err: *mut *mut hmq_error) -> hmq_status;
}
