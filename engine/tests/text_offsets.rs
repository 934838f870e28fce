//! Where the tokens of a completion begin in its text, for both ways to spell tokens, and characters cut by a prompt's end.

use std::path::Path;
use std::sync::Arc;

use engine::{Completion, Endpoint, Engine, EngineSettings, Event, JobId, LoadOptions, Model, Priority};
use serde_json::{Value, json};

/// A byte-level tokenizer that begins texts with a mark, one of another model, and SentencePiece.
const MODELS: [&str; 3] = [
    "../pipeline/demo/model/debian-sections",
    "tests/golden/gguf/bitnet-b1.58-i2_s.gguf",
    "tests/golden/gguf/bitnet-i2_s.gguf",
];

fn model(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    Arc::new(Model::load(&path, &LoadOptions::default()).unwrap())
}

fn complete(model: &Arc<Model>, body: Value) -> Completion {
    let settings = EngineSettings {
        kv_bytes_max: 1 << 24,
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(model.clone(), &settings).unwrap();
    let job = model.prepare(Endpoint::Completions, &body, "key").unwrap();
    engine.submit(JobId(1), job, Priority::Bulk).unwrap();
    while !engine.is_idle() {
        if let Some(Event::Finished(_, completion)) = engine.step().events.pop() {
            return completion;
        }
    }
    panic!("no answer");
}

#[test]
fn every_token_begins_at_its_offset() {
    for name in MODELS {
        let model = model(name);
        for (prompt, echo) in [("Package: größer 🐈", true), (" x\n", true), ("Package:", false)] {
            let body = json!({ "prompt": prompt, "max_tokens": 6, "logprobs": 0, "echo": echo, "temperature": 0 });
            let found = complete(&model, body).response("id", 0, "m");
            let choice = &found["choices"][0];
            let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
            let offsets = choice["logprobs"]["text_offset"].as_array().unwrap();
            let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
            assert!(offsets.len() == tokens.len() && tokens.len() > 1);
            let mut checked = 0;
            for (index, (token, offset)) in tokens.iter().zip(offsets).enumerate() {
                let (token, offset) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
                let rest: String = text[offset..].iter().collect();
                // Marks and parts of characters are no text, and SentencePiece begins a text with a space that is not there.
                let is_mark = token.starts_with('<') && token.ends_with('>');
                let is_text = !is_mark && !token.starts_with("bytes:");
                let without_space = token.strip_prefix(' ').filter(|_| offset == 0 && echo);
                assert!(
                    !is_text || rest.starts_with(token) || without_space.is_some_and(|token| rest.starts_with(token)),
                    "{name}, echo {echo}: token {index} {token:?} is not at {offset} of {text:?}"
                );
                checked += usize::from(is_text);
            }
            assert!(checked > 1, "{name}: no token of {tokens:?} was text");
        }
    }
}

#[test]
fn an_answer_completes_the_character_that_its_prompt_began() {
    for name in MODELS {
        let model = model(name);
        let tokens = model.tokenize("a🐈").unwrap();
        let (last, prompt) = tokens.split_last().unwrap();
        assert!(
            model.detokenize(prompt).unwrap().ends_with('\u{fffd}'),
            "the cat is cut"
        );
        let body =
            json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0, "logit_bias": { last.to_string(): 100 } });
        let completion = complete(&model, body);
        assert_eq!(completion.output_text.as_deref(), Some("🐈"), "{name}");
    }
}
