//! Reads `bitnet.jobs` from its beginning to its end: the newest record of every job.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::job::{self, Job};

use super::publish::PublishError;
use super::submit::JOBS_TOPIC;
use crate::kafka;
use crate::settings::Settings;

/// How long one poll waits; bounds how late a silent broker is noticed.
const POLL: Duration = Duration::from_millis(100);

/// Every job there is, by id.
///
/// # Errors
/// When the settings are refused, the topic is missing, or the broker falls silent for `kafka.start_timeout`.
pub async fn read(settings: &Settings) -> Result<BTreeMap<String, Job>, PublishError> {
    let mut config = kafka::client(&settings.kafka);
    config
        .set("group.id", &settings.kafka.group_id) // librdkafka asks for one even where no group is joined
        .set("group.protocol", "classic")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true");
    let servers = settings.kafka.bootstrap_servers.clone();
    let patience = settings.kafka.start_timeout;
    let reading = tokio::task::spawn_blocking(move || {
        Reader {
            config,
            servers,
            patience,
        }
        .read()
    });
    reading.await.expect("reading job records does not panic")
}

struct Reader {
    config: ClientConfig,
    servers: String,
    patience: Duration,
}

impl Reader {
    fn read(&self) -> Result<BTreeMap<String, Job>, PublishError> {
        let consumer: BaseConsumer = self.config.create().map_err(PublishError::Settings)?;
        let mut unread = self.assign(&consumer)?;
        let mut jobs = BTreeMap::new();
        let mut heard = Instant::now();
        while unread > 0 {
            match consumer.poll(POLL) {
                None if heard.elapsed() > self.patience => {
                    return Err(self.unreachable(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
                // librdkafka connects again by itself; its silence is what counts.
                Some(Err(error)) => tracing::debug!(%error, "while reading job records"),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    keep(&mut jobs, message.key(), message.payload());
                }
            }
        }
        Ok(jobs)
    }

    fn assign(&self, consumer: &BaseConsumer) -> Result<usize, PublishError> {
        let metadata = consumer
            .fetch_metadata(Some(JOBS_TOPIC), self.patience)
            .map_err(|error| self.unreachable(error))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == JOBS_TOPIC);
        let partitions = topic.map_or(&[][..], |topic| topic.partitions());
        if partitions.is_empty() {
            return Err(PublishError::MissingTopic {
                topic: JOBS_TOPIC.to_owned(),
                servers: self.servers.clone(),
            });
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(JOBS_TOPIC, partition.id(), Offset::Beginning)
                .map_err(|error| self.unreachable(error))?;
        }
        consumer.assign(&list).map_err(|error| self.unreachable(error))?;
        Ok(partitions.len())
    }

    fn unreachable(&self, source: KafkaError) -> PublishError {
        PublishError::Unreachable {
            servers: self.servers.clone(),
            patience: self.patience,
            source,
        }
    }
}

/// Later records replace earlier ones, and one without a value takes the job away.
fn keep(jobs: &mut BTreeMap<String, Job>, key: Option<&[u8]>, payload: Option<&[u8]>) {
    let key = String::from_utf8_lossy(key.unwrap_or_default());
    let Some(payload) = payload else {
        jobs.remove(key.as_ref());
        return;
    };
    match job::decode(payload) {
        Ok(job) => {
            jobs.insert(job.job_id.to_string(), job);
        }
        Err(error) => tracing::warn!(%key, %error, "a record of {JOBS_TOPIC} is left out"),
    }
}
