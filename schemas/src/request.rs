//! What arrives: one Kafka message is one request batch.
//!
//! The contract is `contracts/request_batch.v1.schema.json`; unknown fields are refused, so that a
//! misspelt option is an error and never silence.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{CustomId, DedupKey, JobId, ProjectId, TenantId};

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
    pub body: serde_json::Value,
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
    pub template: serde_json::Value,
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
