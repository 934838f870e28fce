//! What operators do to the tables of a zone while workers go on: check, erase, vacuum, compact.
//!
//! A table changes by one put-if-absent log entry at a time, so nothing here can lose a worker's rows. What
//! can be lost is a file: it may be deleted only when neither the newest version, nor a sealed intent, nor a
//! month's lock names it ([`files`] knows), and when no worker is about to seal it and no reader still has an
//! older version. The last two show in nothing but age.

mod files;
pub mod check;
pub mod vacuum;
pub mod erase;
pub mod compact;

use std::time::Duration;

use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;

use crate::close::PeriodError;
use crate::committer::CommitError;
use crate::intent::IntentError;
use crate::sink::{EncodeError, StageError, Table};
use crate::store::{self, Store};
use crate::tables::{Replaced, Replacement, TableError, Tables};

/// How long a file is kept that nothing names: a worker seals what it staged within minutes, and no reader
/// keeps one version for longer.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Requests to the store at a time.
const REQUESTS_MAX: usize = 16;

/// Types as Parquet has them, whoever wrote the file.
fn reading() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// Replaces files of a table. What was made in vain is deleted again.
async fn replace(
    store: &Store,
    tables: &Tables,
    table: Table,
    replacement: &Replacement,
) -> Result<Replaced, UpkeepError> {
    let replaced = tables.replace(table, replacement).await?;
    if replaced == Replaced::Overtaken {
        let made = replacement.added.iter().map(|file| tables.place(table, &file.path));
        files::delete(store, made.collect::<Result<Vec<_>, _>>()?).await?;
    }
    if let Err(error) = tables.checkpoint_if_due(table).await {
        tracing::warn!(%error, "no checkpoint this time; readers go without");
    }
    Ok(replaced)
}

/// Why upkeep stopped. The tables are whole, and the same may be run again.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What is sealed is not known.
    #[error(transparent)]
    Intent(#[from] IntentError),
    /// Which files closed months need is not known.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// What was sealed could not be brought into the tables.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A file's rows cannot be written anew.
    #[error("cannot write {path} anew")]
    Rewrite {
        /// The file.
        path: String,
        /// Why.
        source: EncodeError,
    },
    /// A file could not be stored.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The store did not do it.
    #[error("cannot list, write or delete {path}")]
    Store {
        /// The object or folder.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
}

impl UpkeepError {
    fn store(path: &Path, source: object_store::Error) -> UpkeepError {
        let path = path.to_string();
        UpkeepError::Store { path, source }
    }

    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            UpkeepError::Table(error) => error.is_outage(),
            UpkeepError::Intent(error) => error.is_outage(),
            UpkeepError::Period(error) => error.is_outage(),
            UpkeepError::Rewrite { .. } => false,
            UpkeepError::Commit(error) => error.is_transient(),
            UpkeepError::Stage(error) => error.is_outage(),
            UpkeepError::Store { source, .. } => store::is_outage(source),
        }
    }
}
