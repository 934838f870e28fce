//! How many workers have died while they had a message that stands at a partition's watermark.
//!
//! A message that kills its worker would kill every next owner too. So a worker takes note before it
//! takes the first message apart, and takes the note back when it lets the partition go in good order;
//! what is left after a crash tells the next owner to be careful, and in the end what to set aside.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::{IntentError, Intents};
use crate::chunk::PartitionId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deaths {
    /// The watermark they began at.
    from: i64,
    count: u32,
}

impl Intents {
    /// Workers that began at `from` and were not heard of again.
    pub async fn deaths(&self, partition: &PartitionId, from: i64) -> Result<u32, IntentError> {
        let path = self.deaths_path(partition);
        match self.get(&path).await {
            // An unreadable note says nothing; it is written anew with the next message.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .ok()
                .filter(|deaths: &Deaths| deaths.from == from)
                .map_or(0, |deaths| deaths.count)),
            Err(object_store::Error::NotFound { .. }) => Ok(0),
            Err(source) => Err(IntentError::Store { path, source }),
        }
    }

    /// Takes note of `count` workers at `from`.
    pub async fn note_deaths(&self, partition: &PartitionId, from: i64, count: u32) -> Result<(), IntentError> {
        let path = self.deaths_path(partition);
        let bytes = serde_json::to_vec(&Deaths { from, count }).expect("two numbers are JSON");
        match self.store.objects().put(&path, PutPayload::from(bytes)).await {
            Ok(_) => Ok(()),
            Err(source) => Err(IntentError::Store { path, source }),
        }
    }

    fn deaths_path(&self, partition: &PartitionId) -> Path {
        self.store.path(&format!("{}/_deaths/{partition}.json", self.zone))
    }
}
