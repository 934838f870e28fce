//! `bitnet report`: the ledger for finance, and the proof that it is the results'.

mod pinned;
mod invoice;
mod output;
mod usage;
mod focus;
mod kpi;

use std::io::{self, Write};

use billing::report::reconcile::{Expected, Finding, reconcile};
use billing::report::{ReportError, render};
use clap::{Args, Subcommand};

use super::{Exit, Failure};
use crate::close::{PeriodError, Periods, verify};
use crate::jobs::records;
use crate::prices::Prices;
use crate::settings::Settings;
use crate::store::Store;
use crate::tables::TableError;
use pinned::Pinned;
use usage::Usage;
pub(super) use usage::print_usage;

/// Usage by tenant, and whether results and billing agree
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  bitnet report usage --month 2026-11\n  bitnet report reconcile")]
pub enum Report {
    /// Tokens, requests and amounts per tenant and month
    #[command(after_help = "Examples:
  bitnet report usage
  bitnet report usage --month 2026-11 --format csv -o november.csv
  bitnet report usage --month 2026-11 --by day,project --format xlsx -o november.xlsx
  bitnet report usage --month 2026-11 --format html -o november.html    # a page to forward")]
    Usage(Usage),
    /// Check every billing row against its result, and closed months against the ledger; exit 1 if anything differs
    #[command(after_help = "Examples:
  bitnet report reconcile
  bitnet report reconcile --drained    # after a drain: every request submitted must have a result, too")]
    Reconcile(Reconcile),
    /// FinOps FOCUS files, version 1.2 or 1.4
    #[command(after_help = "Examples:
  bitnet report focus --month 2026-10 -o october.focus.csv
  bitnet report focus --spec 1.4 --dataset invoice-detail -o invoices.focus.csv")]
    Focus(focus::Focus),
    /// Key figures of a month: MRR, NRR, concentration, partner share, LTV/CAC
    #[command(after_help = "Examples:
  bitnet report kpi --month 2026-10 --currency EUR --rates ecb.toml
  bitnet report kpi --month 2026-10 --rates ecb.toml --inputs finance.toml --format csv -o october.csv")]
    Kpi(kpi::Kpi),
    /// The invoices of a closed month, or the events behind one of their lines
    #[command(after_help = "Examples:
  bitnet report invoice --month 2026-10 --tenant acme
  bitnet report invoice --month 2026-10 --format csv -o october.csv
  bitnet report invoice --month 2026-10 --events 0b4d9d3c-…    # a line's external id")]
    Invoice(invoice::InvoiceReport),
}

/// `bitnet report reconcile`.
#[derive(Debug, Args)]
pub struct Reconcile {
    /// Also compare each job's results with the number of its requests in `bitnet.jobs`, which asks the broker
    #[arg(long)]
    drained: bool,
}

impl Report {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        match self {
            Report::Usage(usage) => usage.run(settings).await,
            Report::Focus(focus) => focus.run(settings).await,
            Report::Kpi(kpi) => kpi.run(settings).await,
            Report::Invoice(invoice) => invoice.run(settings).await,
            Report::Reconcile(reconcile) => print_reconciliation(settings, reconcile.drained).await,
        }
    }
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
    // On this thread, as the audit is: what one frees the other one finds.
    let mut report = tokio::task::block_in_place(|| {
        let (results, events) = (pinned.results(), pinned.events());
        reconcile(&results, &events, &expected, &prices.book, &prices.contracts)
    })?;
    let periods = Periods::new(Store::open(&settings.store.uri)?);
    let audit = periods.audit(&prices).await?;
    report.closed = audit.months;
    report.find_months(audit.checks);
    report.findings += audit.more;
    for verify::Finding { path, problem } in audit.findings {
        report.find(Finding::Closed { path, problem });
    }
    write!(io::stdout(), "{}", render::reconciliation(&report))?;
    if report.passed() {
        return Ok(());
    }
    let places = format!("not reconciled; places that differ: {}", report.findings);
    Err(Failure::new(Exit::CheckFailed, places)
        .help("a worker that starts applies what is sealed and not yet billed; run one, then this again"))
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Failure {
        let (exit, remedy) = remedy(&error);
        Failure::new(exit, error).help(remedy)
    }
}

/// How a command ends that cannot make a report, and what to do.
fn remedy(error: &ReportError) -> (Exit, &'static str) {
    match error {
        ReportError::Table { source, .. } if is_damaged(source.as_ref()) => {
            (Exit::CheckFailed, "a file is damaged or gone; restore it from a backup")
        }
        ReportError::Table { .. } => (Exit::Outage, "check that the store is up, and run again"),
        ReportError::Terms { .. } | ReportError::Rate { .. } => (
            Exit::Usage,
            "name the right files in billing.prices and billing.contracts",
        ),
        ReportError::Sort(_) => (
            Exit::Outage,
            "a report takes at most about 60 bytes there for each event that it reads",
        ),
        ReportError::Row { .. }
        | ReportError::Period { .. }
        | ReportError::Money { .. }
        | ReportError::Quantity { .. } => (
            Exit::BadInput,
            "the table holds rows that this version of bitnet did not write",
        ),
    }
}

/// Whether the table itself is at fault, and not the way to it.
fn is_damaged(error: &(dyn std::error::Error + 'static)) -> bool {
    let table = error.downcast_ref::<TableError>().map(TableError::is_outage);
    let month = error.downcast_ref::<PeriodError>().map(PeriodError::is_outage);
    table.or(month) == Some(false)
}
