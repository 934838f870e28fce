//! Whether closed months are what they were: each file against its manifest, each manifest against the lock
//! of the month behind it, which has its SHA-256.

use std::fmt;

use billing::close::manifest::Manifest;
use billing::invoice::Invoice;
use billing::period::Period;

use super::ledger::RatedRows;
use super::objects::ObjectError;
use super::{INVOICES, MANIFEST, PeriodError, Periods, name};

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

impl Periods {
    /// Everything that is wrong with a closed month.
    ///
    /// # Errors
    /// When the store fails, or the manifest itself cannot be read.
    pub async fn verify(&self, period: Period) -> Result<Vec<Finding>, PeriodError> {
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
        match self.verify(period).await?.into_iter().next() {
            None => Ok(()),
            Some(Finding { path, problem }) => Err(PeriodError::Changed { path, problem }),
        }
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
