//! Reports: pure functions of the tables, the price book and the contracts.
//!
//! A report reads its tables batch by batch, more than once if need be, and holds a bounded number of ids
//! at a time ([`window`]), so its memory does not grow with the rows.

mod window;
mod ledger;
mod lines;
pub mod usage;
mod compare;
mod pairing;
pub mod reconcile;
pub mod render;

use arrow::array::RecordBatch;
use schemas::columns::ReadError;
use uuid::Uuid;

use crate::event::RateError;
use crate::money::MoneyError;

pub use compare::Difference;
pub use ledger::{Quarantine, Quarantined};
pub use lines::{Line, Meters, Unrated};

/// Why a batch could not be had.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One reading of a table, from its first batch to its last.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, BoxError>>>;

/// Opens a table for one more reading. Every reading must give the same rows, in any order: pin the
/// table's version. Optional columns may be left out.
pub type Table<'a> = dyn Fn() -> Batches + 'a;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The store or the file behind a table failed.
    #[error("cannot read {table}")]
    Table {
        /// Which table.
        table: &'static str,
        /// Why.
        source: BoxError,
    },
    /// A batch does not hold rows of the table.
    #[error("cannot read a row of {table}")]
    Row {
        /// Which table.
        table: &'static str,
        /// Why.
        source: ReadError,
    },
    /// A ledger row names a price or a contract that was not given.
    #[error("{tenant} {period}: the ledger names {what}, which is not among the files given; add the file that has it")]
    Terms {
        /// Whose row.
        tenant: String,
        /// Its period.
        period: String,
        /// What it names.
        what: String,
    },
    /// A row of `results` cannot be rated with the files given.
    #[error("cannot rate result {result_id}")]
    Rate {
        /// Which row.
        result_id: Uuid,
        /// Why.
        source: RateError,
    },
    /// An amount is out of range.
    #[error("cannot add up the amounts of {tenant} {period}")]
    Money {
        /// Whose.
        tenant: String,
        /// When.
        period: String,
        /// Why.
        source: MoneyError,
    },
    /// A sum of tokens is out of range.
    #[error("{tenant} {period}: more than 9.2e18 {column}; look for a row with an absurd count")]
    Quantity {
        /// Whose.
        tenant: String,
        /// When.
        period: String,
        /// Which column.
        column: &'static str,
    },
}

/// A table that lies in memory; opening it copies no column.
pub fn in_memory(batches: Vec<RecordBatch>) -> impl Fn() -> Batches {
    move || Box::new(batches.clone().into_iter().map(Ok))
}

#[cfg(test)]
mod tests;
