//! From a finished request to its ledger row.

mod common;

use billing::contract::Contracts;
use billing::event::{RateError, payload_hash, usage_row};
use billing::price_book::PriceBook;
use common::{CONTRACTS, PRICES, book, contracts, event, result};
use schemas::billing::{EventKind, event_id, repeat_event_id};
use schemas::result::{ResultRow, Status};

fn booked(result: &ResultRow, repeats: bool) -> schemas::billing::BillingRow {
    usage_row(
        result,
        repeats,
        &book(),
        &contracts(),
        "2026-11-24T02:00:00Z".parse().unwrap(),
    )
    .unwrap()
}

#[test]
fn an_answered_request_is_charged_at_the_pinned_versions() {
    let result = result("acme", 7);
    let row = booked(&result, false);
    let id = event_id(
        &result.tenant_id,
        &result.job_id,
        &result.custom_id,
        EventKind::Usage,
        0,
    );
    assert_eq!((row.event_id, row.result_id), (id, result.result_id));
    assert_eq!(
        (row.input_uncached_tokens, row.input_cached_tokens, row.output_tokens),
        (45, 16, 3)
    );
    assert_eq!((row.requests, row.billable, row.nonbillable_reason), (1, true, None));
    assert_eq!(
        (row.usage_period.as_str(), row.event_time),
        ("2026-11", result.finished_at)
    );
    assert_eq!(
        (row.price_book_id.as_str(), row.price_version.as_str()),
        ("public", "2026-01-01.1")
    );
    assert_eq!(row.contract_version.as_deref(), Some("acme-2026.1"));
    assert_eq!(
        (row.pricing_currency.as_str(), row.billing_currency.as_str()),
        ("EUR", "EUR")
    );
}

#[test]
fn a_tenant_without_a_contract_is_served_at_list_in_the_default_currency() {
    let row = booked(&result("stranger", 7), false);
    assert_eq!(
        (row.contract_version, row.billing_currency.as_str(), row.billable),
        (None, "EUR", true)
    );
}

#[test]
fn what_was_not_answered_is_not_charged_and_says_why() {
    for (status, reason) in [
        (Status::Error, "request_failed"),
        (Status::Expired, "deadline_passed"),
        (Status::Cancelled, "job_cancelled"),
        (Status::Duplicate, "delivered_before"),
    ] {
        let row = booked(
            &ResultRow {
                status,
                ..result("acme", 7)
            },
            false,
        );
        assert_eq!(
            (row.billable, row.nonbillable_reason.as_deref(), row.outcome),
            (false, Some(reason), status)
        );
    }
    let row = booked(&result("acme", 7), true);
    assert_eq!(
        (row.billable, row.nonbillable_reason.as_deref()),
        (false, Some("custom_id_used_before"))
    );
}

#[test]
fn a_repeated_delivery_has_an_id_of_its_own() {
    let first = result("acme", 7);
    let again = ResultRow {
        custom_id: first.custom_id.clone(),
        ..result("acme", 8)
    };
    assert_eq!(booked(&again, false).event_id, booked(&first, false).event_id);
    assert_eq!(booked(&again, true).event_id, repeat_event_id(again.result_id));
    let duplicate = ResultRow {
        status: Status::Duplicate,
        ..again
    };
    assert_eq!(booked(&duplicate, false).event_id, repeat_event_id(duplicate.result_id));
}

#[test]
fn a_second_attempt_has_the_same_id_and_hash_and_other_work_another_hash() {
    let first = event(&result("acme", 7));
    let mut attempt = result("acme", 7);
    attempt.worker_id = "worker-1".into();
    attempt.finished_at = "2026-11-24T05:00:00Z".parse().unwrap();
    let second = event(&attempt);
    assert_eq!(
        (first.event_id, &first.payload_hash),
        (second.event_id, &second.payload_hash)
    );
    assert_eq!(payload_hash(&second), second.payload_hash);

    let mut other = result("acme", 7);
    other.output_tokens += 1;
    let other = event(&other);
    assert_eq!(first.event_id, other.event_id);
    assert_ne!(first.payload_hash, other.payload_hash);
}

/// Ids and hashes are in customers' tables for ever: this test must never be changed. The values were made
/// with Python's `uuid` and `hashlib` from the definitions, not with this code.
#[test]
fn ids_and_hashes_never_change() {
    let row = event(&result("acme", 7));
    assert_eq!(row.result_id.to_string(), "e74961db-bc33-547f-8c7d-079ffe4d5c09");
    assert_eq!(row.event_id.to_string(), "2fc8f0e3-9351-5dc2-8256-0f4e54d35777");
    assert_eq!(
        repeat_event_id(row.result_id).to_string(),
        "7153f59f-64fd-5055-bc05-2f7a21009195"
    );
    assert_eq!(
        row.payload_hash,
        "8560cae9a67be16fc0d9eecb7b74696a9c03147e39d5bed2f0c8ab20b3c70536"
    );
}

#[test]
fn a_row_takes_the_versions_of_its_own_moment() {
    let later = PRICES
        .replace("2026-01-01.1", "2026-12-01.1")
        .replace("2020-01-01", "2026-12-01");
    let book = book().with(&later, "later.toml").unwrap();
    let renewed = CONTRACTS
        .replacen("acme-2026.1", "acme-2026.2", 1)
        .replacen("2020-01-01", "2026-12-01", 1);
    let contracts = Contracts::parse(&renewed, "contracts.toml").unwrap();
    for (time, period, price, contract) in [
        ("2026-11-30T23:59:59.999999Z", "2026-11", "2026-01-01.1", None),
        ("2026-12-01T00:00:00Z", "2026-12", "2026-12-01.1", Some("acme-2026.2")),
    ] {
        let result = ResultRow {
            finished_at: time.parse().unwrap(),
            ..result("acme", 7)
        };
        let row = usage_row(&result, false, &book, &contracts, result.finished_at).unwrap();
        assert_eq!((row.usage_period.as_str(), row.price_version.as_str()), (period, price));
        assert_eq!(row.contract_version.as_deref(), contract);
    }
}

#[test]
fn what_cannot_be_booked_is_said() {
    let mut early = result("acme", 7);
    early.finished_at = "2019-12-31T23:59:59Z".parse().unwrap();
    let error = usage_row(&early, false, &book(), &contracts(), early.finished_at).unwrap_err();
    assert_eq!(
        error.to_string(),
        "price book public has no version in force at 2019-12-31T23:59:59Z; add one that begins no later"
    );
    let mut absurd = result("acme", 7);
    absurd.cached_tokens = 62;
    let error = usage_row(&absurd, false, &book(), &contracts(), absurd.finished_at).unwrap_err();
    assert!(
        matches!(
            error,
            RateError::Tokens {
                cached: 62,
                input: 61,
                ..
            }
        ),
        "{error}"
    );

    let euros: String = PRICES
        .lines()
        .filter(|line| !line.starts_with("currency.USD"))
        .map(|l| format!("{l}\n"))
        .collect();
    let book = PriceBook::parse(&euros, "prices.toml").unwrap();
    let error = contracts().check(&book).unwrap_err();
    assert_eq!(
        error.to_string(),
        "contracts.toml:43: globex is billed in USD, but version 2026-01-01.1 of price book public has no prices in it; \
         add them there"
    );
    let globex = result("globex", 7);
    let error = usage_row(&globex, false, &book, &contracts(), globex.finished_at).unwrap_err();
    assert!(matches!(error, RateError::Currency { .. }), "{error}");
    contracts().check(&common::book()).unwrap();
}
