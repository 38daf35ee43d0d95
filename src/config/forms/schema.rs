//! The forms as JSON schema.

use serde_json::{json, Value};

use super::{As, Borrowed, Form, Many, Maybe};
use crate::config::document::Raw;

macro_rules! inline_schema {
    ([$($generics:tt)*] $type:ty, $schema:expr) => {
        impl<$($generics)*> schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                std::any::type_name::<Self>().into()
            }

            fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::Schema::try_from($schema).expect("a schema is an object")
            }
        }
    };
}
pub(crate) use inline_schema;

inline_schema!([F: Form] As<F>, F::schema());
inline_schema!([F: Form] Maybe<F>, or_null(F::schema()));
inline_schema!([F: Form] Many<F>, json!({"type": "array", "items": F::schema()}));
inline_schema!([] Borrowed<'_>, json!({"type": "string"}));
inline_schema!([] Raw<'_>, json!({}));

/// The same, and null.
pub(crate) fn or_null(mut schema: Value) -> Value {
    let types = match schema["type"].take() {
        Value::Array(types) => types,
        one => vec![one],
    };
    schema["type"] = types.into_iter().chain([json!("null")]).collect();
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    schema
}
