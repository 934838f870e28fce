//! Crashes and lost replies at every point where a worker talks to its store.
//!
//! A store that fails on command stands between committer and objects. Whatever it does, a worker that
//! comes afterwards must find or make exactly one result row and one billing row of every request.

mod behaviour;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use behaviour::{ZONE, assert_exactly_once, chunk, commit, committer, data_files, log_entries, partition};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use pipeline::chunk::Chunk;
use pipeline::committer::{CommitError, CommitSettings, Committer, Recovered};
use pipeline::sink::Table;
use pipeline::store::Store;

/// What happens to a write that is chosen to fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    /// It is not done.
    Refused,
    /// It is done, but the reply is lost.
    ReplyLost,
}

/// Fails some writes of the store behind it.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    failure: Failure,
    /// Writes whose path contains this count; empty for all.
    path_part: &'static str,
    /// Writes that still succeed before the first failure.
    until: AtomicI64,
    /// Whether everything fails from then on: the process is dead.
    dead_after: bool,
    failures: AtomicU32,
}

impl Faulty {
    /// Kills the worker at its `writes`-th write.
    fn dying(store: &Store, writes: i64, failure: Failure) -> (Store, Arc<Faulty>) {
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
    fn once(store: &Store, path_part: &'static str, failure: Failure) -> (Store, Arc<Faulty>) {
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

    fn arm(&self, writes: i64) {
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

const TO: i64 = 12;

/// A worker's life from its start: recovers two partitions, then commits chunks of both until they end.
async fn work(store: Store, worker_id: &str, step: i64) -> std::result::Result<(), CommitError> {
    let settings = CommitSettings {
        intents_per_checkpoint: 2,
        ..CommitSettings::default()
    };
    let worker = Committer::open(store, ZONE, worker_id, settings).await?;
    let mut ends = Vec::new();
    for number in 0..2 {
        let id = partition(number);
        let Recovered { watermark, seen, .. } = worker.recover(&id).await?;
        let from = watermark.unwrap_or(0);
        assert_eq!(seen.len() as i64, from, "one request batch per offset");
        ends.push((id, from));
    }
    while ends.iter().any(|&(_, from)| from < TO) {
        let mut group = Vec::new();
        for (id, from) in ends.iter_mut().filter(|(_, from)| *from < TO) {
            let sealed = worker.seal(&chunk(id, *from, (*from + step).min(TO))).await?;
            *from = sealed.to();
            group.push(sealed);
        }
        worker.apply(&group).await?;
    }
    Ok(())
}

/// Dies at every write there is, in both ways, then another worker with other chunk sizes goes on.
async fn die_at_every_write(failure: Failure) {
    let mut deaths = 0;
    for writes in 0.. {
        let store = Store::open("memory://").unwrap();
        let (dying, faulty) = Faulty::dying(&store, writes, failure);
        let died = work(dying, "dying", 5).await;
        let untouched = faulty.failures.load(Ordering::SeqCst) == 0;
        if !untouched {
            deaths += 1;
        }
        work(store.clone(), "next", 3).await.unwrap();
        assert_exactly_once(&store, &[(partition(0), TO), (partition(1), TO)]).await;
        if untouched {
            died.unwrap();
            break;
        }
    }
    // Two tables made; three rounds of eight data files, two intents and two commits; dedup keys of both.
    assert!(deaths >= 2 + 3 * 12 + 2, "{deaths}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_write_of_its_life_loses_and_doubles_nothing() {
    die_at_every_write(Failure::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_write_of_its_life_loses_and_doubles_nothing() {
    die_at_every_write(Failure::ReplyLost).await;
}

/// Commits `[0, 4)`, with the first write to `path_part` failing as told, and expects it to work out.
async fn survives(path_part: &'static str, failure: Failure) -> (Store, Vec<bool>) {
    let store = Store::open("memory://").unwrap();
    let (unreliable, faulty) = Faulty::once(&store, path_part, failure);
    let worker = committer(&unreliable, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    faulty.arm(0);
    let mut adopted = Vec::new();
    for (from, to) in [(0, 2), (2, 4)] {
        adopted.push(commit_through(&worker, &chunk(&id, from, to)).await);
    }
    assert_eq!(faulty.failures.load(Ordering::SeqCst), 1);
    assert_exactly_once(&store, &[(id, 4)]).await;
    (store, adopted)
}

/// As a worker does: after an outage, again with the same chunk.
async fn commit_through(worker: &Committer, chunk: &Chunk) -> bool {
    for _ in 0..3 {
        let sealed = match worker.seal(chunk).await {
            Err(error) if error.is_transient() => continue,
            sealed => sealed.unwrap(),
        };
        worker.apply(std::slice::from_ref(&sealed)).await.unwrap();
        return sealed.is_adopted();
    }
    panic!("three outages")
}

#[tokio::test(flavor = "multi_thread")]
async fn seal_with_a_lost_reply_is_still_ours() {
    for failure in [Failure::ReplyLost, Failure::Refused] {
        let (store, adopted) = survives("_intents", failure).await;
        assert_eq!(adopted, [false, false], "{failure:?}");
        assert_eq!(
            data_files(&store).await,
            8,
            "two chunks, two tables, two partition values each"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_with_a_lost_reply_is_not_made_twice() {
    for (path_part, table) in [
        ("results/_delta_log", Table::Results),
        ("billing_events/_delta_log", Table::BillingEvents),
    ] {
        for failure in [Failure::ReplyLost, Failure::Refused] {
            let (store, _) = survives(path_part, failure).await;
            assert_eq!(log_entries(&store, table).await, 3, "{table:?} {failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_that_failed_leaves_no_files() {
    let (store, _) = survives("/part-", Failure::Refused).await;
    assert_eq!(data_files(&store).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn seal_given_up_on_is_found_when_tried_again() {
    let store = Store::open("memory://").unwrap();
    let (unreliable, faulty) = Faulty::once(&store, "_intents", Failure::ReplyLost);
    let settings = CommitSettings {
        seal_age_max: Duration::ZERO,
        ..CommitSettings::default()
    };
    let worker = Committer::open(unreliable, ZONE, "worker", settings).await.unwrap();
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    faulty.arm(0);
    let error = worker.seal(&chunk(&id, 0, 3)).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let sealed = commit(&worker, &chunk(&id, 0, 3)).await;
    assert!(
        sealed.is_adopted(),
        "the first attempt stands, under a nonce that nobody remembers"
    );
    assert_exactly_once(&store, &[(id, 3)]).await;
}
