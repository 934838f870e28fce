//! Both tables as they are at one moment, to be read as often as a report wants.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use billing::report::{Batches, BoxError};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::cli::Failure;
use crate::settings::Settings;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{TableError, TableFile, Tables};

/// Billing follows results within moments; so often it is looked at again before the difference is a finding.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What customers read, large and never billed.
const UNBILLED: [&str; 4] = ["response", "output_text", "embedding", "scores"];

/// The files of both tables.
pub(super) struct Pinned {
    tables: Arc<Tables>,
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
                let (tables, runtime) = (Arc::new(tables), Handle::current());
                return Ok(Pinned {
                    tables,
                    runtime,
                    results,
                    events,
                });
            }
            look += 1;
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// One reading of `results`; never from a task of the runtime.
    pub(super) fn results(&self) -> Batches {
        let schema = Table::Results.arrow_schema();
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let columns: Vec<_> = columns.into_iter().filter(|name| !UNBILLED.contains(name)).collect();
        self.read(
            self.tables
                .scan_files(Table::Results, self.results.clone(), &columns, None),
        )
    }

    /// One reading of `billing_events`; never from a task of the runtime.
    pub(super) fn events(&self) -> Batches {
        self.read(
            self.tables
                .scan_files(Table::BillingEvents, self.events.clone(), &[], None),
        )
    }

    fn read(&self, stream: Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError>) -> Batches {
        let runtime = self.runtime.clone();
        match stream {
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
