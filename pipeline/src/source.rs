//! Reads Kafka: one thread polls, decodes, and hands over deliveries in offset order.
//!
//! The thread never waits for inference. It polls on while the partitions are paused for want of
//! permits, so the group does not evict us. Rebalances reach the run loop through the same channel as
//! the deliveries, hence in order with them, and the callback waits for the loop's answer: where to
//! start (a table's watermark, never the group's committed offset) or that everything is committed.

mod rebalance;
mod reader;

use std::collections::BTreeMap;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use schemas::request::{Limits, RequestBatch};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::chunk::PartitionId;
use rebalance::Context;

/// What the thread needs to know.
pub struct SourceConfig {
    /// Every librdkafka property, group and servers included.
    pub client: ClientConfig,
    /// The topics of our region and lanes.
    pub topics: Vec<String>,
    /// Messages of each topic from read to committed, so that a full lane holds up no other.
    pub in_flight_per_topic: usize,
    /// Which life of the topics.
    pub epoch: u32,
    /// Bounds of a message.
    pub limits: Limits,
    /// How long the broker may take to answer at the start.
    pub start_timeout: Duration,
    /// How long every broker may be away.
    pub outage_max: Duration,
}

/// One message, decoded, with the permit that bounds how many are in flight.
pub struct Delivery {
    /// Whose offset it is.
    pub partition: PartitionId,
    /// Where it stood.
    pub offset: i64,
    /// The batch, or what is wrong and where.
    pub content: Result<RequestBatch, String>,
    /// The message as it came.
    pub raw: Raw,
    /// Returns when the message's rows are in the tables.
    pub permit: OwnedSemaphorePermit,
}

/// A message as it came, for as long as it may end as a dead letter.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Kafka key.
    pub key: Option<Vec<u8>>,
    /// Kafka value.
    pub payload: Vec<u8>,
}

/// A partition as the broker has it.
#[derive(Debug, Clone)]
pub struct PartitionEnds {
    /// Which one.
    pub partition: PartitionId,
    /// First offset still there.
    pub low: i64,
    /// One past the last offset.
    pub high: i64,
}

/// What the thread tells the run loop, in order.
pub enum SourceEvent {
    /// Partitions are ours; answer with the offset to start each one at.
    Assigned {
        /// What the broker has of each.
        partitions: Vec<PartitionEnds>,
        /// Takes the start offsets, in the same order.
        reply: std_mpsc::SyncSender<Vec<i64>>,
    },
    /// Partitions go away; answer once their work is committed or given up.
    Revoked {
        /// Which ones.
        partitions: Vec<PartitionId>,
        /// The group has given them to others already.
        lost: bool,
        /// Lets the rebalance go on.
        reply: std_mpsc::SyncSender<()>,
    },
    /// A message.
    Delivery(Box<Delivery>),
    /// Everything before this offset has been delivered; what is left of it are control records and gaps.
    AtEnd(PartitionId, i64),
    /// Reading cannot go on.
    Failed(SourceError),
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No broker answered in time.
    #[error("cannot reach Kafka at {servers}")]
    Unreachable {
        /// `kafka.bootstrap_servers`.
        servers: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// A topic of ours does not exist.
    #[error("topic {topic} does not exist at {servers}")]
    MissingTopic {
        /// Its name.
        topic: String,
        /// `kafka.bootstrap_servers`.
        servers: String,
    },
    /// The client cannot be made from these properties.
    #[error("librdkafka refuses the settings under kafka.properties")]
    Settings(#[source] KafkaError),
    /// librdkafka gave up.
    #[error("the Kafka consumer cannot go on")]
    Fatal(#[source] KafkaError),
}

enum Command {
    Committed(PartitionId, i64),
    Reassign(PartitionId),
    Stop,
}

/// A consumer that knows its topics and has not joined the group yet.
pub struct Connected {
    consumer: BaseConsumer<Context>,
    config: SourceConfig,
    events: mpsc::Sender<SourceEvent>,
    ends: Vec<PartitionEnds>,
}

impl Connected {
    /// Looks at every partition of the topics.
    ///
    /// # Errors
    /// When the settings are refused, no broker answers in time, or a topic is missing.
    pub fn new(config: SourceConfig, events: mpsc::Sender<SourceEvent>) -> Result<Connected, SourceError> {
        let context = Context::new(config.epoch, events.clone());
        let consumer: BaseConsumer<Context> = config
            .client
            .create_with_context(context)
            .map_err(SourceError::Settings)?;
        let ends = partition_ends(&consumer, &config)?;
        Ok(Connected {
            consumer,
            config,
            events,
            ends,
        })
    }

    /// Every partition of the topics, whoever will read it.
    pub fn ends(&self) -> &[PartitionEnds] {
        &self.ends
    }

    /// How many partitions each topic has.
    pub fn partition_counts(&self) -> BTreeMap<&str, i32> {
        let mut counts = BTreeMap::new();
        for end in &self.ends {
            *counts.entry(end.partition.topic.as_str()).or_insert(0) += 1;
        }
        counts
    }

    /// Joins the group and starts reading.
    ///
    /// # Errors
    /// When the subscription is refused or the system gives no thread.
    pub fn start(self) -> Result<Source, SourceError> {
        let topics: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&topics).map_err(SourceError::Fatal)?;
        let (commands, inbox) = std_mpsc::channel();
        let reader = reader::Reader::new(self.consumer, inbox, self.events, self.config);
        let thread = std::thread::Builder::new()
            .name("kafka-source".into())
            .spawn(move || reader.run())
            .map_err(|error| SourceError::Fatal(KafkaError::ClientCreation(error.to_string())))?;
        Ok(Source { commands, thread })
    }
}

/// The running thread.
pub struct Source {
    commands: std_mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl Source {
    /// Tells the group how far the tables are. For lag metrics only: nothing starts from it.
    pub fn committed(&self, partition: &PartitionId, to: i64) {
        // A reader that is gone needs no telling.
        let _ = self.commands.send(Command::Committed(partition.clone(), to));
    }

    /// Has a partition assigned anew, if it is still ours: the tables moved without us.
    pub fn reassign(&self, partition: &PartitionId) {
        let _ = self.commands.send(Command::Reassign(partition.clone()));
    }

    /// Leaves the group and waits for the thread. The events' receiver must be closed by now.
    pub fn stop(self) {
        let _ = self.commands.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the Kafka thread panicked while stopping");
        }
    }
}

fn partition_ends(consumer: &BaseConsumer<Context>, config: &SourceConfig) -> Result<Vec<PartitionEnds>, SourceError> {
    let servers = || config.client.get("bootstrap.servers").unwrap_or_default().to_owned();
    let unreachable = |source| SourceError::Unreachable {
        servers: servers(),
        source,
    };
    let mut ends = Vec::new();
    for topic in &config.topics {
        let metadata = consumer
            .fetch_metadata(Some(topic), config.start_timeout)
            .map_err(unreachable)?;
        let known = metadata.topics().iter().find(|known| known.name() == topic);
        let partitions = known.map_or(&[][..], |known| known.partitions());
        if partitions.is_empty() {
            return Err(SourceError::MissingTopic {
                topic: topic.clone(),
                servers: servers(),
            });
        }
        for partition in partitions {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition.id(), config.start_timeout)
                .map_err(unreachable)?;
            let partition = PartitionId {
                topic: topic.clone(),
                epoch: config.epoch,
                partition: partition.id(),
            };
            ends.push(PartitionEnds { partition, low, high });
        }
    }
    Ok(ends)
}
