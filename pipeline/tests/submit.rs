//! Submitting to a broker (librdkafka's mock cluster: real TCP): what is sent is what workers take, and
//! sending it again changes nothing.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{bitnet, demo, line};
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use pipeline::jobs::publish::PublishError;
use pipeline::jobs::records;
use pipeline::jobs::submit::{Input, JOBS_TOPIC, JobSpec, Sent, SubmitError, submit};
use pipeline::settings::Settings;
use pipeline::store::Store;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use schemas::ids::DedupKey;
use schemas::request::{ClaimCheckColumns, Endpoint, Limits, RequestBatch, ServiceTier, decode};
use serde_json::json;
use sha2::{Digest, Sha256};

const TOPIC: &str = "bitnet.requests.local.bulk";

struct Place {
    broker: MockCluster<'static, DefaultProducerContext>,
    dir: tempfile::TempDir,
    settings: Settings,
}

fn place(topics: &[&str]) -> Place {
    let broker = MockCluster::new(1).unwrap();
    for topic in topics {
        broker.create_topic(topic, 3, 1).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::load_with(None, []).unwrap();
    settings.kafka.bootstrap_servers = broker.bootstrap_servers();
    settings.store.uri = format!("file://{}/store", dir.path().display());
    Place { broker, dir, settings }
}

fn spec() -> JobSpec {
    JobSpec {
        job_id: "job-1".parse().unwrap(),
        tenant_id: "acme".parse().unwrap(),
        project_id: "search".parse().unwrap(),
        model: Some("m".to_owned()),
        endpoint: None,
        service_tier: ServiceTier::Batch,
        submitted_at: Timestamp::now(),
        deadline: None,
        metadata: BTreeMap::from([("cost_center".to_owned(), "42".to_owned())]),
        batch_size: 40,
    }
}

fn lines(dir: &Path, count: usize) -> PathBuf {
    let body = |n: usize| json!({ "prompt": format!("prompt {n}"), "max_tokens": 3 });
    let lines: Vec<_> = (0..count)
        .map(|n| line(&format!("r{n}"), "/v1/completions", body(n)))
        .collect();
    let path = dir.join("in.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// Everything in the topic: key and value, by partition and offset.
fn messages(place: &Place, count: usize) -> Vec<(String, Vec<u8>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", place.broker.bootstrap_servers())
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    let (start, mut found) = (Instant::now(), Vec::new());
    while found.len() < count && start.elapsed() < Duration::from_secs(30) {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.unwrap();
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            found.push((key, message.payload().unwrap().to_vec()));
        }
    }
    assert_eq!(found.len(), count);
    found
}

/// How many messages the topic holds.
fn sent(place: &Place) -> i64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", place.broker.bootstrap_servers())
        .create()
        .unwrap();
    let ends = (0..3).map(|partition| {
        consumer
            .fetch_watermarks(TOPIC, partition, Duration::from_secs(10))
            .unwrap()
            .1
    });
    ends.sum()
}

fn batches(place: &Place, count: usize) -> Vec<RequestBatch> {
    let mut batches: Vec<_> = messages(place, count)
        .into_iter()
        .map(|(key, value)| {
            let batch = decode(&value, &Limits::default()).unwrap();
            assert_eq!(key, batch.dedup_key().to_hex());
            assert_eq!(DedupKey::from_hex(&key), Some(batch.dedup_key()));
            batch
        })
        .collect();
    batches.sort_by_key(|batch| batch.batch_seq);
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_arrive_as_batches_and_the_job_is_recorded() {
    let place = place(&[TOPIC, JOBS_TOPIC]);
    let input = Input::Jsonl(vec![lines(place.dir.path(), 250)]);
    let mut progress = Vec::new();
    let receipt = submit(&place.settings, &spec(), &input, |sent| progress.push(sent))
        .await
        .unwrap();
    assert_eq!(
        (receipt.requests_total, receipt.batch_count, receipt.topic.as_str()),
        (250, 7, TOPIC)
    );
    assert_eq!(
        progress.last(),
        Some(&Sent {
            requests: 250,
            requests_total: 250
        })
    );

    let batches = batches(&place, 7);
    let ids: Vec<_> = batches
        .iter()
        .flat_map(|batch| batch.requests.as_ref().unwrap())
        .collect();
    let ids: Vec<_> = ids.iter().map(|request| request.custom_id.to_string()).collect();
    assert_eq!(ids, (0..250).map(|n| format!("r{n}")).collect::<Vec<_>>());
    for (seq, batch) in batches.iter().enumerate() {
        assert_eq!((batch.batch_seq, batch.batch_count), (seq as u32, 7));
        assert_eq!((batch.model.as_str(), batch.endpoint), ("m", Endpoint::Completions));
        assert_eq!(batch.metadata["cost_center"], "42");
        assert_eq!(batch.residency_zone, "local");
    }

    let jobs = records::read(&place.settings).await.unwrap();
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["job-1"]);
    assert_eq!((jobs["job-1"].requests_total, jobs["job-1"].batch_count), (250, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn submitting_again_under_the_same_id_sends_the_same_batches() {
    let place = place(&[TOPIC, JOBS_TOPIC]);
    let input = Input::Jsonl(vec![lines(place.dir.path(), 100)]);
    let spec = spec();
    for _ in 0..2 {
        submit(&place.settings, &spec, &input, |_| {}).await.unwrap();
    }
    let messages = messages(&place, 6);
    assert_eq!(
        messages.iter().collect::<BTreeSet<_>>().len(),
        3,
        "each batch is there twice, byte for byte"
    );
    assert_eq!(sent(&place), 6);
    assert_eq!(records::read(&place.settings).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_never_outgrows_the_message_limit() {
    let mut place = place(&[TOPIC, JOBS_TOPIC]);
    place.settings.limits.message_bytes_max = 10_000.try_into().unwrap();
    let input = Input::Jsonl(vec![lines(place.dir.path(), 250)]);
    let spec = JobSpec {
        batch_size: 250,
        ..spec()
    };
    let receipt = submit(&place.settings, &spec, &input, |_| {}).await.unwrap();
    assert!(receipt.batch_count > 1);
    for (_, value) in messages(&place, receipt.batch_count as usize) {
        assert!(value.len() <= 10_000, "{}", value.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_rows_arrive_as_stored_parts() {
    let place = place(&[TOPIC, JOBS_TOPIC]);
    let columns = ClaimCheckColumns {
        custom_id: "id".to_owned(),
        text: "prompt".to_owned(),
    };
    let template = json!({ "prompt": "{{text}}", "max_tokens": 6 });
    let files = vec![demo("documents/documents.parquet")];
    let input = Input::Parquet {
        files,
        columns,
        template,
    };
    let spec = JobSpec {
        endpoint: Some(Endpoint::Completions),
        batch_size: 1000,
        ..spec()
    };
    let receipt = submit(&place.settings, &spec, &input, |_| {}).await.unwrap();
    assert_eq!((receipt.requests_total, receipt.batch_count), (2500, 3));

    let store = Store::open(&place.settings.store.uri).unwrap();
    for batch in batches(&place, 3) {
        let claim = batch.input.unwrap();
        let relative = claim
            .uri
            .strip_prefix(store.url().as_str())
            .expect("parts lie below the store");
        assert!(relative.starts_with("local/_inputs/job-1/"), "{relative}");
        let file = store
            .objects()
            .get(&store.path(relative))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(hex::encode(Sha256::digest(&file)), claim.sha256);
        assert_eq!(claim.row_groups, [0]);
        let body = claim.body("hello");
        assert_eq!(body, json!({ "prompt": "hello", "max_tokens": 6 }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_if_the_last_line_is_wrong() {
    let place = place(&[TOPIC, JOBS_TOPIC]);
    let path = lines(place.dir.path(), 250);
    let mut content = fs::read_to_string(&path).unwrap();
    content.push_str("\n{}");
    fs::write(&path, content).unwrap();
    let error = submit(&place.settings, &spec(), &Input::Jsonl(vec![path]), |_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SubmitError::Input { place, .. } if place.ends_with("line 251")),
        "{error}"
    );
    assert!(records::read(&place.settings).await.unwrap().is_empty());
    assert_eq!(sent(&place), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named() {
    let mut place = place(&[TOPIC]);
    place.settings.kafka.start_timeout = Duration::from_secs(5);
    let error = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    place.broker.topic_error(JOBS_TOPIC, error).unwrap();
    let input = Input::Jsonl(vec![lines(place.dir.path(), 1)]);
    let error = submit(&place.settings, &spec(), &input, |_| {}).await.unwrap_err();
    let SubmitError::Publish(PublishError::MissingTopic { topic, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(topic, JOBS_TOPIC);
}

#[test]
fn the_command_prints_the_job_and_what_to_do_next() {
    let place = place(&[TOPIC, JOBS_TOPIC]);
    let servers = place.broker.bootstrap_servers();
    let environment = [
        ("BITNET__KAFKA__BOOTSTRAP_SERVERS", servers.as_str()),
        ("BITNET__STORE__URI", &place.settings.store.uri),
    ];
    let file = lines(place.dir.path(), 5);
    let args = [
        "submit",
        file.to_str().unwrap(),
        "--tenant",
        "acme",
        "--model",
        "m",
        "--job-id",
        "nightly",
        "--deadline",
        "8h",
    ];
    let run = bitnet(&args, &environment);
    let said = run.succeeded();
    assert!(
        said.contains("nightly: 5 requests in 1 batches sent to bitnet.requests.local.bulk"),
        "{said}"
    );
    assert!(said.contains("bitnet jobs results nightly -o nightly.jsonl"), "{said}");

    let shown = bitnet(&["jobs", "show", "nightly"], &environment);
    let shown = shown.succeeded().to_owned();
    assert!(
        shown.contains("in_progress") && shown.contains("acme") && shown.contains("deadline"),
        "{shown}"
    );
    let listed = bitnet(&["jobs", "list"], &environment);
    assert!(listed.succeeded().contains("nightly"), "{}", listed.stdout);
    bitnet(&["jobs", "show", "other"], &environment).failed(65, &["other", "jobs list"]);
    bitnet(&["jobs", "results", "nightly"], &environment).failed(65, &["there is no table"]);
}
