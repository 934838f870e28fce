//! `bitnet table`: what operators do to the tables of a zone.

use std::io::{self, Write};
use std::time::Duration;

use billing::period::Period;
use clap::{Args, Subcommand};
use humantime_serde::re::humantime;
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemas::ids::{JobId, ProjectId, TenantId};

use super::jobs::grid;
use super::{Exit, Failure};
use crate::jobs::records;
use crate::settings::Settings;
use crate::sink;
use crate::store::Store;
use crate::tables::Tables;
use crate::upkeep::RETENTION;
use crate::upkeep::check::check;
use crate::upkeep::compact::Compactor;
use crate::upkeep::erase::inputs::Inputs;
use crate::upkeep::erase::{Eraser, Left, Subject};
use crate::upkeep::vacuum::Waste;

/// Check the tables of a zone, erase texts, tidy up files
#[derive(Debug, Subcommand)]
#[command(after_help = "The zone is worker.residency_zone; workers may go on meanwhile.

Examples:
  bitnet table check
  bitnet table erase --tenant acme --dry-run
  bitnet table compact ; bitnet table vacuum")]
pub enum Table {
    /// Compare every file of both tables with what their logs say; exit 1 if one is not as it must be
    #[command(after_help = "Example:
  BITNET__WORKER__RESIDENCY_ZONE=eu bitnet table check
It reads footers, not rows: whether a file is there, its length, its rows, its columns, and whether its times belong to
its partition. `bitnet report reconcile` compares the rows.

SEALED counts files that a worker will bring in, LOCKED those that only closed months read, and UNNAMED those of older
versions and of chunks never sealed; the first two are checked as well, the last are wrong once they are a week old.")]
    Check,
    /// Erase what a tenant asked and was answered; rows, tokens and everything billed stay
    #[command(after_help = "Examples:
  bitnet table erase --tenant acme --dry-run
  bitnet table erase --tenant acme
  bitnet table erase --tenant acme --project search --job job_01JD8Q4C5RX7T9V3Y6Z8A2B4C6

Erased are texts, embeddings, scores and error messages in results, every file that held them, and the inputs of the
tenant's jobs. Exit 75 says that something is left, what, and when to run it again; run twice, it changes nothing.
End the tenant's jobs first: what a worker answers from now on is written anew, and requests whose input is erased end
as dead letters. Erase in every zone that the tenant used. Out of reach are Kafka's topics, which keep messages for
their retention, results that were fetched, backups, and versions that the bucket itself keeps of deleted objects.")]
    Erase(Erase),
    /// Delete data files that nothing has named for a week: staged and never sealed, or out of the table
    #[command(after_help = "Examples:
  bitnet table vacuum --dry-run
  bitnet table vacuum --older-than 30d
Files that a sealed chunk or a closed month needs are kept. Versions of a table older than that cannot be read afterwards.")]
    Vacuum(Vacuum),
    /// Put the rows of many small files into files of about 128 MiB, unchanged
    #[command(after_help = "Examples:
  bitnet table compact --dry-run
  bitnet table compact --month 2026-10 --table results
Days that are not over are left, and months of billing_events that are closed or locked. The small files stay for readers
that have them open; `bitnet table vacuum` deletes them after a week. Compact and erase one after the other.")]
    Compact(Compact),
}

/// `bitnet table erase`.
#[derive(Debug, Args)]
pub struct Erase {
    /// Whose texts
    #[arg(long)]
    tenant: TenantId,
    /// Only those of this project
    #[arg(long)]
    project: Option<ProjectId>,
    /// Only those of this job
    #[arg(long)]
    job: Option<JobId>,
    /// Say what would be erased, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `bitnet table vacuum`.
#[derive(Debug, Args)]
pub struct Vacuum {
    /// How long nothing may have named a file, at least 7d
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Name the files, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// `bitnet table compact`.
#[derive(Debug, Args)]
pub struct Compact {
    /// Only the days of this month, or this month of billing_events
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Period>,
    /// Only this table: results or billing_events
    #[arg(long, value_parser = table_named)]
    table: Option<sink::Table>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn table_named(name: &str) -> Result<sink::Table, String> {
    let found = sink::Table::ALL.into_iter().find(|table| table.name() == name);
    found.ok_or_else(|| "write results or billing_events".to_owned())
}

/// The tables of the zone that the settings name.
struct Zone<'a> {
    name: &'a str,
    store: Store,
    tables: Tables,
}

impl Table {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let (store, name) = (Store::open(&settings.store.uri)?, &settings.worker.residency_zone);
        let tables = Tables::open(&store, name).await?;
        let zone = Zone { name, store, tables };
        match self {
            Table::Check => zone.check().await,
            Table::Erase(erase) => erase.run(settings, &zone).await,
            Table::Vacuum(vacuum) => vacuum.run(&zone).await,
            Table::Compact(compact) => compact.run(&zone).await,
        }
    }
}

impl Zone<'_> {
    async fn check(&self) -> Result<(), Failure> {
        let mut grid = grid(&[
            "TABLE", "FILES", "ROWS", "BYTES", "SEALED", "LOCKED", "UNNAMED", "BYTES", "WRONG",
        ]);
        let mut findings = Vec::new();
        for table in sink::Table::ALL {
            let found = check(&self.store, self.name, &self.tables, table, Timestamp::now()).await?;
            grid.add_row([
                format!("{}/{}", self.name, table.name()),
                HumanCount(found.files).to_string(),
                HumanCount(found.rows).to_string(),
                HumanBytes(found.bytes).to_string(),
                HumanCount(found.sealed).to_string(),
                HumanCount(found.locked).to_string(),
                HumanCount(found.unnamed).to_string(),
                HumanBytes(found.unnamed_bytes).to_string(),
                HumanCount(found.findings.len() as u64).to_string(),
            ]);
            findings.extend(found.findings);
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{grid}")?;
        for finding in &findings {
            writeln!(out, "WRONG  {finding}")?;
        }
        if findings.is_empty() {
            writeln!(out, "Every file is what its log says.")?;
            return Ok(());
        }
        let problem = format!("files that are not as they must be: {}", findings.len());
        Err(Failure::new(Exit::CheckFailed, problem).help("each line above that begins with WRONG says what to do"))
    }
}

impl Erase {
    async fn run(&self, settings: &Settings, zone: &Zone<'_>) -> Result<(), Failure> {
        let Zone { name, store, tables } = zone;
        let subject = &Subject {
            tenant: self.tenant.clone(),
            project: self.project.clone(),
            job: self.job.clone(),
        };
        let dry_run = self.dry_run;
        let eraser = Eraser {
            store,
            zone: name,
            tables,
            subject,
            dry_run,
        };
        let erased = eraser.results(Timestamp::now()).await?;
        let mut inputs = Inputs::find(store, name, tables, subject).await?;
        if !inputs.unknown.is_empty() {
            inputs.attribute(name, subject, &records::read(settings).await?);
        }
        let input_files = inputs.erase(store, name, dry_run).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "{}", title(name, subject, dry_run))?;
        for (what, count) in [
            ("rows that lose their texts", erased.rows),
            ("files written anew without them", erased.rewritten),
            ("files with such texts deleted", erased.deleted),
            ("jobs that lose their inputs", inputs.its.len() as u64),
            ("files of inputs deleted", input_files),
        ] {
            writeln!(out, "{what:<32} {:>12}", HumanCount(count).to_string())?;
        }
        let left: Vec<_> = erased.left.iter().chain(&inputs.left).collect();
        for Left { path, reason } in &left {
            writeln!(out, "LEFT  {path} {reason}")?;
        }
        if !left.is_empty() && !dry_run {
            let problem = format!("files that hold such texts, or may, and were left: {}", left.len());
            return Err(
                Failure::new(Exit::Outage, problem).help("each line above that begins with LEFT says what to do")
            );
        }
        if !dry_run {
            writeln!(
                out,
                "No file of the zone holds such texts any more. Versions of the table from before cannot be read."
            )?;
        }
        Ok(())
    }
}

fn title(zone: &str, subject: &Subject, dry_run: bool) -> String {
    let of = subject
        .columns()
        .map(|(column, value)| format!("{} {value}", column.trim_end_matches("_id")));
    let of = of.collect::<Vec<_>>().join(", ");
    match dry_run {
        true => format!("Would be erased in zone {zone}: texts of {of}"),
        false => format!("Erased in zone {zone}: texts of {of}"),
    }
}

impl Vacuum {
    async fn run(&self, zone: &Zone<'_>) -> Result<(), Failure> {
        if self.older_than < RETENTION {
            let problem = format!(
                "--older-than {} is less than 7d",
                humantime::format_duration(self.older_than)
            );
            let remedy = "a worker may yet seal younger files, and readers may have versions open that name them";
            return Err(Failure::new(Exit::Usage, problem).help(remedy));
        }
        let now = Timestamp::now();
        for table in sink::Table::ALL {
            let Zone { name, store, tables } = zone;
            let waste = Waste::find(store, name, tables, table, self.older_than, now).await?;
            let (files, bytes) = (HumanCount(waste.files.len() as u64), HumanBytes(waste.bytes()));
            if self.dry_run {
                for file in &waste.files {
                    writeln!(io::stdout(), "{}", store.relative(&file.location))?;
                }
            } else {
                waste.delete(store).await?;
            }
            let verb = if self.dry_run { "would be deleted" } else { "deleted" };
            writeln!(io::stdout(), "{name}/{}: {files} files of {bytes} {verb}", table.name())?;
        }
        Ok(())
    }
}

impl Compact {
    async fn run(&self, zone: &Zone<'_>) -> Result<(), Failure> {
        let Zone { name, store, tables } = zone;
        let asked = sink::Table::ALL
            .into_iter()
            .filter(|table| self.table.is_none_or(|one| one == *table));
        for table in asked {
            let compactor = Compactor {
                store,
                zone: name,
                tables,
                table,
                month: self.month,
                today: TimeZone::UTC.to_datetime(Timestamp::now()).date(),
                dry_run: self.dry_run,
            };
            let done = compactor.run().await?;
            let verb = if self.dry_run { "would become" } else { "became" };
            writeln!(
                io::stdout(),
                "{name}/{}: {} files of {} {verb} {}",
                table.name(),
                HumanCount(done.removed),
                HumanBytes(done.removed_bytes),
                HumanCount(done.added)
            )?;
            if done.overtaken > 0 {
                writeln!(
                    io::stdout(),
                    "{} files were left, for someone else rewrote one of them; run it again",
                    HumanCount(done.overtaken)
                )?;
            }
        }
        Ok(())
    }
}
