//! Whether closed months are what they were: each file against its manifest, each file of the ledger against the
//! lock, each manifest against the lock of the month behind it, which has its SHA-256.

use std::fmt;

use billing::close::manifest::{Lock, Manifest};
use billing::invoice::Invoice;
use billing::period::Period;

use super::ledger::RatedRows;
use super::objects::ObjectError;
use super::{INVOICES, MANIFEST, PeriodError, Periods, name};
use crate::sink::Table;
use crate::tables::Tables;

/// What is wrong with a closed month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which object.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.problem)
    }
}

/// The ledger as a month was locked on it.
pub(super) struct Locked {
    /// The lock, with the sizes that the files have now.
    pub(super) lock: Lock,
    /// What is wrong with them.
    pub(super) findings: Vec<Finding>,
    /// Whether all of them are there.
    pub(super) whole: bool,
}

impl Periods {
    /// Everything that is wrong with a closed month and with its part of the ledger.
    ///
    /// # Errors
    /// When the store fails, or the manifest itself cannot be read.
    pub async fn verify(&self, period: Period) -> Result<Vec<Finding>, PeriodError> {
        let mut findings = self.verify_files(period).await?;
        // What is wrong with the lock itself is told above.
        if let Ok(Some(lock)) = self.lock_of(period).await {
            findings.extend(self.verify_ledger(lock).await?.findings);
        }
        Ok(findings)
    }

    /// Hashes the ledger's files that a month was locked on.
    pub(super) async fn verify_ledger(&self, mut lock: Lock) -> Result<Locked, PeriodError> {
        let (mut findings, mut whole) = (Vec::new(), true);
        for (zone, part) in &mut lock.zones {
            let failed = |source| PeriodError::table(zone, source);
            let tables = Tables::open(&self.store, zone).await.map_err(failed)?;
            for file in &mut part.files {
                let place = tables.place(Table::BillingEvents, &file.path).map_err(failed)?;
                let problem = match self.objects.hash_at(&place).await? {
                    Some(found) if found.sha256 == file.sha256 => continue,
                    Some(found) => {
                        file.size = found.size;
                        let (was, is) = (&file.sha256, found.sha256);
                        format!(
                            "was edited after {} was locked: SHA-256 was {was}, is {is}",
                            lock.period
                        )
                    }
                    None => {
                        whole = false;
                        format!(
                            "is gone, so {} cannot be rated again; restore it from a backup",
                            lock.period
                        )
                    }
                };
                let path = format!("{zone}/{}/{}", Table::BillingEvents.name(), file.path);
                findings.push(Finding { path, problem });
            }
        }
        Ok(Locked { lock, findings, whole })
    }

    /// Everything that is wrong with the files of a closed month.
    pub(super) async fn verify_files(&self, period: Period) -> Result<Vec<Finding>, PeriodError> {
        let path = name(period, MANIFEST);
        let Some((manifest, sha256)) = self.manifest_of(period).await? else {
            let reason = "it is not closed, so there is nothing to verify".to_owned();
            return Err(PeriodError::Order { period, reason });
        };
        let mut findings = Vec::new();
        let mut find = |path: String, problem: String| findings.push(Finding { path, problem });
        for (file, expected) in &manifest.files {
            let path = name(period, file);
            match self.objects.hash(&path).await? {
                None => find(path, "is gone; restore it from a backup".to_owned()),
                Some(found) if found != *expected => {
                    let (was, is) = (&expected.sha256, &found.sha256);
                    let problem = format!("was edited after the month was closed: SHA-256 was {was}, is {is}");
                    find(path, problem);
                }
                Some(_) => {}
            }
        }
        for file in self.names(period).await? {
            if file != MANIFEST && !manifest.files.contains_key(&file) {
                find(
                    name(period, &file),
                    "is not of this month: its manifest does not name it".to_owned(),
                );
            }
        }
        // A lock that cannot be read says nothing about this month; its own month's check says that.
        let next = match self.lock_of(period.next()).await {
            Err(PeriodError::Object(ObjectError::Damaged { .. }) | PeriodError::Format { .. }) => None,
            next => next?,
        };
        if let Some(lock) = next {
            let said = lock.previous.map(|previous| previous.manifest_sha256);
            if said.as_ref() != Some(&sha256) {
                let said = said.unwrap_or_else(|| "no such month".to_owned());
                let problem = format!("was edited: the month behind it was locked on {said}, and it is {sha256}");
                find(path, problem);
            }
        }
        // Invoices that cannot be read are told above.
        if let Ok(invoices) = self.invoices(period).await {
            for problem in gaps(period, &manifest, &invoices) {
                find(name(period, INVOICES), problem);
            }
        }
        Ok(findings)
    }

    /// As [`Periods::verify`], the first finding as an error.
    pub(super) async fn verified(&self, period: Period) -> Result<(), PeriodError> {
        none(self.verify(period).await?)
    }

    /// The lock, if its ledger is what it was.
    pub(super) async fn intact(&self, lock: Lock) -> Result<Lock, PeriodError> {
        let Locked { lock, findings, .. } = self.verify_ledger(lock).await?;
        none(findings)?;
        Ok(lock)
    }

    /// The rated rows of a closed month.
    ///
    /// # Errors
    /// When the month is not closed or the store fails.
    pub async fn rated(&self, period: Period) -> Result<RatedRows, PeriodError> {
        let Some((manifest, _)) = self.manifest_of(period).await? else {
            let reason = format!("it is not closed; run `bitnet billing close {period}` first");
            return Err(PeriodError::Order { period, reason });
        };
        Ok(RatedRows::new(&self.store, std::iter::once((period, &manifest))))
    }
}

/// The first finding as an error.
fn none(findings: Vec<Finding>) -> Result<(), PeriodError> {
    match findings.into_iter().next() {
        None => Ok(()),
        Some(Finding { path, problem }) => Err(PeriodError::Changed { path, problem }),
    }
}

/// Invoice numbers that are missing, or out of place.
fn gaps(period: Period, manifest: &Manifest, invoices: &[Invoice]) -> Vec<String> {
    let mut problems = Vec::new();
    if invoices.len() as u64 != manifest.invoices {
        problems.push(format!(
            "has {} invoices, but the manifest says {}",
            invoices.len(),
            manifest.invoices
        ));
    }
    for (place, invoice) in (1..).zip(invoices) {
        let expected = format!("{period}-{place:06}");
        if invoice.number != expected {
            problems.push(format!("has invoice {} where {expected} must be", invoice.number));
        }
    }
    problems
}
