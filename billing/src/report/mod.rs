//! Reports: pure functions of the tables, the price book and the contracts.
//!
//! A report reads its tables ([`table`]) piece by piece on all cores, more than once if need be. What grows with
//! their rows, ids and sums, is sorted in temporary files ([`crate::sorted`]), so memory does not.

mod table;
mod sums;
mod ledger;
mod invoiced;
mod lines;
pub mod usage;
mod compare;
mod pairing;
mod corrections;
mod months;
pub mod reconcile;
pub mod sheet;
pub mod focus;
pub mod kpi;
pub mod render;

use schemas::columns::ReadError;
use uuid::Uuid;

use crate::event::RateError;
use crate::money::MoneyError;
use crate::sorted::SortError;

pub use compare::Difference;
pub use corrections::Corrections;
pub use invoiced::{Invoiced, Invoices};
pub use ledger::{Quarantine, Quarantined};
pub use lines::{Line, Unrated};
pub use months::{MonthCheck, month_checks};
pub use sums::{By, Meters, Part};
pub use table::{Batches, BoxError, InMemory, Table};

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
    /// A row's month is not one.
    #[error("{tenant}: {period:?} is not a month; look for rows with that usage_period")]
    Period {
        /// Whose row.
        tenant: String,
        /// Its month.
        period: String,
    },
    /// There was no room for what had to be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
}

#[cfg(test)]
mod tests;
