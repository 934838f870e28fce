//! `config.json`, and behind a zero byte `generation_config.json`. The first byte of an input chooses the tiny model
//! whose weights and tokenizer stand beside them.

#![no_main]
#![forbid(unsafe_code)]

use std::fs;
use std::sync::LazyLock;

use fuzz::{HUGGING_FACE, Scratch};
use libfuzzer_sys::fuzz_target;

const GENERATION: &str = "generation_config.json";

static FOLDERS: LazyLock<Vec<Scratch>> =
    LazyLock::new(|| HUGGING_FACE.iter().map(|name| Scratch::of_golden(name)).collect());

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let folder = &FOLDERS[usize::from(*choice) % HUGGING_FACE.len()];
    let mut parts = text.splitn(2, |byte| *byte == 0);
    folder.write("config.json", parts.next().unwrap_or_default());
    match parts.next() {
        Some(generation) => folder.write(GENERATION, generation),
        None => drop(fs::remove_file(folder.path(GENERATION))), // it may be there from the input before
    }
    folder.try_load(folder.dir());
});
