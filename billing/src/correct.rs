//! Corrections of the ledger: rows that take back, replace or adjust what was charged. No row is ever edited.
//!
//! The ids follow from the corrected row alone, so the same correction made twice is one correction, and two
//! different ones of the same row are a conflict that is seen before anything is written.

use jiff::Timestamp;
use schemas::billing::{BillingRow, EventKind, event_id};
use uuid::Uuid;

use crate::event::payload_hash;

/// What is to happen to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Take it back, whole.
    Reverse,
    /// Take it back and charge these tokens in its place: uncached input, cached input, output.
    Replace([i64; 3]),
    /// Leave it and charge these tokens more, or less.
    Adjust {
        /// Uncached input, cached input, output; signed.
        tokens: [i64; 3],
        /// Tells several adjustments of one row apart, from 1.
        number: u32,
    },
}

/// A correction asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// The row that is wrong: a usage or replacement row.
    pub event_id: Uuid,
    /// What is to happen to it.
    pub change: Change,
    /// Why, for the audit trail: 1 to 200 characters.
    pub reason: String,
}

/// Why a correction cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorrectError {
    /// Corrections themselves are corrected by correcting what stands in for them.
    #[error("event {event_id} is a {kind} row; correct a usage or replacement row")]
    Kind {
        /// Which row.
        event_id: Uuid,
        /// What it is.
        kind: &'static str,
    },
    /// There is nothing to take back.
    #[error("event {event_id} was never charged ({reason}), so there is nothing to correct")]
    Free {
        /// Which row.
        event_id: Uuid,
        /// Why it was not charged.
        reason: String,
    },
    /// The row itself is in no total.
    #[error("event {event_id} is not what its payload_hash says and is in no total; it cannot be corrected")]
    Belied {
        /// Which row.
        event_id: Uuid,
    },
    /// Counts that no request can have.
    #[error("event {event_id}: replacement tokens must not be negative")]
    Tokens {
        /// Which row.
        event_id: Uuid,
    },
    /// The row was corrected before, in another way.
    #[error(
        "event {event_id} was corrected otherwise already, by {by}; correct its replacement, or number the adjustment anew"
    )]
    Conflict {
        /// Which row.
        event_id: Uuid,
        /// The row that stands in the way.
        by: Uuid,
    },
}

/// The rows that make `correction` of `original`, complete but for where they are written.
///
/// # Errors
/// See [`CorrectError`]; a conflict shows only in [`new_rows`].
pub fn rows(original: &BillingRow, correction: &Correction, now: Timestamp) -> Result<Vec<BillingRow>, CorrectError> {
    let event_id = original.event_id;
    if !matches!(original.event_kind, EventKind::Usage | EventKind::Replacement) {
        let kind = original.event_kind.as_str();
        return Err(CorrectError::Kind { event_id, kind });
    }
    if !original.billable {
        let reason = original.nonbillable_reason.clone().unwrap_or_default();
        return Err(CorrectError::Free { event_id, reason });
    }
    if payload_hash(original) != original.payload_hash {
        return Err(CorrectError::Belied { event_id });
    }
    let next = original.correction_seq.max(0).unsigned_abs().saturating_add(1);
    let taken = [
        original.input_uncached_tokens,
        original.input_cached_tokens,
        original.output_tokens,
    ];
    let row = |kind, number, tokens, requests| row(original, correction, now, kind, number, tokens, requests);
    let reversal = row(
        EventKind::Reversal,
        next,
        taken.map(i64::saturating_neg),
        -original.requests,
    );
    Ok(match correction.change {
        Change::Reverse => vec![reversal],
        Change::Replace(tokens) if tokens.iter().any(|tokens| *tokens < 0) => {
            return Err(CorrectError::Tokens { event_id });
        }
        Change::Replace(tokens) => vec![reversal, row(EventKind::Replacement, next, tokens, original.requests)],
        Change::Adjust { tokens, number } => vec![row(EventKind::Adjustment, number, tokens, 0)],
    })
}

fn row(
    original: &BillingRow,
    correction: &Correction,
    now: Timestamp,
    kind: EventKind,
    number: u32,
    [input, cached, output]: [i64; 3],
    requests: i64,
) -> BillingRow {
    let (tenant, job, custom_id) = (&original.tenant_id, &original.job_id, &original.custom_id);
    let mut row = BillingRow {
        event_id: event_id(tenant, job, custom_id, kind, number),
        event_kind: kind,
        ingested_at: now,
        input_uncached_tokens: input,
        input_cached_tokens: cached,
        output_tokens: output,
        requests,
        corrects_event_id: Some(original.event_id),
        correction_seq: i32::try_from(number).unwrap_or(i32::MAX),
        correction_reason: Some(correction.reason.clone()),
        ..original.clone()
    };
    row.payload_hash = payload_hash(&row);
    row
}

/// Those of `rows` that `ledger` does not have; `ledger` has every row that has the id of one of them or
/// that corrects the same row.
///
/// # Errors
/// When the ledger has one of their ids with another payload, or another end of the same row.
pub fn new_rows(rows: Vec<BillingRow>, ledger: &[BillingRow]) -> Result<Vec<BillingRow>, CorrectError> {
    let mut new = Vec::new();
    let replaces = rows.iter().any(|row| row.event_kind == EventKind::Replacement);
    let reverses = rows.iter().any(|row| row.event_kind == EventKind::Reversal);
    for row in rows {
        let event_id = row.corrects_event_id.unwrap_or(row.event_id);
        let same_id = ledger.iter().find(|other| other.event_id == row.event_id);
        match same_id {
            Some(other) if other.payload_hash == row.payload_hash => {}
            Some(other) => {
                let by = other.event_id;
                return Err(CorrectError::Conflict { event_id, by });
            }
            None => new.push(row),
        }
        // A row was taken back for good, or was replaced: it is not ended a second time in the other way.
        let other_end = ledger.iter().find(|other| {
            other.corrects_event_id == Some(event_id) && other.event_kind == EventKind::Replacement && !replaces
        });
        if let Some(other) = other_end.filter(|_| reverses) {
            let by = other.event_id;
            return Err(CorrectError::Conflict { event_id, by });
        }
    }
    // Only the replacement is new: the row was reversed for good before.
    if let ([row], true) = (&new[..], replaces) {
        let by = ledger
            .iter()
            .find(|other| other.event_kind == EventKind::Reversal && other.corrects_event_id == row.corrects_event_id);
        if let Some(by) = by.map(|other| other.event_id) {
            let event_id = row.corrects_event_id.unwrap_or(row.event_id);
            return Err(CorrectError::Conflict { event_id, by });
        }
    }
    Ok(new)
}
