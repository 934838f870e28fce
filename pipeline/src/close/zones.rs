//! Which zones there are, how far the billing of each is complete, and which files a month reads of it.
//!
//! A zone's billing is complete through the moment at which every sealed chunk of it was found applied to
//! `billing_events`: no partition has an intent behind the table's watermark. What a worker had computed
//! by then and not yet sealed is either sealed within the flush age or lost with the worker and computed
//! again, with a later time. The grace covers the former; a row that comes later still is a late one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use billing::close::manifest::{ClosedFile, LedgerFile, Zone};
use billing::period::Period;
use jiff::Timestamp;
use object_store::path::Path;

use super::objects::{ObjectError, Objects};
use super::{Earlier, PeriodError};
use crate::intent::Intents;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::Tables;

/// The zones that hold a ledger, each complete through the end of `period`.
pub(super) async fn complete(
    store: &Store,
    objects: &Objects,
    period: Period,
    wanted: &[String],
    earlier: &BTreeMap<Period, Earlier>,
    now: Timestamp,
) -> Result<BTreeMap<String, Zone>, PeriodError> {
    let mut names: BTreeSet<String> = wanted.iter().cloned().collect();
    names.extend(zones(store).await?);
    if names.is_empty() {
        let reason = "the store has no zone with a ledger; check store.uri".to_owned();
        return Err(PeriodError::Order { period, reason });
    }
    let mut complete = BTreeMap::new();
    for zone in names {
        let failed = |source| PeriodError::table(&zone, source);
        let tables = Tables::open(store, &zone).await.map_err(failed)?;
        if let Some(reason) = unapplied(store, &zone, &tables).await? {
            return Err(PeriodError::Incomplete { zone, period, reason });
        }
        let files = tables.files(Table::BillingEvents, None).await.map_err(failed)?;
        let read = already_read(earlier, &zone);
        let mut new = Vec::new();
        for file in files.iter().filter(|file| !read.contains(file.path.as_str())) {
            let of = file
                .partition_value
                .parse::<Period>()
                .map_err(|error| PeriodError::Order {
                    period,
                    reason: format!("zone {zone}, {}: {error}", file.path),
                })?;
            if of < period && !earlier.contains_key(&of) {
                let reason = format!("zone {zone} has events of {of}, which is not closed; close {of} first");
                return Err(PeriodError::Order { period, reason });
            }
            if of <= period {
                let place = tables.place(Table::BillingEvents, &file.path).map_err(failed)?;
                let hash = objects.hash_at(&place).await?.filter(|found| found.size == file.size);
                let ClosedFile { size, sha256 } = hash.ok_or_else(|| PeriodError::Changed {
                    path: place.to_string(),
                    problem: format!(
                        "is gone, or has not the {} bytes that it was committed with; restore it",
                        file.size
                    ),
                })?;
                new.push(LedgerFile {
                    path: file.path.clone(),
                    usage_period: file.partition_value.clone(),
                    size,
                    sha256,
                    rows: file.rows.unwrap_or_default(),
                });
            }
        }
        let files = new;
        complete.insert(
            zone,
            Zone {
                complete_through: now,
                files,
            },
        );
    }
    Ok(complete)
}

/// The zone's files that earlier months have read.
fn already_read<'a>(earlier: &'a BTreeMap<Period, Earlier>, zone: &str) -> HashSet<&'a str> {
    let zones = earlier.values().filter_map(|earlier| earlier.lock.zones.get(zone));
    zones
        .flat_map(|zone| &zone.files)
        .map(|file| file.path.as_str())
        .collect()
}

/// Every folder of the store that has a table of billing events.
pub(super) async fn zones(store: &Store) -> Result<Vec<String>, PeriodError> {
    let mut zones = Vec::new();
    for folder in folders(store, &store.path("")).await? {
        let Some(name) = folder.filename().filter(|name| !name.starts_with('_')) else {
            continue;
        };
        let log = store.path(&format!("{name}/{}/_delta_log", Table::BillingEvents.name()));
        let listed = store.objects().list_with_delimiter(Some(&log)).await;
        if !listed
            .map_err(|source| ObjectError::store(&log, source))?
            .objects
            .is_empty()
        {
            zones.push(name.to_owned());
        }
    }
    Ok(zones)
}

/// What is sealed and not yet billed, if anything.
async fn unapplied(store: &Store, zone: &str, tables: &Tables) -> Result<Option<String>, PeriodError> {
    let intents = Intents::new(store.clone(), zone);
    let failed = |error| PeriodError::sealed(zone, error);
    let partitions = intents.partitions().await.map_err(failed)?;
    let watermarks = tables.watermarks(Table::BillingEvents, &partitions).await;
    let watermarks = watermarks.map_err(|source| PeriodError::table(zone, source))?;
    for (partition, watermark) in partitions.iter().zip(watermarks) {
        if let Some(intent) = intents.chain(partition, watermark).await.map_err(failed)?.first() {
            let (from, to) = (intent.from, intent.to);
            return Ok(Some(format!(
                "offsets {from} to {to} of {partition} are sealed but not billed; a worker that starts there bills them"
            )));
        }
    }
    Ok(None)
}

async fn folders(store: &Store, directory: &Path) -> Result<Vec<Path>, PeriodError> {
    let listed = store.objects().list_with_delimiter(Some(directory)).await;
    Ok(listed
        .map_err(|source| ObjectError::store(directory, source))?
        .common_prefixes)
}
