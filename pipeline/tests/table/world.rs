//! Tables on disk to be tampered with, and stores that die.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use jiff::SignedDuration;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipeline::close::Periods;
use pipeline::prices::Prices;
use pipeline::settings::Settings;
use pipeline::sink::Table;
use pipeline::store::Store;
use pipeline::tables::Tables;
use pipeline::upkeep::UpkeepError;
use serde_json::Value;

use crate::behaviour::{ZONE, assert_whole, chunk, commit, committer, mixed, partition};
use crate::common::{Run, bitnet};
use crate::faulty::{Failure, Faulty};

/// A store on disk, and what it is to `bitnet`.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
}

impl World {
    /// Two chunks in the tables, of two days and two months each.
    pub(crate) async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
        let worker = committer(&store, "worker").await;
        for number in [0, 2] {
            worker.recover(&partition(number)).await.unwrap();
        }
        commit(&worker, &chunk(&partition(0), 0, 4)).await;
        commit(&worker, &mixed()).await;
        World { store, directory }
    }

    pub(crate) fn bitnet(&self, arguments: &[&str]) -> Run {
        let uri = format!("file://{}", self.directory.path().display());
        let environment = [
            ("BITNET__STORE__URI", uri.as_str()),
            ("BITNET__WORKER__RESIDENCY_ZONE", ZONE),
            ("BITNET__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
            ("BITNET__KAFKA__START_TIMEOUT", "1s"),
        ];
        bitnet(&[&["table"], arguments].concat(), &environment)
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(ZONE).join(relative)
    }

    /// The files of a table.
    pub(crate) async fn files(&self, table: Table) -> Vec<PathBuf> {
        let tables = Tables::open(&self.store, ZONE).await.unwrap();
        let files = tables.files(table, None).await.unwrap();
        let place = |path: &String| self.path(table.name()).join(path);
        files.iter().map(|file| place(&file.path)).collect()
    }

    /// Changes the `add` action of a file in the log.
    pub(crate) fn relist(&self, table: Table, file: &Path, change: impl Fn(&mut Value)) {
        for entry in fs::read_dir(self.path(table.name()).join("_delta_log")).unwrap() {
            let entry = entry.unwrap().path();
            let text = fs::read_to_string(&entry).unwrap();
            let lines = text.lines().map(|line| {
                let mut action: Value = serde_json::from_str(line).unwrap();
                if action["add"]["path"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(name(file)))
                {
                    change(&mut action["add"]);
                }
                action.to_string()
            });
            fs::write(&entry, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        }
    }

    /// Writes other rows into a file, and has the log say how long it is.
    pub(crate) fn rewrite(&self, table: Table, file: &Path, batch: &RecordBatch) {
        let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        let size = fs::metadata(file).unwrap().len();
        self.relist(table, file, |add| add["size"] = size.into());
    }

    /// Closes November as it is. Its lock is here.
    pub(crate) async fn close(&self) -> PathBuf {
        let settings = Settings::load_with(None, []).unwrap();
        let prices = Prices::load(&settings.billing).unwrap();
        let (month, now) = ("2026-11".parse().unwrap(), "2026-12-04T00:00:00Z".parse().unwrap());
        let periods = Periods::new(self.store.clone());
        periods
            .close(month, &prices, &[], SignedDuration::ZERO, now)
            .await
            .unwrap();
        self.directory.path().join("_billing/periods/2026-11/lock.json")
    }
}

pub(crate) fn read(file: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

pub(crate) fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

/// Makes a file, or an entry of the log, as old as this.
pub(crate) fn age(file: &Path, age: Duration) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// Dies at every write there is, in both ways; run again, it ends what it began.
pub(crate) async fn die_at_every_write<T, F>(work: impl Fn(Store) -> F, check: impl AsyncFn(&Store)) -> u32
where
    F: Future<Output = Result<T, UpkeepError>>,
{
    let mut deaths = 0;
    for failure in [Failure::Refused, Failure::ReplyLost] {
        for writes in 0.. {
            let store = Store::open("memory://").unwrap();
            let worker = committer(&store, "worker").await;
            worker.recover(&partition(0)).await.unwrap();
            worker.recover(&partition(2)).await.unwrap();
            commit(&worker, &chunk(&partition(0), 0, 4)).await;
            commit(&worker, &mixed()).await;
            let (dying, faulty) = Faulty::dying(&store, writes, failure);
            let died = work(dying).await;
            let untouched = faulty.failures.load(Ordering::SeqCst) == 0;
            deaths += u32::from(!untouched);
            assert!(work(store.clone()).await.is_ok());
            check(&store).await;
            assert_whole(&store).await;
            if untouched {
                assert!(died.is_ok());
                break;
            }
        }
    }
    deaths
}
