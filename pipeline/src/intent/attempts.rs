//! How many workers have begun at a partition's watermark and ended without moving it.
//!
//! A message that kills its worker would kill every next owner too. So the count is written when a
//! partition is taken over, and taken back when it is let go in good order; what is left after a crash
//! tells the next owner to be careful, and in the end which message to set aside.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::{IntentError, Intents};
use crate::chunk::PartitionId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attempts {
    /// The watermark they began at.
    from: i64,
    count: u32,
}

impl Intents {
    /// Counts one more worker that begins at `from`; how many there were, this one included.
    pub async fn begin_attempt(&self, partition: &PartitionId, from: i64) -> Result<u32, IntentError> {
        let path = self.attempts_path(partition);
        let before = match self.get(&path).await {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .ok()
                .filter(|attempts: &Attempts| attempts.from == from)
                .map_or(0, |attempts| attempts.count),
            Err(object_store::Error::NotFound { .. }) => 0,
            Err(source) => return Err(IntentError::Store { path, source }),
        };
        let count = before.saturating_add(1);
        self.write_attempts(path, &Attempts { from, count }).await?;
        Ok(count)
    }

    /// The worker that began at `from` lets the partition go in good order: nobody died of it.
    pub async fn forget_attempts(&self, partition: &PartitionId, from: i64) -> Result<(), IntentError> {
        self.write_attempts(self.attempts_path(partition), &Attempts { from, count: 0 })
            .await
    }

    async fn write_attempts(&self, path: Path, attempts: &Attempts) -> Result<(), IntentError> {
        let bytes = serde_json::to_vec(attempts).expect("two numbers are JSON");
        match self.store.objects().put(&path, PutPayload::from(bytes)).await {
            Ok(_) => Ok(()),
            Err(source) => Err(IntentError::Store { path, source }),
        }
    }

    fn attempts_path(&self, partition: &PartitionId) -> Path {
        self.store.path(&format!("{}/attempts.json", self.directory(partition)))
    }
}
