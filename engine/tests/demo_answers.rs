//! The demo model's answers are those that transformers gives in float32, for every document.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Endpoint, Engine, EngineSettings, Event, JobId, LoadOptions, Model, Priority};
use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/demo")
}

#[test]
fn all_documents_get_the_answer_that_transformers_gives() {
    let model = Arc::new(Model::load(&demo().join("model/debian-sections"), &LoadOptions::default()).unwrap());
    let mut engine = Engine::new(model.clone(), &EngineSettings::default()).unwrap();
    let documents = std::fs::read_to_string(demo().join("documents/documents.jsonl")).unwrap();
    let documents: Vec<Value> = documents
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (index, document) in documents.iter().enumerate() {
        let body = json!({ "prompt": document["prompt"], "max_tokens": 6, "temperature": 0, "stop": "\n" });
        let job = model.prepare(Endpoint::Completions, &body, "").unwrap();
        engine.submit(JobId(index as u64), job, Priority::Bulk).unwrap();
    }
    let mut answers = vec![String::new(); documents.len()];
    while !engine.is_idle() {
        for event in engine.step().events {
            if let Event::Finished(JobId(index), completion) = event {
                answers[index as usize] = completion.output_text.unwrap().trim().to_owned();
            }
        }
    }
    let wrong: Vec<String> = documents
        .iter()
        .zip(&answers)
        .filter(|(document, answer)| document["expected"] != **answer)
        .map(|(document, answer)| format!("{}: {answer:?} instead of {}", document["id"], document["expected"]))
        .collect();
    assert_eq!(documents.len(), 2500);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
