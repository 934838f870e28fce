//! Which files went out of a table, and so are named by older versions only.

use std::collections::HashSet;

use delta_kernel::KernelError;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::Deserialize;

use super::{TableError, Tables};
use crate::sink::Table;
use crate::store;

/// Log entries read at a time.
const READS_MAX: usize = 16;

/// The one action of a log entry that matters here; each line of an entry is one action.
#[derive(Deserialize)]
struct Action {
    remove: Option<Remove>,
}

#[derive(Deserialize)]
struct Remove {
    path: String,
}

impl Tables {
    /// Places of the files that log entries written at `since` or later took out of the table. The versions
    /// that were the newest at some time since then name these files, those of the newest version, and no others.
    pub async fn removed_since(&self, table: Table, since: Timestamp) -> Result<HashSet<Path>, TableError> {
        let table = self.table(table);
        let failed = |source| table.failed(KernelError::ObjectStore(source));
        let log = table.place("_delta_log")?;
        let listed: Vec<ObjectMeta> = table
            .store
            .objects()
            .list(Some(&log))
            .try_filter(|meta| std::future::ready(version_of(&meta.location).is_some()))
            .try_collect()
            .await
            .map_err(failed)?;
        let first = listed.iter().min_by_key(|meta| version_of(&meta.location));
        if let Some(first) = first.filter(|first| version_of(&first.location) != Some(0))
            && store::modified(first) > since
        {
            let reason = format!(
                "its log begins with {} only, so what {since} had is unknown",
                first.location
            );
            return Err(TableError::Schema {
                url: table.url.clone(),
                reason,
            });
        }
        let entries = listed.into_iter().filter(|meta| store::modified(meta) >= since);
        let reads = stream::iter(entries).map(|meta| async move {
            let got = table.store.objects().get(&meta.location).await.map_err(failed)?;
            got.bytes().await.map_err(failed)
        });
        let mut reads = reads.buffer_unordered(READS_MAX);
        let mut removed = HashSet::new();
        while let Some(entry) = reads.try_next().await? {
            for action in serde_json::Deserializer::from_slice(&entry).into_iter::<Action>() {
                let action = action.map_err(|source| table.failed(KernelError::MalformedJson(source)))?;
                if let Some(Remove { path }) = action.remove {
                    removed.insert(table.place(&path)?);
                }
            }
        }
        Ok(removed)
    }
}

fn version_of(path: &Path) -> Option<u64> {
    path.filename()?.strip_suffix(".json")?.parse().ok()
}
