//! The watermarks of many partitions, without replaying the log for each.
//!
//! The kernel replays the log back to its last checkpoint for every application id it is asked about,
//! and a worker asks about all of its partitions at every commit. What was answered once stays true
//! until a later log entry says otherwise, so only the entries since then are read here.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use delta_kernel::{Engine, KernelError, KernelResult, SnapshotRef, Version};
use serde::Deserialize;
use url::Url;

use super::{KernelEngine, app_id};
use crate::chunk::PartitionId;

/// With more entries than this to catch up on, what is known is dropped and asked anew.
const ENTRIES_MAX: u64 = 32;

/// Watermarks as of one version of the table, of those partitions that were asked for.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    version: Version,
    known: HashMap<String, i64>,
}

/// The one action of a log entry that matters here; each line of an entry is one action.
#[derive(Deserialize)]
struct Action {
    txn: Option<Txn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

impl Watermarks {
    /// Where the partition's rows end in this snapshot; 0 if it has none.
    pub(super) fn at(
        &mut self,
        snapshot: &SnapshotRef,
        engine: &KernelEngine,
        partition: &PartitionId,
    ) -> KernelResult<i64> {
        let app_id = app_id(partition);
        self.advance(snapshot, engine)?;
        if self.version == snapshot.version()
            && let Some(&watermark) = self.known.get(&app_id)
        {
            return Ok(watermark);
        }
        let watermark = snapshot.get_app_id_version(&app_id, engine)?.unwrap_or(0);
        if self.version == snapshot.version() {
            self.known.insert(app_id, watermark);
        }
        Ok(watermark)
    }

    /// Takes in our own log entry, if it is the next one.
    pub(super) fn committed(&mut self, version: Version, watermarks: &BTreeMap<PartitionId, i64>) {
        if self.version + 1 == version {
            self.version = version;
            self.known
                .extend(watermarks.iter().map(|(partition, &to)| (app_id(partition), to)));
        }
    }

    /// Catches up with the snapshot. An older snapshot than before changes nothing.
    fn advance(&mut self, snapshot: &SnapshotRef, engine: &KernelEngine) -> KernelResult<()> {
        let behind = snapshot.version().saturating_sub(self.version);
        if behind == 0 {
            return Ok(());
        }
        let replayed = match behind {
            1..=ENTRIES_MAX if !self.known.is_empty() => {
                self.replay(snapshot.table_root(), self.version + 1..=snapshot.version(), engine)
            }
            _ => Err(KernelError::FileNotFound("too many entries to read".to_owned())),
        };
        match replayed {
            Ok(()) => {}
            // Old entries may be cleaned away behind a checkpoint.
            Err(KernelError::FileNotFound(_)) => self.known.clear(),
            Err(error) => {
                // Some entries may be in already, so that no version fits any more.
                *self = Watermarks::default();
                return Err(error);
            }
        }
        self.version = snapshot.version();
        Ok(())
    }

    fn replay(&mut self, root: &Url, versions: RangeInclusive<Version>, engine: &KernelEngine) -> KernelResult<()> {
        let entries = versions.map(|version| Ok((root.join(&format!("_delta_log/{version:020}.json"))?, None)));
        let entries = entries.collect::<KernelResult<Vec<_>>>()?;
        for entry in engine.storage_handler().read_files(entries)? {
            for action in serde_json::Deserializer::from_slice(&entry?).into_iter::<Action>() {
                if let Some(txn) = action.map_err(KernelError::MalformedJson)?.txn
                    && let Some(known) = self.known.get_mut(&txn.app_id)
                {
                    *known = txn.version;
                }
            }
        }
        Ok(())
    }
}
