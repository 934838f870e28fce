//! The single point of truth: one small object per chunk, created once and never changed.
//!
//! `<store>/<zone>/_intents/<topic>/<epoch>/<partition>/<from>.json` says that the offsets
//! `[from, to)` ended in exactly the files it names. Whoever creates it first wins; everyone else
//! adopts it. A chunk starts where an intent that its writer has seen ends, and the first starts at 0,
//! so the intents of a partition form one unbroken chain, whatever crashed or raced.

pub mod seen;
mod deaths;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use schemas::ids::DedupKey;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::chunk::{Chunk, PartitionId};
use crate::dead_letter;
use crate::sink::StagedFiles;
use crate::store::{self, Store};

const INTENT_VERSION: u32 = 1;
/// How many intents are read at a time.
const READS_MAX: usize = 16;
/// Pause before the first repetition of a put whose outcome is unknown; doubles each time.
const REPEAT_PAUSE: Duration = Duration::from_millis(50);
const REPEAT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the offsets `[from, to)` of one partition ended in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Version of this format.
    pub version: u32,
    /// Whose offsets.
    pub partition: PartitionId,
    /// First offset.
    pub from: i64,
    /// One past the last.
    pub to: i64,
    /// Who made it.
    pub worker_id: String,
    /// Tells two attempts of one worker apart.
    pub nonce: String,
    /// Rows in each of the two tables.
    pub rows: u64,
    /// Prompt tokens of all rows.
    pub input_tokens: i64,
    /// Those of them served from the prefix cache.
    pub cached_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
    /// The files that hold the rows.
    pub files: StagedFiles,
    /// Request batches delivered here for the first time: hexadecimal key, offset.
    pub dedup_keys: Vec<(HexKey, i64)>,
    /// Messages that ended as dead letters.
    pub dead_letters: Vec<DeadLetter>,
}

/// A message that could not be read and now lies on the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// Where it stood.
    pub offset: i64,
    /// Where to read what was wrong. Not what it was: that may quote the message, and an intent is never erased.
    pub error: String,
}

impl DeadLetter {
    fn at(offset: i64) -> DeadLetter {
        let error = format!("see its headers on {}", dead_letter::TOPIC);
        DeadLetter { offset, error }
    }
}

/// A dedup key as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexKey(pub DedupKey);

impl TryFrom<String> for HexKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        DedupKey::from_hex(&text)
            .map(HexKey)
            .ok_or_else(|| format!("{text:?} is not 32 hexadecimal digits"))
    }
}

impl From<HexKey> for String {
    fn from(key: HexKey) -> String {
        key.0.to_hex()
    }
}

impl Intent {
    /// What `worker_id` wants to seal for `chunk`, whose rows lie in `files`.
    pub fn new(chunk: &Chunk, files: StagedFiles, worker_id: &str) -> Intent {
        let tokens =
            |of: fn(&schemas::result::ResultRow) -> i64| chunk.outcomes.iter().map(|outcome| of(&outcome.result)).sum();
        Intent {
            version: INTENT_VERSION,
            partition: chunk.partition.clone(),
            from: chunk.from,
            to: chunk.to,
            worker_id: worker_id.to_owned(),
            nonce: Ulid::generate().to_string(),
            rows: chunk.outcomes.len() as u64,
            input_tokens: tokens(|row| row.input_tokens),
            cached_tokens: tokens(|row| row.cached_tokens),
            output_tokens: tokens(|row| row.output_tokens),
            files,
            dedup_keys: chunk
                .dedup_keys
                .iter()
                .map(|&(key, offset)| (HexKey(key), offset))
                .collect(),
            dead_letters: chunk
                .dead_letters
                .iter()
                .map(|&offset| DeadLetter::at(offset))
                .collect(),
        }
    }
}

/// How an attempt to seal ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Seal {
    /// Our intent stands.
    Ours,
    /// Another one stood there first. Its files are the truth, ours must go.
    Theirs(Box<Intent>),
}

/// Why an intent or its companions could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// The store failed or stayed silent; whether a write landed is unknown, so try the same again.
    #[error("cannot read or write {path}")]
    Store {
        /// The object.
        path: Path,
        /// What the store said.
        source: object_store::Error,
    },
    /// The object is not what was written there.
    #[error("{path} is damaged: {reason}; restore it from a backup before the worker goes on")]
    Corrupt {
        /// The object.
        path: Path,
        /// How that shows.
        reason: String,
    },
    /// The topic has another number of partitions than this epoch was declared with, so keys would
    /// land elsewhere and duplicates go unnoticed.
    #[error(
        "topic {topic} has {found} partitions, but its epoch {epoch} began with {declared}; \
         drain it, then declare the next epoch (kafka.topic_epoch)"
    )]
    PartitionCount {
        /// The topic.
        topic: String,
        /// Its declared life.
        epoch: u32,
        /// Partitions at the epoch's start.
        declared: i32,
        /// Partitions now.
        found: i32,
    },
}

impl IntentError {
    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, IntentError::Store { source, .. } if store::is_outage(source))
    }
}

/// The intents of one zone.
#[derive(Debug, Clone)]
pub struct Intents {
    store: Store,
    zone: String,
}

/// The stored form: the checksum covers the intent's bytes as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    sha256: String,
    #[serde(borrow)]
    intent: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    partitions: i32,
}

impl Intents {
    /// The intents below `<store>/<zone>/_intents/`.
    pub fn new(store: Store, zone: &str) -> Intents {
        Intents {
            store,
            zone: zone.to_owned(),
        }
    }

    /// Records how many partitions the topic's epoch has, or checks it if that is recorded already.
    pub async fn declare_epoch(&self, topic: &str, epoch: u32, partitions: i32) -> Result<(), IntentError> {
        let path = self
            .store
            .path(&format!("{}/_intents/{topic}/{epoch}/epoch.json", self.zone));
        let corrupt = |e: serde_json::Error| IntentError::Corrupt {
            path: path.clone(),
            reason: e.to_string(),
        };
        let declared = serde_json::to_vec(&Epoch { partitions }).map_err(corrupt)?;
        if let Some(stands) = self.create(&path, declared, Duration::ZERO).await? {
            let Epoch { partitions: declared } = serde_json::from_slice(&stands).map_err(corrupt)?;
            if declared != partitions {
                let topic = topic.to_owned();
                return Err(IntentError::PartitionCount {
                    topic,
                    epoch,
                    declared,
                    found: partitions,
                });
            }
        }
        Ok(())
    }

    /// Creates the intent, or finds out whose stands there.
    ///
    /// A failed put may have landed; it is read back and repeated for at most `age_max`.
    pub async fn seal(&self, intent: &Intent, age_max: Duration) -> Result<Seal, IntentError> {
        let path = self.path(&intent.partition, intent.from);
        let bytes = to_bytes(intent).map_err(|e| IntentError::Corrupt {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let Some(stands) = self.create(&path, bytes, age_max).await? else {
            return Ok(Seal::Ours);
        };
        let stands = from_bytes(&path, &stands, &intent.partition, intent.from)?;
        let ours = stands.worker_id == intent.worker_id && stands.nonce == intent.nonce;
        Ok(if ours {
            Seal::Ours
        } else {
            Seal::Theirs(Box::new(stands))
        })
    }

    /// The chain of intents that starts at `from`, in order; empty if nothing starts there.
    pub async fn chain(&self, partition: &PartitionId, from: i64) -> Result<Vec<Intent>, IntentError> {
        let directory = self.store.path(&self.directory(partition));
        let failed = |source| IntentError::Store {
            path: directory.clone(),
            source,
        };
        let before = self.path(partition, from - 1);
        let listed = self.store.objects().list_with_offset(Some(&directory), &before);
        let mut starts: Vec<i64> = listed
            .try_filter_map(async |meta| Ok(start_of(&meta.location)))
            .try_collect()
            .await
            .map_err(failed)?;
        starts.retain(|&start| start >= from);
        starts.sort_unstable();
        let reads = futures::stream::iter(starts).map(|start| self.read(partition, start));
        let intents: Vec<Intent> = reads.buffered(READS_MAX).try_collect().await?;
        let mut next = from;
        for intent in &intents {
            if intent.from != next {
                let reason = format!("it starts at {}, but the one before it ends at {next}", intent.from);
                return Err(IntentError::Corrupt {
                    path: self.path(partition, intent.from),
                    reason,
                });
            }
            next = intent.to;
        }
        Ok(intents)
    }

    /// Every partition that ever sealed a chunk.
    pub async fn partitions(&self) -> Result<Vec<PartitionId>, IntentError> {
        let mut partitions = Vec::new();
        for topic in self
            .folders(&self.store.path(&format!("{}/_intents", self.zone)))
            .await?
        {
            for epoch in self.folders(&topic).await? {
                for partition in self.folders(&epoch).await? {
                    partitions.extend(partition_of([&topic, &epoch, &partition]));
                }
            }
        }
        Ok(partitions)
    }

    async fn folders(&self, directory: &Path) -> Result<Vec<Path>, IntentError> {
        let listed = self.store.objects().list_with_delimiter(Some(directory)).await;
        let failed = |source| IntentError::Store {
            path: directory.clone(),
            source,
        };
        Ok(listed.map_err(failed)?.common_prefixes)
    }

    /// What it means that no intent starts at `from`, although tables or checkpoints reach further.
    pub(crate) fn missing(&self, partition: &PartitionId, from: i64) -> IntentError {
        let reason = "it is missing, although later offsets are in the tables".to_owned();
        IntentError::Corrupt {
            path: self.path(partition, from),
            reason,
        }
    }

    async fn read(&self, partition: &PartitionId, from: i64) -> Result<Intent, IntentError> {
        let path = self.path(partition, from);
        let bytes = self.get(&path).await.map_err(|source| IntentError::Store {
            path: path.clone(),
            source,
        })?;
        from_bytes(&path, &bytes, partition, from)
    }

    /// Creates an object. If another one of that name stands already, gives its bytes.
    ///
    /// After an unknown outcome the put is repeated: if it had landed, the repetition finds it.
    async fn create(&self, path: &Path, bytes: Vec<u8>, age_max: Duration) -> Result<Option<Vec<u8>>, IntentError> {
        let failed = |source| IntentError::Store {
            path: path.clone(),
            source,
        };
        let started = tokio::time::Instant::now();
        let mut pause = REPEAT_PAUSE;
        loop {
            let put = self
                .store
                .objects()
                .put_opts(path, bytes.clone().into(), PutMode::Create.into())
                .await;
            let outcome = match put {
                Ok(_) => return Ok(None),
                Err(object_store::Error::AlreadyExists { .. }) => self.get(path).await.map(Some),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(stands) => return Ok(stands),
                Err(error) if store::is_outage(&error) && started.elapsed() + pause < age_max => {
                    tracing::warn!(%path, %error, "unknown whether an object was created; asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(REPEAT_PAUSE_MAX);
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn get(&self, path: &Path) -> Result<Vec<u8>, object_store::Error> {
        Ok(self.store.objects().get(path).await?.bytes().await?.into())
    }

    fn directory(&self, partition: &PartitionId) -> String {
        format!("{}/_intents/{partition}", self.zone)
    }

    fn path(&self, partition: &PartitionId, from: i64) -> Path {
        self.store
            .path(&format!("{}/{from:020}.json", self.directory(partition)))
    }
}

/// None for a folder that is no partition's.
fn partition_of(folders: [&Path; 3]) -> Option<PartitionId> {
    let [topic, epoch, partition] = folders.map(Path::filename);
    Some(PartitionId {
        topic: topic?.to_owned(),
        epoch: epoch?.parse().ok()?,
        partition: partition?.parse().ok()?,
    })
}

fn start_of(path: &Path) -> Option<i64> {
    path.filename()?.strip_suffix(".json")?.parse().ok()
}

fn to_bytes(intent: &Intent) -> Result<Vec<u8>, serde_json::Error> {
    let raw = serde_json::value::to_raw_value(intent)?;
    serde_json::to_vec(&Sealed {
        sha256: hex::encode(Sha256::digest(raw.get())),
        intent: &raw,
    })
}

fn from_bytes(path: &Path, bytes: &[u8], partition: &PartitionId, from: i64) -> Result<Intent, IntentError> {
    let corrupt = |reason: String| IntentError::Corrupt {
        path: path.clone(),
        reason,
    };
    let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    let sha256 = hex::encode(Sha256::digest(sealed.intent.get()));
    if sha256 != sealed.sha256 {
        return Err(corrupt(format!(
            "its checksum is {sha256}, not {} as written",
            sealed.sha256
        )));
    }
    let intent: Intent = serde_json::from_str(sealed.intent.get()).map_err(|e| corrupt(e.to_string()))?;
    if intent.version != INTENT_VERSION {
        return Err(corrupt(format!(
            "version {} is not known here, only {INTENT_VERSION}",
            intent.version
        )));
    }
    if (&intent.partition, intent.from) != (partition, from) || intent.to <= from {
        return Err(corrupt(format!(
            "it holds [{}, {}) of {}",
            intent.from, intent.to, intent.partition
        )));
    }
    Ok(intent)
}
