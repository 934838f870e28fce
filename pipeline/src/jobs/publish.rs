//! Sends messages to Kafka: idempotent, a bounded number in flight, each one confirmed.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};

use crate::kafka;
use crate::settings::Settings;

/// Messages not yet confirmed, at most.
const IN_FLIGHT_MAX: usize = 32;
/// What a message needs beyond its value: its key, and headers if any.
const OVERHEAD_BYTES: usize = 4096;

/// Why messages were not sent.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// librdkafka refuses a property.
    #[error("librdkafka refuses the settings under kafka.properties")]
    Settings(#[source] KafkaError),
    /// No broker answered in time.
    #[error("cannot reach Kafka at {servers} within {patience:?}")]
    Unreachable {
        /// `kafka.bootstrap_servers`.
        servers: String,
        /// `kafka.start_timeout`.
        patience: Duration,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// A topic does not exist.
    #[error("topic {topic} does not exist at {servers}")]
    MissingTopic {
        /// Its name.
        topic: String,
        /// `kafka.bootstrap_servers`.
        servers: String,
    },
    /// A message was not confirmed.
    #[error("a message to {topic} was not confirmed")]
    Send {
        /// The topic.
        topic: String,
        /// What librdkafka said.
        source: KafkaError,
    },
}

/// A producer whose topics exist.
pub struct Publisher {
    producer: FutureProducer,
    in_flight: FuturesUnordered<DeliveryFuture>,
    topic: String,
}

impl Publisher {
    /// Connects and looks for `topics`.
    ///
    /// # Errors
    /// When the settings are refused, no broker answers in time, or a topic is missing.
    pub async fn connect(settings: &Settings, topics: &[&str]) -> Result<Publisher, PublishError> {
        let mut config = kafka::producer(&settings.kafka);
        let message_max = settings.limits.message_bytes_max.get().saturating_add(OVERHEAD_BYTES);
        config.set("message.max.bytes", message_max.to_string());
        if config.get("compression.type").is_none() && config.get("compression.codec").is_none() {
            config.set("compression.type", "zstd");
        }
        let producer: FutureProducer = config.create().map_err(PublishError::Settings)?;
        for topic in topics {
            look_for(&producer, settings, topic).await?;
        }
        Ok(Publisher {
            producer,
            in_flight: FuturesUnordered::new(),
            topic: String::new(),
        })
    }

    /// Hands one message over, and waits if too many are not confirmed yet.
    ///
    /// # Errors
    /// When this message, or one sent before it, was not taken.
    pub async fn send(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<(), PublishError> {
        topic.clone_into(&mut self.topic);
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            self.confirm_one().await?;
        }
        let record = FutureRecord::to(topic).key(key).payload(payload);
        let delivery = self
            .producer
            .send_result(record)
            .map_err(|(source, _)| self.failed(source))?;
        self.in_flight.push(delivery);
        Ok(())
    }

    /// Waits until everything sent is confirmed.
    ///
    /// # Errors
    /// When a message was not taken.
    pub async fn flush(&mut self) -> Result<(), PublishError> {
        while !self.in_flight.is_empty() {
            self.confirm_one().await?;
        }
        Ok(())
    }

    async fn confirm_one(&mut self) -> Result<(), PublishError> {
        match self.in_flight.next().await {
            None | Some(Ok(Ok(_))) => Ok(()),
            Some(Ok(Err((source, _)))) => Err(self.failed(source)),
            Some(Err(_)) => Err(self.failed(KafkaError::Canceled)),
        }
    }

    fn failed(&self, source: KafkaError) -> PublishError {
        PublishError::Send {
            topic: self.topic.clone(),
            source,
        }
    }
}

/// librdkafka blocks while it waits for the broker, so this waits beside the runtime.
async fn look_for(producer: &FutureProducer, settings: &Settings, topic: &str) -> Result<(), PublishError> {
    let servers = || settings.kafka.bootstrap_servers.clone();
    let patience = settings.kafka.start_timeout;
    let (asking, name) = (producer.clone(), topic.to_owned());
    let answer = tokio::task::spawn_blocking(move || asking.client().fetch_metadata(Some(&name), patience));
    let metadata = answer
        .await
        .expect("librdkafka does not panic")
        .map_err(|source| PublishError::Unreachable {
            servers: servers(),
            patience,
            source,
        })?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let refused = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
    match (refused, found) {
        (Some(code), _)
            if code != RDKafkaErrorCode::UnknownTopicOrPartition && code != RDKafkaErrorCode::UnknownTopic =>
        {
            let source = KafkaError::MetadataFetch(code);
            Err(PublishError::Unreachable {
                servers: servers(),
                patience,
                source,
            })
        }
        (None, Some(found)) if !found.partitions().is_empty() => Ok(()),
        _ => Err(PublishError::MissingTopic {
            topic: topic.to_owned(),
            servers: servers(),
        }),
    }
}
