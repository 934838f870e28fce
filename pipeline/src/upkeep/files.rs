//! Which data files a table's directory holds, and what names them.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::{REQUESTS_MAX, UpkeepError};
use crate::close::Periods;
use crate::intent::Intents;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{TableFile, Tables};

/// Who needs a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// The table's newest version.
    Log,
    /// A sealed intent whose rows are not in the table yet.
    Intent,
    /// The lock of a month that reads it, although the newest version does not have it any more.
    Lock,
}

/// The files of one table.
pub(super) struct Inventory {
    /// Everything that is needed, by its place.
    pub(super) named: HashMap<Path, (TableFile, NamedBy)>,
    /// Data files that are there and not needed.
    pub(super) unnamed: Vec<ObjectMeta>,
}

impl Inventory {
    /// Looks at what is there first, at intents before the log, and at the log last: a file that a worker
    /// stages, seals or applies meanwhile is either not seen at all or found to be named.
    pub(super) async fn take(
        store: &Store,
        zone: &str,
        tables: &Tables,
        table: Table,
    ) -> Result<Inventory, UpkeepError> {
        let mut unnamed = stored(store, zone, table).await?;
        let mut named = HashMap::new();
        if table == Table::BillingEvents {
            let locked = Periods::new(store.clone()).locked(zone).await?;
            for file in locked.into_values().flatten() {
                let place = tables.place(table, &file.path)?;
                let file = TableFile {
                    partition_value: file.usage_period,
                    path: file.path,
                    size: file.size,
                    rows: Some(file.rows),
                };
                named.insert(place, (file, NamedBy::Lock));
            }
        }
        let intents = Intents::new(store.clone(), zone);
        let partitions = intents.partitions().await?;
        let watermarks = tables.watermarks(table, &partitions).await?;
        for (partition, watermark) in partitions.iter().zip(watermarks) {
            for intent in intents.chain(partition, watermark).await? {
                for file in intent.files.of(table) {
                    let place = tables.place(table, &file.path)?;
                    let file = TableFile {
                        partition_value: file.partition_value.clone(),
                        path: file.path.clone(),
                        size: file.size,
                        rows: Some(file.rows),
                    };
                    named.insert(place, (file, NamedBy::Intent));
                }
            }
        }
        for file in tables.files(table, None).await? {
            named.insert(tables.place(table, &file.path)?, (file, NamedBy::Log));
        }
        unnamed.retain(|meta| !named.contains_key(&meta.location));
        Ok(Inventory { named, unnamed })
    }
}

/// The data files below a table's directory, by place. Delta keeps what is not data below names with `_`.
async fn stored(store: &Store, zone: &str, table: Table) -> Result<Vec<ObjectMeta>, UpkeepError> {
    let directory = store.path(&format!("{zone}/{}", table.name()));
    let is_data = |meta: &ObjectMeta| {
        let mut parts = meta.location.prefix_match(&directory).into_iter().flatten();
        let is_hidden = parts.any(|part| part.as_ref().starts_with(['_', '.']));
        !is_hidden && meta.location.as_ref().ends_with(".parquet")
    };
    let listed = store.objects().list(Some(&directory));
    let mut stored: Vec<ObjectMeta> = listed
        .try_filter(|meta| std::future::ready(is_data(meta)))
        .try_collect()
        .await
        .map_err(|source| UpkeepError::store(&directory, source))?;
    stored.sort_unstable_by(|a, b| a.location.cmp(&b.location));
    Ok(stored)
}

/// Deletes objects; one that is gone already is as good as deleted.
pub(super) async fn delete(store: &Store, places: impl IntoIterator<Item = Path>) -> Result<(), UpkeepError> {
    let deletions = stream::iter(places).map(|place| async move {
        match store.objects().delete(&place).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(UpkeepError::store(&place, source)),
        }
    });
    deletions.buffer_unordered(REQUESTS_MAX).try_collect().await
}
