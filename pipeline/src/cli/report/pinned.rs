//! Both tables as they are at one moment, to be read as often as a report wants.

use std::collections::BTreeSet;
use std::time::Duration;

use billing::period::Period;
use billing::report::{Batches, BoxError};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::cli::Failure;
use crate::settings::Settings;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{TableFile, Tables};

/// Billing follows results within moments; so often it is looked at again before the difference is a finding.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Into how many pieces a table is cut, if it has so many files.
const PIECES_MAX: u64 = 64;

/// The files of both tables.
pub(super) struct Pinned {
    tables: Tables,
    runtime: Handle,
    results: Vec<TableFile>,
    events: Vec<TableFile>,
}

impl Pinned {
    /// Looks until no commit falls between the looks at both tables and every result is billed, but not for long.
    pub(super) async fn open(settings: &Settings) -> Result<Pinned, Failure> {
        let store = Store::open(&settings.store.uri)?;
        let tables = Tables::open(&store, &settings.worker.residency_zone).await?;
        let mut look = 1;
        loop {
            let before = tables.files(Table::BillingEvents, None).await?;
            let results = tables.files(Table::Results, None).await?;
            let events = tables.files(Table::BillingEvents, None).await?;
            if look == LOOKS || before == events && rows(&events) >= rows(&results) {
                return Ok(Pinned {
                    tables,
                    runtime: Handle::current(),
                    results,
                    events,
                });
            }
            look += 1;
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The months of which `billing_events` has rows.
    pub(super) fn months(&self) -> impl Iterator<Item = Period> {
        let months = self.events.iter().filter_map(|file| file.partition_value.parse().ok());
        months.collect::<BTreeSet<Period>>().into_iter()
    }

    /// `results`, to be read outside the runtime.
    pub(super) fn results(&self) -> Pieces<'_> {
        self.pieces(Table::Results, &self.results)
    }

    /// `billing_events`, to be read outside the runtime.
    pub(super) fn events(&self) -> Pieces<'_> {
        self.pieces(Table::BillingEvents, &self.events)
    }

    fn pieces<'a>(&'a self, table: Table, files: &'a [TableFile]) -> Pieces<'a> {
        let size: u64 = files.iter().map(|file| file.size).sum();
        let mut pieces: Vec<&[TableFile]> = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for (index, file) in files.iter().enumerate() {
            bytes += file.size;
            if bytes * PIECES_MAX >= size || index + 1 == files.len() {
                pieces.push(&files[from..=index]);
                (from, bytes) = (index + 1, 0);
            }
        }
        Pieces {
            pinned: self,
            table,
            files: pieces,
        }
    }
}

/// A table in pieces of about equally many bytes, each some of its files.
pub(super) struct Pieces<'a> {
    pinned: &'a Pinned,
    table: Table,
    files: Vec<&'a [TableFile]>,
}

impl billing::report::Table for Pieces<'_> {
    fn pieces(&self) -> usize {
        self.files.len()
    }

    fn read(&self, piece: usize, columns: &[&'static str]) -> Batches {
        let runtime = self.pinned.runtime.clone();
        let files = self.files[piece].to_vec();
        match self.pinned.tables.scan_files(self.table, files, columns, None) {
            Err(error) => Box::new(std::iter::once(Err(BoxError::from(error)))),
            Ok(mut stream) => Box::new(std::iter::from_fn(move || {
                Some(runtime.block_on(stream.next())?.map_err(BoxError::from))
            })),
        }
    }
}

fn rows(files: &[TableFile]) -> u64 {
    files.iter().map(|file| file.rows.unwrap_or_default()).sum()
}
