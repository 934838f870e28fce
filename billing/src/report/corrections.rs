//! Whether each correction of the ledger is what it says: made of a row that is there, once, and of the same
//! tenant.
//!
//! A correction follows from the row that it corrects and from its own tokens ([`crate::correct`]), so it is
//! made again and compared in every field.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use schemas::billing::{self, BillingRow, EventKind};
use schemas::view::{EventColumns, EventView};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ReportError;
use super::compare::differences;
use super::ledger::{self, distinct};
use super::reconcile::Finding;
use super::table::{Table, fold};
use crate::correct::{Change, Correction, rows as correction_rows};
use crate::event::payload_hash;
use crate::sorted::{Sorted, Sorter, take_if};

/// How many findings are told; all are counted.
const SHOWN_MAX: usize = 100;

/// The corrections of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Corrections {
    /// Rows that take one back.
    pub reversals: u64,
    /// Rows that stand in for one that was taken back.
    pub replacements: u64,
    /// Rows that charge more or less.
    pub adjustments: u64,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Checked {
    pub(crate) counts: Corrections,
    pub(crate) shown: Vec<Finding>,
    /// Findings that are not shown.
    pub(crate) more: u64,
}

/// A row, sorted by an id.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    by: Uuid,
    row: BillingRow,
}

impl Row {
    fn of_correction(row: BillingRow) -> Self {
        let by = row.corrects_event_id.unwrap_or(row.event_id);
        Row { by, row }
    }

    fn of_event(row: BillingRow) -> Self {
        Row { by: row.event_id, row }
    }

    /// Of rows with one id the one ingested first comes first.
    fn order(&self) -> impl Ord + '_ {
        let BillingRow {
            event_id,
            ingested_at,
            payload_hash,
            ..
        } = &self.row;
        (self.by, event_id, ingested_at, payload_hash)
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Row {}

/// Checks every correction, of which the ledger has `count`; holds about `run_bytes` of them at a time.
pub(crate) fn check(events: &dyn Table, count: u64, run_bytes: usize) -> Result<Checked, ReportError> {
    let mut checked = Checked::default();
    if count == 0 {
        return Ok(checked);
    }
    let is_correction = |row: &EventView<'_>| row.event_kind != EventKind::Usage;
    let corrections = read(events, run_bytes, is_correction, Row::of_correction)?;
    let mut ids = distinct(corrections.iter().map(|row| Ok(row?.by))).peekable();
    let mut corrections = corrections.iter().peekable();
    while ids.peek().is_some() {
        let some = ids.by_ref().take((run_bytes / size_of::<Uuid>()).max(1));
        let some: Vec<Uuid> = some.collect::<Result<_, _>>()?;
        let is_original = |row: &EventView<'_>| some.binary_search(&row.event_id).is_ok();
        let originals = read(events, run_bytes, is_original, Row::of_event)?;
        let mut originals = originals.iter().peekable();
        for id in some {
            let is_of = |row: &Row| row.by == id;
            let mut original = None;
            while let Some(Row { row, .. }) = take_if(&mut originals, is_of)? {
                // Of several rows with one id the first with a true hash counts.
                if original.is_none() && payload_hash(&row) == row.payload_hash {
                    original = Some(row);
                }
            }
            let mut of_original = Vec::new();
            while let Some(Row { row, .. }) = take_if(&mut corrections, is_of)? {
                of_original.push(row);
            }
            checked.of_original(id, original.as_ref(), of_original);
        }
    }
    Ok(checked)
}

/// The rows that are wanted, whole.
fn read(
    events: &dyn Table,
    run_bytes: usize,
    wanted: impl Fn(&EventView<'_>) -> bool + Sync,
    sort: fn(BillingRow) -> Row,
) -> Result<Sorted<Row>, ReportError> {
    let found = fold(
        "billing_events",
        events,
        &EventColumns::names(),
        // The texts of a row take about as much as the row.
        || Sorter::new(run_bytes / 2),
        |rows, batch| {
            let mut marked = Vec::with_capacity(batch.num_rows());
            ledger::each(batch, |row| {
                marked.push(wanted(row));
                Ok(())
            })?;
            if marked.contains(&true) {
                for row in take(batch, marked)? {
                    rows.push(sort(row))?;
                }
            }
            Ok(())
        },
    )?;
    Ok(Sorted::of(found))
}

fn take(batch: &RecordBatch, marked: Vec<bool>) -> Result<Vec<BillingRow>, ReportError> {
    let table = "billing_events";
    let rows = filter_record_batch(batch, &BooleanArray::from(marked));
    let rows = rows.map_err(|error| ReportError::Table {
        table,
        source: error.into(),
    })?;
    billing::from_batch(&rows).map_err(|source| ReportError::Row { table, source })
}

impl Checked {
    /// All corrections of one row.
    fn of_original(&mut self, id: Uuid, original: Option<&BillingRow>, corrections: Vec<BillingRow>) {
        let mut by_id: BTreeMap<Uuid, Vec<BillingRow>> = BTreeMap::new();
        for row in corrections {
            by_id.entry(row.event_id).or_default().push(row);
        }
        let reversed = by_id
            .values()
            .flatten()
            .any(|row| row.event_kind == EventKind::Reversal);
        for rows in by_id.values() {
            let row = &rows[0];
            match row.event_kind {
                EventKind::Reversal => self.counts.reversals += 1,
                EventKind::Replacement => self.counts.replacements += 1,
                EventKind::Adjustment => self.counts.adjustments += 1,
                EventKind::Usage => {}
            }
            if rows.len() > 1 {
                self.find(row, format!("there are {} rows of it", rows.len()));
            }
            for row in rows {
                if let Some(problem) = problem(id, original, row, reversed) {
                    self.find(row, problem);
                }
            }
        }
    }

    fn find(&mut self, row: &BillingRow, problem: String) {
        if self.shown.len() >= SHOWN_MAX {
            self.more += 1;
            return;
        }
        self.shown.push(Finding::Correction {
            event_id: row.event_id,
            kind: row.event_kind,
            request: format!("{} {} {}", row.tenant_id, row.job_id, row.custom_id.as_str()),
            problem,
        });
    }
}

/// What is wrong with a correction, if anything.
fn problem(id: Uuid, original: Option<&BillingRow>, row: &BillingRow, reversed: bool) -> Option<String> {
    if row.corrects_event_id.is_none() {
        return Some("it does not say which event it corrects".to_owned());
    }
    let Some(original) = original else {
        return Some(format!("it corrects event {id}, which is not in the ledger"));
    };
    if original.tenant_id != row.tenant_id {
        return Some(format!("it corrects event {id}, which is of {}", original.tenant_id));
    }
    let tokens = [row.input_uncached_tokens, row.input_cached_tokens, row.output_tokens];
    let change = match row.event_kind {
        EventKind::Reversal => Change::Reverse,
        EventKind::Replacement if !reversed => {
            return Some(format!("it stands in for event {id}, which was not taken back"));
        }
        EventKind::Replacement => Change::Replace(tokens),
        EventKind::Adjustment | EventKind::Usage => Change::Adjust {
            tokens,
            number: row.correction_seq.unsigned_abs(),
        },
    };
    let reason = row.correction_reason.clone().unwrap_or_default();
    let correction = Correction {
        event_id: id,
        change,
        reason,
    };
    let made = match correction_rows(original, &correction, row.ingested_at) {
        Ok(rows) => rows.into_iter().find(|made| made.event_kind == row.event_kind)?,
        Err(error) => return Some(error.to_string()),
    };
    let expected = BillingRow {
        position: row.position.clone(),
        batch_index: row.batch_index,
        ..made
    };
    let fields = differences(&expected.view(), &row.view());
    let fields = fields
        .iter()
        .map(|field| format!("{} must be {:?}, but is {:?}", field.field, field.expected, field.found));
    let fields: Vec<_> = fields.collect();
    (!fields.is_empty()).then(|| fields.join("; "))
}
