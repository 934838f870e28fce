//! The two Delta tables of a zone. The only module that knows `delta_kernel`, whose API changes often.
//!
//! Progress lives in the tables: every commit carries, for each partition in it, a Delta `txn` action
//! whose version is the offset up to which the partition's rows are in the table. That number is the
//! partition's *watermark*. A commit is put-if-absent of the next log entry, on top of a snapshot whose
//! watermarks were checked, so no range of offsets enters a table twice.
//!
//! In reading order: this file opens tables, `create` makes one, `watermarks` knows how far each partition
//! is, `commit` adds files, `replace` puts files in the place of others, `history` knows which files went
//! out of the table, `scan` reads rows back.

mod create;
mod watermarks;
mod commit;
mod replace;
mod history;
mod scan;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use delta_kernel::snapshot::CheckpointWriteResult;
use delta_kernel::{KernelError, KernelResult, Snapshot, SnapshotRef};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use object_store::path::Path;
use parquet::errors::ParquetError;
use tokio::runtime::{Handle, RuntimeFlavor};
use url::Url;

pub use commit::Stuck;
pub use replace::{Replaced, Replacement};
pub(crate) use scan::{DataFileReader, open_file};
pub use scan::{Equals, TableFile};

use self::watermarks::Watermarks;
use crate::chunk::PartitionId;
use crate::sink::Table;
use crate::store::{self, Store};

/// Commits between two checkpoints of a table's log.
const COMMITS_PER_CHECKPOINT: u64 = 10;

/// Why a table could not be opened, committed to or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no table, so nothing was ever committed in this zone of this store.
    #[error("there is no table at {url}; check store.uri and worker.residency_zone, or run a worker there first")]
    Missing {
        /// Where it should be.
        url: Url,
    },
    /// The table there is not one of ours, or of another version.
    #[error("the table at {url} cannot be used: {reason}")]
    Schema {
        /// Where it is.
        url: Url,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// The table's log could not be read or written.
    #[error("cannot read or write the log of {url}")]
    Log {
        /// Which table.
        url: Url,
        /// What the kernel said.
        source: Box<KernelError>,
    },
    /// Other writers were faster, too often in a row.
    #[error("{attempts} attempts to commit to {url} met another writer each time; try again")]
    Contended {
        /// Which table.
        url: Url,
        /// How many.
        attempts: u32,
    },
    /// A data file is not there. A version that named it is no longer the newest, or it is lost.
    #[error("{path} is not there (any more): whoever opened the table before it was rewritten must open it again")]
    Gone {
        /// The file.
        path: String,
    },
    /// A data file could not be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// What went wrong.
        source: ParquetError,
    },
}

impl TableError {
    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            TableError::Log { source, .. } => is_outage(source),
            TableError::File { source, .. } => chain_has_outage(source),
            TableError::Contended { .. } => true,
            TableError::Missing { .. } | TableError::Schema { .. } | TableError::Gone { .. } => false,
        }
    }

    pub(crate) fn file(path: &Path, source: ParquetError) -> TableError {
        let path = path.to_string();
        match &source {
            ParquetError::External(cause) if cause.downcast_ref().is_some_and(is_not_found) => {
                TableError::Gone { path }
            }
            _ => TableError::File { path, source },
        }
    }
}

/// `results` and `billing_events` of one zone.
#[derive(Debug)]
pub struct Tables {
    results: DeltaTable,
    billing_events: DeltaTable,
}

type KernelEngine = DefaultEngine<TokioMultiThreadExecutor>;

#[derive(Debug, Clone)]
struct DeltaTable {
    table: Table,
    url: Url,
    store: Store,
    engine: Arc<KernelEngine>,
    /// The newest snapshot seen here; the next one is built on top of it.
    latest: Arc<Mutex<Option<SnapshotRef>>>,
    commits_since_checkpoint: Arc<AtomicU64>,
    watermarks: Arc<Mutex<Watermarks>>,
}

impl Tables {
    /// Opens the tables of a zone for reading; both must exist.
    ///
    /// Needs a multi-threaded Tokio runtime.
    pub async fn open(store: &Store, zone: &str) -> Result<Tables, TableError> {
        let tables = Tables::at(store, zone)?;
        for table in Table::ALL {
            tables.table(table).snapshot().await?;
        }
        Ok(tables)
    }

    /// Opens the tables of a zone for writing and makes what is missing. Several workers may do so at once.
    ///
    /// Needs a multi-threaded Tokio runtime.
    pub async fn create(store: &Store, zone: &str) -> Result<Tables, TableError> {
        let tables = Tables::at(store, zone)?;
        for table in Table::ALL {
            create::create_if_missing(tables.table(table)).await?;
        }
        Ok(tables)
    }

    fn at(store: &Store, zone: &str) -> Result<Tables, TableError> {
        let runtime = Handle::current();
        let engine = |url: &Url| {
            if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
                let reason = "the log's checkpoints need a multi-threaded Tokio runtime".to_owned();
                return Err(TableError::Schema {
                    url: url.clone(),
                    reason,
                });
            }
            let executor = Arc::new(TokioMultiThreadExecutor::new(runtime.clone()));
            Ok(Arc::new(
                DefaultEngineBuilder::new(store.objects().clone())
                    .with_task_executor(executor)
                    .build(),
            ))
        };
        let table = |table: Table| {
            let mut url = store.url().clone();
            url.set_path(&format!("{}{zone}/{}/", store.url().path(), table.name()));
            let engine = engine(&url)?;
            Ok(DeltaTable {
                table,
                url,
                store: store.clone(),
                engine,
                latest: Arc::default(),
                commits_since_checkpoint: Arc::default(),
                watermarks: Arc::default(),
            })
        };
        Ok(Tables {
            results: table(Table::Results)?,
            billing_events: table(Table::BillingEvents)?,
        })
    }

    /// Where the table lies.
    pub fn url(&self, table: Table) -> &Url {
        &self.table(table).url
    }

    /// The offset up to which the partition's rows are in the table; 0 if it has none.
    pub async fn watermark(&self, table: Table, partition: &PartitionId) -> Result<i64, TableError> {
        Ok(self.watermarks(table, std::slice::from_ref(partition)).await?[0])
    }

    /// [`Tables::watermark`] of many partitions, as of one version of the table.
    pub async fn watermarks(&self, table: Table, partitions: &[PartitionId]) -> Result<Vec<i64>, TableError> {
        let table = self.table(table).clone();
        let snapshot = table.snapshot().await?;
        let (partitions, watermarks) = (partitions.to_vec(), table.watermarks.clone());
        table
            .run(move |engine| {
                let mut watermarks = lock(&watermarks);
                partitions
                    .iter()
                    .map(|partition| watermarks.at(&snapshot, engine, partition))
                    .collect()
            })
            .await
    }

    /// Writes a checkpoint of the table's log if about ten commits have passed since the last.
    pub async fn checkpoint_if_due(&self, table: Table) -> Result<(), TableError> {
        let table = self.table(table);
        if table.commits_since_checkpoint.load(Ordering::Relaxed) < COMMITS_PER_CHECKPOINT {
            return Ok(());
        }
        let snapshot = table.snapshot().await?;
        let (written, snapshot) = table.run(move |engine| snapshot.checkpoint(engine, None)).await?;
        tracing::debug!(
            table = %table.url,
            version = snapshot.version(),
            new = written == CheckpointWriteResult::Written,
            "checkpoint"
        );
        table.remember(snapshot);
        table.commits_since_checkpoint.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn table(&self, table: Table) -> &DeltaTable {
        match table {
            Table::Results => &self.results,
            Table::BillingEvents => &self.billing_events,
        }
    }
}

impl DeltaTable {
    /// The table as it is now.
    async fn snapshot(&self) -> Result<SnapshotRef, TableError> {
        let known = lock(&self.latest).clone();
        let url = self.url.clone();
        let built = self.run(move |engine| match known {
            Some(known) => Snapshot::builder_from(known).build(engine),
            None => Snapshot::builder_for(url).build(engine),
        });
        match built.await {
            Ok(snapshot) => {
                self.remember(snapshot.clone());
                Ok(snapshot)
            }
            Err(TableError::Log { source, url }) if is_missing(&source) => Err(TableError::Missing { url }),
            Err(error) => Err(error),
        }
    }

    fn remember(&self, snapshot: SnapshotRef) {
        let mut latest = lock(&self.latest);
        if latest
            .as_ref()
            .is_none_or(|known| known.version() <= snapshot.version())
        {
            *latest = Some(snapshot);
        }
    }

    /// Runs kernel code, which blocks, on a thread that may.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&KernelEngine) -> KernelResult<T> + Send + 'static,
    ) -> Result<T, TableError> {
        let engine = self.engine.clone();
        let done = tokio::task::spawn_blocking(move || work(&engine)).await;
        done.unwrap_or_else(|join| Err(KernelError::JoinFailure(join.to_string())))
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: KernelError) -> TableError {
        TableError::Log {
            url: self.url.clone(),
            source: Box::new(source),
        }
    }
}

/// What the lock guards stays whole if a holder panics: it is replaced, or checked against a version.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the partition in `txn` actions.
fn app_id(partition: &PartitionId) -> String {
    format!("pipeline/{partition}")
}

fn is_not_found(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
}

fn is_missing(error: &KernelError) -> bool {
    match error {
        KernelError::Backtraced { source, .. } => is_missing(source),
        // The last is what the kernel says of a local directory that does not exist.
        KernelError::EmptyLog | KernelError::FileNotFound(_) | KernelError::InvalidTableLocation(_) => true,
        _ => false,
    }
}

fn is_outage(error: &KernelError) -> bool {
    match error {
        KernelError::Backtraced { source, .. } => is_outage(source),
        KernelError::ObjectStore(source) => store::is_outage(source),
        KernelError::IOError(_) => true,
        other => chain_has_outage(other),
    }
}

fn chain_has_outage(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(source) = current.downcast_ref::<object_store::Error>() {
            return store::is_outage(source);
        }
        cause = current.source();
    }
    false
}
