//! Which topic names and patterns are taken: what every broker can hold, told by position if not.

use crate::error::{Error, Kind, Result};
use crate::limits::NAME_BYTES_MAX;

/// Checks a name that is published to, subscribed to or declared; `what` names it in the error.
///
/// `Name`: not 1 to 200 bytes of `A-Z a-z 0-9 . _ -`, or `.`, `..`, or reserved for a broker
/// (`amq.…`, `__…`).
pub fn check_name(what: &str, name: &str) -> Result<()> {
    check_length(what, name)?;
    check_characters(what, name, "")?;
    check_reserved(what, name)
}

/// Checks a pattern: words split by `.`, where `*` stands for one word and `#` for zero or more.
/// A name is a pattern too.
///
/// `Name`: as [`check_name`], or a wildcard that is not a word of its own.
pub fn check_pattern(what: &str, pattern: &str) -> Result<()> {
    check_length(what, pattern)?;
    check_characters(what, pattern, "*#")?;
    for word in pattern.split('.') {
        if word.len() > 1 && word.contains(['*', '#']) {
            return Err(refused(what, "`*` and `#` stand for whole words, between dots"));
        }
    }
    match is_pattern(pattern) {
        true => Ok(()),
        false => check_reserved(what, pattern),
    }
}

/// Whether it has wildcards.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '#'])
}

fn check_length(what: &str, name: &str) -> Result<()> {
    match name.len() {
        0 => Err(refused(what, "it is empty")),
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(refused(what, &format!("it has {len} bytes, at most {NAME_BYTES_MAX} are taken"))),
    }
}

fn check_characters(what: &str, name: &str, also: &str) -> Result<()> {
    let taken = |symbol: char| symbol.is_ascii_alphanumeric() || "._-".contains(symbol) || also.contains(symbol);
    match name.char_indices().find(|(_, symbol)| !taken(*symbol)) {
        None => Ok(()),
        Some((at, symbol)) => {
            let shown = match symbol {
                ' '..='~' => format!("`{symbol}`"),
                _ => format!("U+{:04X}", u32::from(symbol)),
            };
            let extra = if also.is_empty() { "" } else { " and the wildcards * #" };
            Err(refused(what, &format!("{shown} at byte {at}; taken are letters, digits, and . _ -{extra}")))
        }
    }
}

fn check_reserved(what: &str, name: &str) -> Result<()> {
    match name {
        "." | ".." => Err(refused(what, "`.` and `..` name directories in some brokers")),
        _ if name.starts_with("amq.") => Err(refused(what, "names that start with `amq.` are reserved for RabbitMQ")),
        _ if name.starts_with("__") => Err(refused(what, "names that start with `__` are reserved for Kafka")),
        _ => Ok(()),
    }
}

#[cold]
fn refused(what: &str, why: &str) -> Error {
    Error::new(Kind::Name, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b07_b08_names() {
        for name in ["a", "tasks", "helixagent.events.llm", "A-b_c.9", &"x".repeat(200)] {
            check_name("topic", name).unwrap();
            check_pattern("topic", name).unwrap();
        }
        let long: Vec<String> = [201, 250, 256].map(|len| "x".repeat(len)).into();
        let bad = ["", ".", "..", "/", "\\", "a/../b", "a\r\nb", "a\u{202e}b", "a b", "a*", "ä", "a\0b", "#"];
        for name in bad.into_iter().chain(long.iter().map(String::as_str)) {
            assert_eq!(check_name("topic", name).unwrap_err().kind(), Kind::Name, "{name:?}");
        }
        for name in ["amq.x", "__consumer_offsets"] {
            assert!(check_name("topic", name).unwrap_err().message().contains("reserved"), "{name}");
        }
    }

    #[test]
    fn a_bad_character_is_told_by_code_and_position() {
        let error = check_name("topic", "ab\u{202e}c").unwrap_err();
        assert!(error.message().contains("U+202E at byte 2"), "{error}");
    }

    #[test]
    fn patterns() {
        for pattern in ["#", "*", "user.*", "a.#", "#.b", "a.*.c", "a"] {
            check_pattern("pattern", pattern).unwrap();
        }
        for pattern in ["", "a*", "user.#x", "**", "a b.*", "__x", "amq.y", "a.##"] {
            assert_eq!(check_pattern("pattern", pattern).unwrap_err().kind(), Kind::Name, "{pattern:?}");
        }
    }
}
