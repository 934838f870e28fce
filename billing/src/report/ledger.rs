//! Reads `billing_events` so that each event counts once, in whatever order and however often its row is
//! there.
//!
//! Of rows with one id but different payloads or results the one ingested first counts, because a month
//! that is closed must not change; the others are quarantined, and so is a row that its own hash belies.
//!
//! Every row is added where it belongs as it is read. Ids that came more than once are then read again, and
//! what should not have been added is taken back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use jiff::Timestamp;
use schemas::ids::TenantId;
use schemas::view::{EventColumns, EventView};
use uuid::Uuid;

use super::ReportError;
use super::sums::{By, Group, Groups, Meters, Sums, Totals};
use super::table::{Table, Window, fold, key};
use crate::event::{is_hash, payload_digest};

/// Ids told apart at a time, 8 bytes each.
pub(crate) const IDS_MAX: u64 = 32 << 20;

/// How many quarantined payloads are listed; all their rows are counted.
const SHOWN_MAX: usize = 100;

/// Ids read again at a time.
const AGAIN_MAX: usize = 500_000;

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

/// Reads the rows that `wanted` wants; the others are as if they were not there.
pub(crate) fn read(events: &dyn Table, ids_max: u64, by: By, wanted: Wanted<'_>) -> Result<Ledger, ReportError> {
    let mut reading = Reading::default();
    for window in Window::over(events.rows(), ids_max) {
        let passes = fold(
            "billing_events",
            events,
            &EventColumns::names(),
            |pass: &mut Pass, batch| {
                each(batch, |row| match window.contains(key(row.event_id)) && wanted(row) {
                    true => pass.take(row, by).map(drop),
                    false => Ok(()),
                })
            },
        )?;
        reading.close(passes, events, wanted)?;
    }
    reading.finish()
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
#[derive(Default)]
pub(crate) struct Pass {
    sums: Option<Sums>,
    /// The key of each row that was added.
    keys: Vec<u64>,
    /// Keys of rows that their hash belies.
    belied: Vec<u64>,
    scratch: Vec<u8>,
}

impl Pass {
    /// Adds a row to its group, if its hash is that of its fields; that hash.
    pub(crate) fn take(&mut self, row: &EventView<'_>, by: By) -> Result<Option<[u8; 32]>, ReportError> {
        let digest = payload_digest(row, &mut self.scratch);
        if !is_hash(row.payload_hash, &digest) {
            self.belied.push(key(row.event_id));
            return Ok(None);
        }
        self.keys.push(key(row.event_id));
        self.sums.get_or_insert_with(|| Sums::by(by)).add(row)?;
        Ok(Some(digest))
    }
}

/// What all threads have read, window by window.
#[derive(Default)]
pub(crate) struct Reading {
    ledger: Ledger,
    totals: Totals,
}

impl Reading {
    /// Adds up what was read, and reads again the ids that need it.
    pub(crate) fn close(
        &mut self,
        passes: Vec<Pass>,
        events: &dyn Table,
        wanted: Wanted<'_>,
    ) -> Result<(), ReportError> {
        let mut keys = Vec::new();
        let mut again = Vec::new();
        for pass in passes {
            if let Some(sums) = pass.sums {
                sums.add_to(&mut self.totals);
            }
            append(&mut keys, pass.keys);
            again.extend(pass.belied);
        }
        self.ledger.events += keys.len() as u64;
        keys.sort_unstable();
        again.extend(keys.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
        drop(keys);
        again.sort_unstable();
        again.dedup();
        again
            .chunks(AGAIN_MAX)
            .try_for_each(|keys| self.again(keys, events, wanted))
    }

    /// Reads all rows with these keys, and lets one payload of each event count.
    fn again(&mut self, keys: &[u64], events: &dyn Table, wanted: Wanted<'_>) -> Result<(), ReportError> {
        let found = fold(
            "billing_events",
            events,
            &EventColumns::names(),
            |again: &mut Again, batch| {
                each(batch, |row| {
                    match keys.binary_search(&key(row.event_id)).is_ok() && wanted(row) {
                        true => again.take(row),
                        false => Ok(()),
                    }
                })
            },
        )?;
        let mut payloads: HashMap<Uuid, Vec<Payload>> = HashMap::new();
        for (id, of_thread) in found.into_iter().flat_map(|again| again.payloads) {
            let all = payloads.entry(id).or_default();
            of_thread.into_iter().for_each(|payload| join(all, payload));
        }
        for (id, mut payloads) in payloads {
            payloads.sort_by_key(Payload::order);
            let counted = usize::from(payloads.first().is_some_and(|payload| !payload.belied));
            for payload in &payloads[..counted] {
                self.take_back(payload, payload.rows - 1);
                self.ledger.repeated += u64::from(payload.rows - 1);
            }
            for payload in &payloads[counted..] {
                self.take_back(payload, payload.rows);
                self.ledger.quarantine.add(id, payload);
            }
        }
        Ok(())
    }

    /// Rows that were added and do not count.
    fn take_back(&mut self, payload: &Payload, rows: u32) {
        if !payload.belied {
            self.totals.take_back(&payload.group, payload.meters, rows);
            self.ledger.events -= u64::from(rows);
        }
    }

    pub(crate) fn finish(self) -> Result<Ledger, ReportError> {
        Ok(Ledger {
            groups: self.totals.finish()?,
            ..self.ledger
        })
    }
}

/// Moves `more` behind `all`; the first comes without a copy.
pub(crate) fn append<T>(all: &mut Vec<T>, mut more: Vec<T>) {
    match all.is_empty() {
        true => *all = more,
        false => all.append(&mut more),
    }
}

/// All rows of one event with one payload and result.
struct Payload {
    hash: [u8; 16],
    result_id: Uuid,
    /// The hash is not that of the row's fields.
    belied: bool,
    group: Arc<Group>,
    meters: Meters,
    ingested_at: Timestamp,
    rows: u32,
}

/// Rows that one thread has read again.
#[derive(Default)]
struct Again {
    payloads: HashMap<Uuid, Vec<Payload>>,
    sums: Sums,
    scratch: Vec<u8>,
}

impl Again {
    fn take(&mut self, row: &EventView<'_>) -> Result<(), ReportError> {
        let mut hash = [0; 16];
        // A text that is not hexadecimal leaves zeros, and is not the row's hash in any case.
        let text = row.payload_hash.get(..32).unwrap_or_default();
        hex::decode_to_slice(text, &mut hash).unwrap_or_default();
        let payload = Payload {
            hash,
            result_id: row.result_id,
            belied: !is_hash(row.payload_hash, &payload_digest(row, &mut self.scratch)),
            group: self.sums.group(row)?,
            meters: Meters::of(row),
            ingested_at: row.ingested_at,
            rows: 1,
        };
        join(self.payloads.entry(row.event_id).or_default(), payload);
        Ok(())
    }
}

/// Adds the rows of `payload` to those like it.
fn join(payloads: &mut Vec<Payload>, payload: Payload) {
    let like = |other: &&mut Payload| {
        (other.hash, other.result_id, other.belied) == (payload.hash, payload.result_id, payload.belied)
    };
    match payloads.iter_mut().find(like) {
        Some(other) => {
            other.rows = other.rows.saturating_add(payload.rows);
            other.ingested_at = other.ingested_at.min(payload.ingested_at);
        }
        None => payloads.push(payload),
    }
}

impl Payload {
    /// The one that counts comes first.
    fn order(&self) -> (bool, Timestamp, [u8; 16], Uuid) {
        (self.belied, self.ingested_at, self.hash, self.result_id)
    }
}

impl Quarantine {
    fn add(&mut self, event_id: Uuid, payload: &Payload) {
        self.rows += u64::from(payload.rows);
        self.shown.insert(Quarantined {
            event_id,
            result_id: payload.result_id,
            tenant: payload.group.tenant.clone(),
            ingested_at: payload.ingested_at,
            payload_hash: hex::encode(payload.hash),
            reason: match payload.belied {
                true => "its payload_hash is not that of its fields",
                false => "another row of this event, with other fields or of another result, came before",
            },
        });
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_last();
        }
    }
}
