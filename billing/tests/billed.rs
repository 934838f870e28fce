//! What reports call billed is what invoices bill, whatever came late or was taken back.

mod common;

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::Sign;
use billing::correct::{Change, Correction, rows as correction_rows};
use billing::invoice::{CreditState, Invoice};
use billing::money::Money;
use billing::report::focus::{FocusVersion, Unbilled, cost_and_usage};
use billing::report::usage::{UsageReport, usage};
use billing::report::{InMemory, Invoiced, Invoices};
use common::closing::{book, booked, event, in_region, invoices, period, try_close};
use common::{REGIONS, Row, by_region, contracts, issuer, kept, lines, rows};
use proptest::prelude::*;
use schemas::billing::{BillingRow, to_batch};

const MONTHS: [&str; 3] = ["2026-10", "2026-11", "2026-12"];

/// The rows that each month's close finds: some of its own, some that came late, and corrections of both.
fn ledger() -> impl Strategy<Value = [Vec<BillingRow>; 3]> {
    let tenant = prop::sample::select(&["acme", "globex", "stranger"][..]);
    let model = prop::sample::select(&["debian-sections", "other"][..]);
    let change = prop_oneof![
        Just(None),
        Just(Some(Change::Reverse)),
        [0..90_i64, 0..90, 0..90].prop_map(|tokens| Some(Change::Replace(tokens))),
        [-50..90_i64, -50..90, -50..90].prop_map(|tokens| Some(Change::Adjust { tokens, number: 1 })),
    ];
    let tokens = [0..90_000_i64, 0..90_000, 0..9_000];
    let region = prop::sample::select(&REGIONS[..]);
    let one = (
        tenant,
        model,
        region,
        tokens,
        0..3_usize,
        0..3_usize,
        change,
        0..3_usize,
    );
    prop::collection::vec(one, 1..40).prop_map(|all| {
        let mut ledger: [Vec<BillingRow>; 3] = Default::default();
        for (n, (tenant, model, region, tokens, used, late, change, later)) in (0..).zip(all) {
            let row = in_region(event(tenant, n, MONTHS[used], model, tokens), region);
            let found = (used + late).min(2);
            if let Some(change) = change {
                let correction = Correction {
                    event_id: row.event_id,
                    change,
                    reason: "a test".to_owned(),
                };
                let rows = correction_rows(&row, &correction, row.ingested_at).unwrap();
                ledger[(found + later).min(2)].extend(rows);
            }
            ledger[found].push(row);
        }
        ledger
    })
}

type Billed = BTreeMap<[String; 4], Money>;

fn add(billed: &mut Billed, key: [&str; 4], amount: Money) {
    let sum = billed.entry(key.map(str::to_owned)).or_default();
    *sum = sum.plus(amount).unwrap();
}

fn by_invoices(invoices: &[Invoice]) -> Billed {
    let mut billed = Billed::new();
    for invoice in invoices {
        for line in &invoice.lines {
            let (month, sku) = (line.charge_period.to_string(), line.sku.as_ref().unwrap().to_string());
            let key = [invoice.tenant_id.as_str(), &month, invoice.currency.code(), &sku];
            add(&mut billed, key, line.amount);
        }
    }
    billed.retain(|_, amount| *amount != Money::ZERO);
    billed
}

fn by_report(report: &UsageReport<'_>) -> Billed {
    let mut billed = Billed::new();
    for line in lines(report) {
        let key = [
            line.tenant.as_str(),
            &line.period,
            line.currency.code(),
            &line.sku.to_string(),
        ];
        add(&mut billed, key, line.billed);
        assert_eq!(line.billed.rounded(line.currency), Ok(line.billed), "whole minor units");
    }
    billed.retain(|_, amount| *amount != Money::ZERO);
    billed
}

fn invoiced(issued: &[Invoice]) -> &'static Invoiced {
    let mut invoices = Invoices::default();
    issued
        .iter()
        .for_each(|invoice| invoices.add(invoice, &by_region()).unwrap());
    kept(invoices.finish())
}

/// What Cost and Usage says of some months' invoices, or of what is not invoiced.
fn focus(closed: &[(&str, &[Invoice])], unbilled: Option<&Unbilled<'_>>) -> Vec<Row> {
    let closed = closed
        .iter()
        .map(|(month, invoices)| (period(month), invoices.to_vec()));
    let (issuer, unbilled) = (issuer(closed), unbilled.copied());
    rows(cost_and_usage(
        &issuer,
        unbilled,
        FocusVersion::V1_2,
        &book(),
        &contracts(),
    ))
}

/// Σ of a column by others, where it is not nothing.
fn sums<const N: usize>(rows: &[Row], of: &str, by: [&str; N]) -> BTreeMap<[String; N], BigDecimal> {
    let mut sums: BTreeMap<[String; N], BigDecimal> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row[of].is_empty()) {
        *sums.entry(by.map(|column| row[column].clone())).or_default() += row[of].parse::<BigDecimal>().unwrap();
    }
    sums.retain(|_, sum| sum.sign() != Sign::NoSign);
    sums
}

/// Σ of `BilledCost` of what is not invoiced, by account, currency and the month that bills it.
fn by_focus(unbilled: &Unbilled<'_>) -> BTreeMap<[String; 3], BigDecimal> {
    let by = ["BillingAccountId", "BillingCurrency", "BillingPeriodStart"];
    sums(&focus(&[], Some(unbilled)), "BilledCost", by)
}

/// Usage as Cost and Usage tells it: all that is added up, by all that it is told apart by.
fn told(rows: &[Row]) -> [BTreeMap<[String; 7], BigDecimal>; 4] {
    let by = [
        "BillingAccountId",
        "BillingCurrency",
        "BillingPeriodStart",
        "ChargePeriodStart",
        "SkuId",
        "SkuPriceId",
        "RegionId",
    ];
    let usage: Vec<Row> = rows
        .iter()
        .filter(|row| row["ChargeCategory"] == "Usage")
        .cloned()
        .collect();
    ["ConsumedQuantity", "PricingQuantity", "ListCost", "ContractedCost"].map(|column| sums(&usage, column, by))
}

/// Tokens by tenant, month of use, model, class and region; packages are of no region.
fn tokens_by_region(tokens: impl Iterator<Item = ([String; 5], BigDecimal)>) -> BTreeMap<[String; 5], BigDecimal> {
    let mut sums: BTreeMap<[String; 5], BigDecimal> = BTreeMap::new();
    for (mut key, quantity) in tokens {
        if key[2] == "other" && key[3] == "cached input" {
            key[4].clear();
        }
        *sums.entry(key).or_default() += quantity;
    }
    sums.retain(|_, sum| sum.sign() != Sign::NoSign);
    sums
}

fn of_ledger(rows: &[BillingRow]) -> BTreeMap<[String; 5], BigDecimal> {
    tokens_by_region(rows.iter().flat_map(|row| {
        let classes = [
            ("input", row.input_uncached_tokens),
            ("cached input", row.input_cached_tokens),
            ("output", row.output_tokens),
        ];
        classes.map(|(class, tokens)| {
            let month = format!("{}-01T00:00:00Z", row.usage_period);
            let key = [row.tenant_id.as_str(), &month, &row.model_id, class, &row.region];
            (key.map(str::to_owned), tokens.into())
        })
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn open_months_are_told_as_their_close_will_bill_them(ledger in ledger()) {
        let (mut rows, mut issued, mut rated, mut of_closed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let filter = by_region();
        let mut closed_through = None;
        for (month, found) in MONTHS.into_iter().zip(&ledger) {
            rows.extend(found.iter().cloned());
            let table = InMemory(vec![to_batch(&rows).unwrap()]);
            let report = |invoiced| {
                usage(&table, kept(book()), kept(contracts()), invoiced, &filter).unwrap()
            };
            let before = invoiced(&issued);
            let open = report(before);
            let unbilled = Unbilled { report: &open, invoiced: before, closed_through, month: None };
            let (billed, of_open) = (by_focus(&unbilled), focus(&[], Some(&unbilled)));

            let closed = try_close(month, found, &rated, &booked(&issued)).unwrap();
            let (bills, _) = invoices(month, &closed.charges, &contracts(), &CreditState::default());
            let payable: BTreeMap<_, _> = bills
                .iter()
                .filter(|bill| bill.subtotal != Money::ZERO)
                .map(|bill| {
                    let key = [bill.tenant_id.to_string(), bill.currency.to_string(), format!("{month}-01T00:00:00Z")];
                    (key, bill.subtotal.to_string().parse::<BigDecimal>().unwrap())
                })
                .collect();
            prop_assert_eq!(&billed, &payable);
            let told_again = focus(&[(month, &bills)], None);
            prop_assert_eq!(told(&of_open), told(&told_again));
            of_closed.extend(told_again);
            let tokens = sums(&of_closed, "ConsumedQuantity", ["BillingAccountId", "ChargePeriodStart", "x_Model", "x_TokenType", "RegionId"]);
            prop_assert_eq!(tokens_by_region(tokens.into_iter()), of_ledger(&rows));
            rated.extend(closed.batches);
            issued.extend(bills.iter().cloned());
            prop_assert_eq!(by_report(&open), by_invoices(&issued));

            closed_through = Some(period(month));
            let after = invoiced(&issued);
            let closed = report(after);
            prop_assert_eq!(by_report(&closed), by_invoices(&issued));
            let unbilled = Unbilled { report: &closed, invoiced: after, closed_through, month: None };
            prop_assert_eq!(by_focus(&unbilled), BTreeMap::new());
        }
    }
}
