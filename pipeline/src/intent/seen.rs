//! Which request batches a partition has seen, so that start-up does not read every intent ever made.
//!
//! `<partition>/seen/<to>.bin` holds the dedup keys of all intents up to `to`, 16 bytes of key and 8 of
//! big-endian offset each, sorted, then the SHA-256 of all that. It follows from the intents alone, so
//! whoever writes it writes the same bytes, and losing it costs reading time, not correctness.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use schemas::ids::DedupKey;
use sha2::{Digest, Sha256};

use super::{IntentError, Intents};
use crate::chunk::PartitionId;

const RECORD_LEN: usize = 24;
const CHECKSUM_LEN: usize = 32;
/// How many are kept: the newest, and the one before for whoever is reading it.
const KEPT: usize = 2;
/// How often a reader looks for the newest while others replace it.
const LOOKS_MAX: usize = 5;

/// The dedup keys of all intents up to an offset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// End of the last intent in it; 0 if there is none.
    pub to: i64,
    /// Each request batch with the offset of its first delivery.
    pub keys: Vec<(DedupKey, i64)>,
}

impl Intents {
    /// The newest checkpoint of the partition, or an empty one.
    pub async fn seen(&self, partition: &PartitionId) -> Result<Seen, IntentError> {
        let mut looks = 1;
        loop {
            let Some((to, path)) = self.seen_checkpoints(partition).await?.pop() else {
                return Ok(Seen::default());
            };
            match self.get(&path).await {
                Ok(bytes) => return from_bytes(path, to, &bytes),
                Err(object_store::Error::NotFound { .. }) if looks < LOOKS_MAX => looks += 1,
                Err(source) => return Err(IntentError::Store { path, source }),
            }
        }
    }

    /// Writes a checkpoint and drops those that it replaces.
    pub async fn save_seen(&self, partition: &PartitionId, seen: Seen) -> Result<(), IntentError> {
        let path = self
            .store
            .path(&format!("{}/seen/{:020}.bin", self.directory(partition), seen.to));
        let put = self
            .store
            .objects()
            .put_opts(&path, to_bytes(seen.keys).into(), PutMode::Create.into())
            .await;
        match put {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(source) => return Err(IntentError::Store { path, source }),
        }
        let checkpoints = self.seen_checkpoints(partition).await?;
        for (_, old) in &checkpoints[..checkpoints.len().saturating_sub(KEPT)] {
            match self.store.objects().delete(old).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    return Err(IntentError::Store {
                        path: old.clone(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Checkpoints by `to`, newest last.
    async fn seen_checkpoints(&self, partition: &PartitionId) -> Result<Vec<(i64, Path)>, IntentError> {
        let directory = self.store.path(&format!("{}/seen", self.directory(partition)));
        let listed: Result<Vec<_>, _> = self.store.objects().list(Some(&directory)).try_collect().await;
        let listed = listed.map_err(|source| IntentError::Store {
            path: directory,
            source,
        })?;
        let to_of = |path: &Path| path.filename()?.strip_suffix(".bin")?.parse::<i64>().ok();
        let mut found: Vec<_> = listed
            .into_iter()
            .filter_map(|meta| Some((to_of(&meta.location)?, meta.location)))
            .collect();
        found.sort_unstable();
        Ok(found)
    }
}

fn to_bytes(mut keys: Vec<(DedupKey, i64)>) -> Vec<u8> {
    keys.sort_unstable_by_key(|&(key, offset)| (offset, key));
    let mut bytes = Vec::with_capacity(keys.len() * RECORD_LEN + CHECKSUM_LEN);
    for (key, offset) in keys {
        bytes.extend(key.0);
        bytes.extend(offset.to_be_bytes());
    }
    let checksum = Sha256::digest(&bytes);
    bytes.extend(checksum);
    bytes
}

fn from_bytes(path: Path, to: i64, bytes: &[u8]) -> Result<Seen, IntentError> {
    let records = bytes
        .split_last_chunk::<CHECKSUM_LEN>()
        .and_then(|(records, checksum)| {
            let whole = records.len() % RECORD_LEN == 0 && Sha256::digest(records).as_slice() == checksum;
            whole.then_some(records)
        });
    let Some(records) = records else {
        let reason = "length or checksum do not fit; deleting this file is safe".to_owned();
        return Err(IntentError::Corrupt { path, reason });
    };
    let (mut key, mut offset) = ([0; 16], [0; 8]);
    let keys = records.chunks_exact(RECORD_LEN).map(|record| {
        key.copy_from_slice(&record[..16]);
        offset.copy_from_slice(&record[16..]);
        (DedupKey(key), i64::from_be_bytes(offset))
    });
    Ok(Seen {
        to,
        keys: keys.collect(),
    })
}
