//! A store that fails on command.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use pipeline::store::Store;

/// What happens to a write that is chosen to fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Failure {
    /// It is not done.
    Refused,
    /// It is done, but the reply is lost.
    ReplyLost,
}

/// Fails some writes of the store behind it.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    failure: Failure,
    /// Writes whose path contains this count; empty for all.
    path_part: &'static str,
    /// Writes that still succeed before the first failure.
    until: AtomicI64,
    /// Whether everything fails from then on: the process is dead.
    dead_after: bool,
    pub(crate) failures: AtomicU32,
}

impl Faulty {
    /// Kills the worker at its `writes`-th write.
    pub(crate) fn dying(store: &Store, writes: i64, failure: Failure) -> (Store, Arc<Faulty>) {
        Faulty::wrap(
            store,
            Faulty {
                inner: store.objects().clone(),
                failure,
                path_part: "",
                until: AtomicI64::new(writes),
                dead_after: true,
                failures: AtomicU32::new(0),
            },
        )
    }

    /// Loses or refuses the next write to a path that contains `path_part`.
    pub(crate) fn once(store: &Store, path_part: &'static str, failure: Failure) -> (Store, Arc<Faulty>) {
        Faulty::wrap(
            store,
            Faulty {
                inner: store.objects().clone(),
                failure,
                path_part,
                until: AtomicI64::new(i64::MAX),
                dead_after: false,
                failures: AtomicU32::new(0),
            },
        )
    }

    fn wrap(store: &Store, faulty: Faulty) -> (Store, Arc<Faulty>) {
        let faulty = Arc::new(faulty);
        (store.clone().with_objects(faulty.clone()), faulty)
    }

    pub(crate) fn arm(&self, writes: i64) {
        self.until.store(writes, Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.dead_after && self.until.load(Ordering::SeqCst) < 0
    }

    /// Whether this write is to fail.
    fn fails(&self, path: &Path) -> bool {
        if !path.as_ref().contains(self.path_part) {
            return false;
        }
        let left = self.until.fetch_sub(1, Ordering::SeqCst);
        let fails = if self.dead_after { left <= 0 } else { left == 0 };
        self.failures.fetch_add(u32::from(fails), Ordering::SeqCst);
        fails
    }

    /// An outage while the worker lives; a dead one must not be retried, so its error is final.
    fn error(&self) -> object_store::Error {
        if self.dead_after {
            return object_store::Error::PermissionDenied {
                path: "dead".to_owned(),
                source: "dead".into(),
            };
        }
        object_store::Error::Generic {
            store: "faulty",
            source: "connection reset".into(),
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let was_dead = self.is_dead();
        if !self.fails(location) {
            return self.inner.put_opts(location, payload, opts).await;
        }
        if self.failure == Failure::ReplyLost && !was_dead {
            self.inner.put_opts(location, payload, opts).await?;
        }
        Err(self.error())
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if self.fails(location) {
            return Err(self.error());
        }
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_dead() {
            return Err(self.error());
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.is_dead() {
            let error = self.error();
            return stream::once(async { Err(error) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
