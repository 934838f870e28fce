//! Key figures from contracts and the ledger: each with what it was made from, and "missing" where an input
//! is.
//!
//! A customer is a parent account. Committed revenue is what contracts charge every month: fees and minimums.
//! Net revenue of a month is its usage at contracted prices, and the fees. All of it is shown in one currency,
//! at the rates of each month's last day.

mod fx;
mod figures;
mod inputs;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::ReportError;
use super::lines::Line;
use super::sheet::{Cell, Column, Kind, Sheet, column};
use super::usage::UsageReport;
use crate::contract::{Contract, Contracts, Segment};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;

pub use self::figures::{Figure, Split, Value};
pub use self::fx::{FxError, Rates};
pub use self::inputs::{Inputs, InputsError};

/// Why figures could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KpiError {
    /// An amount cannot be shown in the currency asked for.
    #[error(transparent)]
    Fx(#[from] FxError),
    /// The lines could not be read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A sum is out of range.
    #[error("the figures of {period} are out of range")]
    Money {
        /// Which month.
        period: Period,
        /// Why.
        source: MoneyError,
    },
}

/// The figures of one month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KpiReport {
    /// Which month.
    pub period: Period,
    /// Of all amounts.
    pub currency: Currency,
    /// Every figure, for all customers and for each part of them.
    pub figures: Vec<Figure>,
    /// SHA-256 over everything the figures were made from, in hexadecimal.
    pub input_sha256: String,
    /// What that was, by name.
    pub notes: Vec<(String, String)>,
}

/// One customer's revenue in one month and region: of what an amount is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Revenue {
    month: i32,
    customer: String,
    segment: Option<Segment>,
    country: Option<String>,
    partner: Option<String>,
    region: Option<String>,
}

/// What the figures are made from.
struct Facts<'a> {
    contracts: &'a Contracts,
    month: i32,
    revenue: BTreeMap<Revenue, Money>,
    /// What contracts charge every month, by month and contract, in the currency of the report.
    committed: BTreeMap<i32, Vec<(&'a Contract, Money)>>,
    /// First month of which the ledger was read.
    ledger_from: Option<i32>,
    inputs: &'a Inputs,
}

/// The figures of `period`, from a usage report by region of it and of as many months before as there are,
/// all tenants in it.
pub fn kpi(
    report: &UsageReport<'_>,
    period: Period,
    currency: Currency,
    contracts: &Contracts,
    rates: Option<&Rates>,
    inputs: &Inputs,
) -> Result<KpiReport, KpiError> {
    let month = index(period);
    let out_of_range = |source| KpiError::Money { period, source };
    let mut facts = Facts {
        contracts,
        month,
        revenue: BTreeMap::new(),
        committed: BTreeMap::new(),
        ledger_from: report
            .totals
            .iter()
            .filter_map(|total| total.period.parse().ok())
            .map(index)
            .min(),
        inputs,
    };
    let convert = |amount: Money, from: Currency, month: i32| match rates {
        Some(rates) => rates.convert(amount, from, currency, last_day(month)),
        None if from == currency => Ok(amount),
        None => Err(FxError::File {
            file: "the command line".to_owned(),
            problem: format!("amounts in {from} cannot be shown in {currency} without a file of rates; name one"),
        }),
    };
    let notes = notes(report, month, rates, inputs);
    let mut hash = Sha256::new();
    for (name, value) in &notes {
        hash.update(format!("{name}\u{1f}{value}\u{1e}"));
    }
    for line in report.lines() {
        let line = line?;
        digest(&line, &mut hash);
        let Some(of) = line.period.parse().ok().map(index).filter(|of| *of <= month) else {
            continue;
        };
        let amount = convert(line.contracted, line.currency, of)?;
        facts.add(revenue(&line, of, contracts), amount).map_err(out_of_range)?;
    }
    for of in month - 14..=month {
        let moment = start(of + 1);
        for contract in contracts.all().filter(|contract| holds_just_before(contract, moment)) {
            let minimum = contract.minimum_per_month.unwrap_or_default();
            let fee = contract.fee_per_month.unwrap_or_default();
            let recurring = fee.plus(minimum).map_err(out_of_range)?;
            let committed = convert(recurring, contract.currency, of)?;
            facts.committed.entry(of).or_default().push((contract, committed));
            if fee != Money::ZERO && facts.ledger_from.is_some_and(|from| from <= of) {
                let revenue = Revenue {
                    month: of,
                    customer: contract.parent_account.clone(),
                    segment: Some(contract.segment),
                    country: Some(contract.country.clone()),
                    partner: contract.partner.clone(),
                    region: None,
                };
                let amount = convert(fee, contract.currency, of)?;
                facts.add(revenue, amount).map_err(out_of_range)?;
            }
        }
    }
    let mut figures = Vec::new();
    for split in splits(&facts) {
        figures.extend(facts.figures(&split).map_err(out_of_range)?);
    }
    Ok(KpiReport {
        period,
        currency,
        figures,
        input_sha256: hex::encode(hash.finalize()),
        notes,
    })
}

/// What the figures rest on, for whoever checks them.
fn notes(report: &UsageReport<'_>, month: i32, rates: Option<&Rates>, inputs: &Inputs) -> Vec<(String, String)> {
    let mut notes = super::render::notes(report);
    if let Some(rates) = rates {
        notes.push(("Exchange rates, source".to_owned(), rates.source.clone()));
        notes.push(("Exchange rates, date".to_owned(), last_day(month).to_string()));
        notes.push(("Exchange rates, SHA-256".to_owned(), rates.sha256.clone()));
    }
    notes.push(("Inputs, SHA-256".to_owned(), inputs.sha256.clone()));
    notes
}

fn revenue(line: &Line, month: i32, contracts: &Contracts) -> Revenue {
    let contract = line
        .contract_version
        .as_ref()
        .and_then(|name| contracts.version(line.tenant.as_str(), name));
    Revenue {
        month,
        customer: contract.map_or_else(|| line.tenant.to_string(), |contract| contract.parent_account.clone()),
        segment: contract.map(|contract| contract.segment),
        country: contract.map(|contract| contract.country.clone()),
        partner: contract.and_then(|contract| contract.partner.clone()),
        region: line.part.region.clone(),
    }
}

impl Facts<'_> {
    fn add(&mut self, revenue: Revenue, amount: Money) -> Result<(), MoneyError> {
        let sum = self.revenue.entry(revenue).or_default();
        *sum = sum.plus(amount)?;
        Ok(())
    }
}

/// All customers, then each segment, region and partner.
fn splits(facts: &Facts<'_>) -> Vec<Split> {
    let regions: BTreeSet<&String> = facts
        .revenue
        .keys()
        .filter_map(|revenue| revenue.region.as_ref())
        .collect();
    let partners: BTreeSet<&String> = facts
        .contracts
        .all()
        .filter_map(|contract| contract.partner.as_ref())
        .collect();
    let mut splits = vec![Split::All];
    splits.extend(Segment::ALL.map(Split::Segment));
    splits.extend(regions.into_iter().cloned().map(Split::Region));
    splits.push(Split::Partner(None));
    splits.extend(
        partners
            .into_iter()
            .cloned()
            .map(|partner| Split::Partner(Some(partner))),
    );
    splits
}

fn digest(line: &Line, hash: &mut Sha256) {
    let (region, version) = (line.part.region.as_deref(), line.contract_version.as_deref());
    let text = [
        line.tenant.as_str(),
        &line.period,
        &line.sku.to_string(),
        line.currency.code(),
        region.unwrap_or_default(),
        version.unwrap_or_default(),
        &line.contracted.to_string(),
    ];
    hash.update(text.join("\u{1f}"));
}

fn holds_just_before(contract: &Contract, moment: jiff::Timestamp) -> bool {
    contract.effective_from < moment && contract.effective_until.is_none_or(|until| moment <= until)
}

/// Months since the year 0.
fn index(period: Period) -> i32 {
    let date = TimeZone::UTC.to_datetime(period.start()).date();
    i32::from(date.year()) * 12 + i32::from(date.month()) - 1
}

fn first_day(month: i32) -> Date {
    // Both are in range: a period's year is, and a month is from 1 to 12.
    Date::new(month.div_euclid(12) as i16, month.rem_euclid(12) as i8 + 1, 1).unwrap_or(Date::MAX)
}

fn last_day(month: i32) -> Date {
    first_day(month).last_of_month()
}

fn start(month: i32) -> jiff::Timestamp {
    let midnight = first_day(month).at(0, 0, 0, 0);
    TimeZone::UTC.to_timestamp(midnight).unwrap_or(jiff::Timestamp::MAX)
}

const COLUMNS: [Column; 11] = [
    column("period", Kind::Text),
    column("figure", Kind::Text),
    column("split_by", Kind::Text),
    column("split", Kind::Text),
    column("value", Kind::Text),
    column("unit", Kind::Text),
    column("numerator", Kind::Exact),
    column("denominator", Kind::Exact),
    column("target", Kind::Text),
    column("missing", Kind::Text),
    column("input_sha256", Kind::Text),
];

/// The figures as a sheet.
pub fn kpi_sheet(report: &KpiReport) -> Sheet<'_> {
    let exact = |amount: Option<Money>| amount.map_or(Cell::Empty, |amount| Cell::Exact(amount, None));
    let rows = report.figures.iter().map(move |figure| {
        let (dimension, part) = figure.split.names();
        vec![
            Cell::Text(report.period.to_string()),
            Cell::Text(figure.name.to_owned()),
            Cell::Text(dimension.to_owned()),
            Cell::Text(part.to_owned()),
            Cell::Text(figure.shown(report.currency)),
            Cell::Text(figure.unit(report.currency).to_owned()),
            exact(figure.numerator),
            exact(figure.denominator),
            Cell::Text(figure.target.to_owned()),
            Cell::text(figure.missing.clone()),
            Cell::Text(report.input_sha256.clone()),
        ]
    });
    Sheet {
        name: "Figures",
        columns: &COLUMNS,
        rows: Box::new(rows.map(Ok)),
    }
}

/// The figures for a terminal: those of all customers, then part by part.
pub fn kpi_table(report: &KpiReport) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "figure",
        "of",
        "value",
        "",
        "numerator",
        "denominator",
        "target",
        "missing",
    ]);
    let shown = |amount: Option<Money>| amount.map_or_else(String::new, |amount| amount.to_string());
    for figure in &report.figures {
        let (dimension, part) = figure.split.names();
        table.add_row([
            figure.name.to_owned(),
            if dimension == part {
                part.to_owned()
            } else {
                format!("{dimension} {part}")
            },
            figure.shown(report.currency),
            figure.unit(report.currency).to_owned(),
            shown(figure.numerator),
            shown(figure.denominator),
            figure.target.to_owned(),
            figure.missing.clone().unwrap_or_default(),
        ]);
    }
    let mut out = format!("Key figures of {} in {}\n{table}\n", report.period, report.currency);
    for (name, value) in &report.notes {
        out.push_str(&format!("{name}: {value}.\n"));
    }
    out + &format!("Input SHA-256 {}.\n", report.input_sha256)
}
