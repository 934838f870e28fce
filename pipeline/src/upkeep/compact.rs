//! Puts the rows of many small files into few large ones, unchanged and in the order of the files' paths.
//!
//! Only days that are over are touched in `results`, and in `billing_events` only months that no lock reads.
//! Should a month be locked at the same moment, its lock names the small files, which [`super::vacuum`] then
//! keeps, and the large one is read as a late file of the next month, in which every event is a repetition.
//! The small files stay until vacuum, for readers that have an older version open.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use billing::period::Period;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;

use super::{REQUESTS_MAX, UpkeepError, reading, replace};
use crate::close::Periods;
use crate::sink::{DataFile, EncodeError, Sink, StagedFile, Table};
use crate::store::Store;
use crate::tables::{DataFileReader, Replaced, Replacement, TableError, TableFile, Tables, open_file};

/// Bytes of a large file; what is at least half as long is left as it is. Memory holds one of them and a row group.
const FILE_BYTES: u64 = 128 << 20;
/// How names of large files begin.
const STEM: &str = "compacted";

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Small files that went out of the table.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Large files that came in.
    pub added: u64,
    /// Small files that were left, because someone else rewrote one of those beside it.
    pub overtaken: u64,
}

/// Compacts one table of a zone.
pub struct Compactor<'a> {
    /// The store.
    pub store: &'a Store,
    /// The zone.
    pub zone: &'a str,
    /// Its tables.
    pub tables: &'a Tables,
    /// Which of them.
    pub table: Table,
    /// Only this month.
    pub month: Option<Period>,
    /// Today, in UTC.
    pub today: Date,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Compactor<'_> {
    /// Replaces small files, one large file at a time. Needs a multi-threaded Tokio runtime.
    ///
    /// # Errors
    /// See [`UpkeepError`]. What was replaced by then is; the same call goes on.
    pub async fn run(&self) -> Result<Compacted, UpkeepError> {
        let mut compacted = Compacted::default();
        for small in self.bins().await? {
            for (schema, small) in self.by_columns(small).await? {
                let (files, bytes) = (small.len() as u64, small.iter().map(|file| file.size).sum::<u64>());
                if files < 2 {
                    continue;
                }
                if !self.dry_run && self.compact(schema, &small).await? == Replaced::Overtaken {
                    compacted.overtaken += files;
                    continue;
                }
                compacted.removed += files;
                compacted.removed_bytes += bytes;
                compacted.added += 1;
            }
        }
        Ok(compacted)
    }

    /// Small files, each vector of one partition value and together about as long as a large one.
    async fn bins(&self) -> Result<Vec<Vec<TableFile>>, UpkeepError> {
        let locked = match self.table {
            Table::Results => BTreeMap::new(),
            Table::BillingEvents => Periods::new(self.store.clone()).locked(self.zone).await?,
        };
        let mut files = self.tables.files(self.table, None).await?;
        files.retain(|file| {
            let is_small = file.size < FILE_BYTES / 2 && file.rows.is_some();
            is_small && self.is_over(&file.partition_value, &locked)
        });
        let mut bins: Vec<Vec<TableFile>> = Vec::new();
        let mut bytes = 0;
        for file in files {
            bytes += file.size;
            match bins.last_mut() {
                Some(bin) if bin[0].partition_value == file.partition_value && bytes <= FILE_BYTES => bin.push(file),
                _ => {
                    bytes = file.size;
                    bins.push(vec![file]);
                }
            }
        }
        bins.retain(|bin| bin.len() > 1);
        Ok(bins)
    }

    /// Whether files of this partition value may be touched, and are meant.
    fn is_over<T>(&self, value: &str, locked: &BTreeMap<Period, T>) -> bool {
        match self.table {
            Table::Results => value.parse::<Date>().is_ok_and(|day| {
                let is_meant = |month: Period| value.starts_with(&month.to_string());
                day < self.today && self.month.is_none_or(is_meant)
            }),
            Table::BillingEvents => value
                .parse::<Period>()
                .is_ok_and(|period| !locked.contains_key(&period) && self.month.is_none_or(|month| month == period)),
        }
    }

    /// The files by their columns: those of an older version, or with columns of someone else, stay among themselves.
    async fn by_columns(&self, small: Vec<TableFile>) -> Result<Vec<(SchemaRef, Vec<TableFile>)>, UpkeepError> {
        let opened = stream::iter(small).map(|file| async move {
            let reader = self.open(&file).await?;
            Ok::<_, UpkeepError>((reader.schema().clone(), file))
        });
        let mut opened = opened.buffered(REQUESTS_MAX);
        let mut groups: Vec<(SchemaRef, Vec<TableFile>)> = Vec::new();
        while let Some((schema, file)) = opened.try_next().await? {
            match groups.iter_mut().find(|(known, _)| known.fields() == schema.fields()) {
                Some((_, files)) => files.push(file),
                None => groups.push((schema, vec![file])),
            }
        }
        Ok(groups)
    }

    async fn compact(&self, schema: SchemaRef, small: &[TableFile]) -> Result<Replaced, UpkeepError> {
        let large = self.write(schema, small).await?;
        let replacement = Replacement {
            removed: small.iter().map(|file| file.path.clone()).collect(),
            added: vec![large],
            changes_rows: false,
        };
        replace(self.store, self.tables, self.table, &replacement).await
    }

    /// One file with all rows, which is not in the table yet.
    async fn write(&self, schema: SchemaRef, small: &[TableFile]) -> Result<StagedFile, UpkeepError> {
        let failed = |source: EncodeError| UpkeepError::Rewrite {
            path: format!("{} files like {}", small.len(), small[0].path),
            source,
        };
        let rows: u64 = small.iter().filter_map(|file| file.rows).sum();
        let mut large = DataFile::new(self.table, schema, rows).map_err(|error| failed(error.into()))?;
        for file in small {
            let place = self.tables.place(self.table, &file.path)?;
            let mut batches = self
                .open(file)
                .await?
                .build()
                .map_err(|source| TableError::file(&place, source))?;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(|source| TableError::file(&place, source))?;
                tokio::task::block_in_place(|| large.write(&batch)).map_err(failed)?;
            }
        }
        let large = large.finish(small[0].partition_value.clone(), STEM).map_err(failed)?;
        if large.file.rows != rows {
            let found = large.file.rows;
            return Err(failed(format!("they have {found} rows, and must have {rows}").into()));
        }
        Sink::new(self.store.clone(), self.zone).put(&large).await?;
        Ok(large.file)
    }

    async fn open(&self, file: &TableFile) -> Result<DataFileReader, UpkeepError> {
        let place = self.tables.place(self.table, &file.path)?;
        Ok(open_file(self.store, &place, file.size, reading()).await?)
    }
}
