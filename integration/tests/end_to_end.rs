//! The whole path on a real broker and a real object store, written and read by programs that are not ours.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::bitnet::{Deployment, GroupProtocol};
use integration::messages::{self, Document};
use integration::readers;
use integration::stack::{Kafka, Process, Signal, repository};
use serde_json::{Value, json};

const SCORED_MAX: Duration = Duration::from_secs(180);
const STOPPED_MAX: Duration = Duration::from_secs(60);
const DOCUMENTS: usize = 240;
const BATCH: usize = 10;

#[test]
fn two_workers_of_a_classic_group_score_every_request_once() -> Result<()> {
    two_workers("e2e-classic", GroupProtocol::Classic)
}

#[test]
fn two_workers_of_a_broker_assigned_group_score_every_request_once() -> Result<()> {
    two_workers("e2e-consumer", GroupProtocol::Consumer)
}

fn two_workers(name: &str, protocol: GroupProtocol) -> Result<()> {
    let kafka = Kafka::shared();
    let mut deployment = Deployment::new(name, 4, protocol)?;
    deployment.set("FLUSH__AGE_MAX", "500ms");
    deployment.set("FLUSH__ROWS_MAX", "40");
    if protocol == GroupProtocol::Classic {
        // Its assignor evens out the total only, and so might give one worker the whole lane of this test.
        deployment.set("WORKER__LANES", "standard");
    }
    let documents = messages::documents(DOCUMENTS)?;
    let half = documents.len() / 2;
    let mut workers = [
        deployment.start_worker("worker-1", &[])?,
        deployment.start_worker("worker-2", &[])?,
    ];
    kafka.wait_for_members(name, 2, SCORED_MAX)?;

    let mut sent = messages::job("acme", "console-1", &documents[..half], BATCH)?;
    sent.extend(messages::job("globex", "console-2", &documents[half..], BATCH)?);
    kafka.console_produce(&deployment.topic(), &sent)?;
    readers::wait_for_rows(&deployment.bucket, documents.len() as u64, SCORED_MAX)?;
    stop(&mut workers)?;

    let summary = readers::read_with_both(&deployment.bucket)?;
    summary.assert_exactly_once(&[("ok", documents.len() as u64)]);
    assert_eq!(summary.workers, ["worker-1", "worker-2"]);
    let expected = answers_of("console-1", &documents[..half]).chain(answers_of("console-2", &documents[half..]));
    assert_eq!(summary.trimmed_answers(), expected.collect());

    deployment.drain("worker-3", STOPPED_MAX)?;
    assert_eq!(
        readers::read_with_both(&deployment.bucket)?,
        summary,
        "a drain with nothing to do changed the tables"
    );
    reconcile(&deployment)
}

#[test]
fn bad_messages_and_requests_end_where_they_should_and_stop_nobody() -> Result<()> {
    let kafka = Kafka::shared();
    let deployment = Deployment::new("e2e-bad-input", 2, GroupProtocol::Consumer)?;
    let documents = messages::documents(6)?;
    let request = |at: usize| json!({ "custom_id": documents[at].id, "body": messages::body(&documents[at]) });
    let with_body = |id: &str, body| json!({ "custom_id": id, "body": body });

    let undecodable: [&[u8]; 4] = [
        b"\xff\xfe\x00 not text",
        b"",
        b"{\"schema\":",
        b"{\"schema\": \"bitnet.request_batch.v9\"}",
    ];
    for payload in undecodable {
        kafka.produce(&deployment.topic(), b"bad", payload)?;
    }
    let mixed = messages::batch(
        "acme",
        "mixed",
        0,
        1,
        vec![
            request(0),
            with_body("no-prompt", json!({ "model": messages::MODEL, "max_tokens": 4 })),
            with_body(
                "unknown-field",
                json!({ "model": messages::MODEL, "prompt": "a", "max_tokens": 4, "temprature": 0 }),
            ),
            with_body(
                "too-long",
                json!({ "model": messages::MODEL, "prompt": "word ".repeat(20_000), "max_tokens": 4 }),
            ),
            request(1),
        ],
    )?;
    let stranger = messages::batch("acme", "stranger", 0, 1, vec![request(2)])?;
    let stranger = (stranger.0, stranger.1.replace(messages::MODEL, "no-such-model"));
    let twice = messages::batch("acme", "twice", 0, 1, vec![request(3), request(4)])?;
    kafka.console_produce(&deployment.topic(), &[mixed, stranger, twice.clone(), twice])?;
    deployment.drain("worker-1", SCORED_MAX)?;

    let summary = readers::read_with_both(&deployment.bucket)?;
    summary.assert_exactly_once(&[("duplicate", 2), ("error", 4), ("ok", 4)]);
    let answered: Vec<&str> = summary.answers.keys().map(String::as_str).collect();
    let mut expected: Vec<String> = [(0, "mixed"), (1, "mixed"), (3, "twice"), (4, "twice")]
        .map(|(at, job)| key(job, &documents[at]))
        .to_vec();
    expected.sort();
    assert_eq!(answered, expected);

    let letters = kafka.read_all("bitnet.dead-letters")?;
    for payload in undecodable {
        let found = letters.iter().filter(|letter| letter.payload == payload).count();
        ensure!(
            found == 1,
            "{found} dead letters hold the bytes {payload:?}; all: {letters:?}"
        );
    }
    reconcile(&deployment)
}

#[test]
fn lines_submitted_twice_are_scored_once_and_come_back() -> Result<()> {
    let deployment = Deployment::new("e2e-submit", 4, GroupProtocol::Consumer)?;
    let documents = messages::documents(60)?;
    let file = deployment.folder().join("requests.jsonl");
    let lines = documents.iter().map(|one| {
        let body = messages::body(one);
        json!({ "custom_id": one.id, "method": "POST", "url": "/v1/completions", "body": body }).to_string() + "\n"
    });
    fs::write(&file, lines.collect::<String>())?;
    for _ in 0..2 {
        let file = file.to_string_lossy();
        succeed(
            &deployment,
            &[
                "submit",
                &file,
                "--tenant",
                "acme",
                "--job-id",
                "lines",
                "--batch-size",
                "7",
            ],
        )?;
    }
    deployment.drain("worker-1", SCORED_MAX)?;

    let summary = readers::read_with_both(&deployment.bucket)?;
    summary.assert_exactly_once(&[("duplicate", 60), ("ok", 60)]);
    assert_eq!(summary.trimmed_answers(), answers_of("lines", &documents).collect());

    let results = succeed(&deployment, &["jobs", "results", "lines"])?;
    let ids: Vec<String> = results
        .lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["custom_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        })
        .collect::<Result<_>>()?;
    let expected: BTreeSet<&str> = documents.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), expected.len(), "lines of results");
    assert_eq!(ids.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    reconcile(&deployment)
}

#[test]
fn every_document_of_a_parquet_file_gets_the_reference_answer() -> Result<()> {
    let deployment = Deployment::new("e2e-parquet", 4, GroupProtocol::Consumer)?;
    let documents = messages::documents(usize::MAX)?;
    let file = repository().join("pipeline/demo/documents/documents.parquet");
    let template = json!({ "prompt": "{{text}}", "max_tokens": 6, "temperature": 0, "stop": ["\n"] }).to_string();
    let file = file.to_string_lossy();
    let mut submit = vec![
        "submit",
        &file,
        "--tenant",
        "acme",
        "--job-id",
        "parquet",
        "--model",
        messages::MODEL,
    ];
    submit.extend(["--endpoint", "/v1/completions", "--template", &template]);
    submit.extend([
        "--column",
        "custom_id=id",
        "--column",
        "text=prompt",
        "--batch-size",
        "500",
    ]);
    succeed(&deployment, &submit)?;
    deployment.drain("worker-1", SCORED_MAX)?;

    let summary = readers::read_with_both(&deployment.bucket)?;
    summary.assert_exactly_once(&[("ok", 2500)]);
    assert_eq!(summary.trimmed_answers(), answers_of("parquet", &documents).collect());
    reconcile(&deployment)
}

fn stop(workers: &mut [Process]) -> Result<()> {
    for worker in workers.iter_mut() {
        worker.signal(Signal::Term)?;
    }
    for worker in workers {
        let status = worker.wait(STOPPED_MAX)?;
        ensure!(status == 0, "exit status {status} after SIGTERM; {}", worker.log_end());
    }
    Ok(())
}

fn reconcile(deployment: &Deployment) -> Result<()> {
    succeed(deployment, &["report", "reconcile"]).map(drop)
}

/// Runs `bitnet` to its end, which must be a success, and gives its standard output.
fn succeed(deployment: &Deployment, arguments: &[&str]) -> Result<String> {
    let output = deployment.run(arguments)?;
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{arguments:?}: {}\n{said}{complained}",
        output.status
    );
    Ok(said.into_owned())
}

fn key(job: &str, document: &Document) -> String {
    format!("{job}/{}", document.id)
}

fn answers_of(job: &str, documents: &[Document]) -> impl Iterator<Item = (String, String)> {
    documents.iter().map(move |one| (key(job, one), one.expected.clone()))
}

/// A transaction's marker takes an offset of its own and brings no message: the partition's end is never a message's.
#[test]
fn topic_of_a_transactional_producer_is_drained_to_its_end_by_two_workers() -> Result<()> {
    let kafka = Kafka::shared();
    let deployment = Deployment::new("e2e-transactions", 2, GroupProtocol::Classic)?;
    let documents = messages::documents(20)?;
    let job = messages::job("acme", "transactional", &documents, 5)?;
    kafka.produce_in_transactions(&deployment.topic(), &job)?;
    let drain = ["--drain"];
    let mut workers = [
        deployment.start_worker("worker-1", &drain)?,
        deployment.start_worker("worker-2", &drain)?,
    ];
    for worker in &mut workers {
        ensure!(worker.wait(SCORED_MAX)? == 0, "drain failed:\n{}", worker.log_end());
    }
    let summary = readers::read_with_both(&deployment.bucket)?;
    summary.assert_exactly_once(&[("ok", documents.len() as u64)]);
    deployment.drain("worker-3", STOPPED_MAX)
}
