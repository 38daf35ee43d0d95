//! What belongs to the process and not to one hub: the log callback, and the end of all threads.
//!
//! Log lines go to one callback, called on a thread of its own, from a bounded queue: what does not
//! fit is dropped and counted, so that logging never blocks and never recurses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use serde_json::json;

use super::inbox::Event;
use super::{Shared, Timeout};
use crate::broker::TokenProvider;
use crate::error::{Error, Kind, Result};
use crate::reentrancy::{as_callback, not_from_any_callback, not_from_log, Caller};
use crate::sync::{Bell, Deadline, Mutex};

/// How loud a log line is. The numbers are those of the C ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum LogLevel {
    /// Something failed that the library cannot mend.
    Error = 1,
    /// Something that a person should look at.
    Warn = 2,
    /// Steps of normal life.
    Info = 3,
    /// For finding faults.
    Debug = 4,
}

impl LogLevel {
    /// The level of a number of the C ABI.
    pub fn from_code(code: i32) -> Option<Self> {
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug].into_iter().find(|own| *own as i32 == code)
    }

    /// The word used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// Takes lines of JSON.
pub trait TextHandler: Send + Sync {
    /// One line. Called on a thread of the library, one at a time.
    fn text(&self, level: LogLevel, json: &str);
}

/// Lines waiting for the callback, at most; a line is about 200 bytes.
const LINES_MAX: usize = 1024;

/// Guarded together: the lines and who takes them.
struct Log {
    handler: Option<Arc<dyn TextHandler>>,
    lines: VecDeque<(LogLevel, Arc<str>)>,
    dropped: u64,
    thread_runs: bool,
    /// Counts the callbacks there have been.
    generation: u64,
    /// Which of them runs.
    calling: Option<u64>,
}

static LEVEL: AtomicI32 = AtomicI32::new(0);
static LOG: Mutex<Log> = Mutex::new(Log {
    handler: None,
    lines: VecDeque::new(),
    dropped: 0,
    thread_runs: false,
    generation: 0,
    calling: None,
});
static LINE: Bell = Bell::new();
static HUBS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Sets or removes the process's log callback. When it returns, the old one is not called any more.
pub fn set_log(level: LogLevel, handler: Option<Box<dyn TextHandler>>) -> Result<()> {
    not_from_log("hmq_log_set")?;
    swap_log(level, handler, Deadline::after(None))
}

fn swap_log(level: LogLevel, handler: Option<Box<dyn TextHandler>>, deadline: Deadline) -> Result<()> {
    let wanted = if handler.is_some() { level as i32 } else { 0 };
    let (old, generation) = {
        let mut log = LOG.lock();
        if handler.is_some() && !log.thread_runs {
            // Before anything is changed; it waits for the lock.
            crate::runtime::spawn_thread("hmq-log", run_log)?;
            log.thread_runs = true;
        }
        log.lines.clear();
        LEVEL.store(wanted, Ordering::Release);
        log.generation += 1;
        (std::mem::replace(&mut log.handler, handler.map(Arc::from)), log.generation)
    };
    drop(old);
    LINE.ring();
    loop {
        let heard = LINE.heard();
        // The new one may run already, and wait for what the caller holds.
        if LOG.lock().calling.is_none_or(|calling| calling >= generation) {
            return Ok(());
        }
        if deadline.has_passed() {
            return Err(Error::new(Kind::Timeout, "the log callback is still running"));
        }
        LINE.wait(heard, deadline);
    }
}

fn run_log() {
    loop {
        let heard = LINE.heard();
        let mut log = LOG.lock();
        let Some(handler) = &log.handler else {
            log.thread_runs = false;
            return;
        };
        // Held while it is called only, so that its end is known to whoever replaces it.
        let handler = Arc::clone(handler);
        let next = log.lines.pop_front().map(|line| (handler, line));
        log.calling = next.is_some().then_some(log.generation);
        drop(log);
        match next {
            Some((handler, (level, json))) => {
                as_callback(Caller::Log, || {
                    crate::runtime::contained("log callback", || handler.text(level, &json));
                    // Perhaps the last hold of it, which runs the program's drop function.
                    drop(handler);
                });
                LOG.lock().calling = None;
                LINE.ring();
            }
            None => LINE.wait(heard, Deadline::after(None)),
        }
    }
}

fn log_line(level: LogLevel, what: &str, text: &str) -> Arc<str> {
    Arc::from(json!({"level": level.name(), "event": what, "message": text}).to_string())
}

fn queue_line(level: LogLevel, line: Arc<str>) {
    if LEVEL.load(Ordering::Acquire) < level as i32 {
        return;
    }
    let mut log = LOG.lock();
    if log.lines.len() < LINES_MAX {
        log.lines.push_back((level, line));
    } else {
        log.dropped += 1;
    }
    drop(log);
    LINE.ring();
}

/// Logs a line that belongs to no hub.
pub fn log(level: LogLevel, what: &str, text: &str) {
    if LEVEL.load(Ordering::Acquire) >= level as i32 {
        queue_line(level, log_line(level, what, text));
    }
}

impl Shared {
    /// Logs a warning, to the callback and to the inboxes that asked for logs.
    pub(super) fn log_warn(&self, what: &str, text: &str) {
        self.log(LogLevel::Warn, what, text);
    }

    /// Logs a line of this hub.
    pub(super) fn log(&self, level: LogLevel, what: &str, text: &str) {
        let inboxes: Vec<_> = self.inboxes.lock().iter().filter_map(Weak::upgrade).collect();
        let wanted = inboxes.iter().any(|inbox| inbox.wants.log);
        if !wanted && LEVEL.load(Ordering::Acquire) < level as i32 {
            return;
        }
        let json = log_line(level, what, text);
        for inbox in inboxes.iter().filter(|inbox| inbox.wants.log) {
            inbox.push_notice(Event::Log { level, json: Arc::clone(&json) });
        }
        queue_line(level, json);
    }
}

/// First steps of the first hub.
pub(super) fn start() {
    crate::runtime::report_panics_to(|place, text| {
        log(LogLevel::Error, "panic", &format!("a panic was caught in {place}: {text}"));
    });
}

/// Keeps a hub in the list of those that [`shutdown`] closes.
pub(super) fn register(hub: &Arc<Shared>) {
    let mut hubs = HUBS.lock();
    hubs.retain(|weak| weak.strong_count() > 0);
    hubs.push(Arc::downgrade(hub));
}

static TOKENS: Mutex<BTreeMap<String, Arc<dyn TokenProvider>>> = Mutex::new(BTreeMap::new());

/// Most functions that supply tokens.
const TOKEN_PROVIDERS_MAX: usize = 1024;

/// Names a function that supplies tokens, for hubs that are opened from now on; replaces the one before.
pub fn set_token_provider(name: &str, provider: Arc<dyn TokenProvider>) -> Result<()> {
    let mut tokens = TOKENS.lock();
    if tokens.len() >= TOKEN_PROVIDERS_MAX && !tokens.contains_key(name) {
        return Err(Error::new(Kind::Full, format!("{TOKEN_PROVIDERS_MAX} token providers are set already")));
    }
    let before = tokens.insert(name.to_owned(), provider);
    // Its end may run a drop function of the program.
    drop(tokens);
    drop(before);
    Ok(())
}

/// The function of that name.
#[cfg(feature = "kafka")]
pub(super) fn token_provider(name: &str) -> Result<Arc<dyn TokenProvider>> {
    TOKENS.lock().get(name).cloned().ok_or_else(|| {
        let text = format!("config: `kafka.token_provider`: no function was set as `{name}` before the hub was opened");
        Error::new(Kind::Config, text).at("kafka.token_provider", 0, 0)
    })
}

/// Closes every hub, removes the log callback, and waits until all threads of the library have
/// ended. The library can be used again afterwards.
pub fn shutdown(timeout: Timeout) -> Result<()> {
    not_from_any_callback("hmq_shutdown")?;
    let deadline = Deadline::after(timeout);
    // They stay in the list, for a second try after one that was late.
    let hubs: Vec<_> = HUBS.lock().iter().filter_map(Weak::upgrade).collect();
    let mut answer = Ok(());
    for hub in hubs {
        answer = answer.and(super::Hub(hub).close(deadline.left()));
    }
    answer = answer.and(swap_log(LogLevel::Error, None, deadline));
    // Their end may run drop functions of the program.
    let tokens = std::mem::take(&mut *TOKENS.lock());
    drop(tokens);
    answer.and(crate::runtime::shutdown(deadline.left()))
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A number for a hub.
pub(super) fn next_hub_id() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// A random word: the standard library's hash seeds come from the system's random source.
pub(super) fn new_id_prefix() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(NUMBERS.load(Ordering::Relaxed));
    hasher.finish()
}
