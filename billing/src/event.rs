//! From a finished request to its row of the ledger.

use jiff::Timestamp;
use schemas::billing::{BillingRow, EventKind, SCHEMA_VERSION, event_id, repeat_event_id};
use schemas::ids::TenantId;
use schemas::result::{ResultRow, Status};
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
        tenant: TenantId,
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
    let event_time = result.finished_at;
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
    let mut row = BillingRow {
        event_id: match repeats || result.status == Status::Duplicate {
            true => repeat_event_id(result.result_id),
            false => event_id(
                &result.tenant_id,
                &result.job_id,
                &result.custom_id,
                EventKind::Usage,
                0,
            ),
        },
        payload_hash: String::new(),
        schema_version: SCHEMA_VERSION,
        event_kind: EventKind::Usage,
        tenant_id: result.tenant_id.clone(),
        project_id: result.project_id.clone(),
        api_key_ref: None,
        job_id: result.job_id.clone(),
        custom_id: result.custom_id.clone(),
        result_id: result.result_id,
        event_time,
        ingested_at,
        usage_period: usage_period(event_time),
        region: result.region.clone(),
        residency_zone: result.residency_zone.clone(),
        model_id: result.model_id.clone(),
        model_digest: result.model_digest.clone(),
        service_tier: result.service_tier,
        input_uncached_tokens: input - cached,
        input_cached_tokens: cached,
        output_tokens: output,
        requests: 1,
        outcome: result.status,
        billable: reason.is_none(),
        nonbillable_reason: reason.map(str::to_owned),
        price_book_id: book.id.clone(),
        price_version: version.version.clone(),
        contract_version: contract.map(|contract| contract.version.clone()),
        pricing_currency: currency.code().to_owned(),
        billing_currency: currency.code().to_owned(),
        corrects_event_id: None,
        correction_seq: 0,
        correction_reason: None,
        position: result.position.clone(),
        batch_index: result.batch_index,
    };
    row.payload_hash = payload_hash(&row);
    Ok(row)
}

/// The versions that price the moment at which the request ended, and the currency they are in.
fn terms<'a>(
    result: &ResultRow,
    book: &'a PriceBook,
    contracts: &'a Contracts,
) -> Result<(&'a PriceVersion, Option<&'a Contract>, Currency), RateError> {
    let time = result.finished_at;
    let version = book.at(time).ok_or_else(|| RateError::NoVersion {
        book: book.id.clone(),
        time,
    })?;
    let contract = contracts.at(&result.tenant_id, time);
    let currency = contract.map_or(version.default_currency, |contract| contract.currency);
    if !version.currencies.contains(&currency) {
        let (tenant, version) = (result.tenant_id.clone(), version.version.clone());
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
    let corrects = row.corrects_event_id.map(|id| id.to_string()).unwrap_or_default();
    let fields: [&str; 24] = [
        &row.schema_version.to_string(),
        row.event_kind.as_str(),
        row.tenant_id.as_str(),
        row.project_id.as_str(),
        row.api_key_ref.as_deref().unwrap_or_default(),
        row.job_id.as_str(),
        row.custom_id.as_str(),
        &row.usage_period,
        &row.model_id,
        row.service_tier.as_str(),
        &row.input_uncached_tokens.to_string(),
        &row.input_cached_tokens.to_string(),
        &row.output_tokens.to_string(),
        &row.requests.to_string(),
        row.outcome.as_str(),
        if row.billable { "true" } else { "false" },
        row.nonbillable_reason.as_deref().unwrap_or_default(),
        &row.price_book_id,
        &row.price_version,
        row.contract_version.as_deref().unwrap_or_default(),
        &row.pricing_currency,
        &row.billing_currency,
        &corrects,
        &row.correction_seq.to_string(),
    ];
    hex::encode(Sha256::digest(fields.join("\u{1f}")))
}
