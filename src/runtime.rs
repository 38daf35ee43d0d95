//! Threads of the library, and the one tokio runtime that the backends of servers share.
//!
//! Nothing starts at load and nothing runs at exit. Every thread blocks asynchronous signals, is
//! named `hmq-…`, calls the host's start and stop hooks, and is counted, so that [`shutdown`] can
//! wait for all of them.

use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use crate::reentrancy::{as_callback, Caller};
use crate::sync::{Condvar, Mutex};

/// Takes the name of the thread it is called on.
pub type ThreadHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Called on each new thread of the library, and before it ends.
#[derive(Clone, Default)]
pub struct ThreadHooks {
    /// First thing on the thread.
    pub start: Option<ThreadHook>,
    /// Last thing on the thread.
    pub stop: Option<ThreadHook>,
}

/// Guarded together: who is alive, and what a new thread must call.
struct Threads {
    alive: usize,
    hooks: ThreadHooks,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { alive: 0, hooks: ThreadHooks { start: None, stop: None } });
static THREAD_ENDED: Condvar = Condvar::new();
static TOKIO: Mutex<Option<tokio::runtime::Runtime>> = Mutex::new(None);
static PANICS: OnceCell<fn(&str, &str)> = OnceCell::new();

thread_local! {
    static IS_IO: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Others wait for the present thread, as for one that serves sockets: see [`is_io_thread`].
pub fn serve_others() {
    IS_IO.set(true);
}

/// Whether this thread serves sockets or the disk, so that no function of the program may run on it.
pub fn is_io_thread() -> bool {
    IS_IO.try_with(std::cell::Cell::get).unwrap_or_default()
}

/// Sets the hooks for threads started from now on; fails once a thread of the library runs.
pub fn set_thread_hooks(hooks: ThreadHooks) -> Result<()> {
    let mut threads = THREADS.lock();
    if threads.alive > 0 {
        return Err(Error::new(Kind::State, "thread hooks are set before the first hub is opened"));
    }
    let old = std::mem::replace(&mut threads.hooks, hooks);
    // Dropping them runs the program's drop functions: not under the lock.
    drop(threads);
    drop(old);
    Ok(())
}

/// Tells where caught panics of our own threads are reported (once per process).
pub fn report_panics_to(report: fn(&str, &str)) {
    // A second registration is the same function: the hub module's.
    let _ = PANICS.set(report);
}

/// Threads of the library that are alive.
pub fn threads_alive() -> usize {
    THREADS.lock().alive
}

/// Starts a thread named `name`; refused by the system is `Resources`.
pub fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let hooks = {
        let mut threads = THREADS.lock();
        threads.alive += 1;
        threads.hooks.clone()
    };
    let own_name = name.to_owned();
    let started = with_signals_blocked(|| {
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(start) = &hooks.start {
                as_callback(Caller::Process, || contained("thread start hook", || start(&own_name)));
            }
            as_callback(Caller::Library, || contained(&own_name, body));
            if let Some(stop) = &hooks.stop {
                as_callback(Caller::Process, || contained("thread stop hook", || stop(&own_name)));
            }
            thread_ended();
        })
    });
    started.map(drop).map_err(|refused| {
        thread_ended();
        Error::new(Kind::Resources, format!("the system refused to start thread {name}: {refused}"))
    })
}

fn thread_ended() {
    THREADS.lock().alive -= 1;
    THREAD_ENDED.notify_all();
}

/// A new thread inherits the mask, so no signal of the host is ever handled on our threads.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are initialised by sigfillset and pthread_sigmask before they are read,
    // and the calling thread's own mask is put back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        for synchronous in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(&mut all, synchronous);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let out = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        out
    }
}

/// Runs `body`, turning a panic into `None` and a report.
pub fn contained<T>(place: &str, body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(panic) => {
            if let Some(report) = PANICS.get() {
                report(place, panic_text(&*panic));
            }
            None
        }
    }
}

/// The text of a caught panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without text",
    }
}

/// What a backend's rare calls return.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A [`Pending`] that has its answer.
pub fn ready<T: Send + 'static>(answer: Result<T>) -> Pending<T> {
    Box::pin(std::future::ready(answer))
}

/// Waits for `pending` on the calling thread, for at most `timeout` (`None`: for ever).
///
/// Answers that are there at once, as all of the embedded broker's are, need no runtime.
pub fn wait<T>(mut pending: Pending<T>, timeout: Option<Duration>) -> Result<T> {
    if let Poll::Ready(answer) = pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return answer;
    }
    let handle = handle()?;
    match timeout {
        None => handle.block_on(pending),
        Some(limit) => handle.block_on(async {
            tokio::time::timeout(limit, pending)
                .await
                .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the backend did not answer in time")))
        }),
    }
}

/// The tokio runtime, started by its first user.
pub fn handle() -> Result<tokio::runtime::Handle> {
    let mut tokio = TOKIO.lock();
    if let Some(runtime) = &*tokio {
        return Ok(runtime.handle().clone());
    }
    let built = with_signals_blocked(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hmq-io")
            .on_thread_start(|| IS_IO.set(true))
            .enable_all()
            .build()
    });
    let runtime = built.map_err(|refused| {
        Error::new(Kind::Resources, format!("the system refused to start the runtime: {refused}"))
    })?;
    let handle = runtime.handle().clone();
    *tokio = Some(runtime);
    Ok(handle)
}

/// Runs a call where sockets and timers are, whoever waits for it. `panicked` is its answer if it panics.
pub fn spawned<T: Send + 'static>(
    call: impl Future<Output = Result<T>> + Send + 'static,
    panicked: impl FnOnce() -> Error + Send + 'static,
) -> Pending<T> {
    match handle() {
        Ok(handle) => {
            let task = handle.spawn(call);
            Box::pin(async move { task.await.unwrap_or_else(|_| Err(panicked())) })
        }
        Err(refused) => ready(Err(refused)),
    }
}

/// Ends the timer and the runtime, and waits until every thread of the library has ended.
pub fn shutdown(timeout: Option<Duration>) -> Result<()> {
    crate::clock::stop_timer();
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let runtime = TOKIO.lock().take();
    if let Some(runtime) = runtime {
        runtime.shutdown_timeout(timeout.unwrap_or(Duration::from_secs(3600)));
    }
    let mut threads = THREADS.lock();
    while threads.alive > 0 {
        if deadline.is_some_and(|at| Instant::now() >= at) {
            let alive = threads.alive;
            return Err(Error::new(Kind::Timeout, format!("{alive} threads of the library are still running")));
        }
        threads = THREAD_ENDED.wait_until(threads, deadline);
    }
    Ok(())
}
