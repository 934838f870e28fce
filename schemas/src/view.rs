//! Rows of both tables where they lie: a view borrows its texts from the columns of a batch.
//!
//! What goes over millions of rows reads views, and allocates nothing for a row.

use arrow::array::{BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use jiff::Timestamp;
use uuid::Uuid;

use crate::billing::{self, BillingRow, EventKind};
use crate::columns::{ReadError, Typed, optional, value};
use crate::request::ServiceTier;
use crate::result::{self, ResultRow, Status};

/// A [`BillingRow`] that lies elsewhere, but for its `model_digest` and `correction_reason`. Names are not
/// checked to be ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of BillingRow")]
pub struct EventView<'a> {
    pub event_id: Uuid,
    pub payload_hash: &'a str,
    pub schema_version: i32,
    pub event_kind: EventKind,
    pub tenant_id: &'a str,
    pub project_id: &'a str,
    pub api_key_ref: Option<&'a str>,
    pub job_id: &'a str,
    pub custom_id: &'a str,
    pub result_id: Uuid,
    pub event_time: Timestamp,
    pub ingested_at: Timestamp,
    pub usage_period: &'a str,
    pub region: &'a str,
    pub residency_zone: &'a str,
    pub model_id: &'a str,
    pub service_tier: ServiceTier,
    pub input_uncached_tokens: i64,
    pub input_cached_tokens: i64,
    pub output_tokens: i64,
    pub requests: i64,
    pub outcome: Status,
    pub billable: bool,
    pub nonbillable_reason: Option<&'a str>,
    pub price_book_id: &'a str,
    pub price_version: &'a str,
    pub contract_version: Option<&'a str>,
    pub pricing_currency: &'a str,
    pub billing_currency: &'a str,
    pub corrects_event_id: Option<Uuid>,
    pub correction_seq: i32,
    pub kafka: PositionView<'a>,
}

/// Where a request stood: its message's [`crate::ids::Position`], and its place in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the tables")]
pub struct PositionView<'a> {
    pub topic: &'a str,
    pub epoch: u32,
    pub partition: i32,
    pub offset: i64,
    pub batch_index: u32,
}

/// What billing needs of a [`ResultRow`] that lies elsewhere. Names are not checked to be ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of ResultRow")]
pub struct ResultView<'a> {
    pub job_id: &'a str,
    pub custom_id: &'a str,
    pub result_id: Uuid,
    pub tenant_id: &'a str,
    pub project_id: &'a str,
    pub residency_zone: &'a str,
    pub region: &'a str,
    pub model_id: &'a str,
    pub service_tier: ServiceTier,
    pub status: Status,
    pub input_tokens: i64,
    pub cached_tokens: i64,
    pub output_tokens: i64,
    pub finished_at: Timestamp,
    pub kafka: PositionView<'a>,
}

impl BillingRow {
    /// The row as a view.
    pub fn view(&self) -> EventView<'_> {
        EventView {
            event_id: self.event_id,
            payload_hash: &self.payload_hash,
            schema_version: self.schema_version,
            event_kind: self.event_kind,
            tenant_id: self.tenant_id.as_str(),
            project_id: self.project_id.as_str(),
            api_key_ref: self.api_key_ref.as_deref(),
            job_id: self.job_id.as_str(),
            custom_id: self.custom_id.as_str(),
            result_id: self.result_id,
            event_time: self.event_time,
            ingested_at: self.ingested_at,
            usage_period: &self.usage_period,
            region: &self.region,
            residency_zone: &self.residency_zone,
            model_id: &self.model_id,
            service_tier: self.service_tier,
            input_uncached_tokens: self.input_uncached_tokens,
            input_cached_tokens: self.input_cached_tokens,
            output_tokens: self.output_tokens,
            requests: self.requests,
            outcome: self.outcome,
            billable: self.billable,
            nonbillable_reason: self.nonbillable_reason.as_deref(),
            price_book_id: &self.price_book_id,
            price_version: &self.price_version,
            contract_version: self.contract_version.as_deref(),
            pricing_currency: &self.pricing_currency,
            billing_currency: &self.billing_currency,
            corrects_event_id: self.corrects_event_id,
            correction_seq: self.correction_seq,
            kafka: PositionView {
                topic: &self.position.topic,
                epoch: self.position.epoch,
                partition: self.position.partition,
                offset: self.position.offset,
                batch_index: self.batch_index,
            },
        }
    }
}

impl ResultRow {
    /// The row as a view.
    pub fn view(&self) -> ResultView<'_> {
        ResultView {
            job_id: self.job_id.as_str(),
            custom_id: self.custom_id.as_str(),
            result_id: self.result_id,
            tenant_id: self.tenant_id.as_str(),
            project_id: self.project_id.as_str(),
            residency_zone: &self.residency_zone,
            region: &self.region,
            model_id: &self.model_id,
            service_tier: self.service_tier,
            status: self.status,
            input_tokens: self.input_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            finished_at: self.finished_at,
            kafka: PositionView {
                topic: &self.position.topic,
                epoch: self.position.epoch,
                partition: self.position.partition,
                offset: self.position.offset,
                batch_index: self.batch_index,
            },
        }
    }
}

/// The columns of a batch of `billing_events`.
#[derive(Debug)]
pub struct EventColumns {
    event_id: StringArray,
    payload_hash: StringArray,
    schema_version: Int32Array,
    event_kind: StringArray,
    tenant_id: StringArray,
    project_id: StringArray,
    api_key_ref: StringArray,
    job_id: StringArray,
    custom_id: StringArray,
    result_id: StringArray,
    event_time: TimestampMicrosecondArray,
    ingested_at: TimestampMicrosecondArray,
    usage_period: StringArray,
    region: StringArray,
    residency_zone: StringArray,
    model_id: StringArray,
    service_tier: StringArray,
    input_uncached_tokens: Int64Array,
    input_cached_tokens: Int64Array,
    output_tokens: Int64Array,
    requests: Int64Array,
    outcome: StringArray,
    billable: BooleanArray,
    nonbillable_reason: StringArray,
    price_book_id: StringArray,
    price_version: StringArray,
    contract_version: StringArray,
    pricing_currency: StringArray,
    billing_currency: StringArray,
    corrects_event_id: StringArray,
    correction_seq: Int32Array,
    kafka: PositionColumns,
}

impl EventColumns {
    /// The columns that a view shows.
    pub fn names() -> Vec<&'static str> {
        let names = billing::read_schema()
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        names
            .filter(|name| !["model_digest", "correction_reason"].contains(name))
            .collect()
    }

    /// Finds the columns by name. Optional columns may be left out, and read as none.
    pub fn of(batch: &RecordBatch) -> Result<Self, ReadError> {
        let table = Typed {
            batch,
            schema: billing::read_schema(),
        };
        Ok(EventColumns {
            event_id: table.texts("event_id")?,
            payload_hash: table.texts("payload_hash")?,
            schema_version: table.numbers("schema_version")?,
            event_kind: table.texts("event_kind")?,
            tenant_id: table.texts("tenant_id")?,
            project_id: table.texts("project_id")?,
            api_key_ref: table.texts("api_key_ref")?,
            job_id: table.texts("job_id")?,
            custom_id: table.texts("custom_id")?,
            result_id: table.texts("result_id")?,
            event_time: table.numbers("event_time")?,
            ingested_at: table.numbers("ingested_at")?,
            usage_period: table.texts(billing::PARTITION_COLUMN)?,
            region: table.texts("region")?,
            residency_zone: table.texts("residency_zone")?,
            model_id: table.texts("model_id")?,
            service_tier: table.texts("service_tier")?,
            input_uncached_tokens: table.numbers("input_uncached_tokens")?,
            input_cached_tokens: table.numbers("input_cached_tokens")?,
            output_tokens: table.numbers("output_tokens")?,
            requests: table.numbers("requests")?,
            outcome: table.texts("outcome")?,
            billable: table.booleans("billable")?,
            nonbillable_reason: table.texts("nonbillable_reason")?,
            price_book_id: table.texts("price_book_id")?,
            price_version: table.texts("price_version")?,
            contract_version: table.texts("contract_version")?,
            pricing_currency: table.texts("pricing_currency")?,
            billing_currency: table.texts("billing_currency")?,
            corrects_event_id: table.texts("corrects_event_id")?,
            correction_seq: table.numbers("correction_seq")?,
            kafka: PositionColumns::of(&table)?,
        })
    }

    /// One row of the batch.
    pub fn view(&self, row: usize) -> Result<EventView<'_>, ReadError> {
        let parsed = |column, text: Option<&str>| text.map(|text| value(row, column, text.parse())).transpose();
        Ok(EventView {
            event_id: value(row, "event_id", self.event_id.value(row).parse())?,
            payload_hash: self.payload_hash.value(row),
            schema_version: self.schema_version.value(row),
            event_kind: value(row, "event_kind", self.event_kind.value(row).parse())?,
            tenant_id: self.tenant_id.value(row),
            project_id: self.project_id.value(row),
            api_key_ref: optional(&self.api_key_ref, row),
            job_id: self.job_id.value(row),
            custom_id: self.custom_id.value(row),
            result_id: value(row, "result_id", self.result_id.value(row).parse())?,
            event_time: time(row, "event_time", &self.event_time)?,
            ingested_at: time(row, "ingested_at", &self.ingested_at)?,
            usage_period: self.usage_period.value(row),
            region: self.region.value(row),
            residency_zone: self.residency_zone.value(row),
            model_id: self.model_id.value(row),
            service_tier: value(row, "service_tier", self.service_tier.value(row).parse())?,
            input_uncached_tokens: self.input_uncached_tokens.value(row),
            input_cached_tokens: self.input_cached_tokens.value(row),
            output_tokens: self.output_tokens.value(row),
            requests: self.requests.value(row),
            outcome: value(row, "outcome", self.outcome.value(row).parse())?,
            billable: self.billable.value(row),
            nonbillable_reason: optional(&self.nonbillable_reason, row),
            price_book_id: self.price_book_id.value(row),
            price_version: self.price_version.value(row),
            contract_version: optional(&self.contract_version, row),
            pricing_currency: self.pricing_currency.value(row),
            billing_currency: self.billing_currency.value(row),
            corrects_event_id: parsed("corrects_event_id", optional(&self.corrects_event_id, row))?,
            correction_seq: self.correction_seq.value(row),
            kafka: self.kafka.view(row)?,
        })
    }
}

/// The columns of a batch of `results` that billing needs.
#[derive(Debug)]
pub struct ResultColumns {
    job_id: StringArray,
    custom_id: StringArray,
    result_id: StringArray,
    tenant_id: StringArray,
    project_id: StringArray,
    residency_zone: StringArray,
    region: StringArray,
    model_id: StringArray,
    service_tier: StringArray,
    status: StringArray,
    input_tokens: Int64Array,
    cached_tokens: Int64Array,
    output_tokens: Int64Array,
    finished_at: TimestampMicrosecondArray,
    kafka: PositionColumns,
}

impl ResultColumns {
    /// The columns that a view shows.
    pub const NAMES: [&'static str; 19] = [
        "job_id",
        "custom_id",
        "result_id",
        "tenant_id",
        "project_id",
        "residency_zone",
        "region",
        "model_id",
        "service_tier",
        "status",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "finished_at",
        "kafka_topic",
        "kafka_epoch",
        "kafka_partition",
        "kafka_offset",
        "batch_index",
    ];

    /// Finds the columns by name.
    pub fn of(batch: &RecordBatch) -> Result<Self, ReadError> {
        let table = Typed {
            batch,
            schema: result::read_schema(),
        };
        Ok(ResultColumns {
            job_id: table.texts("job_id")?,
            custom_id: table.texts("custom_id")?,
            result_id: table.texts("result_id")?,
            tenant_id: table.texts("tenant_id")?,
            project_id: table.texts("project_id")?,
            residency_zone: table.texts("residency_zone")?,
            region: table.texts("region")?,
            model_id: table.texts("model_id")?,
            service_tier: table.texts("service_tier")?,
            status: table.texts("status")?,
            input_tokens: table.numbers("input_tokens")?,
            cached_tokens: table.numbers("cached_tokens")?,
            output_tokens: table.numbers("output_tokens")?,
            finished_at: table.numbers("finished_at")?,
            kafka: PositionColumns::of(&table)?,
        })
    }

    /// One row of the batch.
    pub fn view(&self, row: usize) -> Result<ResultView<'_>, ReadError> {
        Ok(ResultView {
            job_id: self.job_id.value(row),
            custom_id: self.custom_id.value(row),
            result_id: value(row, "result_id", self.result_id.value(row).parse())?,
            tenant_id: self.tenant_id.value(row),
            project_id: self.project_id.value(row),
            residency_zone: self.residency_zone.value(row),
            region: self.region.value(row),
            model_id: self.model_id.value(row),
            service_tier: value(row, "service_tier", self.service_tier.value(row).parse())?,
            status: value(row, "status", self.status.value(row).parse())?,
            input_tokens: self.input_tokens.value(row),
            cached_tokens: self.cached_tokens.value(row),
            output_tokens: self.output_tokens.value(row),
            finished_at: time(row, "finished_at", &self.finished_at)?,
            kafka: self.kafka.view(row)?,
        })
    }
}

#[derive(Debug)]
struct PositionColumns {
    topic: StringArray,
    epoch: Int32Array,
    partition: Int32Array,
    offset: Int64Array,
    batch_index: Int32Array,
}

impl PositionColumns {
    fn of(table: &Typed<'_>) -> Result<Self, ReadError> {
        Ok(PositionColumns {
            topic: table.texts("kafka_topic")?,
            epoch: table.numbers("kafka_epoch")?,
            partition: table.numbers("kafka_partition")?,
            offset: table.numbers("kafka_offset")?,
            batch_index: table.numbers("batch_index")?,
        })
    }

    fn view(&self, row: usize) -> Result<PositionView<'_>, ReadError> {
        Ok(PositionView {
            topic: self.topic.value(row),
            epoch: value(row, "kafka_epoch", self.epoch.value(row).try_into())?,
            partition: self.partition.value(row),
            offset: self.offset.value(row),
            batch_index: value(row, "batch_index", self.batch_index.value(row).try_into())?,
        })
    }
}

fn time(row: usize, column: &'static str, times: &TimestampMicrosecondArray) -> Result<Timestamp, ReadError> {
    value(row, column, Timestamp::from_microsecond(times.value(row)))
}
