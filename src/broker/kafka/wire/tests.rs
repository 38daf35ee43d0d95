//! What goes out in each form comes in again; what others wrote is readable; what cannot be carried is refused.

use super::*;
use crate::message::Headers;

const NOW_US: i64 = 1_767_323_045_120_345;
const MADE: Made = Made { prefix: 7, seq: 11 };
const MADE_ID: &str = "0000000000000007000000000000000b";
const BYTES_MAX: usize = 100;

fn target(wire: Wire) -> Target<'static> {
    Target { topic: "order.created", kind: TopicKind::Event, wire, source: "shop", again: false }
}

fn written(record: &Record<'_>, target: Target<'_>) -> Frame {
    let mut frame = Frame::default();
    frame.write(record, target, MADE, NOW_US).unwrap();
    frame
}

fn refused(record: &Record<'_>, wire: Wire) -> (Kind, String) {
    let wrong = Frame::default().write(record, target(wire), MADE, NOW_US).unwrap_err();
    (wrong.kind(), wrong.message().to_owned())
}

fn raw<'a>(frame: &'a Frame, record: &Record<'a>) -> Raw<'a> {
    let timestamp_ms = Some(frame.timestamp_ms());
    Raw { value: frame.value(record), key: frame.key(record), timestamp_ms }
}

fn came(headers: &[(&[u8], Option<&[u8]>)], raw: &Raw<'_>, wire: Wire) -> Incoming {
    let mut incoming = Incoming::default();
    headers.iter().for_each(|(name, value)| incoming.header(name, *value, wire));
    incoming.finish(raw, TopicKind::Event, wire, BYTES_MAX);
    incoming
}

/// What came of a frame, as if Kafka had carried it.
fn back(frame: &Frame, raw: &Raw<'_>, wire: Wire) -> Incoming {
    let headers: Vec<_> = frame.headers().map(|(name, value)| (&name[..name.len() - 1], Some(value))).collect();
    assert!(frame.headers().all(|(name, _)| name.ends_with(&[0])));
    came(&headers, raw, wire)
}

fn names(frame: &Frame) -> Vec<&str> {
    frame.headers().map(|(name, _)| std::str::from_utf8(&name[..name.len() - 1]).unwrap()).collect()
}

fn pairs(headers: Headers<'_>) -> Vec<(&str, &[u8])> {
    headers.into_iter().collect()
}

fn block(headers: &[(&str, &[u8])]) -> HeaderBlock {
    let mut block = HeaderBlock::default();
    headers.iter().for_each(|(name, value)| block.push(name, value));
    block
}

fn foreign(value: &[u8]) -> Raw<'_> {
    Raw { value, key: None, timestamp_ms: Some(1500) }
}

#[test]
fn what_goes_out_native_comes_in() {
    let headers = block(&[("b", b"2"), ("a", &[0, 255]), ("b", b"")]);
    let record = Record {
        key: Some(b""),
        id: "own",
        type_: "created",
        headers: headers.headers(),
        timestamp_us: 1_500_001,
        ttl_ms: 2,
        attempts: 3,
        maybe_dup: true,
        ..Record::new(b"\x00{}")
    };
    let frame = written(&record, target(Wire::Native));
    assert_eq!(
        names(&frame),
        ["hmq-id", "hmq-type", "hmq-time-us", "hmq-tries", "hmq-maybe-dup", "hmq-expires-us", "b", "a", "b"]
    );
    assert_eq!(frame.timestamp_ms(), 1500);
    let raw = raw(&frame, &record);
    assert_eq!((raw.value, raw.key), (record.payload, Some(&b""[..])));
    let incoming = back(&frame, &raw, Wire::Native);
    let got = incoming.record(&raw);
    assert_eq!((got.payload, got.key, got.id, got.type_), (record.payload, record.key, "own", "created"));
    assert_eq!(pairs(got.headers), pairs(record.headers));
    assert_eq!((got.timestamp_us, got.maybe_dup, got.priority), (1_500_001, true, PRIORITY_DEFAULT));
    assert_eq!((incoming.attempts, incoming.expires_us), (3, Some(NOW_US + 2000)));
    assert_eq!(incoming.unreadable, None);
}

#[test]
fn a_bare_record_has_one_header() {
    let record = Record::new(b"x");
    let frame = written(&record, target(Wire::Native));
    assert_eq!(frame.headers().collect::<Vec<_>>(), [(&b"hmq-id\0"[..], MADE_ID.as_bytes())]);
    assert_eq!((frame.key(&record), frame.timestamp_ms()), (None, NOW_US / 1000));
    let raw = raw(&frame, &record);
    let incoming = back(&frame, &raw, Wire::Native);
    let got = incoming.record(&raw);
    assert_eq!((got.id, got.key, got.timestamp_us), (MADE_ID, None, NOW_US / 1000 * 1000));
    assert_eq!((incoming.attempts, incoming.expires_us, got.maybe_dup), (0, None, false));
}

#[test]
fn a_time_of_whole_milliseconds_is_kafkas_alone() {
    for (time_us, has_header) in [(1_500_000, false), (1_500_999, true), (999, true)] {
        let record = Record { timestamp_us: time_us, ..Record::new(b"x") };
        let frame = written(&record, target(Wire::Native));
        assert_eq!(names(&frame).contains(&TIME_US), has_header, "{time_us}");
        let raw = raw(&frame, &record);
        assert_eq!(back(&frame, &raw, Wire::Native).record(&raw).timestamp_us, time_us);
    }
}

#[test]
fn a_frame_and_an_incoming_keep_nothing_of_the_one_before() {
    let headers = block(&[("a", b"1")]);
    let full = Record {
        key: Some(b"k"),
        type_: "T",
        headers: headers.headers(),
        attempts: 1,
        maybe_dup: true,
        ttl_ms: 1,
        ..Record::new(b"one")
    };
    let mut frame = written(&full, target(Wire::Helixagent));
    let bare = Record::new(b"two");
    frame.write(&bare, target(Wire::Native), MADE, NOW_US).unwrap();
    assert_eq!((names(&frame), frame.value(&bare), frame.key(&bare)), (vec![ID], &b"two"[..], None));

    let mut incoming = Incoming::default();
    for (name, value) in [(ID, &b"i"[..]), (TYPE, b"T"), (TRIES, b"9"), (MAYBE_DUP, b"1"), (EXPIRES_US, b"5")] {
        incoming.header(name.as_bytes(), Some(value), Wire::CloudEvents);
    }
    for name in ["hmq-time-us", "a", "ce_id", "ce_partitionkey"] {
        incoming.header(name.as_bytes(), Some(b"7"), Wire::CloudEvents);
    }
    incoming.finish(&foreign(&[b'x'; BYTES_MAX + 1]), TopicKind::Event, Wire::CloudEvents, BYTES_MAX);
    assert!(incoming.unreadable.is_some());
    incoming.clear();
    let raw = foreign(b"two");
    incoming.finish(&raw, TopicKind::Event, Wire::CloudEvents, BYTES_MAX);
    let got = incoming.record(&raw);
    assert_eq!((got.payload, got.key, got.id, got.type_, got.headers.bytes()), (&b"two"[..], None, "", "", &[][..]));
    assert_eq!((got.timestamp_us, got.maybe_dup), (1_500_000, false));
    assert_eq!((incoming.attempts, incoming.expires_us, incoming.unreadable), (0, None, None));
}

#[test]
fn headers_that_cannot_be_carried_are_refused_or_left_out_of_what_came_before() {
    for name in OURS.into_iter().chain(["a\0b"]) {
        let headers = block(&[("a", b"1"), (name, b"2")]);
        let record = Record { headers: headers.headers(), ..Record::new(b"x") };
        for wire in [Wire::Native, Wire::CloudEvents, Wire::Helixagent] {
            let (kind, text) = refused(&record, wire);
            assert_eq!(kind, Kind::Header);
            assert!(text.contains(&format!("{name:?}")), "{text}");
            let frame = written(&record, Target { again: true, ..target(wire) });
            let values = frame.headers().filter(|(_, value)| *value == b"2").count();
            assert_eq!((values, names(&frame).contains(&"a")), (0, true), "{name:?} {wire:?}");
        }
    }
    let headers = block(&[("hmq-dead-reason", b"x"), ("type", b"y")]);
    let record = Record { headers: headers.headers(), ..Record::new(b"x") };
    assert_eq!(names(&written(&record, target(Wire::Native))), ["hmq-id", "hmq-dead-reason", "type"]);
}

#[test]
fn messages_of_other_programs_are_readable() {
    let raw = Raw { timestamp_ms: Some(-1), key: Some(b"k"), ..foreign(b"x") };
    let headers: [(&[u8], Option<&[u8]>); 5] =
        [(b"a", None), (b"\xff", Some(b"1")), (b"ce_id", Some(b"2")), (TRIES.as_bytes(), Some(b"many")), (b"", None)];
    for wire in [Wire::Native, Wire::Plain] {
        let incoming = came(&headers, &raw, wire);
        let got = incoming.record(&raw);
        assert_eq!((got.id, got.type_, got.key, got.timestamp_us), ("", "", Some(&b"k"[..]), 0));
        assert_eq!(pairs(got.headers), [("a", &b""[..]), ("\u{fffd}", b"1"), ("ce_id", b"2"), ("", b"")]);
        assert_eq!((incoming.attempts, incoming.unreadable), (0, None));
    }
    let counts = [("70000", u16::MAX), ("-1", 0), ("2", 2), ("", 0)];
    for (text, attempts) in counts {
        let tries = [(TRIES.as_bytes(), Some(text.as_bytes()))];
        assert_eq!(came(&tries, &raw, Wire::Native).attempts, attempts, "{text}");
    }
}

#[test]
fn what_cannot_be_held_is_cut_and_said() {
    let (id, long) = ("é".repeat(40), "l".repeat(300));
    let fine = [(ID.as_bytes(), Some(id.as_bytes()))];
    let raw = foreign(b"x");
    let incoming = came(&fine, &raw, Wire::Native);
    assert_eq!((incoming.record(&raw).id, incoming.unreadable.as_deref()), (&id[..62], None));

    let incoming = came(&[(TYPE.as_bytes(), Some(long.as_bytes()))], &raw, Wire::Native);
    assert_eq!(incoming.record(&raw).type_.len(), TYPE_BYTES_MAX);
    assert_eq!(incoming.unreadable.as_deref(), Some("a type of 300 bytes; at most 255 are taken"));

    let incoming = came(&[(long.as_bytes(), None), (b"a", None)], &raw, Wire::Native);
    assert_eq!(pairs(incoming.record(&raw).headers), [("a", &b""[..])]);
    assert_eq!(incoming.unreadable.as_deref(), Some("a header's name of 300 bytes; at most 256 are taken"));

    let key = vec![b'k'; KEY_MAX + 1];
    let raw = Raw { key: Some(&key), ..raw };
    let incoming = came(&[], &raw, Wire::Native);
    assert_eq!(incoming.record(&raw).key.map(<[u8]>::len), Some(KEY_MAX));
    assert_eq!(incoming.unreadable.as_deref(), Some("a key of 65536 bytes; at most 65535 are taken"));

    let raw = foreign(&[b'x'; BYTES_MAX + 1]);
    let incoming = came(&[], &raw, Wire::Plain);
    assert_eq!(incoming.record(&raw).payload, raw.value);
    assert_eq!(incoming.unreadable.as_deref(), Some("a payload of 101 bytes; at most 100 are taken"));
}

#[test]
fn plain_carries_payload_key_and_time_and_refuses_the_rest() {
    let headers = block(&[("a", b"1")]);
    let good = Record { key: Some(b"k"), id: "own", timestamp_us: 1_500_001, maybe_dup: true, ..Record::new(b"x") };
    let frame = written(&good, target(Wire::Plain));
    assert_eq!((frame.headers().len(), frame.timestamp_ms()), (0, 1500));
    assert_eq!((frame.value(&good), frame.key(&good)), (&b"x"[..], good.key));
    let bad = [
        ("headers", Record { headers: headers.headers(), ..good }),
        ("a type", Record { type_: "T", ..good }),
        ("a time to live", Record { ttl_ms: 1, ..good }),
        ("attempts made before", Record { attempts: 1, ..good }),
    ];
    for (what, record) in bad {
        let (kind, text) = refused(&record, Wire::Plain);
        assert_eq!(kind, Kind::Unsupported);
        assert!(text.ends_with(&format!("but not {what}")), "{text}");
        let frame = written(&record, Target { again: true, ..target(Wire::Plain) });
        assert_eq!((frame.headers().len(), frame.value(&record)), (0, &b"x"[..]));
    }
}

#[test]
fn events_go_out_and_come_in() {
    let headers = block(&[("content-type", b"text/plain"), ("ce_subject", b"s"), ("a", &[255])]);
    let record = Record {
        key: Some(b"k"),
        headers: headers.headers(),
        timestamp_us: 1_500_001,
        ttl_ms: 1,
        attempts: 2,
        maybe_dup: true,
        ..Record::new(b"{}")
    };
    let frame = written(&record, target(Wire::CloudEvents));
    let attributes = ["ce_specversion", "ce_id", "ce_type", "ce_time", "ce_partitionkey", "ce_subject", "ce_source"];
    let rest = ["hmq-tries", "hmq-maybe-dup", "hmq-expires-us", "content-type", "a"];
    assert_eq!(names(&frame), [&attributes[..], &rest].concat());
    let raw = raw(&frame, &record);
    assert_eq!((raw.value, raw.key, raw.timestamp_ms), (&b"{}"[..], record.key, Some(1500)));
    let incoming = back(&frame, &raw, Wire::CloudEvents);
    let got = incoming.record(&raw);
    assert_eq!((got.id, got.type_, got.key), (MADE_ID, "order.created", record.key));
    assert_eq!((got.timestamp_us, got.maybe_dup, got.payload), (1_500_001, true, &b"{}"[..]));
    assert_eq!((incoming.attempts, incoming.expires_us), (2, Some(NOW_US + 1000)));
    let own = [("content-type", &b"text/plain"[..]), ("a", &[255]), ("ce_subject", b"s"), ("ce_source", b"shop")];
    assert_eq!(pairs(got.headers), own);
}

#[test]
fn events_of_other_programs_may_lack_time_and_key() {
    let headers: [(&[u8], Option<&[u8]>); 3] =
        [(b"ce_id", Some(b"1")), (b"ce_partitionkey", Some(b"p")), (b"ce_type", Some(b"T"))];
    for (key, got) in [(None, b"p"), (Some(&b"k"[..]), b"k")] {
        let raw = Raw { key, ..foreign(b"x") };
        let incoming = came(&headers, &raw, Wire::CloudEvents);
        let record = incoming.record(&raw);
        assert_eq!((record.id, record.type_, record.timestamp_us), ("1", "T", 1_500_000));
        assert_eq!(record.key, Some(&got[..]));
    }
    let headers = block(&[("ce_A", b"1")]);
    let record = Record { headers: headers.headers(), ..Record::new(b"x") };
    assert_eq!(refused(&record, Wire::CloudEvents).0, Kind::Header);
}

#[test]
fn helixagent_is_written_as_the_package_does() {
    let headers = block(&[("b", b"1"), ("trace-id", b"t"), ("content-type", b"c"), ("b", b"2"), ("a", b"3")]);
    let record = Record {
        id: "own",
        type_: "T",
        headers: headers.headers(),
        timestamp_us: 1_500_001,
        ttl_ms: 1,
        attempts: 2,
        maybe_dup: true,
        priority: 8,
        ..Record::new(b"{}")
    };
    for kind in [TopicKind::Task, TopicKind::Event] {
        let frame = written(&record, Target { kind, ..target(Wire::Helixagent) });
        let texts: Vec<_> = frame.headers().collect();
        let expected: [(&[u8], &[u8]); 6] = [
            (b"type\0", b"T"),
            (b"id\0", b"own"),
            (b"b\0", b"2"),
            (b"a\0", b"3"),
            (b"trace-id\0", b"t"),
            (b"hmq-maybe-dup\0", b"1"),
        ];
        assert_eq!(texts, expected);
        let raw = raw(&frame, &record);
        assert_eq!((raw.key, raw.timestamp_ms), (Some(&b"own"[..]), Some(1500)));
        assert!(raw.value.starts_with(br#"{"id":"own","type":"T","payload":""#));
        let mut incoming = Incoming::default();
        frame.headers().for_each(|(n, value)| incoming.header(&n[..n.len() - 1], Some(value), Wire::Helixagent));
        incoming.finish(&raw, kind, Wire::Helixagent, BYTES_MAX);
        let got = incoming.record(&raw);
        assert_eq!((got.payload, got.key, got.id, got.type_), (&b"{}"[..], None, "own", "T"));
        assert_eq!((got.timestamp_us, got.maybe_dup), (1_500_001, true));
        assert_eq!(got.priority, if kind == TopicKind::Task { 8 } else { PRIORITY_DEFAULT });
        assert_eq!((incoming.attempts, incoming.expires_us), (2, Some(NOW_US + 1000)));
        assert_eq!((got.headers.find("b"), got.headers.find("trace-id")), (Some(&b"2"[..]), Some(&b"t"[..])));
        assert_eq!(got.headers.find("id"), None);
    }
}

#[test]
fn a_key_beside_helixagent_comes_back() {
    for key in [&b"k"[..], b""] {
        let record = Record { key: Some(key), ..Record::new(b"x") };
        for kind in [TopicKind::Task, TopicKind::Event] {
            let frame = written(&record, Target { kind, ..target(Wire::Helixagent) });
            let raw = raw(&frame, &record);
            assert_eq!(raw.key, Some(key));
            let mut incoming = Incoming::default();
            incoming.finish(&raw, kind, Wire::Helixagent, BYTES_MAX);
            assert_eq!(incoming.record(&raw).key, Some(key), "{kind:?}");
        }
    }
}

#[test]
fn what_is_not_in_the_form_helixagent_is_kept_and_said() {
    let headers: [(&[u8], Option<&[u8]>); 1] = [(b"a", Some(b"1"))];
    let large = vec![b'x'; BYTES_MAX * 2 + HELIXAGENT_BYTES + 1];
    for (value, why) in [(&b"x"[..], "not a message in the form"), (&large, "far larger than message_bytes_max 100")] {
        let raw = foreign(value);
        let incoming = came(&headers, &raw, Wire::Helixagent);
        assert!(incoming.unreadable.as_ref().is_some_and(|text| text.contains(why)), "{:?}", incoming.unreadable);
        let got = incoming.record(&raw);
        assert_eq!((got.payload, pairs(got.headers)), (value, vec![("a", &b"1"[..])]));
    }
    let raw = foreign(br#"{"payload":"aGk=","headers":{"hmq-id":"x","a\u0000":"y","b":"z"}}"#);
    let incoming = came(&headers, &raw, Wire::Helixagent);
    let got = incoming.record(&raw);
    assert_eq!((got.payload, got.id, got.timestamp_us), (&b"hi"[..], "", 1_500_000));
    assert_eq!(pairs(got.headers), [("b", &b"z"[..])]);
    assert!(incoming.unreadable.is_some_and(|text| text.contains("NUL")));
    let raw = foreign(br#"{"payload":"eHh4eA=="}"#);
    let mut incoming = Incoming::default();
    incoming.finish(&raw, TopicKind::Task, Wire::Helixagent, 3);
    assert_eq!(incoming.unreadable.as_deref(), Some("a payload of 4 bytes; at most 3 are taken"));
}

#[test]
fn a_place_is_an_id_that_fits() {
    assert_eq!(place_id("t", 3, 17), "t-3-17");
    let (long, other) = ("t".repeat(200), "u".repeat(200));
    let id = place_id(&long, i32::MAX, i64::MAX);
    assert!(id.len() <= ID_BYTES_MAX && id.ends_with("-2147483647-9223372036854775807"), "{id}");
    assert_eq!(id, place_id(&long, i32::MAX, i64::MAX));
    assert_ne!(id, place_id(&other, i32::MAX, i64::MAX));
}
