//! `bitnet model` on the tiny models of the engine's tests.

mod common;

use std::path::PathBuf;

use common::bitnet;
use serde_json::Value;

fn golden(name: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden");
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn inspect_tells_what_a_gguf_file_is() {
    let path = golden("gguf/bitnet-b1.58-i2_s.gguf");
    let table = bitnet(&["model", "inspect", &path], &[]);
    for part in [
        "I2_S weights",
        "x86",
        "relu2",
        "384 tokens",
        "with 128 tokens",
        "chat template",
    ] {
        assert!(table.succeeded().contains(part), "{part:?} is not in {}", table.stdout);
    }
    let json = bitnet(&["model", "inspect", &path, "--json"], &[]);
    let told: Value = serde_json::from_str(json.succeeded()).unwrap();
    assert_eq!(told["digest"].as_str().unwrap().len(), 64);
    let memory = &told["memory"][0];
    assert_eq!(memory["context"], 128);
    let bytes = |key: &str| told[key].as_u64().unwrap();
    let expected = bytes("weights_bytes") + bytes("head_copy_bytes") + 128 * bytes("kv_bytes_per_token");
    assert_eq!(memory["bytes"], expected);
    assert!(told["caution"].as_str().unwrap().contains("ARM"), "{told}");
    let other = bitnet(&["model", "inspect", &golden("gguf/llama-tq2_0.gguf")], &[]);
    assert!(!other.succeeded().contains("ARM"), "{}", other.stdout);
}

#[test]
fn what_convert_writes_verifies_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("llama");
    let (from, to) = (golden("gguf/llama-tq2_0.gguf"), to.to_str().unwrap());
    let run = bitnet(&["model", "convert", &from, to], &[]);
    assert!(run.succeeded().contains("digest"), "{}", run.stdout);
    let run = bitnet(&["model", "verify", to, "--golden", &golden("gguf/llama.json")], &[]);
    assert!(run.succeeded().contains("all 6 rows agree"), "{}", run.stdout);
    bitnet(&["model", "convert", &from, to], &[]).failed(2, &[to, "there already"]);
}

#[test]
fn another_models_logits_are_1_and_what_is_no_model_is_65() {
    let (model, other) = (golden("gguf/bitnet-b1.58-tq1_0.gguf"), golden("gguf/llama.json"));
    bitnet(&["model", "verify", &model, "--golden", &other], &[]).failed(1, &["6 of 6 rows", "llama.json"]);
    bitnet(&["model", "verify", &model, "--golden", &model], &[]).failed(65, &[&model]);
    bitnet(&["model", "inspect", &other], &[]).failed(65, &["llama.json", "GGUF"]);
    bitnet(&["model", "inspect", "/nonexistent"], &[]).failed(65, &["/nonexistent"]);
}
