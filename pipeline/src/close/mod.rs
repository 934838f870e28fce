//! Closing a month in the object store: open → grace → locked → closed.
//!
//! Everything lies below `<store>/_billing/periods/2026-10/`, and every object is created once and never
//! changed. `lock.json` names the ledger's files of every zone and decides the month; `rated-<n>.parquet`,
//! `invoices.jsonl` and `credits.json` follow from it alone; `manifest.json`, written last, has the SHA-256 of
//! each. Whoever runs it again finds the same bytes there, or says which differ. No other state exists.

pub mod objects;
mod zones;
mod ledger;
mod write;
pub mod verify;
pub mod audit;

use std::collections::BTreeMap;

use billing::SortError;
use billing::close::CloseError;
use billing::close::manifest::{
    ClosedFile, FORMAT, LedgerFile, Lock, Manifest, OtherFormat, Previous, Stage, check_format,
};
use billing::invoice::{CreditState, Invoice};
use billing::period::Period;
use billing::report::usage::Filter;
use billing::report::{Invoiced, Invoices};
use bytes::Bytes;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;

use crate::intent::IntentError;
use crate::prices::Prices;
use crate::prices::published::PublishError;
use crate::store::{self, Store};
use crate::tables::TableError;
use objects::{ObjectError, Objects};

/// Why a month is not closed.
#[derive(Debug, thiserror::Error)]
pub enum PeriodError {
    /// The month, or its grace, is not over. Come again later.
    #[error("{period} may be closed from {until} on")]
    TooEarly {
        /// The month.
        period: Period,
        /// When it is due.
        until: Timestamp,
    },
    /// A zone's billing is not complete through the month's end. Come again when it is.
    #[error("billing of zone {zone} is not complete through the end of {period}: {reason}")]
    Incomplete {
        /// The zone.
        zone: String,
        /// The month.
        period: Period,
        /// What is missing.
        reason: String,
    },
    /// Months are closed one after the other.
    #[error("{period} cannot be closed: {reason}")]
    Order {
        /// The month.
        period: Period,
        /// What stands before it.
        reason: String,
    },
    /// The month was locked with other files than these.
    #[error(
        "{period} is locked with {what} of SHA-256 {locked}, but the file has {found}; restore that file and run again"
    )]
    OtherTerms {
        /// The month.
        period: Period,
        /// Which file.
        what: String,
        /// Its hash in the lock.
        locked: String,
        /// Its hash now.
        found: String,
    },
    /// A closed file is not what it was.
    #[error("{path} {problem}")]
    Changed {
        /// The object.
        path: String,
        /// How it differs.
        problem: String,
    },
    /// Another version of bitnet locked or closed the month.
    #[error("{path} {problem}")]
    Format {
        /// The object.
        path: String,
        /// Which formats there are.
        problem: OtherFormat,
    },
    /// Prices or contracts may not be used.
    #[error(transparent)]
    Published(#[from] PublishError),
    /// A table could not be read.
    #[error("cannot read the ledger of zone {zone}")]
    Table {
        /// The zone.
        zone: String,
        /// Why.
        source: Box<TableError>,
    },
    /// An object could not be read or written.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// There was no room for what had to be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// The month could not be rated.
    #[error("cannot close {period}")]
    Close {
        /// The month.
        period: Period,
        /// Why.
        source: CloseError,
    },
}

impl PeriodError {
    fn table(zone: &str, source: TableError) -> Self {
        PeriodError::Table {
            zone: zone.to_owned(),
            source: Box::new(source),
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            PeriodError::Table { source, .. } => source.is_outage(),
            PeriodError::Object(source) => source.is_outage(),
            PeriodError::Close {
                source: CloseError::Io { source, .. },
                ..
            } => {
                let table = source.downcast_ref::<TableError>().is_some_and(TableError::is_outage);
                let object = source.downcast_ref::<ObjectError>().is_some_and(ObjectError::is_outage);
                let store = source
                    .downcast_ref::<object_store::Error>()
                    .is_some_and(store::is_outage);
                table || object || store
            }
            PeriodError::Sort(_)
            | PeriodError::Close {
                source: CloseError::Sort(_),
                ..
            } => true,
            _ => false,
        }
    }

    fn sealed(zone: &str, error: IntentError) -> Self {
        match error {
            IntentError::Store { path, source } => ObjectError::store(&path, source).into(),
            error => PeriodError::Changed {
                path: format!("{zone}/_intents"),
                problem: format!("cannot be read: {error}"),
            },
        }
    }
}

/// What closing did.
#[derive(Debug)]
pub struct Closed {
    /// What the month is closed as.
    pub manifest: Manifest,
    /// It was closed before; every file is what it was.
    pub before: bool,
}

/// The months of one store.
#[derive(Debug, Clone)]
pub struct Periods {
    store: Store,
    objects: Objects,
}

/// A closed month, as far as the next one needs it.
struct Earlier {
    lock: Lock,
    manifest: Manifest,
    manifest_sha256: String,
}

impl Periods {
    /// The months below `<store>/_billing/periods/`.
    pub fn new(store: Store) -> Periods {
        let objects = Objects::new(store.clone());
        Periods { store, objects }
    }

    /// Closes `period` as far as it may be, or checks the files of a closed one. `zones` must be there, and
    /// others that are there are closed too. Needs a multi-threaded Tokio runtime.
    ///
    /// # Errors
    /// See [`PeriodError`]. Call it again with the same arguments: nothing is written twice.
    pub async fn close(
        &self,
        period: Period,
        prices: &Prices,
        zones: &[String],
        grace: SignedDuration,
        now: Timestamp,
    ) -> Result<Closed, PeriodError> {
        let lock = self.lock_of(period).await?;
        let manifest = self.manifest_of(period).await?;
        match Stage::of(period, grace, now, lock.is_some(), manifest.is_some()) {
            Stage::Open => {
                let until = period.end().checked_add(grace).unwrap_or(Timestamp::MAX);
                return Err(PeriodError::TooEarly { period, until });
            }
            Stage::Grace { until } => return Err(PeriodError::TooEarly { period, until }),
            Stage::Due | Stage::Locked | Stage::Closed => {}
        }
        if let Some((manifest, _)) = manifest {
            self.verified(period).await?;
            return Ok(Closed { manifest, before: true });
        }
        let earlier = self.earlier(period).await?;
        let lock = match lock {
            Some(lock) => self.intact(lock).await?,
            None => {
                let lock = self.new_lock(period, prices, zones, grace, now, &earlier).await?;
                prices.publish(&self.store).await?;
                self.objects.create_json(&name(period, LOCK), &lock).await?
            }
        };
        prices.check_published(&self.store).await?;
        same_terms(&lock, prices)?;
        let manifest = self.write(lock, &earlier, prices).await?;
        Ok(Closed {
            manifest,
            before: false,
        })
    }

    /// Every closed month with its manifest, in order.
    ///
    /// # Errors
    /// When the store fails or an object is damaged.
    pub async fn closed(&self) -> Result<BTreeMap<Period, Manifest>, PeriodError> {
        let mut closed = BTreeMap::new();
        for period in self.known().await? {
            if let Some((manifest, _)) = self.manifest_of(period).await? {
                closed.insert(period, manifest);
            }
        }
        Ok(closed)
    }

    /// The invoices of a closed month.
    ///
    /// # Errors
    /// When the month is not closed, its file is not what it was, or the store fails.
    pub async fn invoices(&self, period: Period) -> Result<Vec<Invoice>, PeriodError> {
        let Some((manifest, _)) = self.manifest_of(period).await? else {
            let reason = format!("it is not closed; run `bitnet billing close {period}` first");
            return Err(PeriodError::Order { period, reason });
        };
        let bytes = self.closed_file(period, &manifest, INVOICES).await?;
        Ok(self.objects.lines(&name(period, INVOICES), &bytes)?)
    }

    /// When a closed month was locked, which dates its invoices.
    ///
    /// # Errors
    /// When the month is not locked or the store fails.
    pub async fn locked_at(&self, period: Period) -> Result<Timestamp, PeriodError> {
        let lock = self.lock_of(period).await?;
        lock.map(|lock| lock.locked_at).ok_or_else(|| PeriodError::Order {
            period,
            reason: "it is not locked".to_owned(),
        })
    }

    /// What closed months billed of what `filter` takes.
    ///
    /// # Errors
    /// As [`Periods::invoices`].
    pub async fn invoiced(&self, filter: &Filter) -> Result<Invoiced, PeriodError> {
        let mut invoices = Invoices::default();
        let asked = filter.period.as_ref().and_then(|period| period.parse::<Period>().ok());
        // No month bills a later one's use.
        for period in self.closed().await?.into_keys().filter(|period| asked <= Some(*period)) {
            for invoice in self.invoices(period).await? {
                invoices.add(&invoice, filter)?;
            }
        }
        Ok(invoices.finish())
    }

    /// The ledger's files of a zone that a month reads, closed or only locked so far, by month.
    ///
    /// # Errors
    /// When the store fails or a lock is damaged.
    pub async fn locked(&self, zone: &str) -> Result<BTreeMap<Period, Vec<LedgerFile>>, PeriodError> {
        let mut locked = BTreeMap::new();
        for period in self.known().await? {
            if let Some(mut lock) = self.lock_of(period).await? {
                let files = lock.zones.remove(zone).map(|zone| zone.files);
                locked.insert(period, files.unwrap_or_default());
            }
        }
        Ok(locked)
    }

    /// Which months have files.
    async fn known(&self) -> Result<Vec<Period>, PeriodError> {
        let directory = self.store.path(DIRECTORY);
        let listed = self.store.objects().list_with_delimiter(Some(&directory)).await;
        let listed = listed.map_err(|source| ObjectError::store(&directory, source))?;
        let mut periods: Vec<Period> = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename()?.parse().ok())
            .collect();
        periods.sort_unstable();
        Ok(periods)
    }

    async fn lock_of(&self, period: Period) -> Result<Option<Lock>, PeriodError> {
        Ok(self.json(name(period, LOCK)).await?.map(|(lock, _)| lock))
    }

    async fn manifest_of(&self, period: Period) -> Result<Option<(Manifest, String)>, PeriodError> {
        self.json(name(period, MANIFEST)).await
    }

    /// A lock or a manifest, and the SHA-256 of its bytes.
    async fn json<T: DeserializeOwned>(&self, path: String) -> Result<Option<(T, String)>, PeriodError> {
        let Some(bytes) = self.objects.bytes(&path).await? else {
            return Ok(None);
        };
        if let Err(problem) = check_format(&bytes) {
            return Err(PeriodError::Format { path, problem });
        }
        Ok(Some((
            self.objects.parse(&path, &bytes)?,
            ClosedFile::of(&bytes).sha256,
        )))
    }

    /// Every month closed before `period`, which is the next one.
    async fn earlier(&self, period: Period) -> Result<BTreeMap<Period, Earlier>, PeriodError> {
        let mut earlier = BTreeMap::new();
        for known in self.known().await?.into_iter().filter(|known| *known != period) {
            let order = |reason: String| PeriodError::Order { period, reason };
            if known > period {
                return Err(order(format!(
                    "{known} is locked or closed already, and months follow one another"
                )));
            }
            let (Some(lock), Some((manifest, manifest_sha256))) =
                (self.lock_of(known).await?, self.manifest_of(known).await?)
            else {
                return Err(order(format!("{known} is locked, but not closed; close it first")));
            };
            let one = Earlier {
                lock,
                manifest,
                manifest_sha256,
            };
            earlier.insert(known, one);
        }
        match earlier.keys().next_back() {
            Some(last) if last.next() != period => {
                let (next, reason) = (last.next(), "months are closed one after the other");
                let reason = format!("{last} was closed last, and {reason}; close {next} first");
                Err(PeriodError::Order { period, reason })
            }
            _ => Ok(earlier),
        }
    }

    async fn new_lock(
        &self,
        period: Period,
        prices: &Prices,
        zones: &[String],
        grace: SignedDuration,
        now: Timestamp,
        earlier: &BTreeMap<Period, Earlier>,
    ) -> Result<Lock, PeriodError> {
        let versions = prices.book.versions().iter();
        Ok(Lock {
            format: FORMAT,
            period,
            locked_at: now,
            grace_hours: grace.as_hours(),
            previous: earlier.last_key_value().map(|(period, earlier)| Previous {
                period: *period,
                manifest_sha256: earlier.manifest_sha256.clone(),
            }),
            price_book: prices.book.id.clone(),
            price_versions: versions.map(|one| (one.version.clone(), one.sha256.clone())).collect(),
            contracts: prices.contracts.sha256.clone(),
            zones: zones::complete(&self.store, &self.objects, period, zones, earlier, now).await?,
        })
    }

    /// A file of a closed month, checked against its manifest.
    async fn closed_file(&self, period: Period, manifest: &Manifest, file: &str) -> Result<Bytes, PeriodError> {
        let path = name(period, file);
        let changed = |problem: &str| PeriodError::Changed {
            path: path.clone(),
            problem: problem.to_owned(),
        };
        let expected = manifest
            .files
            .get(file)
            .ok_or_else(|| changed("is not in the month's manifest"))?;
        let bytes = self.objects.bytes(&path).await?.ok_or_else(|| changed("is gone"))?;
        if ClosedFile::of(&bytes) != *expected {
            return Err(changed(
                "was edited after the month was closed: its SHA-256 is not the manifest's",
            ));
        }
        Ok(bytes)
    }

    async fn credits_after(&self, last: Option<(&Period, &Earlier)>) -> Result<CreditState, PeriodError> {
        let Some((period, earlier)) = last else {
            return Ok(CreditState::default());
        };
        let bytes = self.closed_file(*period, &earlier.manifest, CREDITS).await?;
        Ok(self.objects.parse(&name(*period, CREDITS), &bytes)?)
    }

    /// Names of all objects of a month.
    async fn names(&self, period: Period) -> Result<Vec<String>, PeriodError> {
        let directory = self.store.path(&name(period, ""));
        let listed = self.store.objects().list(Some(&directory));
        let listed = listed.map_ok(|meta| meta.location.filename().unwrap_or_default().to_owned());
        let mut names: Vec<String> = listed
            .try_collect()
            .await
            .map_err(|source| ObjectError::store(&directory, source))?;
        names.sort();
        Ok(names)
    }
}

pub(crate) const DIRECTORY: &str = "_billing/periods";
pub(crate) const LOCK: &str = "lock.json";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const INVOICES: &str = "invoices.jsonl";
pub(crate) const CREDITS: &str = "credits.json";

fn name(period: Period, file: &str) -> String {
    format!("{DIRECTORY}/{period}/{file}")
}

/// The files that the lock names must still be the ones given.
fn same_terms(lock: &Lock, prices: &Prices) -> Result<(), PeriodError> {
    let other = |what: String, locked: &str, found: &str| PeriodError::OtherTerms {
        period: lock.period,
        what,
        locked: locked.to_owned(),
        found: found.to_owned(),
    };
    for (name, locked) in &lock.price_versions {
        let found = prices.book.version(name).map_or("no file", |version| &version.sha256);
        if found != locked {
            return Err(other(format!("price version {name}"), locked, found));
        }
    }
    if lock.contracts != prices.contracts.sha256 {
        return Err(other("contracts".to_owned(), &lock.contracts, &prices.contracts.sha256));
    }
    Ok(())
}
