//! Closing a month: which events it charges, at what, on which invoices.
//!
//! A month is locked first: the lock names the ledger's files, the prices and the contracts, and is never
//! changed. What follows is a pure function of the lock, so that closing again, after a crash or for an
//! audit, makes the same bytes. Read in this order: [`events`] picks the rows that count, [`rated`] gives
//! each its amounts, [`crate::invoice`] adds them up, [`manifest`] says what was locked and closed.

pub mod manifest;
mod events;
pub mod rated;

use arrow::array::RecordBatch;
use schemas::columns::{ReadError, WriteError};
use schemas::ids::TenantId;
use uuid::Uuid;

use crate::money::MoneyError;
use crate::period::Period;
use crate::sorted::SortError;

/// Why a batch could not be had or kept.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One reading of some rows, from the first batch to the last.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, BoxError>> + 'a>;

/// Opens rows for one more reading; every reading gives the same rows, in any order.
pub type Rows<'a> = dyn Fn() -> Batches<'a> + 'a;

/// Why a month could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Rows could not be read or kept.
    #[error("cannot read or write {what}")]
    Io {
        /// Which.
        what: &'static str,
        /// Why.
        source: BoxError,
    },
    /// A batch does not hold rows of the table.
    #[error("cannot read a row of {what}")]
    Row {
        /// Which table.
        what: &'static str,
        /// Why.
        source: ReadError,
    },
    /// There was no room for what had to be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// Rated rows do not fit their columns.
    #[error("cannot make a batch of rated rows")]
    Batch(#[from] WriteError),
    /// A ledger row names a price or a contract that was not given.
    #[error("{tenant} {period}: the ledger names {what}, which is not among the files given; add the file that has it")]
    Terms {
        /// Whose row.
        tenant: TenantId,
        /// Its period.
        period: String,
        /// What it names.
        what: String,
    },
    /// A row is of a month that is not closed by this.
    #[error("event {event_id} is of {found}, which is not a month up to {period}; give only files of such months")]
    Period {
        /// Which row.
        event_id: Uuid,
        /// Its month.
        found: String,
        /// The month to be closed.
        period: Period,
    },
    /// An amount or a quantity is out of range.
    #[error("cannot add up the amounts of {tenant}")]
    Money {
        /// Whose.
        tenant: TenantId,
        /// Why.
        source: MoneyError,
    },
}
