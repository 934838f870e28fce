//! The published contracts, their examples and our decoders say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use schemas::request::Limits;
use schemas::{job, request};

/// One per message, named as the files of its examples begin.
const KINDS: [&str; 3] = ["dead_letter", "job", "request_batch"];

fn contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts")
}

fn validator(kind: &str) -> Validator {
    let text = fs::read_to_string(contracts().join(format!("{kind}.v1.schema.json"))).unwrap();
    jsonschema::options()
        .should_validate_formats(true)
        .build(&serde_json::from_str(&text).unwrap())
        .unwrap()
}

/// What our reader says; nothing for messages that only people read.
fn decode(kind: &str, bytes: &[u8]) -> Option<Result<(), String>> {
    match kind {
        "request_batch" => Some(
            request::decode(bytes, &Limits::default())
                .map(drop)
                .map_err(|error| error.to_string()),
        ),
        "job" => Some(job::decode(bytes).map(drop).map_err(|error| error.to_string())),
        _ => None,
    }
}

/// Examples below `folder`, each with the message it is one of, and its text.
fn examples(folder: &str) -> Vec<(String, &'static str, String)> {
    let mut examples = Vec::new();
    for entry in fs::read_dir(contracts().join(folder)).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() {
            let kind = KINDS.into_iter().find(|kind| name.starts_with(kind));
            let kind = kind.unwrap_or_else(|| panic!("{name} begins with the name of no message"));
            examples.push((name, kind, fs::read_to_string(entry.path()).unwrap()));
        }
    }
    let kinds: BTreeSet<&str> = examples.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!(kinds, BTreeSet::from(KINDS), "every message has an example in {folder}");
    examples
}

#[test]
fn every_example_is_taken_by_its_schema_and_its_decoder() {
    for (name, kind, text) in examples("examples") {
        let value = serde_json::from_str(&text).unwrap();
        let errors: Vec<_> = validator(kind)
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        assert_eq!(decode(kind, text.as_bytes()).unwrap_or(Ok(())), Ok(()), "{name}");
    }
}

#[test]
fn every_wrong_example_is_refused_by_its_schema_and_its_decoder() {
    for (name, kind, text) in examples("examples/invalid") {
        let value = serde_json::from_str(&text).unwrap();
        assert!(!validator(kind).is_valid(&value), "{name}: the schema takes it");
        assert_ne!(
            decode(kind, text.as_bytes()),
            Some(Ok(())),
            "{name}: the decoder takes it"
        );
    }
}

#[test]
fn what_we_write_is_taken_by_the_schema() {
    for (name, kind, text) in examples("examples") {
        let written = match kind {
            "request_batch" => {
                serde_json::to_value(request::decode(text.as_bytes(), &Limits::default()).unwrap()).unwrap()
            }
            "job" => serde_json::to_value(job::decode(text.as_bytes()).unwrap()).unwrap(),
            _ => continue,
        };
        let errors: Vec<_> = validator(kind)
            .iter_errors(&written)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

/// Columns of a table as the README lists them: names in order, and the type where it is given.
fn documented(table: &str) -> Vec<(String, String)> {
    let readme = fs::read_to_string(contracts().join("README.md")).unwrap();
    let section = readme
        .split(&format!("### `{table}`"))
        .nth(1)
        .expect("the README describes the table");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let (names, kind) = (cells.next().unwrap(), cells.next().unwrap());
        names
            .split(", ")
            .map(|name| (name.to_owned(), kind.to_owned()))
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_readme_lists_the_columns_that_are_written() {
    use arrow::datatypes::DataType;
    for (table, schema) in [
        ("results", schemas::result::arrow_schema()),
        ("billing_events", schemas::billing::arrow_schema()),
    ] {
        let documented = documented(table);
        let names: Vec<_> = documented.iter().map(|(name, _)| name.as_str()).collect();
        let written = schema.fields().iter().map(|field| field.name().as_str());
        // As sets: the README puts related columns together.
        assert_eq!(BTreeSet::from_iter(names), BTreeSet::from_iter(written), "{table}");
        for (name, kind) in documented.iter().filter(|(_, kind)| !kind.starts_with("as in")) {
            let field = schema.field_with_name(name).unwrap();
            let written = match field.data_type() {
                DataType::Timestamp(..) => "Timestamp".to_owned(),
                DataType::List(item) => format!("List({})", item.data_type()),
                other => other.to_string(),
            };
            assert_eq!(&written, kind, "{table}.{name}");
        }
    }
}
