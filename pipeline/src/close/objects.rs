//! Small objects that are created once: by name, as bytes, as JSON, as lines of JSON.

use billing::close::manifest::ClosedFile;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::store::{self, Store};

/// Bytes of an object that are held while it is hashed.
const HASHED_BYTES: u64 = 4 << 20;

/// Why an object is not there as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The store failed; whether a write landed is unknown, so try the same again.
    #[error("cannot read or write {path}")]
    Store {
        /// The object.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// It is there with other bytes than those that are to be there.
    #[error(
        "{path} is there already with another content, made by another version of bitnet or edited; see which is right"
    )]
    Differs {
        /// The object.
        path: String,
    },
    /// It is not what is written there.
    #[error("{path} is damaged; restore it from a backup")]
    Damaged {
        /// The object.
        path: String,
        /// How that shows.
        source: serde_json::Error,
    },
}

impl ObjectError {
    pub(super) fn store(path: &Path, source: object_store::Error) -> Self {
        let path = path.to_string();
        ObjectError::Store { path, source }
    }

    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, ObjectError::Store { source, .. } if store::is_outage(source))
    }
}

/// The objects of a store, by their path in it.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Store,
}

impl Objects {
    pub(super) fn new(store: Store) -> Self {
        Objects { store }
    }

    /// The bytes; none if there is no such object.
    pub(super) async fn bytes(&self, path: &str) -> Result<Option<Bytes>, ObjectError> {
        let place = self.store.path(path);
        let failed = |source| ObjectError::store(&place, source);
        match self.store.objects().get(&place).await {
            Ok(got) => Ok(Some(got.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Length and SHA-256 of the bytes, a piece at a time; none if there is no such object.
    pub(super) async fn hash(&self, path: &str) -> Result<Option<ClosedFile>, ObjectError> {
        self.hash_at(&self.store.path(path)).await
    }

    /// As [`Objects::hash`], of what lies at `place`.
    pub(super) async fn hash_at(&self, place: &Path) -> Result<Option<ClosedFile>, ObjectError> {
        let failed = |source| ObjectError::store(place, source);
        let objects = self.store.objects();
        let size = match objects.head(place).await {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut hash = Sha256::new();
        let mut from = 0;
        while from < size {
            let to = (from + HASHED_BYTES).min(size);
            hash.update(objects.get_range(place, from..to).await.map_err(failed)?);
            from = to;
        }
        let sha256 = hex::encode(hash.finalize());
        Ok(Some(ClosedFile { size, sha256 }))
    }

    /// The object and the SHA-256 of its bytes; none if it is not there.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<(T, String)>, ObjectError> {
        let Some(bytes) = self.bytes(path).await? else {
            return Ok(None);
        };
        Ok(Some((self.parse(path, &bytes)?, hex::encode(Sha256::digest(&bytes)))))
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, ObjectError> {
        serde_json::from_slice(bytes).map_err(|source| ObjectError::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    /// One value a line.
    pub(super) fn lines<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<Vec<T>, ObjectError> {
        let values = serde_json::Deserializer::from_slice(bytes).into_iter();
        values.collect::<Result<_, _>>().map_err(|source| ObjectError::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    /// Creates the object, or finds the same bytes there.
    pub(super) async fn create(&self, path: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
        let (place, bytes) = (self.store.path(path), Bytes::from(bytes));
        let put = self
            .store
            .objects()
            .put_opts(&place, bytes.clone().into(), PutMode::Create.into());
        match put.await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => match self.bytes(path).await? {
                Some(there) if there == bytes => Ok(()),
                _ => Err(ObjectError::Differs { path: path.to_owned() }),
            },
            Err(source) => Err(ObjectError::store(&place, source)),
        }
    }

    /// Creates the object, or returns what another process created first.
    pub(super) async fn create_json<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        value: &T,
    ) -> Result<T, ObjectError> {
        let bytes = self.to_json(path, value)?;
        match self.create(path, bytes.clone()).await {
            Ok(()) => self.parse(path, &bytes),
            Err(ObjectError::Differs { path }) => match self.json(&path).await? {
                Some((theirs, _)) => Ok(theirs),
                None => Err(ObjectError::Differs { path }),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) fn to_json<T: Serialize>(&self, path: &str, value: &T) -> Result<Vec<u8>, ObjectError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| ObjectError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
