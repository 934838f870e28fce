//! A converted model gives the bits of the one it came from, and `inspect` tells the truth about both.

use std::path::{Path, PathBuf};

use engine::{ConvertError, LoadOptions, Model, convert, inspect};
use serde_json::{Value, json};

/// Models of every form.
const MODELS: [&str; 9] = [
    "bitnet-packed",
    "llama-bitlinear",
    "bitnet-online",
    "llama-unpacked",
    "llama-rope3",
    "bitnet-linear",
    "gguf/bitnet-b1.58-tq1_0.gguf",
    "gguf/bitnet-i2_s.gguf",
    "gguf/llama-tq2_0.gguf",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions::default()).unwrap()
}

#[test]
fn every_form_converts_and_stays_the_same_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS {
        let (from, to) = (golden(name), dir.path().join(name.replace('/', "-")));
        convert(&from, &to).unwrap();
        let (before, after) = (load(&from), load(&to));
        let tokens = [5, 80, 200, 7, 150];
        let bits = |model: &Model| {
            model
                .logits(&tokens)
                .unwrap()
                .iter()
                .map(|x| x.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&before), bits(&after), "{name}");
        assert_eq!(before.tokenizer_digest(), after.tokenizer_digest(), "{name}");
        assert_eq!(before.context_length(), after.context_length(), "{name}");
        let (told, told_after) = (inspect(&from).unwrap(), inspect(&to).unwrap());
        assert_eq!(
            (&told.digest[..], &told_after.digest[..]),
            (before.digest(), after.digest()),
            "{name}"
        );
        assert_eq!(told.tokenizer_digest, told_after.tokenizer_digest, "{name}");
        assert_eq!(
            (told.eos, told.chat_template),
            (told_after.eos, told_after.chat_template),
            "{name}"
        );
        assert_eq!(told.weights_bytes, told_after.weights_bytes, "{name}");
        assert!(told_after.format.contains("converted"), "{}", told_after.format);
    }
}

#[test]
fn a_converted_model_converts_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    convert(&golden("bitnet-packed"), &once).unwrap();
    convert(&once, &twice).unwrap();
    assert_eq!(load(&once).digest(), load(&twice).digest());
}

#[test]
fn nothing_is_overwritten_and_nothing_half_done_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let error = convert(&golden("bitnet-packed"), dir.path()).unwrap_err();
    assert!(matches!(error, ConvertError::Exists(_)), "{error}");
    let error = convert(&golden("absent"), &dir.path().join("x")).unwrap_err();
    assert!(matches!(error, ConvertError::Load(_)), "{error}");
    let error = convert(&golden("bitnet-packed"), &dir.path().join("no/such/place")).unwrap_err();
    assert!(matches!(error, ConvertError::Write { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn inspect_counts_what_there_is() {
    let told = inspect(&golden("gguf/bitnet-b1.58-i2_s.gguf")).unwrap();
    assert_eq!(told.format, "GGUF, bitnet-b1.58: I2_S weights, F16 embedding");
    let told = serde_json::to_value(told).unwrap();
    let expected = json!({
        "architecture": "BitNet", "activation": "relu2", "layers": 2, "hidden": 256, "feed_forward": 256, "heads": 4,
        "kv_heads": 2, "head_dim": 64, "vocabulary": 384, "context_length": 128, "tied": true, "chat_template": true,
        "ternary_parameters": 2 * (4 * 256 * 256 + 128 * 256 + 128 * 256 + 256 * 256),
        "other_parameters": 384 * 256 + 2 * 4 * 256 + 256,
    });
    for (key, expected) in expected.as_object().unwrap() {
        assert_eq!(&told[key], expected, "{key}");
    }
    let number = |key: &str| told[key].as_u64().unwrap();
    let tables = 384 * 256 * 2 + (2 * 4 * 256 + 256) * 4;
    assert_eq!(number("weights_bytes"), number("ternary_parameters") / 4 + tables);
    assert!(
        matches!(told["eos"], Value::Array(ref ids) if ids.len() == 2),
        "{}",
        told["eos"]
    );
    assert!(number("kv_bytes_per_token") >= 2 * 2 * 2 * 64 * 2);
}
