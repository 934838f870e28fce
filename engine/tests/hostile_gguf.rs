//! A damaged or deceitful GGUF file is refused with an error that names place, value and what was expected; it never panics,
//! and asks for no more memory than the file is long.

use std::fs;
use std::path::{Path, PathBuf};

use engine::{Endpoint, LoadError, LoadOptions, Model, inspect};
use proptest::prelude::*;
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/gguf")
        .join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap()
}

/// Loads bytes as a GGUF file.
fn load(bytes: &[u8]) -> Result<Model, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    Model::load(&path, &LoadOptions::default())
}

fn expect(bytes: &[u8], said: &[&str]) {
    let error = load(bytes).err().expect("a bad model was loaded");
    let error = format!("{error} ({:?})", std::error::Error::source(&error));
    for said in [&["model.gguf"], said].concat() {
        assert!(error.contains(said), "{said:?} is not in {error:?}");
    }
}

/// Where a key or name begins, behind the length that stands before it.
fn find(bytes: &[u8], text: &str) -> usize {
    let needle = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let at = bytes.windows(needle.len()).position(|window| window == needle);
    at.unwrap_or_else(|| panic!("{text} is not in the file")) + 8
}

/// Replaces the bytes behind a key or name, `skip` bytes further on.
fn patch(name: &str, text: &str, skip: usize, new: &[u8], said: &[&str]) {
    let mut bytes = bytes_of(name);
    let at = find(&bytes, text) + text.len() + skip;
    bytes[at..at + new.len()].copy_from_slice(new);
    expect(&bytes, said);
}

const I2_S: &str = "bitnet-b1.58-i2_s.gguf";
const TQ1: &str = "bitnet-b1.58-tq1_0.gguf";
const TQ2: &str = "bitnet-b1.58-tq2_0.gguf";
const LLAMA: &str = "llama-tq2_0.gguf";
/// A value stands behind its type, a tensor's dimensions behind their number.
const VALUE: usize = 4;
const DIMENSIONS: usize = 0;
const KIND: usize = 4 + 2 * 8;
const OFFSET: usize = KIND + 4;

#[test]
fn a_file_is_found_by_its_folder_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(I2_S), dir.path().join("any name.gguf")).unwrap();
    let model = Model::load(dir.path(), &LoadOptions::default()).unwrap();
    assert_eq!(model.context_length(), 128);
}

#[test]
fn truncated_files_are_refused_at_any_length() {
    let whole = bytes_of(I2_S);
    for len in [
        0,
        1,
        3,
        4,
        8,
        23,
        24,
        100,
        5000,
        whole.len() / 2,
        whole.len() - 100_000,
        whole.len() - 32,
    ] {
        expect(&whole[..len], &[]);
    }
}

#[test]
fn counts_and_lengths_that_lie_allocate_nothing() {
    let whole = bytes_of(I2_S);
    for lie in [1 << 20, 1 << 40, 1 << 63, u64::MAX] {
        for at in [8, 16, 24] {
            // number of tensors, number of values, length of the first key
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(lie));
            expect(&bytes, &[]);
        }
        patch(
            I2_S,
            "tokenizer.ggml.tokens",
            VALUE + 4,
            &lie.to_le_bytes(),
            &["bytes at", "truncated"],
        );
        patch(
            I2_S,
            "tokenizer.ggml.token_type",
            VALUE + 4,
            &lie.to_le_bytes(),
            &["bytes at", "truncated"],
        );
        patch(
            I2_S,
            "blk.1.ffn_up.weight",
            DIMENSIONS + 4,
            &lie.to_le_bytes(),
            &["blk.1.ffn_up.weight"],
        );
        patch(
            I2_S,
            "blk.1.ffn_up.weight",
            OFFSET,
            &lie.to_le_bytes(),
            &["blk.1.ffn_up.weight"],
        );
    }
}

#[test]
fn the_head_of_the_file_is_checked() {
    let mut bytes = bytes_of(I2_S);
    bytes[0] = b'X';
    expect(&bytes, &["GGUF"]);
    let mut bytes = bytes_of(I2_S);
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    expect(&bytes, &["version 1", "2 and 3"]);
    patch(
        I2_S,
        "general.name",
        0,
        &13u32.to_le_bytes(),
        &["general.name", "type 13"],
    );
    patch(
        I2_S,
        "tokenizer.ggml.tokens",
        VALUE,
        &9u32.to_le_bytes(),
        &["tokenizer.ggml.tokens", "array of type 9"],
    );
    patch(
        I2_S,
        "general.architecture",
        VALUE + 8,
        b"gpt2net",
        &["general.architecture", "gpt2net", "llama"],
    );
    patch(
        I2_S,
        "tokenizer.ggml.pre",
        VALUE + 8,
        b"llama-bpX",
        &["tokenizer.ggml.pre", "llama-bpX"],
    );
    patch(
        I2_S,
        "tokenizer.ggml.model",
        VALUE + 8,
        b"bert",
        &["tokenizer.ggml.model", "bert", "gpt2"],
    );
    patch(
        "bitnet-i2_s.gguf",
        "bitnet.rope.scaling.type",
        VALUE + 8,
        b"dynami",
        &["bitnet.rope.scaling.type", "dynami"],
    );
}

#[test]
fn sizes_that_no_model_has_are_named_with_their_key() {
    let size = |key: &str, value: u32, said: &[&str]| {
        let key = format!("bitnet-b1.58.{key}");
        patch(
            I2_S,
            &key,
            VALUE,
            &value.to_le_bytes(),
            &[&[key.as_str()][..], said].concat(),
        );
    };
    size("block_count", 0, &["is 0"]);
    size("block_count", u32::MAX, &["is 4294967295"]);
    size("attention.head_count", 0, &["is 0"]);
    size("attention.head_count", 3, &["is 3", "multiple", "head_count_kv"]);
    size("attention.head_count_kv", 3, &["multiple", "3"]);
    size("context_length", 0, &["is 0"]);
    size("rope.dimension_count", 32, &["is 32", "64"]);
    patch(
        I2_S,
        "bitnet-b1.58.block_count",
        VALUE,
        &3u32.to_le_bytes(),
        &["blk.2.", "missing"],
    );
    patch(
        I2_S,
        "bitnet-b1.58.block_count",
        VALUE,
        &1u32.to_le_bytes(),
        &["blk.1.", "no place"],
    );
    patch(
        I2_S,
        "bitnet-b1.58.feed_forward_length",
        VALUE,
        &512u32.to_le_bytes(),
        &["blk.0.ffn_gate.weight", "[256, 256]", "[512, 256]"],
    );
    let nan = f32::NAN.to_le_bytes();
    patch(
        I2_S,
        "bitnet-b1.58.rope.freq_base",
        VALUE,
        &nan,
        &["rope.freq_base is NaN"],
    );
    patch(
        I2_S,
        "bitnet-b1.58.attention.layer_norm_rms_epsilon",
        VALUE,
        &nan,
        &["rms_epsilon is NaN"],
    );
    patch(
        I2_S,
        "tokenizer.ggml.bos_token_id",
        VALUE,
        &9999u32.to_le_bytes(),
        &["bos_token_id is 9999", "384"],
    );
}

#[test]
fn tensors_of_other_types_are_refused_by_name() {
    let kind = |tensor: &str, code: u32, said: &[&str]| {
        patch(I2_S, tensor, KIND, &code.to_le_bytes(), &[&[tensor][..], said].concat());
    };
    kind("blk.0.ffn_down.weight", 8, &["Q8_0", "TQ2_0"]);
    kind("blk.0.ffn_down.weight", 12, &["type 12", "I2_S"]);
    kind("blk.0.ffn_down.weight", u32::MAX, &["type 4294967295"]);
    kind("token_embd.weight", 36, &["I2_S", "Q6_K"]);
}

#[test]
fn values_that_are_no_weights_are_refused_with_their_place() {
    let change = |name: &str, tensor: &str, skip: usize, new: &[u8], said: &[&str]| {
        let mut bytes = bytes_of(name);
        let dimensions = find(&bytes, tensor) + tensor.len();
        let info = dimensions + 4 + 8 * bytes[dimensions] as usize + 4;
        let offset = u64::from_le_bytes(bytes[info..info + 8].try_into().unwrap()) as usize;
        let last = "blk.1.ffn_down.weight"; // the data begin behind what describes the last tensor
        let data = (find(&bytes, last) + last.len() + OFFSET + 8).next_multiple_of(32);
        let at = data + offset + skip;
        bytes[at..at + new.len()].copy_from_slice(new);
        expect(&bytes, &[&[tensor][..], said].concat());
    };
    let down = "blk.1.ffn_down.weight";
    let scale_at = 256 * 256 / 4;
    change(I2_S, down, 0, &[0xff], &["row 0", "column 0", "is 2"]);
    change(I2_S, down, scale_at, &f32::NAN.to_le_bytes(), &["NaN", "positive"]);
    change(I2_S, down, scale_at, &0f32.to_le_bytes(), &["scale 0", "positive"]);
    change(I2_S, down, scale_at, &f32::INFINITY.to_le_bytes(), &["inf", "positive"]);
    change(TQ2, down, 64, &[0, 0x7e], &["NaN", "positive"]);
    change(TQ2, down, 64, &[0, 0xbc], &["-1", "positive"]);
    change(TQ2, down, 66 * 3 + 64, &[0, 0x3c], &["at weight 768", "only one"]);
    change(TQ2, down, 0, &[0xff], &["row 0", "is 2"]);
    change(TQ1, down, 52, &[0, 0x7c], &["inf"]);
    change(I2_S, "token_embd.weight", 0, &[0, 0x7c], &["inf", "[0, 0]"]);
    change(I2_S, "output_norm.weight", 4, &f32::NAN.to_le_bytes(), &["NaN", "[1]"]);
}

#[test]
fn a_token_that_stands_twice_is_named() {
    let mut bytes = bytes_of(I2_S);
    let at = find(&bytes, "tokenizer.ggml.tokens") + "tokenizer.ggml.tokens".len() + VALUE + 4 + 8;
    let (first, second) = (at + 8, at + 8 + 1 + 8); // two tokens of one byte, behind their lengths
    bytes[second] = bytes[first];
    expect(&bytes, &["tokenizer.ggml.tokens", "as token 0 and as token 1"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_make_the_loader_panic(
        file in prop::sample::select(vec![I2_S, TQ1, TQ2, LLAMA, "bitnet-i2_s.gguf"]),
        places in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..6),
        reach in prop::sample::select(vec![64usize, 4000, 20_000, usize::MAX]),
    ) {
        let mut bytes = bytes_of(file);
        let reach = bytes.len().min(reach);
        for (place, value) in places {
            bytes[(place * reach as f64) as usize] = value;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, bytes).unwrap();
        let _ = inspect(&path);
        if let Ok(model) = Model::load(&path, &LoadOptions::default()) {
            let tokens = &[1, 2, 3][..model.context_length().min(3)]; // some are left with a context of one
            let logits = model.logits(tokens).unwrap();
            prop_assert_eq!(logits.len(), tokens.len() * model.vocabulary());
            let _ = model.prepare(Endpoint::Completions, &json!({ "prompt": "Some text, ünd" }), "");
        }
    }
}
