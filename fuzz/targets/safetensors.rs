//! A safetensors file: its header is the input, the data behind it those of a tiny model; or the index of several files.
//!
//! The first byte of an input chooses the model. Inputs from 0x80 on are files of their own, the length of the header
//! included and with nothing behind them.

#![no_main]
#![forbid(unsafe_code)]

use std::fs;
use std::sync::LazyLock;

use fuzz::{HUGGING_FACE, Scratch, golden};
use libfuzzer_sys::fuzz_target;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ALONE: u8 = 0x80;

/// A model's folder, and what stands behind the header of its weights if they are in one file.
struct Target {
    folder: Scratch,
    data: Option<Vec<u8>>,
}

static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| {
    let mut targets: Vec<Target> = HUGGING_FACE
        .iter()
        .map(|name| Target::new(Scratch::of_golden(name)))
        .collect();
    let converted = Scratch::new();
    engine::convert(&golden("bitnet-packed"), &converted.path("model")).expect("a tiny model converts");
    let folder = Scratch::new();
    for entry in fs::read_dir(converted.path("model")).expect("the converted model") {
        let entry = entry.expect("its files");
        fs::copy(entry.path(), folder.dir().join(entry.file_name())).expect("a copy");
    }
    targets.push(Target::new(folder));
    targets
});

impl Target {
    fn new(folder: Scratch) -> Target {
        let data = fs::read(folder.path(WEIGHTS)).ok().map(|bytes| {
            let (len, rest) = bytes.split_first_chunk().expect("the header's length");
            rest[u64::from_le_bytes(*len) as usize..].to_vec()
        });
        Target { folder, data }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    let Target { folder, data } = &TARGETS[usize::from(*choice % ALONE) % TARGETS.len()];
    match data {
        Some(_) if *choice >= ALONE => folder.write(WEIGHTS, bytes),
        Some(data) => folder.write(WEIGHTS, &[&(bytes.len() as u64).to_le_bytes(), bytes, data].concat()),
        None => folder.write(INDEX, bytes),
    }
    folder.try_load(folder.dir());
});
