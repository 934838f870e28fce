//! `billing_events`: the append-only ledger. Exactly one usage row per row of `results`.

use jiff::Timestamp;
use uuid::Uuid;

use crate::ids::{CustomId, JobId, Position, ProjectId, TenantId, uuid_of};
use crate::request::ServiceTier;
use crate::result::Status;

/// What a ledger row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The id of a ledger row: UUIDv5 of the work it bills, never of an attempt, a time or an offset.
pub fn event_id(tenant: &TenantId, job: &JobId, custom_id: &CustomId, kind: EventKind, correction_seq: u32) -> Uuid {
    uuid_of(
        "event",
        &[
            tenant.as_str().as_bytes(),
            job.as_str().as_bytes(),
            custom_id.as_str().as_bytes(),
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
#[derive(Debug, Clone, PartialEq)]
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
