use std::path::Path;

use super::*;
use crate::model::TokenizerFiles;
use crate::tokenizer::Tokenizer;

struct Demo {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    grammars: Grammars,
}

impl Demo {
    fn load() -> Demo {
        let dir = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../pipeline/demo/model/debian-sections"
        ));
        let files = TokenizerFiles::read(dir).unwrap();
        let tokenizer = Tokenizer::new(&files.tokenizer).unwrap();
        Demo {
            tokenizer,
            template: ChatTemplate::new(&files, None).unwrap().unwrap(),
            grammars: Grammars::default(),
        }
    }

    fn read(&self, endpoint: Endpoint, body: Value) -> Result<Job, RequestError> {
        let tokens = Tokens {
            tokenizer: &self.tokenizer,
            vocabulary: 4096,
            eos: &[2],
        };
        Reader {
            tokens,
            template: Some(&self.template),
            grammars: &self.grammars,
            context_length: 32,
        }
        .read(endpoint, &body, "key")
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
    let (prompt, generate) = demo.generate(
        Endpoint::Completions,
        json!({ "prompt": "a", "model": "m", "user": null }),
    );
    assert_eq!(prompt[0], 1, "the text begins with the token that begins every text");
    assert_eq!(
        (generate.tokens_max, generate.chat, generate.echo, generate.top_logprobs),
        (16, false, None, None)
    );
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
    let expected = demo
        .generate(Endpoint::Completions, json!({ "prompt": "Package: gcc\nSection:" }))
        .0;
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
    let job = demo
        .read(
            Endpoint::Score,
            json!({ "prompt": "Section:", "choices": [" libs", " games"] }),
        )
        .unwrap();
    let Work::Score(score) = &job.work else { panic!() };
    for choice in &score.choices {
        let whole = demo
            .tokenizer
            .encode(&format!("Section:{}", choice.text), true)
            .unwrap();
        assert_eq!([job.prompt.clone(), choice.tokens.clone()].concat(), whole);
    }
}

/// The refusal of a body names the field and says something of the value.
fn check(endpoint: Endpoint, body: Value, code: &str, param: &str, said: &str) {
    let demo = Demo::load();
    let error = demo.read(endpoint, body.clone()).expect_err(&body.to_string());
    assert_eq!(
        (error.code, error.param.as_deref()),
        (code, Some(param)),
        "{body}: {error}"
    );
    assert!(error.message.contains(said), "{body}: {error}");
    assert_eq!(error.body()["error"]["type"], "invalid_request_error");
}

/// The same for one more field of a completion.
fn check_field(field: &str, value: Value, code: &str, said: &str) {
    let mut body = json!({ "prompt": "a" });
    body[field] = value;
    check(Endpoint::Completions, body, code, field, said);
}

#[test]
fn completions_refuse_unknown_and_unsupported_fields() {
    check_field("temprature", json!(1), "unknown_parameter", "unknown field temprature");
    check_field("n", json!(129), "invalid_value", "from 1 to 128");
    check_field("best_of", json!(2), "unsupported_parameter", "only 1");
    check_field("stream", json!(true), "unsupported_parameter", "true");
    check_field("suffix", json!("z"), "unsupported_parameter", "z");
}

#[test]
fn completions_refuse_values_out_of_range() {
    let check = |field: &str, value: Value, said: &str| check_field(field, value, "invalid_value", said);
    check("temperature", json!(3), "a number from 0 to 2");
    check("temperature", json!("hot"), "\"hot\"");
    check("max_tokens", json!(0), "at least 1");
    check("max_tokens", json!(1.5), "whole number");
    check("max_tokens", json!(u64::MAX), "18446744073709551615");
    check("stop", json!([""]), "1 to 1024 bytes");
    check("stop", json!(["a", "b", "c", "d", "e"]), "up to 4");
    check("logprobs", json!(6), "from 0 to 5");
    check("logit_bias", json!({ "4096": 1 }), "from 0 to 4095");
    check("logit_bias", json!({ "1": 101 }), "-100 to 100");
    check("repetition_penalty", json!(0), "above");
}

#[test]
fn completions_refuse_prompts_that_cannot_be_read_or_do_not_fit() {
    check_field("prompt", json!(null), "missing_required_parameter", "prompt is missing");
    check_field("prompt", json!(3), "invalid_value", "prompt is 3");
    check_field("prompt", json!([]), "invalid_value", "a list");
    check_field("prompt", json!([1, 4096]), "invalid_value", "4096");
    check_field("prompt", json!(["a", "b"]), "unsupported_parameter", "several prompts");
    check_field(
        "max_tokens",
        json!(31),
        "context_length_exceeded",
        "context is 32 tokens",
    );
    check_field(
        "prompt",
        json!("gcc ".repeat(40)),
        "context_length_exceeded",
        "context is 32 tokens",
    );
    check_field(
        "prompt",
        json!("a".repeat(10_000_000)),
        "context_length_exceeded",
        "shorten",
    );
}

#[test]
fn chat_refuses_messages_and_fields_by_name() {
    let chat = |messages: Value, more: (&str, Value), code: &str, param: &str, said: &str| {
        let mut body = json!({ "messages": messages });
        body[more.0] = more.1;
        check(Endpoint::ChatCompletions, body, code, param, said);
    };
    let none = || ("user", json!(null));
    chat(json!([]), none(), "invalid_value", "messages", "1 to 4096 messages");
    let tool = json!([{ "role": "tool", "content": "a" }]);
    chat(tool, none(), "invalid_value", "messages[0].role", "tool");
    let silent = json!([{ "role": "user" }]);
    chat(
        silent,
        none(),
        "missing_required_parameter",
        "messages[0].content",
        "missing",
    );
    chat(json!(["a"]), none(), "invalid_type", "messages[0]", "must be an object");
    let image = json!([{ "role": "user", "content": [{ "type": "image_url" }] }]);
    chat(
        image,
        none(),
        "unsupported_parameter",
        "messages[0].content",
        "not text",
    );

    let user = || json!([{ "role": "user", "content": "a" }]);
    chat(
        user(),
        ("tools", json!([{}])),
        "unsupported_parameter",
        "tools",
        "only []",
    );
    chat(
        user(),
        ("top_logprobs", json!(2)),
        "invalid_value",
        "top_logprobs",
        "needs logprobs",
    );
    let schema = json!({ "type": "json_schema" });
    check(
        Endpoint::ChatCompletions,
        json!({ "messages": user(), "response_format": schema }),
        "missing_required_parameter",
        "response_format.json_schema",
        "missing",
    );
}

#[test]
fn constraints_that_cannot_be_followed_are_refused_by_name() {
    let check = |field: &str, value: Value, param: &str, said: &str| {
        let mut body = json!({ "prompt": "a" });
        body[field] = value;
        check(Endpoint::Completions, body, "invalid_value", param, said);
    };
    check(
        "response_format",
        json!({ "type": "xml" }),
        "response_format.type",
        "xml",
    );
    check("guided_regex", json!("(a"), "guided_regex", "cannot be followed");
    check(
        "guided_regex",
        json!("a".repeat(70_000)),
        "guided_regex",
        "at most 65536",
    );
    check("guided_choice", json!([]), "guided_choice", "1 to 1024");
    check("guided_choice", json!(["a", 3]), "guided_choice", "strings");
    check("guided_json", json!(3), "guided_json", "must be a JSON schema");
    check("guided_json", json!("{"), "guided_json", "cannot be followed");
    check("guided_json", json!({ "type": "strang" }), "guided_json", "strang");
    check(
        "guided_json",
        json!({ "$ref": "http://example.com/a.json" }),
        "guided_json",
        "$ref",
    );
    check(
        "guided_json",
        json!({ "type": "string", "minLength": 9, "maxLength": 2 }),
        "guided_json",
        "cannot",
    );
    check(
        "structured_outputs",
        json!({ "regex": "a", "choice": ["a"] }),
        "structured_outputs.choice",
        "both",
    );
    let grammar = json!({ "prompt": "a", "structured_outputs": { "grammar": "start: x" } });
    super::tests::check(
        Endpoint::Completions,
        grammar,
        "unknown_parameter",
        "structured_outputs.grammar",
        "unknown field",
    );
}

#[test]
fn constraints_that_explode_are_refused_or_bounded() {
    let deep = (0..60).fold(
        json!({}),
        |inner, _| json!({ "type": "array", "items": inner, "minItems": 1 }),
    );
    let wide: serde_json::Map<_, _> = (0..900)
        .map(|n| (format!("k{n}"), json!({ "enum": [n, "x"] })))
        .collect();
    let bodies = [
        json!({ "guided_regex": "(a|b){0,100000}c{100000}" }),
        json!({ "guided_regex": "((((a{0,99}){0,99}){0,99}){0,99}){0,99}" }),
        json!({ "guided_regex": "(?=a)b\\1" }),
        json!({ "guided_json": { "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] } }),
        json!({ "guided_json": { "type": "array", "minItems": 4_000_000_000u32, "items": {} } }),
        json!({ "guided_json": { "pattern": "(x+x+)+y", "type": "string", "maxLength": 1_000_000 } }),
        json!({ "guided_json": deep }),
        json!({ "guided_json": { "type": "object", "properties": wide, "additionalProperties": false } }),
        json!({ "guided_json": { "x-guidance": { "nonsense": 1 }, "type": "object" } }),
    ];
    let demo = Demo::load();
    for mut body in bodies {
        body["prompt"] = json!("a");
        let first = demo.read(Endpoint::Completions, body.clone()).err();
        let again = Demo::load().read(Endpoint::Completions, body).err();
        assert_eq!(first, again, "the same verdict everywhere");
    }
}

#[test]
fn embeddings_and_scores_refuse_what_they_do_not_know() {
    let embed = |field: &str, value: Value, code: &str| {
        let mut body = json!({ "input": "a" });
        body[field] = value;
        check(Endpoint::Embeddings, body, code, field, field);
    };
    embed("pooling", json!("max"), "invalid_value");
    embed("dimensions", json!(3), "unsupported_parameter");
    embed("encoding_format", json!("base64"), "unsupported_parameter");
    embed("max_tokens", json!(3), "unknown_parameter");
    let score = |choices: Value, code: &str, param: &str, said: &str| {
        check(
            Endpoint::Score,
            json!({ "prompt": "a", "choices": choices }),
            code,
            param,
            said,
        );
    };
    score(json!([]), "invalid_value", "choices", "1 to 1024");
    score(json!(["a", ""]), "invalid_value", "choices[1]", "not empty");
    score(
        json!(["gcc ".repeat(40)]),
        "context_length_exceeded",
        "choices[0]",
        "32",
    );
}

#[test]
fn a_body_must_be_an_object() {
    let error = Demo::load().read(Endpoint::Score, json!([1])).unwrap_err();
    assert_eq!((error.code, error.param), ("invalid_type", None));
    assert_eq!(error.message, "the request body is a list, but must be an object");
}
