//! What publishing a JSON document costs more than publishing the same message as fields.

use std::time::{Duration, Instant};

use helixmq_rivals::abi::{hmq_header, hmq_record};
use helixmq_rivals::hub::{bytes, empty_record, Hub, Publisher};
use helixmq_rivals::pairs::{Meter, Sample};

const TOPIC: &str = "tasks.json";
const KEY: &str = "customer-4711";
const TYPE: &str = "order.created";
const PAYLOAD: &str = concat!(
    r#"{"order":184467,"customer":"4711","currency":"EUR","total":129.95,"paid":true,"channel":"web","coupon":"MAY10","#,
    r#""items":[{"sku":"A-100","quantity":2},{"sku":"B-205","quantity":1}],"note":"leave at the door, ring twice"}"#
);
const HEADERS: [(&str, &str); 1] = [("origin", "shop-7")];
/// Messages between two purges, which are not timed.
const ROUND: usize = 2_000;

/// The whole message as a document, of [`DOCUMENT_BYTES`].
pub fn document() -> String {
    let (name, value) = HEADERS[0];
    format!(
        r#"{{"topic":"{TOPIC}","kind":"task","key":"{KEY}","type":"{TYPE}","priority":5,"headers":{{"{name}":"{value}"}},"payload":{PAYLOAD}}}"#
    )
}

/// The size that the figure is stated for.
pub const DOCUMENT_BYTES: usize = 353;

/// Microseconds per message by document.
pub fn by_document(hub: &Hub, document: &str, time: Duration) -> Sample {
    timed(hub, time, || hub.publish_json(document))
}

/// Microseconds per message by fields.
pub fn by_fields(hub: &Hub, publisher: &mut Publisher, time: Duration) -> Sample {
    let headers = HEADERS.map(|(name, value)| hmq_header {
        name: name.as_ptr().cast(),
        name_len: name.len(),
        value: bytes(value.as_bytes()),
        value_len: value.len(),
    });
    let record = hmq_record {
        payload: bytes(PAYLOAD.as_bytes()),
        payload_len: PAYLOAD.len(),
        key: bytes(KEY.as_bytes()),
        key_len: KEY.len(),
        type_: TYPE.as_ptr().cast(),
        type_len: TYPE.len(),
        headers: headers.as_ptr(),
        header_count: headers.len(),
        priority: 5,
        ..empty_record()
    };
    timed(hub, time, || publisher.send_record(&record))
}

/// Makes the publisher of [`by_fields`].
pub fn publisher(hub: &Hub) -> Publisher {
    hub.publisher(&format!(r#"{{"topic": "{TOPIC}", "kind": "task"}}"#))
}

fn timed(hub: &Hub, time: Duration, mut publish: impl FnMut()) -> Sample {
    let (meter, mut spent, mut count) = (Meter::start(), Duration::ZERO, 0);
    while spent < time {
        let start = Instant::now();
        (0..ROUND).for_each(|_| publish());
        spent += start.elapsed();
        count += ROUND as u64;
        hub.purge(TOPIC);
    }
    meter.sample(count, spent.as_secs_f64() * 1e6 / count as f64)
}
