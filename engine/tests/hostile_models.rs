//! A damaged or deceitful model is refused with an error that names file, tensor and shapes; it never panics.

use std::fs;
use std::path::{Path, PathBuf};

use engine::{Endpoint, LoadError, LoadOptions, Model};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of one of the tiny models.
fn copy(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn load(dir: &Path) -> Result<Model, LoadError> {
    Model::load(dir, &LoadOptions::default())
}

fn weights(dir: &TempDir) -> PathBuf {
    dir.path().join("model.safetensors")
}

/// The header of a safetensors file, and the data behind it.
fn split(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (
        serde_json::from_slice(&bytes[8..8 + len]).unwrap(),
        bytes[8 + len..].to_vec(),
    )
}

fn join(path: &Path, header: &Value, data: &[u8]) {
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
    fs::write(path, bytes).unwrap();
}

/// Where a tensor's bytes lie.
fn range(header: &Value, tensor: &str) -> std::ops::Range<usize> {
    let offsets = &header[tensor]["data_offsets"];
    offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize
}

/// Changes the packed tiny model's weight file, and expects the refusal to say all of `said`.
fn check(change: impl FnOnce(&mut Value, &mut Vec<u8>), said: &[&str]) {
    let dir = copy("bitnet-packed");
    let (mut header, mut data) = split(&weights(&dir));
    change(&mut header, &mut data);
    join(&weights(&dir), &header, &data);
    expect(load(dir.path()), &[&["model.safetensors"], said].concat());
}

fn expect(loaded: Result<Model, LoadError>, said: &[&str]) {
    let error = loaded.err().expect("a bad model was loaded");
    let error = format!("{error} ({:?})", std::error::Error::source(&error));
    for said in said {
        assert!(error.contains(said), "{said:?} is not in {error:?}");
    }
}

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
const SCALE: &str = "model.layers.0.self_attn.k_proj.weight_scale";

#[test]
fn the_untouched_copy_loads() {
    let dir = copy("bitnet-packed");
    assert_eq!(load(dir.path()).unwrap().context_length(), 128);
}

#[test]
fn truncated_files_are_refused_at_any_length() {
    let dir = copy("bitnet-packed");
    let whole = fs::read(weights(&dir)).unwrap();
    for len in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(weights(&dir), &whole[..len]).unwrap();
        expect(load(dir.path()), &["model.safetensors"]);
    }
    fs::write(weights(&dir), [&whole[..], &[0]].concat()).unwrap();
    expect(load(dir.path()), &["model.safetensors", "follow the header"]);
}

#[test]
fn header_lengths_that_lie_allocate_nothing() {
    let dir = copy("bitnet-packed");
    let whole = fs::read(weights(&dir)).unwrap();
    for len in [0, 1, 1 << 20, 99_999_999, 1 << 40, 1 << 63, u64::MAX] {
        fs::write(weights(&dir), [&u64::to_le_bytes(len)[..], &whole[8..]].concat()).unwrap();
        expect(load(dir.path()), &["model.safetensors", "header"]);
    }
}

#[test]
fn shapes_that_disagree_with_the_configuration_are_both_named() {
    check(
        |header, _| header[DOWN]["shape"] = json!([84, 16]),
        &[DOWN, "[84, 16]", "[16, 84]"],
    );
    let dir = copy("bitnet-packed");
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["vocab_size"] = json!(260);
    fs::write(&path, config.to_string()).unwrap();
    expect(
        load(dir.path()),
        &["model.embed_tokens.weight", "[259, 64]", "[260, 64]"],
    );
}

#[test]
fn mislabelled_tensors_are_refused() {
    check(|header, _| header[DOWN]["dtype"] = json!("I8"), &[DOWN, "I8"]);
    check(|header, _| header[DOWN]["dtype"] = json!("BF16"), &["header"]);
    check(
        |header, _| header[DOWN]["dtype"] = json!("TERNARY"),
        &["header", "TERNARY"],
    );
    check(
        |header, _| header[DOWN]["data_offsets"] = json!([0, u64::MAX]),
        &["header"],
    );
    check(
        |header, _| header[DOWN]["shape"] = json!([1u64 << 62, 1u64 << 62]),
        &["header"],
    );
    let norm = "model.layers.1.post_attention_layernorm.weight";
    check(|header, _| header[norm]["dtype"] = json!("I16"), &[norm, "I16", "BF16"]);
}

#[test]
fn values_that_are_no_weights_are_refused_with_their_place() {
    let fill = |tensor: &'static str, bytes: [u8; 2]| {
        move |header: &mut Value, data: &mut Vec<u8>| {
            let range = range(header, tensor);
            data[range.start..range.start + 2].copy_from_slice(&bytes);
        }
    };
    check(fill(SCALE, [0xc0, 0x7f]), &[SCALE, "NaN"]);
    check(fill(SCALE, [0x80, 0x7f]), &[SCALE, "inf"]);
    check(fill(SCALE, [0, 0]), &[SCALE, "positive"]);
    check(fill(SCALE, [0x80, 0xbf]), &[SCALE, "-1", "positive"]);
    check(fill(DOWN, [0xff, 0xff]), &[DOWN, "row 0", "column 0", "2"]);
    check(
        fill("model.norm.weight", [0xc0, 0x7f]),
        &["model.norm.weight", "NaN", "[0]"],
    );
    check(
        fill("model.embed_tokens.weight", [0x80, 0xff]),
        &["model.embed_tokens.weight", "-inf", "[0, 0]"],
    );
}

#[test]
fn missing_and_unexpected_tensors_are_named() {
    let rename = |from: &'static str, to: &'static str| {
        move |header: &mut Value, _: &mut Vec<u8>| {
            let tensor = header.as_object_mut().unwrap().remove(from).unwrap();
            header[to] = tensor;
        }
    };
    check(rename(DOWN, "model.layers.1.mlp.down.weight"), &[DOWN, "missing"]);
    check(
        |header, data| {
            header["model.layers.0.self_attn.q_proj.bias"] = json!({
                "dtype": "U8", "shape": [1], "data_offsets": [data.len(), data.len() + 1]
            });
            data.push(0);
        },
        &["self_attn.q_proj.bias", "no place"],
    );
}

#[test]
fn an_index_cannot_point_elsewhere() {
    let index = |change: &dyn Fn(&mut Value), said: &[&str]| {
        let dir = copy("bitnet-online");
        let path = dir.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        fs::write(&path, index.to_string()).unwrap();
        expect(load(dir.path()), said);
    };
    index(
        &|index| index["weight_map"]["lm_head.weight"] = json!("../x.safetensors"),
        &["index.json", "plain name"],
    );
    index(
        &|index| index["weight_map"]["lm_head.weight"] = json!("/etc/passwd"),
        &["index.json", "plain name"],
    );
    index(
        &|index| index["weight_map"]["lm_head.weight"] = json!("absent.safetensors"),
        &["absent.safetensors"],
    );
    index(
        &|index| index["weight_map"]["extra"] = json!("model-00001-of-00002.safetensors"),
        &["extra", "not in"],
    );
    index(&|index| index["weight_map"] = json!({}), &["weight_map is empty"]);
}

#[test]
fn unknown_kinds_and_missing_files_are_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let dir = copy("bitnet-packed");
        fs::remove_file(dir.path().join(file)).unwrap();
        expect(load(dir.path()), &["cannot read", file]);
    }
    let dir = copy("bitnet-packed");
    let config = dir.path().join("config.json");
    fs::write(&config, r#"{ "architectures": ["MambaForCausalLM"] }"#).unwrap();
    expect(load(dir.path()), &["config.json"]);
    let damaged = copy("bitnet-packed");
    fs::write(damaged.path().join("tokenizer.json"), b"{\"model\": {\"\xff\": 1}}").unwrap();
    expect(load(damaged.path()), &["tokenizer.json", "invalid unicode", "line 1"]);
    fs::write(&config, r#"{ "architectures": "#.to_owned() + &"[".repeat(1_000_000)).unwrap();
    expect(load(dir.path()), &["config.json", "line 1"]);
    let options = LoadOptions {
        kernel: Some("cray".to_owned()),
        ..LoadOptions::default()
    };
    expect(Model::load(copy("bitnet-packed").path(), &options), &["cray", "scalar"]);
}

#[test]
fn a_context_of_one_position_loads_and_refuses_what_does_not_fit() {
    let dir = copy("bitnet-packed");
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(1);
    fs::write(&path, config.to_string()).unwrap();
    let model = load(dir.path()).unwrap();
    assert_eq!(model.logits(&[1]).unwrap().len(), model.vocabulary());
    let error = model.logits(&[1, 2]).unwrap_err();
    assert_eq!(error.code, "context_length_exceeded");
    let error = model
        .prepare(Endpoint::Completions, &json!({ "prompt": [1] }), "")
        .unwrap_err();
    assert_eq!(error.code, "context_length_exceeded", "{error}");
}

#[test]
fn the_digest_tells_models_apart_and_not_folders() {
    let (first, second) = (copy("bitnet-packed"), copy("bitnet-packed"));
    let digest =
        |dir: &TempDir| load(dir.path()).map(|model| (model.digest().to_owned(), model.tokenizer_digest().to_owned()));
    let before = digest(&first).unwrap();
    assert_eq!(before, digest(&second).unwrap());
    assert_eq!(before.0.len(), 64);
    let (header, mut data) = split(&weights(&second));
    let norm = range(&header, "model.norm.weight");
    data[norm.start] ^= 1;
    join(&weights(&second), &header, &data);
    let after = digest(&second).unwrap();
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_make_the_loader_panic(
        file in prop::sample::select(vec!["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]),
        places in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..6),
        at_start in any::<bool>(),
    ) {
        let dir = copy("bitnet-packed");
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let reach = if at_start { bytes.len().min(2000) } else { bytes.len() };
        for (place, value) in places {
            bytes[(place * reach as f64) as usize] = value;
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(model) = load(dir.path()) {
            let tokens = &[1, 2, 3][..model.context_length().min(3)]; // some are left with a context of one
            let logits = model.logits(tokens).unwrap();
            prop_assert_eq!(logits.len(), tokens.len() * model.vocabulary());
            let _ = model.prepare(Endpoint::Completions, &json!({ "prompt": "Some text, ünd" }), "");
            let _ = model.prepare(Endpoint::ChatCompletions, &json!({ "messages": [{ "role": "user", "content": "a" }] }), "");
        }
    }
}
