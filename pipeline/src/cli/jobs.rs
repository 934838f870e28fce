//! `bitnet jobs`: what was submitted, how far it is, and its answers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table as Grid, presets};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use schemas::job::Job;
use schemas::result;

use super::partial::Partial;
use super::{Exit, Failure};
use crate::jobs::tally::{self, Tally};
use crate::jobs::{output, records};
use crate::settings::Settings;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{Equals, TableError, Tables};

/// Jobs: list, progress, results
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  bitnet jobs list\n  bitnet jobs show ID\n  bitnet jobs results ID -o out.jsonl")]
pub enum Jobs {
    /// Every job, the newest first
    #[command(after_help = "Example:\n  bitnet jobs list --tenant acme")]
    List(List),
    /// One job: its state and counts
    #[command(after_help = "Example:\n  bitnet jobs show job_01JD8Q4C5RX7T9V3Y6Z8A2B4C6")]
    Show(Show),
    /// The answers of one job, as OpenAI's Batch API writes them, or as Parquet
    #[command(after_help = "Examples:
  bitnet jobs results ID                                  # answers and errors on standard output
  bitnet jobs results ID -o out.jsonl                     # answers there, errors in out.errors.jsonl
  bitnet jobs results ID -o out.parquet --format parquet  # the rows of the results table

Results are written as far as they are there; lines are in no particular order, join them by custom_id.")]
    Results(Results),
}

/// `bitnet jobs list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
}

/// `bitnet jobs show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The job
    id: String,
}

/// `bitnet jobs results`.
#[derive(Debug, Args)]
pub struct Results {
    /// The job
    id: String,
    /// Where the answers go; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Parquet,
}

impl Jobs {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        match self {
            Jobs::List(list) => list.run(settings).await,
            Jobs::Show(show) => show.run(settings).await,
            Jobs::Results(results) => results.run(settings).await,
        }
    }
}

impl List {
    async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let mut jobs: Vec<_> = records::read(settings).await?.into_values().collect();
        jobs.retain(|job| {
            self.tenant
                .as_ref()
                .is_none_or(|tenant| tenant == job.tenant_id.as_str())
        });
        jobs.sort_by(|a, b| {
            b.submitted_at
                .cmp(&a.submitted_at)
                .then_with(|| a.job_id.cmp(&b.job_id))
        });
        jobs.truncate(self.limit);
        let store = Store::open(&settings.store.uri)?;
        let mut zones: BTreeMap<&str, HashMap<String, Tally>> = BTreeMap::new();
        for job in &jobs {
            if !zones.contains_key(job.residency_zone.as_str()) {
                zones.insert(&job.residency_zone, tallies_of(&store, &job.residency_zone).await?);
            }
        }
        let mut grid = grid(&[
            "job",
            "tenant",
            "model",
            "state",
            "total",
            "completed",
            "failed",
            "submitted",
        ]);
        for job in &jobs {
            let tally = zones
                .get(job.residency_zone.as_str())
                .and_then(|tallies| tallies.get(job.job_id.as_str()));
            let tally = tally.copied().unwrap_or_default();
            grid.add_row([
                job.job_id.to_string(),
                job.tenant_id.to_string(),
                job.model.clone(),
                tally.state(job).as_str().to_owned(),
                job.requests_total.to_string(),
                tally.completed.to_string(),
                (tally.ended() - tally.completed).to_string(),
                job.submitted_at.strftime("%F %T").to_string(),
            ]);
        }
        writeln!(io::stdout(), "{grid}")?;
        Ok(())
    }
}

impl Show {
    async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let job = records::read(settings)
            .await?
            .remove(&self.id)
            .ok_or_else(|| unknown(&self.id))?;
        let tally = tally_of(&Store::open(&settings.store.uri)?, &job).await?;
        let mut out = io::stdout().lock();
        let mut line = |name: &str, value: &dyn std::fmt::Display| writeln!(out, "{name:<12} {value}");
        line("job", &job.job_id)?;
        line("state", &tally.state(&job).as_str())?;
        line("total", &job.requests_total)?;
        line("completed", &tally.completed)?;
        line("failed", &(tally.ended() - tally.completed))?;
        line("billed", &tally.billed.unwrap_or_default())?;
        line("tenant", &job.tenant_id)?;
        line("project", &job.project_id)?;
        line("model", &job.model)?;
        line("endpoint", &job.endpoint.path())?;
        line("tier", &job.service_tier.as_str())?;
        line("zone", &job.residency_zone)?;
        line("batches", &job.batch_count)?;
        line("submitted", &job.submitted_at)?;
        if let Some(deadline) = job.deadline {
            line("deadline", &deadline)?;
        }
        Ok(())
    }
}

impl Results {
    async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let store = Store::open(&settings.store.uri)?;
        let tables = Tables::open(&store, &settings.worker.residency_zone).await?;
        match (&self.output, self.format) {
            (None, Format::Jsonl) => self.to_stdout(&tables).await,
            (Some(path), Format::Jsonl) => self.to_files(&tables, path).await,
            (Some(path), Format::Parquet) => self.to_parquet(&tables, path).await,
            (None, Format::Parquet) => {
                Err(Failure::new(Exit::Usage, "Parquet is not for a terminal").help("name a file with -o"))
            }
        }
    }

    async fn to_stdout(&self, tables: &Tables) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout());
        let rows = self.each_line(tables, |line| writeln!(out, "{}", line.line)).await?;
        out.flush()?;
        self.found(rows)
    }

    async fn to_files(&self, tables: &Tables, path: &Path) -> Result<(), Failure> {
        let errors_path = path.with_extension("errors.jsonl");
        let (answers, file) = Partial::create(path)?;
        let mut answers_out = BufWriter::new(file);
        let (errors, file) = Partial::create(&errors_path)?;
        let mut errors_out = BufWriter::new(file);
        let mut failed = 0_u64;
        let rows = self.each_line(tables, |line| {
            failed += u64::from(!line.is_answer);
            writeln!(
                if line.is_answer {
                    &mut answers_out
                } else {
                    &mut errors_out
                },
                "{}",
                line.line
            )
        });
        let rows = rows.await?;
        answers_out.flush()?;
        errors_out.flush()?;
        self.found(rows)?;
        answers.finish()?;
        errors.finish()?;
        eprintln!(
            "{} answers in {}, {failed} errors in {}",
            rows - failed,
            path.display(),
            errors_path.display()
        );
        Ok(())
    }

    async fn each_line(
        &self,
        tables: &Tables,
        mut write: impl FnMut(&output::OutputLine) -> io::Result<()>,
    ) -> Result<u64, Failure> {
        let mut rows = 0;
        let mut batches = tables.scan(Table::Results, &[], Some(&self.filter())).await?;
        while let Some(batch) = batches.try_next().await? {
            let read = result::from_batch(&batch).map_err(|error| Failure::new(Exit::Internal, error))?;
            for line in read.iter().filter_map(output::of_row) {
                write(&line)?;
                rows += 1;
            }
        }
        Ok(rows)
    }

    async fn to_parquet(&self, tables: &Tables, path: &Path) -> Result<(), Failure> {
        let (partial, file) = Partial::create(path)?;
        let mut writer = parquet_writer(file)?;
        let mut rows = 0;
        let mut batches = tables.scan(Table::Results, &[], Some(&self.filter())).await?;
        while let Some(batch) = batches.try_next().await? {
            writer
                .write(&batch)
                .map_err(|error| Failure::new(Exit::Internal, error))?;
            rows += batch.num_rows() as u64;
        }
        writer.close().map_err(|error| Failure::new(Exit::Internal, error))?;
        self.found(rows)?;
        partial.finish()?;
        eprintln!("{rows} rows in {}", path.display());
        Ok(())
    }

    fn filter(&self) -> Equals {
        Equals {
            column: "job_id".to_owned(),
            value: self.id.clone(),
        }
    }

    fn found(&self, rows: u64) -> Result<(), Failure> {
        if rows > 0 {
            return Ok(());
        }
        Err(
            Failure::new(Exit::BadInput, format!("there are no results of job {:?}", self.id)).help(
                "`bitnet jobs list` has the ids; a job just submitted has no results until a worker commits them",
            ),
        )
    }
}

/// Counts of one job; zero while its zone has no tables.
pub(super) async fn tally_of(store: &Store, job: &Job) -> Result<Tally, Failure> {
    match Tables::open(store, &job.residency_zone).await {
        Ok(tables) => Ok(tally::of_job(&tables, job.job_id.as_str()).await?),
        Err(TableError::Missing { .. }) => Ok(Tally::default()),
        Err(error) => Err(error.into()),
    }
}

async fn tallies_of(store: &Store, zone: &str) -> Result<HashMap<String, Tally>, Failure> {
    match Tables::open(store, zone).await {
        Ok(tables) => Ok(tally::of_all(&tables).await?),
        Err(TableError::Missing { .. }) => Ok(HashMap::new()),
        Err(error) => Err(error.into()),
    }
}

fn parquet_writer(file: File) -> Result<ArrowWriter<File>, Failure> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .build();
    let schema = Table::Results.arrow_schema();
    ArrowWriter::try_new(file, schema, Some(properties)).map_err(|error| Failure::new(Exit::Internal, error))
}

/// A table for the terminal.
pub(super) fn grid(header: &[&str]) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    grid.set_header(header.to_vec());
    grid
}

fn unknown(id: &str) -> Failure {
    Failure::new(Exit::BadInput, format!("there is no job {id:?}")).help("`bitnet jobs list` has the ids")
}
