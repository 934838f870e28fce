//! From a finished request to its row of the ledger.

use std::io::Write;

use jiff::Timestamp;
use schemas::billing::{BillingRow, EventKind, SCHEMA_VERSION, event_id_of, repeat_event_id};
use schemas::result::{ResultRow, Status};
use schemas::view::{EventView, ResultView};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::contract::{Contract, Contracts};
use crate::money::Currency;
use crate::period::usage_period;
use crate::price_book::{PriceBook, PriceVersion};

/// Why a finished request cannot be booked. None of these can happen to a book and contracts that passed
/// [`Contracts::check`], a time after the book's first version, and counts that the engine made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The request ended before the first version begins.
    #[error("price book {book} has no version in force at {time}; add one that begins no later")]
    NoVersion {
        /// The book's id.
        book: String,
        /// When the request ended.
        time: Timestamp,
    },
    /// The contract's currency is not in the book.
    #[error("tenant {tenant} is billed in {currency}, but price version {version} has no prices in it; add them there")]
    Currency {
        /// Who.
        tenant: String,
        /// The contract's currency.
        currency: Currency,
        /// Version of the book.
        version: String,
    },
    /// Token counts that contradict one another.
    #[error("result {result_id}: {cached} cached of {input} input tokens and {output} output tokens cannot be")]
    Tokens {
        /// Which row of `results`.
        result_id: Uuid,
        /// `cached_tokens`.
        cached: i64,
        /// `input_tokens`.
        input: i64,
        /// `output_tokens`.
        output: i64,
    },
}

/// The ledger row of one row of `results`: tokens in classes that exclude one another, and the versions
/// of price book and contract that hold when the request ended, pinned for ever. Only an answered request
/// is billable; the others get rows too, with the reason.
///
/// `repeats` says that the tenant's job has a row for this `custom_id` already. As for
/// [`Status::Duplicate`], the row's id then names the delivery and not the work, and it is not billable.
pub fn usage_row(
    result: &ResultRow,
    repeats: bool,
    book: &PriceBook,
    contracts: &Contracts,
    ingested_at: Timestamp,
) -> Result<BillingRow, RateError> {
    let period = usage_period(result.finished_at);
    let row = usage_view(&result.view(), repeats, book, contracts, &period)?;
    Ok(BillingRow {
        event_id: row.event_id,
        payload_hash: hex::encode(payload_digest(&row, &mut Vec::new())),
        schema_version: row.schema_version,
        event_kind: row.event_kind,
        tenant_id: result.tenant_id.clone(),
        project_id: result.project_id.clone(),
        api_key_ref: None,
        job_id: result.job_id.clone(),
        custom_id: result.custom_id.clone(),
        result_id: result.result_id,
        event_time: row.event_time,
        ingested_at,
        region: result.region.clone(),
        residency_zone: result.residency_zone.clone(),
        model_id: result.model_id.clone(),
        model_digest: result.model_digest.clone(),
        service_tier: row.service_tier,
        input_uncached_tokens: row.input_uncached_tokens,
        input_cached_tokens: row.input_cached_tokens,
        output_tokens: row.output_tokens,
        requests: row.requests,
        outcome: row.outcome,
        billable: row.billable,
        nonbillable_reason: row.nonbillable_reason.map(str::to_owned),
        price_book_id: row.price_book_id.to_owned(),
        price_version: row.price_version.to_owned(),
        contract_version: row.contract_version.map(str::to_owned),
        pricing_currency: row.pricing_currency.to_owned(),
        billing_currency: row.billing_currency.to_owned(),
        usage_period: period,
        corrects_event_id: None,
        correction_seq: 0,
        correction_reason: None,
        position: result.position.clone(),
        batch_index: result.batch_index,
    })
}

/// As [`usage_row`], without a copy: `period` is [`usage_period`] of the result's `finished_at`, which is
/// also its `ingested_at`, and its `payload_hash` is left empty.
pub fn usage_view<'a>(
    result: &ResultView<'a>,
    repeats: bool,
    book: &'a PriceBook,
    contracts: &'a Contracts,
    period: &'a str,
) -> Result<EventView<'a>, RateError> {
    let (version, contract, currency) = terms(result, book, contracts)?;
    let (input, cached, output) = (result.input_tokens, result.cached_tokens, result.output_tokens);
    if cached < 0 || cached > input || output < 0 {
        return Err(RateError::Tokens {
            result_id: result.result_id,
            cached,
            input,
            output,
        });
    }
    let reason = nonbillable_reason(result.status, repeats);
    let (tenant, job, custom_id) = (result.tenant_id, result.job_id, result.custom_id);
    Ok(EventView {
        event_id: match repeats || result.status == Status::Duplicate {
            true => repeat_event_id(result.result_id),
            false => event_id_of(tenant, job, custom_id, EventKind::Usage, 0),
        },
        payload_hash: "",
        schema_version: SCHEMA_VERSION,
        event_kind: EventKind::Usage,
        tenant_id: tenant,
        project_id: result.project_id,
        api_key_ref: None,
        job_id: job,
        custom_id,
        result_id: result.result_id,
        event_time: result.finished_at,
        ingested_at: result.finished_at,
        usage_period: period,
        region: result.region,
        residency_zone: result.residency_zone,
        model_id: result.model_id,
        service_tier: result.service_tier,
        input_uncached_tokens: input - cached,
        input_cached_tokens: cached,
        output_tokens: output,
        requests: 1,
        outcome: result.status,
        billable: reason.is_none(),
        nonbillable_reason: reason,
        price_book_id: &book.id,
        price_version: &version.version,
        contract_version: contract.map(|contract| contract.version.as_str()),
        pricing_currency: currency.code(),
        billing_currency: currency.code(),
        corrects_event_id: None,
        correction_seq: 0,
        kafka: result.kafka,
    })
}

/// The versions that price the moment at which the request ended, and the currency they are in.
fn terms<'a>(
    result: &ResultView<'_>,
    book: &'a PriceBook,
    contracts: &'a Contracts,
) -> Result<(&'a PriceVersion, Option<&'a Contract>, Currency), RateError> {
    let time = result.finished_at;
    let version = book.at(time).ok_or_else(|| RateError::NoVersion {
        book: book.id.clone(),
        time,
    })?;
    let contract = contracts.at(result.tenant_id, time);
    let currency = contract.map_or(version.default_currency, |contract| contract.currency);
    if !version.currencies.contains(&currency) {
        let (tenant, version) = (result.tenant_id.to_owned(), version.version.clone());
        return Err(RateError::Currency {
            tenant,
            currency,
            version,
        });
    }
    Ok((version, contract, currency))
}

pub(crate) fn nonbillable_reason(status: Status, repeats: bool) -> Option<&'static str> {
    match status {
        Status::Duplicate => Some("delivered_before"),
        _ if repeats => Some("custom_id_used_before"),
        Status::Error => Some("request_failed"),
        Status::Expired => Some("deadline_passed"),
        Status::Cancelled => Some("job_cancelled"),
        Status::Ok => None,
    }
}

/// SHA-256 in hexadecimal of the fields that say what is charged to whom: joined by U+001F, which none of
/// them contains, an absent one as nothing. Where and when the work was done within its period is not
/// among them, so the same work delivered again has the same hash.
pub fn payload_hash(row: &BillingRow) -> String {
    hex::encode(payload_digest(&row.view(), &mut Vec::new()))
}

/// The bytes of [`payload_hash`]; `scratch` is overwritten.
pub fn payload_digest(row: &EventView<'_>, scratch: &mut Vec<u8>) -> [u8; 32] {
    scratch.clear();
    let mut corrects = Uuid::encode_buffer();
    let corrects = row
        .corrects_event_id
        .map(|id| id.hyphenated().encode_lower(&mut corrects));
    let out = &mut Joined(scratch);
    out.number(row.schema_version.into());
    out.text(row.event_kind.as_str());
    out.text(row.tenant_id);
    out.text(row.project_id);
    out.text(row.api_key_ref.unwrap_or_default());
    out.text(row.job_id);
    out.text(row.custom_id);
    out.text(row.usage_period);
    out.text(row.model_id);
    out.text(row.service_tier.as_str());
    out.number(row.input_uncached_tokens);
    out.number(row.input_cached_tokens);
    out.number(row.output_tokens);
    out.number(row.requests);
    out.text(row.outcome.as_str());
    out.text(if row.billable { "true" } else { "false" });
    out.text(row.nonbillable_reason.unwrap_or_default());
    out.text(row.price_book_id);
    out.text(row.price_version);
    out.text(row.contract_version.unwrap_or_default());
    out.text(row.pricing_currency);
    out.text(row.billing_currency);
    out.text(corrects.as_deref().unwrap_or_default());
    out.number(row.correction_seq.into());
    // Joined: nothing stands behind the last field.
    scratch.pop();
    Sha256::digest(&scratch).into()
}

/// Whether `text` is `digest` in lower-case hexadecimal.
pub(crate) fn is_hash(text: &str, digest: &[u8; 32]) -> bool {
    let mut hex = [0; 64];
    hex::encode_to_slice(digest, &mut hex).is_ok() && text.as_bytes() == hex
}

/// Fields with U+001F behind each.
struct Joined<'a>(&'a mut Vec<u8>);

impl Joined<'_> {
    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0x1f);
    }

    fn number(&mut self, number: i64) {
        write!(self.0, "{number}\u{1f}").expect("memory takes any text");
    }
}
