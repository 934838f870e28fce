//! Workers killed, frozen, stopped and cut off from the store, on a real broker and a real object store. After
//! each, every request has exactly one result row and one billing row.
//!
//! A test sees the store's folder from outside. The worker reaches the store over a link that holds answers
//! back, so what a worker wrote is seen here long before the worker hears of it and does the next thing: that is
//! how it is killed between two given writes, and each test checks that it was.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::bitnet::{Deployment, GroupProtocol};
use integration::stack::{Kafka, Process, S3, Signal, SlowLink};
use integration::{messages, readers, wait};

const REACHED_MAX: Duration = Duration::from_secs(90);
const DRAINED_MAX: Duration = Duration::from_secs(180);
const ANSWER_DELAY: Duration = Duration::from_millis(300);
const DOCUMENTS: usize = 120;
const BATCH: usize = 5;
const KILLED: i32 = 137;

#[test]
fn killed_between_stage_and_seal() -> Result<()> {
    killed_at("chaos-staged", |case| case.staged() && case.intents() == 0)
}

#[test]
fn killed_between_seal_and_apply() -> Result<()> {
    killed_at("chaos-sealed", |case| {
        case.intents() > 0 && case.commits("results") == 0
    })
}

#[test]
fn killed_between_results_and_billing() -> Result<()> {
    killed_at("chaos-applied", |case| {
        case.commits("results") > case.commits("billing_events")
    })
}

/// Kills the worker as soon as `reached` holds, which must still hold when it is dead; another one goes on.
fn killed_at(name: &str, reached: fn(&Case) -> bool) -> Result<()> {
    let case = Case::new(name, 1, DOCUMENTS)?;
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY)?;
    let mut worker = case.deployment.through(link.port()).start_worker("worker-1", &[])?;
    case.wait(&mut worker, reached)?;
    kill(&mut worker)?;
    ensure!(reached(&case), "the worker got further before it died");
    case.deployment.drain("worker-1", DRAINED_MAX)?;
    case.assert_exactly_once()
}

#[test]
fn killed_again_and_again() -> Result<()> {
    const KILLS: u64 = 6;
    let case = Case::new("chaos-again", 2, 2 * DOCUMENTS)?;
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY / 10)?;
    let mut seen = 0;
    for round in 0..KILLS {
        let mut worker = case.deployment.through(link.port()).start_worker("worker-1", &[])?;
        case.wait(&mut worker, |case| case.intents() > seen)?;
        thread::sleep(Duration::from_millis(37 * round)); // another point of its work each time
        kill(&mut worker)?;
        seen = case.intents();
    }
    case.deployment.drain("worker-1", DRAINED_MAX)?;
    case.assert_exactly_once()
}

#[test]
fn the_other_worker_finishes_for_a_killed_one() -> Result<()> {
    let case = Case::new("chaos-takeover", 4, 2 * DOCUMENTS)?;
    let mut lost = case.deployment.start_worker("worker-1", &[])?;
    let mut other = case.deployment.start_worker("worker-2", &[])?;
    case.wait(&mut lost, |case| case.intents() > 2)?;
    kill(&mut lost)?;
    readers::wait_for_rows(&case.deployment.bucket, case.documents, DRAINED_MAX)?;
    stop(&mut other)?;
    case.assert_exactly_once()
}

#[test]
fn a_frozen_worker_that_wakes_up_after_another_took_over_changes_nothing() -> Result<()> {
    let case = Case::new("chaos-zombie", 1, DOCUMENTS)?;
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY)?;
    let mut zombie = case.deployment.through(link.port()).start_worker("worker-1", &[])?;
    case.wait(&mut zombie, |case| case.staged() && case.intents() == 0)?;
    zombie.signal(Signal::Stop)?;

    let mut other = case.deployment.start_worker("worker-2", &[])?;
    readers::wait_for_rows(&case.deployment.bucket, case.documents, DRAINED_MAX)?;
    let before = readers::read_with_both(&case.deployment.bucket)?;
    assert_eq!(before.workers, ["worker-2"], "the frozen worker got further");
    zombie.signal(Signal::Cont)?;
    thread::sleep(10 * ANSWER_DELAY); // time to seal what it had staged, if it could
    stop(&mut zombie)?;
    stop(&mut other)?;
    assert_eq!(
        readers::read_with_both(&case.deployment.bucket)?,
        before,
        "the zombie changed the tables"
    );
    case.assert_exactly_once()
}

#[test]
fn a_stopped_worker_commits_what_it_has_and_leaves_no_orphan() -> Result<()> {
    let case = Case::new("chaos-stopped", 2, 4 * DOCUMENTS)?;
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY)?;
    let mut worker = case.deployment.through(link.port()).start_worker("worker-1", &[])?;
    case.wait(&mut worker, |case| case.intents() > 1)?;
    stop(&mut worker)?;

    let part = readers::read_with_both(&case.deployment.bucket)?;
    ensure!(
        part.rows() > 0 && part.rows() < case.documents,
        "{} rows: it was not stopped half-way",
        part.rows()
    );
    part.assert_exactly_once(&[("ok", part.rows())]);
    let staged = case.deployment.bucket.objects("eu/results", ".parquet").len();
    assert_eq!(
        staged,
        case.added("results"),
        "files of results, and those that the table names"
    );
    case.deployment.drain("worker-1", DRAINED_MAX)?;
    case.assert_exactly_once()
}

#[test]
fn a_short_outage_of_the_store_is_waited_out() -> Result<()> {
    let case = Case::new("chaos-short-outage", 2, 2 * DOCUMENTS)?;
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY / 3)?;
    let mut worker = case
        .deployment
        .through(link.port())
        .start_worker("worker-1", &["--drain"])?;
    case.wait(&mut worker, |case| case.intents() > 1)?;
    link.set_cut(true)?;
    thread::sleep(Duration::from_secs(3));
    ensure!(
        worker.exit_status()?.is_none(),
        "it gave up at once; {}",
        worker.log_end()
    );
    link.set_cut(false)?;
    let status = worker.wait(DRAINED_MAX)?;
    ensure!(status == 0, "exit status {status}; {}", worker.log_end());
    case.assert_exactly_once()
}

#[test]
fn a_long_outage_of_the_store_ends_the_run_with_75_and_the_next_run_finishes() -> Result<()> {
    let mut case = Case::new("chaos-long-outage", 2, 2 * DOCUMENTS)?;
    case.deployment.set("STORE__OUTAGE_MAX", "3s");
    let link = SlowLink::to(S3::shared().port())?;
    link.delay_answers(ANSWER_DELAY / 3)?;
    let mut worker = case
        .deployment
        .through(link.port())
        .start_worker("worker-1", &["--drain"])?;
    case.wait(&mut worker, |case| case.intents() > 1)?;
    link.set_cut(true)?;
    let status = worker.wait(DRAINED_MAX)?;
    ensure!(status == 75, "exit status {status}; {}", worker.log_end());
    case.deployment.drain("worker-1", DRAINED_MAX)?;
    case.assert_exactly_once()
}

fn kill(worker: &mut Process) -> Result<()> {
    worker.signal(Signal::Kill)?;
    let status = worker.wait(REACHED_MAX)?;
    ensure!(
        status == KILLED,
        "it ended by itself with {status}; {}",
        worker.log_end()
    );
    Ok(())
}

fn stop(worker: &mut Process) -> Result<()> {
    worker.signal(Signal::Term)?;
    let status = worker.wait(DRAINED_MAX)?;
    ensure!(status == 0, "exit status {status} after SIGTERM; {}", worker.log_end());
    Ok(())
}

/// A deployment with one job waiting in its topic.
struct Case {
    deployment: Deployment,
    documents: u64,
}

impl Case {
    /// Small chunks and few batches in flight, so that a job takes many rounds through the store.
    fn new(name: &str, partitions: i32, documents: usize) -> Result<Case> {
        let mut deployment = Deployment::new(name, partitions, GroupProtocol::Classic)?;
        deployment.set("WORKER__LANES", "standard");
        deployment.set("FLUSH__ROWS_MAX", "10");
        deployment.set("FLUSH__AGE_MAX", "200ms");
        deployment.set("KAFKA__IN_FLIGHT_MAX", "4");
        let sent = messages::job("acme", name, &messages::documents(documents)?, BATCH)?;
        Kafka::shared().console_produce(&deployment.topic(), &sent)?;
        Ok(Case {
            deployment,
            documents: documents as u64,
        })
    }

    /// Waits until `reached` holds while `worker` runs.
    fn wait(&self, worker: &mut Process, reached: impl Fn(&Case) -> bool) -> Result<()> {
        wait::until("the point of the test", REACHED_MAX, || {
            if let Some(status) = worker.exit_status()? {
                anyhow::bail!("the worker ended with {status}; {}", worker.log_end());
            }
            Ok(reached(self).then_some(()))
        })
    }

    fn assert_exactly_once(&self) -> Result<()> {
        readers::read_with_both(&self.deployment.bucket)?.assert_exactly_once(&[("ok", self.documents)]);
        let output = self.deployment.run(&["report", "reconcile"])?;
        ensure!(
            output.status.success(),
            "report reconcile: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    }

    /// Whether a chunk's files lie in both tables' folders.
    fn staged(&self) -> bool {
        ["eu/results", "eu/billing_events"]
            .iter()
            .all(|table| !self.objects(table, ".parquet").is_empty())
    }

    /// Chunks sealed: each is an object named by its first offset.
    fn intents(&self) -> usize {
        let named_by_offset = |path: &&PathBuf| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            name.chars().all(|c| c.is_ascii_digit())
        };
        self.objects("eu/_intents", ".json")
            .iter()
            .filter(named_by_offset)
            .count()
    }

    /// Commits of a table that bring rows.
    fn commits(&self, table: &str) -> usize {
        self.log(table)
            .iter()
            .filter(|commit| commit.contains("\"add\":"))
            .count()
    }

    /// Files that a table's commits name.
    fn added(&self, table: &str) -> usize {
        self.log(table)
            .iter()
            .map(|commit| commit.matches("\"add\":").count())
            .sum()
    }

    fn log(&self, table: &str) -> Vec<String> {
        let commits = self.objects(&format!("eu/{table}/_delta_log"), ".json");
        commits
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .collect()
    }

    fn objects(&self, prefix: &str, suffix: &str) -> Vec<PathBuf> {
        self.deployment.bucket.objects(prefix, suffix)
    }
}
