//! The object store that holds tables and intents: a directory, an S3 bucket, or memory for tests.
//!
//! Everything else relies on one promise of it: of many writers that create one object, exactly one
//! wins ([`object_store::PutMode::Create`]). [`Store::check`] tries that promise out at start-up.

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use ulid::Ulid;
use url::Url;

/// How often one request to S3 is repeated, and for how long. Each attempt has 30 s by default
/// (`AWS_TIMEOUT`), 5 s of them to connect (`AWS_CONNECT_TIMEOUT`).
const S3_RETRIES_MAX: usize = 6;
const S3_RETRY_AGE_MAX: Duration = Duration::from_secs(30);

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `store.uri` is not one of the forms we know.
    #[error("store.uri {uri:?} {reason}; write file:///directory, file://./directory or s3://bucket/prefix")]
    Uri {
        /// The setting.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory cannot be made.
    #[error("store.uri {uri:?}: cannot create directory {}; give it to this user or choose another", path.display())]
    Directory {
        /// The setting.
        uri: String,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bucket is not there.
    #[error("store.uri {uri:?}: the bucket does not exist at this endpoint; create it or correct store.uri")]
    MissingBucket {
        /// The setting.
        uri: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// We may not write there.
    #[error("store.uri {uri:?}: no permission to write; check the directory's owner or the AWS_* credentials")]
    Denied {
        /// The setting.
        uri: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store takes a second object of the same name, so two workers could both believe they won.
    #[error("store.uri {uri:?}: the store ignores conditional writes (If-None-Match: *); exactly-once needs them")]
    Unconditional {
        /// The setting.
        uri: String,
    },
    /// No answer, or one that tells nothing more.
    #[error("store.uri {uri:?}: cannot write and read back a small object; check that the store is up and reachable")]
    Unreachable {
        /// The setting.
        uri: String,
        /// What the store said.
        source: object_store::Error,
    },
}

/// An object store and the place in it where we keep everything. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: Url,
    uri: String,
}

impl Store {
    /// Opens `file:///dir`, `file://./dir` (made if missing), `s3://bucket/prefix` or `memory://`.
    ///
    /// S3 credentials, endpoint and region come from the usual `AWS_*` variables. Every call to S3 is
    /// bounded in time and attempts. Two calls with `memory://` give two stores.
    pub fn open(uri: &str) -> Result<Store, StoreError> {
        let wrong = |reason: &str| StoreError::Uri {
            uri: uri.to_owned(),
            reason: reason.to_owned(),
        };
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let (objects, url): (Arc<dyn ObjectStore>, Url) = match scheme {
            "file" => (
                Arc::new(LocalFileSystem::new().with_fsync(true)),
                directory_url(uri, rest)?,
            ),
            "s3" => open_s3(uri)?,
            "memory" => (
                Arc::new(InMemory::new()),
                Url::parse("memory:///").map_err(|e| wrong(&e.to_string()))?,
            ),
            other => return Err(wrong(&format!("has the unknown scheme {other:?}"))),
        };
        Ok(Store {
            objects,
            url,
            uri: uri.to_owned(),
        })
    }

    /// The same place behind another object store, which may count, delay or fail calls.
    pub fn with_objects(self, objects: Arc<dyn ObjectStore>) -> Store {
        Store { objects, ..self }
    }

    /// The objects; paths count from the root of the bucket or file system, see [`Store::path`].
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Where everything lies; ends in a slash.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The path of an object, given relative to [`Store::url`].
    pub fn path(&self, relative: &str) -> Path {
        let root = Path::from_url_path(self.url.path()).unwrap_or_default();
        root.parts().chain(Path::from(relative).parts()).collect()
    }

    /// The inverse of [`Store::path`]; what lies elsewhere is given as it is.
    pub(crate) fn relative(&self, path: &Path) -> String {
        let root = self.path("");
        match path.prefix_match(&root) {
            Some(parts) => parts.collect::<Path>().to_string(),
            None => path.to_string(),
        }
    }

    /// Writes a small object, tries to create it again, reads it back and deletes it.
    pub async fn check(&self) -> Result<(), StoreError> {
        let probe = self.path(&format!("_probe/{}", Ulid::generate()));
        let content = PutPayload::from_static(b"bitnet");
        self.objects
            .put_opts(&probe, content.clone(), PutMode::Create.into())
            .await
            .map_err(|e| self.explain(e))?;
        let again = self.objects.put_opts(&probe, content, PutMode::Create.into()).await;
        let read = self.objects.get(&probe).await;
        let deleted = self.objects.delete(&probe).await;
        match again {
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Ok(_) => return Err(StoreError::Unconditional { uri: self.uri.clone() }),
            Err(e) => return Err(self.explain(e)),
        }
        read.map_err(|e| self.explain(e))?
            .bytes()
            .await
            .map_err(|e| self.explain(e))?;
        deleted.map_err(|e| self.explain(e))
    }

    fn explain(&self, source: object_store::Error) -> StoreError {
        let uri = self.uri.clone();
        match source {
            object_store::Error::NotFound { .. } => StoreError::MissingBucket { uri, source },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                StoreError::Denied { uri, source }
            }
            _ if io_kind(&source) == Some(io::ErrorKind::PermissionDenied) => StoreError::Denied { uri, source },
            _ if io_kind(&source) == Some(io::ErrorKind::ReadOnlyFilesystem) => StoreError::Denied { uri, source },
            _ => StoreError::Unreachable { uri, source },
        }
    }
}

/// Whether the same call may succeed later without anyone changing a setting.
pub(crate) fn is_outage(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }
    )
}

/// When the store says that the object was written; of a time that no calendar has, the latest there is.
pub(crate) fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MAX)
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

fn directory_url(uri: &str, rest: &str) -> Result<Url, StoreError> {
    let wrong = |reason: &str| StoreError::Uri {
        uri: uri.to_owned(),
        reason: reason.to_owned(),
    };
    let path = if rest.starts_with('/') {
        let url = Url::parse(uri).map_err(|e| wrong(&e.to_string()))?;
        url.to_file_path()
            .map_err(|()| wrong("does not name a directory of this machine"))?
    } else if rest == "." || rest.starts_with("./") || rest.starts_with("../") {
        PathBuf::from(rest)
    } else {
        return Err(wrong("is neither absolute (three slashes) nor relative (file://./…)"));
    };
    let made = std::fs::create_dir_all(&path).and_then(|()| FilePath::canonicalize(&path));
    let absolute = made.map_err(|source| StoreError::Directory {
        uri: uri.to_owned(),
        path,
        source,
    })?;
    Url::from_directory_path(absolute).map_err(|()| wrong("does not name a directory of this machine"))
}

fn open_s3(uri: &str) -> Result<(Arc<dyn ObjectStore>, Url), StoreError> {
    let wrong = |reason: String| StoreError::Uri {
        uri: uri.to_owned(),
        reason,
    };
    let url = Url::parse(&format!("{}/", uri.trim_end_matches('/'))).map_err(|e| wrong(e.to_string()))?;
    let bucket = url.host_str().ok_or_else(|| wrong("names no bucket".to_owned()))?;
    let retry = RetryConfig {
        max_retries: S3_RETRIES_MAX,
        retry_timeout: S3_RETRY_AGE_MAX,
        ..RetryConfig::default()
    };
    let builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry);
    let store = builder.build().map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    Ok((Arc::new(store), url))
}
