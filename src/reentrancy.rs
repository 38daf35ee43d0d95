//! Which of the program's functions runs on the present thread, so that a call that would wait for
//! it can be refused in place of waiting for ever.

use std::cell::Cell;

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
}

thread_local! {
    static RUNNING: Cell<Option<Caller>> = const { Cell::new(None) };
}

/// Runs `body`, a function of the program.
pub fn as_callback<T>(caller: Caller, body: impl FnOnce() -> T) -> T {
    /// Also when `body` panics.
    struct Restore(Option<Caller>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = RUNNING.try_with(|running| running.set(self.0));
        }
    }
    // A thread that is ending has no such memory any more, and nobody asks on it.
    let _restore = Restore(RUNNING.try_with(|running| running.replace(Some(caller))).unwrap_or_default());
    body()
}

fn running() -> Option<Caller> {
    RUNNING.try_with(Cell::get).unwrap_or_default()
}

/// Refuses a call that would wait for all functions of `hub`.
pub fn not_from_callback_of(hub: u64, what: &str) -> Result<()> {
    refuse_if(what, |caller| match caller {
        Caller::Subscription { hub: own, .. } | Caller::Hub(own) => own == hub,
        Caller::Process => true,
        Caller::Log => false,
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

fn refuse_if(what: &str, inside: impl FnOnce(Caller) -> bool) -> Result<()> {
    if running().is_some_and(inside) {
        return Err(Error::new(
            Kind::Reentrant,
            format!("{what} would wait for the callback it is called from; call it from another thread"),
        ));
    }
    Ok(())
}
