//! Writes corrections to the ledger, exactly once.
//!
//! They take the way of every other row: staged, sealed by put-if-absent, applied with a watermark. Their
//! place is the partition `bitnet.corrections/1/0` of the zone, whose offsets count rows. What is new is
//! decided on what the table holds up to the offset that is sealed, so of two that correct at once one is
//! sealed, and the other looks again and finds its rows there.

pub mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use billing::correct::{CorrectError, Correction, new_rows, rows};
use futures::TryStreamExt;
use jiff::Timestamp;
use schemas::billing::{BillingRow, from_batch};
use schemas::columns::ReadError;
use schemas::ids::Position;
use schemas::view::EventColumns;
use uuid::Uuid;

use crate::chunk::PartitionId;
use crate::committer::{CommitError, CommitSettings, Committer};
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{TableError, Tables};

/// Names the partition of corrections; no Kafka topic is called so.
pub const TOPIC: &str = "bitnet.corrections";

/// How often others may be faster.
const ATTEMPTS_MAX: u32 = 10;

/// Why corrections were not written. None of the file's rows are then.
#[derive(Debug, thiserror::Error)]
pub enum CorrectionsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Lines that cannot be used.
    #[error("{}", .0.join("\n"))]
    File(Vec<String>),
    /// Corrections that cannot be made.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// The ledger could not be read.
    #[error("cannot read billing_events")]
    Table(#[from] TableError),
    /// A row of the ledger cannot be read.
    #[error("cannot read a row of billing_events")]
    Row {
        /// Why.
        source: ReadError,
    },
    /// The rows could not be written.
    #[error("cannot write the corrections")]
    Commit(#[from] CommitError),
    /// Others corrected at the same time, too often in a row.
    #[error("other corrections came first {ATTEMPTS_MAX} times in a row")]
    Contended,
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// Rows added, or that would be.
    pub new: Vec<BillingRow>,
    /// Rows that were there already.
    pub known: usize,
}

/// Makes all corrections of `asked`, or none. `now` becomes their `ingested_at`.
///
/// # Errors
/// See [`CorrectionsError`]. The same call may be repeated: what is there already is not added again.
pub async fn apply(
    store: Store,
    zone: &str,
    asked: &[Correction],
    now: Timestamp,
    dry_run: bool,
) -> Result<Done, CorrectionsError> {
    // Opened for reading first: a zone without tables has nothing to correct.
    let tables = Tables::open(&store, zone).await?;
    if dry_run {
        return plan(&tables, asked, now).await;
    }
    let partition = PartitionId {
        topic: TOPIC.to_owned(),
        epoch: 1,
        partition: 0,
    };
    let committer = Committer::open(store, zone, "billing-correct", CommitSettings::default()).await?;
    for _ in 0..ATTEMPTS_MAX {
        let from = committer.recover(&partition).await?.watermark.unwrap_or(0);
        let mut done = plan(committer.tables(), asked, now).await?;
        if done.new.is_empty() {
            return Ok(done);
        }
        for (offset, row) in (from..).zip(&mut done.new) {
            row.position = position(&partition, offset);
            row.batch_index = 0;
        }
        let sealed = committer.seal_billing(&partition, from, done.new.clone()).await?;
        committer.apply(std::slice::from_ref(&sealed)).await?;
        if !sealed.is_adopted() {
            return Ok(done);
        }
    }
    Err(CorrectionsError::Contended)
}

fn position(partition: &PartitionId, offset: i64) -> Position {
    Position {
        topic: partition.topic.clone(),
        epoch: partition.epoch,
        partition: partition.partition,
        offset,
    }
}

/// What is to be added to the table as it is now.
async fn plan(tables: &Tables, asked: &[Correction], now: Timestamp) -> Result<Done, CorrectionsError> {
    let wanted: BTreeSet<Uuid> = asked.iter().map(|correction| correction.event_id).collect();
    let (mut originals, mut corrected) = (BTreeMap::new(), Vec::new());
    let mut batches = tables.scan(Table::BillingEvents, &[], None).await?;
    while let Some(batch) = batches.try_next().await? {
        for row in of_events(&batch, &wanted)? {
            if row.corrects_event_id.is_some_and(|id| wanted.contains(&id)) {
                corrected.push(row);
            } else if wanted.contains(&row.event_id) {
                first(&mut originals, row);
            }
        }
    }
    let (mut done, mut problems) = (
        Done {
            new: Vec::new(),
            known: 0,
        },
        Vec::new(),
    );
    for correction in asked {
        match one(correction, &originals, &corrected, now) {
            Ok((new, known)) => {
                corrected.extend(new.iter().cloned());
                done.new.extend(new);
                done.known += known;
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(done)
    } else {
        Err(CorrectionsError::Refused(problems))
    }
}

/// The rows of these events, and those that correct them.
fn of_events(batch: &RecordBatch, events: &BTreeSet<Uuid>) -> Result<Vec<BillingRow>, CorrectionsError> {
    let failed = |source| CorrectionsError::Row { source };
    let columns = EventColumns::of(batch).map_err(failed)?;
    let mut wanted = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let event = columns.view(row).map_err(failed)?;
        let corrects = event.corrects_event_id;
        wanted.push(events.contains(&event.event_id) || corrects.is_some_and(|id| events.contains(&id)));
    }
    let rows = filter_record_batch(batch, &BooleanArray::from(wanted));
    let rows = rows.expect("the filter has the length of its batch");
    from_batch(&rows).map_err(failed)
}

/// Of several rows with one id the one that counts: ingested first, as every report has it.
fn first(originals: &mut BTreeMap<Uuid, BillingRow>, row: BillingRow) {
    let is_first = originals
        .get(&row.event_id)
        .is_none_or(|known| (row.ingested_at, &row.payload_hash) < (known.ingested_at, &known.payload_hash));
    if is_first {
        originals.insert(row.event_id, row);
    }
}

fn one(
    correction: &Correction,
    originals: &BTreeMap<Uuid, BillingRow>,
    corrected: &[BillingRow],
    now: Timestamp,
) -> Result<(Vec<BillingRow>, usize), String> {
    let id = correction.event_id;
    // A replacement corrects, and may be corrected itself.
    let replacement = corrected.iter().find(|row| row.event_id == id);
    let original = originals.get(&id).or(replacement);
    let original =
        original.ok_or_else(|| format!("event {id} is not in this zone's ledger; check the id and the zone"))?;
    let made = rows(original, correction, now).map_err(|error: CorrectError| error.to_string())?;
    let count = made.len();
    let new = new_rows(made, corrected).map_err(|error| error.to_string())?;
    let known = count - new.len();
    Ok((new, known))
}
