//! Publishes what cannot be read to `bitnet.dead-letters`: the bytes as they came, and where and why in headers.
//!
//! The contract of the headers is in `schemas/contracts/dead_letter.v1.schema.json`. The broker's acknowledgement comes
//! before the message's offset may be sealed, so a dead letter is never lost; after a crash it may come
//! twice, with the same position.

use std::time::Duration;

use jiff::Timestamp;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::ids::Position;
use sha2::{Digest, Sha256};

use crate::source::Raw;

const SCHEMA: &str = "bitnet.dead_letter.v1";

/// The topic.
pub const TOPIC: &str = "bitnet.dead-letters";

/// The most that librdkafka allows.
const MESSAGE_BYTES_MAX: &str = "1000000000";

/// Longest `error` header, in characters.
const ERROR_CHARS_MAX: usize = 4096;

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
        // What arrived must be able to leave; the broker has the last word.
        client.set("message.max.bytes", MESSAGE_BYTES_MAX);
        Ok(DeadLetters {
            producer: client.create()?,
            worker_id,
        })
    }

    /// Sends one and waits for the acknowledgement, for as long as `message.timeout.ms` allows.
    ///
    /// A message that the broker takes no more, because headers have come to it, goes without key and value.
    ///
    /// # Errors
    /// When the broker did not acknowledge it.
    pub async fn send(&self, letter: &DeadLetter<'_>) -> Result<(), KafkaError> {
        match self.send_value(letter, true).await {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                self.send_value(letter, false).await
            }
            sent => sent,
        }
    }

    async fn send_value(&self, letter: &DeadLetter<'_>, whole: bool) -> Result<(), KafkaError> {
        let position = letter.position;
        let mut headers = vec![
            ("schema", SCHEMA.to_owned()),
            ("error", letter.error.chars().take(ERROR_CHARS_MAX).collect()),
            ("topic", position.topic.clone()),
            ("epoch", position.epoch.to_string()),
            ("partition", position.partition.to_string()),
            ("offset", position.offset.to_string()),
            ("attempts", letter.attempts.to_string()),
            ("worker_id", self.worker_id.clone()),
            ("failed_at", letter.failed_at.to_string()),
        ];
        if !whole {
            headers.push(("omitted_bytes", letter.message.payload.len().to_string()));
            headers.push(("omitted_sha256", hex::encode(Sha256::digest(&letter.message.payload))));
        }
        let mut owned = OwnedHeaders::new_with_capacity(headers.len());
        for (key, value) in &headers {
            owned = owned.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = FutureRecord::to(TOPIC).headers(owned);
        if whole {
            record.payload = Some(&letter.message.payload);
            record.key = letter.message.key.as_deref();
        }
        let sent = self.producer.send(record, Duration::ZERO).await;
        sent.map(|_| ()).map_err(|(error, _)| error)
    }
}

/// A message that is set aside.
pub struct DeadLetter<'a> {
    /// Where it stood.
    pub position: &'a Position,
    /// As it came.
    pub message: &'a Raw,
    /// What is wrong, where, and what to do.
    pub error: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// Now.
    pub failed_at: Timestamp,
}
