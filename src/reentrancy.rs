//! Which of the program's functions runs on the present thread, so that a call that would wait for
//! it can be refused in place of waiting for ever.

use std::cell::RefCell;

use crate::error::{Error, Kind, Result};

/// Whose function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A subscription's handler, or its drop function.
    Subscription {
        /// Its hub.
        hub: u64,
        /// The subscription.
        id: u64,
    },
    /// Another function of a hub.
    Hub(u64),
    /// A function that threads of every hub may be waiting for.
    Process,
    /// The log callback.
    Log,
    /// None yet, but the thread is the library's: some function of the program may come to run on it.
    Library,
}

/// Functions of the program inside one another: a handler publishes, and that calls `on_ready`.
struct Running {
    callers: [Caller; DEEPEST],
    depth: usize,
}

/// Deeper than this every call that would wait is refused.
const DEEPEST: usize = 8;

thread_local! {
    static RUNNING: RefCell<Running> = const { RefCell::new(Running { callers: [Caller::Library; DEEPEST], depth: 0 }) };
}

/// Runs `body`, a function of the program or what may call one.
pub fn as_callback<T>(caller: Caller, body: impl FnOnce() -> T) -> T {
    /// Also when `body` panics.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            let _ = RUNNING.try_with(|running| running.borrow_mut().depth -= 1);
        }
    }
    // Fails on no thread: nothing here is dropped with it.
    let _ = RUNNING.try_with(|running| {
        let Running { callers, depth } = &mut *running.borrow_mut();
        if let Some(place) = callers.get_mut(*depth) {
            *place = caller;
        }
        *depth += 1;
    });
    let _leave = Leave;
    body()
}

/// Refuses a call that would wait for all functions of `hub`.
pub fn not_from_callback_of(hub: u64, what: &str) -> Result<()> {
    refuse_if(what, |caller| match caller {
        Caller::Subscription { hub: own, .. } | Caller::Hub(own) => own == hub,
        Caller::Process => true,
        Caller::Log | Caller::Library => false,
    })
}

/// Refuses a call that would wait for the handler of one subscription of `hub`.
pub fn not_from_handler_of(hub: u64, id: u64, what: &str) -> Result<()> {
    refuse_if(what, |caller| caller == Caller::Subscription { hub, id })
}

/// Refuses a call that would wait for the log callback.
pub fn not_from_log(what: &str) -> Result<()> {
    refuse_if(what, |caller| caller == Caller::Log)
}

/// Refuses a call that would wait for every function there is.
pub fn not_from_any_callback(what: &str) -> Result<()> {
    refuse_if(what, |_| true)
}

fn refuse_if(what: &str, inside: impl Fn(Caller) -> bool) -> Result<()> {
    let refused = RUNNING.try_with(|running| {
        let running = running.borrow();
        running.depth > DEEPEST || running.callers.iter().take(running.depth).any(|caller| inside(*caller))
    });
    if refused.unwrap_or_default() {
        return Err(Error::new(
            Kind::Reentrant,
            format!(
                "{what} would wait for the callback it is called from; call it from another thread (from here, \
                 hmq_hub_stop ends hmq_hub_wait, and hmq_sub_free ends a subscription without waiting)"
            ),
        ));
    }
    Ok(())
}
