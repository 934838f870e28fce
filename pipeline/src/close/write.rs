//! From a lock to the files of a closed month. The manifest is written last.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use billing::close::manifest::{ClosedFile, FORMAT, Lock, Manifest};
use billing::close::rated::{Booked, Charge, Counts, Inputs, rate_month};
use billing::close::{BoxError, CloseError};
use billing::invoice::{CreditState, Invoice, Month, issue};
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

/// Rows of a row group, which is in memory until it is whole.
const GROUP_ROWS: usize = FILE_ROWS / 8;

/// What the months before a month leave to it.
pub(super) struct Before<'a> {
    /// What they charged.
    pub(super) booked: &'a Booked,
    /// Their rated rows, as far as late rows of the month may be among them.
    pub(super) rated: RatedRows,
}

/// Takes rated rows, in the order of event ids; never on a task of the runtime.
pub(super) trait RatedTaker {
    fn take(&mut self, batch: RecordBatch) -> Result<(), BoxError>;
    fn end(&mut self) -> Result<(), BoxError>;
}

/// What a month charges, and the files that say so but for its rated rows.
pub(super) struct Bill {
    pub(super) invoices: Vec<Invoice>,
    pub(super) credits: CreditState,
    /// Σ payable by currency.
    pub(super) payable: BTreeMap<String, Money>,
    /// Name and bytes of each file.
    pub(super) files: [(&'static str, Vec<u8>); 3],
}

impl Periods {
    pub(super) async fn write(
        &self,
        lock: Lock,
        earlier: &BTreeMap<Period, Earlier>,
        prices: &Prices,
    ) -> Result<Manifest, PeriodError> {
        let period = lock.period;
        let (booked, rated) = self.before(&lock, earlier).await?;
        let credits = self.credits_after(earlier.last_key_value()).await?;
        let before = Before { booked: &booked, rated };
        let files = Files::new(period, Some(self.objects.clone()));
        let (charges, counts, Files { written: mut files, .. }) = self.rate(&lock, before, prices, files).await?;
        let bill = self.bill(&lock, &charges, prices, &credits)?;
        for (file, bytes) in bill.files {
            files.insert(file.to_owned(), ClosedFile::of(&bytes));
            self.objects.create(&name(period, file), bytes).await?;
        }
        let manifest = Manifest {
            format: FORMAT,
            period,
            files,
            counts,
            invoices: bill.invoices.len() as u64,
            payable: bill.payable,
        };
        let bytes = self.objects.to_json(MANIFEST, &manifest)?;
        self.objects.create(&name(period, MANIFEST), bytes).await?;
        Ok(manifest)
    }

    /// What the months that late rows may be of have charged, and their rated rows.
    async fn before(
        &self,
        lock: &Lock,
        earlier: &BTreeMap<Period, Earlier>,
    ) -> Result<(Booked, RatedRows), PeriodError> {
        let mut booked = Booked::new();
        for (month, _) in touched(lock, earlier) {
            for invoice in self.invoices(month).await? {
                invoice.book(&mut booked);
            }
        }
        let months = touched(lock, earlier).map(|(month, earlier)| (month, &earlier.manifest));
        Ok((booked, RatedRows::new(&self.store, months)))
    }

    /// Rates the month, and gives `taker` back with all rated rows in it.
    pub(super) async fn rate<T: RatedTaker>(
        &self,
        lock: &Lock,
        before: Before<'_>,
        prices: &Prices,
        mut taker: T,
    ) -> Result<(Vec<Charge>, Counts, T), PeriodError> {
        let period = lock.period;
        let ledger = Ledger::open(&self.store, lock).await?;
        let inputs = Inputs {
            period,
            ledger: &|| ledger.rows(),
            earlier: &|| before.rated.rows(&["event_id", "payload_hash"]),
            booked: before.booked,
            book: &prices.book,
            contracts: &prices.contracts,
        };
        // On this thread: the next month finds what this one freed, where another thread's heap would keep it.
        let rated = tokio::task::block_in_place(|| {
            let (charges, counts) = rate_month(&inputs, |batch| taker.take(batch))?;
            taker.end().map_err(|source| io("rated rows", source))?;
            Ok((charges, counts))
        });
        let (charges, counts) = rated.map_err(|source| PeriodError::Close { period, source })?;
        Ok((charges, counts, taker))
    }

    /// Issues the month's invoices.
    pub(super) fn bill(
        &self,
        lock: &Lock,
        charges: &[Charge],
        prices: &Prices,
        credits: &CreditState,
    ) -> Result<Bill, PeriodError> {
        let period = lock.period;
        let failed = |source| PeriodError::Close { period, source };
        let month = Month {
            period,
            issued_at: lock.locked_at,
            charges,
            contracts: &prices.contracts,
            credits,
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
        let files = [
            (LOCK, self.objects.to_json(LOCK, &lock)?),
            (INVOICES, lines),
            (CREDITS, self.objects.to_json(CREDITS, &credits)?),
        ];
        Ok(Bill {
            invoices,
            credits,
            payable,
            files,
        })
    }
}

fn io(what: &'static str, source: BoxError) -> CloseError {
    CloseError::Io { what, source }
}

/// The files of rated rows, one after the other.
pub(super) struct Files {
    /// Where they are written; nowhere if only their hashes are wanted.
    objects: Option<Objects>,
    runtime: Handle,
    period: Period,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: usize,
    pub(super) written: BTreeMap<String, ClosedFile>,
}

impl Files {
    pub(super) fn new(period: Period, objects: Option<Objects>) -> Self {
        Files {
            objects,
            runtime: Handle::current(),
            period,
            writer: None,
            rows: 0,
            written: BTreeMap::new(),
        }
    }
}

impl RatedTaker for Files {
    fn take(&mut self, batch: RecordBatch) -> Result<(), BoxError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder()
                    .set_created_by("bitnet".to_owned())
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                    .set_max_row_group_row_count(Some(GROUP_ROWS))
                    .build();
                self.writer
                    .insert(ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?)
            }
        };
        writer.write(&batch)?;
        self.rows += batch.num_rows();
        if self.rows >= FILE_ROWS {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let bytes = writer.into_inner()?;
        let file = format!("rated-{:05}.parquet", self.written.len());
        self.written.insert(file.clone(), ClosedFile::of(&bytes));
        self.rows = 0;
        if let Some(objects) = &self.objects {
            self.runtime
                .block_on(objects.create(&name(self.period, &file), bytes))?;
        }
        Ok(())
    }
}
