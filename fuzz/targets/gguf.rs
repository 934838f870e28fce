//! A GGUF file: its first bytes are the input's, the tensors behind them those of a tiny model.
//!
//! The first byte of an input chooses the model. Inputs from 0x80 on are files of their own, with nothing behind them.

#![no_main]
#![forbid(unsafe_code)]

use std::fs;
use std::sync::LazyLock;

use fuzz::{Scratch, golden};
use libfuzzer_sys::fuzz_target;

const MODELS: [&str; 5] = [
    "bitnet-b1.58-i2_s.gguf",
    "bitnet-b1.58-tq1_0.gguf",
    "bitnet-b1.58-tq2_0.gguf",
    "bitnet-i2_s.gguf",
    "llama-tq2_0.gguf",
];
const ALONE: u8 = 0x80;
const ALIGNMENT: usize = 32;

static SCRATCH: LazyLock<Scratch> = LazyLock::new(Scratch::new);
static TENSORS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| MODELS.iter().map(|name| tensors(name)).collect());

/// The file from its first tensor on.
fn tensors(name: &str) -> Vec<u8> {
    let bytes = fs::read(golden("gguf").join(name)).expect("the golden model");
    // The last tensor's name, behind which are the number of its dimensions, two of them, its type and its offset.
    let last = b"ffn_down.weight";
    let at = bytes
        .windows(last.len())
        .rposition(|window| window == last)
        .expect("a projection");
    let start = (at + last.len() + 4 + 2 * 8 + 4 + 8).next_multiple_of(ALIGNMENT);
    bytes[start..].to_vec()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, head)) = data.split_first() else {
        return;
    };
    let mut file = head.to_vec();
    if *choice < ALONE {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&TENSORS[usize::from(*choice) % MODELS.len()]);
    }
    SCRATCH.write("model.gguf", &file);
    SCRATCH.try_load(&SCRATCH.path("model.gguf"));
});
