//! Writes a chunk's rows as Parquet files that no reader sees yet.
//!
//! One file per table and partition value, under a name that nobody else picks. A file becomes part of
//! a table only when a sealed intent names it and the intent is applied; until then it is an orphan
//! that costs space and nothing else. Everything the commit needs to know of a file (size, statistics)
//! is in its [`StagedFile`], so that whoever applies the intent need not open the file.

mod data_file;

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::future;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use schemas::billing::BillingRow;
use schemas::result::ResultRow;

pub(crate) use data_file::DataFile;

use crate::chunk::{Chunk, PartitionId};
use crate::store::{self, Store};

/// The two tables of a residency zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// One row per request that reached an end.
    Results,
    /// The ledger.
    BillingEvents,
}

impl Table {
    /// Both, in the order in which they are committed.
    pub const ALL: [Table; 2] = [Table::Results, Table::BillingEvents];

    /// Its directory below the zone's.
    pub fn name(self) -> &'static str {
        match self {
            Table::Results => "results",
            Table::BillingEvents => "billing_events",
        }
    }

    /// The column whose value each file has in its path instead of its rows.
    pub fn partition_column(self) -> &'static str {
        match self {
            Table::Results => "day",
            Table::BillingEvents => "usage_period",
        }
    }

    /// Every column, the partition column included.
    pub fn arrow_schema(self) -> SchemaRef {
        match self {
            Table::Results => schemas::result::arrow_schema(),
            Table::BillingEvents => schemas::billing::arrow_schema(),
        }
    }

    /// Columns with minimum, maximum and null count in the log, by which readers skip files.
    /// Texts among them are ids or words of bounded length, so they need no truncation.
    pub fn stats_columns(self) -> &'static [&'static str] {
        match self {
            Table::Results => &[
                "job_id",
                "tenant_id",
                "status",
                "batch_seq",
                "kafka_partition",
                "kafka_offset",
            ],
            Table::BillingEvents => &["job_id", "tenant_id", "event_kind", "kafka_partition", "kafka_offset"],
        }
    }
}

/// A Parquet file that exists but is in no table yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedFile {
    /// Relative to the table, e.g. `day=2026-11-24/part-00003-….parquet`.
    pub path: String,
    /// Value of the table's partition column.
    pub partition_value: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// When it was written, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Statistics as Delta's `add.stats` has them.
    pub stats: Value,
}

/// The files of one chunk. A chunk without rows has none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedFiles {
    /// Those of `results`.
    pub results: Vec<StagedFile>,
    /// Those of `billing_events`.
    pub billing_events: Vec<StagedFile>,
}

impl StagedFiles {
    /// The files of one table.
    pub fn of(&self, table: Table) -> &[StagedFile] {
        match table {
            Table::Results => &self.results,
            Table::BillingEvents => &self.billing_events,
        }
    }
}

/// Why a chunk was not staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The rows do not fit the columns; trying again will not help.
    #[error("cannot write the rows of {partition} from offset {from} as Parquet")]
    Encode {
        /// Whose rows.
        partition: PartitionId,
        /// First offset of the chunk.
        from: i64,
        /// What went wrong.
        source: EncodeError,
    },
    /// The store did not take a file.
    #[error("cannot store {path}")]
    Store {
        /// The file.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
}

/// Why rows do not fit into a file.
pub type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// Where the tables of one zone lie.
#[derive(Debug, Clone)]
pub struct Sink {
    store: Store,
    zone: String,
}

/// A data file that is to be stored.
pub(crate) struct Encoded {
    table: Table,
    pub(crate) file: StagedFile,
    bytes: Bytes,
}

impl Sink {
    /// A sink that writes below `<store>/<zone>/`.
    pub fn new(store: Store, zone: &str) -> Sink {
        Sink {
            store,
            zone: zone.to_owned(),
        }
    }

    /// Writes the chunk's files. On failure nothing of it is left behind, as far as the store allows.
    pub async fn stage(&self, chunk: &Chunk) -> Result<StagedFiles, StageError> {
        if chunk.outcomes.is_empty() {
            return Ok(StagedFiles::default());
        }
        let rows = chunk.outcomes.iter().cloned().map(|one| (one.result, one.billing));
        let (results, billing) = rows.unzip();
        self.stage_rows(&chunk.partition, chunk.from, results, billing).await
    }

    /// As [`Sink::stage`], of rows that need not come in pairs. A table without rows gets no file.
    pub async fn stage_rows(
        &self,
        partition: &PartitionId,
        from: i64,
        results: Vec<ResultRow>,
        billing: Vec<BillingRow>,
    ) -> Result<StagedFiles, StageError> {
        let stem = format!("part-{:05}-{from:020}", partition.partition);
        let encoding = tokio::task::spawn_blocking(move || encode(results, billing, &stem));
        let failed = |source| StageError::Encode {
            partition: partition.clone(),
            from,
            source,
        };
        let encoded = encoding.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        let stored = future::join_all(encoded.iter().map(|one| self.put(one))).await;
        let mut files = StagedFiles::default();
        for Encoded { table, file, .. } in encoded {
            match table {
                Table::Results => files.results.push(file),
                Table::BillingEvents => files.billing_events.push(file),
            }
        }
        if let Some(failure) = stored.into_iter().find_map(Result::err) {
            self.discard(&files).await;
            return Err(failure);
        }
        Ok(files)
    }

    /// Deletes files that no intent names. What cannot be deleted stays as an orphan.
    pub async fn discard(&self, files: &StagedFiles) {
        for table in Table::ALL {
            for file in files.of(table) {
                let path = self.store.path(&self.place(table, &file.path));
                match self.store.objects().delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => tracing::warn!(%path, %error, "cannot delete a file that no intent names"),
                }
            }
        }
    }

    /// Stores one file.
    pub(crate) async fn put(&self, encoded: &Encoded) -> Result<(), StageError> {
        let place = self.place(encoded.table, &encoded.file.path);
        let put = self
            .store
            .objects()
            .put(&self.store.path(&place), encoded.bytes.clone().into())
            .await;
        put.map(drop)
            .map_err(|source| StageError::Store { path: place, source })
    }

    fn place(&self, table: Table, path: &str) -> String {
        format!("{}/{}/{path}", self.zone, table.name())
    }
}

impl StageError {
    /// Whether the same chunk may be staged later.
    pub fn is_outage(&self) -> bool {
        matches!(self, StageError::Store { source, .. } if store::is_outage(source))
    }
}

fn encode(results: Vec<ResultRow>, billing: Vec<BillingRow>, stem: &str) -> Result<Vec<Encoded>, EncodeError> {
    let batches = [
        (Table::Results, schemas::result::to_batch(&results)?),
        (Table::BillingEvents, schemas::billing::to_batch(&billing)?),
    ];
    let mut encoded = Vec::new();
    for (table, batch) in batches {
        for (partition_value, part) in split(&batch, table.partition_column())? {
            let mut file = DataFile::new(table, part.schema(), part.num_rows() as u64)?;
            file.write(&part)?;
            encoded.push(file.finish(partition_value, stem)?);
        }
    }
    Ok(encoded)
}

/// Rows by their value of `column`, which leaves the rows; order inside each part is kept.
fn split(batch: &RecordBatch, column: &str) -> Result<Vec<(String, RecordBatch)>, ArrowError> {
    let at = batch.schema().index_of(column)?;
    let values = cast(batch.column(at), &DataType::Utf8)?;
    let mut rows_of: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (row, value) in (0u32..).zip(values.as_string::<i32>()) {
        let value = value.ok_or_else(|| ArrowError::InvalidArgumentError(format!("{column} is null in row {row}")))?;
        rows_of.entry(value).or_default().push(row);
    }
    let mut rest = batch.clone();
    rest.remove_column(at);
    let parts = rows_of
        .into_iter()
        .map(|(value, rows)| Ok((value.to_owned(), take_record_batch(&rest, &UInt32Array::from(rows))?)));
    parts.collect()
}
