//! What the tests rate with: the example files, and rows of `results`.

#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod closing;

use std::collections::BTreeMap;

use billing::contract::Contracts;
use billing::event::usage_row;
use billing::invoice::Invoice;
use billing::period::Period;
use billing::price_book::PriceBook;
use billing::report::focus::{Issuer, ReadInvoices};
use billing::report::sheet::Sheet;
use billing::report::usage::{Filter, UsageReport};
use billing::report::{By, Line, render};
use schemas::billing::BillingRow;
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

pub(crate) const PRICES: &str = include_str!("../../../config/prices.toml");
pub(crate) const CONTRACTS: &str = include_str!("../../../config/contracts.toml");

/// Where the tests' requests are computed.
pub(crate) const REGIONS: [&str; 2] = ["eu-central", "eu-north"];

/// Everything, told apart by region.
pub(crate) fn by_region() -> Filter {
    Filter {
        by: By {
            region: true,
            ..By::default()
        },
        ..Filter::default()
    }
}

pub(crate) fn book() -> PriceBook {
    PriceBook::parse(PRICES, "prices.toml").unwrap()
}

pub(crate) fn contracts() -> Contracts {
    Contracts::parse(CONTRACTS, "contracts.toml").unwrap()
}

/// What a report is made with lives as long as the report, and in a test for ever.
pub(crate) fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// A seller with these closed months.
pub(crate) fn issuer(closed: impl IntoIterator<Item = (Period, Vec<Invoice>)>) -> Issuer<'static> {
    let closed = closed.into_iter().map(|(month, invoices)| {
        let read: ReadInvoices<'static> = Box::new(move || Ok(invoices.clone()));
        (month, read)
    });
    Issuer {
        name: "BitNet".to_owned(),
        closed: closed.collect(),
    }
}

/// One row of a CSV file, by column.
pub(crate) type Row = BTreeMap<String, String>;

/// The sheet as its CSV file has it.
pub(crate) fn rows(sheet: Sheet<'_>) -> Vec<Row> {
    let mut file = Vec::new();
    render::csv(sheet, &mut file).unwrap();
    let mut reader = csv::Reader::from_reader(file.as_slice());
    reader.deserialize().map(Result::unwrap).collect()
}

pub(crate) fn lines(report: &UsageReport<'_>) -> Vec<Line> {
    report.lines().collect::<Result<_, _>>().unwrap()
}

/// Request `n` of one job of `tenant`: answered, with 61 input tokens, 16 of them cached, and 3 written.
pub(crate) fn result(tenant: &str, n: i64) -> ResultRow {
    let position = Position {
        topic: "bitnet.requests.eu.bulk".into(),
        epoch: 1,
        partition: 0,
        offset: n,
    };
    ResultRow {
        job_id: format!("job-of-{tenant}").parse().unwrap(),
        batch_seq: 0,
        custom_id: format!("row-{n}").parse().unwrap(),
        result_id: result_id(&position, 0),
        tenant_id: tenant.parse().unwrap(),
        project_id: "search".parse().unwrap(),
        residency_zone: "eu".into(),
        region: "eu".into(),
        model_id: "debian-sections".into(),
        model_digest: Some("ab".repeat(32)),
        tokenizer_digest: None,
        endpoint: Endpoint::Completions,
        service_tier: ServiceTier::Batch,
        status: Status::Ok,
        error_code: None,
        error_message: None,
        finish_reason: Some("stop".into()),
        output_text: Some("libs".into()),
        response: None,
        embedding: None,
        scores: None,
        input_tokens: 61,
        cached_tokens: 16,
        output_tokens: 3,
        submitted_at: "2026-11-24T01:00:00Z".parse().unwrap(),
        admitted_at: None,
        first_token_at: None,
        finished_at: "2026-11-24T01:00:03Z".parse().unwrap(),
        worker_id: "worker-0".into(),
        position,
        batch_index: 0,
    }
}

/// acme's month of `docs/finance.md`: 1,001 requests of one kind, every third in another region.
pub(crate) fn worked_month() -> Vec<ResultRow> {
    let request = |n| ResultRow {
        region: REGIONS[usize::from(n % 3 == 0)].to_owned(),
        input_tokens: 61_000,
        cached_tokens: 16_000,
        output_tokens: 120_000,
        ..result("acme", n)
    };
    (0..1_001).map(request).collect()
}

/// The ledger row of `result`, made at the second it ended.
pub(crate) fn event(result: &ResultRow) -> BillingRow {
    usage_row(result, false, &book(), &contracts(), result.finished_at).unwrap()
}
