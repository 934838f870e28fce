//! From a lock to the files of a closed month. The manifest is written last.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use billing::close::manifest::{ClosedFile, FORMAT, Lock, Manifest};
use billing::close::rated::{Booked, Charge, Counts, Inputs, rate_month};
use billing::close::{BoxError, CloseError};
use billing::invoice::{Month, issue};
use billing::money::Money;
use billing::period::Period;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::runtime::Handle;

use super::ledger::{Ledger, RatedRows, touched};
use super::objects::Objects;
use super::{CREDITS, Earlier, INVOICES, LOCK, MANIFEST, PeriodError, Periods, name};
use crate::prices::Prices;

/// Rows in one file of rated rows.
const FILE_ROWS: usize = 262_144;

impl Periods {
    pub(super) async fn write(
        &self,
        lock: Lock,
        earlier: &BTreeMap<Period, Earlier>,
        prices: &Prices,
    ) -> Result<Manifest, PeriodError> {
        let period = lock.period;
        let failed = |source| PeriodError::Close { period, source };
        let (charges, counts, mut files) = self.rate(&lock, earlier, prices).await?;
        let credits = self.credits_after(earlier.last_key_value()).await?;
        let month = Month {
            period,
            issued_at: lock.locked_at,
            charges: &charges,
            contracts: &prices.contracts,
            credits: &credits,
        };
        let (invoices, credits) = issue(&month).map_err(failed)?;
        let mut lines = Vec::new();
        for invoice in &invoices {
            let line = serde_json::to_vec(invoice).map_err(|error| failed(io("invoices", error.into())))?;
            lines.extend(line);
            lines.push(b'\n');
        }
        let mut payable: BTreeMap<String, Money> = BTreeMap::new();
        for invoice in &invoices {
            let sum = payable.entry(invoice.currency.code().to_owned()).or_default();
            *sum = sum.plus(invoice.total).map_err(|source| {
                let tenant = invoice.tenant_id.clone();
                failed(CloseError::Money { tenant, source })
            })?;
        }
        let small = [
            (LOCK, self.objects.to_json(LOCK, &lock)?),
            (INVOICES, lines),
            (CREDITS, self.objects.to_json(CREDITS, &credits)?),
        ];
        for (file, bytes) in small {
            files.insert(file.to_owned(), ClosedFile::of(&bytes));
            self.objects.create(&name(period, file), bytes).await?;
        }
        let manifest = Manifest {
            format: FORMAT,
            period,
            files,
            counts,
            invoices: invoices.len() as u64,
            payable,
        };
        let bytes = self.objects.to_json(MANIFEST, &manifest)?;
        self.objects.create(&name(period, MANIFEST), bytes).await?;
        Ok(manifest)
    }

    /// Rates the month and writes its rated rows.
    async fn rate(
        &self,
        lock: &Lock,
        earlier: &BTreeMap<Period, Earlier>,
        prices: &Prices,
    ) -> Result<(Vec<Charge>, Counts, BTreeMap<String, ClosedFile>), PeriodError> {
        let period = lock.period;
        let mut booked = Booked::new();
        for (month, _) in touched(lock, earlier) {
            for invoice in self.invoices(month).await? {
                invoice.book(&mut booked);
            }
        }
        let ledger = Ledger::open(&self.store, lock).await?;
        let months = touched(lock, earlier).map(|(month, earlier)| (month, &earlier.manifest));
        let before = RatedRows::new(&self.store, months);
        let rows = lock
            .zones
            .values()
            .flat_map(|zone| &zone.files)
            .map(|file| file.rows)
            .sum();
        let mut files = Files {
            objects: self.objects.clone(),
            runtime: Handle::current(),
            period,
            writer: None,
            rows: 0,
            written: BTreeMap::new(),
        };
        let prices = Arc::new(prices.clone());
        let rating = tokio::task::spawn_blocking(move || {
            let inputs = Inputs {
                period,
                ledger: &|| ledger.rows(),
                rows,
                earlier: &|| before.rows(&["event_id", "payload_hash"]),
                booked: &booked,
                book: &prices.book,
                contracts: &prices.contracts,
            };
            let (charges, counts) = rate_month(&inputs, |batch| files.add(&batch))?;
            files.finish().map_err(|source| io("rated rows", source))?;
            Ok((charges, counts, files.written))
        });
        let rated = rating.await.unwrap_or_else(|error| Err(io("rated rows", error.into())));
        rated.map_err(|source| PeriodError::Close { period, source })
    }
}

fn io(what: &'static str, source: BoxError) -> CloseError {
    CloseError::Io { what, source }
}

/// The files of rated rows, one after the other.
struct Files {
    objects: Objects,
    runtime: Handle,
    period: Period,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: usize,
    written: BTreeMap<String, ClosedFile>,
}

impl Files {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder()
                    .set_created_by("bitnet".to_owned())
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                    .build();
                self.writer
                    .insert(ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?)
            }
        };
        writer.write(batch)?;
        self.rows += batch.num_rows();
        if self.rows >= FILE_ROWS {
            self.finish()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let bytes = writer.into_inner()?;
        let file = format!("rated-{:05}.parquet", self.written.len());
        self.written.insert(file.clone(), ClosedFile::of(&bytes));
        self.runtime
            .block_on(self.objects.create(&name(self.period, &file), bytes))?;
        self.rows = 0;
        Ok(())
    }
}
