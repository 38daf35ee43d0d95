//! The rules of the house, as tests: sizes, layers, banned names, and where `unsafe` may be.
//!
//! Each rule says in its failure what to write instead. An exception is a line in a list here, with
//! the reason or the size it has now; a size may only shrink.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Most lines of a production file, tests not counted.
const FILE_LINES_MAX: usize = 600;
/// Most lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Files above the limit, with their size. Shrink them, and these numbers with them.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions above the limit: file, name, size.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Where `unsafe` may be written, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("src/ffi/", "the C ABI takes and gives raw pointers"),
    ("src/message/segment.rs", "memory of messages, counted by hand"),
    ("src/broker/kafka/raw/", "librdkafka: handles, and memory that it keeps"),
    ("src/runtime.rs", "signal masks of new threads"),
    ("src/signal.rs", "descriptors: eventfd and socket pairs"),
    ("src/sync.rs", "a bell that a signal handler may ring: futex calls"),
];

/// What is not written, where it is allowed, and what to write instead.
const BANNED: &[Banned] = &[
    Banned {
        names: &["Instant::now", "SystemTime::now"],
        within: &["src/"],
        but: &["src/clock.rs", "src/runtime.rs", "src/sync.rs", "src/ffi/"],
        instead: "crate::clock::Clock, so that tests move time by themselves",
    },
    Banned {
        names: &["std::sync .. Mutex", "std::sync .. RwLock", "std::sync .. Condvar", "PoisonError"],
        within: &["src/"],
        but: &["src/sync.rs"],
        instead: "crate::sync, whose locks do not poison",
    },
    Banned {
        names: &["thread::sleep"],
        within: &["src/", "tests/"],
        but: &[],
        instead: "the virtual clock, or a wait for a condition with a deadline",
    },
    Banned {
        names: &["thread::spawn", "thread::Builder"],
        within: &["src/"],
        but: &["src/runtime.rs"],
        instead: "crate::runtime::spawn_thread, which counts and names threads and blocks signals",
    },
    Banned {
        names: &["println!", "eprintln!", "dbg!", "process::exit", "process::abort"],
        within: &["src/"],
        but: &[],
        instead: "an error or a log line: a library does not write to the host's output, nor end it",
    },
    Banned {
        names: &["todo!", "unimplemented!"],
        within: &["src/", "tests/"],
        but: &[],
        instead: "the code, or an error of kind Unsupported",
    },
    Banned { names: &["crate::ffi"], within: &["src/hub/", "src/broker/"], but: &[], instead: "nothing: ffi is above" },
    Banned {
        names: &["c_char", "c_int", "c_void", "extern \"C\""],
        within: &["src/hub/", "src/broker/"],
        but: &["src/broker/kafka/raw/"],
        instead: "nothing: only src/ffi knows C, and the edge to a C library",
    },
    Banned { names: &["crate::hub"], within: &["src/broker/"], but: &[], instead: "a sink: a broker knows no hub" },
    Banned {
        names: &["lapin"],
        within: &["src/"],
        but: &["src/broker/rabbitmq/"],
        instead: "the Broker trait: one folder knows this client",
    },
    Banned {
        names: &["rdkafka"],
        within: &["src/"],
        but: &["src/broker/kafka/"],
        instead: "the Broker trait: one folder knows this client",
    },
];

struct Banned {
    /// Texts; of one with ` .. ` both sides, in one line.
    names: &'static [&'static str],
    within: &'static [&'static str],
    but: &'static [&'static str],
    instead: &'static str,
}

/// A Rust file of the repository.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
    /// The lines with comments and the insides of strings blanked, and whether each is production code.
    lines: Vec<Line>,
}

struct Line {
    code: String,
    production: bool,
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut wrong = String::new();
    for source in sources() {
        if !source.text.starts_with("//! ") {
            let _ = writeln!(wrong, "{} does not open with `//!` and a sentence on its purpose", source.path);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn files_stay_short() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| source.is_production()) {
        let lines = source.lines.iter().filter(|line| line.production).count();
        let allowed = LONG_FILES.iter().find(|(path, _)| *path == source.path).map(|(_, lines)| *lines);
        match allowed {
            Some(allowed) if lines < allowed => {
                let _ = writeln!(wrong, "{} has shrunk to {lines} lines: say so in LONG_FILES", source.path);
            }
            _ if lines > allowed.unwrap_or(FILE_LINES_MAX) => {
                let _ = writeln!(wrong, "{} has {lines} lines: split it", source.path);
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn functions_stay_short() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| source.is_production()) {
        for (name, lines) in source.functions() {
            let exception = LONG_FUNCTIONS.iter().find(|(path, own, _)| *path == source.path && *own == name);
            match exception.map(|(_, _, lines)| *lines) {
                Some(allowed) if lines < allowed => {
                    let _ = writeln!(wrong, "{} in {} has shrunk to {lines} lines: say so", name, source.path);
                }
                allowed if lines > allowed.unwrap_or(FUNCTION_LINES_MAX) => {
                    let _ = writeln!(wrong, "{} in {} has {lines} lines: split it", name, source.path);
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn banned_names_are_not_used() {
    let mut wrong = String::new();
    let sources = sources();
    for Banned { names, within, but, instead } in BANNED {
        for source in &sources {
            // This file names what it bans.
            if source.path == "tests/tidy.rs"
                || !starts_with_any(&source.path, within)
                || starts_with_any(&source.path, but)
            {
                continue;
            }
            for (number, line) in source.lines.iter().enumerate() {
                // Tests inside production files may look at the machine's clock, but never sleep.
                let counts = line.production || names.contains(&"thread::sleep");
                for name in names.iter().filter(|name| counts && is_in(name, &line.code)) {
                    let _ = writeln!(wrong, "{}:{}: `{name}`; write {instead}", source.path, number + 1);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn unsafe_stays_where_it_belongs() {
    let allowed: Vec<&str> = UNSAFE.iter().map(|(path, _)| *path).collect();
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        if starts_with_any(&source.path, &allowed) {
            continue;
        }
        let lines = source.lines.iter().enumerate().filter(|(_, line)| line.production);
        for (number, line) in lines.filter(|(_, line)| has_word(&line.code, "unsafe")) {
            let _ = writeln!(wrong, "{}:{}: `unsafe` in safe code: {}", source.path, number + 1, line.code.trim());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn no_test_is_ignored_without_a_reason() {
    let mut wrong = String::new();
    for source in sources() {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in source.lines.iter().enumerate() {
            if line.code.trim() == "#[ignore]" {
                let _ = writeln!(wrong, "{}:{}: say why: #[ignore = \"…\"]", source.path, number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn exceptions_are_still_needed() {
    let sources = sources();
    let there = |path: &str| sources.iter().any(|source| source.path.starts_with(path));
    for (path, _) in LONG_FILES {
        assert!(there(path), "{path} in LONG_FILES is gone");
    }
    for (path, name, _) in LONG_FUNCTIONS {
        let found = sources.iter().any(|source| {
            source.path == *path
                && source.functions().iter().any(|(own, lines)| own == name && *lines > FUNCTION_LINES_MAX)
        });
        assert!(found, "{name} of {path} in LONG_FUNCTIONS is gone or short");
    }
}

#[test]
fn the_reader_of_this_test_understands_rust() {
    let text = [
        "//! Doc.",
        "fn one() {",
        "    let a = \"// {\"; // }",
        "    let b = '{';",
        "}",
        "",
        "#[cfg(test)]",
        "mod tests {",
        "    fn two() {}",
        "}",
        "const AFTER: u8 = 0;",
    ]
    .join("\n");
    let source = Source::new("src/x.rs".into(), text);
    assert_eq!(source.functions(), [("one".to_owned(), 4)]);
    let production: Vec<bool> = source.lines.iter().map(|line| line.production).collect();
    assert_eq!(production, [true, true, true, true, true, true, false, false, false, false, true]);
}

impl Source {
    fn new(path: String, text: String) -> Self {
        // A file of tests is mounted with `#[cfg(test)] mod …;` and carries no mark of its own.
        let production = !path.ends_with("tests.rs") && !path.contains("/tests/");
        let mut lines: Vec<Line> = blank(&text).into_iter().map(|code| Line { code, production }).collect();
        let mut at = 0;
        while at < lines.len() {
            if lines[at].code.trim().starts_with("#[cfg(test)]") {
                let end = end_of_item(&lines, at);
                lines[at..=end].iter_mut().for_each(|line| line.production = false);
                at = end;
            }
            at += 1;
        }
        Self { path, text, lines }
    }

    /// Whether it is part of the library, and not a file of tests only.
    fn is_production(&self) -> bool {
        self.path.starts_with("src/") && self.lines.iter().any(|line| line.production)
    }

    /// Production functions with a body, and their lines.
    fn functions(&self) -> Vec<(String, usize)> {
        let mut out = Vec::new();
        for (at, line) in self.lines.iter().enumerate().filter(|(_, line)| line.production) {
            let Some(name) = function_name(&line.code) else { continue };
            let end = end_of_item(&self.lines, at);
            out.push((name, end - at + 1));
        }
        out
    }
}

/// The name of the function that begins on this line.
fn function_name(code: &str) -> Option<String> {
    let (before, after) = code.split_once("fn ")?;
    let modifiers = ["pub", "const", "async", "unsafe", "extern", "crate", "super", "in", "(", ")", "\"", "C", " "];
    let mut rest = before.trim();
    while let Some(word) = modifiers.iter().find(|word| !rest.is_empty() && rest.starts_with(**word)) {
        rest = rest[word.len()..].trim_start();
    }
    let name: String = after.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    (rest.is_empty() && !name.is_empty()).then_some(name)
}

/// The last line of the item that begins at `start`: where its braces close, or its semicolon.
fn end_of_item(lines: &[Line], start: usize) -> usize {
    let (mut depth, mut opened) = (0_i32, false);
    for (at, line) in lines.iter().enumerate().skip(start) {
        for character in line.code.chars() {
            match character {
                '{' => (depth, opened) = (depth + 1, true),
                '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                ';' if depth == 0 => return at,
                _ => {}
            }
            if opened && depth == 0 {
                return at;
            }
        }
    }
    lines.len() - 1
}

/// The lines of a file with comments, and the insides of strings and characters, left out.
fn blank(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (String::new(), 0);
    while at < chars.len() {
        let next = chars.get(at + 1).copied();
        let end = match chars[at] {
            '/' if next == Some('/') => find(&chars, at, |at| chars[at] == '\n'),
            '/' if next == Some('*') => find(&chars, at, |at| chars[at - 1] == '*' && chars[at] == '/') + 1,
            '"' => end_of_string(&chars, at),
            'r' if is_raw_string(&chars, at) => end_of_raw_string(&chars, at),
            '\'' if next == Some('\\') => find(&chars, at + 3, |at| chars[at] == '\'') + 1,
            '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
            other => {
                out.push(other);
                at += 1;
                continue;
            }
        };
        let end = end.min(chars.len());
        // A string that is a name in an attribute or ABI stays readable: `extern "C"`.
        let short = chars[at] == '"' && end - at <= 3;
        out.extend(chars[at..end].iter().filter(|character| short || **character == '\n'));
        at = end;
    }
    out.lines().map(str::to_owned).collect()
}

fn find(chars: &[char], from: usize, is_end: impl Fn(usize) -> bool) -> usize {
    (from + 1..chars.len()).find(|at| is_end(*at)).unwrap_or(chars.len())
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_raw_string(chars: &[char], at: usize) -> bool {
    let named = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') && chars[at - 1] != 'b';
    let hashes = chars[at + 1..].iter().take_while(|character| **character == '#').count();
    !named && chars.get(at + 1 + hashes) == Some(&'"')
}

fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|character| **character == '#').count();
    let closes = |at: usize| {
        chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|character| **character == '#').count() == hashes
    };
    find(chars, start + 1 + hashes, closes) + 1 + hashes
}

fn is_in(name: &str, code: &str) -> bool {
    name.split(" .. ").all(|part| code.contains(part))
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|character: char| !character.is_alphanumeric() && character != '_').any(|own| own == word)
}

fn starts_with_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// All Rust files under `src` and `tests`, in order.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 10, "the sources are not where this test looks: {}", root.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        Source::new(name, text)
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder of the repository can be read").path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}
