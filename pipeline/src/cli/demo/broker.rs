//! A broker in the process.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::cli::{Exit, Failure};
use crate::dead_letter;
use crate::jobs::submit::JOBS_TOPIC;
use crate::settings::Settings;

/// Partitions of each request topic.
const PARTITIONS: i32 = 8;

/// Starts librdkafka's mock cluster with the topics that a worker and a submission need.
///
/// It has no CreateTopics API, so they are made through its handle. It lives as long as the value.
pub(super) fn start(settings: &Settings) -> Result<MockCluster<'static, DefaultProducerContext>, Failure> {
    let failed = |error| Failure::new(Exit::Internal, error);
    let cluster = MockCluster::new(1).map_err(failed)?;
    for &lane in &settings.worker.lanes {
        cluster
            .create_topic(&settings.request_topic(lane), PARTITIONS, 1)
            .map_err(failed)?;
    }
    for topic in [JOBS_TOPIC, dead_letter::TOPIC] {
        cluster.create_topic(topic, 1, 1).map_err(failed)?;
    }
    Ok(cluster)
}
