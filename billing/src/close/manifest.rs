//! What a month was locked with and closed as: two small objects, each created once and never changed.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::rated::Counts;
use crate::money::Money;
use crate::period::Period;

/// Version of the form of a closed month's files.
pub const FORMAT: u32 = 2;

/// Another version wrote a month's files, in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has format {0}, and this version of bitnet reads and writes {new}; use the version that wrote it", new = FORMAT)]
pub struct OtherFormat(pub u32);

/// Checks the format of a lock or a manifest, before anything else in it is read. What is none passes.
///
/// # Errors
/// When the format is not [`FORMAT`].
pub fn check_format(bytes: &[u8]) -> Result<(), OtherFormat> {
    #[derive(Deserialize)]
    struct OfAny {
        format: u32,
    }
    match serde_json::from_slice(bytes) {
        Ok(OfAny { format }) if format != FORMAT => Err(OtherFormat(format)),
        _ => Ok(()),
    }
}

/// How long a month waits for late rows before it is locked, where nothing else is asked.
pub const GRACE: SignedDuration = SignedDuration::from_hours(72);

/// Where a month stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is not over.
    Open,
    /// It is over; late rows are waited for.
    Grace {
        /// When it may be locked.
        until: Timestamp,
    },
    /// It may be locked.
    Due,
    /// What it charges is decided.
    Locked,
    /// Its files are written.
    Closed,
}

impl Stage {
    /// Of a month with or without a lock and a manifest, at `now`.
    pub fn of(period: Period, grace: SignedDuration, now: Timestamp, is_locked: bool, is_closed: bool) -> Stage {
        let until = period.end().checked_add(grace).unwrap_or(Timestamp::MAX);
        match () {
            () if is_closed => Stage::Closed,
            () if is_locked => Stage::Locked,
            () if now < period.end() => Stage::Open,
            () if now < until => Stage::Grace { until },
            () => Stage::Due,
        }
    }
}

/// A file of the ledger that a month reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerFile {
    /// Relative to the zone's `billing_events`.
    pub path: String,
    /// Month of its rows.
    pub usage_period: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Rows in it.
    pub rows: u64,
}

/// One residency zone's part of a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Every result that ended before this moment has its billing event in `files` or in an earlier lock.
    pub complete_through: Timestamp,
    /// Those of this month and of earlier ones that no earlier lock names, in order of their paths.
    pub files: Vec<LedgerFile>,
}

/// What decides a month: everything after it is computed from this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`FORMAT`].
    pub format: u32,
    /// The month.
    pub period: Period,
    /// When it was locked; the date of its invoices.
    pub locked_at: Timestamp,
    /// How long it waited for late rows, in hours.
    pub grace_hours: i64,
    /// SHA-256 of the manifest of the month closed before; none for the first.
    pub previous: Option<Previous>,
    /// Id of the price book.
    pub price_book: String,
    /// SHA-256 of each of its versions.
    pub price_versions: BTreeMap<String, String>,
    /// SHA-256 of the contracts file.
    pub contracts: String,
    /// By name.
    pub zones: BTreeMap<String, Zone>,
}

/// The month closed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// Which.
    pub period: Period,
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
}

/// A file of a closed month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedFile {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

impl ClosedFile {
    /// Of a file of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        ClosedFile {
            size: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(bytes)),
        }
    }
}

/// What a month was closed as; the last of its files to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The month.
    pub period: Period,
    /// Every file of the month but this one, by name; the lock is among them.
    pub files: BTreeMap<String, ClosedFile>,
    /// How the ledger's rows were counted.
    pub counts: Counts,
    /// Invoices of the month.
    pub invoices: u64,
    /// Σ payable by currency.
    pub payable: BTreeMap<String, Money>,
}
