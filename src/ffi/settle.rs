//! Group 8 of the header: settlement. Any thread, any time; the token knows its hub.

use std::ffi::c_char;

use super::guard::body;
use super::structs::Step;
use super::text::{optional, span};
use super::types::{hmq_error, hmq_settlement, hmq_status, hmq_token, hmq_verdict, ACK, OK, PARTIAL, REJECT, RETRY};
use crate::error::{Error, Kind, Result};
use crate::hub::settle::{self, Decision};
use crate::limits;

/// Settles one delivery.
///
/// - `token`: in: of the delivery.
/// - `verdict`: in: HMQ_ACK, HMQ_RETRY or HMQ_REJECT.
/// - `delay_ms`: in: HMQ_RETRY: wait so long; -1: as the subscription's policy says. Else ignored.
/// - `reason`: in, borrow: HMQ_RETRY, HMQ_REJECT: why, kept in the dead letter; (NULL, 0): no reason.
/// - `reason_len`: in: its length, or HMQ_NTS; at most 8 KiB.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_STALE if its lease has ended, or if an event is to be retried that a purge or
/// retention has dropped meanwhile; HMQ_E_SETTLED if it was settled before;
/// HMQ_E_CLOSED if its subscription is closed; HMQ_E_ARG for token 0, which a replay hands out;
/// HMQ_E_UTF8, HMQ_E_TOO_LARGE.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_settle(
    token: hmq_token,
    verdict: hmq_verdict,
    delay_ms: i64,
    reason: *const c_char,
    reason_len: usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [], {
        settle::settle(token, decision(verdict, delay_ms, (reason, reason_len))?)?;
        Ok(OK)
    })
}

/// Settles many deliveries, each with a verdict of its own.
///
/// - `settlements`: in, out: `count` decisions; the first one's `size` is the step. `result` of
///   each tells how it ended.
/// - `count`: in: how many.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK if all were settled; HMQ_PARTIAL if some or all were not: see `result`; HMQ_E_ABI.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_settle_many(
    settlements: *mut hmq_settlement,
    count: usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [], {
        let array = Step::of(settlements, count, "settlements")?;
        let mut failed = 0;
        for index in 0..count {
            let place = array.at(index);
            // What is refused here is left out below: token 0 settles nothing.
            (*place).result = checked(place).map_or_else(|error| error.kind().code(), |_| OK);
        }
        let get = |index| match array.at(index) {
            place if (*place).result == OK => checked(place).unwrap_or((0, Decision::Ack)),
            _ => (0, Decision::Ack),
        };
        settle::settle_many(count, get, |index, result| {
            let place = array.at(index);
            if (*place).result == OK {
                (*place).result = result.map_or_else(|error| error.kind().code(), |()| OK);
            }
            failed += usize::from((*place).result != OK);
        });
        Ok(if failed == 0 { OK } else { PARTIAL })
    })
}

/// Renews the lease of a delivery that takes longer than expected.
///
/// - `token`: in: of the delivery.
/// - `extra_ms`: in: the lease then ends after this, counted from now; above 0.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_STALE, HMQ_E_SETTLED, HMQ_E_UNSUPPORTED, HMQ_E_ARG, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_extend(token: hmq_token, extra_ms: i64, err: *mut *mut hmq_error) -> hmq_status {
    body!(0, err, [], {
        let lease = span(extra_ms, "extra_ms")?;
        if lease.is_zero() {
            return Err(Error::new(Kind::Arg, "extra_ms is 0; a lease lasts at least a millisecond"));
        }
        settle::extend(token, lease)?;
        Ok(OK)
    })
}

/// # Safety
/// `place` is valid for reads of a settlement, whose reason is NULL or valid for its length.
unsafe fn checked<'a>(place: *mut hmq_settlement) -> Result<(hmq_token, Decision<'a>)> {
    // SAFETY: as promised by the caller.
    let given = unsafe { &*place };
    if given.reserved != 0 {
        return Err(Error::new(Kind::Arg, "settlement.reserved is not 0"));
    }
    // SAFETY: as promised by the caller.
    let decision = unsafe { decision(given.verdict, given.delay_ms, (given.reason, given.reason_len)) }?;
    Ok((given.token, decision))
}

/// # Safety
/// The reason is NULL or valid for its length.
unsafe fn decision<'a>(verdict: hmq_verdict, delay_ms: i64, reason: (*const c_char, usize)) -> Result<Decision<'a>> {
    let text = || {
        // SAFETY: as promised by the caller.
        let text = unsafe { optional(reason.0, reason.1, limits::HEADER_VALUE_BYTES_MAX, "reason") };
        text.map(Option::unwrap_or_default)
    };
    match verdict {
        ACK => Ok(Decision::Ack),
        RETRY => {
            let delay = if delay_ms == -1 { None } else { Some(span(delay_ms, "delay_ms")?) };
            Ok(Decision::Retry { delay, reason: text()? })
        }
        REJECT => Ok(Decision::Reject { reason: text()? }),
        _ => Err(Error::new(Kind::Arg, format!("{verdict} is no verdict; HMQ_ACK, HMQ_RETRY and HMQ_REJECT settle"))),
    }
}
