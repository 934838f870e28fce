//! `bitnet report`: the ledger for finance, and the proof that it is the results'.

mod pinned;
mod invoice;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use billing::report::reconcile::{Expected, reconcile};
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{ReportError, render};
use clap::{Args, Subcommand, ValueEnum};
use schemas::ids::TenantId;

use super::partial::Partial;
use super::{Exit, Failure};
use crate::jobs::records;
use crate::prices::Prices;
use crate::settings::Settings;
use pinned::Pinned;

/// Usage by tenant, and whether results and billing agree
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  bitnet report usage --month 2026-11\n  bitnet report reconcile")]
pub enum Report {
    /// Tokens, requests and amounts per tenant and month
    #[command(after_help = "Examples:
  bitnet report usage
  bitnet report usage --month 2026-11 --format csv -o november.csv")]
    Usage(Usage),
    /// Check every billing row against its result; exit 1 if anything differs
    #[command(after_help = "Examples:
  bitnet report reconcile
  bitnet report reconcile --drained    # after a drain: every request submitted must have a result, too")]
    Reconcile(Reconcile),
    /// The invoices of a closed month, or the events behind one of their lines
    #[command(after_help = "Examples:
  bitnet report invoice --month 2026-10 --tenant acme
  bitnet report invoice --month 2026-10 --format csv -o october.csv
  bitnet report invoice --month 2026-10 --events 0b4d9d3c-…    # a line's external id")]
    Invoice(invoice::InvoiceReport),
}

/// `bitnet report usage`.
#[derive(Debug, Args)]
pub struct Usage {
    /// Only this month (UTC), e.g. 2026-11
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    month: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// A table for the terminal, or CSV with exact amounts
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where it goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `bitnet report reconcile`.
#[derive(Debug, Args)]
pub struct Reconcile {
    /// Also compare each job's results with the number of its requests in `bitnet.jobs`, which asks the broker
    #[arg(long)]
    drained: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
}

fn month(text: &str) -> Result<String, String> {
    format!("{text}-01")
        .parse::<jiff::civil::Date>()
        .ok()
        .filter(|_| text.len() == 7)
        .map(|_| text.to_owned())
        .ok_or_else(|| "write YYYY-MM, e.g. 2026-11".to_owned())
}

impl Report {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        match self {
            Report::Usage(usage) => usage.run(settings).await,
            Report::Invoice(invoice) => invoice.run(settings).await,
            Report::Reconcile(reconcile) => print_reconciliation(settings, reconcile.drained).await,
        }
    }
}

impl Usage {
    async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let filter = Filter {
            tenant: self.tenant.clone(),
            period: self.month.clone(),
        };
        let report = usage_report(settings, filter).await?;
        match &self.output {
            None => self.write(&report, io::stdout().lock()),
            Some(path) => {
                let (partial, file) = Partial::create(path)?;
                self.write(&report, BufWriter::new(file))?;
                partial.finish()
            }
        }
    }

    fn write(&self, report: &UsageReport, mut out: impl Write) -> Result<(), Failure> {
        match self.format {
            Format::Table => write!(out, "{}", render::usage_table(report))?,
            Format::Csv => render::usage_csv(report, &mut out).map_err(|error| Failure::new(Exit::Internal, error))?,
        }
        out.flush()?;
        Ok(())
    }
}

/// Everybody's usage, as a table on standard output.
pub(super) async fn print_usage(settings: &Settings) -> Result<(), Failure> {
    let report = usage_report(settings, Filter::default()).await?;
    write!(io::stdout(), "{}", render::usage_table(&report))?;
    Ok(())
}

/// The reconciliation on standard output; anything that differs is a failure with exit code 1.
pub(super) async fn print_reconciliation(settings: &Settings, drained: bool) -> Result<(), Failure> {
    let prices = Prices::load(&settings.billing)?;
    let mut expected = Expected::new();
    if drained {
        let jobs = records::read(settings).await?.into_values();
        let jobs = jobs.filter(|job| job.residency_zone == settings.worker.residency_zone);
        expected.extend(jobs.map(|job| ((job.tenant_id, job.job_id), job.requests_total)));
    }
    let pinned = Pinned::open(settings).await?;
    let report = tokio::task::spawn_blocking(move || {
        let (results, events) = (|| pinned.results(), || pinned.events());
        reconcile(&results, &events, &expected, &prices.book, &prices.contracts)
    });
    let report = report.await.map_err(|error| Failure::new(Exit::Internal, error))??;
    write!(io::stdout(), "{}", render::reconciliation(&report))?;
    if report.passed() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::CheckFailed,
        format!("results and billing events differ: {} findings", report.findings),
    )
    .help("a worker that starts applies what is sealed and not yet billed; run one, then this again"))
}

async fn usage_report(settings: &Settings, filter: Filter) -> Result<UsageReport, Failure> {
    let prices = Prices::load(&settings.billing)?;
    let pinned = Pinned::open(settings).await?;
    let report =
        tokio::task::spawn_blocking(move || usage(&|| pinned.events(), &prices.book, &prices.contracts, &filter));
    Ok(report.await.map_err(|error| Failure::new(Exit::Internal, error))??)
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Failure {
        let (exit, remedy) = match &error {
            ReportError::Table { .. } => (Exit::Outage, "check that the store is up, and run again"),
            ReportError::Terms { .. } | ReportError::Rate { .. } => (
                Exit::Usage,
                "name the right files in billing.prices and billing.contracts",
            ),
            ReportError::Row { .. } | ReportError::Money { .. } | ReportError::Quantity { .. } => (
                Exit::BadInput,
                "the table holds rows that this version of bitnet did not write",
            ),
        };
        Failure::new(exit, error).help(remedy)
    }
}
