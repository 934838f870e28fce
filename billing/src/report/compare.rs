//! One ledger row against the row that its result makes.

use std::fmt::{self, Display, Write};

use jiff::Timestamp;
use schemas::billing::{BillingRow, EventKind, event_id, repeat_event_id};
use schemas::result::Status;
use sha2::{Digest, Sha256};

use crate::event::{nonbillable_reason, payload_hash};

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

/// Hash of every field that follows from the result alone, the same on both sides.
pub(crate) fn fingerprint(row: &BillingRow) -> [u8; 16] {
    struct Sink(Sha256);
    impl Write for Sink {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text);
            Ok(())
        }
    }
    let mut sink = Sink(Sha256::new());
    fields(row, &mut |_, value| {
        write!(sink, "{value}\u{1f}").expect("a hash takes any text")
    });
    let mut half = [0; 16];
    half.copy_from_slice(&sink.0.finalize()[..16]);
    half
}

/// Whether the row's id, hash and charge follow from its own fields. An answered request must be charged,
/// under the id of its work; any other may be a repetition with an id of its own.
pub(crate) fn is_sound(row: &BillingRow) -> bool {
    let reason = nonbillable_reason(row.outcome, repeats(row));
    let id = if reason.is_some() && row.event_id == repeat_event_id(row.result_id) {
        row.event_id
    } else {
        event_id(&row.tenant_id, &row.job_id, &row.custom_id, EventKind::Usage, 0)
    };
    row.event_id == id
        && row.payload_hash == payload_hash(row)
        && row.billable == reason.is_none()
        && row.nonbillable_reason.as_deref() == reason
}

/// Whether the row says that the job has another row for its `custom_id`. Only a request without an
/// answer can be one: an answer was computed, so it is charged.
pub(crate) fn repeats(row: &BillingRow) -> bool {
    row.outcome != Status::Ok && row.outcome != Status::Duplicate && row.event_id == repeat_event_id(row.result_id)
}

/// What is different, field by field.
pub(crate) fn differences(expected: &BillingRow, found: &BillingRow) -> Vec<Difference> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    all_fields(expected, &mut |field, value| left.push((field, value.to_string())));
    all_fields(found, &mut |field, value| right.push((field, value.to_string())));
    let different = left.into_iter().zip(right).filter(|(left, right)| left != right);
    different
        .map(|((field, expected), (_, found))| Difference { field, expected, found })
        .collect()
}

fn all_fields(row: &BillingRow, take: &mut dyn FnMut(&'static str, &dyn Display)) {
    take("event_id", &row.event_id);
    take("payload_hash", &row.payload_hash);
    take("billable", &row.billable);
    take("nonbillable_reason", &text(&row.nonbillable_reason));
    fields(row, take);
}

fn fields(row: &BillingRow, take: &mut dyn FnMut(&'static str, &dyn Display)) {
    take("schema_version", &row.schema_version);
    take("event_kind", &row.event_kind.as_str());
    take("tenant_id", &row.tenant_id);
    take("project_id", &row.project_id);
    take("job_id", &row.job_id);
    take("custom_id", &row.custom_id);
    take("result_id", &row.result_id);
    take("event_time", &Micros(row.event_time));
    take("usage_period", &row.usage_period);
    take("region", &row.region);
    take("residency_zone", &row.residency_zone);
    take("model_id", &row.model_id);
    take("service_tier", &row.service_tier.as_str());
    take("input_uncached_tokens", &row.input_uncached_tokens);
    take("input_cached_tokens", &row.input_cached_tokens);
    take("output_tokens", &row.output_tokens);
    take("requests", &row.requests);
    take("outcome", &row.outcome.as_str());
    take("price_book_id", &row.price_book_id);
    take("price_version", &row.price_version);
    take("contract_version", &text(&row.contract_version));
    take("pricing_currency", &row.pricing_currency);
    take("billing_currency", &row.billing_currency);
    take("correction_seq", &row.correction_seq);
    take("kafka_topic", &row.position.topic);
    take("kafka_epoch", &row.position.epoch);
    take("kafka_partition", &row.position.partition);
    take("kafka_offset", &row.position.offset);
    take("batch_index", &row.batch_index);
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("null")
}

/// A time as the tables keep it.
struct Micros(Timestamp);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_microsecond(self.0.as_microsecond()) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}
