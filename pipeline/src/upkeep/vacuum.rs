//! Deletes data files that nothing has named for a while: what was staged and never sealed, and what went
//! out of the table.

use std::time::Duration;

use jiff::Timestamp;
use object_store::ObjectMeta;

use super::UpkeepError;
use super::files::{Inventory, delete};
use crate::sink::Table;
use crate::store::{self, Store};
use crate::tables::Tables;

/// What can go.
#[derive(Debug, Clone, Default)]
pub struct Waste {
    /// The files, by place.
    pub files: Vec<ObjectMeta>,
}

impl Waste {
    /// Data files written at least `age_min` before `now` that no sealed intent and no lock names, and no
    /// version of the table that was the newest within `age_min`. Needs a multi-threaded Tokio runtime.
    ///
    /// # Errors
    /// See [`UpkeepError`].
    pub async fn find(
        store: &Store,
        zone: &str,
        tables: &Tables,
        table: Table,
        age_min: Duration,
        now: Timestamp,
    ) -> Result<Waste, UpkeepError> {
        let inventory = Inventory::take(store, zone, tables, table).await?;
        Waste::of(inventory.unnamed, tables, table, age_min, now).await
    }

    /// Those of `unnamed` that can go.
    pub(super) async fn of(
        unnamed: Vec<ObjectMeta>,
        tables: &Tables,
        table: Table,
        age_min: Duration,
        now: Timestamp,
    ) -> Result<Waste, UpkeepError> {
        let since = now.checked_sub(age_min).unwrap_or(Timestamp::MIN);
        let mut files = unnamed;
        files.retain(|meta| store::modified(meta) <= since);
        if !files.is_empty() {
            let removed = tables.removed_since(table, since).await?;
            files.retain(|meta| !removed.contains(&meta.location));
        }
        Ok(Waste { files })
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|meta| meta.size).sum()
    }

    /// Deletes them all. May be repeated.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(self, store: &Store) -> Result<(), UpkeepError> {
        delete(store, self.files.into_iter().map(|meta| meta.location)).await
    }
}
