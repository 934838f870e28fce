//! A whole worker in the process: mock broker, object store in a temporary folder, bundled model.

#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(dead_code, reason = "each of them uses its part")]

use std::time::Duration;

use futures::TryStreamExt;
use pipeline::cli::worker;
use pipeline::dead_letter;
use pipeline::progress::Progress;
use pipeline::run::{self, RunError};
use pipeline::settings::Settings;
use pipeline::sink::Table;
use pipeline::store::Store;
use pipeline::tables::Tables;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use schemas::billing::BillingRow;
use schemas::request::{RequestBatch, ServiceTier};
use schemas::result::ResultRow;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

/// A broker and a store, for as long as the value lives.
pub struct World {
    /// Settings of a worker in it.
    pub settings: Settings,
    broker: MockCluster<'static, DefaultProducerContext>,
    _store: TempDir,
}

impl World {
    /// A broker with `partitions` per request topic, and an empty store.
    pub fn new(partitions: i32) -> World {
        let store = tempfile::tempdir().unwrap();
        let broker = MockCluster::new(1).unwrap();
        let mut settings = Settings::load_with(None, []).unwrap();
        settings.kafka.bootstrap_servers = broker.bootstrap_servers();
        settings.store.uri = format!("file://{}", store.path().display());
        settings.worker.lanes = vec![ServiceTier::Batch];
        // The mock broker lets a new member wait for the sessions of those that left.
        settings.kafka.session_timeout = Duration::from_secs(6);
        settings.engine.kv_bytes_max = 16_777_216.try_into().unwrap();
        broker
            .create_topic(&settings.request_topic(ServiceTier::Batch), partitions, 1)
            .unwrap();
        broker.create_topic(dead_letter::TOPIC, 1, 1).unwrap();
        World {
            settings,
            broker,
            _store: store,
        }
    }

    /// The same world seen by another worker.
    pub fn settings_of(&self, worker: &str) -> Settings {
        let mut settings = self.settings.clone();
        settings.worker.id = worker.to_owned();
        settings
    }

    /// Publishes bytes as they are.
    pub async fn publish(&self, partition: i32, payload: &[u8]) {
        let mut client = rdkafka::ClientConfig::new();
        client
            .set("bootstrap.servers", self.broker.bootstrap_servers())
            .set("message.max.bytes", "10000000");
        let producer: FutureProducer = client.create().unwrap();
        let topic = self.settings.request_topic(ServiceTier::Batch);
        let record = FutureRecord::<[u8], _>::to(&topic)
            .partition(partition)
            .payload(payload);
        producer.send(record, Duration::from_secs(10)).await.unwrap();
    }

    /// Publishes a batch of completions: batch `seq` of job `job`, one request per prompt.
    pub async fn publish_batch(&self, partition: i32, job: &str, seq: u32, prompts: &[(&str, &str)]) {
        self.publish(partition, &serde_json::to_vec(&batch(job, seq, prompts)).unwrap())
            .await;
    }

    /// Runs a worker until everything in the topics is committed.
    pub async fn drain(&self, worker: &str) -> Result<Progress, RunError> {
        let parts = worker::parts(&self.settings_of(worker), true).await.unwrap();
        let (progress, seen) = watch::channel(Progress::default());
        let (_stop, stopping) = watch::channel(false);
        run::run(parts, stopping, progress).await?;
        let done = *seen.borrow();
        Ok(done)
    }

    /// Both tables as any reader sees them, in the order of positions.
    pub async fn rows(&self) -> (Vec<ResultRow>, Vec<BillingRow>) {
        let store = Store::open(&self.settings.store.uri).unwrap();
        let tables = Tables::open(&store, &self.settings.worker.residency_zone)
            .await
            .unwrap();
        let (mut results, mut billing) = (Vec::new(), Vec::new());
        let mut batches = tables.scan(Table::Results, &[], None).await.unwrap();
        while let Some(batch) = batches.try_next().await.unwrap() {
            results.extend(schemas::result::from_batch(&batch).unwrap());
        }
        let mut batches = tables.scan(Table::BillingEvents, &[], None).await.unwrap();
        while let Some(batch) = batches.try_next().await.unwrap() {
            billing.extend(schemas::billing::from_batch(&batch).unwrap());
        }
        results.sort_by_key(|row| (row.position.clone(), row.batch_index));
        billing.sort_by_key(|row| (row.position.clone(), row.batch_index));
        (results, billing)
    }
}

/// A batch of completions, as a submitter would send it.
pub fn batch(job: &str, seq: u32, prompts: &[(&str, &str)]) -> RequestBatch {
    let requests: Vec<Value> = prompts
        .iter()
        .map(|(id, prompt)| {
            json!({ "custom_id": id, "body": { "prompt": prompt, "max_tokens": 6, "temperature": 0, "stop": ["\n"] } })
        })
        .collect();
    serde_json::from_value(json!({
        "schema": "bitnet.request_batch.v1", "job_id": job, "batch_seq": seq, "batch_count": 100,
        "tenant_id": "acme", "project_id": "search", "residency_zone": "local",
        "model": "debian-sections", "endpoint": "/v1/completions", "service_tier": "batch",
        "submitted_at": "2026-11-24T01:00:00Z", "requests": requests,
    }))
    .unwrap()
}
