//! What `focus-validator` does not see: costs that are doubled, rounded, or not their price times their
//! quantity.

mod common;

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use billing::contract::Contracts;
use billing::money::Money;
use billing::report::focus::{FocusVersion, Issuer, Unbilled, billing_periods, cost_and_usage, invoice_details};
use billing::report::render;
use billing::report::sheet::Sheet;
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{InMemory, Invoiced};
use common::{book, contracts, event, result};
use schemas::billing as events;
use schemas::result::ResultRow;

/// A month in which acme's output passes a step of its own price, and not the list price's.
fn report() -> UsageReport {
    let rows: Vec<_> = (0..900)
        .map(|n| {
            event(&ResultRow {
                input_tokens: 70_001 + 37 * n,
                output_tokens: 1_300_007 + 101 * n,
                ..result(["acme", "globex", "stranger"][n as usize % 3], n)
            })
        })
        .collect();
    let table = InMemory(vec![events::to_batch(&rows).unwrap()]);
    usage(&table, &book(), &contracts(), &Invoiced::default(), &Filter::default()).unwrap()
}

fn open() -> Issuer {
    Issuer {
        name: "BitNet".to_owned(),
        closed: BTreeMap::new(),
    }
}

type Row = BTreeMap<String, String>;

fn rows(sheet: Sheet<'_>) -> Vec<Row> {
    let mut file = Vec::new();
    render::csv(sheet, &mut file).unwrap();
    let mut reader = csv::Reader::from_reader(file.as_slice());
    reader.deserialize().map(Result::unwrap).collect()
}

fn focus(report: &UsageReport, version: FocusVersion, contracts: &Contracts) -> Vec<Row> {
    let issuer = open();
    let unbilled = Unbilled {
        report,
        invoiced: &Invoiced::default(),
        closed_through: None,
        month: None,
    };
    rows(cost_and_usage(&issuer, Some(&unbilled), version, &book(), contracts).unwrap())
}

fn decimal(row: &Row, column: &str) -> BigDecimal {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column}: {:?}", row[column]))
}

#[test]
fn each_cost_is_its_unit_price_times_its_quantity_to_the_last_digit() {
    let rows = focus(&report(), FocusVersion::V1_2, &contracts());
    let usage: Vec<_> = rows.iter().filter(|row| row["ChargeCategory"] == "Usage").collect();
    for row in &usage {
        let quantity = decimal(row, "PricingQuantity");
        assert_eq!(
            decimal(row, "ListCost"),
            decimal(row, "ListUnitPrice") * &quantity,
            "{row:?}"
        );
        assert_eq!(
            decimal(row, "ContractedCost"),
            decimal(row, "ContractedUnitPrice") * &quantity,
            "{row:?}"
        );
        assert_eq!(
            decimal(row, "ConsumedQuantity"),
            quantity * BigDecimal::from(1_000_000),
            "{row:?}"
        );
    }
    // acme's output is cut where its own price steps, although its list price does not.
    let output = |row: &&&Row| row["BillingAccountId"] == "acme" && row["x_TokenType"] == "output";
    let prices: Vec<_> = usage
        .iter()
        .filter(output)
        .map(|row| row["ContractedUnitPrice"].as_str())
        .collect();
    assert_eq!(prices, ["5", "4"]);
}

#[test]
fn no_cost_is_counted_twice_and_billed_costs_are_the_invoice() {
    let report = report();
    let rows = focus(&report, FocusVersion::V1_4, &contracts());
    let mut sums: BTreeMap<(&str, &str), BigDecimal> = BTreeMap::new();
    for row in &rows {
        let key = (row["BillingAccountId"].as_str(), row["BillingCurrency"].as_str());
        *sums.entry(key).or_default() += decimal(row, "BilledCost");
    }
    assert_eq!(sums.len(), report.totals.len());
    for total in &report.totals {
        let key = (total.tenant.as_str(), total.currency.unwrap().code());
        assert_eq!(
            sums[&key],
            total.billed.to_string().parse::<BigDecimal>().unwrap(),
            "{key:?}"
        );
    }
    let list: BigDecimal = rows
        .iter()
        .filter(|row| row["ChargeCategory"] == "Usage")
        .map(|row| decimal(row, "ListCost"))
        .sum();
    let expected = Money::sum(report.totals.iter().map(|total| total.list)).unwrap();
    assert_eq!(list, expected.to_string().parse::<BigDecimal>().unwrap());
    let quantity: BigDecimal = rows
        .iter()
        .filter_map(|row| row["ConsumedQuantity"].parse::<BigDecimal>().ok())
        .sum();
    assert_eq!(
        quantity,
        BigDecimal::from(report.lines.iter().map(|line| line.quantity).sum::<i64>())
    );
    let adjustments = rows.iter().filter(|row| row["ChargeCategory"] == "Adjustment").count();
    assert_eq!(adjustments, 3, "one a tenant");
}

#[test]
fn each_version_has_its_columns_and_its_times() {
    let report = report();
    let (old, new) = (
        focus(&report, FocusVersion::V1_2, &contracts()),
        focus(&report, FocusVersion::V1_4, &contracts()),
    );
    assert_eq!(old.len(), new.len());
    for (column, in_old, in_new) in [
        ("ProviderName", true, false),
        ("PublisherName", true, false),
        ("HostProviderName", false, true),
        ("ServiceProviderName", false, true),
        ("InvoiceDetailId", false, true),
        ("x_PriceVersion", true, true),
    ] {
        assert_eq!(
            (old[0].contains_key(column), new[0].contains_key(column)),
            (in_old, in_new),
            "{column}"
        );
    }
    assert_eq!(old[0]["BillingPeriodStart"], "2026-11-01T00:00:00Z");
    assert_eq!(old[0]["BillingPeriodEnd"], "2026-12-01T00:00:00Z");
    assert_eq!(old[0]["SkuPriceId"], "debian-sections/batch/input/EUR/1");
    assert_eq!(old[0]["InvoiceId"], "", "an open month has no invoice");
    let issuer = open();
    let periods = rows(billing_periods(["2026-11".parse().unwrap()], &issuer));
    assert_eq!(periods.len(), 1);
    assert_eq!(periods[0]["BillingPeriodStatus"], "Open");
    assert!(rows(invoice_details(&issuer)).is_empty());
}

/// FOCUS 1.2, `specification/columns/`: those whose feature level is Mandatory.
const MANDATORY: [&str; 21] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
];

#[test]
fn mandatory_columns_are_there_and_no_row_has_one_region() {
    let rows = focus(&report(), FocusVersion::V1_2, &contracts());
    for column in MANDATORY {
        assert!(rows[0].contains_key(column), "{column}");
    }
    let has_region = |row: &Row| !row["RegionId"].is_empty() || !row["RegionName"].is_empty();
    assert!(!rows.iter().any(has_region));
}
