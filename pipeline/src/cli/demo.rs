//! `bitnet demo`: the whole job on this machine, with nothing installed.
//!
//! A Kafka-protocol broker in the process (librdkafka's mock cluster: real TCP, real groups), a local
//! folder as object store, the bundled model and its documents. What runs is what runs in production:
//! the same submit, the same worker, the same reports.

mod broker;
mod documents;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use schemas::request::{ClaimCheckColumns, Endpoint, ServiceTier};
use serde_json::json;
use tokio::sync::watch;

use super::{Failure, report, worker};
use crate::jobs::submit::{Input, JobSpec, submit};
use crate::models::BUNDLED;
use crate::progress::Progress;
use crate::run;
use crate::settings::Settings;
use documents::Document;

/// Requests in one message: small, so that the batches of both jobs spread over the partitions.
const BATCH_SIZE: usize = 50;
/// Tokens of the longest section name, and one for the line's end.
const ANSWER_TOKENS_MAX: usize = 6;
/// How often the progress bar moves.
const REFRESH: Duration = Duration::from_millis(100);

/// Run the whole job on this machine: submit, score, commit, bill, reconcile
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bitnet demo                              # 2,500 package records, about 2 MB written to ./bitnet-demo
  bitnet demo --dir /tmp/demo
  bitnet demo --documents mine.jsonl       # lines of {\"id\", \"prompt\", \"label\"?, \"expected\"?}

Exit code 0 only if results and billing events reconcile.")]
pub struct DemoArgs {
    /// Where the object store and the submitted files go; an earlier demo there is replaced
    #[arg(long, value_name = "DIR", default_value = "bitnet-demo")]
    dir: PathBuf,
    /// Your own documents instead of the bundled ones (JSONL)
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
}

impl DemoArgs {
    pub(super) async fn run(self, mut settings: Settings) -> Result<(), Failure> {
        let documents = match &self.documents {
            Some(file) => documents::read(file)?,
            None => documents::bundled(),
        };
        let store = documents::prepare_dir(&self.dir)?;
        // The broker of the demo is not the one that the user's settings are about.
        let defaults = Settings::load_with(None, [])?;
        (settings.kafka, settings.worker) = (defaults.kafka, defaults.worker);
        let broker = broker::start(&settings)?;
        settings.kafka.bootstrap_servers = broker.bootstrap_servers();
        settings.store.uri = format!("file://{}", store.display());
        settings.models.dir = None;

        let start = Instant::now();
        println!("Submitting {} documents for two tenants ...", documents.len());
        submit_halves(&settings, &self.dir, &documents).await?;
        let scored = score(&settings, documents.len() as u64).await?;
        println!(
            "Scored {} requests in {:.1} s: {:.0} requests/s, {:.0} tokens/s, {:.1} sequences a batch.\n",
            scored.rows_committed,
            start.elapsed().as_secs_f64(),
            scored.rows_committed as f64 / start.elapsed().as_secs_f64(),
            scored.tokens as f64 / start.elapsed().as_secs_f64(),
            scored.sequences as f64 / scored.steps.max(1) as f64,
        );
        println!(
            "{}\n",
            verdict::of(&settings, &documents, self.documents.is_none()).await?
        );
        report::print_usage(&settings).await?;
        let reconciled = report::print_reconciliation(&settings, true).await;
        print_places(&store, &settings);
        reconciled
    }
}

/// The first half as OpenAI Batch lines in the messages, the second as rows of a Parquet file.
async fn submit_halves(settings: &Settings, dir: &Path, documents: &[Document]) -> Result<(), Failure> {
    let (lines, rows) = documents.split_at(documents.len().div_ceil(2));
    let body = json!({ "prompt": "{{text}}", "max_tokens": ANSWER_TOKENS_MAX, "temperature": 0, "stop": ["\n"] });
    if !lines.is_empty() {
        let file = documents::write_lines(&dir.join("acme.jsonl"), lines, &body)?;
        submit(settings, &job("acme", "catalogue"), &Input::Jsonl(vec![file]), |_| {}).await?;
    }
    if !rows.is_empty() {
        let file = documents::write_parquet(&dir.join("globex.parquet"), rows)?;
        let columns = ClaimCheckColumns {
            custom_id: "id".to_owned(),
            text: "prompt".to_owned(),
        };
        let input = Input::Parquet {
            files: vec![file],
            columns,
            template: body,
        };
        submit(settings, &job("globex", "search"), &input, |_| {}).await?;
    }
    Ok(())
}

fn job(tenant: &str, project: &str) -> JobSpec {
    let id = |text: &str| text.to_owned();
    JobSpec {
        job_id: id(&format!("job_{}", ulid::Ulid::generate()))
            .try_into()
            .expect("a ULID is a valid id"),
        tenant_id: id(tenant).try_into().expect("a valid id"),
        project_id: id(project).try_into().expect("a valid id"),
        model: Some(BUNDLED.to_owned()),
        endpoint: Some(Endpoint::Completions),
        service_tier: ServiceTier::Batch,
        submitted_at: Timestamp::now(),
        deadline: None,
        metadata: Default::default(),
        batch_size: BATCH_SIZE,
    }
}

/// Runs a draining worker under a progress bar.
async fn score(settings: &Settings, total: u64) -> Result<Progress, Failure> {
    let parts = worker::parts(settings, true).await?;
    let (progress, seen) = watch::channel(Progress::default());
    // Ctrl-C drops the whole demo, so nobody asks this worker to stop.
    let (_stop, stopping) = watch::channel(false);
    let running = run::run(parts, stopping, progress);
    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{bar:32} {pos}/{len} rows  {msg}  {eta} left").expect("a valid template"),
    );
    let start = Instant::now();
    let mut refresh = tokio::time::interval(REFRESH);
    tokio::pin!(running);
    loop {
        tokio::select! {
            ended = &mut running => {
                bar.finish_and_clear();
                ended?;
                let done = *seen.borrow();
                return Ok(done);
            }
            _ = refresh.tick() => {
                let now = *seen.borrow();
                let seconds = start.elapsed().as_secs_f64();
                bar.set_position(now.rows_ended);
                bar.set_message(format!(
                    "{:.0} rows/s  {:.0} tokens/s  batch {}",
                    now.rows_ended as f64 / seconds,
                    now.tokens as f64 / seconds,
                    now.batch_sequences,
                ));
            }
        }
    }
}

fn print_places(store: &Path, settings: &Settings) {
    let zone = store.join(&settings.worker.residency_zone);
    let results = zone.join("results");
    println!(
        "\nTables    {}\n          {}",
        results.display(),
        zone.join("billing_events").display()
    );
    println!("Read them (DuckDB with its delta extension):");
    println!(
        "  duckdb -c \"SELECT tenant_id, output_text, count(*) AS n FROM delta_scan('{}') GROUP BY ALL ORDER BY n DESC LIMIT 10\"",
        results.display()
    );
}
