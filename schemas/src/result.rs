//! `results`: one row per request that reached an end, whatever the end was.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, Float64Type, Schema, SchemaRef};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::columns::{Cells, Columns, ReadError, WriteError};
use crate::ids::{CustomId, JobId, NameError, Position, ProjectId, TenantId, by_name};
use crate::request::{Endpoint, ServiceTier};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Every way to end, the good one first.
    pub const ALL: [Status; 5] = [
        Status::Ok,
        Status::Error,
        Status::Expired,
        Status::Cancelled,
        Status::Duplicate,
    ];

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

impl std::str::FromStr for Status {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        by_name("status", &Status::ALL, Status::as_str, name)
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

impl ResultRow {
    /// The row's partition: the UTC date of `finished_at`.
    pub fn day(&self) -> Date {
        TimeZone::UTC.to_datetime(self.finished_at).date()
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| to_batch(&[]).expect("no rows always fit into a batch").schema());

/// What is read back: all but `day`, which follows from `finished_at`.
static READ_SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let fields = SCHEMA.fields().iter().filter(|field| field.name() != PARTITION_COLUMN);
    Schema::new(fields.cloned().collect::<Vec<_>>())
});

pub(crate) fn read_schema() -> &'static Schema {
    &READ_SCHEMA
}

/// The column `results` is partitioned by, and the last of its schema. A date and not a text, so that
/// every reader prunes files on ranges and date arithmetic; Delta, Hive paths, DuckDB and Spark all
/// write it `2026-11-24`.
pub const PARTITION_COLUMN: &str = "day";

/// The columns that say what someone asked or was answered; all may be null. An error's message may quote
/// the request. What is not here is an id, a count, a time or a word of ours.
pub const CONTENT_COLUMNS: [&str; 5] = ["error_message", "output_text", "response", "embedding", "scores"];

/// Columns of `results`.
pub fn arrow_schema() -> SchemaRef {
    SCHEMA.clone()
}

/// The columns that [`from_batch`] cannot do without: those that hold no `Option`, but for the partition's.
pub fn required_columns() -> Vec<&'static str> {
    let required = READ_SCHEMA.fields().iter().filter(|field| !field.is_nullable());
    required.map(|field| field.name().as_str()).collect()
}

/// Rows as columns of [`arrow_schema`]. Times are cut to microseconds.
pub fn to_batch(rows: &[ResultRow]) -> Result<RecordBatch, WriteError> {
    let mut table = Columns::of(rows);
    table.text("job_id", |row| row.job_id.as_str());
    table.int64("batch_seq", |row| row.batch_seq.into());
    table.text("custom_id", |row| row.custom_id.as_str());
    table.uuid("result_id", |row| row.result_id);
    table.text("tenant_id", |row| row.tenant_id.as_str());
    table.text("project_id", |row| row.project_id.as_str());
    table.text("residency_zone", |row| &row.residency_zone);
    table.text("region", |row| &row.region);
    table.text("model_id", |row| &row.model_id);
    table.optional_text("model_digest", |row| row.model_digest.as_deref());
    table.optional_text("tokenizer_digest", |row| row.tokenizer_digest.as_deref());
    table.text("endpoint", |row| row.endpoint.path());
    table.text("service_tier", |row| row.service_tier.as_str());
    table.text("status", |row| row.status.as_str());
    table.optional_text("error_code", |row| row.error_code.as_deref());
    table.optional_text("error_message", |row| row.error_message.as_deref());
    table.optional_text("finish_reason", |row| row.finish_reason.as_deref());
    table.optional_text("output_text", |row| row.output_text.as_deref());
    table.optional_text("response", |row| row.response.as_deref());
    table.optional_list::<Float32Type>("embedding", |row| row.embedding.as_deref());
    table.optional_list::<Float64Type>("scores", |row| row.scores.as_deref());
    table.int64("input_tokens", |row| row.input_tokens);
    table.int64("cached_tokens", |row| row.cached_tokens);
    table.int64("output_tokens", |row| row.output_tokens);
    table.time("submitted_at", |row| row.submitted_at);
    table.optional_time("admitted_at", |row| row.admitted_at);
    table.optional_time("first_token_at", |row| row.first_token_at);
    table.time("finished_at", |row| row.finished_at);
    table.text("worker_id", |row| &row.worker_id);
    table.text("kafka_topic", |row| &row.position.topic);
    table.int32("kafka_epoch", |row| row.position.epoch.into());
    table.int32("kafka_partition", |row| row.position.partition.into());
    table.int64("kafka_offset", |row| row.position.offset);
    table.int32("batch_index", |row| row.batch_index.into());
    table.day(PARTITION_COLUMN, |row| row.finished_at);
    table.finish()
}

/// Columns as rows. Optional columns may be left out of the batch, and read as none.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<ResultRow>, ReadError> {
    let mut cells = Cells::of(batch, &READ_SCHEMA)?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        cells.go_to(row);
        rows.push(read_row(&mut cells)?);
    }
    Ok(rows)
}

fn read_row(cells: &mut Cells) -> Result<ResultRow, ReadError> {
    Ok(ResultRow {
        job_id: cells.parsed("job_id")?,
        batch_seq: cells.count("batch_seq")?,
        custom_id: cells.parsed("custom_id")?,
        result_id: cells.parsed("result_id")?,
        tenant_id: cells.parsed("tenant_id")?,
        project_id: cells.parsed("project_id")?,
        residency_zone: cells.text("residency_zone")?,
        region: cells.text("region")?,
        model_id: cells.text("model_id")?,
        model_digest: cells.optional_text("model_digest")?,
        tokenizer_digest: cells.optional_text("tokenizer_digest")?,
        endpoint: cells.parsed("endpoint")?,
        service_tier: cells.parsed("service_tier")?,
        status: cells.parsed("status")?,
        error_code: cells.optional_text("error_code")?,
        error_message: cells.optional_text("error_message")?,
        finish_reason: cells.optional_text("finish_reason")?,
        output_text: cells.optional_text("output_text")?,
        response: cells.optional_text("response")?,
        embedding: cells.optional_f32s("embedding")?,
        scores: cells.optional_f64s("scores")?,
        input_tokens: cells.int64("input_tokens")?,
        cached_tokens: cells.int64("cached_tokens")?,
        output_tokens: cells.int64("output_tokens")?,
        submitted_at: cells.time("submitted_at")?,
        admitted_at: cells.optional_time("admitted_at")?,
        first_token_at: cells.optional_time("first_token_at")?,
        finished_at: cells.time("finished_at")?,
        worker_id: cells.text("worker_id")?,
        position: read_position(cells)?,
        batch_index: cells.count("batch_index")?,
    })
}

/// The four `kafka_` columns that both tables have.
pub(crate) fn read_position(cells: &mut Cells) -> Result<Position, ReadError> {
    Ok(Position {
        topic: cells.text("kafka_topic")?,
        epoch: cells.count("kafka_epoch")?,
        partition: cells.int32("kafka_partition")?,
        offset: cells.int64("kafka_offset")?,
    })
}
