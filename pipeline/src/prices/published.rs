//! The record of what is published, in the object store: `<store>/_billing/published/<n>.json`.
//!
//! Each object adds names and hashes, and is created once and never changed. A worker adds what it is about to
//! rate with before it rates; of two that add at once, the slower one reads what the other added and tries
//! again. So nobody ever rates with two contents of one version.

use billing::published::{Changed, Published};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutMode};

use super::Prices;
use crate::store::Store;

/// Objects read at a time.
const READS_MAX: usize = 16;

/// Why prices and contracts may not be used.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A published version says something else now.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Changed(Vec<Changed>),
    /// The store failed.
    #[error("cannot read or write {path}")]
    Store {
        /// The object.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// An object is not what was written there.
    #[error("{path} is damaged; restore it from a backup")]
    Damaged {
        /// The object.
        path: String,
        /// How that shows.
        source: serde_json::Error,
    },
}

impl Prices {
    /// Publishes every version and contract that is not yet published.
    ///
    /// # Errors
    /// When one of them is published with another content, or the store fails. Nothing is rated then.
    pub async fn publish(&self, store: &Store) -> Result<(), PublishError> {
        let now = Published::of(&self.book, &self.contracts);
        loop {
            let (published, count) = read(store).await?;
            let missing = published.missing(&now).map_err(PublishError::Changed)?;
            if missing.is_empty() {
                return Ok(());
            }
            let path = store.path(&format!("{DIRECTORY}/{count:08}.json"));
            let failed = |source| PublishError::Store {
                path: path.to_string(),
                source,
            };
            let bytes = serde_json::to_vec_pretty(&missing).map_err(|source| PublishError::Damaged {
                path: path.to_string(),
                source,
            })?;
            match store
                .objects()
                .put_opts(&path, bytes.into(), PutMode::Create.into())
                .await
            {
                Ok(_) => return Ok(()),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// Checks that nothing published has changed, and publishes nothing.
    ///
    /// # Errors
    /// As [`Prices::publish`].
    pub async fn check_published(&self, store: &Store) -> Result<(), PublishError> {
        let now = Published::of(&self.book, &self.contracts);
        let (published, _) = read(store).await?;
        published.missing(&now).map(drop).map_err(PublishError::Changed)
    }
}

const DIRECTORY: &str = "_billing/published";

/// Everything published so far, and in how many objects.
async fn read(store: &Store) -> Result<(Published, usize), PublishError> {
    let directory = store.path(DIRECTORY);
    let failed = |path: String| move |source| PublishError::Store { path, source };
    let listed = store.objects().list(Some(&directory)).map_ok(|meta| meta.location);
    let mut paths: Vec<_> = listed.try_collect().await.map_err(failed(directory.to_string()))?;
    paths.sort();
    let reads = futures::stream::iter(paths.clone()).map(|path| async move {
        let got = store.objects().get(&path).await.map_err(failed(path.to_string()))?;
        let bytes = got.bytes().await.map_err(failed(path.to_string()))?;
        serde_json::from_slice::<Published>(&bytes).map_err(|source| PublishError::Damaged {
            path: path.to_string(),
            source,
        })
    });
    let parts: Vec<Published> = reads.buffered(READS_MAX).try_collect().await?;
    let mut published = Published::default();
    parts.into_iter().for_each(|part| published.add(part));
    Ok((published, paths.len()))
}
