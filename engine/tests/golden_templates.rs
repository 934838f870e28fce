//! Chat templates against what `transformers` renders, refusals included.
//!
//! `integration/reference/chat_templates.py` makes the files.

use std::path::{Path, PathBuf};

use engine::{LoadOptions, Model};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    template: String,
    bos_token: String,
    eos_token: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    messages: Value,
    rendered: Option<String>,
    /// What the template raises instead.
    refused: Option<String>,
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A tiny model with the template of `golden`.
fn model(golden: &Golden) -> Model {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden_dir().join("bitnet-packed").join(file), dir.path().join(file)).unwrap();
    }
    let config =
        json!({ "bos_token": golden.bos_token, "eos_token": golden.eos_token, "chat_template": golden.template });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Model::load(dir.path(), &LoadOptions::default()).unwrap()
}

fn check(name: &str) {
    let file = golden_dir().join("templates").join(name).with_extension("json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let model = model(&golden);
    for case in golden.cases {
        match (model.render_chat(&case.messages), case.rendered, case.refused) {
            (Ok(found), Some(expected), None) => assert_eq!(found, expected, "{name}: {}", case.case),
            (Err(error), None, Some(expected)) => {
                assert!(error.message.contains(&expected), "{name}: {}: {error}", case.case)
            }
            (found, rendered, refused) => panic!("{name}: {}: {found:?}, expected {rendered:?} {refused:?}", case.case),
        }
    }
}

#[test]
fn the_demo_models() {
    check("debian-sections");
}

#[test]
fn llama_3() {
    check("llama-3");
}

#[test]
fn bitnet_2b_4t() {
    check("bitnet-2b-4t");
}

#[test]
fn falcon_3() {
    check("falcon-3");
}

#[test]
fn a_branch_for_tools_is_not_taken() {
    check("branch-for-tools");
}

#[test]
fn chatml() {
    check("chatml");
}

#[test]
fn alternating_roles_or_a_refusal() {
    check("alternating");
}

#[test]
fn whitespace_macros_namespaces_filters_and_methods() {
    check("language");
}

#[test]
fn json_is_written_as_python_writes_it() {
    check("tojson");
}

#[test]
fn break_and_continue() {
    check("break-and-continue");
}
