//! What only a library built for tests has (`--cfg hmq_test`); in no header.

use super::guard::body;
use super::types::{hmq_error, hmq_hub, hmq_status};

/// Panics inside the guard, with `hub` as the object of the call.
#[no_mangle]
#[allow(clippy::panic, reason = "this is what it is for")]
pub unsafe extern "C" fn hmq_test_panic(hub: *mut hmq_hub, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], { panic!("a panic made on purpose") })
}
