//! Callbacks of the caller: a function, its user data, and a drop function that is called exactly
//! once, after the last call, on every path.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::messages;
use super::record::receipt_of;
use super::text::{null, with_nul};
use super::types::{
    hmq_done_fn, hmq_drop_fn, hmq_msg, hmq_msg_fn, hmq_ready_fn, hmq_status, hmq_text_fn, hmq_thread_fn, hmq_verdict,
    ACK, LATER, OK, REJECT, RETRY,
};
use crate::broker::TokenProvider;
use crate::error::{Error, Kind, Result};
use crate::hub::{Handler, HandlerVerdict, Incoming, LogLevel, Receipt, TextHandler};
use crate::reentrancy::{as_callback, Caller};

/// The caller's baton. Its drop function runs when this is dropped, hence exactly once.
pub(super) struct UserData {
    data: *mut c_void,
    drop: hmq_drop_fn,
}

// SAFETY: the header says that callbacks come on threads of the library; the pointer is only handed on.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(super) fn new(data: *mut c_void, drop: hmq_drop_fn) -> Self {
        Self { data, drop }
    }

    pub(super) fn get(&self) -> *mut c_void {
        self.data
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: the caller's function, called once and last, as the header says.
            unsafe { drop(self.data) }
        }
    }
}

/// `hmq_msg_fn` as a handler.
pub(super) struct MessageCallback {
    call: unsafe extern "C" fn(*mut hmq_msg, *mut c_void) -> hmq_verdict,
    user_data: UserData,
}

impl MessageCallback {
    /// Fails with `HMQ_E_NULL` if there is no function.
    pub(super) fn boxed(call: hmq_msg_fn, user_data: UserData) -> Result<Box<dyn Handler>> {
        let call = call.ok_or_else(|| null("handler"))?;
        Ok(Box::new(Self { call, user_data }))
    }
}

impl Handler for MessageCallback {
    fn handle(&self, incoming: Incoming) -> Option<HandlerVerdict> {
        // Without a handle left the message cannot be shown; another attempt may find one.
        let Ok(handle) = messages::insert(incoming) else { return Some(HandlerVerdict::Retry) };
        // SAFETY: the caller's function; the message is borrowed to it until it returns.
        let verdict = unsafe { (self.call)(handle as *mut hmq_msg, self.user_data.get()) };
        messages::release(handle);
        match verdict {
            ACK => Some(HandlerVerdict::Ack),
            RETRY => Some(HandlerVerdict::Retry),
            REJECT => Some(HandlerVerdict::Reject),
            LATER => Some(HandlerVerdict::Later),
            _ => None,
        }
    }
}

/// `hmq_text_fn` as a handler of texts.
pub(super) struct TextCallback {
    call: unsafe extern "C" fn(i32, *const std::ffi::c_char, usize, *mut c_void),
    user_data: UserData,
}

impl TextCallback {
    /// `None` if there is no function: the user data are dropped.
    pub(super) fn boxed(call: hmq_text_fn, user_data: UserData) -> Option<Box<dyn TextHandler>> {
        call.map(|call| Box::new(Self { call, user_data }) as Box<dyn TextHandler>)
    }
}

impl TextHandler for TextCallback {
    fn text(&self, level: LogLevel, json: &str) {
        let text = with_nul(json.as_bytes());
        // SAFETY: the caller's function; the text lives until it returns.
        unsafe { (self.call)(level as i32, text.as_ptr().cast(), json.len(), self.user_data.get()) }
    }
}

/// `hmq_done_fn`, called at most once.
pub(super) struct DoneCallback {
    call: hmq_done_fn,
    user_data: UserData,
}

impl DoneCallback {
    pub(super) fn new(call: hmq_done_fn, user_data: UserData) -> Self {
        Self { call, user_data }
    }

    /// Tells the outcome; then the drop function runs.
    pub(super) fn call(self, outcome: Result<Receipt>) {
        let Some(call) = self.call else { return };
        match outcome {
            Ok(taken) => {
                let receipt = receipt_of(&taken);
                // SAFETY: the caller's function; the receipt lives until it returns.
                unsafe { call(OK, &receipt, self.user_data.get()) }
            }
            // SAFETY: the caller's function; the header says that the receipt may be NULL.
            Err(error) => unsafe { call(error.kind().code(), std::ptr::null(), self.user_data.get()) },
        }
    }
}

/// `hmq_ready_fn` as what an inbox calls.
pub(super) fn ready_hook(ready: hmq_ready_fn, user_data: UserData) -> Result<Box<dyn Fn() + Send + Sync>> {
    let ready = ready.ok_or_else(|| null("ready"))?;
    // SAFETY: the caller's function, called as the header says.
    Ok(Box::new(move || unsafe { ready(user_data.get()) }))
}

type ThreadHook = Arc<dyn Fn(&str) + Send + Sync>;

/// `hmq_thread_fn` as what threads call.
pub(super) fn thread_hook(call: hmq_thread_fn, user_data: &Arc<UserData>) -> Option<ThreadHook> {
    let call = call?;
    let user_data = Arc::clone(user_data);
    Some(Arc::new(move |name: &str| {
        let name = with_nul(name.as_bytes());
        // SAFETY: the caller's function; the name lives until it returns.
        unsafe { call(name.as_ptr().cast(), user_data.get()) }
    }))
}

/// The longest token that a program may supply.
const TOKEN_BYTES_MAX: usize = 65_536;

/// `hmq_token_fn` as what logins ask.
pub(super) struct TokenCallback {
    call: unsafe extern "C" fn(*mut c_char, usize, *mut usize, *mut i64, *mut c_void) -> hmq_status,
    user_data: UserData,
}

impl TokenCallback {
    pub(super) fn new(
        call: unsafe extern "C" fn(*mut c_char, usize, *mut usize, *mut i64, *mut c_void) -> hmq_status,
        user_data: UserData,
    ) -> Self {
        Self { call, user_data }
    }
}

impl TokenProvider for TokenCallback {
    fn token(&self) -> Result<(String, i64)> {
        let mut text = vec![0u8; TOKEN_BYTES_MAX];
        let (mut len, mut expires_at_ms) = (0, 0);
        let status = as_callback(Caller::Process, || {
            // SAFETY: the caller's function; buffer and numbers live until it returns.
            unsafe {
                let buffer = text.as_mut_ptr().cast();
                (self.call)(buffer, TOKEN_BYTES_MAX, &raw mut len, &raw mut expires_at_ms, self.user_data.get())
            }
        });
        if status != OK {
            return Err(Error::new(Kind::Refused, format!("the token provider answered {status}")));
        }
        text.truncate(len);
        let token = String::from_utf8(text).ok().filter(|token| !token.is_empty() && len <= TOKEN_BYTES_MAX);
        let token =
            token.ok_or_else(|| Error::new(Kind::Refused, "the token provider wrote no token that is a text"))?;
        Ok((token, expires_at_ms))
    }
}
