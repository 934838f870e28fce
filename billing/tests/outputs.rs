//! The usage report in each of its forms, read back.

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use billing::money::Money;
use billing::report::render;
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{By, InMemory, Invoiced};
use calamine::{Data, Reader, Xlsx, open_workbook_from_rs};
use common::{book, contracts, event, kept, lines, result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::billing as events;
use schemas::result::ResultRow;

/// A month of three tenants in two projects, two regions and three days; quantities differ everywhere.
fn report(by: By) -> UsageReport<'static> {
    let rows: Vec<_> = (0..300)
        .map(|n| {
            let base = result(["acme", "globex", "stranger"][n as usize % 3], n);
            event(&ResultRow {
                project_id: ["search", "label"][n as usize / 3 % 2].parse().unwrap(),
                region: ["eu", "us"][n as usize / 7 % 2].into(),
                finished_at: [
                    "2026-11-03T10:00:00Z",
                    "2026-11-04T00:00:00Z",
                    "2026-11-30T23:59:59.999999Z",
                ][n as usize / 11 % 3]
                    .parse()
                    .unwrap(),
                input_tokens: 70_001 + 37 * n,
                output_tokens: 1_300_007 + 101 * n,
                ..base
            })
        })
        .collect();
    let table = InMemory(rows.chunks(64).map(|rows| events::to_batch(rows).unwrap()).collect());
    let filter = Filter {
        by,
        ..Filter::default()
    };
    usage(
        &table,
        kept(book()),
        kept(contracts()),
        kept(Invoiced::default()),
        &filter,
    )
    .unwrap()
}

const EVERYTHING: By = By {
    project: true,
    region: true,
    day: true,
};

#[test]
fn parts_add_up_to_their_line_in_every_amount() {
    let whole = report(By::default());
    let parts = report(EVERYTHING);
    assert!(parts.line_count >= 12 * whole.line_count, "{}", parts.line_count);
    assert_eq!(parts.totals, whole.totals);
    let (whole, parts) = (lines(&whole), lines(&parts));
    for line in &whole {
        let of_line = || {
            parts.iter().filter(|part| {
                (&part.tenant, &part.period, &part.sku, &part.price_version)
                    == (&line.tenant, &line.period, &line.sku, &line.price_version)
            })
        };
        let sum = |amount: fn(&billing::report::Line) -> Money| Money::sum(of_line().map(amount)).unwrap();
        assert_eq!(of_line().map(|part| part.quantity).sum::<i64>(), line.quantity);
        assert_eq!(sum(|part| part.list), line.list);
        assert_eq!(sum(|part| part.contracted), line.contracted);
        assert_eq!(sum(|part| part.billed), line.billed);
        for part in of_line() {
            assert_eq!(part.billed.rounded(part.currency), Ok(part.billed), "whole minor units");
        }
    }
    // acme's output has a price with steps, and passes the first.
    assert!(whole.iter().any(|line| line.negotiated && line.quantity > 100_000_000));
}

#[test]
fn one_dimension_shows_that_dimension_alone() {
    let by_day = report(By {
        day: true,
        ..By::default()
    });
    let lines = lines(&by_day);
    assert!(
        lines
            .iter()
            .all(|line| line.part.day.is_some() && line.part.project.is_none())
    );
    let days: std::collections::BTreeSet<_> = lines.iter().filter_map(|line| line.part.day).collect();
    let days: Vec<_> = days.iter().map(ToString::to_string).collect();
    assert_eq!(days, ["2026-11-03", "2026-11-04", "2026-11-30"]);
    let text = render::usage_table(&by_day).unwrap();
    assert!(text.contains("┆ day ") && text.contains("2026-11-30"), "{text}");
}

#[test]
fn the_workbook_holds_the_lines_in_minor_units() {
    let report = report(By::default());
    let mut file = Vec::new();
    let sheets = render::usage_sheets(&report).into();
    render::xlsx(sheets, &render::notes(&report), &mut file).unwrap();
    let mut again = Vec::new();
    render::xlsx(
        render::usage_sheets(&report).into(),
        &render::notes(&report),
        &mut again,
    )
    .unwrap();
    assert_eq!(file, again, "the same report is the same file");
    let mut book: Xlsx<_> = open_workbook_from_rs(Cursor::new(file)).unwrap();
    assert_eq!(book.sheet_names(), ["Usage", "Totals", "Sources"]);
    let usage = book.worksheet_range("Usage").unwrap();
    let heading: Vec<String> = usage.rows().next().unwrap().iter().map(ToString::to_string).collect();
    let at = |name: &str| heading.iter().position(|column| column == name).unwrap();
    assert_eq!(usage.height(), report.line_count + 1);
    for (line, row) in lines(&report).iter().zip(usage.rows().skip(1)) {
        assert_eq!(row[at("tenant_id")], Data::String(line.tenant.to_string()));
        assert_eq!(row[at("sku_id")], Data::String(line.sku.to_string()));
        assert_eq!(row[at("quantity")], Data::Float(line.quantity as f64));
        for (column, amount) in [
            ("list_amount", line.list),
            ("contracted_amount", line.contracted),
            ("billed_amount", line.billed),
        ] {
            let rounded = amount.rounded(line.currency).unwrap().to_string();
            assert_eq!(row[at(column)], Data::Float(rounded.parse().unwrap()), "{column}");
        }
        assert_eq!(row[at("project_id")], Data::Empty);
    }
    let sources = book.worksheet_range("Sources").unwrap();
    let hash = &report.sources.contracts;
    assert!(sources.rows().any(|row| row[1] == Data::String(hash.clone())));
}

#[test]
fn the_parquet_file_holds_exact_decimals() {
    let report = report(EVERYTHING);
    let mut file = tempfile::tempfile().unwrap();
    let [lines, _] = render::usage_sheets(&report);
    render::parquet(lines, &render::notes(&report), &mut file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let notes = reader.schema().metadata().clone();
    assert_eq!(notes["Contracts, SHA-256"], report.sources.contracts);
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let lines = common::lines(&report);
    let mut row = 0;
    for batch in &batches {
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let (quantity, amount) = (column("quantity"), column("contracted_amount"));
        for at in 0..batch.num_rows() {
            let line = &lines[row];
            assert_eq!(quantity.as_primitive::<Int64Type>().value(at), line.quantity);
            assert_eq!(
                amount.as_primitive::<Decimal128Type>().value(at),
                line.contracted.parts()
            );
            assert_eq!(
                column("region").as_string::<i32>().value(at),
                line.part.region.as_ref().unwrap()
            );
            row += 1;
        }
    }
    assert_eq!(row, lines.len());
}

#[test]
fn the_page_stands_alone_and_shows_the_totals() {
    let mut report = report(By {
        day: true,
        ..By::default()
    });
    report.totals[0].tenant = "a<b>&\"c\"".parse().unwrap();
    let mut page = Vec::new();
    render::html(&report, "all tenants, 2026-11", &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    for absent in ["<script", "http://", "https://", "url(", "@import", "a<b>"] {
        assert!(!page.contains(absent), "{absent}");
    }
    for part in [
        "prefers-color-scheme: dark",
        "@media print",
        "Billed by day, EUR",
        "a&lt;b&gt;&amp;&quot;c&quot;",
        "<svg",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let mut sums: BTreeMap<&str, Money> = BTreeMap::new();
    for total in &report.totals {
        let sum = sums.entry(total.currency.unwrap().code()).or_default();
        *sum = sum.plus(total.billed).unwrap();
    }
    for (code, sum) in sums {
        let shown = sum.to_minor(code.parse().unwrap());
        let (whole, cents) = shown.split_once('.').unwrap();
        assert!(
            page.replace(',', "").contains(&format!("{whole}.{cents}")),
            "{code} {shown}"
        );
    }
}

#[test]
fn list_less_what_is_saved_and_rounding_are_what_the_page_says_is_billed() {
    let mut report = report(By::default());
    report.at_list = (0..27).map(|n| format!("tenant-{n:02}").parse().unwrap()).collect();
    // Sums that are no whole cents, which each figure would round on its own.
    for total in &mut report.totals {
        total.list = total.list.plus("0.004".parse().unwrap()).unwrap();
    }
    let mut page = Vec::new();
    render::html(&report, "all tenants, 2026-11", &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    let sections: Vec<&str> = page.split("<section>").skip(1).collect();
    assert_eq!(sections.len(), 2, "EUR and USD");
    for section in sections {
        let tile = |name: &str| -> Money {
            let before = section.split_once(&format!("</b><span>{name}</span>")).unwrap().0;
            before.rsplit("<b>").next().unwrap().replace(',', "").parse().unwrap()
        };
        let saved = tile("at list price").minus(tile("saved by contracts")).unwrap();
        assert_eq!(saved.plus(tile("invoice rounding")), Ok(tile("billed")));
    }
    assert!(page.contains("tenant-18, tenant-19 and 7 others"), "{page}");
}
