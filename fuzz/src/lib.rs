//! What the targets share: a folder to put hostile files in, and what must hold of whatever is loaded from them.
//!
//! An input becomes the part of a model that it is to damage; the rest comes from `engine/tests/golden`. The loader may
//! refuse it with an error that names the file, or load a model that answers. Panics, aborts, allocations beyond the limit
//! and inputs that take long are found by the fuzzer itself.

#![forbid(unsafe_code)]

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use engine::{
    Endpoint, Engine, EngineSettings, Event, Job, JobId, LoadError, LoadOptions, Model, Priority, RequestError,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The tiny models of `engine/tests/golden` that are folders as Hugging Face has them.
pub const HUGGING_FACE: [&str; 6] = [
    "bitnet-packed",
    "bitnet-linear",
    "llama-bitlinear",
    "llama-unpacked",
    "bitnet-online",
    "llama-rope3",
];
/// Positions of a request: enough for a prompt and a few tokens.
const CONTEXT_LENGTH: usize = 64;
/// Tokens of an answer before it is given up.
const STEPS_MAX: usize = 96;
/// As in `engine/tests/hostile_bodies.rs`.
const MESSAGE_LEN_MAX: usize = 2000;

/// A folder in memory, where the system has one.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// An empty folder. The first one of the process prepares it: the fuzzer ends it at any panic, but is not to at one
    /// that the engine catches.
    pub fn new() -> Scratch {
        static PREPARED: Once = Once::new();
        PREPARED.call_once(|| {
            let abort = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                if !engine::is_guarded() {
                    abort(panic);
                }
            }));
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
            one.expect("nothing used the pool before");
        });
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Scratch {
            dir: dir.expect("a temporary folder"),
        }
    }

    /// A copy of one of the tiny models that the engine's tests have.
    pub fn of_golden(name: &str) -> Scratch {
        let scratch = Scratch::new();
        for entry in fs::read_dir(golden(name)).expect("the golden model") {
            let entry = entry.expect("its files");
            if entry.file_name() != "golden.json" {
                fs::copy(
                    entry.path(),
                    scratch.path(entry.file_name().to_str().expect("a plain name")),
                )
                .expect("a copy");
            }
        }
        scratch
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("room for a file");
    }

    /// Inspects and loads what is at `path`, and has it answer.
    pub fn try_load(&self, path: &Path) {
        if let Err(error) = engine::inspect(path) {
            self.check(&error);
        }
        match load(path) {
            Ok(model) => answer(&model),
            Err(error) => self.check(&error),
        }
    }

    /// A refusal says in which file the damage is, and more than that.
    fn check(&self, error: &LoadError) {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        let dir = self.dir().to_str().expect("a plain name");
        let (_, named) = message
            .split_once(dir)
            .unwrap_or_else(|| panic!("no file in {message:?}"));
        assert!(named.len() > 12 && message.len() < 4 * MESSAGE_LEN_MAX, "{message:?}");
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

/// A file or folder of `engine/tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../engine/tests/golden")
        .join(name)
}

/// Loads a model for short requests.
///
/// # Errors
/// As [`Model::load`].
pub fn load(path: &Path) -> Result<Arc<Model>, LoadError> {
    let options = LoadOptions {
        context_length_max: Some(CONTEXT_LENGTH),
        date: Some((2026, 11, 25)),
        ..LoadOptions::default()
    };
    Model::load(path, &options).map(Arc::new)
}

/// An engine for it that computes on this machine's one busy thread.
pub fn engine_of(model: &Arc<Model>) -> Option<Engine> {
    let settings = EngineSettings {
        sequences_max: 1,
        kv_bytes_max: 1 << 22,
        threads: 1,
        ..EngineSettings::default()
    };
    Engine::new(Arc::clone(model), &settings).ok() // a damaged model may want more for one block
}

/// Whatever loads computes, takes requests of every kind, and answers them or says why not.
pub fn answer(model: &Arc<Model>) {
    let tokens = [1, 2, 3].map(|token| token % model.vocabulary() as u32);
    let tokens = &tokens[..model.context_length().min(3)];
    let logits = model.logits(tokens).expect("known tokens within the context");
    assert_eq!(logits.len(), tokens.len() * model.vocabulary());
    let text = "Some text, ünd\n";
    if let Ok(tokens) = model.tokenize(text) {
        let _ = model.detokenize(&tokens);
    }
    let Some(mut engine) = engine_of(model) else {
        return;
    };
    let bodies = [
        (
            Endpoint::Completions,
            json!({ "prompt": text, "max_tokens": 4, "logprobs": 2, "echo": true }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": tokens, "max_tokens": 4, "guided_regex": "[a-z]+ ?[0-9]" }),
        ),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 2 }),
        ),
        (Endpoint::Score, json!({ "prompt": text, "choices": [" a", "b"] })),
    ];
    for (endpoint, body) in bodies {
        match model.prepare(endpoint, &body, "key") {
            Ok(job) => run(model, &mut engine, job),
            Err(error) => check(&error),
        }
    }
}

/// Runs a job to its end, or for [`STEPS_MAX`] steps.
pub fn run(model: &Arc<Model>, engine: &mut Engine, job: Job) {
    assert!(job.cache_tokens_max() <= model.context_length());
    let written_max = job.output_tokens_max();
    let id = JobId(7);
    if let Err(error) = engine.submit(id, job, Priority::Standard) {
        assert!(!error.message.is_empty());
        return;
    }
    for _ in 0..STEPS_MAX {
        for event in engine.step().events {
            match event {
                Event::FirstToken(_) => {}
                Event::Failed(_, error) => assert!(!error.message.is_empty()),
                Event::Finished(_, completion) => {
                    assert!(completion.usage.output_tokens <= written_max);
                    let body = completion.response("id", 0, "model");
                    let again: Value = serde_json::from_str(&body.to_string()).expect("JSON");
                    assert!(again["usage"].is_object() && again["model"] == "model", "{again}");
                }
            }
        }
        if engine.is_idle() {
            return;
        }
    }
    assert!(engine.cancel(id) && engine.is_idle());
}

/// A refusal names the field, or the body where that is no object, and can be shown on one line.
pub fn check(error: &RequestError) {
    let message = &error.message;
    assert!(
        (1..MESSAGE_LEN_MAX).contains(&message.len()),
        "{} bytes: {message}",
        message.len()
    );
    assert!(!message.contains('\n'), "{message:?}");
    let names_field = error.param.as_ref().is_some_and(|param| !param.is_empty());
    assert!(
        names_field || message.starts_with("the request body is "),
        "no field: {message}"
    );
    assert!(error.body()["error"]["message"].is_string());
}
