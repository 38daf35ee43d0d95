//! The one error type of the crate: a kind, a text for people, and what a program can act on.
//!
//! An error is one word, immutable and sendable; it renders as one JSON document.

mod kind;

use std::fmt;

use serde_json::{json, Map, Value};

pub use kind::{Blame, Kind, FATAL, MISUSE, RETRIABLE, UNKNOWN_OUTCOME};

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a publish that did not succeed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The broker said no. The message was not taken.
    Refused,
    /// The message never left this process.
    NotSent,
    /// The message may or may not have arrived.
    Unknown,
}

impl Fate {
    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Refused => "refused",
            Fate::NotSent => "not_sent",
            Fate::Unknown => "unknown",
        }
    }
}

/// What went wrong, and everything known about it. Never holds a secret.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: String,
    backend: Option<&'static str>,
    native: Option<String>,
    fate: Option<Fate>,
    at: Option<(String, usize, usize)>,
    causes: Vec<Error>,
}

impl Error {
    /// A failure of `kind`; `message` tells a person what to mend.
    #[cold]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, backend: None, native: None, fate: None, at: None, causes: Vec::new() }))
    }

    /// A defect of this library, told instead of a panic.
    #[cold]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Names the backend it happened in.
    #[must_use]
    pub fn with_backend(mut self, backend: &'static str) -> Self {
        self.0.backend = Some(backend);
        self
    }

    /// Keeps the backend's own code (`404`, `NOT_LEADER`, `EIO`).
    #[must_use]
    pub fn with_native(mut self, native: impl Into<String>) -> Self {
        self.0.native = Some(native.into());
        self
    }

    /// Says how the publish ended.
    #[must_use]
    pub fn with_fate(mut self, fate: Fate) -> Self {
        self.0.fate = Some(fate);
        self
    }

    /// Names the place in a JSON document: path, line and column (1-based; 0 = not known).
    #[must_use]
    pub fn at(mut self, path: impl Into<String>, line: usize, column: usize) -> Self {
        self.0.at = Some((path.into(), line, column));
        self
    }

    /// Adds what led to it; the causes beyond the limit are left out.
    #[must_use]
    pub fn caused_by(mut self, cause: Error) -> Self {
        if self.0.causes.len() < crate::limits::CAUSES_MAX {
            self.0.causes.push(cause);
        }
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How the publish ended, where this error is about one.
    pub fn fate(&self) -> Option<Fate> {
        self.0.fate
    }

    /// The JSON path it is about (`routes[2].kind`), where it is about a document.
    pub fn path(&self) -> Option<&str> {
        self.0.at.as_ref().map(|(path, _, _)| path.as_str())
    }

    /// The whole error as JSON.
    pub fn to_json(&self) -> Value {
        let inner = &self.0;
        let mut out = Map::new();
        out.insert("code".into(), json!(inner.kind.code()));
        out.insert("name".into(), json!(inner.kind.name()));
        out.insert("origin_name".into(), json!(inner.kind.origin_name()));
        out.insert("message".into(), json!(inner.message));
        out.insert("retriable".into(), json!(inner.kind.is_retriable()));
        out.insert("fatal".into(), json!(inner.kind.flags() & FATAL != 0));
        if let Some(backend) = inner.backend {
            out.insert("backend".into(), json!(backend));
        }
        if let Some(native) = &inner.native {
            out.insert("native".into(), json!(native));
        }
        if let Some(fate) = inner.fate {
            out.insert("outcome".into(), json!(fate.name()));
        }
        if let Some((path, line, column)) = &inner.at {
            out.insert("path".into(), json!(path));
            if *line > 0 {
                out.insert("line".into(), json!(line));
                out.insert("column".into(), json!(column));
            }
        }
        if !inner.causes.is_empty() {
            out.insert("causes".into(), inner.causes.iter().map(Error::to_json).collect());
        }
        Value::Object(out)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

impl std::error::Error for Error {}

/// The table of all codes, for generators of bindings.
pub fn status_table() -> Value {
    let normal = [(0, "HMQ_OK"), (1, "HMQ_NO_DATA"), (2, "HMQ_CLOSED"), (3, "HMQ_PARTIAL")];
    let normal = normal.iter().map(|(code, name)| json!({"code": code, "name": name, "normal": true}));
    let failures = Kind::ALL.iter().map(|kind| {
        json!({
            "code": kind.code(), "name": kind.name(), "origin_name": kind.origin_name(),
            "retriable": kind.is_retriable(), "fatal": kind.flags() & FATAL != 0,
            "misuse": kind.flags() & MISUSE != 0, "unknown_outcome": kind.flags() & UNKNOWN_OUTCOME != 0,
        })
    });
    Value::Array(normal.chain(failures).collect())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn reference() -> String {
        let mut out = String::from(
            "# Status codes\n\nGenerated from `src/error/kind.rs`; `hmq_status_table` gives the same as JSON. Zero is success, \
             above zero a normal outcome, below zero a failure. Numbers never move.\n\n\
             | code | name | in the original package | retriable | misuse | fatal |\n| --- | --- | --- | --- | --- | --- |\n\
             | 0 | `HMQ_OK` | | | | |\n| 1 | `HMQ_NO_DATA` | | | | |\n| 2 | `HMQ_CLOSED` | | | | |\n| 3 | `HMQ_PARTIAL` | | | | |\n",
        );
        for kind in Kind::ALL {
            let mark = |flag| if kind.flags() & flag != 0 { "yes" } else { "" };
            let (code, name, origin) = (kind.code(), kind.name(), kind.origin_name());
            let (retriable, misuse, fatal) = (mark(RETRIABLE), mark(MISUSE), mark(FATAL));
            let _ = writeln!(out, "| {code} | `{name}` | `{origin}` | {retriable} | {misuse} | {fatal} |");
        }
        out
    }

    #[test]
    fn the_status_table_of_the_docs_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status.md");
        if std::env::var_os("HMQ_BLESS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), reference(), "run `make headers`");
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
    }

    #[test]
    fn codes_are_unique_and_negative() {
        let mut codes: Vec<i32> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(codes.iter().all(|code| *code < 0));
    }
}
