//! Reports as tables for the terminal.

use std::fmt::{Display, Write as _};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

use super::usage::price_of;
use crate::money::Money;
use crate::report::lines::Unrated;
use crate::report::reconcile::{Finding, Reconciliation};
use crate::report::sums::Meters;
use crate::report::usage::{Sources, Total, UsageReport};
use crate::report::{By, Corrections, MonthCheck, ReportError};
use crate::sku::Meter;

/// Most rows of a table: nobody reads more on a terminal, and each is laid out in memory.
const ROWS_MAX: usize = 5_000;

/// The usage report for a terminal: lines, totals, and what to know about them.
///
/// # Errors
/// See [`UsageReport::lines`].
pub fn usage_table(report: &UsageReport<'_>) -> Result<String, ReportError> {
    let By { day, project, region } = report.by;
    let parts = [(day, "day"), (project, "project"), (region, "region")];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(shown, _)| *shown)
        .map(|(_, name)| *name)
        .collect();
    let mut lines = table(
        &[&["tenant", "month"], &parts[..], &["model", "tier", "class"]].concat(),
        &["quantity", "list", "contracted", "billed"],
        &["", "price"],
    );
    for line in report.lines().take(ROWS_MAX) {
        let line = line?;
        let mut row = texts([line.tenant.as_str(), &line.period]);
        row.extend(line.part.day.map(Cell::new));
        row.extend(line.part.project.iter().chain(&line.part.region).map(Cell::new));
        row.extend(texts([line.sku.model_id.as_str(), line.sku.tier.as_str()]));
        row.push(Cell::new(line.sku.meter.class()));
        row.push(number(grouped(line.quantity)));
        row.extend(amounts(
            line.list,
            line.contracted,
            &line.billed.to_minor(line.currency),
        ));
        row.extend(texts([line.currency.code(), price_of(&line)]));
        lines.add_row(row);
    }
    let mut totals = table(
        &["tenant", "month"],
        &[
            "requests",
            "not charged",
            "input",
            "cached input",
            "output",
            "list",
            "contracted",
            "billed",
        ],
        &[""],
    );
    for total in report.totals.iter().take(ROWS_MAX) {
        totals.add_row(total_row(total));
    }
    let mut out = String::new();
    if report.line_count > 0 {
        let more = more(report.line_count);
        let _ = writeln!(out, "Usage by tenant, month and SKU\n{lines}\n{more}");
    }
    let more = more(report.totals.len());
    let _ = writeln!(out, "Totals by tenant and month\n{totals}{more}");
    out.push_str(&usage_notes(report));
    Ok(out)
}

/// What is said below a table that would have so many rows.
fn more(rows: usize) -> String {
    match rows.saturating_sub(ROWS_MAX) {
        0 => String::new(),
        more => format!(
            "\n{} more rows are not shown; ask for one month or tenant, or write CSV\n",
            grouped(more)
        ),
    }
}

/// The reconciliation for a terminal, the verdict last.
pub fn reconciliation(report: &Reconciliation) -> String {
    let mut tenants = table(
        &["tenant", "charged by"],
        &["requests", "input", "cached input", "output"],
        &["agrees"],
    );
    for check in &report.tenants {
        for (side, meters) in [("results", &check.results), ("billing_events", &check.ledger)] {
            let mut row = texts([check.tenant.as_str(), side]);
            row.extend(meter_cells(meters));
            row.push(Cell::new(yes(check.results == check.ledger)));
            tenants.add_row(row);
        }
    }
    let mut money = table(
        &["currency"],
        &["rated from results", "rated", "rounding", "lines, rounded"],
        &["agrees"],
    );
    for check in &report.money {
        let agrees = check.rated_results == check.rated && check.rated.plus(check.rounding) == Ok(check.invoiced);
        let mut row = texts([check.currency.code()]);
        row.extend([check.rated_results, check.rated, check.rounding].map(number));
        row.push(number(check.invoiced.to_minor(check.currency)));
        row.push(Cell::new(yes(agrees)));
        money.add_row(row);
    }
    let mut out = String::new();
    let _ = writeln!(out, "Tokens by tenant\n{tenants}\n\nAmounts by currency\n{money}");
    let (results, events) = (grouped(report.results), grouped(report.events));
    let _ = writeln!(out, "Results: {results}. Results that billing_events name: {events}.");
    out.push_str(&what_else(report));
    out.push_str(&source_notes(
        &report.sources,
        report.at_list.iter().map(|tenant| tenant.as_str()),
    ));
    for finding in &report.shown {
        let _ = writeln!(out, "BREAK  {finding}");
    }
    let hidden = report.findings - report.shown.len() as u64;
    if hidden > 0 {
        let _ = writeln!(out, "BREAK  and {} more", grouped(hidden));
    }
    let verdict = match report.findings {
        0 => "Reconciled: the ledger says what the results say.".to_owned(),
        breaks => format!("NOT reconciled: {} breaks.", grouped(breaks)),
    };
    let _ = writeln!(out, "{verdict}");
    out
}

/// What else was compared, and how much of it.
fn what_else(report: &Reconciliation) -> String {
    let mut out = String::new();
    if report.jobs > 0 {
        let _ = writeln!(
            out,
            "The results of {} jobs were counted against their requests.",
            grouped(report.jobs)
        );
    }
    let Corrections {
        reversals,
        replacements,
        adjustments,
    } = report.corrections;
    if reversals + replacements + adjustments > 0 {
        let [reversals, replacements, adjustments] = [reversals, replacements, adjustments].map(grouped);
        let _ = writeln!(
            out,
            "Corrections, each against the event that it corrects: {reversals} reversals, {replacements} replacements, \
             {adjustments} adjustments."
        );
    }
    if report.closed > 0 {
        let _ = writeln!(
            out,
            "\nClosed months: what their ledger rates to, and their invoices\n{}\nThe files of {} closed months were \
             compared with their manifests, row by row and line by line with what the ledger makes.",
            months(&report.months),
            grouped(report.closed)
        );
    }
    out
}

fn months(months: &[MonthCheck]) -> Table {
    let amounts = ["rated", "charged", "rounding", "fees and credits", "tax", "payable"];
    let mut out = table(
        &["month", "currency"],
        &[&["invoices"][..], &amounts].concat(),
        &["agrees"],
    );
    for month in months {
        let mut row = texts([&*month.period.to_string(), month.currency.code()]);
        row.push(number(grouped(month.invoices)));
        row.extend([month.rated, month.charged, month.rounding, month.other, month.tax].map(number));
        row.push(number(month.payable.to_minor(month.currency)));
        row.push(Cell::new(yes(month.agrees())));
        out.add_row(row);
    }
    out
}

impl Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finding::Unpaired {
                result_id,
                request,
                results,
                events,
            } => {
                write!(
                    f,
                    "result {result_id} ({request}): {results} rows in results, {events} in billing_events"
                )
            }
            Finding::Differs {
                result_id,
                request,
                fields,
            } => {
                write!(f, "result {result_id} ({request}):")?;
                for field in fields {
                    write!(
                        f,
                        " {} must be {:?}, but is {:?};",
                        field.field, field.expected, field.found
                    )?;
                }
                Ok(())
            }
            Finding::Quarantined(row) => {
                let (id, result, tenant) = (row.event_id, row.result_id, &row.tenant);
                write!(
                    f,
                    "event {id} of {tenant}, ingested {}, for result {result}: {}",
                    row.ingested_at, row.reason
                )
            }
            Finding::Correction {
                event_id,
                kind,
                request,
                problem,
            } => write!(f, "{} {event_id} ({request}): {problem}", kind.as_str()),
            Finding::Unrated(Unrated { tenant, period, what }) => {
                write!(
                    f,
                    "{tenant} {period}: the ledger names {what}, which is not among the files given"
                )
            }
            Finding::Job {
                tenant,
                job,
                expected,
                found,
            } => {
                write!(f, "job {job} of {tenant}: {expected} requests, {found} with a result")
            }
            Finding::Month(month) => month.fmt(f),
            Finding::Closed { path, problem } => write!(f, "{path} {problem}"),
            Finding::Sum { what, results, ledger } => write!(f, "{what}: results {results}, ledger {ledger}"),
        }
    }
}

fn total_row(total: &Total) -> Vec<Cell> {
    let mut row = texts([total.tenant.as_str(), &total.period]);
    let [requests, tokens @ ..] = meter_cells(&total.charged);
    row.push(requests);
    row.push(number(grouped(
        total
            .free_requests
            .values()
            .map(|count| i128::from(*count))
            .sum::<i128>(),
    )));
    row.extend(tokens);
    match total.currency {
        Some(currency) => {
            row.extend(amounts(total.list, total.contracted, &total.billed.to_minor(currency)));
            row.push(Cell::new(currency));
        }
        None => row.extend(texts(["", "", "", ""])),
    }
    row
}

fn usage_notes(report: &UsageReport<'_>) -> String {
    let mut out = String::new();
    for total in report.totals.iter().filter(|total| !total.free_requests.is_empty()) {
        let reasons: Vec<_> = total
            .free_requests
            .iter()
            .map(|(reason, count)| format!("{reason} {}", grouped(*count)))
            .collect();
        let _ = writeln!(
            out,
            "Not charged, {} {}: {}.",
            total.tenant,
            total.period,
            reasons.join(", ")
        );
    }
    out.push_str(&source_notes(
        &report.sources,
        report.at_list.iter().map(|tenant| tenant.as_str()),
    ));
    for tenant in &report.settled_later {
        let _ = writeln!(
            out,
            "{tenant} has a monthly minimum or prepaid credit; the invoice settles it, this report does not."
        );
    }
    if report.repeated > 0 {
        let _ = writeln!(out, "{} repeated rows were counted once.", grouped(report.repeated));
    }
    if report.quarantine.rows > 0 {
        let _ = writeln!(
            out,
            "{} rows are quarantined and in no total:",
            grouped(report.quarantine.rows)
        );
        for row in &report.quarantine.shown {
            let _ = writeln!(out, "  {}", Finding::Quarantined(row.clone()));
        }
    }
    out
}

fn source_notes<'a>(sources: &Sources, at_list: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for (version, sha256) in &sources.versions {
        let _ = writeln!(
            out,
            "Price book {}, version {version}, SHA-256 {sha256}.",
            sources.price_book
        );
    }
    let _ = writeln!(out, "Contracts SHA-256 {}.", sources.contracts);
    let at_list: Vec<_> = at_list.collect();
    let _ = match at_list.is_empty() {
        true => writeln!(out, "Every tenant charged here has a contract."),
        false => writeln!(out, "Rated at list, without a contract: {}.", at_list.join(", ")),
    };
    out
}

/// Left, right and left aligned columns.
fn table(before: &[&str], numbers: &[&str], after: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let mut header = texts(before.iter().copied());
    header.extend(numbers.iter().map(number));
    header.extend(texts(after.iter().copied()));
    table.set_header(header);
    table
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Cell> {
    texts.into_iter().map(Cell::new).collect()
}

fn number(value: impl Display) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

fn amounts(list: Money, contracted: Money, billed: &str) -> [Cell; 3] {
    [number(list), number(contracted), number(billed)]
}

/// Requests first, then the token classes.
fn meter_cells(meters: &Meters) -> [Cell; 4] {
    [Meter::Requests, Meter::InputUncached, Meter::InputCached, Meter::Output]
        .map(|meter| number(grouped(meters.get(meter))))
}

fn yes(agrees: bool) -> &'static str {
    if agrees { "yes" } else { "NO" }
}

/// `-1234567` as `-1,234,567`.
pub(super) fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits.as_str()), |digits| ("-", digits));
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
