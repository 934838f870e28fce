//! `bitnet submit`: files in, a job id out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use schemas::ids::{JobId, ProjectId, TenantId};
use schemas::request::{ClaimCheckColumns, Endpoint, ServiceTier};
use serde_json::Value;

use super::jobs::tally_of;
use super::{Exit, Failure};
use crate::jobs::records;
use crate::jobs::submit::{Input, JobSpec, Receipt, SubmitError, default_template, submit};
use crate::settings::Settings;
use crate::store::Store;

/// Requests in one message unless `--batch-size` says otherwise.
const LINES_PER_BATCH: usize = 100;
/// Rows in one stored part unless `--batch-size` says otherwise.
const ROWS_PER_BATCH: usize = 1_000;
/// How often `--wait` looks at the tables.
const WAIT: Duration = Duration::from_secs(2);

const EXAMPLES: &str = r#"Examples:
  bitnet submit requests.jsonl --tenant acme
  bitnet submit items.parquet --tenant acme --model debian-sections --endpoint /v1/completions \
      --column custom_id=id --column text=prompt --template '{"prompt": "{{text}}", "max_tokens": 6}' --wait
  bitnet submit requests.jsonl --tenant acme --job-id nightly-2026-11-24    # again after an outage: runs nothing twice

A JSONL line is one of OpenAI's Batch API:
  {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "…", "max_tokens": 6}}

Everything is checked before anything is sent; exit 65 names the file and the line."#;

/// Send files of requests (JSONL or Parquet) as one job
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Submit {
    /// Files of one kind: `.parquet`, anything else is JSONL
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Who is billed
    #[arg(long)]
    tenant: TenantId,
    /// A subdivision of the tenant, for reports
    #[arg(long, default_value = "default")]
    project: ProjectId,
    /// Model name; for JSONL the bodies' `model` by default
    #[arg(long)]
    model: Option<String>,
    /// E.g. /v1/completions; for JSONL the lines' `url` by default
    #[arg(long)]
    endpoint: Option<Endpoint>,
    /// interactive, standard or batch
    #[arg(long, default_value = "batch")]
    tier: ServiceTier,
    /// A time (2026-11-25T06:00:00Z) or a duration from now (8h); requests not finished by then expire
    #[arg(long)]
    deadline: Option<Deadline>,
    /// Requests in one message, or rows in one stored part
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Names the job, so that submitting it again changes nothing; made up by default
    #[arg(long, value_name = "ID")]
    job_id: Option<JobId>,
    /// A label that travels with the job
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Parquet: custom_id=COLUMN (default `custom_id`) and text=COLUMN (default `text`)
    #[arg(long, value_name = "ROLE=COLUMN", value_parser = pair)]
    column: Vec<(String, String)>,
    /// Parquet: the request body as JSON, with {{text}} where the text goes
    #[arg(long, value_name = "JSON")]
    template: Option<String>,
    /// Wait until every request has a result
    #[arg(long)]
    wait: bool,
}

/// Either form of `--deadline`.
#[derive(Debug, Clone, Copy)]
enum Deadline {
    At(Timestamp),
    In(SignedDuration),
}

impl std::str::FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.parse().map(Deadline::At);
        let within = || text.parse().map(Deadline::In);
        at.or_else(|_| within())
            .map_err(|_| "write 2026-11-25T06:00:00Z, or a duration such as 8h".to_owned())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Submit {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let input = self.input()?;
        let spec = self.spec(&input)?;
        let bar = progress("submitted");
        let receipt = submit(settings, &spec, &input, |sent| {
            if sent.requests == 0 {
                bar.suspend(|| eprintln!("job {}", spec.job_id));
            }
            bar.set_length(sent.requests_total);
            bar.set_position(sent.requests);
        });
        let receipt = receipt.await.map_err(|error| go_on(error, &spec.job_id));
        bar.finish_and_clear();
        let receipt = receipt?;
        announce(&receipt)?;
        if self.wait {
            wait(settings, &receipt).await?;
        }
        Ok(())
    }

    fn spec(&self, input: &Input) -> Result<JobSpec, Failure> {
        let submitted_at = Timestamp::now();
        let deadline = match self.deadline {
            None => None,
            Some(Deadline::At(at)) => Some(at),
            Some(Deadline::In(within)) => Some(
                submitted_at
                    .checked_add(within)
                    .map_err(|error| usage(&error.to_string()))?,
            ),
        };
        let made_up = || format!("job_{}", ulid::Ulid::generate()).parse();
        let job_id = self
            .job_id
            .clone()
            .map_or_else(made_up, Ok)
            .map_err(|error| usage(&error.to_string()))?;
        let by_default = if matches!(input, Input::Jsonl(_)) {
            LINES_PER_BATCH
        } else {
            ROWS_PER_BATCH
        };
        Ok(JobSpec {
            job_id,
            tenant_id: self.tenant.clone(),
            project_id: self.project.clone(),
            model: self.model.clone(),
            endpoint: self.endpoint,
            service_tier: self.tier,
            submitted_at,
            deadline,
            metadata: self.metadata.iter().cloned().collect(),
            batch_size: self.batch_size.unwrap_or(by_default),
        })
    }

    fn input(&self) -> Result<Input, Failure> {
        let is_parquet = |file: &PathBuf| {
            file.extension()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("parquet"))
        };
        let parquet = self.files.iter().filter(|file| is_parquet(file)).count();
        if parquet != 0 && parquet != self.files.len() {
            return Err(usage(
                "the files are of both kinds; submit JSONL and Parquet as two jobs",
            ));
        }
        if parquet == 0 {
            if self.template.is_some() || !self.column.is_empty() {
                return Err(usage(
                    "--template and --column are for Parquet files; JSONL lines have bodies of their own",
                ));
            }
            return Ok(Input::Jsonl(self.files.clone()));
        }
        Ok(Input::Parquet {
            files: self.files.clone(),
            columns: self.columns()?,
            template: self.body()?,
        })
    }

    fn columns(&self) -> Result<ClaimCheckColumns, Failure> {
        let mut columns = ClaimCheckColumns {
            custom_id: "custom_id".to_owned(),
            text: "text".to_owned(),
        };
        for (role, column) in &self.column {
            match role.as_str() {
                "custom_id" => columns.custom_id.clone_from(column),
                "text" => columns.text.clone_from(column),
                other => return Err(usage(&format!("--column {other}=…: the roles are custom_id and text"))),
            }
        }
        Ok(columns)
    }

    fn body(&self) -> Result<Value, Failure> {
        let endpoint = self
            .endpoint
            .ok_or_else(|| usage("Parquet rows name no endpoint; give --endpoint"))?;
        match &self.template {
            Some(text) => {
                serde_json::from_str(text).map_err(|error| usage(&format!("--template is not JSON: {error}")))
            }
            None => default_template(endpoint)
                .ok_or_else(|| usage(&format!("{} needs choices; give --template", endpoint.path()))),
        }
    }
}

fn usage(problem: &str) -> Failure {
    Failure::new(Exit::Usage, problem.to_owned()).help("`bitnet submit --help` has examples")
}

/// After an outage part of the job is on its way; the same id makes the next try whole.
fn go_on(error: SubmitError, job_id: &JobId) -> Failure {
    let failure = Failure::from(error);
    if failure.exit() != Exit::Outage {
        return failure;
    }
    failure.help(format!(
        "run the same command again with --job-id {job_id}; nothing will be answered or billed twice"
    ))
}

fn progress(verb: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(verb.to_owned());
    let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} requests {msg}, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn announce(receipt: &Receipt) -> Result<(), Failure> {
    let Receipt {
        job_id,
        requests_total,
        batch_count,
        topic,
    } = receipt;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{job_id}: {requests_total} requests in {batch_count} batches sent to {topic}"
    )?;
    writeln!(out, "  bitnet jobs show {job_id}")?;
    writeln!(out, "  bitnet jobs results {job_id} -o {job_id}.jsonl")?;
    Ok(())
}

async fn wait(settings: &Settings, receipt: &Receipt) -> Result<(), Failure> {
    let store = Store::open(&settings.store.uri)?;
    let job = records::read(settings).await?.remove(receipt.job_id.as_str());
    let job = job.ok_or_else(|| Failure::new(Exit::Internal, "the job record just sent is not there"))?;
    let bar = progress("finished").with_elapsed(Duration::ZERO);
    bar.set_length(job.requests_total);
    loop {
        let tally = tally_of(&store, &job).await?;
        bar.set_position(tally.ended());
        let state = tally.state(&job);
        if state.is_final() {
            bar.finish_and_clear();
            let (completed, failed) = (tally.completed, tally.ended() - tally.completed);
            writeln!(
                io::stdout(),
                "{}: {}, {completed} answered, {failed} not",
                job.job_id,
                state.as_str()
            )?;
            return Ok(());
        }
        tokio::time::sleep(WAIT).await;
    }
}
