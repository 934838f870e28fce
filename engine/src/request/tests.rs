use std::path::Path;

use super::*;

struct Demo {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Demo {
    fn load() -> Demo {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/demo/model/debian-sections"));
        let tokenizer = Tokenizer::load(&dir.join("tokenizer.json")).unwrap();
        Demo { tokenizer, template: ChatTemplate::load(dir, None).unwrap().unwrap() }
    }

    fn read(&self, endpoint: Endpoint, body: Value) -> Result<Job, RequestError> {
        let (tokenizer, template) = (&self.tokenizer, Some(&self.template));
        Reader { tokenizer, template, vocabulary: 4096, context_length: 32 }.read(endpoint, &body, "key")
    }

    fn generate(&self, endpoint: Endpoint, body: Value) -> (Vec<u32>, Generate) {
        let job = self.read(endpoint, body).unwrap();
        match job.work {
            Work::Generate(generate) => (job.prompt, *generate),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn completions_have_openais_defaults() {
    let demo = Demo::load();
    let (prompt, generate) = demo.generate(Endpoint::Completions, json!({ "prompt": "a", "model": "m", "user": null }));
    assert_eq!(prompt[0], 1, "the text begins with the token that begins every text");
    assert_eq!((generate.tokens_max, generate.chat, generate.echo, generate.top_logprobs), (16, false, None, None));
    assert_eq!((generate.sampling.temperature, generate.sampling.top_p), (1.0, 1.0));
}

#[test]
fn a_prompt_may_be_text_tokens_or_a_list_of_one() {
    let demo = Demo::load();
    let prompt = |value: Value| demo.generate(Endpoint::Completions, json!({ "prompt": value })).0;
    let tokens = prompt(json!("Package: gcc"));
    assert_eq!(prompt(json!(["Package: gcc"])), tokens);
    assert_eq!(prompt(json!(tokens)), tokens);
    assert_eq!(prompt(json!([tokens])), tokens);
}

#[test]
fn chat_renders_the_template_and_takes_what_is_left_of_the_context() {
    let demo = Demo::load();
    let body = json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Package: gcc" }] }] });
    let (prompt, generate) = demo.generate(Endpoint::ChatCompletions, body);
    let expected = demo.generate(Endpoint::Completions, json!({ "prompt": "Package: gcc\nSection:" })).0;
    assert_eq!(prompt, expected, "the template's own beginning is not doubled");
    assert_eq!((generate.chat, generate.tokens_max), (true, 32 - prompt.len()));
}

#[test]
fn the_seed_follows_from_the_key_unless_given() {
    let demo = Demo::load();
    let seed = |body| demo.generate(Endpoint::Completions, body).1.sampling.seed;
    assert_eq!(seed(json!({ "prompt": "a" })), seed(json!({ "prompt": "b" })));
    assert_eq!(seed(json!({ "prompt": "a", "seed": 7 })), 7);
}

#[test]
fn a_score_splits_continuations_behind_the_prompt() {
    let demo = Demo::load();
    let job = demo.read(Endpoint::Score, json!({ "prompt": "Section:", "choices": [" libs", " games"] })).unwrap();
    let Work::Score(score) = &job.work else { panic!() };
    for choice in &score.choices {
        let whole = demo.tokenizer.encode(&format!("Section:{}", choice.text), true).unwrap();
        assert_eq!([job.prompt.clone(), choice.tokens.clone()].concat(), whole);
    }
}

/// The refusal of a body names the field and says something of the value.
fn check(endpoint: Endpoint, body: Value, code: &str, param: &str, said: &str) {
    let demo = Demo::load();
    let error = demo.read(endpoint, body.clone()).expect_err(&body.to_string());
    assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{body}: {error}");
    assert!(error.message.contains(said), "{body}: {error}");
    assert_eq!(error.body()["error"]["type"], "invalid_request_error");
}

#[test]
fn completions_refuse_what_they_do_not_know() {
    let check = |field: Value, code: &str, param: &str, said: &str| {
        let mut body = json!({ "prompt": "a" });
        body.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
        check(Endpoint::Completions, body, code, param, said);
    };
    check(json!({ "temprature": 1 }), "unknown_parameter", "temprature", "unknown field temprature");
    check(json!({ "n": 2 }), "unsupported_parameter", "n", "n is 2, but only 1");
    check(json!({ "stream": true }), "unsupported_parameter", "stream", "true");
    check(json!({ "temperature": 3 }), "invalid_value", "temperature", "a number from 0 to 2");
    check(json!({ "temperature": "hot" }), "invalid_value", "temperature", "\"hot\"");
    check(json!({ "max_tokens": 0 }), "invalid_value", "max_tokens", "at least 1");
    check(json!({ "max_tokens": 1.5 }), "invalid_value", "max_tokens", "whole number");
    check(json!({ "max_tokens": 31 }), "context_length_exceeded", "max_tokens", "context is 32 tokens");
    check(json!({ "max_tokens": u64::MAX }), "invalid_value", "max_tokens", "18446744073709551615");
    check(json!({ "stop": [""] }), "invalid_value", "stop", "1 to 1024 bytes");
    check(json!({ "stop": ["a", "b", "c", "d", "e"] }), "invalid_value", "stop", "up to 4");
    check(json!({ "logprobs": 6 }), "invalid_value", "logprobs", "from 0 to 5");
    check(json!({ "logit_bias": { "4096": 1 } }), "invalid_value", "logit_bias", "from 0 to 4095");
    check(json!({ "logit_bias": { "1": 101 } }), "invalid_value", "logit_bias", "-100 to 100");
    check(json!({ "repetition_penalty": 0 }), "invalid_value", "repetition_penalty", "above");
    check(json!({ "prompt": null }), "missing_required_parameter", "prompt", "prompt is missing");
    check(json!({ "prompt": 3 }), "invalid_value", "prompt", "prompt is 3");
    check(json!({ "prompt": [] }), "invalid_value", "prompt", "a list");
    check(json!({ "prompt": [1, 4096] }), "invalid_value", "prompt", "4096");
    check(json!({ "prompt": ["a", "b"] }), "unsupported_parameter", "prompt", "several prompts");
    check(json!({ "prompt": "gcc ".repeat(40) }), "context_length_exceeded", "prompt", "context is 32 tokens");
    check(json!({ "prompt": "a".repeat(10_000_000) }), "context_length_exceeded", "prompt", "shorten");
}

#[test]
fn other_endpoints_refuse_what_they_do_not_know() {
    let user = json!([{ "role": "user", "content": "a" }]);
    let chat = |body, code, param, said| check(Endpoint::ChatCompletions, body, code, param, said);
    chat(json!({ "messages": [] }), "invalid_value", "messages", "1 to 4096 messages");
    chat(json!({ "messages": [{ "role": "tool", "content": "a" }] }), "invalid_value", "messages[0].role", "tool");
    chat(json!({ "messages": [{ "role": "user" }] }), "missing_required_parameter", "messages[0].content", "missing");
    chat(json!({ "messages": ["a"] }), "invalid_type", "messages[0]", "must be an object");
    let image = json!([{ "role": "user", "content": [{ "type": "image_url" }] }]);
    chat(json!({ "messages": image }), "unsupported_parameter", "messages[0].content", "not text");
    chat(json!({ "messages": user, "tools": [{}] }), "unsupported_parameter", "tools", "only []");
    chat(json!({ "messages": user, "top_logprobs": 2 }), "invalid_value", "top_logprobs", "needs logprobs");
    let schema = json!({ "type": "json_schema" });
    chat(json!({ "messages": user, "response_format": schema }), "unsupported_parameter", "response_format", "text");

    check(Endpoint::Embeddings, json!({ "input": "a", "pooling": "max" }), "invalid_value", "pooling", "max");
    check(Endpoint::Embeddings, json!({ "input": "a", "dimensions": 3 }), "unsupported_parameter", "dimensions", "leave");
    let score = |choices: Value, param, said| {
        check(Endpoint::Score, json!({ "prompt": "a", "choices": choices }), "invalid_value", param, said);
    };
    score(json!([]), "choices", "1 to 1024");
    score(json!(["a", ""]), "choices[1]", "not empty");
    let long = json!({ "prompt": "a", "choices": ["gcc ".repeat(40)] });
    check(Endpoint::Score, long, "context_length_exceeded", "choices[0]", "32");
}

#[test]
fn a_body_must_be_an_object() {
    let error = Demo::load().read(Endpoint::Score, json!([1])).unwrap_err();
    assert_eq!((error.code, error.param), ("invalid_type", None));
    assert_eq!(error.message, "the request body is a list, but must be an object");
}
