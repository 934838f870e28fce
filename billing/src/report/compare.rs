//! One ledger row against the row that its result makes.

use std::fmt::{self, Display};

use jiff::Timestamp;
use schemas::billing::{EventKind, event_id_of, repeat_event_id};
use schemas::result::Status;
use schemas::view::EventView;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::nonbillable_reason;

/// One field of a ledger row that is not what the result makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Column name.
    pub field: &'static str,
    /// What it must be.
    pub expected: String,
    /// What the ledger has.
    pub found: String,
}

/// Hash of every field that follows from the result alone, the same on both sides; `scratch` is overwritten.
pub(crate) fn fingerprint(row: &EventView<'_>, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    fields(row, &mut |_, value| value.write(scratch));
    let digest: [u8; 32] = Sha256::digest(&scratch).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Whether the row's id and charge follow from its own fields. An answered request must be charged, under
/// the id of its work; any other may be a repetition with an id of its own.
pub(crate) fn is_sound(row: &EventView<'_>) -> bool {
    let reason = nonbillable_reason(row.outcome, repeats(row));
    let of_work = || event_id_of(row.tenant_id, row.job_id, row.custom_id, EventKind::Usage, 0);
    row.billable == reason.is_none()
        && row.nonbillable_reason == reason
        && (reason.is_some() && row.event_id == repeat_event_id(row.result_id) || row.event_id == of_work())
}

/// Whether the row says that the job has another row for its `custom_id`. Only a request without an
/// answer can be one: an answer was computed, so it is charged.
pub(crate) fn repeats(row: &EventView<'_>) -> bool {
    row.outcome != Status::Ok && row.outcome != Status::Duplicate && row.event_id == repeat_event_id(row.result_id)
}

/// What is different, field by field.
pub(crate) fn differences(expected: &EventView<'_>, found: &EventView<'_>) -> Vec<Difference> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    all_fields(expected, &mut |field, value| left.push((field, value.to_string())));
    all_fields(found, &mut |field, value| right.push((field, value.to_string())));
    let different = left.into_iter().zip(right).filter(|(left, right)| left != right);
    different
        .map(|((field, expected), (_, found))| Difference { field, expected, found })
        .collect()
}

/// A value of a field.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Optional(Option<&'a str>),
    Number(i64),
    Flag(bool),
    Id(Uuid),
    Time(Timestamp),
}

fn all_fields<'a>(row: &EventView<'a>, take: &mut impl FnMut(&'static str, Value<'a>)) {
    take("event_id", Value::Id(row.event_id));
    take("payload_hash", Value::Text(row.payload_hash));
    take("billable", Value::Flag(row.billable));
    take("nonbillable_reason", Value::Optional(row.nonbillable_reason));
    fields(row, take);
}

fn fields<'a>(row: &EventView<'a>, take: &mut impl FnMut(&'static str, Value<'a>)) {
    use Value::{Id, Number, Optional, Text, Time};
    take("schema_version", Number(row.schema_version.into()));
    take("event_kind", Text(row.event_kind.as_str()));
    take("tenant_id", Text(row.tenant_id));
    take("project_id", Text(row.project_id));
    take("job_id", Text(row.job_id));
    take("custom_id", Text(row.custom_id));
    take("result_id", Id(row.result_id));
    take("event_time", Time(row.event_time));
    take("usage_period", Text(row.usage_period));
    take("region", Text(row.region));
    take("residency_zone", Text(row.residency_zone));
    take("model_id", Text(row.model_id));
    take("service_tier", Text(row.service_tier.as_str()));
    take("input_uncached_tokens", Number(row.input_uncached_tokens));
    take("input_cached_tokens", Number(row.input_cached_tokens));
    take("output_tokens", Number(row.output_tokens));
    take("requests", Number(row.requests));
    take("outcome", Text(row.outcome.as_str()));
    take("price_book_id", Text(row.price_book_id));
    take("price_version", Text(row.price_version));
    take("contract_version", Optional(row.contract_version));
    take("pricing_currency", Text(row.pricing_currency));
    take("billing_currency", Text(row.billing_currency));
    take("correction_seq", Number(row.correction_seq.into()));
    take("kafka_topic", Text(row.kafka.topic));
    take("kafka_epoch", Number(row.kafka.epoch.into()));
    take("kafka_partition", Number(row.kafka.partition.into()));
    take("kafka_offset", Number(row.kafka.offset));
    take("batch_index", Number(row.kafka.batch_index.into()));
}

impl Value<'_> {
    /// Bytes that differ where values do: 0xFF, which no text holds, stands behind a text.
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Optional(None) => out.push(0xfe),
            Value::Optional(Some(text)) => out.extend_from_slice(text.as_bytes()),
            Value::Number(number) => return out.extend_from_slice(&number.to_le_bytes()),
            Value::Flag(flag) => return out.push(flag.into()),
            Value::Id(id) => return out.extend_from_slice(id.as_bytes()),
            Value::Time(time) => return out.extend_from_slice(&time.as_microsecond().to_le_bytes()),
        }
        out.push(0xff);
    }
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Text(text) => f.write_str(text),
            Value::Optional(text) => f.write_str(text.unwrap_or("null")),
            Value::Number(number) => number.fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::Id(id) => id.fmt(f),
            // As the tables keep it.
            Value::Time(time) => match Timestamp::from_microsecond(time.as_microsecond()) {
                Ok(time) => time.fmt(f),
                Err(_) => time.fmt(f),
            },
        }
    }
}
