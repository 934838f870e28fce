//! Stage, seal, apply: how a chunk gets into both tables exactly once.
//!
//! Each step may be lost or repeated at any point. Before the seal nothing happened; after it the
//! chunk's fate is decided, and [`Committer::recover`] or the next [`Committer::apply`] finishes it,
//! in this process or another. The caller's part: one chunk of a partition at a time, in offset order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::billing::BillingRow;
use schemas::ids::DedupKey;

use crate::chunk::{Chunk, PartitionId};
use crate::intent::seen::Seen;
use crate::intent::{Intent, IntentError, Intents, Seal};
use crate::sink::{Sink, StageError, StagedFiles, Table};
use crate::store::Store;
use crate::tables::{Stuck, TableError, Tables};

/// Bounds of the committer.
#[derive(Debug, Clone, Copy)]
pub struct CommitSettings {
    /// How long a seal of unknown outcome is asked after before the caller hears of it.
    pub seal_age_max: Duration,
    /// Intents between two checkpoints of a partition's dedup keys.
    pub intents_per_checkpoint: usize,
}

impl Default for CommitSettings {
    fn default() -> Self {
        CommitSettings {
            seal_age_max: Duration::from_secs(30),
            intents_per_checkpoint: 64,
        }
    }
}

/// Why a chunk is not committed, or a partition not recovered.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The range does not continue the partition. Stop that partition: rows would be lost or doubled.
    #[error("{partition} stands at offset {watermark}, but a chunk starts at {from}")]
    OutOfOrder {
        /// Whose range.
        partition: PartitionId,
        /// Where the next chunk must start.
        watermark: i64,
        /// Where it starts.
        from: i64,
    },
    /// The chunk's rows cannot be written as Parquet.
    #[error("cannot stage a chunk")]
    Stage(#[from] StageError),
    /// An intent could not be written or read.
    #[error("cannot seal or recover a chunk")]
    Intent(#[from] IntentError),
    /// A table could not be committed to or read.
    #[error("cannot commit to the tables")]
    Table(#[from] TableError),
}

impl CommitError {
    /// Whether the cause is an outage: pause, then call again with the same chunk.
    /// Otherwise someone has to look; nothing wrong was written.
    pub fn is_transient(&self) -> bool {
        match self {
            CommitError::OutOfOrder { .. } => false,
            CommitError::Stage(error) => error.is_outage(),
            CommitError::Intent(error) => error.is_outage(),
            CommitError::Table(error) => error.is_outage(),
        }
    }
}

/// Where a partition stands after recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Next offset to read. None if nothing was ever committed: read from the log's start, while the
    /// first chunk's `from` is 0 all the same.
    pub watermark: Option<i64>,
    /// Every request batch of the partition with the offset of its first delivery.
    pub seen: HashMap<DedupKey, i64>,
    /// How many workers died while they had a message that stands at the watermark.
    pub deaths: u32,
}

/// A chunk whose fate is decided.
#[derive(Debug, Clone)]
pub struct Sealed {
    intent: Arc<Intent>,
    adopted: bool,
}

impl Sealed {
    /// Whose offsets.
    pub fn partition(&self) -> &PartitionId {
        &self.intent.partition
    }

    /// First offset.
    pub fn from(&self) -> i64 {
        self.intent.from
    }

    /// One past the last offset: where the next chunk starts. Differs from the chunk's own if adopted.
    pub fn to(&self) -> i64 {
        self.intent.to
    }

    /// Another writer's intent stood there first. Our rows are dropped; forget what lies before `to`,
    /// and read again from there.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Request batches delivered for the first time in it.
    pub fn dedup_keys(&self) -> impl Iterator<Item = (DedupKey, i64)> + '_ {
        self.intent.dedup_keys.iter().map(|&(key, offset)| (key.0, offset))
    }

    /// Rows in each table.
    pub fn rows(&self) -> u64 {
        self.intent.rows
    }
}

/// Commits chunks of one zone's partitions. Share it with `Arc`.
#[derive(Debug)]
pub struct Committer {
    worker_id: String,
    settings: CommitSettings,
    sink: Sink,
    intents: Intents,
    tables: Tables,
    partitions: Mutex<HashMap<PartitionId, Progress>>,
}

/// What is known of a partition since it was recovered.
#[derive(Debug, Default)]
struct Progress {
    /// Where recovery ended, and how many workers had died there.
    recovered_to: i64,
    deaths: u32,
    /// Our own life is noted there too.
    at_risk: bool,
    /// End of the last sealed intent.
    sealed_to: i64,
    /// End of the last applied one.
    applied_to: i64,
    /// Dedup keys of the intents in `[keys_from, applied_to)`, those since the last checkpoint of them.
    keys_from: i64,
    keys: Vec<(DedupKey, i64)>,
    intents: usize,
}

impl Committer {
    /// Opens the zone's tables, and makes them if they are missing.
    ///
    /// `worker_id` names this worker in intents. Needs a multi-threaded Tokio runtime.
    pub async fn open(
        store: Store,
        zone: &str,
        worker_id: &str,
        settings: CommitSettings,
    ) -> Result<Committer, CommitError> {
        Ok(Committer {
            worker_id: worker_id.to_owned(),
            settings,
            sink: Sink::new(store.clone(), zone),
            intents: Intents::new(store.clone(), zone),
            tables: Tables::create(&store, zone).await?,
            partitions: Mutex::default(),
        })
    }

    /// Records how many partitions a topic's epoch has; an error if it began with another number.
    pub async fn declare_epoch(&self, topic: &str, epoch: u32, partitions: i32) -> Result<(), CommitError> {
        Ok(self.intents.declare_epoch(topic, epoch, partitions).await?)
    }

    /// The tables, for reading.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How far both tables are, partition by partition.
    pub async fn watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<i64>, CommitError> {
        let results = self.tables.watermarks(Table::Results, partitions).await?;
        let billing = self.tables.watermarks(Table::BillingEvents, partitions).await?;
        Ok(results
            .into_iter()
            .zip(billing)
            .map(|(results, billing)| results.min(billing))
            .collect())
    }

    /// Applies what is sealed but not in the tables and says where the partition goes on.
    ///
    /// To be called when a partition is assigned, before its first chunk.
    pub async fn recover(&self, partition: &PartitionId) -> Result<Recovered, CommitError> {
        let results = self.tables.watermark(Table::Results, partition).await?;
        let billing = self.tables.watermark(Table::BillingEvents, partition).await?;
        let checkpoint = self.intents.seen(partition).await?;
        let start = results.min(billing).min(checkpoint.to);
        let chain: Vec<_> = self
            .intents
            .chain(partition, start)
            .await?
            .into_iter()
            .map(Arc::new)
            .collect();
        let reached = chain.last().map_or(start, |last: &Arc<Intent>| last.to);
        if reached < results.max(billing).max(checkpoint.to) {
            return Err(self.intents.missing(partition, reached).into());
        }
        self.apply_intents(&chain).await?;

        let later = chain.iter().filter(|intent| intent.from >= checkpoint.to);
        let deaths = self.intents.deaths(partition, reached).await?;
        let mut progress = Progress {
            recovered_to: reached,
            deaths,
            sealed_to: reached,
            applied_to: reached,
            keys_from: checkpoint.to,
            ..Progress::default()
        };
        later.for_each(|intent| progress.note(intent));
        let seen = checkpoint.keys.iter().chain(&progress.keys).copied().collect();
        self.progress().insert(partition.clone(), progress);
        self.save_seen_if_due(partition).await;
        Ok(Recovered {
            watermark: (reached > 0).then_some(reached),
            seen,
            deaths,
        })
    }

    /// Takes note that this worker is about to take the partition's first message since recovery apart.
    pub async fn risk(&self, partition: &PartitionId) -> Result<(), CommitError> {
        let (from, deaths) = match self.progress().get_mut(partition) {
            Some(progress) => {
                progress.at_risk = true;
                (progress.recovered_to, progress.deaths)
            }
            None => return Ok(()),
        };
        Ok(self
            .intents
            .note_deaths(partition, from, deaths.saturating_add(1))
            .await?)
    }

    /// Lets a partition go in good order: whatever it was, no message killed this worker.
    pub async fn release(&self, partition: &PartitionId) -> Result<(), CommitError> {
        let Some(progress) = self.progress().remove(partition) else {
            return Ok(());
        };
        if !progress.at_risk || progress.applied_to != progress.recovered_to {
            return Ok(());
        }
        Ok(self
            .intents
            .note_deaths(partition, progress.recovered_to, progress.deaths)
            .await?)
    }

    /// Stages the chunk's rows and seals them.
    ///
    /// After a transient error call it again with the same chunk: had the seal landed unnoticed, it
    /// is found and comes back as adopted.
    pub async fn seal(&self, chunk: &Chunk) -> Result<Sealed, CommitError> {
        let sealed_to = self
            .progress()
            .get(&chunk.partition)
            .map_or(0, |progress| progress.sealed_to);
        if chunk.from != sealed_to || chunk.to <= chunk.from {
            let partition = chunk.partition.clone();
            return Err(CommitError::OutOfOrder {
                partition,
                watermark: sealed_to,
                from: chunk.from,
            });
        }
        let files = self.sink.stage(chunk).await?;
        self.seal_files(chunk, files).await
    }

    /// As [`Committer::seal`], of billing rows that no result belongs to: one offset of the partition each.
    pub async fn seal_billing(
        &self,
        partition: &PartitionId,
        from: i64,
        rows: Vec<BillingRow>,
    ) -> Result<Sealed, CommitError> {
        let chunk = Chunk {
            partition: partition.clone(),
            from,
            to: from.saturating_add(i64::try_from(rows.len()).unwrap_or(i64::MAX)),
            outcomes: Vec::new(),
            dedup_keys: Vec::new(),
            dead_letters: Vec::new(),
        };
        let files = self.sink.stage_rows(partition, from, Vec::new(), rows).await?;
        self.seal_files(&chunk, files).await
    }

    async fn seal_files(&self, chunk: &Chunk, files: StagedFiles) -> Result<Sealed, CommitError> {
        let intent = Intent::new(chunk, files, &self.worker_id);
        let sealed = match self.intents.seal(&intent, self.settings.seal_age_max).await? {
            Seal::Ours => Sealed {
                intent: Arc::new(intent),
                adopted: false,
            },
            Seal::Theirs(theirs) => {
                tracing::warn!(
                    partition = %chunk.partition,
                    from = chunk.from,
                    to = theirs.to,
                    worker = theirs.worker_id,
                    "another worker sealed this range first; its rows stand"
                );
                self.sink.discard(&intent.files).await;
                Sealed {
                    intent: Arc::from(theirs),
                    adopted: true,
                }
            }
        };
        self.progress().entry(chunk.partition.clone()).or_default().sealed_to = sealed.to();
        Ok(sealed)
    }

    /// Brings sealed chunks into both tables: one commit to `results`, then one to `billing_events`.
    ///
    /// May be repeated after any error. Out of order: the others of the group are applied all the same.
    pub async fn apply(&self, sealed: &[Sealed]) -> Result<(), CommitError> {
        let intents: Vec<Arc<Intent>> = sealed.iter().map(|sealed| sealed.intent.clone()).collect();
        self.apply_intents(&intents).await?;
        let mut noted = Vec::new();
        {
            let mut partitions = self.progress();
            for intent in &intents {
                let progress = partitions.entry(intent.partition.clone()).or_default();
                if progress.applied_to == intent.from {
                    progress.applied_to = intent.to;
                    progress.note(intent);
                    noted.push(&intent.partition);
                }
            }
        }
        for partition in noted {
            self.save_seen_if_due(partition).await;
        }
        Ok(())
    }

    async fn apply_intents(&self, intents: &[Arc<Intent>]) -> Result<(), CommitError> {
        if intents.is_empty() {
            return Ok(());
        }
        let mut stuck: Option<Stuck> = None;
        for table in Table::ALL {
            stuck = self.tables.commit(table, intents).await?.into_iter().next().or(stuck);
        }
        for table in Table::ALL {
            if let Err(error) = self.tables.checkpoint_if_due(table).await {
                tracing::warn!(url = %self.tables.url(table), %error, "no checkpoint this time; readers go without");
            }
        }
        match stuck {
            Some(Stuck {
                partition,
                watermark,
                from,
            }) => Err(CommitError::OutOfOrder {
                partition,
                watermark,
                from,
            }),
            None => Ok(()),
        }
    }

    /// Writes the partition's dedup keys once enough intents have gone by. Losing one costs only time,
    /// so a failure is logged and the next intent tries again.
    async fn save_seen_if_due(&self, partition: &PartitionId) {
        let (to, keys_from, later) = {
            let partitions = self.progress();
            let Some(progress) = partitions.get(partition) else {
                return;
            };
            if progress.intents < self.settings.intents_per_checkpoint {
                return;
            }
            (progress.applied_to, progress.keys_from, progress.keys.clone())
        };
        match self.save_seen(partition, keys_from, later, to).await {
            Ok(()) => {
                if let Some(progress) = self.progress().get_mut(partition) {
                    (progress.keys_from, progress.keys, progress.intents) = (to, Vec::new(), 0);
                }
            }
            Err(error) => tracing::warn!(%partition, %error, "no checkpoint of dedup keys this time"),
        }
    }

    async fn save_seen(
        &self,
        partition: &PartitionId,
        keys_from: i64,
        later: Vec<(DedupKey, i64)>,
        to: i64,
    ) -> Result<(), IntentError> {
        let Seen { to: known_to, mut keys } = self.intents.seen(partition).await?;
        if known_to >= to {
            return Ok(());
        }
        if known_to < keys_from {
            return Err(self.intents.missing(partition, known_to));
        }
        keys.extend(later.into_iter().filter(|&(_, offset)| offset >= known_to));
        self.intents.save_seen(partition, Seen { to, keys }).await
    }

    fn progress(&self) -> MutexGuard<'_, HashMap<PartitionId, Progress>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn note(&mut self, intent: &Intent) {
        self.intents += 1;
        self.keys
            .extend(intent.dedup_keys.iter().map(|&(key, offset)| (key.0, offset)));
    }
}
