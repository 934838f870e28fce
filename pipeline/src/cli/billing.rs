//! `bitnet billing`: closes months, checks closed ones, and corrects the ledger.

use std::io::{self, Write};
use std::path::PathBuf;

use billing::close::CloseError;
use billing::close::manifest::{GRACE, Manifest};
use billing::period::Period;
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::{Exit, Failure};
use crate::close::objects::ObjectError;
use crate::close::{Closed, PeriodError, Periods};
use crate::corrections::{self, CorrectionsError};
use crate::prices::Prices;
use crate::settings::Settings;
use crate::store::Store;

/// Close months, check closed ones, correct the ledger
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bitnet billing close 2026-10
  bitnet billing verify
  bitnet billing correct october.csv")]
pub enum Billing {
    /// Close a month for ever: rated lines, invoices, credits and a manifest of hashes
    #[command(after_help = "Examples:
  bitnet billing close 2026-10
  bitnet billing close 2026-10 --grace 24h --zone eu --zone us
Run again, it changes nothing and checks every file; exit 75 says that it is too early, exit 1 that a file was edited.")]
    Close(Close),
    /// Check every file of closed months against its hash; exit 1 if one was edited, added or removed
    #[command(after_help = "Examples:\n  bitnet billing verify\n  bitnet billing verify 2026-10")]
    Verify(Verify),
    /// Take back, replace or adjust what was charged, by rows that are added
    #[command(after_help = "FILE is CSV with a header:
  event_id,action,input_uncached_tokens,input_cached_tokens,output_tokens,number,reason
action is reverse (takes the row back), replace (takes it back and charges these tokens in its place) or adjust
(charges these tokens more or, with a minus, less; number tells several adjustments of one row apart, from 1).

Examples:
  bitnet billing correct october.csv --dry-run
  bitnet billing correct october.csv     # twice is once: what is corrected already is left alone")]
    Correct(Correct),
}

/// `bitnet billing close`.
#[derive(Debug, Args)]
pub struct Close {
    /// The month, e.g. 2026-10
    #[arg(value_name = "YYYY-MM")]
    period: Period,
    /// How long after the month's end late events are waited for [default: 72h]
    #[arg(long, value_name = "DURATION")]
    grace: Option<SignedDuration>,
    /// A residency zone that must be there; every zone of the store is closed in any case
    #[arg(long, value_name = "ZONE")]
    zone: Vec<String>,
}

/// `bitnet billing verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Only this month; by default every closed one
    #[arg(value_name = "YYYY-MM")]
    period: Option<Period>,
}

/// `bitnet billing correct`.
#[derive(Debug, Args)]
pub struct Correct {
    /// What to correct
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Billing {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let store = Store::open(&settings.store.uri)?;
        match self {
            Billing::Close(close) => close.run(settings, store).await,
            Billing::Verify(verify) => verify.run(store).await,
            Billing::Correct(correct) => correct.run(settings, store).await,
        }
    }
}

impl Close {
    async fn run(&self, settings: &Settings, store: Store) -> Result<(), Failure> {
        let prices = Prices::load(&settings.billing)?;
        let grace = self.grace.unwrap_or(GRACE);
        if grace.is_negative() {
            return Err(Failure::new(Exit::Usage, "--grace is negative").help("write a duration like 72h"));
        }
        let periods = Periods::new(store);
        let closed = periods
            .close(self.period, &prices, &self.zone, grace, Timestamp::now())
            .await?;
        io::stdout().write_all(summary(&closed).as_bytes())?;
        Ok(())
    }
}

fn summary(closed: &Closed) -> String {
    let Manifest {
        period,
        files,
        counts,
        invoices,
        payable,
        ..
    } = &closed.manifest;
    let how = if closed.before {
        "was closed before; every file is what it was"
    } else {
        "is closed"
    };
    let mut lines = vec![
        format!("{period} {how}: {} files, {invoices} invoices", files.len()),
        format!(
            "{} rows of the ledger: {} events ({} of earlier months), {} repeated, {} in quarantine",
            counts.rows, counts.events, counts.late, counts.repeated, counts.quarantined
        ),
    ];
    lines.extend(
        payable
            .iter()
            .map(|(currency, amount)| format!("payable {amount} {currency}")),
    );
    let refused = counts.quarantine.iter();
    lines.extend(refused.map(|row| format!("quarantined {} of {}: {}", row.event_id, row.tenant_id, row.reason)));
    lines.join("\n") + "\n"
}

impl Verify {
    async fn run(&self, store: Store) -> Result<(), Failure> {
        let periods = Periods::new(store);
        let months = match self.period {
            Some(period) => vec![period],
            None => periods.closed().await?.into_keys().collect(),
        };
        let mut out = io::stdout().lock();
        let mut findings = 0;
        for period in &months {
            let found = periods.verify(*period).await?;
            match found.len() {
                0 => writeln!(out, "{period} is what it was closed as")?,
                _ => found.iter().try_for_each(|finding| writeln!(out, "{finding}"))?,
            }
            findings += found.len();
        }
        if findings == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Exit::CheckFailed,
            format!("files of closed months that are not what they were: {findings}"),
        )
        .help("restore them from a backup; corrections belong into an open month, see `bitnet billing correct`"))
    }
}

impl Correct {
    async fn run(&self, settings: &Settings, store: Store) -> Result<(), Failure> {
        let asked = corrections::file::read(&self.file)?;
        let zone = &settings.worker.residency_zone;
        let done = corrections::apply(store, zone, &asked, Timestamp::now(), self.dry_run).await?;
        let mut out = io::stdout().lock();
        for row in &done.new {
            writeln!(
                out,
                "{} {} of {} {}: input {}, cached input {}, output {}",
                row.event_kind.as_str(),
                row.event_id,
                row.tenant_id,
                row.usage_period,
                row.input_uncached_tokens,
                row.input_cached_tokens,
                row.output_tokens
            )?;
        }
        let verb = if self.dry_run { "would be added" } else { "added" };
        writeln!(out, "{} rows {verb}, {} were there already", done.new.len(), done.known)?;
        Ok(())
    }
}

impl From<PeriodError> for Failure {
    fn from(error: PeriodError) -> Failure {
        let (exit, remedy) = match error {
            PeriodError::Published(error) => return error.into(),
            PeriodError::TooEarly { .. } => (Exit::Outage, "run it again then, or shorten --grace"),
            PeriodError::Incomplete { .. } => (Exit::Outage, "run a worker in that zone, then this again"),
            PeriodError::Order { .. } => (Exit::Usage, "close months in order, each once"),
            PeriodError::OtherTerms { .. } => (Exit::Usage, "billing.prices and billing.contracts name the files"),
            PeriodError::Format { .. } => (
                Exit::BadInput,
                "what is closed never changes, so it stays in the form that it was closed in",
            ),
            PeriodError::Changed { .. } | PeriodError::Object(ObjectError::Differs { .. }) => (
                Exit::CheckFailed,
                "restore the file from a backup; what is closed never changes",
            ),
            PeriodError::Object(ObjectError::Damaged { .. }) => (Exit::CheckFailed, "restore the file from a backup"),
            PeriodError::Table { .. } | PeriodError::Object(ObjectError::Store { .. }) => {
                (Exit::Outage, "check that the store is up, and run again")
            }
            PeriodError::Close {
                source: CloseError::Io { .. },
                ..
            } => (Exit::Outage, "check that the store is up, and run again"),
            PeriodError::Sort(_)
            | PeriodError::Close {
                source: CloseError::Sort(_),
                ..
            } => (
                Exit::Outage,
                "a month takes about 100 bytes there for each of its events",
            ),
            PeriodError::Close { .. } => (Exit::BadInput, "see the causes above; nothing was closed"),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<CorrectionsError> for Failure {
    fn from(error: CorrectionsError) -> Failure {
        let exit = match &error {
            CorrectionsError::File(_) | CorrectionsError::Refused(_) => Exit::BadInput,
            CorrectionsError::Read { .. } => Exit::Usage,
            CorrectionsError::Row { .. } => Exit::BadInput,
            CorrectionsError::Table(_) | CorrectionsError::Commit(_) | CorrectionsError::Contended => Exit::Outage,
        };
        Failure::new(exit, error).help("nothing was written; correct what is named above and run it again")
    }
}
