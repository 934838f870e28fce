//! Puts files in the place of others: one log entry takes out and puts in, or nothing happens.
//!
//! Writers that only add files change nothing about the files replaced, so a conflict with them is tried
//! again on top of their entry. If one of the files is no longer in the table, someone else has rewritten
//! it; what was made of it is stale then and must be thrown away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::AsArray;
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::transaction::UpdateTableOperation;
use delta_kernel::{FilteredEngineData, KernelResult, SnapshotRef};

use super::commit::{Attempt, ENGINE_INFO, add_actions};
use super::{DeltaTable, KernelEngine, TableError, Tables};
use crate::sink::{StagedFile, Table};

/// Which files go out of a table, and which take their place.
#[derive(Debug, Clone, Default)]
pub struct Replacement {
    /// Paths as the log has them.
    pub removed: BTreeSet<String>,
    /// At least one file.
    pub added: Vec<StagedFile>,
    /// Whether the rows differ. If not, whoever follows the table's changes may skip the entry.
    pub changes_rows: bool,
}

/// How a replacement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The newest version has the new files.
    Done,
    /// A file to be removed is not in the table any more. Nothing was written.
    Overtaken,
}

/// What the newest version has of a replacement.
struct Found {
    removed: usize,
    added: usize,
    /// The rows of the log that say so, the removed ones selected.
    rows: Vec<FilteredEngineData>,
}

impl Tables {
    /// Replaces files in one log entry; watermarks stay as they are. May be repeated after any failure.
    pub async fn replace(&self, table: Table, replacement: &Replacement) -> Result<Replaced, TableError> {
        let table = self.table(table);
        let replacement = Arc::new(replacement.clone());
        table.persist(|| table.attempt_replacement(replacement.clone())).await
    }
}

impl DeltaTable {
    async fn attempt_replacement(&self, replacement: Arc<Replacement>) -> Result<Attempt<Replaced>, TableError> {
        let snapshot = self.snapshot().await?;
        let table = self.clone();
        self.run(move |engine| {
            let Replacement {
                removed,
                added,
                changes_rows,
            } = replacement.as_ref();
            let found = find(engine, &snapshot, &replacement)?;
            if found.added == added.len() {
                return Ok(Attempt::Done(Replaced::Done));
            }
            if found.removed < removed.len() {
                return Ok(Attempt::Done(Replaced::Overtaken));
            }
            let operation = match changes_rows {
                true => UpdateTableOperation::Update,
                false => UpdateTableOperation::Optimize,
            };
            let builder = snapshot.update_table(operation, ENGINE_INFO, *changes_rows);
            let mut transaction = builder.build(engine, Box::new(FileSystemCommitter::new()))?;
            found.rows.into_iter().for_each(|rows| transaction.remove_files(rows));
            let stats_schema = transaction.stats_schema()?;
            transaction.add_files(add_actions(engine, table.table, added, stats_schema)?);
            table.ended(transaction.commit(engine)?, &BTreeMap::new(), Replaced::Done)
        })
        .await
    }
}

fn find(engine: &KernelEngine, snapshot: &SnapshotRef, replacement: &Replacement) -> KernelResult<Found> {
    let added: BTreeSet<&str> = replacement.added.iter().map(|file| file.path.as_str()).collect();
    let mut found = Found {
        removed: 0,
        added: 0,
        rows: Vec::new(),
    };
    let scan = snapshot.clone().scan_builder().build()?;
    for metadata in scan.scan_metadata(engine)? {
        let (rows, mut selected) = metadata?.scan_files.into_parts();
        let rows = rows.try_into_record_batch()?;
        // A selection shorter than its rows selects the rest.
        selected.resize(rows.num_rows(), true);
        let paths = rows.column(rows.schema().index_of("path")?).as_string::<i32>();
        for (path, selected) in paths.iter().zip(&mut selected).filter(|(_, selected)| **selected) {
            let path = path.unwrap_or_default();
            found.added += usize::from(added.contains(path));
            *selected = replacement.removed.contains(path);
            found.removed += usize::from(*selected);
        }
        if selected.contains(&true) {
            let rows = Box::new(ArrowEngineData::new(rows));
            found.rows.push(FilteredEngineData::try_new(rows, selected)?);
        }
    }
    Ok(found)
}
