//! The usage report as sheets: what was charged, and what that adds up to.

use std::io;

use crate::money::Money;
use crate::report::lines::Line;
use crate::report::sheet::{Cell, Column, Kind, Sheet, column};
use crate::report::usage::{Sources, Total, UsageReport};
use crate::sku::Meter;

const LINES: [Column; 18] = [
    column("tenant_id", Kind::Text),
    column("usage_period", Kind::Text),
    column("day", Kind::Date),
    column("project_id", Kind::Text),
    column("region", Kind::Text),
    column("sku_id", Kind::Text),
    column("model_id", Kind::Text),
    column("service_tier", Kind::Text),
    column("meter", Kind::Text),
    column("quantity", Kind::Number),
    column("currency", Kind::Text),
    column("list_amount", Kind::Exact),
    column("contracted_amount", Kind::Exact),
    column("billed_amount", Kind::Exact),
    column("rated_at", Kind::Text),
    column("contract_version", Kind::Text),
    column("price_book_id", Kind::Text),
    column("price_version", Kind::Text),
];

const TOTALS: [Column; 11] = [
    column("tenant_id", Kind::Text),
    column("usage_period", Kind::Text),
    column("requests", Kind::Number),
    column("requests_not_charged", Kind::Number),
    column("input_uncached_tokens", Kind::Number),
    column("input_cached_tokens", Kind::Number),
    column("output_tokens", Kind::Number),
    column("currency", Kind::Text),
    column("list_amount", Kind::Exact),
    column("contracted_amount", Kind::Exact),
    column("billed_amount", Kind::Exact),
];

/// The lines, and behind them the totals.
pub fn usage_sheets<'a>(report: &'a UsageReport<'_>) -> [Sheet<'a>; 2] {
    let book = report.sources.price_book.as_str();
    [
        Sheet {
            name: "Usage",
            columns: &LINES,
            rows: Box::new(
                report
                    .lines()
                    .map(|line| Ok(of_line(&line.map_err(io::Error::other)?, book))),
            ),
        },
        Sheet {
            name: "Totals",
            columns: &TOTALS,
            rows: Box::new(report.totals.iter().map(|total| Ok(of_total(total)))),
        },
    ]
}

fn of_line(line: &Line, book: &str) -> Vec<Cell> {
    let text = |text: &str| Cell::Text(text.to_owned());
    let amount = |amount: Money| Cell::Exact(amount, Some(line.currency));
    vec![
        text(line.tenant.as_str()),
        text(&line.period),
        line.part.day.map_or(Cell::Empty, Cell::Date),
        Cell::text(line.part.project.as_deref()),
        Cell::text(line.part.region.as_deref()),
        text(&line.sku.to_string()),
        text(&line.sku.model_id),
        text(line.sku.tier.as_str()),
        text(line.sku.meter.column()),
        Cell::Number(line.quantity),
        text(line.currency.code()),
        amount(line.list),
        amount(line.contracted),
        amount(line.billed),
        text(price_of(line)),
        Cell::text(line.contract_version.as_deref()),
        text(book),
        text(&line.price_version),
    ]
}

fn of_total(total: &Total) -> Vec<Cell> {
    let quantity = |meter: Meter| Cell::Number(total.charged.get(meter));
    let amount = |amount: Money| {
        total
            .currency
            .map_or(Cell::Empty, |currency| Cell::Exact(amount, Some(currency)))
    };
    vec![
        Cell::Text(total.tenant.to_string()),
        Cell::Text(total.period.clone()),
        quantity(Meter::Requests),
        Cell::Number(total.free_requests.values().sum()),
        quantity(Meter::InputUncached),
        quantity(Meter::InputCached),
        quantity(Meter::Output),
        Cell::text(total.currency.map(|currency| currency.code())),
        amount(total.list),
        amount(total.contracted),
        amount(total.billed),
    ]
}

/// Where the rate of a line comes from.
pub(super) fn price_of(line: &Line) -> &'static str {
    if line.negotiated { "negotiated" } else { "list" }
}

/// What the report was made from, by name.
pub fn notes(report: &UsageReport<'_>) -> Vec<(String, String)> {
    let mut notes = sources(&report.sources);
    let names = |tenants: &mut dyn Iterator<Item = String>| tenants.collect::<Vec<_>>().join(", ");
    let mut note = |name: &str, value: String| notes.push((name.to_owned(), value));
    note("Events", report.events.to_string());
    note("Repeated rows, counted once", report.repeated.to_string());
    note("Quarantined rows, in no total", report.quarantine.rows.to_string());
    if !report.at_list.is_empty() {
        let tenants = names(&mut report.at_list.iter().map(ToString::to_string));
        note("Rated at list, without a contract", tenants);
    }
    if !report.settled_later.is_empty() {
        let tenants = names(&mut report.settled_later.iter().map(ToString::to_string));
        note("With terms that the invoice settles, and not this report", tenants);
    }
    notes
}

fn sources(sources: &Sources) -> Vec<(String, String)> {
    let mut notes: Vec<_> = sources
        .versions
        .iter()
        .map(|(version, sha256)| {
            let name = format!("Price book {}, version {version}, SHA-256", sources.price_book);
            (name, sha256.clone())
        })
        .collect();
    notes.push(("Contracts, SHA-256".to_owned(), sources.contracts.clone()));
    notes
}
