//! Logits against `transformers` in float32, for every form of checkpoint that loads and for the demo model.
//!
//! `integration/reference/golden.py` makes the files. It keeps prompts whose logits do not hang on the last bit of a sum,
//! so that every faithful implementation comes close; its README says more.

use std::path::{Path, PathBuf};

use engine::{Endpoint, LoadOptions, Model};
use serde::Deserialize;
use serde_json::json;

/// Largest difference, relative to the largest magnitude of the row: as far as the reference itself moves under noise of
/// the size of float32's rounding.
const TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Row>,
}

/// The logits behind the last of `tokens`.
#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    argmax: usize,
    largest: f32,
    /// Which logits are given; all of them if none are named.
    ids: Option<Vec<usize>>,
    logits: Vec<f32>,
    /// Demo model: the text that became `tokens`.
    prompt: Option<String>,
    /// Demo model: what greedy decoding writes next.
    #[serde(default)]
    answer: Vec<u32>,
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn demo_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo/model/debian-sections")
}

fn load(model_dir: &Path, golden_file: &Path) -> (Model, Vec<Row>) {
    let model = Model::load(model_dir, &LoadOptions::default()).unwrap();
    let golden: Golden = serde_json::from_slice(&std::fs::read(golden_file).unwrap()).unwrap();
    assert!(!golden.rows.is_empty());
    (model, golden.rows)
}

/// Logits of every position, one row each.
fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let all = model.logits(tokens).unwrap();
    assert_eq!(all.len() % tokens.len(), 0);
    all.chunks(all.len() / tokens.len()).map(<[f32]>::to_vec).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn check(model_dir: &Path, golden_file: &Path) {
    let (model, rows) = load(model_dir, golden_file);
    for golden in rows {
        let found = logits(&model, &golden.tokens).pop().unwrap();
        assert!(found.iter().all(|logit| logit.is_finite()));
        let ids = golden.ids.unwrap_or_else(|| (0..found.len()).collect());
        assert_eq!(ids.len(), golden.logits.len());
        let pairs = ids.iter().map(|&id| found[id]).zip(&golden.logits);
        let worst = pairs
            .map(|(found, expected)| (found - expected).abs())
            .fold(0.0, f32::max)
            / golden.largest;
        let len = golden.tokens.len();
        println!("{len} tokens: off by {worst:.1e} of the largest logit");
        assert!(
            worst <= TOLERANCE,
            "{len} tokens: off by {worst:.1e} of the largest logit"
        );
        assert_eq!(argmax(&found), golden.argmax, "{len} tokens");
    }
}

fn check_tiny(name: &str) {
    check(&golden_dir().join(name), &golden_dir().join(name).join("golden.json"));
}

#[test]
fn packed_bitnet_with_tied_head_and_grouped_heads() {
    check_tiny("bitnet-packed");
}

#[test]
fn packed_llama_that_divides_by_its_scales() {
    check_tiny("llama-bitlinear");
}

#[test]
fn master_weights_in_shards_are_quantized_at_load() {
    check_tiny("bitnet-online");
}

#[test]
fn unpacked_ternary_weights_with_wide_heads() {
    check_tiny("llama-unpacked");
}

#[test]
fn rotary_frequencies_of_llama_3_1_in_three_shards() {
    check_tiny("llama-rope3");
}

#[test]
fn float16_bitnet_that_divides_by_its_scales_with_silu_and_linear_rotary_scaling() {
    check_tiny("bitnet-linear");
}

/// A GGUF file against the golden logits of its weights.
fn check_gguf(file: &str, golden: &str) {
    let dir = golden_dir().join("gguf");
    check(&dir.join(file), &dir.join(golden));
}

#[test]
fn gguf_of_bitnet_in_every_ternary_type_with_f16_embedding() {
    for ternary in ["i2_s", "tq1_0", "tq2_0"] {
        check_gguf(&format!("bitnet-b1.58-{ternary}.gguf"), "bitnet-b1.58.json");
    }
}

#[test]
fn gguf_of_bitnet_with_silu_linear_rotary_scaling_and_q8_0_embedding() {
    check_gguf("bitnet-i2_s.gguf", "bitnet.json");
}

#[test]
fn gguf_of_llama_with_rotary_factors_permuted_rows_q6_k_embedding_and_q8_0_head() {
    check_gguf("llama-tq2_0.gguf", "llama.json");
}

#[test]
fn every_ternary_type_gives_the_same_bits() {
    let dir = golden_dir().join("gguf");
    let bits = |ternary: &str| {
        let path = dir.join(format!("bitnet-b1.58-{ternary}.gguf"));
        let model = Model::load(&path, &LoadOptions::default()).unwrap();
        let logits = model.logits(&[5, 80, 200, 7, 300]).unwrap();
        logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
    };
    let first = bits("i2_s");
    assert_eq!(first, bits("tq1_0"));
    assert_eq!(first, bits("tq2_0"));
}

#[test]
fn demo_model() {
    check(&demo_dir(), &golden_dir().join("debian-sections.json"));
}

#[test]
fn demo_model_writes_the_answers_of_transformers() {
    let (model, rows) = load(&demo_dir(), &golden_dir().join("debian-sections.json"));
    for golden in rows {
        let prompt = golden.prompt.unwrap();
        let job = model
            .prepare(Endpoint::Completions, &json!({ "prompt": prompt }), "golden")
            .unwrap();
        assert_eq!(job.input_tokens(), golden.tokens.len(), "{prompt}");
        let asked = golden.tokens.len();
        let tokens = [golden.tokens, golden.answer.clone()].concat();
        let rows = logits(&model, &tokens);
        let written: Vec<u32> = rows[asked - 1..tokens.len() - 1]
            .iter()
            .map(|row| argmax(row) as u32)
            .collect();
        assert_eq!(written, golden.answer, "{prompt}");
    }
}

#[test]
fn a_position_sees_only_what_is_before_it() {
    for name in ["bitnet-packed", "llama-unpacked"] {
        let (model, rows) = load(&golden_dir().join(name), &golden_dir().join(name).join("golden.json"));
        let tokens = &rows.last().unwrap().tokens;
        let whole = logits(&model, tokens);
        for len in [1, 2, 15, 16, 17, tokens.len()] {
            let alone = logits(&model, &tokens[..len]).pop().unwrap();
            assert!(
                alone
                    .iter()
                    .map(|x| x.to_bits())
                    .eq(whole[len - 1].iter().map(|x| x.to_bits())),
                "{name}, {len} tokens"
            );
        }
    }
}
