//! The life of jobs in the engine: refusal, order, cancellation, what is counted, and the response bodies.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use engine::{
    Completion, Endpoint, Engine, EngineError, EngineSettings, Event, FinishReason, Job, JobId, LoadOptions, Model,
    Phase, Priority, count_cached,
};
use serde_json::{Value, json};

static DEMO: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo/model/debian-sections");
    Arc::new(Model::load(&dir, &LoadOptions::default()).unwrap())
});
const PROMPT: &str = "Package: gcc-doc\nSection:";

fn engine(change: impl FnOnce(&mut EngineSettings)) -> Engine {
    let mut settings = EngineSettings::default();
    change(&mut settings);
    Engine::new(DEMO.clone(), &settings).unwrap()
}

fn job(endpoint: Endpoint, body: Value) -> Job {
    DEMO.prepare(endpoint, &body, "key").unwrap()
}

fn completion(max_tokens: usize) -> Job {
    job(
        Endpoint::Completions,
        json!({ "prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens }),
    )
}

/// Every event until the engine is idle.
fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        if engine.is_idle() {
            return events;
        }
        events.extend(engine.step().events);
    }
    panic!("the engine never becomes idle");
}

fn answer(endpoint: Endpoint, body: Value) -> Completion {
    let mut engine = engine(|_| ());
    engine
        .submit(JobId(1), job(endpoint, body), Priority::Standard)
        .unwrap();
    match drain(&mut engine).pop() {
        Some(Event::Finished(JobId(1), completion)) => completion,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_engine_with_nothing_to_do_does_nothing() {
    let mut engine = engine(|_| ());
    let report = engine.step();
    assert!(engine.is_idle() && report.events.is_empty());
    assert_eq!(
        (report.tokens, report.sequences, engine.waiting(), engine.running()),
        (0, 0, 0, 0)
    );
}

#[test]
fn a_step_tells_when_each_of_its_phases_ends() {
    let mut engine = engine(|_| ());
    engine.submit(JobId(0), completion(2), Priority::Bulk).unwrap();
    let drawn = json!({ "prompt": PROMPT, "max_tokens": 2, "temperature": 1 });
    engine
        .submit(JobId(1), job(Endpoint::Completions, drawn), Priority::Bulk)
        .unwrap();
    let mut phases = Vec::new();
    engine.step_in_phases(&mut |phase| phases.push(phase));
    use Phase::{Head, Layers, Sampling, Scheduling};
    // The likeliest token and a drawn one need different logits.
    let expected = [Scheduling, Layers, Head, Sampling, Head, Sampling, Scheduling];
    assert_eq!(phases, expected);
}

#[test]
fn the_first_token_is_told_once_and_before_the_end() {
    let mut engine = engine(|_| ());
    engine.submit(JobId(5), completion(6), Priority::Bulk).unwrap();
    let events = drain(&mut engine);
    assert!(
        matches!(events[..], [Event::FirstToken(JobId(5)), Event::Finished(JobId(5), _)]),
        "{events:?}"
    );
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let block_bytes = 4 * 2 * 2 * 64 * 4 * 16;
    let mut engine = engine(|settings| settings.kv_bytes_max = block_bytes);
    let error = engine.submit(JobId(1), completion(100), Priority::Bulk).unwrap_err();
    assert_eq!(error.code, "context_length_exceeded");
    assert!(
        error.message.contains("holds 16") && error.message.contains("kv_bytes_max"),
        "{error}"
    );
    engine.submit(JobId(1), completion(2), Priority::Bulk).unwrap();
    assert_eq!(drain(&mut engine).len(), 2);
}

#[test]
fn a_full_engine_and_an_id_in_use_are_refused() {
    let mut engine = engine(|settings| settings.jobs_max = 2);
    engine.submit(JobId(1), completion(1), Priority::Bulk).unwrap();
    assert_eq!(
        engine.submit(JobId(1), completion(1), Priority::Bulk).unwrap_err().code,
        "duplicate_job"
    );
    engine.submit(JobId(2), completion(1), Priority::Bulk).unwrap();
    assert_eq!(
        engine.submit(JobId(3), completion(1), Priority::Bulk).unwrap_err().code,
        "engine_full"
    );
    drain(&mut engine);
    engine.submit(JobId(1), completion(1), Priority::Bulk).unwrap();
}

#[test]
fn a_cancelled_job_is_forgotten_wherever_it_is() {
    let mut engine = engine(|settings| settings.sequences_max = 1);
    for id in 1..=3 {
        engine.submit(JobId(id), completion(4), Priority::Bulk).unwrap();
    }
    engine.step();
    assert_eq!((engine.running(), engine.waiting()), (1, 2));
    assert!(engine.cancel(JobId(1)) && engine.cancel(JobId(2)) && !engine.cancel(JobId(9)));
    assert_eq!((engine.running(), engine.waiting()), (0, 1));
    let events = drain(&mut engine);
    assert!(
        events
            .iter()
            .all(|event| matches!(event, Event::FirstToken(JobId(3)) | Event::Finished(JobId(3), _)))
    );
    assert_eq!(events.len(), 2);
}

#[test]
fn interactive_jobs_end_before_bulk_ones_that_came_first() {
    let mut engine = engine(|settings| settings.sequences_max = 1);
    engine.submit(JobId(1), completion(5), Priority::Bulk).unwrap();
    engine.step();
    engine.submit(JobId(2), completion(5), Priority::Interactive).unwrap();
    let ended = drain(&mut engine).into_iter().filter_map(|event| match event {
        Event::Finished(id, _) => Some(id.0),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |change: fn(&mut EngineSettings), said: &str| {
        let mut settings = EngineSettings::default();
        change(&mut settings);
        let error = Engine::new(DEMO.clone(), &settings).err().unwrap();
        assert!(
            matches!(error, EngineError::Setting { .. }) && error.to_string().contains(said),
            "{error}"
        );
    };
    check(|settings| settings.sequences_max = 0, "sequences_max is 0");
    check(
        |settings| settings.tokens_per_step_max = 3,
        "tokens_per_step_max is 3, but must be from sequences_max",
    );
    check(
        |settings| settings.block_len = 24,
        "block_len is 24, but must be a multiple of 16",
    );
    check(
        |settings| settings.kv_bytes_max = 100,
        "kv_bytes_max is 100, but must be at least 65536, one block",
    );
    check(|settings| settings.threads = 0, "threads is 0");
    check(|settings| settings.jobs_max = 0, "jobs_max is 0");
}

#[test]
fn a_completion_ends_at_the_models_word_at_the_limit_or_at_a_stop_string() {
    let end = |more: Value| {
        let mut body = json!({ "prompt": PROMPT, "temperature": 0, "max_tokens": 20 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let done = answer(Endpoint::Completions, body);
        (done.output_text.unwrap(), done.finish_reason, done.usage.output_tokens)
    };
    let (whole, reason, tokens) = end(json!({}));
    assert_eq!(
        (whole.as_str(), reason, tokens),
        (" doc\n", FinishReason::Stop, 3),
        "the last token ends the text"
    );
    assert_eq!(end(json!({ "stop": "\n" })), (" doc".to_owned(), FinishReason::Stop, 2));
    assert_eq!(
        end(json!({ "stop": ["oc", "x"] })),
        (" d".to_owned(), FinishReason::Stop, 1)
    );
    assert_eq!(
        end(json!({ "max_tokens": 1 })),
        (" doc".to_owned(), FinishReason::Length, 1)
    );
    assert_eq!(end(json!({ "max_tokens": 1, "echo": true })).0, format!("{PROMPT} doc"));
    assert_eq!(
        end(json!({ "max_tokens": 0, "echo": true })),
        (PROMPT.to_owned(), FinishReason::Length, 0)
    );
}

#[test]
fn bodies_are_openais() {
    let body = json!({ "prompt": PROMPT, "temperature": 0, "max_tokens": 20, "logprobs": 2 });
    let mut found = answer(Endpoint::Completions, body).response("cmpl-1", 1_790_000_000, "debian-sections");
    let logprobs = found["choices"][0]["logprobs"].take();
    let expected = json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1_790_000_000, "model": "debian-sections",
        "choices": [{ "index": 0, "text": " doc\n", "logprobs": null, "finish_reason": "stop" }],
        "usage": {
            "prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14,
            "prompt_tokens_details": { "cached_tokens": 0 }
        },
    });
    assert_eq!(found, expected);
    assert_eq!(
        logprobs["tokens"],
        json!([" doc", "\n", "</s>"]),
        "one for each token written"
    );
    assert_eq!(logprobs["text_offset"], json!([0, 4, 5]));
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);
    assert_eq!(logprobs["token_logprobs"][0], logprobs["top_logprobs"][0][" doc"]);

    let messages = json!([{ "role": "user", "content": "Package: gcc-doc" }]);
    let body = json!({ "messages": messages, "temperature": 0, "logprobs": true, "top_logprobs": 1 });
    let found = answer(Endpoint::ChatCompletions, body).response("chatcmpl-1", 1, "m");
    let choice = &found["choices"][0];
    assert_eq!(
        (&found["object"], &found["usage"]["prompt_tokens"]),
        (&json!("chat.completion"), &json!(11))
    );
    assert_eq!(
        choice["message"],
        json!({ "role": "assistant", "content": " doc\n", "refusal": null })
    );
    assert_eq!(choice["logprobs"]["content"][0]["bytes"], json!(b" doc"));
    assert_eq!(choice["logprobs"]["content"][0]["top_logprobs"][0]["token"], " doc");

    let found = answer(Endpoint::Embeddings, json!({ "input": PROMPT })).response("unused", 1, "m");
    assert_eq!(
        (&found["object"], &found["data"][0]["object"]),
        (&json!("list"), &json!("embedding"))
    );
    assert_eq!(found["data"][0]["embedding"].as_array().unwrap().len(), 256);
    assert_eq!(found["usage"], json!({ "prompt_tokens": 11, "total_tokens": 11 }));
}

#[test]
fn a_score_rates_each_choice_and_names_the_likeliest() {
    let done = answer(
        Endpoint::Score,
        json!({ "prompt": PROMPT, "choices": [" libs", " doc", " debian-installer"] }),
    );
    let scores = done.scores.clone().unwrap();
    assert_eq!(
        (done.output_text.as_deref(), done.finish_reason),
        (Some(" doc"), FinishReason::Stop)
    );
    assert!(
        scores[1] > scores[0] && scores.iter().all(|score| *score < 0.0),
        "{scores:?}"
    );
    let found = done.response("score-1", 1, "m");
    assert_eq!(found["object"], "score");
    assert_eq!(found["choices"][1]["is_greedy"], true);
    assert_eq!(found["choices"][0]["logprob"], json!(scores[0]));
    let tokens: u64 = (0..3)
        .map(|choice| found["choices"][choice]["tokens"].as_u64().unwrap())
        .sum();
    assert_eq!(done.usage.input_tokens as u64, 11 + tokens);
    assert_eq!(done.usage.output_tokens, 0);
}

#[test]
fn a_shared_beginning_is_computed_once_and_billed_as_its_group_says() {
    let system =
        "Answer with the section of the Debian archive that the package belongs to, and nothing else. ".repeat(3);
    let prompt = |n: usize| json!({ "prompt": format!("{system}Package: gcc-{n}\nSection:"), "max_tokens": 2 });
    let echo = json!({ "prompt": system, "max_tokens": 0, "echo": true, "logprobs": 0 });
    let group = || -> Vec<Job> {
        let bodies = [prompt(1), prompt(2), echo.clone(), prompt(1)];
        bodies
            .into_iter()
            .map(|body| job(Endpoint::Completions, body))
            .collect()
    };
    let run = |engine: &mut Engine, jobs: Vec<Job>| {
        let whole: usize = jobs.iter().map(Job::input_tokens).sum();
        for (id, job) in (0..).zip(jobs) {
            engine.submit(JobId(id), job, Priority::Bulk).unwrap();
        }
        let first = engine.step();
        assert_eq!(first.tokens + first.cached, whole, "all prompts fit one step");
        let mut ended: Vec<(u64, usize)> = [first.events, drain(engine)]
            .concat()
            .into_iter()
            .filter_map(|event| match event {
                Event::Finished(id, completion) => Some((id.0, completion.usage.cached_tokens)),
                _ => None,
            })
            .collect();
        ended.sort_unstable();
        (
            first.cached,
            ended.into_iter().map(|(_, billed)| billed).collect::<Vec<_>>(),
        )
    };
    let mut engine = engine(|settings| settings.tokens_per_step_max = 4096);
    let mut jobs = group();
    let alike = json!({ "prompt": format!("{system}Package: gcc-") });
    let shared = job(Endpoint::Completions, alike).input_tokens() / 16 * 16;
    let again = (jobs[0].input_tokens() - 1) / 16 * 16;
    count_cached(&mut jobs);
    let (cold, billed) = run(&mut engine, jobs.clone());
    assert!(shared >= 48 && again >= shared);
    assert_eq!((cold, &billed[..]), (shared + again, &[0, shared, 0, again][..]));
    let (warm, billed_warm) = run(&mut engine, jobs);
    assert!(warm > cold, "the engine remembers");
    assert_eq!(billed_warm, billed, "and the bill does not");
    assert_eq!(
        run(&mut engine, group()).1,
        [0; 4],
        "alone, nothing is billed as cached"
    );
}
