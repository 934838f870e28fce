//! Adds sealed chunks to a table: one log entry carries all that are at hand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Field, Schema};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::schema::SchemaRef;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{Engine, EngineData, KernelError, KernelResult, SnapshotRef};

use super::{DeltaTable, KernelEngine, TableError, Tables, app_id, lock};
use crate::chunk::PartitionId;
use crate::intent::Intent;
use crate::sink::{StagedFile, Table};

/// How often a commit is tried before the caller hears of it. With ten writers, four or five happen.
const ATTEMPTS_MAX: u32 = 40;
/// Replies lost before the caller hears of it, who knows how long to be patient.
const OUTAGES_MAX: u32 = 2;
const PAUSE_MAX: Duration = Duration::from_secs(1);
pub(super) const ENGINE_INFO: &str = concat!("bitnet/", env!("CARGO_PKG_VERSION"));

/// A partition whose intents do not start where the table's rows of it end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Which one.
    pub partition: PartitionId,
    /// Where the table's rows end.
    pub watermark: i64,
    /// Where the intent starts.
    pub from: i64,
}

/// How one attempt to write the next log entry ended.
pub(super) enum Attempt<T> {
    /// What was to be in the table is there.
    Done(T),
    /// Another writer took the next log entry.
    Conflict,
}

/// What of the intents a snapshot still lacks.
#[derive(Default)]
struct Missing {
    watermarks: BTreeMap<PartitionId, i64>,
    files: Vec<StagedFile>,
    stuck: Vec<Stuck>,
}

impl Tables {
    /// Adds the files of every intent that the table does not have yet, in one log entry.
    ///
    /// Intents of one partition must come in order. Done already: nothing happens, so the call may be
    /// repeated after any failure. Partitions whose intents do not fit are left out and returned.
    pub async fn commit(&self, table: Table, intents: &[Arc<Intent>]) -> Result<Vec<Stuck>, TableError> {
        let table = self.table(table);
        table.persist(|| table.attempt(intents.to_vec())).await
    }
}

impl DeltaTable {
    /// Attempts until one is done. Each must begin with a fresh snapshot, and find out from it whether one
    /// before it landed unnoticed.
    pub(super) async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, TableError>
    where
        F: Future<Output = Result<Attempt<T>, TableError>>,
    {
        let (mut attempts, mut outages) = (1, 0);
        loop {
            match attempt().await {
                Ok(Attempt::Done(done)) => return Ok(done),
                Ok(Attempt::Conflict) if attempts == ATTEMPTS_MAX => {
                    let url = self.url.clone();
                    return Err(TableError::Contended { url, attempts });
                }
                Ok(Attempt::Conflict) => tracing::debug!(table = %self.url, attempts, "another writer came first"),
                // The commit may have landed all the same: the next attempt looks.
                Err(error) if error.is_outage() && outages < OUTAGES_MAX => outages += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause(attempts)).await;
            attempts += 1;
        }
    }

    /// One attempt on a fresh snapshot, whose watermarks also tell whether an earlier one succeeded.
    async fn attempt(&self, intents: Vec<Arc<Intent>>) -> Result<Attempt<Vec<Stuck>>, TableError> {
        let snapshot = self.snapshot().await?;
        let table = self.clone();
        self.run(move |engine| {
            let missing = table.missing(&snapshot, engine, &intents)?;
            if missing.watermarks.is_empty() {
                return Ok(Attempt::Done(missing.stuck));
            }
            let result = commit(engine, snapshot, table.table, &missing)?;
            table.ended(result, &missing.watermarks, missing.stuck)
        })
        .await
    }

    /// Takes note of a log entry of ours.
    pub(super) fn ended<T>(
        &self,
        result: CommitResult,
        watermarks: &BTreeMap<PartitionId, i64>,
        done: T,
    ) -> KernelResult<Attempt<T>> {
        match result {
            CommitResult::Committed(committed) => {
                let since = committed.post_commit_stats().commits_since_checkpoint;
                self.commits_since_checkpoint.store(since, Ordering::Relaxed);
                lock(&self.watermarks).committed(committed.commit_version(), watermarks);
                if let Some(snapshot) = committed.post_commit_snapshot() {
                    self.remember(snapshot.clone());
                }
                Ok(Attempt::Done(done))
            }
            CommitResult::Conflicted(_) => Ok(Attempt::Conflict),
            CommitResult::Retryable(failed) => Err(failed.error),
        }
    }

    /// Compares the intents with the snapshot's watermarks. The kernel would accept any watermark, so
    /// the check that each range starts exactly where the last ended is ours.
    fn missing(&self, snapshot: &SnapshotRef, engine: &KernelEngine, intents: &[Arc<Intent>]) -> KernelResult<Missing> {
        let mut watermarks = lock(&self.watermarks);
        let mut missing = Missing::default();
        let mut reached: HashMap<&PartitionId, i64> = HashMap::new();
        for intent in intents {
            let watermark = match reached.get(&intent.partition) {
                Some(&watermark) => watermark,
                None => watermarks.at(snapshot, engine, &intent.partition)?,
            };
            reached.insert(&intent.partition, watermark);
            if watermark >= intent.to {
                continue;
            }
            if watermark != intent.from {
                let partition = intent.partition.clone();
                missing.stuck.push(Stuck {
                    partition,
                    watermark,
                    from: intent.from,
                });
                continue;
            }
            reached.insert(&intent.partition, intent.to);
            missing.watermarks.insert(intent.partition.clone(), intent.to);
            missing.files.extend_from_slice(intent.files.of(self.table));
        }
        Ok(missing)
    }
}

fn commit(engine: &KernelEngine, snapshot: SnapshotRef, table: Table, missing: &Missing) -> KernelResult<CommitResult> {
    let mut builder = snapshot.update_table(UpdateTableOperation::StreamingUpdate, ENGINE_INFO, true);
    for (partition, &to) in &missing.watermarks {
        builder = builder.with_transaction_id(app_id(partition), to);
    }
    let mut transaction = builder.build(engine, Box::new(FileSystemCommitter::new()))?;
    if !missing.files.is_empty() {
        let stats_schema = transaction.stats_schema()?;
        transaction.add_files(add_actions(engine, table, &missing.files, stats_schema)?);
    }
    transaction.commit(engine)
}

/// The files as the rows that the kernel turns into `add` actions.
pub(super) fn add_actions(
    engine: &KernelEngine,
    table: Table,
    files: &[StagedFile],
    stats_schema: SchemaRef,
) -> KernelResult<Box<dyn EngineData>> {
    let names = MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    };
    let mut partition_values = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for file in files {
        partition_values.keys().append_value(table.partition_column());
        partition_values.values().append_value(&file.partition_value);
        partition_values.append(true)?;
    }
    let stats_json: StringArray = files.iter().map(|file| Some(file.stats.to_string())).collect();
    let stats_json = RecordBatch::try_from_iter([("stats", Arc::new(stats_json) as ArrayRef)])?;
    let stats = engine
        .json_handler()
        .parse_json(Box::new(ArrowEngineData::new(stats_json)), stats_schema)?;
    let lengths = |of: fn(&StagedFile) -> i64| Arc::new(files.iter().map(of).collect::<Int64Array>());
    let columns: [(&str, ArrayRef); 5] = [
        (
            "path",
            Arc::new(files.iter().map(|file| Some(&file.path)).collect::<StringArray>()),
        ),
        ("partitionValues", Arc::new(partition_values.finish())),
        ("size", lengths(|file| i64::try_from(file.size).unwrap_or(i64::MAX))),
        ("modificationTime", lengths(|file| file.modified_ms)),
        ("stats", Arc::new(StructArray::from(stats.try_into_record_batch()?))),
    ];
    let fields = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), *name == "stats"));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, columns.map(|(_, column)| column).to_vec());
    Ok(Box::new(ArrowEngineData::new(batch.map_err(KernelError::from)?)))
}

/// Grows with the attempts; random, so that writers that collided do not do so again.
fn pause(attempts: u32) -> Duration {
    let most = Duration::from_millis(10)
        .saturating_mul(1 << attempts.min(7))
        .min(PAUSE_MAX);
    let random = ulid::Ulid::generate().random() as u32;
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
