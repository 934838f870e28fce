//! Names of things, one type each, so that no two of them can be swapped.
//!
//! Text ids are checked once, when they are made: 1 to 64 characters, no control characters. Result
//! and event ids are UUIDv5 (RFC 9562): a pure function of what they name, so that the same work has
//! the same id however often it is delivered.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Longest text id, in characters.
pub const ID_CHARS_MAX: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must have 1 to 64 characters and no control characters, but is {value:?}")]
pub struct IdError {
    kind: &'static str,
    value: String,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as it is written in messages and tables.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(value: String) -> Result<Self, IdError> {
                checked($kind, value).map($name)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(value: &str) -> Result<Self, IdError> {
                checked($kind, value.to_owned()).map($name)
            }
        }

        // Equal, ordered and hashed as its text, so that maps can be asked without making an id.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Who is billed.
    TenantId, "tenant_id"
);
text_id!(
    /// A subdivision of a tenant, for reports.
    ProjectId, "project_id"
);
text_id!(
    /// One submission, which may span many request batches.
    JobId, "job_id"
);
text_id!(
    /// The submitter's name of one request, unique in its job.
    CustomId, "custom_id"
);

fn checked(kind: &'static str, value: String) -> Result<String, IdError> {
    let chars = value.chars().count();
    if (1..=ID_CHARS_MAX).contains(&chars) && !value.chars().any(char::is_control) {
        return Ok(value);
    }
    let shown = value.chars().take(ID_CHARS_MAX).collect();
    Err(IdError { kind, value: shown })
}

/// Why a text is not one of a few names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be one of {known}, but is {value:?}")]
pub struct NameError {
    kind: &'static str,
    known: String,
    value: String,
}

/// The one of `all` whose name is `value`.
pub(crate) fn by_name<T: Copy>(
    kind: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
    value: &str,
) -> Result<T, NameError> {
    all.iter()
        .copied()
        .find(|one| name(*one) == value)
        .ok_or_else(|| NameError {
            kind,
            known: all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", "),
            value: value.chars().take(ID_CHARS_MAX).collect(),
        })
}

/// Names every id of this project apart from all other UUIDv5 users.
const NAMESPACE: Uuid = Uuid::from_u128(0x6269_746e_6574_4372_8273_742d_6261_7463);

/// UUIDv5 of `parts`, each behind its length, so that no two lists of parts collide.
pub fn uuid_of(kind: &str, parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::with_capacity(64);
    for part in [kind.as_bytes()].iter().chain(parts) {
        name.extend((part.len() as u64).to_be_bytes());
        name.extend(*part);
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

/// Where a message stood in Kafka. The epoch tells apart topics of one name, deleted and made again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Topic name.
    pub topic: String,
    /// Which life of that topic, as declared in the settings; starts at 1.
    pub epoch: u32,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// The row of `results` that answers one request: a function of the input's position.
pub fn result_id(position: &Position, batch_index: u32) -> Uuid {
    uuid_of(
        "result",
        &[
            position.topic.as_bytes(),
            &position.epoch.to_be_bytes(),
            &position.partition.to_be_bytes(),
            &position.offset.to_be_bytes(),
            &batch_index.to_be_bytes(),
        ],
    )
}

/// Names one request batch wherever and however often it is published; also its Kafka key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey(pub [u8; 16]);

impl DedupKey {
    /// The first 16 bytes of SHA-256 over (tenant, job, batch_seq).
    pub fn of(tenant: &TenantId, job: &JobId, batch_seq: u32) -> Self {
        let mut hash = Sha256::new();
        for part in [tenant.as_str(), job.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(batch_seq.to_be_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        DedupKey(key)
    }

    /// 32 hexadecimal digits: the Kafka key.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Reads what [`DedupKey::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 16];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(DedupKey(key))
    }
}
