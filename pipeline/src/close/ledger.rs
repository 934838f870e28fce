//! The rows that a month reads: those of its ledger files, and the rated rows of the months before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use billing::close::manifest::{Lock, Manifest};
use billing::close::{Batches, BoxError};
use billing::period::Period;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::runtime::Handle;

use super::{PeriodError, name};
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{TableFile, Tables};

/// Every zone's files of a lock, to be read from a thread that may block.
pub(super) struct Ledger {
    runtime: Handle,
    zones: Vec<(Arc<Tables>, Vec<TableFile>)>,
}

impl Ledger {
    pub(super) async fn open(store: &Store, lock: &Lock) -> Result<Ledger, PeriodError> {
        let mut zones = Vec::new();
        for (zone, part) in &lock.zones {
            let opened = Tables::open(store, zone).await;
            let tables = opened.map_err(|source| PeriodError::table(zone, source))?;
            let files = part.files.iter().map(|file| TableFile {
                partition_value: file.usage_period.clone(),
                path: file.path.clone(),
                size: file.size,
                rows: Some(file.rows),
            });
            zones.push((Arc::new(tables), files.collect()));
        }
        Ok(Ledger {
            runtime: Handle::current(),
            zones,
        })
    }

    /// One reading, zone by zone; never from a task of the runtime.
    pub(super) fn rows(&self) -> Batches<'_> {
        let zones = self.zones.iter().flat_map(move |(tables, files)| {
            let stream = tables.scan_files(Table::BillingEvents, files.clone(), &[], None);
            let batches: Batches<'_> = match stream {
                Err(error) => Box::new(std::iter::once(Err(BoxError::from(error)))),
                Ok(mut stream) => Box::new(std::iter::from_fn(move || {
                    Some(self.runtime.block_on(stream.next())?.map_err(BoxError::from))
                })),
            };
            batches
        });
        Box::new(zones)
    }
}

/// The rated rows of some closed months, some of their columns.
pub struct RatedRows {
    store: Store,
    runtime: Handle,
    files: Vec<String>,
}

impl RatedRows {
    /// Those of `months`.
    pub(super) fn new<'a>(store: &Store, months: impl Iterator<Item = (Period, &'a Manifest)>) -> RatedRows {
        let files = months.flat_map(|(period, manifest)| {
            let rated = manifest.files.keys().filter(|file| file.ends_with(".parquet"));
            rated.map(move |file| name(period, file))
        });
        RatedRows::of(store, files.collect())
    }

    /// Those in `files` of the store.
    pub(super) fn of(store: &Store, files: Vec<String>) -> RatedRows {
        RatedRows {
            store: store.clone(),
            runtime: Handle::current(),
            files,
        }
    }

    /// One reading, file by file; none of `columns` means all. Never from a task of the runtime.
    pub fn rows<'a>(&'a self, columns: &'a [&'a str]) -> Batches<'a> {
        Box::new(self.files.iter().flat_map(move |file| match self.open(file, columns) {
            Ok(batches) => batches,
            Err(error) => Box::new(std::iter::once(Err(error))) as Batches<'a>,
        }))
    }

    fn open(&self, file: &str, columns: &[&str]) -> Result<Batches<'static>, BoxError> {
        let path = self.store.path(file);
        let bytes: Bytes = self
            .runtime
            .block_on(async { self.store.objects().get(&path).await?.bytes().await })?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let mask = match columns {
            [] => ProjectionMask::all(),
            columns => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
        };
        let batches = builder.with_projection(mask).build()?;
        Ok(Box::new(
            batches.map(|batch: Result<RecordBatch, _>| batch.map_err(BoxError::from)),
        ))
    }
}

/// Months that lie at or behind the earliest month of the lock's late files.
pub(super) fn touched<'a>(
    lock: &Lock,
    earlier: &'a BTreeMap<Period, super::Earlier>,
) -> impl Iterator<Item = (Period, &'a super::Earlier)> {
    let months = lock.zones.values().flat_map(|zone| &zone.files);
    let first = months.filter_map(|file| file.usage_period.parse::<Period>().ok()).min();
    earlier
        .iter()
        .filter(move |(period, _)| first.is_some_and(|first| **period >= first))
        .map(|(period, earlier)| (*period, earlier))
}
