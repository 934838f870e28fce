//! The tokenizers of GGUF files against the libraries they come from: `tokenizers` for byte-level BPE, `sentencepiece` for the
//! other kind. `integration/reference/gguf_tokenizers.py` makes the files.

use std::path::{Path, PathBuf};

use engine::{Endpoint, LoadOptions, Model};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    text: String,
    /// Without the token that begins a text.
    ids: Vec<u32>,
    /// What the ids say again.
    decoded: String,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/gguf")
        .join(name)
}

fn load(file: &str) -> Model {
    Model::load(&golden(file), &LoadOptions::default()).unwrap()
}

fn check(model: &str, cases: &str) {
    let model = load(model);
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(golden(cases)).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for Case { text, ids, decoded } in cases {
        assert_eq!(model.tokenize(&text).unwrap(), ids, "{text:?}");
        assert_eq!(model.detokenize(&ids).unwrap(), decoded, "{text:?}");
    }
}

#[test]
fn byte_level_bpe_of_llama_3() {
    check("bitnet-b1.58-i2_s.gguf", "tokenizer-bpe.json");
}

#[test]
fn sentence_piece() {
    check("bitnet-i2_s.gguf", "tokenizer-spm.json");
}

#[test]
fn a_text_begins_with_its_token() {
    for (file, text) in [("bitnet-b1.58-i2_s.gguf", "a b c"), ("bitnet-i2_s.gguf", "x y")] {
        let model = load(file);
        let job = model
            .prepare(Endpoint::Completions, &json!({ "prompt": text }), "")
            .unwrap();
        assert_eq!(job.input_tokens(), model.tokenize(text).unwrap().len() + 1, "{file}");
    }
}

#[test]
fn the_chat_template_is_the_files_own() {
    let model = load("bitnet-b1.58-i2_s.gguf");
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let rendered = model.render_chat(&messages).unwrap();
    assert_eq!(rendered, "<|begin_of_text|>User: hi<|eot_id|>Assistant: ");
    let error = load("bitnet-i2_s.gguf").render_chat(&messages).unwrap_err().to_string();
    assert!(error.contains("template"), "{error}");
}
