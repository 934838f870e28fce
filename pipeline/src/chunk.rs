//! What leaves the ledger: the finished rows of one unbroken range of offsets.

use std::fmt;

use schemas::billing::BillingRow;
use schemas::ids::DedupKey;
use schemas::result::ResultRow;
use serde::{Deserialize, Serialize};

/// One partition of one life of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// Topic name.
    pub topic: String,
    /// Which life of that topic (`kafka.topic_epoch`).
    pub epoch: u32,
    /// Partition number.
    pub partition: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.epoch, self.partition)
    }
}

/// How one request ended: its two rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The row of `results`.
    pub result: ResultRow,
    /// The row of `billing_events`.
    pub billing: BillingRow,
}

/// Everything the offsets `[from, to)` of one partition ended in.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Whose offsets.
    pub partition: PartitionId,
    /// First offset; the partition's watermark before this chunk.
    pub from: i64,
    /// One past the last offset; the watermark after it.
    pub to: i64,
    /// Rows in Kafka order.
    pub outcomes: Vec<Outcome>,
    /// Request batches seen for the first time here, each with its offset.
    pub dedup_keys: Vec<(DedupKey, i64)>,
    /// Offsets of messages that ended as dead letters.
    pub dead_letters: Vec<i64>,
}
