//! The header is the product: it must be what the code is, and say all that a caller needs.
//!
//! `HMQ_BLESS=1 cargo test --test header` writes `include/helixmq.h` and `include/helixmq.symbols`.
#![allow(clippy::panic, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use helixmq::error::Kind;
use helixmq::ffi::{ABI, CONSTANTS};

/// In the order of the header.
const SOURCES: &[&str] = &[
    "types.rs",
    "broker_ops.rs",
    "process.rs",
    "error.rs",
    "hub.rs",
    "publish.rs",
    "publisher.rs",
    "subscribe.rs",
    "inbox.rs",
    "message.rs",
    "settle.rs",
    "broker.rs",
    "topic.rs",
    "ops.rs",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()))
}

/// One function of the header.
#[derive(Debug)]
struct Function {
    name: String,
    comment: String,
    arguments: Vec<String>,
    answers_status: bool,
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml is read");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root().join("src/ffi").join(source));
    }
    let mut text = Vec::new();
    builder.generate().expect("the sources are understood").write(&mut text);
    String::from_utf8(text).expect("a header is UTF-8")
}

/// What the tests look at: the first one compares it with the file, or writes that.
fn header() -> String {
    generated()
}

fn functions(header: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in header.match_indices(");\n") {
        let before = &header[..at + 2];
        let start = before.rfind("*/\n").map_or(0, |end| end + 3);
        let declaration = before[start..].split_whitespace().collect::<Vec<_>>().join(" ");
        let Some((head, arguments)) = declaration.split_once('(') else { continue };
        let name = head.rsplit([' ', '*']).next().unwrap_or_default().to_owned();
        if head.starts_with("typedef") || !name.starts_with("hmq_") || declaration.contains('{') {
            continue;
        }
        let comment_start = before[..start].rfind("/**").unwrap_or(start);
        let arguments = arguments.trim_end_matches(");").split(',').map(str::trim).filter(|one| *one != "void");
        found.push(Function {
            name,
            comment: before[comment_start..start].to_owned(),
            arguments: arguments.map(|one| one.rsplit([' ', '*']).next().unwrap_or_default().to_owned()).collect(),
            answers_status: head.contains("hmq_status hmq_"),
        });
    }
    found
}

fn symbols(functions: &[Function]) -> String {
    let mut lines: Vec<String> = functions
        .iter()
        .map(|function| {
            let since = function.comment.split("@since ").nth(1).and_then(|rest| rest.split_whitespace().next());
            format!("{} {}\n", function.name, since.unwrap_or("?"))
        })
        .collect();
    lines.sort();
    lines.concat()
}

#[test]
fn the_header_is_what_the_code_is() {
    let (fresh, path) = (generated(), root().join("include/helixmq.h"));
    let symbols_path = root().join("include/helixmq.symbols");
    if std::env::var_os("HMQ_BLESS").is_some() {
        fs::write(&path, &fresh).expect("the header is written");
        fs::write(&symbols_path, symbols(&functions(&fresh))).expect("the symbols are written");
    }
    assert!(read(&path) == fresh, "include/helixmq.h is stale: HMQ_BLESS=1 cargo test --test header");
    assert_eq!(read(&symbols_path), symbols(&functions(&fresh)), "include/helixmq.symbols is stale");
}

/// cbindgen leaves out what it does not understand, without a word: the sources are asked as well.
#[test]
fn every_exported_function_is_in_the_header() {
    let listed = symbols(&functions(&header()));
    let mut exported = 0;
    for source in fs::read_dir(root().join("src/ffi")).expect("src/ffi is there") {
        let text = read(&source.expect("an entry").path());
        for chunk in text.split("#[no_mangle]").skip(1) {
            let name = chunk.split("extern \"C\" fn ").nth(1).and_then(|rest| rest.split('(').next());
            let name = name.expect("a function follows #[no_mangle]");
            if name == "hmq_test_panic" {
                continue;
            }
            exported += 1;
            assert!(listed.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} is not in the header");
        }
    }
    assert_eq!(exported, listed.lines().count());
}

#[test]
fn every_function_says_what_a_caller_needs() {
    let functions = functions(&header());
    assert!(functions.len() > 80, "only {} functions were found", functions.len());
    let mut missing = Vec::new();
    for function in &functions {
        let mut parts = vec!["Threads:".to_owned(), "Blocks:".into(), "Callback:".into(), "@since 0.".into()];
        parts.extend(function.arguments.iter().map(|argument| format!("- `{argument}`: ")));
        if function.answers_status && function.name != "hmq_error_status" {
            parts.push("Codes:".into());
        }
        missing.extend(
            parts
                .into_iter()
                .filter(|part| !function.comment.contains(part.as_str()))
                .map(|part| format!("{}: {part}", function.name)),
        );
        for line in function.comment.lines().filter(|line| line.contains("- `")) {
            let described = line.split("`: ").nth(1).unwrap_or_default();
            if !described.starts_with("in") && !described.starts_with("out") {
                missing.push(format!("{}: in or out in {line}", function.name));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_name_has_the_prefix() {
    let header = header();
    for line in header.lines() {
        if let Some(name) = line.strip_prefix("#define ") {
            assert!(name.starts_with("HMQ_") || name.starts_with("HELIXMQ_H"), "{line}");
        }
        if let Some(name) = line.strip_prefix("typedef struct ") {
            assert!(name.starts_with("hmq_"), "{line}");
        }
    }
    for banned in ["bool ", "enum ", " long ", "char16_t", "..."] {
        let code =
            header.lines().filter(|line| !line.trim_start().starts_with(['*', '/']) && !line.contains("#define"));
        let found: Vec<&str> = code.filter(|line| line.contains(banned)).collect();
        assert!(found.is_empty(), "{banned:?} crosses the boundary: {found:?}");
    }
}

#[test]
fn the_six_sections_open_the_header() {
    let header = header();
    let top = header.split("#ifndef").next().unwrap_or_default();
    let mut at = 0;
    for section in ["Errors", "Handles", "Strings and memory", "Callbacks", "Threads and fork", "Versioning"] {
        let place = top[at..].find(&format!("\n * {section}\n"));
        at += place.unwrap_or_else(|| panic!("section {section} is missing or out of order"));
    }
}

#[test]
fn constants_are_what_the_code_means() {
    let mut defined: BTreeMap<String, i64> = BTreeMap::new();
    for line in header().lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("#define") {
            continue;
        }
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let Some(value) = value.strip_prefix('(').and_then(|value| value.strip_suffix(')')) else { continue };
        let number = match value.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => value.parse(),
        };
        if let Ok(number) = number {
            assert!(defined.insert(name.to_owned(), number).is_none(), "{name} is defined twice");
        }
    }
    let mut expected: BTreeMap<String, i64> =
        CONSTANTS.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    expected.extend(Kind::ALL.iter().map(|kind| (kind.name().to_owned(), i64::from(kind.code()))));
    let version: Vec<i64> = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().expect("a number")).collect();
    expected.insert("HMQ_VERSION_MAJOR".into(), version[0]);
    expected.insert("HMQ_VERSION_MINOR".into(), version[1]);
    expected.insert("HMQ_VERSION_PATCH".into(), version[2]);
    expected.insert("HMQ_VERSION_NUMBER".into(), version[0] * 1_000_000 + version[1] * 1_000 + version[2]);
    expected.insert("HMQ_ABI".into(), i64::from(ABI));
    assert_eq!(defined, expected);
    assert!(header().contains(&format!("#define HMQ_VERSION_STRING \"{}\"", env!("CARGO_PKG_VERSION"))));
}
