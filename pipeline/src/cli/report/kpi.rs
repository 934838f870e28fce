//! `bitnet report kpi`: key figures of a month, each with what it was made from.

use std::fs;
use std::path::{Path, PathBuf};

use billing::money::Currency;
use billing::period::Period;
use billing::report::kpi::{Inputs, KpiError, Rates, kpi, kpi_sheet, kpi_table};
use billing::report::usage::Filter;
use billing::report::{By, Invoiced};
use clap::{Args, ValueEnum};

use super::output::{RowFormat, Target};
use super::usage::usage_report;
use crate::cli::{Exit, Failure};
use crate::prices::Prices;
use crate::settings::Settings;

/// `bitnet report kpi`.
#[derive(Debug, Args)]
pub struct Kpi {
    /// The month (UTC), e.g. 2026-10
    #[arg(long, value_name = "YYYY-MM")]
    month: Period,
    /// Currency of all amounts
    #[arg(long, default_value = "EUR")]
    currency: Currency,
    /// Exchange rates (TOML): source, base, max_age_days and one `rate` table for each day
    #[arg(long, value_name = "FILE")]
    rates: Option<PathBuf>,
    /// What the ledger does not know (TOML): sales_and_marketing and gross_margin by [month.YYYY-MM]
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// A table for the terminal, or a file
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For the terminal
    Table,
    /// Amounts exact
    Csv,
    /// Amounts exact, as DECIMAL(38,18)
    Parquet,
}

impl Kpi {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let prices = Prices::load(&settings.billing)?;
        let bad = |error: &dyn std::fmt::Display| Failure::new(Exit::BadInput, error.to_string());
        let rates = match &self.rates {
            Some(path) => Some(Rates::parse(&read(path)?, &path.display().to_string()).map_err(|error| bad(&error))?),
            None => None,
        };
        let inputs = match &self.inputs {
            Some(path) => Inputs::parse(&read(path)?, &path.display().to_string()).map_err(|error| bad(&error))?,
            None => Inputs::none(),
        };
        let by = By {
            region: true,
            ..By::default()
        };
        let filter = Filter {
            by,
            ..Filter::default()
        };
        // The figures are of contracted amounts, which no invoice changes.
        let nothing = Invoiced::default();
        let report = usage_report(settings, &filter, &prices, &nothing).await?;
        let figures = kpi(
            &report,
            self.month,
            self.currency,
            &prices.contracts,
            rates.as_ref(),
            &inputs,
        );
        let figures = figures.map_err(|error| match error {
            KpiError::Report(error) => error.into(),
            KpiError::Fx(_) => Failure::new(Exit::BadInput, error).help("name a file of newer rates with --rates"),
            KpiError::Money { .. } => Failure::new(Exit::BadInput, error),
        })?;
        let notes = &figures.notes;
        match self.format {
            Format::Table => self.target.text(|out| Ok(write!(out, "{}", kpi_table(&figures))?)),
            Format::Csv => self.target.rows(kpi_sheet(&figures), RowFormat::Csv, notes),
            Format::Parquet => self.target.rows(kpi_sheet(&figures), RowFormat::Parquet, notes),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display())))
}
