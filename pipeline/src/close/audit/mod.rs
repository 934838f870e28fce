//! Closed months made again from their locks, and compared with what the store has of them.
//!
//! A hash says that a file was edited; only this says which row of it. And it finds what no hash can find: a
//! ledger that no longer says what was invoiced. Months go in order, for each is rated on top of those before.

mod rows;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use billing::close::CloseError;
use billing::close::manifest::{ClosedFile, Lock, Manifest, check_format};
use billing::close::rated::{Booked, Charge, Counts};
use billing::invoice::{CreditState, Invoice};
use billing::period::Period;
use billing::report::MonthCheck;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ledger::RatedRows;
use super::verify::Finding;
use super::write::{Before, Bill, Files};
use super::{CREDITS, INVOICES, LOCK, MANIFEST, PeriodError, Periods, name, same_terms};
use crate::prices::Prices;
use rows::RowCheck;
use values::value;

/// Problems of one file's values that are told; all are counted.
const SHOWN_MAX: usize = 100;

/// What the closed months came to.
#[derive(Debug, Default)]
pub struct Audit {
    /// How many months have a lock.
    pub months: usize,
    /// Their amounts, by currency.
    pub checks: Vec<MonthCheck>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What more is wrong.
    pub more: u64,
}

/// What the months so far leave to the next; none of it if one of them cannot be told.
#[derive(Default)]
struct Carried {
    known: Option<(Booked, CreditState)>,
    /// Paths of their rated rows.
    rated: BTreeMap<Period, Vec<String>>,
}

/// What the store has of a month.
struct Stored {
    period: Period,
    manifest: Option<Manifest>,
    lock: Option<Lock>,
    /// Files of rated rows, by name.
    rated: BTreeSet<String>,
    /// Which files are not what the manifest says.
    edited: BTreeSet<String>,
}

/// What the ledger makes of a month.
struct Made {
    charges: Vec<Charge>,
    counts: Counts,
    bill: Bill,
    /// Its files of rated rows, if some of the stored ones are not what the manifest says.
    rated: BTreeMap<String, ClosedFile>,
    /// The contracts are those that the month was locked with, so fees and credits can be told too.
    whole: bool,
}

impl Audit {
    fn find(&mut self, path: String, problem: String) {
        self.findings.push(Finding { path, problem });
    }

    /// Tells the rows, and of an edited file without any that it has none.
    fn find_rows(&mut self, period: Period, edited: &BTreeSet<String>, rows: rows::Rows) {
        for file in edited.difference(&rows.files).filter(|file| file.ends_with(".parquet")) {
            let path = name(period, file);
            for finding in self.findings.iter_mut().filter(|finding| finding.path == path) {
                finding
                    .problem
                    .push_str("; no row that is read from it differs from what the ledger makes");
            }
        }
        for (file, problem) in rows.shown {
            self.find(name(period, &file), problem);
        }
        self.more += rows.more;
    }

    fn find_all(&mut self, path: &str, problems: Vec<String>) {
        self.more += problems.len().saturating_sub(SHOWN_MAX) as u64;
        for problem in problems.into_iter().take(SHOWN_MAX) {
            self.find(path.to_owned(), problem);
        }
    }
}

impl Periods {
    /// Checks every file of every closed month, and compares each month with what its lock makes now. Needs a
    /// multi-threaded Tokio runtime.
    ///
    /// # Errors
    /// When the store fails. Whatever else is wrong is a finding.
    pub async fn audit(&self, prices: &Prices) -> Result<Audit, PeriodError> {
        let mut audit = Audit::default();
        let mut carried = Carried {
            known: Some(Default::default()),
            ..Carried::default()
        };
        for period in self.known().await? {
            audit.months += 1;
            let stored = self.stored(period, &mut audit).await?;
            let made = self.made(&stored, prices, &carried, &mut audit).await?;
            if let Some(made) = &made {
                self.compare(&stored, made, &mut audit).await?;
            }
            self.carry(&stored, made, &mut carried).await?;
        }
        Ok(audit)
    }

    /// Reads what is there, and tells which files are not what the manifest says.
    async fn stored(&self, period: Period, audit: &mut Audit) -> Result<Stored, PeriodError> {
        let path = name(period, MANIFEST);
        let manifest = match self.objects.bytes(&path).await? {
            None => {
                let how =
                    format!("is not there, but the month is locked; `bitnet billing close {period}` makes it again");
                audit.find(path, how);
                None
            }
            Some(bytes) => match read::<Manifest>(&bytes) {
                Ok(manifest) => {
                    if bytes != self.objects.to_json(MANIFEST, &manifest)? {
                        audit.find(path, "was edited: it is not written as it was".to_owned());
                    }
                    Some(manifest)
                }
                Err(problem) => {
                    audit.find(path, problem);
                    None
                }
            },
        };
        let mut rated: BTreeSet<String> = self.names(period).await?.into_iter().collect();
        let mut edited = BTreeSet::new();
        if let Some(manifest) = &manifest {
            for found in self.verify_files(period).await? {
                edited.extend(found.path.rsplit('/').next().map(str::to_owned));
                audit.findings.push(found);
            }
            rated.extend(manifest.files.keys().cloned());
        }
        rated.retain(|file| file.starts_with("rated-") && file.ends_with(".parquet"));
        let lock = self.stored_lock(period, manifest.as_ref(), audit).await?;
        Ok(Stored {
            period,
            manifest,
            lock,
            rated,
            edited,
        })
    }

    /// The lock, if it still says what the month was locked with.
    async fn stored_lock(
        &self,
        period: Period,
        manifest: Option<&Manifest>,
        audit: &mut Audit,
    ) -> Result<Option<Lock>, PeriodError> {
        let path = name(period, LOCK);
        let Some(bytes) = self.objects.bytes(&path).await? else {
            audit.find(
                path,
                "is gone, so the month cannot be rated again; restore it from a backup".to_owned(),
            );
            return Ok(None);
        };
        let lock = match read::<Lock>(&bytes) {
            Ok(lock) => lock,
            Err(problem) => {
                audit.find(path, format!("{problem}; until then the month cannot be rated again"));
                return Ok(None);
            }
        };
        let says = ClosedFile::of(&self.objects.to_json(LOCK, &lock)?);
        let closed_as = manifest.map(|manifest| manifest.files.get(LOCK));
        if closed_as.is_some_and(|closed_as| closed_as != Some(&says)) {
            audit.find(
                path,
                "is not what manifest.json says that the month was locked with, so the month cannot be rated again until it is restored"
                    .to_owned(),
            );
            return Ok(None);
        }
        Ok(Some(lock))
    }

    /// What the ledger makes of the month now; none, and a finding, if that cannot be told.
    async fn made(
        &self,
        stored: &Stored,
        prices: &Prices,
        carried: &Carried,
        audit: &mut Audit,
    ) -> Result<Option<Made>, PeriodError> {
        let Some(lock) = &stored.lock else {
            return Ok(None);
        };
        let path = name(stored.period, LOCK);
        let Some(known) = &carried.known else {
            let problem = "cannot be rated again before the months in front of it can".to_owned();
            audit.find(path, problem);
            return Ok(None);
        };
        // The contracts file may have grown; each row names the version that it is rated with.
        let locked = Lock {
            contracts: prices.contracts.sha256.clone(),
            ..lock.clone()
        };
        let made = match same_terms(&locked, prices) {
            Ok(()) => {
                self.rated_again(stored, lock, prices, (known, carried.behind(lock)), audit)
                    .await
            }
            Err(error) => Err(error),
        };
        match made {
            Err(error) if !error.is_outage() => {
                audit.find(path, format!("cannot be rated again: {}", chain(&error)));
                Ok(None)
            }
            made => made,
        }
    }

    /// Rates the month, and walks along its stored rows meanwhile; none if a file of the ledger is gone.
    async fn rated_again(
        &self,
        stored: &Stored,
        lock: &Lock,
        prices: &Prices,
        ((booked, credits), behind): (&(Booked, CreditState), Vec<String>),
        audit: &mut Audit,
    ) -> Result<Option<Made>, PeriodError> {
        let ledger = self.verify_ledger(lock.clone()).await?;
        audit.findings.extend(ledger.findings);
        if !ledger.whole {
            return Ok(None);
        }
        let before = Before {
            booked,
            rated: RatedRows::of(&self.store, behind),
        };
        let period = stored.period;
        let files = stored.rated.iter().map(|file| (file.clone(), name(period, file)));
        // Only where a hash differs is it worth while to make the bytes again.
        let encoder = !stored.rated.is_disjoint(&stored.edited);
        let encoder = encoder.then(|| Files::new(period, None));
        let check = RowCheck::new(self.objects.clone(), files.collect(), encoder);
        let (charges, counts, check) = self.rate(&ledger.lock, before, prices, check).await?;
        // Without a manifest the month is not closed, and its files may not all be there yet.
        if stored.manifest.is_some() {
            audit.find_rows(period, &stored.edited, check.found);
        }
        Ok(Some(Made {
            bill: self.bill(lock, &charges, prices, credits)?,
            charges,
            counts,
            rated: check.encoder.map(|encoder| encoder.written).unwrap_or_default(),
            whole: lock.contracts == prices.contracts.sha256,
        }))
    }

    /// Compares invoices, credits and the manifest.
    async fn compare(&self, stored: &Stored, made: &Made, audit: &mut Audit) -> Result<(), PeriodError> {
        let Some(manifest) = &stored.manifest else {
            return Ok(());
        };
        let period = stored.period;
        let path = name(period, INVOICES);
        if let Some(bytes) = self.objects.bytes(&path).await? {
            audit.find_all(&path, values::invoices(&bytes, &made.bill.invoices, !made.whole));
            if let Ok(invoices) = self.objects.lines::<Invoice>(&path, &bytes) {
                let checks = billing::report::month_checks(period, &made.charges, &invoices);
                audit
                    .checks
                    .extend(checks.map_err(|(tenant, source)| PeriodError::Close {
                        period,
                        source: CloseError::Money { tenant, source },
                    })?);
            }
        }
        let path = name(period, CREDITS);
        if let Some(bytes) = self.objects.bytes(&path).await?.filter(|_| made.whole) {
            match serde_json::from_slice::<Value>(&bytes) {
                Ok(credits) => {
                    let mut problems = values::differences(&credits, &value(&made.bill.credits));
                    if problems.is_empty() && bytes != self.objects.to_json(CREDITS, &made.bill.credits)? {
                        problems.push("was edited: it is not written as it was".to_owned());
                    }
                    audit.find_all(&path, problems);
                }
                Err(error) => audit.find(path, format!("cannot be read: {error}")),
            }
        }
        let expected = self.expected_manifest(stored, made, manifest).await?;
        let problems = values::differences(&value(manifest), &value(&expected));
        audit.find_all(&name(period, MANIFEST), problems);
        Ok(())
    }

    /// What the manifest must say. It is at fault for the hash of a file only where the file is what the ledger
    /// makes.
    async fn expected_manifest(
        &self,
        stored: &Stored,
        made: &Made,
        manifest: &Manifest,
    ) -> Result<Manifest, PeriodError> {
        let mut expected = manifest.clone();
        expected.period = stored.period;
        expected.counts = made.counts.clone();
        let mut makes = made.rated.clone();
        if made.whole {
            expected.invoices = made.bill.invoices.len() as u64;
            expected.payable = made.bill.payable.clone();
            let files = made.bill.files.iter();
            makes.extend(files.map(|(file, bytes)| ((*file).to_owned(), ClosedFile::of(bytes))));
        }
        for (file, makes) in makes.into_iter().filter(|(file, _)| stored.edited.contains(file)) {
            let is = self.objects.hash(&name(stored.period, &file)).await?;
            if is.as_ref() == Some(&makes) {
                expected.files.insert(file, makes);
            }
        }
        Ok(expected)
    }

    /// Leaves the month to the next ones: as the ledger makes it, or else as it is stored.
    async fn carry(&self, stored: &Stored, made: Option<Made>, carried: &mut Carried) -> Result<(), PeriodError> {
        let period = stored.period;
        let paths = stored.rated.iter().map(|file| name(period, file));
        carried.rated.insert(period, paths.collect());
        let Some((booked, credits)) = &mut carried.known else {
            return Ok(());
        };
        match made.filter(|made| made.whole) {
            Some(made) => {
                made.bill.invoices.iter().for_each(|invoice| invoice.book(booked));
                *credits = made.bill.credits;
            }
            None => {
                let is_intact = |file: &str| stored.manifest.is_some() && !stored.edited.contains(file);
                let state = match self.objects.bytes(&name(period, CREDITS)).await? {
                    Some(bytes) if is_intact(CREDITS) => serde_json::from_slice(&bytes).ok(),
                    _ => None,
                };
                let invoices = self.invoices(period).await.ok().filter(|_| is_intact(INVOICES));
                match state.zip(invoices) {
                    Some((state, invoices)) => {
                        invoices.iter().for_each(|invoice| invoice.book(booked));
                        *credits = state;
                    }
                    None => carried.known = None,
                }
            }
        }
        Ok(())
    }
}

impl Carried {
    /// The rated rows that late rows of the month may be among.
    fn behind(&self, lock: &Lock) -> Vec<String> {
        let months = lock.zones.values().flat_map(|zone| &zone.files);
        let first = months.filter_map(|file| file.usage_period.parse::<Period>().ok()).min();
        let behind = self
            .rated
            .iter()
            .filter(|(period, _)| first.is_some_and(|first| **period >= first));
        behind.flat_map(|(_, files)| files.clone()).collect()
    }
}

/// What a lock or a manifest says, or why that cannot be told.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    check_format(bytes).map_err(|problem| problem.to_string())?;
    serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}; restore it from a backup"))
}

/// The error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}
