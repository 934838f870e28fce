//! Answers that must look a certain way, and several answers to one request. The demo model knows nothing of JSON, so
//! whatever is well-formed here was made so.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use engine::{Completion, Endpoint, Engine, EngineSettings, Event, FinishReason, JobId, LoadOptions, Model, Priority};
use serde_json::{Value, json};

static DEMO: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo/model/debian-sections");
    Arc::new(Model::load(&dir, &LoadOptions::default()).unwrap())
});

/// All answers to the same request, once for each seed.
fn answers(endpoint: Endpoint, body: &Value, seeds: std::ops::Range<u64>) -> Vec<Completion> {
    answers_of(&DEMO, endpoint, body, seeds)
}

fn answers_of(model: &Arc<Model>, endpoint: Endpoint, body: &Value, seeds: std::ops::Range<u64>) -> Vec<Completion> {
    let mut engine = Engine::new(Arc::clone(model), &EngineSettings::default()).unwrap();
    for seed in seeds.clone() {
        let mut body = body.clone();
        body["seed"] = json!(seed);
        let job = model.prepare(endpoint, &body, "").unwrap();
        engine.submit(JobId(seed), job, Priority::Bulk).unwrap();
    }
    let mut found: Vec<(JobId, Completion)> = Vec::new();
    while !engine.is_idle() {
        found.extend(engine.step().events.into_iter().filter_map(|event| match event {
            Event::Finished(id, completion) => Some((id, completion)),
            Event::FirstToken(_) => None,
            Event::Failed(id, error) => panic!("{id:?}: {error}"),
        }));
    }
    found.sort_by_key(|(id, _)| *id);
    found.into_iter().map(|(_, completion)| completion).collect()
}

/// Texts of a completion with these fields, which must all end by themselves.
fn texts(fields: Value) -> Vec<String> {
    let mut body = json!({ "prompt": "Package: gcc-doc\nSection:", "temperature": 1.8, "max_tokens": 100 });
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let ended = answers(Endpoint::Completions, &body, 0..24).into_iter().map(|answer| {
        assert_eq!(answer.finish_reason, FinishReason::Stop, "{answer:?}");
        answer.output_text.unwrap()
    });
    ended.collect()
}

#[test]
fn json_follows_its_schema() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["section", "sizes"],
        "properties": {
            "section": { "enum": ["libs", "doc", "größe \"x\""] },
            "sizes": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 99 }, "maxItems": 3 },
            "free": { "type": "boolean" },
        },
    });
    let check = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let object = value.as_object().unwrap();
        assert!(
            ["libs", "doc", "größe \"x\""].contains(&object["section"].as_str().unwrap()),
            "{text}"
        );
        let sizes = object["sizes"].as_array().unwrap();
        assert!(
            sizes.len() <= 3 && sizes.iter().all(|size| size.as_u64().unwrap() <= 99),
            "{text}"
        );
        assert!(object.get("free").is_none_or(Value::is_boolean), "{text}");
        assert!(
            object
                .keys()
                .all(|key| ["section", "sizes", "free"].contains(&key.as_str())),
            "{text}"
        );
    };
    let openai = json!({ "type": "json_schema", "json_schema": { "name": "s", "strict": true, "schema": schema } });
    let found = texts(json!({ "response_format": openai }));
    found.iter().for_each(|text| check(text));
    assert!(found.iter().any(|text| *text != found[0]), "sampled, not forced");
    assert_eq!(
        found,
        texts(json!({ "guided_json": schema })),
        "vLLM's field means the same"
    );
    assert_eq!(
        found,
        texts(json!({ "structured_outputs": { "json": schema.to_string() } }))
    );
}

#[test]
fn any_json_object_is_an_object() {
    let body = json!({
        "messages": [{ "role": "user", "content": "Package: gcc-doc" }], "temperature": 1.8, "max_tokens": 150,
        "response_format": { "type": "json_object" },
    });
    let mut whole = 0;
    for answer in answers(Endpoint::ChatCompletions, &body, 0..24) {
        let text = answer.output_text.unwrap();
        let parsed: Result<Value, _> = serde_json::from_str(&text);
        match answer.finish_reason {
            FinishReason::Stop => assert!(parsed.unwrap().is_object(), "{text}"),
            FinishReason::Length => assert!(text.starts_with('{'), "{text}"),
        }
        whole += usize::from(answer.finish_reason == FinishReason::Stop);
    }
    assert!(whole > 3, "only {whole} of 24 came to an end");
}

#[test]
fn a_regular_expression_matches_from_end_to_end() {
    for text in texts(json!({ "guided_regex": "(ab|cd){2,4}-[0-9]{3}" })) {
        let (letters, digits) = text.split_once('-').unwrap();
        assert!(
            digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()),
            "{text}"
        );
        assert!((4..=8).contains(&letters.len()), "{text}");
        let pairs: Vec<&str> = (0..letters.len()).step_by(2).map(|at| &letters[at..at + 2]).collect();
        assert!(pairs.iter().all(|pair| ["ab", "cd"].contains(pair)), "{text}");
    }
}

#[test]
fn a_choice_is_one_of_those_given() {
    let choices = ["libs", "libs/non-free", "größe → \"\\n", "x"];
    let found = texts(json!({ "guided_choice": choices }));
    assert!(found.iter().all(|text| choices.contains(&text.as_str())), "{found:?}");
    assert!(
        choices
            .iter()
            .filter(|choice| found.iter().any(|text| text == *choice))
            .count()
            > 1
    );
    let logit_bias: serde_json::Map<_, _> = (0..300).map(|token| (token.to_string(), json!(-100))).collect();
    let found = texts(json!({ "guided_choice": ["x"], "logit_bias": logit_bias, "top_k": 1 }));
    assert!(
        found.iter().all(|text| text == "x"),
        "no bias or filter leads outside: {found:?}"
    );
}

#[test]
fn a_leading_space_that_the_constraint_asks_for_is_shown() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/bitnet-i2_s.gguf");
    let sentence_piece = Arc::new(Model::load(&file, &LoadOptions::default()).unwrap());
    for model in [&DEMO, &sentence_piece] {
        for (echo, expected) in [(false, " Paris"), (true, "France: Paris")] {
            let body = json!({
                "prompt": "France:", "max_tokens": 20, "temperature": 2, "echo": echo, "guided_regex": " Paris",
            });
            for answer in answers_of(model, Endpoint::Completions, &body, 0..4) {
                assert_eq!(answer.output_text.unwrap(), expected);
            }
        }
    }
}

#[test]
fn several_answers_are_those_of_the_seeds_that_follow() {
    let mut body = json!({
        "prompt": "Package: gcc-doc\nSection:", "temperature": 1.5, "max_tokens": 8, "logprobs": 1, "echo": true,
    });
    let single = answers(Endpoint::Completions, &body, 5..8);
    body["n"] = json!(3);
    let [several] = &answers(Endpoint::Completions, &body, 5..6)[..] else {
        panic!()
    };
    let response = several.response("id", 1, "m");
    let written: usize = single.iter().map(|answer| answer.usage.output_tokens).sum();
    assert_eq!(several.usage.output_tokens, written);
    assert_eq!(
        several.usage.input_tokens, single[0].usage.input_tokens,
        "the prompt is paid once"
    );
    assert_eq!(several.output_text, single[0].output_text);
    for (index, answer) in single.iter().enumerate() {
        let mut expected = answer.response("id", 1, "m")["choices"][0].take();
        expected["index"] = json!(index);
        assert_eq!(response["choices"][index], expected);
    }
}

#[test]
fn an_answer_too_complex_to_go_on_fails_by_name() {
    let body = json!({
        "prompt": "Package: gcc-doc\nSection:", "max_tokens": 200, "temperature": 2, "logit_bias": { "2": -100 },
        "guided_regex": "(.*a.{14}|.*b.{15}|.*c.{16}|.*e.{17})[xyz]",
    });
    let job = match DEMO.prepare(Endpoint::Completions, &body, "") {
        Ok(job) => job,
        Err(error) => return assert!(error.message.contains("cannot be followed"), "{error}"),
    };
    let mut engine = Engine::new(DEMO.clone(), &EngineSettings::default()).unwrap();
    engine.submit(JobId(1), job, Priority::Bulk).unwrap();
    let mut last = None;
    while !engine.is_idle() {
        last = engine.step().events.pop().or(last);
    }
    match last {
        Some(Event::Failed(JobId(1), error)) => assert_eq!(error.code, "constraint_too_complex"),
        Some(Event::Finished(..)) => {}
        other => panic!("{other:?}"),
    }
}
