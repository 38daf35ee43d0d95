//! The strict door for every JSON document that a program hands in.
//!
//! serde alone is too polite for configuration: it takes an array for an object, lets a key come
//! twice in a map, and quotes the offending value, which may be a password. This reader does
//! neither. Its errors name the path, the line and the column, and tell what was expected and
//! which *type* was found; a value of the document never appears in an error.
//!
//! Limits: [`JSON_BYTES_MAX`] bytes, [`JSON_DEPTH_MAX`] levels; nothing here recurses deeper.

mod reader;

use std::fmt;

use serde::de::{DeserializeOwned, Unexpected};
use serde::Deserialize;

pub use reader::Raw;

use crate::error::{Error, Kind, Result};
use crate::limits::JSON_BYTES_MAX;
use reader::Reader;

/// Reads one document; `what` names it in errors ("config", "subscribe options").
///
/// `Config`: not exactly one JSON document of this shape, or beyond a limit.
pub fn read<T: DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    read_borrowed(what, json)
}

/// As [`read`], for types that borrow from the text.
pub fn read_borrowed<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T> {
    if json.len() > JSON_BYTES_MAX {
        let text = format!("{what}: a document has at most {JSON_BYTES_MAX} bytes, this one has {}", json.len());
        return Err(Error::new(Kind::Config, text).at("", 0, 0));
    }
    let mut reader = Reader::new(json);
    let value = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|fault| fault.into_error(what, json))
}

/// Why a document was refused, while it travels up to [`read`]. One word.
pub(crate) struct Fault(Box<FaultInner>);

struct FaultInner {
    text: String,
    /// Innermost step first: steps are added on the way up.
    path: Vec<Step>,
    offset: Option<usize>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Fault {
    #[cold]
    fn new(text: impl Into<String>) -> Self {
        Self(Box::new(FaultInner { text: text.into(), path: Vec::new(), offset: None }))
    }

    /// Sets the place if none is known: the innermost one is the right one.
    fn or_at(mut self, offset: usize) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    fn under_key(mut self, key: &str) -> Self {
        self.0.path.push(Step::Key(shortened(key)));
        self
    }

    fn under_index(mut self, index: usize) -> Self {
        self.0.path.push(Step::Index(index));
        self
    }

    fn into_error(self, what: &str, json: &str) -> Error {
        let path = path_text(&self.0.path);
        let (line, column) = self.0.offset.map_or((0, 0), |offset| line_and_column(json, offset));
        let subject = if path.is_empty() { String::new() } else { format!("`{path}`: ") };
        let place = if line > 0 { format!(" (line {line}, column {column})") } else { String::new() };
        Error::new(Kind::Config, format!("{what}: {subject}{}{place}", self.0.text)).at(path, line, column)
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Fault::new(text.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Fault::new(format!("expected {}, found {}", plain(&expected.to_string()), type_word(found)))
    }

    fn invalid_value(_found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Fault::new(format!("out of range: expected {}", plain(&expected.to_string())))
    }

    fn invalid_length(_len: usize, expected: &dyn serde::de::Expected) -> Self {
        Fault::new(format!("wrong number of entries: expected {}", plain(&expected.to_string())))
    }

    fn unknown_variant(_variant: &str, expected: &'static [&'static str]) -> Self {
        Fault::new(format!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(field, expected).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let allowed = if expected.is_empty() { "none".to_owned() } else { expected.join(", ") };
        Fault::new(format!("unknown key `{}`{hint} (allowed: {allowed})", shortened(field)))
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::new(format!("`{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Fault::new(format!("key `{field}` comes twice"))
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// The JSON word for what was found, without its value.
fn type_word(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
        Unexpected::Float(_) => "a number with a fraction or an exponent, or one too large",
        Unexpected::Char(_) | Unexpected::Str(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        Unexpected::Map => "an object",
        _ => "something else",
    }
}

/// serde's words for its own types, in those of JSON.
fn plain(expected: &str) -> &str {
    match expected {
        "a sequence" => "an array",
        "a map" => "an object",
        "path string" => "a string",
        other => other,
    }
}

fn path_text(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps.iter().rev() {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Key(key) => path.push_str(&format!("[{key:?}]")),
        }
    }
    path
}

/// Keys appear in errors, but not megabytes of them, nor their control characters.
fn shortened(key: &str) -> String {
    const CHARS_SHOWN: usize = 64;
    let mut shown: String = key.chars().take(CHARS_SHOWN).flat_map(char::escape_debug).collect();
    if key.chars().nth(CHARS_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn line_and_column(json: &str, offset: usize) -> (usize, usize) {
    let before = json.get(..offset).unwrap_or(json);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}

/// The allowed name that `name` is most likely a slip of.
fn nearest<'a>(name: &str, allowed: &[&'a str]) -> Option<&'a str> {
    const NAME_BYTES_COMPARED: usize = 64;
    if name.len() > NAME_BYTES_COMPARED {
        return None;
    }
    let name = name.to_ascii_lowercase();
    // Calls that act on a topic say `topic`; those that administer it say `name`, or `pattern`.
    const SAME: [&str; 4] = ["topic", "name", "pattern", "queue"];
    if SAME.contains(&name.as_str()) {
        return SAME.iter().find_map(|word| allowed.iter().copied().find(|own| own == word));
    }
    let (distance, best) =
        allowed.iter().map(|candidate| (edit_distance(&name, candidate), *candidate)).min_by_key(|(near, _)| *near)?;
    // A third of the name wrong is another name, but a name cut short or run on is still meant.
    let cut_short = name.len() >= 3 && (best.starts_with(&name) || name.starts_with(best));
    if distance <= (name.len() / 3).max(1) || cut_short {
        return Some(best);
    }
    allowed.iter().copied().find(|candidate| name.len() >= 3 && candidate.starts_with(&name))
}

/// Insertions, deletions and replacements that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
