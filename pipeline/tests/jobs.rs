//! A job's whole life through the command line: submit, worker, progress, answers, bill, reconciliation.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Run, bitnet, documents, line};
use pipeline::dead_letter;
use pipeline::jobs::submit::JOBS_TOPIC;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde_json::{Value, json};

const GOOD: usize = 40;

struct World {
    broker: MockCluster<'static, DefaultProducerContext>,
    dir: tempfile::TempDir,
    store: String,
}

impl World {
    fn new() -> World {
        let broker = MockCluster::new(1).unwrap();
        for topic in ["bitnet.requests.local.bulk", JOBS_TOPIC, dead_letter::TOPIC] {
            broker.create_topic(topic, 2, 1).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let store = format!("file://{}/store", dir.path().display());
        World { broker, dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    fn command(&self, args: &[&str]) -> Command {
        let servers = self.broker.bootstrap_servers();
        let environment = [
            ("BITNET__KAFKA__BOOTSTRAP_SERVERS", servers.as_str()),
            ("BITNET__STORE__URI", &self.store),
            ("BITNET__WORKER__LANES", "bulk"),
        ];
        common::command(args, &environment)
    }

    /// One job, of which the last request is at fault.
    fn submit_and_score(&self) {
        let completion = |id: &str, prompt: &str| {
            let body = json!({ "model": "debian-sections", "prompt": prompt, "max_tokens": 6, "temperature": 0, "stop": "\n" });
            line(id, "/v1/completions", body)
        };
        let mut lines: Vec<_> = documents(GOOD)
            .iter()
            .map(|(id, prompt, _)| completion(id, prompt))
            .collect();
        lines.push(completion("bad", "x").replace("max_tokens", "max_tokenz"));
        let file = self.path("in.jsonl");
        fs::write(&file, lines.join("\n")).unwrap();
        let file = file.to_str().unwrap();
        self.run(&[
            "submit",
            file,
            "--tenant",
            "acme",
            "--job-id",
            "nightly",
            "--batch-size",
            "9",
        ])
        .succeeded();
        self.run(&["worker", "--drain"]).succeeded();
    }
}

fn read_lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_job_goes_from_submit_to_a_reconciled_bill() {
    let world = World::new();
    world.submit_and_score();

    let shown = world.run(&["jobs", "show", "nightly"]);
    let fact = |name: &str| {
        let line = shown
            .succeeded()
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned);
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    let facts = ["state", "total", "completed", "failed", "billed"].map(fact);
    assert_eq!(facts, ["completed", "41", "40", "1", "41"]);
    assert!(
        world
            .run(&["jobs", "list", "--tenant", "acme"])
            .succeeded()
            .contains("completed")
    );
    assert!(
        !world
            .run(&["jobs", "list", "--tenant", "other"])
            .succeeded()
            .contains("nightly")
    );

    assert!(world.run(&["report", "usage"]).succeeded().contains("acme"));
    let csv = world.path("usage.csv");
    let csv_args = ["report", "usage", "--format", "csv", "-o", csv.to_str().unwrap()];
    world.run(&csv_args).succeeded();
    let csv = fs::read_to_string(csv).unwrap();
    assert!(csv.lines().count() > 1 && csv.contains("acme"), "{csv}");
    let long_ago = world.run(&["report", "usage", "--month", "1999-01"]);
    assert!(!long_ago.succeeded().contains("acme"));
    assert_eq!(world.run(&["report", "usage", "--month", "1999-13"]).code, 2);
    world.run(&["report", "reconcile", "--drained"]).succeeded();
}

#[test]
fn answers_and_errors_are_fetched_in_every_form() {
    let world = World::new();
    world.submit_and_score();

    let out = world.path("out.jsonl");
    world
        .run(&["jobs", "results", "nightly", "-o", out.to_str().unwrap()])
        .succeeded();
    let mut answers = read_lines(&out);
    assert_eq!(answers.len(), GOOD);
    let text = |line: &Value| {
        line["response"]["body"]["choices"][0]["text"]
            .as_str()
            .unwrap()
            .trim()
            .to_owned()
    };
    let mut expected: Vec<_> = documents(GOOD)
        .into_iter()
        .map(|(id, _, expected)| (json!(id), expected))
        .collect();
    let mut found: Vec<_> = answers
        .drain(..)
        .map(|line| (line["custom_id"].clone(), text(&line)))
        .collect();
    expected.sort_by_key(|(id, _)| id.to_string());
    found.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(found, expected);
    let errors = read_lines(&world.path("out.errors.jsonl"));
    assert_eq!((errors.len(), &errors[0]["custom_id"]), (1, &json!("bad")));
    assert_eq!(errors[0]["response"]["body"]["error"]["code"], "unknown_parameter");

    assert_eq!(
        world.run(&["jobs", "results", "nightly"]).succeeded().lines().count(),
        GOOD + 1
    );
    let parquet = world.path("out.parquet");
    let run = world.run(&[
        "jobs",
        "results",
        "nightly",
        "-o",
        parquet.to_str().unwrap(),
        "--format",
        "parquet",
    ]);
    run.succeeded();
    assert!(run.stderr.contains("41 rows"), "{}", run.stderr);
    world.run(&["jobs", "results", "other"]).failed(65, &["other"]);
}

#[test]
fn submit_waits_until_a_worker_has_committed_everything() {
    let world = World::new();
    let (id, prompt, _) = documents(1).remove(0);
    let file = world.path("in.jsonl");
    let body = json!({ "model": "debian-sections", "prompt": prompt, "max_tokens": 6 });
    fs::write(&file, line(&id, "/v1/completions", body)).unwrap();
    let args = [
        "submit",
        file.to_str().unwrap(),
        "--tenant",
        "acme",
        "--job-id",
        "waited",
        "--wait",
    ];
    let waiting = world.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    while world.run(&["jobs", "show", "waited"]).code != 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    world.run(&["worker", "--drain"]).succeeded();
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("waited: completed, 1 answered, 0 not"),
        "{said}"
    );
}

#[test]
fn a_job_with_fewer_results_than_requests_is_a_break() {
    let world = World::new();
    world.submit_and_score();
    world.run(&["report", "reconcile", "--drained"]).succeeded();
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config
        .set("bootstrap.servers", world.broker.bootstrap_servers())
        .create()
        .unwrap();
    let record = json!({
        "schema": "bitnet.job.v1", "job_id": "lost", "tenant_id": "acme", "project_id": "p", "residency_zone": "local",
        "model": "m", "endpoint": "/v1/completions", "service_tier": "batch", "desired": "run", "requests_total": 7,
        "batch_count": 1, "submitted_at": "2026-11-24T01:00:00Z",
    })
    .to_string();
    producer
        .send(BaseRecord::to(JOBS_TOPIC).key("lost").payload(&record))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    let run = world.run(&["report", "reconcile", "--drained"]);
    run.failed(1, &["differ"]);
    assert!(run.stdout.contains("lost"), "{}", run.stdout);
    world.run(&["report", "reconcile"]).succeeded();
}

#[test]
fn a_result_that_was_never_billed_is_a_break() {
    let world = World::new();
    world.submit_and_score();
    let log = world.path("store/local/billing_events/_delta_log");
    let mut commits: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    commits.sort();
    fs::remove_file(commits.last().unwrap()).unwrap();
    let run = world.run(&["report", "reconcile"]);
    run.failed(1, &["differ", "worker"]);
    assert!(run.stdout.contains("acme"), "{}", run.stdout);
}

#[test]
fn prices_that_cannot_be_read_are_2() {
    let world = World::new();
    world.submit_and_score();
    let environment = [
        ("BITNET__STORE__URI", world.store.as_str()),
        ("BITNET__BILLING__PRICES", "/nonexistent.toml"),
    ];
    bitnet(&["report", "usage"], &environment).failed(2, &["billing.prices", "/nonexistent.toml"]);
}
