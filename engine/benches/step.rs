//! What batching and the prefix cache save: `cargo bench -p engine --bench step [-- 2b4t|MODEL_DIR [THREADS]]`. `2b4t` is
//! the shape of BitNet b1.58 2B4T with random weights; without a model the bundled one is timed.
//!
//! Decoding is timed at several batch sizes, the likeliest token and drawn ones taking turns, so that a slow moment of
//! the machine meets both; what drawing costs is the difference. How near a step is to what its matrices allow is what
//! `bitnet model bench` prints. Scoring, always on the bundled model, counts tokens, which no machine changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::{Endpoint, Engine, EngineSettings, JobId, LoadOptions, Model, Priority, Shape};
use serde_json::json;

const BATCHES: [usize; 4] = [1, 8, 32, 64];
const CONTEXT: usize = 128;
const ROUNDS: usize = 5;
const STEPS: usize = 4;
const DOCUMENTS: u64 = 1000;
const SHARED_LEN: u64 = 200;
const DOCUMENT_LEN: u64 = 200;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/demo/model/debian-sections");
    let name = arguments.next().unwrap_or_else(|| bundled.to_owned());
    let threads: Option<usize> = arguments.next().map(|threads| threads.parse()).transpose()?;
    let options = LoadOptions::default();
    let model = match &name[..] {
        "2b4t" => Model::random(Shape::Bitnet2B4T, &options)?,
        dir => Model::load(Path::new(dir), &options)?,
    };
    let model = Arc::new(model.without_end());
    let mut settings = EngineSettings::default();
    settings.threads = threads.unwrap_or(settings.threads);
    println!("{name}, {} threads", settings.threads);
    let mut alone = None;
    for batch in BATCHES {
        let (likeliest, drawn) = decode(&model, &settings, batch)?;
        let rate = batch as f64 / likeliest;
        let gain = rate / *alone.get_or_insert(rate);
        let drawing = (drawn - likeliest) / drawn * 100.0;
        println!(
            "decode, batch {batch:2}: {:9.3} ms a step, {rate:8.1} tokens/s, {gain:5.2} x batch 1; drawing takes {drawing:5.1} %",
            likeliest * 1e3
        );
    }
    let (computed, own) = score(&Arc::new(Model::load(Path::new(bundled), &options)?), &settings)?;
    println!(
        "scoring {DOCUMENTS} documents behind {SHARED_LEN} shared tokens: {computed} tokens computed for {own} of their own: {:.3}",
        computed as f64 / own as f64
    );
    Ok(())
}

/// Tokens that are nobody else's, the same in every run.
fn tokens(model: &Model, of: u64, len: u64) -> Vec<u64> {
    let token = |i: u64| (of * 7919 + i * 104_729) % (model.vocabulary() as u64 - 3) + 3;
    (0..len).map(token).collect()
}

/// Median seconds of a step with `batch` sequences, for the likeliest token and for drawn ones.
fn decode(model: &Arc<Model>, settings: &EngineSettings, batch: usize) -> Result<(f64, f64), Failure> {
    let mut engines = [0.0, 1.0].map(|temperature| started(model, settings, batch, temperature));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            let engine = engine.as_mut().map_err(|error| error.to_string())?;
            let start = Instant::now();
            for _ in 0..STEPS {
                let report = engine.step();
                assert_eq!((report.tokens, report.sequences), (batch, batch), "a text has ended");
            }
            times.push(start.elapsed().as_secs_f64() / STEPS as f64);
        }
    }
    let [likeliest, drawn] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    Ok((likeliest, drawn))
}

/// An engine in which so many sequences have had their prompts computed.
fn started(model: &Arc<Model>, settings: &EngineSettings, batch: usize, temperature: f64) -> Result<Engine, Failure> {
    let mut engine = Engine::new(model.clone(), settings)?;
    for id in 0..batch as u64 {
        let body = json!({
            "prompt": tokens(model, id, CONTEXT as u64), "max_tokens": 2 * CONTEXT, "temperature": temperature,
        });
        engine.submit(
            JobId(id),
            model.prepare(Endpoint::Completions, &body, "")?,
            Priority::Bulk,
        )?;
    }
    let mut first = 0;
    while first < batch {
        first += engine.step().events.len();
    }
    engine.step();
    Ok(engine)
}

/// Tokens computed for all documents, and tokens that only one document has.
fn score(model: &Arc<Model>, settings: &EngineSettings) -> Result<(usize, usize), Failure> {
    let mut engine = Engine::new(model.clone(), settings)?;
    let shared = tokens(model, 0, SHARED_LEN);
    let mut own = 0;
    for id in 0..DOCUMENTS {
        let prompt = [&shared[..], &tokens(model, id + 1, DOCUMENT_LEN)].concat();
        let body = json!({ "prompt": prompt, "choices": ["a", "b"] });
        let job = model.prepare(Endpoint::Score, &body, "")?;
        own += job.input_tokens() - shared.len();
        engine.submit(JobId(id), job, Priority::Bulk)?;
    }
    let mut computed = 0;
    while !engine.is_idle() {
        computed += engine.step().tokens;
    }
    Ok((computed, own))
}
