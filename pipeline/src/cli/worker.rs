//! `bitnet worker`: the service, and with `--drain` the nightly run.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::Args;
use schemas::request::Limits;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Exit, Failure};
use crate::admit::Admission;
use crate::claim_check::ClaimCheckLimits;
use crate::committer::{CommitError, CommitSettings, Committer};
use crate::dead_letter::DeadLetters;
use crate::kafka;
use crate::ledger::FlushLimits;
use crate::models::Models;
use crate::prices::{Prices, PricesError};
use crate::progress::Progress;
use crate::run::{self, Parts, RunError, RunLimits};
use crate::settings::Settings;
use crate::settle::Settler;
use crate::source::{SourceConfig, SourceError};
use crate::store::Store;

/// Requests in flight from which on no further message is taken apart.
const REQUESTS_IN_FLIGHT_MAX: usize = 32_768;
/// Messages taken apart at once.
const ADMISSIONS_MAX: usize = 4;
/// Positions in a block of the KV cache.
const KV_BLOCK_LEN: usize = 16;

/// Score what arrives, until stopped or drained
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bitnet worker                            # the service; SIGTERM or Ctrl-C stops it cleanly, exit 0
  bitnet worker --drain                    # score what is there, commit it, exit 0
  BITNET__WORKER__LANES=bulk bitnet worker --drain

With --drain, exit 0 means that everything that stood in the topics at the start is in both tables, by
this worker or others; 75 means that an outage stopped it, and running it again goes on where it stopped.")]
pub struct WorkerArgs {
    /// Stop when everything that stood in the topics at the start is committed
    #[arg(long)]
    pub drain: bool,
}

impl WorkerArgs {
    pub(super) async fn run(self, settings: &Settings) -> Result<(), Failure> {
        let parts = parts(settings, self.drain).await?;
        let (progress, seen) = watch::channel(Progress::default());
        run::run(parts, stop_signal()?, progress).await?;
        let done = *seen.borrow();
        tracing::info!(
            rows = done.rows_committed,
            failed = done.rows_failed,
            dead_letters = done.dead_letters,
            tokens = done.tokens,
            "stopped cleanly"
        );
        Ok(())
    }
}

/// Builds a worker from the settings.
pub async fn parts(settings: &Settings, drain: bool) -> Result<Parts, Failure> {
    let store = Store::open(&settings.store.uri)?;
    let patience = settings.store.start_timeout;
    timeout(patience, store.check())
        .await
        .map_err(|_| no_answer(settings))??;
    let models = Arc::new(Models::open(&settings.models)?);
    let prices = Prices::load(&settings.billing)?;
    prices.publish(&store).await?;
    let zone = &settings.worker.residency_zone;
    let commit = CommitSettings::default();
    let committer = Committer::open(store.clone(), zone, &settings.worker.id, commit).await?;
    let letters = DeadLetters::new(kafka::producer(&settings.kafka), settings.worker.id.clone())
        .map_err(|error| Failure::from(RunError::Source(SourceError::Settings(error))))?;
    let limits = &settings.limits;
    let lanes = settings.worker.lanes.iter();
    let topics: Vec<_> = lanes.map(|&lane| settings.request_topic(lane)).collect();
    let in_flight_per_topic = (settings.kafka.in_flight_max.get() / topics.len().max(1)).max(1);
    Ok(Parts {
        source: SourceConfig {
            client: kafka::consumer(&settings.kafka),
            topics,
            in_flight_per_topic,
            epoch: settings.kafka.topic_epoch,
            limits: Limits {
                message_bytes_max: limits.message_bytes_max.get(),
                requests_max: limits.requests_per_batch_max.get(),
            },
            start_timeout: settings.kafka.start_timeout,
            outage_max: settings.store.outage_max,
        },
        admission: Admission {
            store,
            models,
            residency_zone: zone.clone(),
            limits: ClaimCheckLimits {
                bytes_max: limits.claim_check_bytes_max.get(),
                rows_max: limits.claim_check_rows_max.get(),
            },
        },
        settler: Settler {
            region: settings.worker.region.clone(),
            worker_id: settings.worker.id.clone(),
            prices,
        },
        dead_letters: letters,
        committer: Arc::new(committer),
        engine: engine_settings(settings),
        limits: RunLimits {
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            in_flight_per_topic,
            admissions_max: ADMISSIONS_MAX,
            flush: FlushLimits {
                rows_max: settings.flush.rows_max.get() as usize,
                age_max: settings.flush.age_max,
            },
            drain_budget: settings.worker.drain_budget,
            outage_max: settings.store.outage_max,
            drain,
        },
    })
}

/// The engine's bounds by the settings.
pub(super) fn engine_settings(settings: &Settings) -> engine::EngineSettings {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    let message_rows_max = settings
        .limits
        .claim_check_rows_max
        .max(settings.limits.requests_per_batch_max);
    engine::EngineSettings {
        tokens_per_step_max: settings.engine.tokens_per_step_max.get(),
        sequences_max: settings.engine.sequences_max.get(),
        kv_bytes_max: settings.engine.kv_bytes_max.get(),
        block_len: KV_BLOCK_LEN,
        threads: if settings.worker.threads == 0 {
            cores
        } else {
            settings.worker.threads
        },
        jobs_max: REQUESTS_IN_FLIGHT_MAX + ADMISSIONS_MAX * message_rows_max.get(),
    }
}

/// Turns true at the first SIGTERM or Ctrl-C; the second one ends the process at once.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => Exit::Terminated,
                _ = interrupt.recv() => Exit::Interrupted,
            }
        };
        next().await;
        stop.send_replace(true);
        let exit = next().await;
        std::process::exit(exit as i32);
    });
    Ok(stopping)
}

fn no_answer(settings: &Settings) -> Failure {
    let patience = settings.store.start_timeout;
    Failure::new(
        Exit::Unreachable,
        format!("store {} did not answer within {patience:?}", settings.store.uri),
    )
    .help("check store.uri and the AWS_* variables, and that the store is up; or raise store.start_timeout")
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        use RunError as E;
        let again = "nothing is lost: what is sealed will be applied, the rest scored; run it again";
        let (exit, remedy) = match &error {
            E::Source(SourceError::Unreachable { .. }) => (
                Exit::Unreachable,
                "check kafka.bootstrap_servers and that the broker is up",
            ),
            E::Source(SourceError::MissingTopic { .. }) => {
                (Exit::Usage, "create the topic, or name other lanes in worker.lanes")
            }
            E::Source(SourceError::Settings(_)) => (
                Exit::Usage,
                "correct kafka.properties; `bitnet config show` prints them",
            ),
            E::Source(SourceError::Fatal(_)) | E::Input { .. } | E::DeadLetter { .. } => (Exit::Outage, again),
            E::Commit(cause) if cause.is_transient() => (Exit::Outage, again),
            E::Commit(_) => (Exit::Internal, "see the causes above; nothing wrong was written"),
            E::Engine(_) => (Exit::Usage, "correct the settings under engine and worker.threads"),
            E::Rate(_) => (Exit::Usage, "extend the price book; `billing.prices` names it"),
            E::Lost { .. } | E::Recreated { .. } => (Exit::Internal, "see above; nothing was skipped"),
            E::SourceGone | E::EngineGone | E::Thread(_) => (Exit::Internal, again),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<PricesError> for Failure {
    fn from(error: PricesError) -> Failure {
        Failure::new(Exit::Usage, error).help("correct the file, or unset the setting to use the bundled example")
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Failure {
        Failure::from(RunError::Commit(error))
    }
}
