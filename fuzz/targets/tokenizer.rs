//! `tokenizer.json`, behind a zero byte `tokenizer_config.json`, and behind another one `chat_template.jinja`, beside the
//! weights of a tiny model.

#![no_main]
#![forbid(unsafe_code)]

use std::fs;
use std::sync::LazyLock;

use fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::of_golden("bitnet-packed"));

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(FILES.len(), |byte| *byte == 0);
    for name in FILES {
        match parts.next() {
            Some(text) => FOLDER.write(name, text),
            None => drop(fs::remove_file(FOLDER.path(name))), // it may be there from the input before
        }
    }
    FOLDER.try_load(FOLDER.dir());
});
