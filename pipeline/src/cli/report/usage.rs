//! `bitnet report usage`: what each tenant used and what that costs.

use std::io::{self, Write};

use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{By, Invoiced, render};
use clap::{Args, ValueEnum};
use schemas::ids::TenantId;

use super::output::{RowFormat, Target, written};
use super::pinned::Pinned;
use crate::cli::Failure;
use crate::close::Periods;
use crate::prices::Prices;
use crate::settings::Settings;
use crate::store::Store;

/// `bitnet report usage`.
#[derive(Debug, Args)]
pub struct Usage {
    /// Only this month (UTC), e.g. 2026-11
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    month: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// By what else to tell lines apart; the amount of a price with steps is shared by quantity
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    by: Vec<Part>,
    /// A table for the terminal, or a file
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Project,
    Region,
    Day,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For the terminal
    Table,
    /// Amounts exact
    Csv,
    /// Amounts exact, as DECIMAL(38,18)
    Parquet,
    /// Amounts rounded to minor units, as spreadsheet programs compute
    Xlsx,
    /// A page with charts, in one file
    Html,
}

pub(super) fn month(text: &str) -> Result<String, String> {
    format!("{text}-01")
        .parse::<jiff::civil::Date>()
        .ok()
        .filter(|_| text.len() == 7)
        .map(|_| text.to_owned())
        .ok_or_else(|| "write YYYY-MM, e.g. 2026-11".to_owned())
}

impl Usage {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let asked = |part| self.by.contains(&part);
        let one_month = self.month.is_some() && self.format == Format::Html;
        let filter = Filter {
            tenant: self.tenant.clone(),
            period: self.month.clone(),
            by: By {
                project: asked(Part::Project),
                region: asked(Part::Region),
                // The page charts a month by day.
                day: asked(Part::Day) || one_month,
            },
        };
        let (prices, invoiced) = inputs(settings, &filter).await?;
        let report = usage_report(settings, &filter, &prices, &invoiced).await?;
        let [lines, totals] = render::usage_sheets(&report);
        let notes = render::notes(&report);
        match self.format {
            Format::Table => self
                .target
                .text(|out| Ok(write!(out, "{}", render::usage_table(&report)?)?)),
            Format::Csv => self.target.rows(lines, RowFormat::Csv, &notes),
            Format::Parquet => self.target.rows(lines, RowFormat::Parquet, &notes),
            Format::Xlsx => self
                .target
                .binary(|file| Ok(render::xlsx(vec![lines, totals], &notes, file)?)),
            Format::Html => self
                .target
                .text(|out| render::html(&report, &self.title(), out).map_err(written)),
        }
    }

    fn title(&self) -> String {
        let tenant = self.tenant.as_ref().map_or("all tenants", |tenant| tenant.as_str());
        let month = self.month.as_deref().unwrap_or("all months");
        format!("{tenant}, {month}")
    }
}

/// Everybody's usage, as a table on standard output.
pub(in crate::cli) async fn print_usage(settings: &Settings) -> Result<(), Failure> {
    let filter = Filter::default();
    let (prices, invoiced) = inputs(settings, &filter).await?;
    let report = usage_report(settings, &filter, &prices, &invoiced).await?;
    write!(io::stdout(), "{}", render::usage_table(&report)?)?;
    Ok(())
}

async fn inputs(settings: &Settings, filter: &Filter) -> Result<(Prices, Invoiced), Failure> {
    let prices = Prices::load(&settings.billing)?;
    let periods = Periods::new(Store::open(&settings.store.uri)?);
    let invoiced = periods.invoiced(filter).await?;
    Ok((prices, invoiced))
}

/// Usage with what is billed of it; where nothing is `invoiced`, with what the next invoice would bill.
pub(super) async fn usage_report<'a>(
    settings: &Settings,
    filter: &Filter,
    prices: &'a Prices,
    invoiced: &'a Invoiced,
) -> Result<UsageReport<'a>, Failure> {
    let pinned = Pinned::open(settings).await?;
    let Prices { book, contracts, .. } = prices;
    let report = tokio::task::block_in_place(|| usage(&pinned.events(), book, contracts, invoiced, filter));
    Ok(report?)
}
