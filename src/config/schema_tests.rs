//! The published schemas are those of the code. `HMQ_BLESS=1` writes them anew.

use schemars::generate::SchemaSettings;
use schemars::JsonSchema;
use serde_json::{json, Value};

use super::options::*;
use super::{Config, MessageDocument};

#[test]
fn the_committed_schema_of_the_configuration() {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Config>().to_value();
    schema["title"] = json!("helixmq configuration");
    same_as_committed("config.schema.json", &schema);
}

#[test]
fn the_committed_schema_of_the_options() {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    macro_rules! all {
        ($($document:ty),*) => { $(generator.subschema_for::<$document>();)* };
    }
    all!(SubscribeOptions, ReplayOptions, PublisherOptions, DeclareOptions, TopicSelector, DeadLetterQuery);
    all!(InboxOptions, SeekOptions, InitOptions, BrokerOptions, MessageDocument<'static>, Meta<'static>);
    let definitions = generator.take_definitions(true);
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "helixmq option documents",
        "$defs": definitions,
    });
    same_as_committed("options.schema.json", &schema);
}

#[test]
fn the_schema_knows_the_defaults() {
    let schema = schemars::SchemaGenerator::default().into_root_schema_for::<Config>().to_value();
    assert_eq!(schema["properties"]["prefetch"]["default"], 32);
    assert_eq!(schema["properties"]["connection_timeout_ms"]["minimum"], 1);
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(Config::schema_name(), "Config");
}

fn same_as_committed(file: &str, schema: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    let text = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("HMQ_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/{file} is not the schema of the code; run the test with HMQ_BLESS=1");
}
