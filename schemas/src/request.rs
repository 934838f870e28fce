//! What arrives: one Kafka message is one request batch.
//!
//! The contract is `contracts/request_batch.v1.schema.json`; unknown fields are refused, so that a
//! misspelt option is an error and never silence.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::{self, DecodeError};
use crate::ids::{CustomId, DedupKey, JobId, NameError, ProjectId, TenantId, by_name};

/// The `schema` field of every request batch.
pub const REQUEST_BATCH_SCHEMA: &str = "bitnet.request_batch.v1";

/// Which OpenAI operation a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// Messages in, one assistant message out.
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    /// Prompt in, continuation out.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Text in, vector out.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// Log-likelihood of given continuations after a shared prompt.
    #[serde(rename = "/v1/score")]
    Score,
}

impl Endpoint {
    /// Every endpoint, in the order of the documentation.
    pub const ALL: [Endpoint; 4] = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Embeddings,
        Endpoint::Score,
    ];

    /// The path, as it is written in messages and tables.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Score => "/v1/score",
        }
    }
}

impl std::str::FromStr for Endpoint {
    type Err = NameError;

    fn from_str(path: &str) -> Result<Self, NameError> {
        by_name("endpoint", &Endpoint::ALL, Endpoint::path, path)
    }
}

/// What a customer pays for in speed; also the Kafka lane of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    /// Lane `interactive`: ahead of everything else.
    Interactive,
    /// Lane `standard`.
    Standard,
    /// Lane `bulk`: when nothing else waits.
    Batch,
}

impl ServiceTier {
    /// Every tier, the most urgent first.
    pub const ALL: [ServiceTier; 3] = [ServiceTier::Interactive, ServiceTier::Standard, ServiceTier::Batch];

    /// The name, as it is written in messages, tables and SKUs.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceTier::Interactive => "interactive",
            ServiceTier::Standard => "standard",
            ServiceTier::Batch => "batch",
        }
    }

    /// The last part of the topic that carries this tier.
    pub fn lane(self) -> &'static str {
        match self {
            ServiceTier::Interactive => "interactive",
            ServiceTier::Standard => "standard",
            ServiceTier::Batch => "bulk",
        }
    }
}

impl std::str::FromStr for ServiceTier {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        by_name("service_tier", &ServiceTier::ALL, ServiceTier::as_str, name)
    }
}

/// One Kafka message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestBatch {
    /// [`REQUEST_BATCH_SCHEMA`].
    pub schema: String,
    /// The submission this batch is part of.
    pub job_id: JobId,
    /// Number of this batch in its job, from 0.
    pub batch_seq: u32,
    /// How many batches the job has.
    pub batch_count: u32,
    /// Who is billed.
    pub tenant_id: TenantId,
    /// A subdivision of the tenant.
    pub project_id: ProjectId,
    /// Where the data may be processed and stored; only workers of that zone take it.
    pub residency_zone: String,
    /// A folder under `models.dir`.
    pub model: String,
    /// What is asked of the model.
    pub endpoint: Endpoint,
    /// Speed and price.
    pub service_tier: ServiceTier,
    /// When the job was submitted.
    pub submitted_at: Timestamp,
    /// Requests not finished by then end as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The submitter's own labels; carried, never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The requests themselves, for small jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Vec<Request>>,
    /// Where the requests lie, for large ones. Exactly one of the two is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<ClaimCheck>,
}

/// One line of an OpenAI batch file, without what the whole batch shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The submitter's name of this request, unique in its job.
    pub custom_id: CustomId,
    /// The OpenAI request body of the batch's endpoint.
    pub body: Value,
}

/// Requests that lie in a Parquet file of the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimCheck {
    /// `s3://bucket/key` or `file:///path`, below `store.uri`.
    pub uri: String,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: String,
    /// Which row groups are this batch's.
    pub row_groups: Vec<u32>,
    /// Which columns hold what.
    pub columns: ClaimCheckColumns,
    /// The request body; each string in it may name `{{text}}`, which becomes the text column's value.
    pub template: Value,
}

/// Column names of a claim check's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimCheckColumns {
    /// Text column with the `custom_id` of each row.
    pub custom_id: String,
    /// Text column that fills the template.
    pub text: String,
}

impl RequestBatch {
    /// Names this batch wherever it is published; also the Kafka key.
    pub fn dedup_key(&self) -> DedupKey {
        DedupKey::of(&self.tenant_id, &self.job_id, self.batch_seq)
    }
}

/// How much one message may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
    /// Most requests in one message.
    pub requests_max: usize,
}

impl Default for Limits {
    /// What a Kafka broker takes unless told otherwise (`message.max.bytes`), and 4,096 requests.
    fn default() -> Self {
        Limits {
            message_bytes_max: 1_048_588,
            requests_max: 4_096,
        }
    }
}

/// Most places of a claim check's template that take the text.
const TEXT_USES_MAX: usize = 16;

/// What a template's strings name to take the text.
const TEXT_PLACEHOLDER: &str = "{{text}}";

/// Reads one message.
///
/// Every error means that the message as a whole cannot be used and belongs on the dead-letter topic.
/// What is wrong with one request alone (its body, a `custom_id` seen twice) is not looked at here,
/// because that request can still get a row of its own. Of a key given twice in a body, the last counts.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RequestBatch, DecodeError> {
    let batch: RequestBatch = decode::json(bytes, limits.message_bytes_max)?;
    decode::schema(&batch.schema, REQUEST_BATCH_SCHEMA)?;
    decode::name("model", &batch.model, decode::NAME_CHARS_MAX)?;
    decode::name("residency_zone", &batch.residency_zone, decode::NAME_CHARS_MAX)?;
    if batch.batch_seq >= batch.batch_count {
        return Err(DecodeError::BatchSeq {
            seq: batch.batch_seq,
            count: batch.batch_count,
        });
    }
    match (&batch.requests, &batch.input) {
        (Some(requests), None) if requests.is_empty() => return Err(DecodeError::NoRequests),
        (Some(requests), None) if requests.len() > limits.requests_max => {
            return Err(DecodeError::TooMany {
                found: requests.len(),
                max: limits.requests_max,
            });
        }
        (Some(_), None) => {}
        (None, Some(input)) => input.check()?,
        (Some(_), Some(_)) => return Err(DecodeError::OneOf { found: "both" }),
        (None, None) => return Err(DecodeError::OneOf { found: "neither" }),
    }
    Ok(batch)
}

impl ClaimCheck {
    /// The request body for one row of the file: the template with the row's text in place of `{{text}}`
    /// in each of its strings. Keys are left alone, and so is a `{{text}}` inside the text.
    pub fn body(&self, text: &str) -> Value {
        fill(&self.template, text)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let invalid = |field, problem: String| Err(DecodeError::Input { field, problem });
        if !self.uri.starts_with("s3://") && !self.uri.starts_with("file:///") {
            return invalid(
                "uri",
                format!("must begin with s3:// or file:///, but is {:?}", shown(&self.uri)),
            );
        }
        if self.sha256.len() != 64
            || !self
                .sha256
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return invalid(
                "sha256",
                format!("must be 64 digits of 0-9 and a-f, but is {:?}", shown(&self.sha256)),
            );
        }
        let distinct: BTreeSet<u32> = self.row_groups.iter().copied().collect();
        if distinct.is_empty() || distinct.len() < self.row_groups.len() {
            return invalid("row_groups", "must name at least one row group, and none twice".into());
        }
        if !self.template.is_object() {
            return invalid("template", "must be an object, the request body of the endpoint".into());
        }
        match uses(&self.template) {
            1..=TEXT_USES_MAX => Ok(()),
            found => {
                let times = format!("1 to {TEXT_USES_MAX} times, but does {found} times");
                invalid(
                    "template",
                    format!("must name {TEXT_PLACEHOLDER} in its strings {times}"),
                )
            }
        }
    }
}

fn shown(value: &str) -> String {
    value.chars().take(decode::NAME_CHARS_MAX).collect()
}

// Both walks go as deep as the template, which the JSON reader has bounded to 128 levels.

fn fill(template: &Value, text: &str) -> Value {
    match template {
        Value::String(string) => Value::String(string.replace(TEXT_PLACEHOLDER, text)),
        Value::Array(items) => items.iter().map(|item| fill(item, text)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), fill(value, text)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => template.clone(),
    }
}

fn uses(template: &Value) -> usize {
    match template {
        Value::String(string) => string.matches(TEXT_PLACEHOLDER).count(),
        Value::Array(items) => items.iter().map(uses).sum(),
        Value::Object(fields) => fields.values().map(uses).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
