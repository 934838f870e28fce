//! The consumer alone, against a broker in the process.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use pipeline::chunk::PartitionId;
use pipeline::kafka;
use pipeline::settings::Settings;
use pipeline::source::{Connected, PartitionEnds, Source, SourceConfig, SourceEvent};
use rdkafka::consumer::{BaseConsumer, Consumer};
use schemas::request::{Limits, ServiceTier};
use support::World;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

const PARTITIONS: i32 = 2;
const MESSAGES: i64 = 10;

/// A loop that reads on and commits nothing: what it has seen is where it starts again.
struct Reading {
    events: mpsc::Receiver<SourceEvent>,
    next: HashMap<PartitionId, i64>,
    /// Partitions that left, in order.
    revoked: Vec<PartitionId>,
}

impl Reading {
    /// Joins the group with one message in flight at most.
    fn start(settings: &Settings) -> (Source, Reading) {
        let (sender, events) = mpsc::channel(64);
        let config = SourceConfig {
            client: kafka::consumer(&settings.kafka),
            topics: vec![settings.request_topic(ServiceTier::Batch)],
            in_flight_per_topic: 1,
            epoch: 1,
            limits: Limits {
                message_bytes_max: 1000,
                requests_max: 1,
            },
            start_timeout: Duration::from_secs(10),
            outage_max: Duration::from_secs(10),
        };
        let source = Connected::new(config, sender).unwrap().start().unwrap();
        let reading = Reading {
            events,
            next: HashMap::new(),
            revoked: Vec::new(),
        };
        (source, reading)
    }

    /// Handles events up to the next delivery, whose permit it returns.
    async fn next(&mut self) -> OwnedSemaphorePermit {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), self.events.recv())
                .await
                .unwrap_or_else(|_| panic!("silence at {:?}", self.next));
            if let Some(permit) = self.handle(event.unwrap()) {
                return permit;
            }
        }
    }

    fn handle(&mut self, event: SourceEvent) -> Option<OwnedSemaphorePermit> {
        match event {
            SourceEvent::Assigned { partitions, reply } => {
                let start = |ends: PartitionEnds| *self.next.entry(ends.partition).or_insert(0);
                reply.send(partitions.into_iter().map(start).collect()).unwrap();
            }
            SourceEvent::Revoked { partitions, reply, .. } => {
                self.revoked.extend(partitions);
                reply.send(()).unwrap();
            }
            SourceEvent::Delivery(delivery) => {
                let next = self.next.get_mut(&delivery.partition).unwrap();
                assert_eq!(delivery.offset, *next);
                *next += 1;
                return Some(delivery.permit);
            }
            SourceEvent::AtEnd(..) => {}
            SourceEvent::Failed(error) => panic!("{error}"),
        }
        None
    }

    fn read(&self) -> i64 {
        self.next.values().sum()
    }
}

/// librdkafka keeps a partition's pause while it is another's.
#[tokio::test(flavor = "multi_thread")]
async fn partition_that_left_while_paused_is_read_when_it_comes_back() {
    let world = World::new(PARTITIONS);
    for _ in 0..MESSAGES {
        for partition in 0..PARTITIONS {
            world.publish(partition, b"{}").await;
        }
    }
    let (source, mut reading) = Reading::start(&world.settings);
    let permit = reading.next().await;

    let other: BaseConsumer = kafka::consumer(&world.settings.kafka).create().unwrap();
    other
        .subscribe(&[&world.settings.request_topic(ServiceTier::Batch)])
        .unwrap();
    while other.assignment().unwrap().count() == 0 {
        other.poll(Duration::from_millis(20));
        while let Ok(event) = reading.events.try_recv() {
            assert!(reading.handle(event).is_none(), "a message beyond the permits");
        }
    }
    assert_eq!(reading.revoked.len(), 1);

    drop(permit);
    drop(reading.next().await);
    drop(other);
    while reading.read() < i64::from(PARTITIONS) * MESSAGES {
        drop(reading.next().await);
    }
    drop(reading);
    source.stop();
}
