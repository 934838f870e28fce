//! The polling thread.

use std::collections::{BTreeMap, HashMap};
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
/// Empty polls, each waited out, before ends are believed: five seconds, and statistics are two seconds old at most.
const QUIET_POLLS: u32 = 100;
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
    outage_max: Duration,
    /// Polls in a row that waited for nothing.
    quiet_polls: u32,
    /// Ends that the loop knows.
    told: HashMap<PartitionId, i64>,
    /// Partitions came since the lanes were last paused; they come unpaused, whatever their lane is.
    came_unpaused: bool,
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
        let lane = |topic| Lane {
            topic,
            permits: Arc::new(Semaphore::new(config.in_flight_per_topic)),
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
            outage_max: config.outage_max,
            quiet_polls: 0,
            told: HashMap::new(),
            came_unpaused: false,
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
            let before = Instant::now();
            let polled = self.consumer.poll(POLL);
            // An event that was handled inside the poll ends it early, and tells nothing of messages.
            let quiet = polled.is_none() && before.elapsed() >= POLL;
            self.quiet_polls = if quiet { self.quiet_polls.saturating_add(1) } else { 0 };
            if self.consumer.context().take_assigned() {
                self.came_unpaused = true;
                self.quiet_polls = 0;
                self.told.clear();
            }
            match polled {
                None => self.tell_ends()?,
                Some(Ok(message)) => {
                    let Some(permit) = permit(&mut self.lanes, &self.runtime, message.topic()) else {
                        return Ok(());
                    };
                    let delivery = self.decode(&message, permit);
                    drop(message);
                    self.tell(SourceEvent::Delivery(Box::new(delivery)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if is_fatal(&error) => return Err(error),
                Some(Err(error)) => tracing::warn!(%error, "Kafka reports a problem; reading goes on"),
            }
            if self.consumer.context().outage() >= self.outage_max {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown));
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
        let sought = self.consumer.seek_partitions(list, SEEK_TIMEOUT)?;
        sought.elements().iter().try_for_each(|element| element.error())?;
        Ok(())
    }

    fn pause_and_resume(&mut self) -> Result<(), KafkaError> {
        let came_unpaused = std::mem::take(&mut self.came_unpaused);
        let mut moved = false;
        for lane in &mut self.lanes {
            lane.next = lane
                .next
                .take()
                .or_else(|| lane.permits.clone().try_acquire_owned().ok());
            let pause = lane.next.is_none();
            if pause == lane.paused && !(pause && came_unpaused) {
                continue;
            }
            let assignment = self.consumer.assignment()?;
            let mut partitions = TopicPartitionList::new();
            for element in assignment.elements_for_topic(&lane.topic) {
                partitions.add_partition(&lane.topic, element.partition());
            }
            if pause {
                self.consumer.pause(&partitions)?;
            } else {
                self.consumer.resume(&partitions)?;
            }
            lane.paused = pause;
            moved = true;
        }
        // What statistics said of ends was of another position.
        if moved {
            self.quiet_polls = 0;
            self.told.clear();
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

    /// Tells how far partitions reach that have nothing more to read: control records bring no message.
    fn tell_ends(&mut self) -> Result<(), KafkaError> {
        if self.quiet_polls < QUIET_POLLS || self.lanes.iter().any(|lane| lane.paused) {
            return Ok(());
        }
        let assignment = self.consumer.assignment()?;
        for element in assignment.elements() {
            let (topic, number) = (element.topic(), element.partition());
            let Some(end) = self.consumer.context().end_of(topic, number) else {
                continue;
            };
            let partition = self.id(topic, number);
            if self.told.insert(partition.clone(), end) != Some(end) {
                self.tell(SourceEvent::AtEnd(partition, end));
            }
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
    // With the reset and the truncation librdkafka stops fetching: messages that should be there are gone.
    use RDKafkaErrorCode::{
        Authentication, AutoOffsetReset, GroupAuthorizationFailed, LogTruncation, TopicAuthorizationFailed,
        UnknownTopicOrPartition,
    };
    match error {
        KafkaError::MessageConsumptionFatal(_) => true,
        KafkaError::MessageConsumption(code) => matches!(
            code,
            Authentication
                | AutoOffsetReset
                | GroupAuthorizationFailed
                | LogTruncation
                | TopicAuthorizationFailed
                | UnknownTopicOrPartition
        ),
        _ => false,
    }
}
