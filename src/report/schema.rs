//! The JSON Schema of what `--json` writes, made from the structures that are written.
//!
//! # The promise
//! - The document names the version of its structure in `schema` ([`VERSION`]).
//! - Within one version no field is renamed or removed, none changes its type or meaning, and none that
//!   is always there becomes optional. Fields may be added: readers pass over what they do not know.
//! - `declone schema` prints what exactly this program writes, and allows no field besides: a test that
//!   validates against it fails when a field is forgotten here.
//! - Texts in `what`, `evidence`, `reason`, `advice` and `remarks` are for people and may change. Ids of
//!   rules and obstacles, `result`, `kind`, `verb` and exit codes are for programs and do not.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// Version of the structure of every JSON document.
pub const VERSION: u32 = 1;

/// One kind of document.
pub type Part = fn(&mut SchemaGenerator) -> Schema;

/// The part of the schema that a structure is.
pub fn part<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The schema of all documents.
#[must_use]
pub fn of(parts: &[Part]) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let any: Vec<Schema> = parts.iter().map(|part| part(&mut generator)).collect();
    let mut definitions: Map<String, Value> = generator.take_definitions(true);
    definitions.values_mut().for_each(close);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("declone: JSON documents, structure {VERSION}"),
        "description": "What scan, clean, verify, recover and undo write with --json, and what compare \
            writes. Within one version of the structure fields are added only, never renamed or \
            removed; readers should pass over fields that they do not know. This schema is exact: it \
            names every field that this version of declone writes, and allows no other.",
        "anyOf": any,
        "$defs": definitions,
    })
}

/// No object has other fields than those named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("type").is_some_and(|kind| kind == "object")
                && map.contains_key("properties")
            {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Document;

    #[test]
    fn every_object_is_closed_and_every_field_is_described() {
        let schema = of(&[part::<Document<'static>>]);
        let definitions = schema["$defs"].as_object().unwrap();
        assert!(definitions.len() > 15, "{}", definitions.len());
        let document = &definitions["Document"];
        assert_eq!(document["additionalProperties"], false);
        for field in ["declone", "schema", "exit_code", "images", "redacted"] {
            let required = document["required"].as_array().unwrap();
            assert!(required.contains(&json!(field)), "{field}");
            assert!(
                document["properties"][field]["description"].is_string(),
                "{field}"
            );
        }
    }
}
