//! Whatever stands in a request body, reading it ends in a job or in an error that can be shown: bodies that work, with
//! some of their values replaced, removed, repeated or moved. `PROPTEST_CASES=100000` makes a long run of it.

use std::path::Path;
use std::sync::LazyLock;

use engine::{Endpoint, LoadOptions, Model};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

static DEMO: LazyLock<Model> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo/model/debian-sections");
    Model::load(&dir, &LoadOptions::default()).unwrap()
});

/// Every field that is known, in one body or another.
fn bodies() -> Vec<(Endpoint, Value)> {
    let schema = json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/x" } }, "$defs": { "x": { "type": "array" } } });
    let sampling = json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": { "5": 1 }, "n": 2, "stop": ["\n"],
        "max_tokens": 5, "user": "u", "model": "m", "stream": false,
    });
    let with = |more: Value| {
        let mut body = sampling.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let messages = json!([{ "role": "system", "content": "s" }, { "role": "user", "name": "n", "content": [{ "type": "text", "text": "t" }] }]);
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "strict": true, "schema": schema } });
    vec![
        (
            Endpoint::Completions,
            with(json!({ "prompt": "a", "echo": true, "logprobs": 2, "guided_json": schema })),
        ),
        (
            Endpoint::Completions,
            with(json!({ "prompt": [1, 5], "guided_regex": "[a-z]{2,5}(x|y)*" })),
        ),
        (
            Endpoint::Completions,
            with(json!({ "prompt": "a", "structured_outputs": { "choice": ["a", "b"] } })),
        ),
        (
            Endpoint::ChatCompletions,
            with(json!({ "messages": messages, "response_format": format })),
        ),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": messages, "logprobs": true, "top_logprobs": 3, "max_completion_tokens": 9 }),
        ),
        (
            Endpoint::Embeddings,
            json!({ "input": "a", "pooling": "last", "encoding_format": "float" }),
        ),
        (Endpoint::Score, json!({ "prompt": "a", "choices": ["b", "c"] })),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
        Just(json!(1e308)),
        any::<f32>().prop_map(|number| json!(number)),
        any::<i16>().prop_map(|number| json!(number)),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[\\[\\](){}|*+?.^$\\\\a-c0-9,]{0,24}",
        Just("\u{0}\u{202e}😀".repeat(40)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            Just("type".to_owned()),
            Just("items".to_owned()),
            Just("$ref".to_owned()),
            any::<String>()
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| Value::from(Map::from_iter(fields))),
        ]
    })
}

/// Every place in a value, by its JSON pointer (RFC 6901).
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(key, value)| places(value, format!("{at}/{}", escaped(key)), all)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(n, value)| places(value, format!("{at}/{n}"), all)),
        _ => {}
    }
    all.push(at);
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn any_body_is_a_job_or_an_error_to_show(
        body in prop::sample::select(bodies()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), anything(), any::<bool>()), 1..4),
    ) {
        let (endpoint, mut body) = body;
        for (place, value, inside) in changes {
            let mut all = Vec::new();
            places(&body, String::new(), &mut all);
            let at: &String = place.get(&all);
            let target = body.pointer_mut(at).unwrap();
            match target {
                Value::Object(object) if inside => drop(object.insert("x".to_owned(), value)),
                Value::Array(list) if inside => list.push(value),
                target => *target = value,
            }
        }
        match DEMO.prepare(endpoint, &body, "key") {
            Ok(job) => prop_assert!(job.cache_tokens_max() <= DEMO.context_length(), "{body}"),
            Err(error) => {
                let message = &error.message;
                prop_assert!((1..2000).contains(&message.len()), "{} bytes: {message}", message.len());
                prop_assert!(!message.contains("panic") && !message.contains('\n'), "{message:?}");
            }
        }
    }
}
