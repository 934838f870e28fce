//! The worker: from Kafka to the tables, one loop that owns all mutable state.
//!
//! A message takes one straight way: [`source`](crate::source) → [`admit`](crate::admit) →
//! [`worker`](crate::worker) → [`settle`](crate::settle) → [`ledger`](crate::ledger) →
//! [`committer`](crate::committer). Everything slow runs beside the loop and reports back to it. What is
//! in flight is bounded by the permits of `kafka.in_flight_max`, taken when a message is read, returned
//! when its rows are in the tables.

mod assignment;
mod flow;
mod careful;
mod commit;
mod ending;
mod patience;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{EngineError, JobId};
use jiff::Timestamp;
use rdkafka::error::KafkaError;
use schemas::ids::{CustomId, Position};
use schemas::request::{RequestBatch, ServiceTier};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::admit::{Admission, AdmitError, Admitted, Context};
use crate::chunk::PartitionId;
use crate::claim_check::ClaimCheckError;
use crate::committer::{CommitError, Committer, Sealed};
use crate::dead_letter::DeadLetters;
use crate::ledger::{FlushLimits, Ledger, SlotId};
use crate::progress::Progress;
use crate::settle::Settler;
use crate::source::{Connected, PartitionEnds, Raw, Source, SourceConfig, SourceError, SourceEvent};
use crate::worker::{News, Order, Worker};
use assignment::RecoveryDone;
use careful::{Careful, NoteDone};

/// How often deadlines, ages and budgets are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Events of the source that wait for the loop, at most; each delivery among them holds a permit.
const SOURCE_EVENTS: usize = 64;

/// Everything a worker is made of.
pub struct Parts {
    /// How to read.
    pub source: SourceConfig,
    /// How to take messages apart.
    pub admission: Admission,
    /// How to make rows.
    pub settler: Settler,
    /// Where undecodable messages go.
    pub dead_letters: DeadLetters,
    /// Where rows go.
    pub committer: Arc<Committer>,
    /// Engine bounds.
    pub engine: engine::EngineSettings,
    /// Loop bounds.
    pub limits: RunLimits,
}

/// Bounds of the loop.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// No further message is taken apart while so many requests are in flight.
    pub requests_in_flight_max: usize,
    /// Messages of one topic from read to committed.
    pub in_flight_per_topic: usize,
    /// Messages taken apart at once.
    pub admissions_max: usize,
    /// When rows become files.
    pub flush: FlushLimits,
    /// How long work may take to finish once partitions are revoked or a stop is asked.
    pub drain_budget: Duration,
    /// How long the store or the broker may be away.
    pub outage_max: Duration,
    /// Stop when everything that stood in the topics at the start is committed.
    pub drain: bool,
}

/// Why a worker stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Reading cannot go on.
    #[error("reading from Kafka stopped")]
    Source(#[source] SourceError),
    /// The tables, the intents or the store stopped us.
    #[error("committing stopped")]
    Commit(#[source] CommitError),
    /// A claim check's file could not be read for too long.
    #[error("an input file could not be read for {}s", .outage_max.as_secs())]
    Input {
        /// The bound that was passed.
        outage_max: Duration,
        /// The last failure.
        source: ClaimCheckError,
    },
    /// A dead letter could not be delivered for too long.
    #[error("a dead letter could not be delivered for {}s", .outage_max.as_secs())]
    DeadLetter {
        /// The bound that was passed.
        outage_max: Duration,
        /// The last failure.
        source: KafkaError,
    },
    /// The engine cannot be made with these settings.
    #[error("the engine cannot be made")]
    Engine(#[source] EngineError),
    /// The Kafka thread is gone.
    #[error("reading stopped; its panic is in the log")]
    SourceGone,
    /// The engine's thread is gone.
    #[error("the engine stopped; its panic is in the log")]
    EngineGone,
    /// No price applies.
    #[error("a request cannot be rated")]
    Rate(#[source] billing::event::RateError),
    /// Messages were deleted before they were read.
    #[error(
        "partition {partition}: offsets {watermark} to {low} were deleted by retention before they were scored; \
         if they may be lost, raise kafka.topic_epoch by one"
    )]
    Lost {
        /// Which partition.
        partition: PartitionId,
        /// Where we would go on.
        watermark: i64,
        /// First offset still there.
        low: i64,
    },
    /// The topic is shorter than what we committed of it.
    #[error(
        "partition {partition} ends at offset {high}, but the tables are complete up to {watermark}: the topic was \
         deleted and made again; raise kafka.topic_epoch by one"
    )]
    Recreated {
        /// Which partition.
        partition: PartitionId,
        /// Where we would go on.
        watermark: i64,
        /// One past the last offset.
        high: i64,
    },
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// What is known of one request while the engine has it.
struct Running {
    slot: SlotId,
    row: u32,
    custom_id: CustomId,
    context: Arc<Context>,
    first_token_at: Option<Timestamp>,
}

/// Where a message came from, and its bytes while they may still be needed.
struct Origin {
    slot: SlotId,
    position: Position,
    raw: Raw,
}

/// A message that waits to be taken apart.
struct Unread {
    origin: Origin,
    batch: RequestBatch,
    repeats: Option<i64>,
}

/// Partitions that came, and who waits to hear where they start.
struct Assignment {
    partitions: Vec<PartitionEnds>,
    reply: std::sync::mpsc::SyncSender<Vec<i64>>,
}

/// Partitions that go away, and who waits for that.
struct Revocation {
    partitions: Vec<PartitionId>,
    reply: std::sync::mpsc::SyncSender<()>,
    deadline: Instant,
    cut: bool,
}

/// Rows on their way to the tables; the permits of their messages return when it is dropped.
struct InCommit {
    partition: PartitionId,
    rows: u64,
    _permits: Vec<OwnedSemaphorePermit>,
}

type SealDone = (InCommit, Result<Sealed, CommitError>);
type ApplyDone = (Vec<(InCommit, Sealed)>, Result<(), CommitError>);

struct Loop {
    // What it works with.
    admission: Admission,
    settler: Settler,
    dead_letters: DeadLetters,
    committer: Arc<Committer>,
    limits: RunLimits,
    source: Source,
    orders: mpsc::Sender<Order>,
    progress: watch::Sender<Progress>,
    // What is in flight, in the order of the way.
    assignments: Vec<Assignment>,
    recoveries: JoinSet<RecoveryDone>,
    ledger: Ledger,
    /// Partitions of which nothing was taken apart yet.
    untried: BTreeSet<PartitionId>,
    /// What waits for the note that it is tried.
    noting: BTreeMap<PartitionId, Vec<Unread>>,
    notes: JoinSet<NoteDone>,
    careful: BTreeMap<PartitionId, Careful>,
    unread: BTreeMap<ServiceTier, VecDeque<Unread>>,
    admissions: JoinSet<(Origin, Result<Admitted, AdmitError>)>,
    dead: JoinSet<(SlotId, Result<(), KafkaError>)>,
    outbox: VecDeque<Order>,
    running: HashMap<JobId, Running>,
    deadlines: BTreeSet<(Timestamp, JobId)>,
    next_job: u64,
    seals: JoinSet<SealDone>,
    sealed: Vec<(InCommit, Sealed)>,
    applies: JoinSet<ApplyDone>,
    /// Messages of each partition on their way to the tables.
    in_commit: BTreeMap<PartitionId, usize>,
    // How it ends.
    revocations: Vec<Revocation>,
    /// Drain mode: where each partition ended at the start.
    ends: BTreeMap<PartitionId, i64>,
    /// Drain mode: the ends not reached yet.
    targets: BTreeMap<PartitionId, i64>,
    others: JoinSet<Result<Vec<(PartitionId, i64)>, CommitError>>,
    others_checked: Instant,
    releases: JoinSet<()>,
    stop_by: Option<Instant>,
    stop_cut: bool,
}

/// Runs a worker until it is asked to stop, has drained its topics, or cannot go on.
///
/// Whatever ends it, nothing sealed is lost: the next owner of a partition applies it.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    parts: Parts,
    mut stop: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
) -> Result<(), RunError> {
    let (source_in, mut events) = mpsc::channel(SOURCE_EVENTS);
    let epoch = parts.source.epoch;
    let connected = blocking(|| Connected::new(parts.source, source_in))
        .await
        .map_err(RunError::Source)?;
    for (topic, partitions) in connected.partition_counts() {
        let declared = parts.committer.declare_epoch(topic, epoch, partitions).await;
        declared.map_err(RunError::Commit)?;
    }
    let ends = if parts.limits.drain {
        unread(&connected, &parts.committer).await?
    } else {
        BTreeMap::new()
    };
    if parts.limits.drain && ends.is_empty() {
        return Ok(());
    }
    let mut worker = Worker::start(parts.engine).map_err(RunError::Thread)?;
    let mut this = Loop {
        admission: parts.admission,
        settler: parts.settler,
        dead_letters: parts.dead_letters,
        committer: parts.committer,
        limits: parts.limits,
        source: connected.start().map_err(RunError::Source)?,
        orders: worker.orders.clone(),
        progress,
        assignments: Vec::new(),
        recoveries: JoinSet::new(),
        ledger: Ledger::default(),
        untried: BTreeSet::new(),
        noting: BTreeMap::new(),
        notes: JoinSet::new(),
        careful: BTreeMap::new(),
        unread: BTreeMap::new(),
        admissions: JoinSet::new(),
        dead: JoinSet::new(),
        outbox: VecDeque::new(),
        running: HashMap::new(),
        deadlines: BTreeSet::new(),
        next_job: 0,
        seals: JoinSet::new(),
        sealed: Vec::new(),
        applies: JoinSet::new(),
        in_commit: BTreeMap::new(),
        revocations: Vec::new(),
        targets: ends.clone(),
        ends,
        others: JoinSet::new(),
        others_checked: Instant::now(),
        releases: JoinSet::new(),
        stop_by: None,
        stop_cut: false,
    };
    let ended = this.turn(&mut events, &mut worker.news, &mut stop).await;
    if !matches!(ended, Err(RunError::EngineGone | RunError::SourceGone)) {
        this.release_all().await;
    }
    // The source must find nobody listening and no answer outstanding, or its last callback would wait for us.
    let source = this.into_source();
    drop(events);
    blocking(|| {
        source.stop();
        worker.stop();
    })
    .await;
    ended
}

impl Origin {
    fn partition(&self) -> PartitionId {
        PartitionId {
            topic: self.position.topic.clone(),
            epoch: self.position.epoch,
            partition: self.position.partition,
        }
    }
}

impl Loop {
    /// Drops everything but the source.
    fn into_source(self) -> Source {
        self.source
    }

    async fn turn(
        &mut self,
        events: &mut mpsc::Receiver<SourceEvent>,
        news: &mut mpsc::Receiver<News>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.has_ended() {
            self.start_recoveries();
            self.start_admissions();
            self.start_commits();
            let orders = self.orders.clone();
            tokio::select! {
                event = events.recv() => self.on_source(event.ok_or(RunError::SourceGone)?)?,
                Some(done) = self.recoveries.join_next() => {
                    self.on_recovered(done.expect("recovery does not panic"))?;
                }
                news = news.recv() => self.on_news(news.ok_or(RunError::EngineGone)?)?,
                permit = orders.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| RunError::EngineGone)?;
                    permit.send(self.outbox.pop_front().expect("the branch is guarded"));
                }
                Some(done) = self.notes.join_next() => self.on_noted(done.expect("noting does not panic"))?,
                Some(done) = self.admissions.join_next() => {
                    let (origin, admitted) = done.expect("admission does not panic");
                    self.on_admitted(origin, admitted)?;
                }
                Some(done) = self.dead.join_next() => {
                    let (slot, sent) = done.expect("sending does not panic");
                    self.on_dead_letter(slot, sent)?;
                }
                Some(done) = self.seals.join_next() => self.on_sealed(done.expect("sealing does not panic"))?,
                Some(done) = self.applies.join_next() => self.on_applied(done.expect("applying does not panic"))?,
                Some(done) = self.others.join_next() => self.on_others(done.expect("asking does not panic"))?,
                Some(_) = self.releases.join_next() => {}
                _ = tick.tick() => self.expire(Timestamp::now())?,
                Ok(()) = stop.changed() => self.on_stop(),
            }
        }
        Ok(())
    }
}

/// Drain mode: the partitions whose ends are not in the tables yet, with their ends.
async fn unread(connected: &Connected, committer: &Committer) -> Result<BTreeMap<PartitionId, i64>, RunError> {
    let ends: Vec<_> = connected.ends().iter().filter(|ends| ends.high > ends.low).collect();
    let partitions: Vec<_> = ends.iter().map(|ends| ends.partition.clone()).collect();
    let watermarks = committer.watermarks(&partitions).await.map_err(RunError::Commit)?;
    let unread = ends
        .iter()
        .zip(watermarks)
        .filter(|&(ends, watermark)| watermark < ends.high);
    Ok(unread.map(|(ends, _)| (ends.partition.clone(), ends.high)).collect())
}

/// librdkafka blocks while it waits for the broker.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("what blocks does not panic")
}
