//! Request batches as a program that is not ours would write them, from the demo's documents.

use std::fs;

use anyhow::{Context, Result};
use schemas::ids::DedupKey;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bitnet::Deployment;
use crate::stack::repository;

/// The bundled model.
pub const MODEL: &str = "debian-sections";

/// One record with the answer that `transformers` gives.
#[derive(Debug, Clone, Deserialize)]
pub struct Document {
    /// Name of the record.
    pub id: String,
    /// What the model reads.
    pub prompt: String,
    /// What it writes, up to the line end.
    pub expected: String,
}

/// A message for Kafka.
pub type KeyAndPayload = (String, String);

/// The first `count` demo documents.
pub fn documents(count: usize) -> Result<Vec<Document>> {
    let path = repository().join("pipeline/demo/documents/documents.jsonl");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.lines()
        .take(count)
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// The OpenAI completions body that asks for a document's section.
pub fn body(document: &Document) -> Value {
    json!({ "model": MODEL, "prompt": document.prompt, "max_tokens": 6, "temperature": 0, "stop": ["\n"] })
}

/// One job's request batches of `batch_len` documents each.
pub fn job(tenant: &str, job: &str, documents: &[Document], batch_len: usize) -> Result<Vec<KeyAndPayload>> {
    let batches = documents.chunks(batch_len);
    let batch_count = batches.len();
    batches
        .enumerate()
        .map(|(seq, documents)| {
            let requests = documents
                .iter()
                .map(|one| json!({ "custom_id": one.id, "body": body(one) }))
                .collect();
            batch(tenant, job, seq, batch_count, requests)
        })
        .collect()
}

/// One request batch.
pub fn batch(tenant: &str, job: &str, seq: usize, count: usize, requests: Vec<Value>) -> Result<KeyAndPayload> {
    let key = DedupKey::of(&tenant.parse()?, &job.parse()?, u32::try_from(seq)?).to_hex();
    let message = json!({
        "schema": "bitnet.request_batch.v1",
        "job_id": job,
        "batch_seq": seq,
        "batch_count": count,
        "tenant_id": tenant,
        "project_id": "integration",
        "residency_zone": Deployment::ZONE,
        "model": MODEL,
        "endpoint": "/v1/completions",
        "service_tier": "standard",
        "submitted_at": "2026-11-24T01:00:00Z",
        "requests": requests,
    });
    Ok((key, message.to_string()))
}
