//! `bitnet table`: what it finds, what it prints, how it ends; and erasing under deaths and with inputs.

mod behaviour;
mod common;
mod faulty;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use behaviour::{
    ZONE, assert_erased, assert_rows, assert_whole, chunk, commit, committer, compact, erase, job, mixed, partition,
    same_rows_anew, subject,
};
use common::{Run, bitnet};
use faulty::{Failure, Faulty};
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::{Replaced, TableFile, Tables};
use pipeline::upkeep::erase::inputs::Inputs;
use pipeline::upkeep::vacuum::Waste;
use pipeline::upkeep::{RETENTION, UpkeepError};
use serde_json::{Value, json};

/// A store on disk, and what it is to `bitnet`.
struct World {
    store: Store,
    directory: tempfile::TempDir,
}

impl World {
    /// Two chunks in the tables, of two days and two months each.
    async fn new() -> World {
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

    fn bitnet(&self, arguments: &[&str]) -> Run {
        let uri = format!("file://{}", self.directory.path().display());
        let environment = [
            ("BITNET__STORE__URI", uri.as_str()),
            ("BITNET__WORKER__RESIDENCY_ZONE", ZONE),
            ("BITNET__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
            ("BITNET__KAFKA__START_TIMEOUT", "1s"),
        ];
        bitnet(&[&["table"], arguments].concat(), &environment)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(ZONE).join(relative)
    }

    /// The files of a table.
    async fn files(&self, table: Table) -> Vec<PathBuf> {
        let tables = Tables::open(&self.store, ZONE).await.unwrap();
        let files = tables.files(table, None).await.unwrap();
        let place = |path: &String| self.path(table.name()).join(path);
        files.iter().map(|file| place(&file.path)).collect()
    }

    /// Changes the `add` action of a file in the log.
    fn relist(&self, table: Table, file: &Path, change: impl Fn(&mut Value)) {
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
    fn rewrite(&self, table: Table, file: &Path, batch: &RecordBatch) {
        let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        let size = fs::metadata(file).unwrap().len();
        self.relist(table, file, |add| add["size"] = size.into());
    }

    /// Locks November with these files.
    fn lock(&self, files: &[TableFile]) -> PathBuf {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                json!({
                    "path": file.path, "usage_period": file.partition_value, "size": file.size, "rows": file.rows,
                })
            })
            .collect();
        let lock = json!({
            "format": 1, "period": "2026-11", "locked_at": "2026-12-04T00:00:00Z", "grace_hours": 72, "previous": null,
            "price_book": "public", "price_versions": {}, "contracts": "",
            "zones": { ZONE: { "complete_through": "2026-12-04T00:00:00Z", "files": files } },
        });
        let place = self.directory.path().join("_billing/periods/2026-11/lock.json");
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, lock.to_string()).unwrap();
        place
    }
}

fn read(file: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_nobody_touched_are_what_their_logs_say() {
    let world = World::new().await;
    let printed = world.bitnet(&["check"]);
    assert!(printed.succeeded().ends_with("Every file is what its log says.\n"));
    let files = printed
        .stdout
        .lines()
        .find(|line| line.starts_with(" eu/results "))
        .unwrap();
    let cells: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(cells[1..3], ["4", "16"], "{files}");
}

/// Does something to a file of a table, and to what the log says of it.
type Damage = fn(&World, &Path, Table);

/// What is done, and what is told of it.
const DAMAGES: [(Damage, &str); 7] = [
    (|_, file, _| fs::remove_file(file).unwrap(), "is gone; restore it"),
    (
        |_, file, _| fs::write(file, &fs::read(file).unwrap()[..100]).unwrap(),
        "has 100 bytes, and must have ",
    ),
    (
        |_, file, _| fs::write(file, vec![7; fs::metadata(file).unwrap().len() as usize]).unwrap(),
        "is damaged: ",
    ),
    (
        |world, file, table| {
            world.relist(table, file, |add| {
                let stats = add["stats"].as_str().unwrap();
                add["stats"] = stats.replace("\"numRecords\":4", "\"numRecords\":5").into();
            });
        },
        "has 4 rows, and must have 5; restore it",
    ),
    (
        |world, file, table| {
            let batch = read(file);
            let columns: Vec<_> = (1..batch.num_columns()).collect();
            world.rewrite(table, file, &batch.project(&columns).unwrap());
        },
        "has no column ",
    ),
    (
        |world, file, table| {
            let batch = read(file);
            let at = batch.schema().index_of("kafka_partition").unwrap();
            let mut columns = batch.columns().to_vec();
            columns[at] = batch.column_by_name("kafka_offset").unwrap().clone();
            let schema = batch.schema();
            let columns = schema.fields().iter().map(|field| field.name()).zip(columns);
            world.rewrite(table, file, &RecordBatch::try_from_iter(columns).unwrap());
        },
        "has a column kafka_partition of Int64, and must have one of Int32",
    ),
    (
        |world, file, table| {
            world.relist(table, file, |add| {
                let value = &mut add["partitionValues"][table.partition_column()];
                *value = value.as_str().unwrap().replace("2026", "2025").into();
            });
        },
        "but stands under ",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cut_damaged_rewritten_or_misplaced_file_is_named() {
    for table in Table::ALL {
        for (damage, expected) in DAMAGES {
            let world = World::new().await;
            let file = world.files(table).await.remove(1);
            damage(&world, &file, table);
            let run = world.bitnet(&["check"]);
            run.failed(1, &["files that are not as they must be: 1"]);
            let found: Vec<_> = run.stdout.lines().filter(|line| line.starts_with("WRONG  ")).collect();
            assert_eq!(found.len(), 1, "{found:?}");
            for part in [ZONE, table.name(), name(&file), expected] {
                assert!(found[0].contains(part), "{part} is not in {found:?}");
            }
        }
    }
}

/// Makes a file, or an entry of the log, as old as this.
fn age(file: &Path, age: Duration) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_that_nothing_names_are_told_and_vacuumed() {
    let world = World::new().await;
    let staged = Sink::new(world.store.clone(), ZONE)
        .stage(&chunk(&partition(1), 0, 1))
        .await
        .unwrap();
    let orphan = world.path("results").join(&staged.results[0].path);
    world.bitnet(&["check"]).succeeded();
    age(&orphan, 8 * RETENTION / 7);
    let check = world.bitnet(&["check"]);
    check.failed(1, &["files that are not as they must be: 1"]);
    let told = format!("{} is named by nothing", name(&orphan));
    assert!(check.stdout.contains(&told) && check.stdout.contains("`bitnet table vacuum` deletes it"));

    world
        .bitnet(&["vacuum", "--older-than", "6d"])
        .failed(2, &["6days is less than 7d"]);
    let kept = world.bitnet(&["vacuum", "--older-than", "9d"]);
    assert!(kept.succeeded().starts_with("eu/results: 0 files of 0 B deleted\n"));
    let planned = world.bitnet(&["vacuum", "--dry-run"]);
    assert!(planned.succeeded().contains(name(&orphan)) && orphan.exists());
    assert!(planned.stdout.contains("eu/results: 1 files of "), "{}", planned.stdout);
    world.bitnet(&["vacuum"]).succeeded();
    assert!(!orphan.exists());
    world.bitnet(&["check"]).succeeded();
}

/// A reader may have opened the table just before its files were replaced, however old they are.
#[tokio::test(flavor = "multi_thread")]
async fn vacuum_keeps_old_files_of_a_version_that_was_the_newest_of_late() {
    let world = World::new().await;
    let old = world.files(Table::Results).await;
    let anew = same_rows_anew(&world.store).await;
    let tables = Tables::open(&world.store, ZONE).await.unwrap();
    assert_eq!(tables.replace(Table::Results, &anew).await.unwrap(), Replaced::Done);
    old.iter().for_each(|file| age(file, 100 * RETENTION));
    let find = || Waste::find(&world.store, ZONE, &tables, Table::Results, RETENTION, Timestamp::now());
    assert_eq!(find().await.unwrap().files, []);
    let log = world.path("results/_delta_log");
    let age_log = || {
        fs::read_dir(&log)
            .unwrap()
            .for_each(|entry| age(&entry.unwrap().path(), 2 * RETENTION))
    };
    age_log();
    assert_eq!(find().await.unwrap().files.len(), old.len());

    // With entries cleaned away behind a checkpoint, what went out of the table of late is unknown.
    let worker = committer(&world.store, "worker").await;
    worker.recover(&partition(1)).await.unwrap();
    for from in 0..10 {
        commit(&worker, &chunk(&partition(1), from, from + 1)).await;
    }
    let last: Value = serde_json::from_slice(&fs::read(log.join("_last_checkpoint")).unwrap()).unwrap();
    for version in 0..last["version"].as_u64().unwrap() {
        fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    let error = find().await.unwrap_err().to_string();
    assert!(error.contains("its log begins with "), "{error}");
    age_log();
    assert_eq!(find().await.unwrap().files.len(), old.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn vacuum_keeps_what_the_lock_of_a_month_names() {
    let world = World::new().await;
    let tables = Tables::open(&world.store, ZONE).await.unwrap();
    let files = tables.files(Table::BillingEvents, None).await.unwrap();
    // Only the first is in a lock; then both go out of the table, as after a compaction.
    let place = world.lock(&files[..1]);
    let staged = Sink::new(world.store.clone(), ZONE)
        .stage(&chunk(&partition(1), 0, 2))
        .await
        .unwrap();
    let replacement = pipeline::tables::Replacement {
        removed: files.iter().map(|file| file.path.clone()).collect(),
        added: staged.billing_events,
        changes_rows: false,
    };
    assert_eq!(
        tables.replace(Table::BillingEvents, &replacement).await.unwrap(),
        Replaced::Done
    );
    let later = Timestamp::now() + RETENTION;
    let waste = Waste::find(&world.store, ZONE, &tables, Table::BillingEvents, RETENTION, later)
        .await
        .unwrap();
    let found: Vec<_> = waste
        .files
        .iter()
        .map(|meta| name(Path::new(meta.location.as_ref())).to_owned())
        .collect();
    let expected: Vec<_> = files[1..]
        .iter()
        .map(|file| name(Path::new(&file.path)).to_owned())
        .collect();
    assert_eq!(found, expected);
    waste.delete(&world.store).await.unwrap();
    let check = world.bitnet(&["check"]);
    assert!(check.succeeded().contains("Every file"), "{}", check.stdout);
    fs::remove_file(world.path("billing_events").join(&files[0].path)).unwrap();
    world.bitnet(&["check"]).failed(1, &["not as they must be: 1"]);
    // A lock that cannot be read keeps everything.
    fs::write(&place, "{").unwrap();
    assert_ne!(world.bitnet(&["vacuum"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_says_what_it_did_and_twice_is_once() {
    let world = World::new().await;
    let job = job(&partition(0)).to_string();
    let arguments = ["erase", "--tenant", "acme", "--job", job.as_str()];
    let count = |run: &Run, what: &str| -> u64 {
        let line = run.stdout.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().parse().unwrap()
    };
    let counts = |run: &Run| {
        [
            "rows that lose their texts",
            "files written anew",
            "files with such texts deleted",
            "files of inputs deleted",
        ]
        .map(|what| run.stdout.lines().find(|line| line.starts_with(what)).unwrap())
        .map(|line| line.split_whitespace().next_back().unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(
        count(
            &world.bitnet(&["erase", "--tenant", "globex"]),
            "rows that lose their texts"
        ),
        0
    );
    let inputs = world.path("_inputs").join(&job);
    fs::create_dir_all(&inputs).unwrap();
    fs::write(inputs.join("part-000000.parquet"), "texts").unwrap();

    let planned = world.bitnet(&[&arguments[..], &["--dry-run"]].concat());
    let title = format!("Would be erased in zone eu: texts of tenant acme, job {job}\n");
    assert!(planned.succeeded().starts_with(&title), "{}", planned.stdout);
    assert_eq!(counts(&planned), [12, 4, 4, 1]);
    assert!(inputs.join("part-000000.parquet").exists());
    let erased = world.bitnet(&arguments);
    assert!(erased.succeeded().ends_with("cannot be read.\n"), "{}", erased.stdout);
    assert_eq!(counts(&erased), [12, 4, 4, 1]);
    assert!(!inputs.join("part-000000.parquet").exists());
    assert_eq!(counts(&world.bitnet(&arguments)), [0, 0, 0, 0]);
    assert_erased(&world.store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    world.bitnet(&["check"]).succeeded();

    // Whose inputs these are only the broker could tell.
    let unknown = world.path("_inputs/job-unknown");
    fs::create_dir_all(&unknown).unwrap();
    fs::write(unknown.join("part-000000.parquet"), "texts").unwrap();
    world
        .bitnet(&["erase", "--tenant", "acme"])
        .failed(69, &["cannot reach Kafka"]);
    assert_eq!(world.bitnet(&["erase", "--tenant", ""]).code, 2);
}

/// Dies at every write there is, in both ways; run again, it ends what it began.
async fn die_at_every_write<T, F>(work: impl Fn(Store) -> F, check: impl AsyncFn(&Store)) -> u32
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

#[tokio::test(flavor = "multi_thread")]
async fn erasing_that_was_killed_at_a_write_is_ended_by_the_next() {
    let erase = async |store: Store| erase(&store, false, Timestamp::now()).await;
    let check = async |store: &Store| assert_erased(store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    let deaths = die_at_every_write(erase, check).await;
    assert_eq!(deaths, 2 * 5, "four files and a log entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn compacting_that_was_killed_at_a_write_is_ended_by_the_next() {
    let compact = async |store: Store| compact(&store, Table::Results, "2027-01-01").await;
    let check = async |store: &Store| {
        let expected = [chunk(&partition(0), 0, 4), mixed()].map(|chunk| chunk.outcomes);
        assert_rows(store, expected.into_iter().flatten()).await;
        let tables = Tables::open(store, ZONE).await.unwrap();
        assert_eq!(tables.files(Table::Results, None).await.unwrap().len(), 2);
    };
    let deaths = die_at_every_write(compact, check).await;
    assert_eq!(deaths, 2 * 4, "a file and a log entry for each of two days");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_log_entry_keeps_the_new_files() {
    for failure in [Failure::Refused, Failure::ReplyLost] {
        let world = World::new().await;
        let (unreliable, faulty) = Faulty::once(&world.store, "results/_delta_log", failure);
        faulty.arm(0);
        let erased = erase(&unreliable, false, Timestamp::now()).await.unwrap();
        assert_eq!(
            (faulty.failures.load(Ordering::SeqCst), erased.rows, erased.rewritten),
            (1, 12, 4)
        );
        assert_erased(&world.store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_go_with_the_job_that_they_are_of() {
    let world = World::new().await;
    let shared = job(&partition(2));
    for folder in [
        job(&partition(0)).as_str(),
        shared.as_str(),
        "mine",
        "theirs",
        "nobodys",
    ] {
        let place = world
            .store
            .path(&format!("{ZONE}/_inputs/{folder}/part-000000.parquet"));
        world.store.objects().put(&place, "texts".into()).await.unwrap();
    }
    let tables = Tables::open(&world.store, ZONE).await.unwrap();
    let mut subject = subject();
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!(inputs.its.iter().collect::<Vec<_>>(), [job(&partition(0)).as_str()]);
    assert_eq!((inputs.unknown.len(), inputs.left.len()), (0, 0));

    subject.job = None;
    let mut inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!((inputs.its.len(), inputs.unknown.len()), (2, 3));
    let record = |tenant: &str| {
        let record = json!({
            "schema": "bitnet.job.v1", "job_id": "any", "tenant_id": tenant, "project_id": "search",
            "residency_zone": ZONE, "model": "m", "endpoint": "/v1/completions", "service_tier": "batch",
            "desired": "run", "requests_total": 1, "batch_count": 1, "submitted_at": "2026-11-24T01:00:00Z",
        });
        schemas::job::decode(record.to_string().as_bytes()).unwrap()
    };
    let records = BTreeMap::from([
        ("mine".to_owned(), record("acme")),
        ("theirs".to_owned(), record("globex")),
    ]);
    inputs.attribute(ZONE, &subject, &records);
    assert_eq!((inputs.its.len(), inputs.left.len()), (3, 1));
    assert!(inputs.left[0].path.ends_with("nobodys") && inputs.left[0].reason.contains("--job nobodys"));
    assert_eq!(inputs.erase(&world.store, ZONE, true).await.unwrap(), 3);
    assert_eq!(inputs.erase(&world.store, ZONE, false).await.unwrap(), 3);
    assert_eq!(inputs.erase(&world.store, ZONE, false).await.unwrap(), 0);
    assert!(world.path("_inputs/theirs/part-000000.parquet").exists());

    // A job that two tenants call theirs.
    let worker = committer(&world.store, "worker").await;
    worker.recover(&partition(1)).await.unwrap();
    let mut theirs = chunk(&partition(1), 0, 1);
    theirs.outcomes.truncate(1);
    theirs.outcomes[0].result.job_id = shared.clone();
    theirs.outcomes[0].result.tenant_id = "globex".parse().unwrap();
    commit(&worker, &theirs).await;
    let place = world
        .store
        .path(&format!("{ZONE}/_inputs/{shared}/part-000000.parquet"));
    world.store.objects().put(&place, "texts".into()).await.unwrap();
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert!(
        inputs.left[0]
            .reason
            .starts_with("belongs to acme/search and globex/search alike"),
        "{inputs:?}"
    );
    subject.project = Some("other".parse().unwrap());
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!((inputs.its.len(), inputs.left.len()), (0, 0), "of another project");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_not_over_and_a_locked_month_are_not_compacted() {
    let world = World::new().await;
    let tables = Tables::open(&world.store, ZONE).await.unwrap();
    let files = async |table: Table| -> Vec<String> {
        let files = tables.files(table, None).await.unwrap();
        files.into_iter().map(|file| file.partition_value).collect()
    };
    let done = compact(&world.store, Table::Results, "2026-12-01").await.unwrap();
    assert_eq!((done.removed, done.added), (2, 1));
    assert_eq!(files(Table::Results).await, ["2026-11-30", "2026-12-01", "2026-12-01"]);

    world.lock(&[]);
    let planned = world.bitnet(&["compact", "--table", "billing_events", "--dry-run"]);
    assert!(planned.succeeded().contains(" would become 1\n"), "{}", planned.stdout);
    compact(&world.store, Table::BillingEvents, "2027-01-01").await.unwrap();
    assert_eq!(files(Table::BillingEvents).await, ["2026-11", "2026-11", "2026-12"]);
    let other = ["compact", "--month", "2026-11", "--table", "billing_events"];
    assert_eq!(
        world.bitnet(&other).succeeded(),
        "eu/billing_events: 0 files of 0 B became 0\n"
    );
    assert_eq!(world.bitnet(&["compact", "--table", "invoices"]).code, 2);
}

/// What a newer version or another program put into a table is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn files_with_a_column_of_their_own_are_compacted_among_themselves() {
    let world = World::new().await;
    let worker = committer(&world.store, "worker").await;
    worker.recover(&partition(1)).await.unwrap();
    for (from, to) in [(0, 1), (1, 3)] {
        commit(&worker, &chunk(&partition(1), from, to)).await;
    }
    let files = world.files(Table::Results).await;
    let theirs: Vec<_> = files
        .iter()
        .filter(|file| name(file).starts_with("part-00001"))
        .collect();
    for file in &theirs {
        let batch = read(file);
        let ids = batch.column_by_name("custom_id").unwrap().clone();
        let schema = batch.schema();
        let columns = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .zip(batch.columns().to_vec());
        let columns = columns.chain([("their_column", ids)]);
        world.rewrite(Table::Results, file, &RecordBatch::try_from_iter(columns).unwrap());
    }
    assert_eq!(
        compact(&world.store, Table::Results, "2026-12-01").await.unwrap().added,
        2
    );
    let files = world.files(Table::Results).await;
    let days = files
        .iter()
        .filter(|file| file.to_str().unwrap().contains("2026-11-30"));
    let mut columns: Vec<_> = days
        .map(|file| (read(file).num_columns(), read(file).num_rows()))
        .collect();
    columns.sort_unstable();
    let ours = Table::Results.arrow_schema().fields().len() - 1;
    assert_eq!(columns, [(ours, 8), (ours + 1, 4)]);
}
