//! Request bodies of every endpoint, on the way that a worker takes them: out of a message, to a job, to an answer.
//!
//! The first line of an input is the endpoint's path, the rest the body. Two models answer: one whose tokens are bytes,
//! with a chat template, and behind a `+` before the path one with a SentencePiece tokenizer.

#![no_main]
#![forbid(unsafe_code)]

use std::sync::{Arc, LazyLock};

use engine::{Endpoint, Model};
use fuzz::{Scratch, check, engine_of, golden, load, run};
use libfuzzer_sys::fuzz_target;
use schemas::request::{Limits, decode};

const TEMPLATE: &[u8] =
    b"{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>";

static MODELS: LazyLock<[Arc<Model>; 2]> = LazyLock::new(|| {
    let bytes = Scratch::of_golden("bitnet-packed");
    bytes.write("chat_template.jinja", TEMPLATE);
    [bytes.dir(), &golden("gguf/bitnet-i2_s.gguf")].map(|path| load(path).expect("a golden model"))
});

/// A message with one request.
fn message(path: &str, body: &str) -> String {
    format!(
        r#"{{"schema":"bitnet.request_batch.v1","job_id":"01JD0000000000000000000000","batch_seq":0,"batch_count":1,
        "tenant_id":"acme","project_id":"p","residency_zone":"eu","model":"m","endpoint":"{path}","service_tier":"batch",
        "submitted_at":"2026-11-25T00:00:00Z","requests":[{{"custom_id":"a","body":{body}}}]}}"#
    )
}

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else {
        return;
    };
    let path = first.trim_start_matches('+');
    let Some(endpoint) = Endpoint::from_path(path) else {
        return;
    };
    let batch = match decode(message(path, body).as_bytes(), &Limits::default()) {
        Ok(batch) => batch,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let model = &MODELS[usize::from(path.len() < first.len())];
    let mut engine = engine_of(model).expect("room for a tiny model");
    for request in batch.requests.unwrap_or_default() {
        match model.prepare(endpoint, &request.body, "acme/job/a") {
            Ok(job) => run(model, &mut engine, job),
            Err(error) => check(&error),
        }
    }
});
