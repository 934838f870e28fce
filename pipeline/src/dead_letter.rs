//! Publishes what cannot be read to `bitnet.dead-letters`: the bytes as they came, and where and why in headers.
//!
//! The contract of the headers is in `schemas/contracts/dead_letter.v1.schema.json`. The broker's acknowledgement comes
//! before the message's offset may be sealed, so a dead letter is never lost; after a crash it may come
//! twice, with the same position.

use std::time::Duration;

use jiff::Timestamp;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::ids::Position;

use crate::source::Raw;

const SCHEMA: &str = "bitnet.dead_letter.v1";

/// The topic.
pub const TOPIC: &str = "bitnet.dead-letters";

/// Sends dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    producer: FutureProducer,
    worker_id: String,
}

impl DeadLetters {
    /// Makes the producer; `client` has servers and security, the guarantees are set here.
    ///
    /// # Errors
    /// When librdkafka refuses the properties.
    pub fn new(mut client: ClientConfig, worker_id: String) -> Result<Self, KafkaError> {
        client.set("acks", "all").set("enable.idempotence", "true");
        Ok(DeadLetters {
            producer: client.create()?,
            worker_id,
        })
    }

    /// Sends one and waits for the acknowledgement, for as long as `message.timeout.ms` allows.
    ///
    /// # Errors
    /// When the broker did not acknowledge it.
    pub async fn send(
        &self,
        position: &Position,
        message: &Raw,
        error: &str,
        attempts: u32,
        now: Timestamp,
    ) -> Result<(), KafkaError> {
        let values = [
            ("schema", SCHEMA.to_owned()),
            ("error", error.to_owned()),
            ("topic", position.topic.clone()),
            ("epoch", position.epoch.to_string()),
            ("partition", position.partition.to_string()),
            ("offset", position.offset.to_string()),
            ("attempts", attempts.to_string()),
            ("worker_id", self.worker_id.clone()),
            ("failed_at", now.to_string()),
        ];
        let mut headers = OwnedHeaders::new_with_capacity(values.len());
        for (key, value) in &values {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = FutureRecord::to(TOPIC).payload(&message.payload).headers(headers);
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        self.producer
            .send(record, Duration::ZERO)
            .await
            .map(|_| ())
            .map_err(|(error, _)| error)
    }
}
