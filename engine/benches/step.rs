//! What batching and the prefix cache save: `cargo bench -p engine --bench step [-- 2b4t|MODEL_DIR [THREADS]]`. `2b4t` is
//! the shape of BitNet b1.58 2B4T with random weights; without a model the bundled one is timed.
//!
//! Decoding is timed at several batch sizes: the likeliest token, tokens drawn from all, and tokens drawn with penalties
//! and filters. Each takes turns with the matrix products of the same step alone, on the same weights, so that a slow
//! moment of the machine meets all. The parts of a step are told apart by its phases. Scoring, always on the bundled
//! model, counts tokens, which no machine changes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::{Endpoint, Engine, EngineSettings, JobId, LoadOptions, Model, Phase, Priority, Products, Shape};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::{Value, json};

const BATCHES: [usize; 4] = [1, 8, 32, 64];
const CONTEXT: usize = 128;
const ROUNDS: usize = 5;
const STEPS: usize = 4;
/// Positions of a sequence, whole blocks: prompts that are computed first are ahead of the last.
const POSITIONS: usize = (CONTEXT + ROUNDS * STEPS + 64).next_multiple_of(16);
const DOCUMENTS: u64 = 1000;
const SHARED_LEN: u64 = 200;
const DOCUMENT_LEN: u64 = 200;

type Failure = Box<dyn std::error::Error>;

/// What a step's time is divided into.
const PHASES: [Phase; 4] = [Phase::Scheduling, Phase::Layers, Phase::Head, Phase::Sampling];

/// How tokens are chosen.
fn choices() -> [(&'static str, Value); 3] {
    [
        ("likeliest", json!({ "temperature": 0 })),
        ("drawn", json!({ "temperature": 1 })),
        (
            "filtered",
            json!({ "temperature": 0.8, "top_k": 50, "top_p": 0.95, "frequency_penalty": 0.2, "repetition_penalty": 1.1 }),
        ),
    ]
}

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
    let threads = threads.unwrap_or(EngineSettings::default().threads);
    println!("{name}, {threads} threads, kernel {}", model.kernel_name());
    let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut alone = HashMap::new();
    for batch in BATCHES {
        for (choice, decoded) in decode(&model, &pool, batch)? {
            let rate = batch as f64 / decoded.seconds;
            let gain = rate / *alone.entry(choice).or_insert(rate);
            println!("decode, batch {batch:2}, {choice:9}: {rate:8.1} tokens/s, {gain:5.2} x batch 1; {decoded}");
        }
    }
    let (computed, own) = score(&Arc::new(Model::load(Path::new(bundled), &options)?), threads)?;
    println!(
        "scoring {DOCUMENTS} documents behind {SHARED_LEN} shared tokens: {computed} tokens computed for {own} of their own: {:.3}",
        computed as f64 / own as f64
    );
    Ok(())
}

/// Medians over the rounds.
struct Decoded {
    /// Of a step.
    seconds: f64,
    /// Each phase's part of it.
    parts: [f64; PHASES.len()],
    /// The time of the matrix products alone, as a part of the step's.
    products: f64,
}

impl std::fmt::Display for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [scheduling, layers, head, sampling] = self.parts.map(|part| part * 100.0);
        write!(
            f,
            "{:8.2} ms a step: layers {layers:4.1} %, head {head:4.1} %, scheduling {scheduling:4.2} %, sampling {sampling:4.2} %; {:3.0} % of what its matrices alone allow",
            self.seconds * 1e3,
            self.products * 100.0
        )
    }
}

/// One engine at work, and the products of its steps.
struct Run<'m> {
    engine: Engine,
    products: Products<'m>,
    likeliest_only: bool,
    seconds: Vec<f64>,
    parts: [Vec<f64>; PHASES.len()],
    of_products: Vec<f64>,
}

/// Times steps of `batch` sequences for each way to choose tokens.
fn decode(model: &Arc<Model>, pool: &ThreadPool, batch: usize) -> Result<Vec<(&'static str, Decoded)>, Failure> {
    let mut runs = Vec::new();
    for (index, (choice, sampling)) in choices().into_iter().enumerate() {
        let run = Run {
            engine: started(model, pool.current_num_threads(), batch, &sampling)?,
            products: model.products(batch),
            likeliest_only: index == 0,
            seconds: Vec::new(),
            parts: Default::default(),
            of_products: Vec::new(),
        };
        runs.push((choice, run));
    }
    for _ in 0..ROUNDS {
        for (_, run) in &mut runs {
            run.round(pool, batch);
        }
    }
    Ok(runs.into_iter().map(|(choice, run)| (choice, run.medians())).collect())
}

impl Run<'_> {
    fn round(&mut self, pool: &ThreadPool, batch: usize) {
        let (start, mut parts) = (Instant::now(), [0.0; PHASES.len()]);
        let mut last = start;
        for _ in 0..STEPS {
            let report = self.engine.step_in_phases(&mut |phase| {
                let now = Instant::now();
                let index = PHASES.iter().position(|other| *other == phase).expect("a phase");
                parts[index] += (now - last).as_secs_f64();
                last = now;
            });
            assert_eq!((report.tokens, report.sequences), (batch, batch), "a text has ended");
        }
        let seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        pool.install(|| (0..STEPS).for_each(|_| self.products.multiply(self.likeliest_only)));
        self.of_products.push(start.elapsed().as_secs_f64() / seconds);
        self.seconds.push(seconds / STEPS as f64);
        for (parts, part) in self.parts.iter_mut().zip(parts) {
            parts.push(part / seconds);
        }
    }

    fn medians(self) -> Decoded {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Decoded {
            seconds: median(self.seconds),
            parts: self.parts.map(median),
            products: median(self.of_products),
        }
    }
}

/// Tokens that are nobody else's, the same in every run.
fn tokens(model: &Model, of: u64, len: u64) -> Vec<u64> {
    let token = |i: u64| (of * 7919 + i * 104_729) % (model.vocabulary() as u64 - 3) + 3;
    (0..len).map(token).collect()
}

/// An engine in which so many sequences have had their prompts computed.
fn started(model: &Arc<Model>, threads: usize, batch: usize, sampling: &Value) -> Result<Engine, Failure> {
    let settings = EngineSettings {
        threads,
        sequences_max: batch,
        kv_bytes_max: batch * (POSITIONS + 16) * model.footprint().position_bytes as usize,
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(model.clone(), &settings)?;
    for id in 0..batch as u64 {
        let mut body = sampling.clone();
        body["prompt"] = json!(tokens(model, id, CONTEXT as u64));
        body["max_tokens"] = json!(POSITIONS - CONTEXT);
        let job = model.prepare(Endpoint::Completions, &body, "")?;
        engine.submit(JobId(id), job, Priority::Bulk)?;
    }
    let mut first = 0;
    while first < batch {
        first += engine.step().events.len();
    }
    engine.step();
    Ok(engine)
}

/// Tokens computed for all documents, and tokens that only one document has.
fn score(model: &Arc<Model>, threads: usize) -> Result<(usize, usize), Failure> {
    let settings = EngineSettings {
        threads,
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(model.clone(), &settings)?;
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
