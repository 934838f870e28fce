//! The worked month of `docs/finance.md`: what the document says is what the program computes.
//!
//! `UPDATE=1 cargo test --release -p billing --test worked_month` writes it anew.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use billing::report::focus::{FocusVersion, Unbilled, cost_and_usage};
use billing::report::usage::{Filter, usage};
use billing::report::{InMemory, Invoiced, render};
use common::{REGIONS, Row, book, by_region, contracts, event, issuer, lines, rows, worked_month};
use schemas::billing as events;

const BEGIN: &str = "<!-- begin: worked month -->\n";
const END: &str = "<!-- end: worked month -->";

/// What acme's month of 1,001 requests looks like, from a request to the invoice lines.
fn month() -> String {
    let requests = worked_month();
    let ledger: Vec<_> = requests.iter().map(event).collect();
    let (request, row) = (&requests[0], &ledger[0]);
    let table = InMemory(vec![events::to_batch(&ledger).unwrap()]);
    let (book, contracts, invoiced) = (book(), contracts(), Invoiced::default());
    let report = usage(&table, &book, &contracts, &invoiced, &Filter::default()).unwrap();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\nIn November 2026 acme sends {} requests of one kind, of which {} are computed in {} and every third in {}.\n\
         The first one's row of `results` says:\n\n\
         | column | value |\n|---|---|\n| result_id | `{}` |\n| job_id, custom_id | `{}`, `{}` |\n| region | {} |\n| finished_at | {} |\n\
         | input_tokens | {}, of which cached {} |\n| output_tokens | {} |\n",
        requests.len(),
        requests.iter().filter(|request| request.region == REGIONS[0]).count(),
        REGIONS[0],
        REGIONS[1],
        request.result_id,
        request.job_id,
        request.custom_id,
        request.region,
        request.finished_at,
        request.input_tokens,
        request.cached_tokens,
        request.output_tokens,
    );
    let _ = writeln!(
        out,
        "Its row of `billing_events` has the classes apart, and the versions that price it for ever:\n\n\
         | column | value |\n|---|---|\n| event_id | `{}` |\n| usage_period | {} |\n| input_uncached_tokens | {} |\n\
         | input_cached_tokens | {} |\n| output_tokens | {} |\n| price_book_id, price_version | {}, {} |\n| contract_version | {} |\n",
        row.event_id,
        row.usage_period,
        row.input_uncached_tokens,
        row.input_cached_tokens,
        row.output_tokens,
        row.price_book_id,
        row.price_version,
        row.contract_version.as_deref().unwrap(),
    );
    out.push_str(
        "The month adds up to three lines. Input has a negotiated price, 1.60 per million. Cached input has none, so it is\n\
         sold at list, 0.50. Output has steps: 5.00 up to 100 million tokens, 4.00 above, so 100 × 5.00 + 20.12 × 4.00:\n\n\
         | SKU | tokens | at list | at acme's price, exact | on the invoice |\n|---|---:|---:|---:|---:|\n",
    );
    for line in lines(&report) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            line.sku,
            line.quantity,
            line.list,
            line.contracted,
            line.billed.to_minor(line.currency)
        );
    }
    let total = &report.totals[0];
    let _ = writeln!(
        out,
        "| **total, {}** | | {} | {} | **{}** |\n\nThe same as `bitnet report usage --month 2026-11` prints it:\n\n```\n{}```\n",
        total.currency.unwrap(),
        total.list,
        total.contracted,
        total.billed.to_minor(total.currency.unwrap()),
        render::usage_table(&report).unwrap(),
    );
    out + &in_focus(&table)
}

/// The month as a FOCUS file has it.
fn in_focus(table: &InMemory) -> String {
    let mut out = String::from(
        "In a FOCUS file each step of a price has a row for each region, with the region's share of the tokens.\n\
         Unit prices are per million tokens, and make the costs to the last digit:\n\n",
    );
    let columns = [
        "SkuPriceId",
        "RegionId",
        "PricingQuantity",
        "ListUnitPrice",
        "ContractedUnitPrice",
        "ListCost",
        "ContractedCost",
    ];
    let _ = writeln!(out, "| {} |\n|---|---|---:|---:|---:|---:|---:|", columns.join(" | "));
    for row in focus(table).iter().filter(|row| row["ChargeCategory"] == "Usage") {
        let _ = writeln!(out, "| {} |", columns.map(|column| row[column].as_str()).join(" | "));
    }
    out.push('\n');
    out
}

/// The rows of Cost and Usage.
fn focus(table: &InMemory) -> Vec<Row> {
    let (book, contracts, invoiced) = (book(), contracts(), Invoiced::default());
    let unbilled = Unbilled {
        report: &usage(table, &book, &contracts, &invoiced, &by_region()).unwrap(),
        invoiced: &invoiced,
        closed_through: None,
        month: None,
    };
    rows(cost_and_usage(
        &issuer([]),
        Some(unbilled),
        FocusVersion::V1_2,
        &book,
        &contracts,
    ))
}

#[test]
fn the_document_says_what_the_program_computes() {
    let month = month();
    for figure in [
        "| 45045000 |",
        "| 72.072 | 72.07 |",
        "| 8.008 | 8.01 |",
        "| 580.48 | 580.48 |",
        "**660.56**",
        "| 333.16683 |",
    ] {
        assert!(month.contains(figure), "{figure}\n{month}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/finance.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{month}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        written, month,
        "run this test with UPDATE=1 to write docs/finance.md anew"
    );
}
