//! The consumer's callbacks: rebalances ask the run loop and wait for its answer, statistics are kept for the reader.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::{Partition, Statistics};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::{PartitionEnds, SourceError, SourceEvent};
use crate::chunk::PartitionId;

/// How long a question about a partition's ends may take.
const ENDS_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Context {
    epoch: u32,
    events: mpsc::Sender<SourceEvent>,
    assigned: AtomicBool,
    statistics: Mutex<Seen>,
}

/// What librdkafka last said of itself.
#[derive(Default)]
struct Seen {
    /// Where each partition's end was reached; since its last seek or assignment.
    ends: HashMap<(String, i32), i64>,
    /// Since when no broker has been up.
    down_since: Option<Instant>,
}

impl Context {
    pub(super) fn new(epoch: u32, events: mpsc::Sender<SourceEvent>) -> Self {
        Context {
            epoch,
            events,
            assigned: AtomicBool::new(false),
            statistics: Mutex::default(),
        }
    }

    /// Whether partitions came since the last call; they come unpaused.
    pub(super) fn take_assigned(&self) -> bool {
        self.assigned.swap(false, Ordering::Relaxed)
    }

    /// The offset at which the partition's end was reached, if it was.
    pub(super) fn end_of(&self, topic: &str, partition: i32) -> Option<i64> {
        self.seen().ends.get(&(topic.to_owned(), partition)).copied()
    }

    /// How long no broker has been up.
    pub(super) fn outage(&self) -> Duration {
        self.seen().down_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks where each partition starts and writes the answers into `list`.
    pub(super) fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> Result<(), KafkaError> {
        let mut partitions = Vec::with_capacity(list.count());
        for element in list.elements() {
            let (low, high) = consumer.fetch_watermarks(element.topic(), element.partition(), ENDS_TIMEOUT)?;
            partitions.push(PartitionEnds {
                partition: self.id(element.topic(), element.partition()),
                low,
                high,
            });
        }
        let (reply, answer) = std_mpsc::sync_channel(1);
        let _ = self.events.blocking_send(SourceEvent::Assigned { partitions, reply });
        // No answer: the loop is stopping, and whatever is read from here on is dropped.
        let starts = answer.recv().unwrap_or_default();
        for (mut element, start) in list.elements().into_iter().zip(starts) {
            element.set_offset(Offset::Offset(start))?;
        }
        // Ends of an earlier stay say nothing about this one.
        self.seen().ends.clear();
        self.assigned.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = list
            .elements()
            .iter()
            .map(|element| self.id(element.topic(), element.partition()))
            .collect();
        let (reply, answer) = std_mpsc::sync_channel(1);
        let lost = consumer.assignment_lost();
        let _ = self.events.blocking_send(SourceEvent::Revoked {
            partitions,
            lost,
            reply,
        });
        // No answer: the loop is gone and has nothing more to commit.
        let _ = answer.recv();
        // librdkafka would remember a pause, and fetch nothing when the partition comes back.
        if let Err(error) = consumer.resume(list) {
            tracing::warn!(%error, "cannot resume partitions that leave; they may stay silent when they come back");
        }
    }

    fn id(&self, topic: &str, partition: i32) -> PartitionId {
        PartitionId {
            topic: topic.to_owned(),
            epoch: self.epoch,
            partition,
        }
    }
}

impl ClientContext for Context {
    /// The poll returns the same errors, and the reader decides about them there.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        let mut seen = self.seen();
        let up = statistics.brokers.values().any(|broker| broker.state == "UP");
        seen.down_since = if up {
            None
        } else {
            seen.down_since.or_else(|| Some(Instant::now()))
        };
        seen.ends = statistics
            .topics
            .into_iter()
            .flat_map(|(topic, found)| {
                // Of a partition that is not being fetched the figures are old.
                let fetched = |found: &Partition| found.fetch_state == "active" && found.eof_offset >= 0;
                let ends = found.partitions.into_iter().filter(move |(_, found)| fetched(found));
                ends.map(move |(partition, found)| ((topic.clone(), partition), found.eof_offset))
            })
            .collect();
    }
}

impl ConsumerContext for Context {
    /// Runs before librdkafka takes the assignment over, so the offsets set here are where it starts.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                if let Err(error) = self.assign(consumer, list) {
                    let _ = self
                        .events
                        .blocking_send(SourceEvent::Failed(SourceError::Fatal(error)));
                }
            }
            Rebalance::Revoke(list) => self.revoke(consumer, list),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed; the group tries again"),
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "cannot commit offsets to Kafka; lag metrics are behind, the tables are not");
        }
    }
}
