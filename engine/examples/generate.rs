//! The whole engine in forty lines: `cargo run --release -p engine --example generate -- MODEL_DIR PROMPT…`
//!
//! Each prompt is one request; all of them are answered together, and each is printed as soon as it is done.

use std::path::Path;
use std::sync::Arc;

use engine::{Endpoint, Engine, EngineSettings, Event, JobId, LoadOptions, Model, Priority};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: generate MODEL_DIR PROMPT…")?;
    let prompts: Vec<String> = arguments.collect();

    let model = Arc::new(Model::load(Path::new(&dir), &LoadOptions::default())?);
    let mut engine = Engine::new(model.clone(), &EngineSettings::default())?;

    for (id, prompt) in (0..).map(JobId).zip(&prompts) {
        let body = json!({ "prompt": prompt, "max_tokens": 16, "temperature": 0 });
        let job = model.prepare(Endpoint::Completions, &body, prompt)?;
        engine.submit(id, job, Priority::Interactive)?;
    }

    while !engine.is_idle() {
        for event in engine.step().events {
            match event {
                Event::FirstToken(_) => {}
                Event::Failed(_, error) => return Err(error.into()),
                Event::Finished(JobId(number), completion) => {
                    let (prompt, text) = (&prompts[number as usize], completion.output_text.unwrap_or_default());
                    println!("{prompt}{text}   [{} tokens]", completion.usage.output_tokens);
                }
            }
        }
    }
    Ok(())
}
