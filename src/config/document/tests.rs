//! The reader agrees with serde_json on what is JSON, and says better what is wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sample {
    name: String,
    #[serde(default)]
    prefetch: Option<u32>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    list: Vec<Inner>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Inner {
    port: u16,
}

fn refused(json: &str) -> (String, String) {
    let error = read::<Sample>("sample", json).expect_err(json);
    assert_eq!(error.kind(), Kind::Config);
    (error.path().unwrap_or("-").to_owned(), error.message().to_owned())
}

#[test]
fn a_good_document() {
    let sample: Sample =
        read("sample", " {\"name\":\"a\\u00e9\\ud83d\\ude00\\n\", \"prefetch\":1, \"list\":[{\"port\":2}]} \n")
            .unwrap();
    let expected =
        Sample { name: "aé😀\n".into(), prefetch: Some(1), headers: BTreeMap::new(), list: vec![Inner { port: 2 }] };
    assert_eq!(sample, expected);
}

#[test]
fn places_and_hints() {
    let (path, text) = refused("{\n  \"name\": \"n\",\n  \"prefetc\": 1}");
    assert_eq!(path, "prefetc");
    assert!(text.contains("did you mean `prefetch`?") && text.contains("line 3, column 3"), "{text}");
    assert!(text.contains("allowed: name, prefetch, headers, list"), "{text}");

    let (path, text) = refused("{\"name\":\"n\",\n\"list\":[{\"port\":1},{\"port\":\"hunter2\"}]}");
    assert_eq!(path, "list[1].port");
    assert!(text.contains("found a string") && text.contains("line 2, column 28"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");

    let (path, text) = refused("{\"name\":\"n\",\"headers\":{\"a.b\":\"1\",\n \"a.b\":\"2\"}}");
    assert_eq!(path, "headers[\"a.b\"]");
    assert!(text.contains("comes twice") && text.contains("line 2, column 2"), "{text}");

    let (path, text) = refused("{\"name\":\"ä\",\"prefetch\":true}");
    assert_eq!(path, "prefetch");
    assert!(text.contains("column 24"), "columns count characters: {text}");

    let (_, text) = refused("{\"prefetch\":1}");
    assert!(text.contains("`name` is missing") && text.contains("line 1, column 1"), "{text}");
}

#[test]
fn objects_are_not_read_from_arrays() {
    for json in ["[]", "[\"n\"]", "{\"name\":\"n\",\"list\":[[1]]}"] {
        let (_, text) = refused(json);
        assert!(text.contains("expected an object, found an array"), "{text}");
    }
}

#[test]
fn a_raw_value_is_kept_to_the_letter() {
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow)]
        raw: Raw<'a>,
    }
    for value in ["1.0", "{ \"a\" : [1, 2] }", "\"\\u0041\"", "null", "[]"] {
        let json = format!("{{\"raw\": {value} }}");
        assert_eq!(read_borrowed::<Holder<'_>>("holder", &json).unwrap().raw.0, value);
    }
    assert!(read_borrowed::<Holder<'_>>("holder", "{\"raw\": {1}}").is_err());
    let deep = format!("{{\"raw\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read_borrowed::<Holder<'_>>("holder", &deep).is_err());
}

#[test]
fn hints_come_for_slips_only() {
    let allowed = ["prefetch", "publish_window", "retry", "failover"];
    assert_eq!(nearest("Prefetch", &allowed), Some("prefetch"));
    assert_eq!(nearest("pre_fetch", &allowed), Some("prefetch"));
    assert_eq!(nearest("publish", &allowed), Some("publish_window"));
    assert_eq!(nearest("colour", &allowed), None);
    assert_eq!(nearest("x", &[]), None);
    assert_eq!(edit_distance("kitten", "sitting"), 3);
    assert_eq!(edit_distance("", "abc"), 3);
}

/// Texts near JSON: its own tokens in any order, so that many of them are documents.
fn near_json() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"a\""),
        Just("\"b\\u00e9\""),
        Just("1"),
        Just("-7"),
        Just("01"),
        Just("1.5e3"),
        Just("1e400"),
        Just("-"),
        Just("."),
        Just("true"),
        Just("nul"),
        Just("null"),
        Just(" "),
        Just("\n"),
        Just("\""),
        Just("\\ud83d"),
        Just("\"\\ud800\""),
        Just("é"),
        Just("\"\u{1}\""),
        Just("\u{feff}"),
        Just("18446744073709551616"),
        Just("\"\\q\""),
    ];
    prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_value_comes_back(value in json_value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let found: serde_json::Value = read("value", &text).unwrap();
        prop_assert_eq!(found, value);
    }

    #[test]
    fn any_text_is_taken_or_refused_as_elsewhere(text in near_json()) {
        let elsewhere = serde_json::from_str::<serde_json::Value>(&text);
        let here = read::<serde_json::Value>("value", &text);
        match (elsewhere, here) {
            (Ok(theirs), Ok(ours)) => prop_assert_eq!(theirs, ours),
            (Err(_), Err(_)) => {}
            // The one difference: a key that comes twice.
            (Ok(_), Err(error)) => prop_assert!(error.message().contains("twice"), "{} {}", text, error),
            (Err(error), Ok(_)) => prop_assert!(false, "{} {}", text, error),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = read::<Sample>("sample", &text);
    }
}
