//! An answer depends on the request and the model alone: not on the batch, the chunking of prompts, the threads, the
//! instruction set, preemption or what the prefix cache holds. Compared to the last bit.

use std::path::Path;
use std::sync::Arc;

use engine::{Completion, Endpoint, Engine, EngineSettings, Event, JobId, LoadOptions, Model, Priority, kernel_names};
use proptest::prelude::*;
use serde_json::{Value, json};

fn demo(kernel: Option<&str>) -> Arc<Model> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo/model/debian-sections");
    let options = LoadOptions {
        kernel: kernel.map(str::to_owned),
        ..LoadOptions::default()
    };
    Arc::new(Model::load(&dir, &options).unwrap())
}

/// Requests of every kind, with prompts of one to some hundred tokens.
fn requests() -> Vec<(Endpoint, Value)> {
    let long =
        "Package: kicad-demos\nDepends: ".to_owned() + &"libwxgtk3.2-1, python3-wxgtk4.0, libngspice0, ".repeat(8);
    let short = "Package: gcc-doc\nSection:";
    let chat = json!([{ "role": "user", "content": "Package: libjpeg-dev\nDepends: libc6" }]);
    let choices = json!([" libs", " oldlibs", " science", " debian-installer", "\n"]);
    let endless = json!({ "2": -100 }); // the token that ends a text
    let schema = json!({
        "type": "object", "properties": { "section": { "type": "string" }, "size": { "type": "integer" } },
        "required": ["section", "size"],
    });
    vec![
        (
            Endpoint::Completions,
            json!({ "prompt": short, "temperature": 0, "max_tokens": 6, "stop": "\n" }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": long, "temperature": 1.2, "max_tokens": 60 }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": [1], "temperature": 1.5, "top_p": 0.9, "max_tokens": 90, "seed": 3, "logit_bias": endless }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": long, "echo": true, "logprobs": 3, "max_tokens": 0 }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": short, "echo": true, "logprobs": 1, "top_k": 20, "max_tokens": 40, "logit_bias": endless }),
        ),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": chat, "logprobs": true, "top_logprobs": 2, "max_tokens": 20 }),
        ),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": chat, "min_p": 0.02, "frequency_penalty": 0.5, "max_tokens": 70, "logit_bias": endless }),
        ),
        (Endpoint::Embeddings, json!({ "input": long })),
        (Endpoint::Embeddings, json!({ "input": short, "pooling": "last" })),
        (Endpoint::Score, json!({ "prompt": short, "choices": choices })),
        (Endpoint::Score, json!({ "prompt": long, "choices": choices })),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": chat, "n": 3, "logprobs": true, "max_tokens": 12 }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": long, "guided_json": schema, "temperature": 1.5, "max_tokens": 60, "n": 2 }),
        ),
        (
            Endpoint::Completions,
            json!({ "prompt": short, "guided_regex": "[a-z]{3,9}(-[0-9]+)?", "echo": true, "logprobs": 0, "max_tokens": 9 }),
        ),
    ]
}

/// Runs the requests of these numbers together and gives back their answers in that order, and how often a sequence
/// was pushed out.
fn run(model: &Arc<Model>, settings: &EngineSettings, numbers: &[usize]) -> (Vec<Completion>, usize) {
    run_on(&mut Engine::new(model.clone(), settings).unwrap(), model, numbers)
}

/// The same on an engine that may have run before.
fn run_on(engine: &mut Engine, model: &Model, numbers: &[usize]) -> (Vec<Completion>, usize) {
    let all = requests();
    for (place, &number) in numbers.iter().enumerate() {
        let (endpoint, body) = &all[number];
        let job = model.prepare(*endpoint, body, &format!("request {number}")).unwrap();
        let priority = [Priority::Bulk, Priority::Interactive, Priority::Standard][place % 3];
        engine.submit(JobId(place as u64), job, priority).unwrap();
    }
    let (mut answers, mut preempted) = (vec![None; numbers.len()], 0);
    while !engine.is_idle() {
        let report = engine.step();
        preempted += report.preempted;
        for event in report.events {
            if let Event::Finished(JobId(place), completion) = event {
                answers[place as usize] = Some(completion);
            }
        }
    }
    (answers.into_iter().map(Option::unwrap).collect(), preempted)
}

/// Each request alone, in one piece, on one thread.
fn alone(model: &Arc<Model>) -> Vec<Completion> {
    let settings = EngineSettings {
        threads: 1,
        tokens_per_step_max: 4096,
        ..EngineSettings::default()
    };
    (0..requests().len())
        .flat_map(|number| run(model, &settings, &[number]).0)
        .collect()
}

fn all() -> Vec<usize> {
    (0..requests().len()).collect()
}

/// A KV cache of so many blocks of 16 positions.
fn settings(tokens: usize, sequences: usize, threads: usize, blocks: usize) -> EngineSettings {
    let block_bytes = 4 * 2 * 2 * 64 * 4 * 16; // layers, keys and values, heads, values of a head, bytes, positions
    EngineSettings {
        tokens_per_step_max: tokens,
        sequences_max: sequences,
        threads,
        kv_bytes_max: blocks * block_bytes,
        block_len: 16,
        ..EngineSettings::default()
    }
}

#[test]
fn every_kernel_and_any_number_of_threads_give_the_same_answers() {
    let expected = alone(&demo(None));
    for kernel in kernel_names() {
        let model = demo(Some(kernel));
        for threads in [1, 2, 3] {
            let (found, _) = run(&model, &settings(512, 64, threads, 1024), &all());
            assert_eq!(found, expected, "{kernel}, {threads} threads");
        }
    }
}

#[test]
fn prompts_in_pieces_give_the_same_answers() {
    let model = demo(None);
    let expected = alone(&model);
    for tokens in [14, 17, 64, 129] {
        assert_eq!(
            run(&model, &settings(tokens, 14, 2, 1024), &all()).0,
            expected,
            "{tokens} tokens a step"
        );
    }
}

#[test]
fn preempted_jobs_give_the_same_answers() {
    let model = demo(None);
    let numbers = [2, 6, 4, 2, 6, 2, 4, 2, 6, 2, 3, 10, 7, 1, 0];
    let alone = alone(&model);
    let expected: Vec<_> = numbers.iter().map(|number| alone[*number].clone()).collect();
    let (found, preempted) = run(&model, &settings(64, 10, 2, 26), &numbers);
    assert!(
        preempted > 3,
        "only {preempted} preemptions: the cache is too large for this test"
    );
    assert_eq!(found, expected);
}

#[test]
fn answers_are_what_the_logits_say() {
    let model = demo(None);
    let answers = alone(&model);
    let long = requests()[3].1["prompt"].as_str().unwrap().to_owned();
    let job = model
        .prepare(Endpoint::Completions, &json!({ "prompt": long }), "")
        .unwrap();
    let response = answers[3].response("id", 0, "m");
    let logprobs = &response["choices"][0]["logprobs"];
    assert_eq!(response["choices"][0]["text"], long);
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), job.input_tokens());
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    let whole: f64 = logprobs["token_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .sum();
    assert!(whole < -1.0 && whole.is_finite());

    // The log-likelihood of a choice is that of its tokens echoed behind the prompt.
    let prompt = "Package: gcc-doc\nSection:";
    let body = json!({ "prompt": format!("{prompt} debian-installer"), "echo": true, "logprobs": 0, "max_tokens": 0 });
    let mut engine = Engine::new(model.clone(), &EngineSettings::default()).unwrap();
    let job = model.prepare(Endpoint::Completions, &body, "").unwrap();
    let asked = model
        .prepare(Endpoint::Completions, &json!({ "prompt": prompt }), "")
        .unwrap()
        .input_tokens();
    engine.submit(JobId(0), job, Priority::Bulk).unwrap();
    let Event::Finished(_, echoed) = engine.step().events.remove(0) else {
        panic!()
    };
    let echoed = echoed.response("id", 0, "m");
    let tokens = echoed["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[asked..].to_vec();
    assert!(tokens.len() > 1, "the choice must have several tokens");
    let sum: f64 = tokens.iter().filter_map(Value::as_f64).sum();
    let score = answers[9].scores.as_ref().unwrap()[3];
    assert!((score - sum).abs() < 1e-5, "{score} scored, {sum} echoed");

    let embedding = answers[7].embedding.as_ref().unwrap();
    let square: f32 = embedding.iter().map(|value| value * value).sum();
    assert!((square - 1.0).abs() < 1e-5 && embedding.len() == 256);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn any_batch_gives_the_same_answers(
        before in prop::collection::vec(0usize..14, 0..6), numbers in prop::collection::vec(0usize..14, 1..14),
        tokens in 8usize..200, sequences in 1usize..9, threads in 1usize..3, blocks in 26usize..90, kernel in any::<prop::sample::Index>(),
    ) {
        thread_local! {
            static ALONE: (Vec<Arc<Model>>, Vec<Completion>) = {
                let models = kernel_names().into_iter().map(|kernel| demo(Some(kernel)));
                (models.collect(), alone(&demo(None)))
            };
        }
        ALONE.with(|(models, alone)| {
            let model = kernel.get(models);
            let mut engine = Engine::new(model.clone(), &settings(tokens, sequences, threads, blocks)).unwrap();
            run_on(&mut engine, model, &before); // leaves the prefix cache warm with some of the prompts
            let expected: Vec<_> = numbers.iter().map(|number| alone[*number].clone()).collect();
            prop_assert_eq!(run_on(&mut engine, model, &numbers).0, expected);
            Ok(())
        })?;
    }
}
