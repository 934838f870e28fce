//! What `focus-validator` does not see: costs that are doubled, rounded, or not their price times their
//! quantity.

mod common;

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use billing::contract::Contracts;
use billing::correct::{Change, Correction, rows as correction_rows};
use billing::invoice::{CreditState, Invoice};
use billing::money::Money;
use billing::period::Period;
use billing::report::focus::{
    FocusVersion, Issuer, Numbers, Unbilled, billing_periods, cost_and_usage, invoice_details,
};
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{InMemory, Invoiced};
use common::{REGIONS, Row, book, by_region, closing, contracts, event, issuer, kept, lines, result, rows};
use schemas::billing::{self as events, BillingRow};
use schemas::result::ResultRow;

/// A month in which acme's output passes a step of its own price, and not the list price's.
fn ledger() -> InMemory {
    let rows: Vec<_> = (0..900)
        .map(|n| {
            event(&ResultRow {
                region: REGIONS[usize::from(n % 4 == 0)].to_owned(),
                input_tokens: 70_001 + 37 * n,
                output_tokens: 1_300_007 + 101 * n,
                ..result(["acme", "globex", "stranger"][n as usize % 3], n)
            })
        })
        .collect();
    InMemory(vec![events::to_batch(&rows).unwrap()])
}

fn report_by(filter: &Filter) -> UsageReport<'static> {
    usage(
        &ledger(),
        kept(book()),
        kept(contracts()),
        kept(Invoiced::default()),
        filter,
    )
    .unwrap()
}

fn report() -> UsageReport<'static> {
    report_by(&by_region())
}

fn open() -> Issuer<'static> {
    issuer([])
}

fn focus(report: &UsageReport<'_>, version: FocusVersion, contracts: &Contracts) -> Vec<Row> {
    let unbilled = Unbilled {
        report,
        invoiced: &Invoiced::default(),
        closed_through: None,
        month: None,
    };
    rows(cost_and_usage(&open(), Some(unbilled), version, &book(), contracts))
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
    let prices = |region: &str| {
        let of_region = usage.iter().filter(output).filter(|row| row["RegionId"] == region);
        of_region
            .map(|row| row["ContractedUnitPrice"].as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(REGIONS.map(prices), [["5", "4"], ["5", "4"]]);
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
        BigDecimal::from(lines(&report).iter().map(|line| line.quantity).sum::<i64>())
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
    assert_eq!(old[0]["SkuPriceId"], "debian-sections/batch/input/1");
    assert_eq!(old[0]["InvoiceId"], "", "an open month has no invoice");
    let closed = [("2026-10".parse().unwrap(), "2026-11-04T00:00:00Z".parse().unwrap())].into();
    let periods = rows(billing_periods(["2026-11".parse().unwrap()], &closed, "BitNet"));
    let status: Vec<_> = periods.iter().map(|row| row["BillingPeriodStatus"].as_str()).collect();
    assert_eq!(status, ["Closed", "Open"]);
    assert_eq!(periods[0]["BillingPeriodLastUpdated"], "2026-11-04T00:00:00Z");
    assert!(rows(invoice_details(&open(), &Numbers::default())).is_empty());
}

#[test]
fn columns_of_focus_stand_in_front_of_ours() {
    let report = report();
    let (issuer, invoiced) = (open(), Invoiced::default());
    let unbilled = Unbilled {
        report: &report,
        invoiced: &invoiced,
        closed_through: None,
        month: None,
    };
    for version in [FocusVersion::V1_2, FocusVersion::V1_4] {
        let (book, contracts) = (book(), contracts());
        let sheet = cost_and_usage(&issuer, Some(unbilled), version, &book, &contracts);
        let is_ours: Vec<bool> = sheet
            .columns
            .iter()
            .map(|column| column.name.starts_with("x_"))
            .collect();
        assert!(is_ours.is_sorted(), "{:?}", sheet.columns);
        assert!(sheet.rows.into_iter().all(|row| row.unwrap().len() == is_ours.len()));
    }
}

/// Two closed months; the second takes back what the first one charged acme for.
fn two_months() -> [(Period, Vec<Invoice>); 2] {
    let october = [
        closing::event("acme", 1, "2026-10", "debian-sections", [170, 60, 333]),
        closing::event("stranger", 2, "2026-10", "debian-sections", [40, 0, 17]),
    ];
    let take_back = Correction {
        event_id: october[0].event_id,
        change: Change::Reverse,
        reason: "a test".to_owned(),
    };
    let mut november = vec![
        closing::event("acme", 3, "2026-11", "debian-sections", [20, 0, 7]),
        closing::event("globex", 4, "2026-10", "debian-sections", [9, 0, 7]),
    ];
    november.extend(correction_rows(&october[0], &take_back, november[0].ingested_at).unwrap());
    let (mut issued, mut rated, mut credits) = (Vec::new(), Vec::new(), CreditState::default());
    [("2026-10", &october[..]), ("2026-11", &november[..])].map(|(month, rows)| {
        let closed = closing::try_close(month, rows, &rated, &closing::booked(&issued)).unwrap();
        let (invoices, left) = closing::invoices(month, &closed.charges, &contracts(), &credits);
        rated.extend(closed.batches);
        issued.extend(invoices.iter().cloned());
        credits = left;
        (closing::period(month), invoices)
    })
}

#[test]
fn a_row_of_invoice_detail_is_a_line_and_names_the_invoice_that_it_corrects() {
    let months = two_months();
    let mut numbers = Numbers::default();
    let invoices: Vec<_> = months.iter().flat_map(|(_, invoices)| invoices).collect();
    invoices.iter().for_each(|invoice| numbers.add(invoice));
    let issuer = issuer(months.clone());
    let details = rows(invoice_details(&issuer, &numbers));
    for invoice in &invoices {
        let of_it: Vec<_> = details
            .iter()
            .filter(|row| row["InvoiceId"] == invoice.number)
            .collect();
        let billed: BigDecimal = of_it.iter().map(|row| decimal(row, "BilledCost")).sum();
        assert_eq!(billed, invoice.total.to_string().parse::<BigDecimal>().unwrap());
        for line in &invoice.lines {
            let id = line.external_id.to_string();
            let row = of_it.iter().find(|row| row["InvoiceDetailId"] == id).unwrap();
            let sku = line.sku.as_ref().unwrap();
            let grain: serde_json::Value = serde_json::from_str(&row["InvoiceDetailGrain"]).unwrap();
            assert_eq!(grain["SkuId"], sku.to_string());
            assert_eq!(grain["x_ChargePeriod"], line.charge_period.to_string());
            assert_eq!(row["x_Quantity"], line.quantity.to_string());
            assert_eq!(row["x_ListCost"], line.list.to_string());
            // October has no invoice of globex that its late line could correct.
            let corrects = line.charge_period < invoice.period && invoice.tenant_id.as_str() == "acme";
            let expected = if corrects { "2026-10-000001" } else { &invoice.number };
            assert_eq!(row["ReferenceInvoiceId"], expected, "{row:?}");
        }
    }
    let corrections = details
        .iter()
        .filter(|row| row["ReferenceInvoiceId"] != row["InvoiceId"]);
    assert_eq!(corrections.count(), 3, "input, cached input and output");

    // What Cost and Usage says of a line adds up to it, but for rounding, and every id is that of a row.
    let charged = rows(cost_and_usage(
        &issuer,
        None,
        FocusVersion::V1_4,
        &closing::book(),
        &contracts(),
    ));
    let mut exact: BTreeMap<(&str, &str), BigDecimal> = BTreeMap::new();
    for row in &charged {
        let key = (row["InvoiceId"].as_str(), row["InvoiceDetailId"].as_str());
        *exact.entry(key).or_default() += decimal(row, "BilledCost");
    }
    let rounding: BigDecimal = "0.1".parse().unwrap();
    for row in &details {
        let key = (row["InvoiceId"].as_str(), row["InvoiceDetailId"].as_str());
        let difference = exact.remove(&key).unwrap_or_default() - decimal(row, "BilledCost");
        assert!(difference.abs() < rounding, "{row:?}");
    }
    assert!(exact.is_empty(), "{exact:?}");
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
fn mandatory_columns_are_there_and_usage_has_a_region() {
    let rows = focus(&report(), FocusVersion::V1_2, &contracts());
    for column in MANDATORY {
        assert!(rows[0].contains_key(column), "{column}");
    }
    for row in &rows {
        let has_region = REGIONS.contains(&row["RegionId"].as_str());
        assert_eq!(has_region, row["ChargeCategory"] == "Usage", "{row:?}");
        assert_eq!(row["RegionName"], row["RegionId"]);
    }
}

#[test]
fn rows_of_all_regions_add_up_to_the_row_that_tells_none_apart() {
    const SUMMED: [&str; 6] = [
        "BilledCost",
        "ConsumedQuantity",
        "ContractedCost",
        "EffectiveCost",
        "ListCost",
        "PricingQuantity",
    ];
    let sums = |report: &UsageReport| {
        let mut sums: BTreeMap<Row, [BigDecimal; 6]> = BTreeMap::new();
        for mut row in focus(report, FocusVersion::V1_4, &contracts()) {
            let values = SUMMED.map(|column| {
                let value = row.remove(column).unwrap();
                value.parse::<BigDecimal>().unwrap_or_default()
            });
            row.retain(|column, _| !column.starts_with("Region"));
            let sum = sums.entry(row).or_default();
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let (by_region, whole) = (report(), report_by(&Filter::default()));
    assert!(by_region.line_count > whole.line_count);
    assert_eq!(sums(&by_region), sums(&whole));
}

#[test]
fn regions_share_the_steps_of_a_price_and_a_package_that_both_filled_is_of_neither() {
    let sold = [
        in_two_regions("other", [1, 2]),
        in_two_regions("debian-sections", [3, 4]),
    ]
    .concat();
    let closed = closing::close("2026-10", &sold);
    let (invoices, _) = closing::invoices("2026-10", &closed.charges, &contracts(), &CreditState::default());
    let rows = focus_of("2026-10", invoices);
    let regions = |sku: &str| {
        let of_sku = rows.iter().filter(|row| row["SkuId"] == sku);
        of_sku
            .map(|row| (row["RegionId"].as_str(), row["PricingQuantity"].as_str()))
            .collect::<Vec<_>>()
    };
    // 70 tokens in packages of 50.
    assert_eq!(regions("other/batch/cached_input"), [("", "2")]);
    // The volume says at which price all of them are.
    let input = [("eu-central", "0.00004"), ("eu-north", "0.00017")];
    assert_eq!(regions("other/batch/input"), input);
    // 350 tokens at two steps, of 100 and 250.
    let output = [
        ("eu-central", "0.000004"),
        ("eu-north", "0.000096"),
        ("eu-central", "0.000013"),
        ("eu-north", "0.000237"),
    ];
    assert_eq!(regions("debian-sections/batch/output"), output);
}

fn focus_of(month: &str, invoices: Vec<Invoice>) -> Vec<Row> {
    let issuer = issuer([(closing::period(month), invoices)]);
    rows(cost_and_usage(
        &issuer,
        None,
        FocusVersion::V1_2,
        &closing::book(),
        &contracts(),
    ))
}

/// Two requests of a tenant without a contract, in two regions.
fn in_two_regions(model: &str, [first, second]: [i64; 2]) -> [BillingRow; 2] {
    let one = |n, region: &str, tokens| {
        let row = closing::event("stranger", n, "2026-10", model, tokens);
        closing::in_region(row, region)
    };
    [
        one(first, "eu-north", [170, 60, 333]),
        one(second, "eu-central", [40, 10, 17]),
    ]
}

/// What is taken back in one region and comes late in another costs nothing, and is told.
#[test]
fn a_correction_is_told_by_region_though_it_adds_up_to_nothing() {
    let october = in_two_regions("debian-sections", [1, 2]);
    let closed = closing::close("2026-10", &october);
    let (issued, credits) = closing::invoices("2026-10", &closed.charges, &contracts(), &CreditState::default());
    let take_back = Correction {
        event_id: october[0].event_id,
        change: Change::Reverse,
        reason: "a test".to_owned(),
    };
    let now = "2026-11-05T00:00:00Z".parse().unwrap();
    let mut late = correction_rows(&october[0], &take_back, now).unwrap();
    let again = closing::event("stranger", 3, "2026-10", "debian-sections", [170, 60, 333]);
    late.push(closing::in_region(again, "eu-south"));
    let booked = closing::booked(&issued);
    let closed = closing::try_close("2026-11", &late, &closed.batches, &booked).unwrap();
    let (invoices, _) = closing::invoices("2026-11", &closed.charges, &contracts(), &credits);
    assert_eq!(invoices[0].total, Money::ZERO);
    let rows = focus_of("2026-11", invoices);
    let told: Vec<_> = rows
        .iter()
        .map(|row| ["x_TokenType", "RegionId", "ConsumedQuantity", "BilledCost"].map(|column| row[column].as_str()))
        .collect();
    let expected = [
        ["input", "eu-north", "-170", "0"],
        ["input", "eu-south", "170", "0"],
        ["cached input", "eu-north", "-60", "0"],
        ["cached input", "eu-south", "60", "0"],
        ["output", "eu-north", "-333", "0"],
        ["output", "eu-south", "333", "0"],
    ];
    assert_eq!(told, expected);
}
