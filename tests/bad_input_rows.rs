//! Every row of `docs/bad-input.md` has a test that carries its number.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test says what is wrong by failing")]

use std::fs;
use std::path::Path;

/// Whether `text` names `row`, alone or inside a range such as `B02-B08`.
fn names(text: &str, row: &str) -> bool {
    let (letter, number) = row.split_at(1);
    let own: u32 = number.parse().unwrap();
    let small = format!("{}{number}_", letter.to_lowercase());
    text.contains(&small)
        || text.split(|symbol: char| !symbol.is_ascii_alphanumeric() && symbol != '-').any(|word| {
            let mut ends = word.split('-').filter_map(|end| end.strip_prefix(letter)?.parse::<u32>().ok());
            match (ends.next(), ends.next()) {
                (Some(one), None) => one == own,
                (Some(first), Some(last)) => (first..=last).contains(&own),
                _ => false,
            }
        })
}

fn read_all(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = path.extension().is_some_and(|ending| ["rs", "c", "cpp"].iter().any(|own| ending == *own));
        if path.is_dir() {
            read_all(&path, into);
        } else if source && !path.ends_with("bad_input_rows.rs") {
            into.push(fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_row_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/bad-input.md")).unwrap();
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
        .filter(|word| word.len() == 3 && word[1..].bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    assert!(rows.len() > 45, "the table was not found");
    let mut sources = Vec::new();
    for folder in ["tests", "src/config"] {
        read_all(&root.join(folder), &mut sources);
    }
    let missing: Vec<&&str> = rows.iter().filter(|row| !sources.iter().any(|text| names(text, row))).collect();
    assert!(missing.is_empty(), "no test carries {missing:?}");
}
