//! Reads `billing_events` so that each event counts once, in whatever order and however often its row is
//! there.
//!
//! Of rows with one id but different payloads or results the one ingested first counts, because a month
//! that is closed must not change; the others are quarantined, and so is a row that its own hash belies.
//!
//! Every row is added where it belongs as it is read. Ids that came more than once are then read again, and
//! what should not have been added is taken back.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use jiff::Timestamp;
use schemas::ids::TenantId;
use schemas::view::{EventColumns, EventView};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ReportError;
use super::sums::{By, Group, Groups, Meters, Sum, Sums, taken_back};
use super::table::{Table, fold, key};
use crate::event::{is_hash, payload_digest};
use crate::sorted::{Sorted, Sorter};

/// How many quarantined payloads are listed; all their rows are counted.
const SHOWN_MAX: usize = 100;

/// Which events a report is about.
pub(crate) type Wanted<'a> = &'a (dyn Fn(&EventView<'_>) -> bool + Sync);

/// A payload that is in no total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// The id of its rows.
    pub event_id: Uuid,
    /// Which row of `results` it is for.
    pub result_id: Uuid,
    /// Whom it would have charged.
    pub tenant: TenantId,
    /// When the first of its rows was made.
    pub ingested_at: Timestamp,
    /// The first half of its `payload_hash`.
    pub payload_hash: String,
    /// Why it does not count.
    pub reason: &'static str,
}

/// The rows that are in no total.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// How many.
    pub rows: u64,
    /// The first hundred of their payloads, by id.
    pub shown: BTreeSet<Quarantined>,
}

/// The ledger's sums.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) groups: Groups,
    /// Events that count.
    pub(crate) events: u64,
    /// Rows of an event that counts already, with the same payload.
    pub(crate) repeated: u64,
    pub(crate) quarantine: Quarantine,
}

/// Reads the rows that `wanted` wants; the others are as if they were not there. At most about `run_bytes` are
/// held of each kind of what grows with the rows.
pub(crate) fn read(events: &dyn Table, run_bytes: usize, by: By, wanted: Wanted<'_>) -> Result<Ledger, ReportError> {
    let passes = fold(
        "billing_events",
        events,
        &EventColumns::names(),
        || Pass::new(by, run_bytes),
        |pass, batch| {
            each(batch, |row| match wanted(row) {
                true => pass.take(row).map(drop),
                false => Ok(()),
            })
        },
    )?;
    count(passes, events, run_bytes, by, wanted)
}

/// Hands over every row of a batch of `billing_events`.
pub(crate) fn each(
    batch: &RecordBatch,
    mut take: impl FnMut(&EventView<'_>) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let failed = |source| ReportError::Row {
        table: "billing_events",
        source,
    };
    let columns = EventColumns::of(batch).map_err(failed)?;
    (0..batch.num_rows()).try_for_each(|row| take(&columns.view(row).map_err(failed)?))
}

/// What one thread has read.
pub(crate) struct Pass {
    sums: Sums,
    /// The key of each row that was added.
    keys: Sorter<u64>,
    /// Keys of rows that their hash belies.
    belied: Sorter<u64>,
    scratch: Vec<u8>,
}

impl Pass {
    pub(crate) fn new(by: By, run_bytes: usize) -> Self {
        Pass {
            sums: Sums::by(by, 2 * run_bytes),
            keys: Sorter::new(run_bytes),
            belied: Sorter::new(run_bytes),
            scratch: Vec::new(),
        }
    }

    /// Adds a row to its group, if its hash is that of its fields; whether it is.
    pub(crate) fn take(&mut self, row: &EventView<'_>) -> Result<bool, ReportError> {
        let is_true = is_hash(row.payload_hash, &payload_digest(row, &mut self.scratch));
        if is_true {
            self.keys.push(key(row.event_id))?;
            self.sums.add(row)?;
        } else {
            self.belied.push(key(row.event_id))?;
        }
        Ok(is_true)
    }
}

/// Adds up what all threads have read, and reads the ids again that came more than once or are belied.
pub(crate) fn count(
    passes: Vec<Pass>,
    events: &dyn Table,
    run_bytes: usize,
    by: By,
    wanted: Wanted<'_>,
) -> Result<Ledger, ReportError> {
    let (mut sums, mut keys, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for pass in passes {
        sums.push(pass.sums.finish()?);
        keys.push(pass.keys);
        again.push(pass.belied);
    }
    let mut ledger = Ledger::default();
    let (mut repeated, mut last) = (Sorter::new(run_bytes), None);
    for key in Sorted::of(keys).iter() {
        let key = key?;
        ledger.events += 1;
        if last.replace(key) == Some(key) {
            repeated.push(key)?;
        }
    }
    again.push(repeated);
    let again = Sorted::of(again);
    let mut keys = distinct(again.iter().map(|key| Ok(key?))).peekable();
    let mut taken_back = Sorter::new(run_bytes);
    while keys.peek().is_some() {
        let some = keys.by_ref().take((run_bytes / size_of::<u64>()).max(1));
        let some: Vec<u64> = some.collect::<Result<_, _>>()?;
        let rows = read_again(&some, events, run_bytes, by, wanted)?;
        ledger.take_back(&rows, &mut taken_back)?;
    }
    sums.push(taken_back);
    Ok(Ledger {
        groups: Groups::of(sums),
        ..ledger
    })
}

/// Each of the sorted `ids` once.
pub(crate) fn distinct<T: Copy + PartialEq>(
    ids: impl Iterator<Item = Result<T, ReportError>>,
) -> impl Iterator<Item = Result<T, ReportError>> {
    let mut last = None;
    ids.filter(move |id| match id {
        Ok(id) => last.replace(*id) != Some(*id),
        Err(_) => true,
    })
}

/// A row that was read again. Sorts by id, and behind that with those of the same payload and result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    id: Uuid,
    /// The hash is not that of the row's fields.
    belied: bool,
    /// The first half of it.
    hash: [u8; 16],
    result_id: Uuid,
    ingested_at: Timestamp,
    group: Group,
    meters: Meters,
}

impl Row {
    fn of(row: &EventView<'_>, by: By, scratch: &mut Vec<u8>) -> Result<Self, ReportError> {
        let mut hash = [0; 16];
        // A text that is not hexadecimal leaves zeros, and is not the row's hash in any case.
        let text = row.payload_hash.get(..32).unwrap_or_default();
        hex::decode_to_slice(text, &mut hash).unwrap_or_default();
        Ok(Row {
            id: row.event_id,
            belied: !is_hash(row.payload_hash, &payload_digest(row, scratch)),
            hash,
            result_id: row.result_id,
            ingested_at: row.ingested_at,
            group: Group::of(row, by)?,
            meters: Meters::of(row),
        })
    }

    fn is_like(&self, other: &Row) -> bool {
        (self.id, self.belied, self.hash, self.result_id) == (other.id, other.belied, other.hash, other.result_id)
    }
}

/// All rows with these keys, which are in order.
fn read_again(
    keys: &[u64],
    events: &dyn Table,
    run_bytes: usize,
    by: By,
    wanted: Wanted<'_>,
) -> Result<Sorted<Row>, ReportError> {
    let rows = fold(
        "billing_events",
        events,
        &EventColumns::names(),
        || (Sorter::new(run_bytes), Vec::new()),
        |(rows, scratch), batch| {
            each(batch, |row| {
                if keys.binary_search(&key(row.event_id)).is_ok() && wanted(row) {
                    rows.push(Row::of(row, by, scratch)?)?;
                }
                Ok(())
            })
        },
    )?;
    Ok(Sorted::of(rows.into_iter().map(|(rows, _)| rows)))
}

/// All rows of one event with one payload and result.
struct Payload {
    /// The one ingested first.
    first: Row,
    rows: u32,
}

impl Ledger {
    /// Of the payloads of each id lets one count, once.
    fn take_back(&mut self, rows: &Sorted<Row>, sums: &mut Sorter<Sum>) -> Result<(), ReportError> {
        let mut payloads: Vec<Payload> = Vec::new();
        for row in rows.iter() {
            let row = row?;
            if payloads.last().is_some_and(|last| last.first.id != row.id) {
                self.settle(&mut payloads, sums)?;
            }
            match payloads.last_mut().filter(|last| last.first.is_like(&row)) {
                Some(payload) => payload.rows = payload.rows.saturating_add(1),
                None => payloads.push(Payload { first: row, rows: 1 }),
            }
        }
        self.settle(&mut payloads, sums)
    }

    /// All payloads of one event.
    fn settle(&mut self, payloads: &mut Vec<Payload>, sums: &mut Sorter<Sum>) -> Result<(), ReportError> {
        payloads.sort_by_key(Payload::order);
        for (place, payload) in payloads.drain(..).enumerate() {
            let counts = place == 0 && !payload.first.belied;
            let too_many = if counts { payload.rows - 1 } else { payload.rows };
            if counts {
                self.repeated += u64::from(too_many);
            } else {
                self.quarantine.add(&payload);
            }
            if !payload.first.belied && too_many > 0 {
                sums.push(taken_back(&payload.first.group, payload.first.meters, too_many))?;
                self.events -= u64::from(too_many);
            }
        }
        Ok(())
    }
}

impl Payload {
    /// The one that counts comes first.
    fn order(&self) -> (bool, Timestamp, [u8; 16], Uuid) {
        let Row {
            belied,
            ingested_at,
            hash,
            result_id,
            ..
        } = self.first;
        (belied, ingested_at, hash, result_id)
    }
}

impl Quarantine {
    fn add(&mut self, Payload { first, rows }: &Payload) {
        self.rows += u64::from(*rows);
        self.shown.insert(Quarantined {
            event_id: first.id,
            result_id: first.result_id,
            tenant: first.group.tenant.clone(),
            ingested_at: first.ingested_at,
            payload_hash: hex::encode(first.hash),
            reason: match first.belied {
                true => "its payload_hash is not that of its fields",
                false => "another row of this event, with other fields or of another result, came before",
            },
        });
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_last();
        }
    }
}
