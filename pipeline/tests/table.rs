//! `bitnet table`: what it finds, what it prints, how it ends.

mod behaviour;
mod common;
mod faulty;
#[path = "table/world.rs"]
mod world;
#[path = "table/erase.rs"]
mod erase;
#[path = "table/compact.rs"]
mod compact;

use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;
use behaviour::{ZONE, chunk, commit, committer, partition, same_rows_anew};
use jiff::Timestamp;
use pipeline::sink::{Sink, Table};
use pipeline::tables::{Replaced, Replacement, Tables};
use pipeline::upkeep::RETENTION;
use pipeline::upkeep::vacuum::Waste;
use serde_json::Value;
use world::{World, age, name, read};

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
    let (locked, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.partition_value == "2026-11");
    let place = world.close().await;
    // Then all of them go out of the table, as after a compaction.
    let staged = Sink::new(world.store.clone(), ZONE)
        .stage(&chunk(&partition(1), 0, 2))
        .await
        .unwrap();
    let replacement = Replacement {
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
    let expected: Vec<_> = others
        .iter()
        .map(|file| name(Path::new(&file.path)).to_owned())
        .collect();
    assert_eq!(found, expected);
    waste.delete(&world.store).await.unwrap();
    let check = world.bitnet(&["check"]);
    assert!(check.succeeded().contains("Every file"), "{}", check.stdout);
    fs::remove_file(world.path("billing_events").join(&locked[0].path)).unwrap();
    world.bitnet(&["check"]).failed(1, &["not as they must be: 1"]);
    // A lock that cannot be read keeps everything.
    fs::write(&place, "{").unwrap();
    assert_ne!(world.bitnet(&["vacuum"]).code, 0);
}
