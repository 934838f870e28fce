//! `results`: one row per request that reached an end, whatever the end was.

use jiff::Timestamp;
use uuid::Uuid;

use crate::ids::{CustomId, JobId, Position, ProjectId, TenantId};
use crate::request::{Endpoint, ServiceTier};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Answered.
    Ok,
    /// The request itself was at fault, or its answer could not be made.
    Error,
    /// Its deadline passed first.
    Expired,
    /// Its job was cancelled first.
    Cancelled,
    /// Its batch was delivered before; the row points at the original in `error_message`.
    Duplicate,
}

impl Status {
    /// As written in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Error => "error",
            Status::Expired => "expired",
            Status::Cancelled => "cancelled",
            Status::Duplicate => "duplicate",
        }
    }
}

/// One row of `results`.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// The submission.
    pub job_id: JobId,
    /// Which batch of the job.
    pub batch_seq: u32,
    /// The submitter's name of the request.
    pub custom_id: CustomId,
    /// See [`crate::ids::result_id`].
    pub result_id: Uuid,
    /// Who is billed.
    pub tenant_id: TenantId,
    /// A subdivision of the tenant.
    pub project_id: ProjectId,
    /// Where the data may lie.
    pub residency_zone: String,
    /// Where it was computed.
    pub region: String,
    /// Model folder name.
    pub model_id: String,
    /// SHA-256 of weights and config; none if the model is unknown here.
    pub model_digest: Option<String>,
    /// SHA-256 of the tokenizer.
    pub tokenizer_digest: Option<String>,
    /// What was asked.
    pub endpoint: Endpoint,
    /// Speed and price.
    pub service_tier: ServiceTier,
    /// How it ended.
    pub status: Status,
    /// OpenAI error code, e.g. `context_length_exceeded`.
    pub error_code: Option<String>,
    /// What was wrong, where, and what to do.
    pub error_message: Option<String>,
    /// `stop` or `length`.
    pub finish_reason: Option<String>,
    /// The text of the first choice.
    pub output_text: Option<String>,
    /// The OpenAI response body, JSON.
    pub response: Option<String>,
    /// `/v1/embeddings`: one vector.
    pub embedding: Option<Vec<f32>>,
    /// `/v1/score`: log-likelihood of each choice, in the order asked.
    pub scores: Option<Vec<f64>>,
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: i64,
    /// Those of them that were already in the prefix cache.
    pub cached_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
    /// When the job was submitted.
    pub submitted_at: Timestamp,
    /// When a worker took the request; none if it was refused before.
    pub admitted_at: Option<Timestamp>,
    /// When its first token was sampled.
    pub first_token_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Which worker.
    pub worker_id: String,
    /// Where the message stood. The table's `day` is the UTC date of `finished_at`.
    pub position: Position,
    /// Place of the request in its message.
    pub batch_index: u32,
}
