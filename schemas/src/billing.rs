//! `billing_events`: the append-only ledger. Exactly one usage row per row of `results`.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::columns::{Cells, Columns, ReadError, WriteError};
use crate::ids::{CustomId, JobId, NameError, Position, ProjectId, TenantId, by_name, uuid_of};
use crate::request::ServiceTier;
use crate::result::{Status, read_position};

/// `schema_version` of the rows written now.
pub const SCHEMA_VERSION: i32 = 1;

/// What a ledger row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// One request's usage.
    Usage,
    /// Takes a usage or replacement row back, whole.
    Reversal,
    /// Stands in for a reversed row.
    Replacement,
    /// A credit or charge with a reason.
    Adjustment,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 4] = [
        EventKind::Usage,
        EventKind::Reversal,
        EventKind::Replacement,
        EventKind::Adjustment,
    ];

    /// As written in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Usage => "usage",
            EventKind::Reversal => "reversal",
            EventKind::Replacement => "replacement",
            EventKind::Adjustment => "adjustment",
        }
    }
}

impl std::str::FromStr for EventKind {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        by_name("event_kind", &EventKind::ALL, EventKind::as_str, name)
    }
}

/// The id of a ledger row: UUIDv5 of the work it bills, never of an attempt, a time or an offset.
pub fn event_id(tenant: &TenantId, job: &JobId, custom_id: &CustomId, kind: EventKind, correction_seq: u32) -> Uuid {
    event_id_of(tenant.as_str(), job.as_str(), custom_id.as_str(), kind, correction_seq)
}

/// As [`event_id`], of names as they stand in a table.
pub fn event_id_of(tenant: &str, job: &str, custom_id: &str, kind: EventKind, correction_seq: u32) -> Uuid {
    uuid_of(
        "event",
        &[
            tenant.as_bytes(),
            job.as_bytes(),
            custom_id.as_bytes(),
            kind.as_str().as_bytes(),
            &correction_seq.to_be_bytes(),
        ],
    )
}

/// The id of the row for a repeated delivery: it names the delivery, not the work, and is never billable.
pub fn repeat_event_id(result_id: Uuid) -> Uuid {
    uuid_of("repeat", &[result_id.as_bytes()])
}

/// One row of `billing_events`; units and rules are in `contracts/README.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BillingRow {
    /// See [`event_id`].
    pub event_id: Uuid,
    /// SHA-256 of the billable fields, hexadecimal.
    pub payload_hash: String,
    /// Version of this table's columns.
    pub schema_version: i32,
    /// What the row does.
    pub event_kind: EventKind,
    /// Who is billed.
    pub tenant_id: TenantId,
    /// A subdivision of the tenant.
    pub project_id: ProjectId,
    /// Pseudonymous reference of the key that submitted.
    pub api_key_ref: Option<String>,
    /// The submission.
    pub job_id: JobId,
    /// The submitter's name of the request.
    pub custom_id: CustomId,
    /// Joins `results`.
    pub result_id: Uuid,
    /// Picks price version and period.
    pub event_time: Timestamp,
    /// When the row was made.
    pub ingested_at: Timestamp,
    /// `2026-10`, of `event_time` in UTC; the partition column.
    pub usage_period: String,
    /// Where it was computed.
    pub region: String,
    /// Where the data may lie.
    pub residency_zone: String,
    /// Model folder name.
    pub model_id: String,
    /// SHA-256 of weights and config.
    pub model_digest: Option<String>,
    /// Speed and price.
    pub service_tier: ServiceTier,
    /// Prompt tokens that were computed. The three classes exclude one another.
    pub input_uncached_tokens: i64,
    /// Prompt tokens served from the prefix cache.
    pub input_cached_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
    /// 1, or -1 on a reversal.
    pub requests: i64,
    /// How the request ended.
    pub outcome: Status,
    /// Whether the row is charged.
    pub billable: bool,
    /// Why not.
    pub nonbillable_reason: Option<String>,
    /// Which price book.
    pub price_book_id: String,
    /// Which version of it, pinned at `event_time`.
    pub price_version: String,
    /// Which version of the tenant's contract; none when rated at list.
    pub contract_version: Option<String>,
    /// ISO 4217 currency of the prices.
    pub pricing_currency: String,
    /// ISO 4217 currency of the invoice.
    pub billing_currency: String,
    /// The row this one corrects.
    pub corrects_event_id: Option<Uuid>,
    /// 0 for usage, then one more per correction.
    pub correction_seq: i32,
    /// Why it was corrected.
    pub correction_reason: Option<String>,
    /// Where the message stood.
    pub position: Position,
    /// Place of the request in its message.
    pub batch_index: u32,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| to_batch(&[]).expect("no rows always fit into a batch").schema());

static READ_SCHEMA: LazyLock<Schema> = LazyLock::new(|| SCHEMA.as_ref().clone());

pub(crate) fn read_schema() -> &'static Schema {
    &READ_SCHEMA
}

/// The column `billing_events` is partitioned by, and the last of its schema.
pub const PARTITION_COLUMN: &str = "usage_period";

/// Columns of `billing_events`.
pub fn arrow_schema() -> SchemaRef {
    SCHEMA.clone()
}

/// Rows as columns of [`arrow_schema`]. Times are cut to microseconds.
pub fn to_batch(rows: &[BillingRow]) -> Result<RecordBatch, WriteError> {
    let mut table = Columns::of(rows);
    table.uuid("event_id", |row| row.event_id);
    table.text("payload_hash", |row| &row.payload_hash);
    table.int32("schema_version", |row| row.schema_version.into());
    table.text("event_kind", |row| row.event_kind.as_str());
    table.text("tenant_id", |row| row.tenant_id.as_str());
    table.text("project_id", |row| row.project_id.as_str());
    table.optional_text("api_key_ref", |row| row.api_key_ref.as_deref());
    table.text("job_id", |row| row.job_id.as_str());
    table.text("custom_id", |row| row.custom_id.as_str());
    table.uuid("result_id", |row| row.result_id);
    table.time("event_time", |row| row.event_time);
    table.time("ingested_at", |row| row.ingested_at);
    table.text("region", |row| &row.region);
    table.text("residency_zone", |row| &row.residency_zone);
    table.text("model_id", |row| &row.model_id);
    table.optional_text("model_digest", |row| row.model_digest.as_deref());
    table.text("service_tier", |row| row.service_tier.as_str());
    table.int64("input_uncached_tokens", |row| row.input_uncached_tokens);
    table.int64("input_cached_tokens", |row| row.input_cached_tokens);
    table.int64("output_tokens", |row| row.output_tokens);
    table.int64("requests", |row| row.requests);
    table.text("outcome", |row| row.outcome.as_str());
    table.boolean("billable", |row| row.billable);
    table.optional_text("nonbillable_reason", |row| row.nonbillable_reason.as_deref());
    table.text("price_book_id", |row| &row.price_book_id);
    table.text("price_version", |row| &row.price_version);
    table.optional_text("contract_version", |row| row.contract_version.as_deref());
    table.text("pricing_currency", |row| &row.pricing_currency);
    table.text("billing_currency", |row| &row.billing_currency);
    table.optional_uuid("corrects_event_id", |row| row.corrects_event_id);
    table.int32("correction_seq", |row| row.correction_seq.into());
    table.optional_text("correction_reason", |row| row.correction_reason.as_deref());
    table.text("kafka_topic", |row| &row.position.topic);
    table.int32("kafka_epoch", |row| row.position.epoch.into());
    table.int32("kafka_partition", |row| row.position.partition.into());
    table.int64("kafka_offset", |row| row.position.offset);
    table.int32("batch_index", |row| row.batch_index.into());
    table.text(PARTITION_COLUMN, |row| &row.usage_period);
    table.finish()
}

/// Columns as rows. Optional columns may be left out of the batch, and read as none.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<BillingRow>, ReadError> {
    let mut cells = Cells::of(batch, &READ_SCHEMA)?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        cells.go_to(row);
        rows.push(read_row(&mut cells)?);
    }
    Ok(rows)
}

fn read_row(cells: &mut Cells) -> Result<BillingRow, ReadError> {
    Ok(BillingRow {
        event_id: cells.parsed("event_id")?,
        payload_hash: cells.text("payload_hash")?,
        schema_version: cells.int32("schema_version")?,
        event_kind: cells.parsed("event_kind")?,
        tenant_id: cells.parsed("tenant_id")?,
        project_id: cells.parsed("project_id")?,
        api_key_ref: cells.optional_text("api_key_ref")?,
        job_id: cells.parsed("job_id")?,
        custom_id: cells.parsed("custom_id")?,
        result_id: cells.parsed("result_id")?,
        event_time: cells.time("event_time")?,
        ingested_at: cells.time("ingested_at")?,
        region: cells.text("region")?,
        residency_zone: cells.text("residency_zone")?,
        model_id: cells.text("model_id")?,
        model_digest: cells.optional_text("model_digest")?,
        service_tier: cells.parsed("service_tier")?,
        input_uncached_tokens: cells.int64("input_uncached_tokens")?,
        input_cached_tokens: cells.int64("input_cached_tokens")?,
        output_tokens: cells.int64("output_tokens")?,
        requests: cells.int64("requests")?,
        outcome: cells.parsed("outcome")?,
        billable: cells.boolean("billable")?,
        nonbillable_reason: cells.optional_text("nonbillable_reason")?,
        price_book_id: cells.text("price_book_id")?,
        price_version: cells.text("price_version")?,
        contract_version: cells.optional_text("contract_version")?,
        pricing_currency: cells.text("pricing_currency")?,
        billing_currency: cells.text("billing_currency")?,
        corrects_event_id: cells.optional_uuid("corrects_event_id")?,
        correction_seq: cells.int32("correction_seq")?,
        correction_reason: cells.optional_text("correction_reason")?,
        position: read_position(cells)?,
        batch_index: cells.count("batch_index")?,
        usage_period: cells.text(PARTITION_COLUMN)?,
    })
}
