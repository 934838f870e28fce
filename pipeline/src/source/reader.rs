//! The polling thread.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::request::{self, Limits};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::rebalance::Context;
use super::{Command, Delivery, Raw, SourceConfig, SourceError, SourceEvent};
use crate::chunk::PartitionId;

/// How long one poll waits for a message.
const POLL: Duration = Duration::from_millis(50);
/// How long nothing may come before a partition that reported its end counts as silent.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a seek may take.
const SEEK_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Reader {
    consumer: BaseConsumer<Context>,
    inbox: std_mpsc::Receiver<Command>,
    events: mpsc::Sender<SourceEvent>,
    lanes: Vec<Lane>,
    runtime: Handle,
    limits: Limits,
    epoch: u32,
    /// Partition numbers that reported their end since their last message (librdkafka leaves the topic out).
    at_end: HashSet<i32>,
    last_delivery: Instant,
    silence_told: bool,
}

/// A topic with its share of the permits; paused while it has none.
struct Lane {
    topic: String,
    permits: Arc<Semaphore>,
    next: Option<OwnedSemaphorePermit>,
    paused: bool,
}

impl Reader {
    pub(super) fn new(
        consumer: BaseConsumer<Context>,
        inbox: std_mpsc::Receiver<Command>,
        events: mpsc::Sender<SourceEvent>,
        config: SourceConfig,
    ) -> Self {
        let share = (config.in_flight_max / config.topics.len()).max(1);
        let lane = |topic| Lane {
            topic,
            permits: Arc::new(Semaphore::new(share)),
            next: None,
            paused: false,
        };
        Reader {
            consumer,
            inbox,
            events,
            lanes: config.topics.into_iter().map(lane).collect(),
            runtime: Handle::current(),
            limits: config.limits,
            epoch: config.epoch,
            at_end: HashSet::new(),
            last_delivery: Instant::now(),
            silence_told: false,
        }
    }

    pub(super) fn run(mut self) {
        if let Err(error) = self.read() {
            self.tell(SourceEvent::Failed(SourceError::Fatal(error)));
        }
    }

    /// Reads until the loop says stop, hangs up, or the client fails for good.
    fn read(&mut self) -> Result<(), KafkaError> {
        while self.obey()? && !self.events.is_closed() {
            self.pause_and_resume()?;
            match self.consumer.poll(POLL) {
                None => self.tell_silence()?,
                Some(Ok(message)) => {
                    let Some(permit) = permit(&mut self.lanes, &self.runtime, message.topic()) else {
                        return Ok(());
                    };
                    let delivery = self.decode(&message, permit);
                    drop(message);
                    self.last_delivery = Instant::now();
                    self.silence_told = false;
                    self.at_end.remove(&delivery.partition.partition);
                    self.tell(SourceEvent::Delivery(Box::new(delivery)));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.at_end.insert(partition);
                }
                Some(Err(error)) if is_fatal(&error) => return Err(error),
                Some(Err(error)) => tracing::warn!(%error, "Kafka reports a problem; reading goes on"),
            }
        }
        Ok(())
    }

    /// Carries out the loop's commands; false to stop.
    fn obey(&mut self) -> Result<bool, KafkaError> {
        let mut newest = BTreeMap::new();
        let goes_on = loop {
            match self.inbox.try_recv() {
                Ok(Command::Committed(partition, to)) => {
                    newest.insert(partition, to);
                }
                Ok(Command::Reassign(partition)) => self.reassign(&partition)?,
                Ok(Command::Stop) | Err(std_mpsc::TryRecvError::Disconnected) => break false,
                Err(std_mpsc::TryRecvError::Empty) => break true,
            }
        };
        if !newest.is_empty() {
            self.commit(newest, if goes_on { CommitMode::Async } else { CommitMode::Sync });
        }
        Ok(goes_on)
    }

    fn commit(&self, newest: BTreeMap<PartitionId, i64>, mode: CommitMode) {
        let mut offsets = TopicPartitionList::with_capacity(newest.len());
        for (partition, to) in newest {
            offsets
                .add_partition_offset(&partition.topic, partition.partition, Offset::Offset(to))
                .expect("the end of a chunk is a valid offset");
        }
        if let Err(error) = self.consumer.commit(&offsets, mode) {
            tracing::warn!(%error, "cannot commit offsets to Kafka; lag metrics are behind, the tables are not");
        }
    }

    /// Asks the loop anew where a partition of ours starts, and goes there.
    fn reassign(&self, partition: &PartitionId) -> Result<(), KafkaError> {
        if self
            .consumer
            .assignment()?
            .find_partition(&partition.topic, partition.partition)
            .is_none()
        {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&partition.topic, partition.partition);
        self.consumer.context().assign(&self.consumer, &list)?;
        self.consumer.seek_partitions(list, SEEK_TIMEOUT)?;
        Ok(())
    }

    fn pause_and_resume(&mut self) -> Result<(), KafkaError> {
        let assigned = self.consumer.context().take_assigned();
        self.silence_told &= !assigned;
        for lane in &mut self.lanes {
            lane.next = lane
                .next
                .take()
                .or_else(|| lane.permits.clone().try_acquire_owned().ok());
            let pause = lane.next.is_none();
            // Partitions come unpaused, whatever their lane is.
            if pause == lane.paused && !(pause && assigned) {
                continue;
            }
            let assignment = self.consumer.assignment()?;
            let mut partitions = TopicPartitionList::new();
            for element in assignment.elements_for_topic(&lane.topic) {
                partitions.add_partition(&lane.topic, element.partition());
            }
            if pause {
                self.consumer.pause(&partitions)?
            } else {
                self.consumer.resume(&partitions)?
            }
            lane.paused = pause;
        }
        Ok(())
    }

    fn decode(&self, message: &BorrowedMessage<'_>, permit: OwnedSemaphorePermit) -> Delivery {
        let payload = message.payload().unwrap_or_default();
        let content = request::decode(payload, &self.limits).map_err(|error| error.to_string());
        let raw = Raw {
            key: message.key().map(<[u8]>::to_vec),
            payload: payload.to_vec(),
        };
        let partition = self.id(message.topic(), message.partition());
        Delivery {
            partition,
            offset: message.offset(),
            content,
            raw,
            permit,
        }
    }

    fn tell_silence(&mut self) -> Result<(), KafkaError> {
        let paused = self.lanes.iter().any(|lane| lane.paused);
        if paused || self.silence_told || self.last_delivery.elapsed() < SILENCE {
            return Ok(());
        }
        let assignment = self.consumer.assignment()?;
        let elements = assignment.elements();
        let at_end = elements
            .iter()
            .filter(|element| self.at_end.contains(&element.partition()));
        let silent: Vec<_> = at_end
            .map(|element| self.id(element.topic(), element.partition()))
            .collect();
        if !silent.is_empty() {
            self.silence_told = silent.len() == elements.len();
            self.tell(SourceEvent::Silent(silent));
        }
        Ok(())
    }

    fn id(&self, topic: &str, partition: i32) -> PartitionId {
        PartitionId {
            topic: topic.to_owned(),
            epoch: self.epoch,
            partition,
        }
    }

    fn tell(&self, event: SourceEvent) {
        // A loop that no longer listens is stopping, and so shall we: `read` sees the closed channel.
        let _ = self.events.blocking_send(event);
    }
}

/// The permit at hand; a partition assigned during the last poll may deliver when there is none.
fn permit(lanes: &mut [Lane], runtime: &Handle, topic: &str) -> Option<OwnedSemaphorePermit> {
    let lane = lanes.iter_mut().find(|lane| lane.topic == topic)?;
    let permits = &lane.permits;
    lane.next
        .take()
        .or_else(|| runtime.block_on(permits.clone().acquire_owned()).ok())
}

fn is_fatal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        Authentication, GroupAuthorizationFailed, TopicAuthorizationFailed, UnknownTopicOrPartition,
    };
    match error {
        KafkaError::MessageConsumptionFatal(_) => true,
        KafkaError::MessageConsumption(code) => matches!(
            code,
            Authentication | GroupAuthorizationFailed | TopicAuthorizationFailed | UnknownTopicOrPartition
        ),
        _ => false,
    }
}
