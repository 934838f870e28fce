//! Answers of every endpoint as OpenAI's own Python package reads them, from rows that a worker wrote.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::bitnet::{Deployment, GroupProtocol};
use integration::messages;
use integration::stack::{installed, repository};
use serde_json::{Value, json};

const SCORED_MAX: Duration = Duration::from_secs(180);

#[test]
fn answers_and_errors_are_what_the_openai_package_reads() -> Result<()> {
    let deployment = Deployment::new("openai-types", 2, GroupProtocol::Consumer)?;
    let jobs = jobs();
    let mut failed = String::new();
    for (endpoint, bodies) in &jobs {
        submit(&deployment, endpoint, bodies)?;
    }
    deployment.drain("worker-1", SCORED_MAX)?;
    for (endpoint, _) in &jobs {
        let out = deployment.folder().join("out.jsonl");
        succeed(
            &deployment,
            &["jobs", "results", &job_of(endpoint), "-o", &out.to_string_lossy()],
        )?;
        failed += &fs::read_to_string(out.with_extension("errors.jsonl"))?;
    }
    let errors = deployment.folder().join("errors.jsonl");
    fs::write(&errors, failed)?;
    let output = Command::new(installed()?.join("python/bin/python"))
        .arg(repository().join("integration/readers/openai_types.py"))
        .arg(format!("{}/{}", deployment.bucket.uri, Deployment::ZONE))
        .arg(&errors)
        .envs(deployment.bucket.env.iter().map(|(key, value)| (key, value)))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "openai_types.py: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let counts: BTreeMap<String, u64> = serde_json::from_str(&said)?;
    let expected = [
        ("ChatCompletion", 3),
        ("Completion", 3),
        ("CreateEmbeddingResponse", 2),
        ("ErrorObject", 5),
        ("Score", 2),
    ];
    assert_eq!(counts, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
    Ok(())
}

/// Requests of every endpoint, some of them wrong.
fn jobs() -> [(&'static str, Vec<Value>); 4] {
    let prompt = "Package: gcc-doc\nSection:";
    let chat = json!([{ "role": "user", "content": "Package: gcc-doc" }]);
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [1, 2] } }, "required": ["a"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "s", "schema": schema } });
    [
        (
            "/v1/completions",
            vec![
                json!({ "prompt": prompt, "max_tokens": 4 }),
                json!({ "prompt": prompt, "max_tokens": 1, "echo": true, "logprobs": 5, "temperature": 0 }),
                json!({ "prompt": prompt, "max_tokens": 6, "n": 3, "logprobs": 0 }),
                json!({ "prompt": prompt, "temprature": 1 }),
                json!({ "prompt": "word ".repeat(20_000) }),
            ],
        ),
        (
            "/v1/chat/completions",
            vec![
                json!({ "messages": chat, "max_completion_tokens": 5, "n": 2 }),
                json!({ "messages": chat, "max_tokens": 5, "logprobs": true, "top_logprobs": 3 }),
                json!({ "messages": chat, "max_tokens": 20, "response_format": format }),
                json!({ "messages": [] }),
            ],
        ),
        (
            "/v1/embeddings",
            vec![
                json!({ "input": prompt }),
                json!({ "input": prompt, "pooling": "last", "encoding_format": "float" }),
                json!({ "input": prompt, "encoding_format": "base64" }),
            ],
        ),
        (
            "/v1/score",
            vec![
                json!({ "prompt": prompt, "choices": [" doc", " libs", " non-free/games"] }),
                json!({ "prompt": [1, 5, 6], "choices": ["x"] }),
                json!({ "prompt": prompt, "choices": [] }),
            ],
        ),
    ]
}

fn job_of(endpoint: &str) -> String {
    endpoint.trim_start_matches("/v1/").replace('/', "-")
}

/// Sends OpenAI Batch lines, one job for each endpoint.
fn submit(deployment: &Deployment, endpoint: &str, bodies: &[Value]) -> Result<()> {
    let file = deployment.folder().join("in.jsonl");
    let lines = bodies.iter().enumerate().map(|(number, body)| {
        let mut body = body.clone();
        body["model"] = json!(messages::MODEL);
        json!({ "custom_id": format!("row-{number}"), "method": "POST", "url": endpoint, "body": body }).to_string()
            + "\n"
    });
    fs::write(&file, lines.collect::<String>())?;
    let (file, job) = (file.to_string_lossy(), job_of(endpoint));
    succeed(deployment, &["submit", &file, "--tenant", "acme", "--job-id", &job])
}

fn succeed(deployment: &Deployment, arguments: &[&str]) -> Result<()> {
    let output = deployment.run(arguments)?;
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {complained}");
    Ok(())
}
