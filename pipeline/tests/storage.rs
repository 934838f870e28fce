//! Staging, sealing and applying on the stores that need no server. S3 runs the same behaviours in the
//! integration package.

mod behaviour;

use behaviour::{
    ZONE, assert_exactly_once, chunk, chunk_of_dead_letters, commit, committer, data_files, job, partition,
};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use pipeline::chunk::PartitionId;
use pipeline::committer::{CommitError, CommitSettings, Committer};
use pipeline::intent::{Intent, IntentError};
use pipeline::sink::{Sink, Table};
use pipeline::store::{Store, StoreError};
use pipeline::tables::{Equals, Stuck, TableError, Tables};

fn memory() -> Store {
    Store::open("memory://").unwrap()
}

fn directory() -> (Store, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/a directory", directory.path().display())).unwrap();
    (store, directory)
}

/// One test per store for each behaviour.
macro_rules! on_every_store {
    ($($behaviour:ident $(($extra:expr))?),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                crate::behaviour::$behaviour(crate::memory() $(, $extra)?).await;
            })+
        }
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                let (store, _directory) = crate::directory();
                crate::behaviour::$behaviour(store $(, $extra)?).await;
            })+
        }
    };
}

on_every_store!(
    eight_writers_race_one_intent(100),
    eight_committers_race_one_partition,
    chunks_become_rows,
    sealed_chunks_are_applied_by_whoever_comes_next,
    checkpoints_carry_watermarks_and_dedup_keys,
    files_are_replaced_under_a_worker,
    texts_are_erased_under_a_worker,
    vacuum_keeps_what_anyone_needs,
    files_are_compacted_under_a_worker,
);

#[tokio::test(flavor = "multi_thread")]
async fn zombie_with_the_same_chunk_adopts_and_leaves_no_file() {
    let store = memory();
    let (owner, zombie) = (committer(&store, "owner").await, committer(&store, "zombie").await);
    let id = partition(0);
    owner.recover(&id).await.unwrap();
    zombie.recover(&id).await.unwrap();
    commit(&owner, &chunk(&id, 0, 5)).await;
    let files = data_files(&store).await;
    let adopted = zombie.seal(&chunk(&id, 0, 3)).await.unwrap();
    assert!(adopted.is_adopted());
    assert_eq!((adopted.from(), adopted.to(), adopted.rows()), (0, 5, 10));
    assert_eq!(adopted.dedup_keys().count(), 5);
    assert_eq!(data_files(&store).await, files);
    zombie.apply(&[adopted]).await.unwrap();
    commit(&zombie, &chunk(&id, 5, 6)).await;
    assert_exactly_once(&store, &[(id, 6)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_made_again_starts_over_in_its_next_epoch() {
    let store = memory();
    let worker = committer(&store, "worker").await;
    let old = partition(0);
    let new = PartitionId {
        epoch: 2,
        ..old.clone()
    };
    worker.recover(&old).await.unwrap();
    commit(&worker, &chunk(&old, 0, 4)).await;
    assert_eq!(worker.recover(&new).await.unwrap().watermark, None);
    commit(&worker, &chunk(&new, 0, 2)).await;
    assert_eq!(worker.recover(&old).await.unwrap().watermark, Some(4));
    assert_exactly_once(&store, &[(old, 4), (new, 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn added_partitions_are_refused_until_the_next_epoch() {
    let worker = committer(&memory(), "worker").await;
    worker.declare_epoch("t", 1, 4).await.unwrap();
    worker.declare_epoch("t", 1, 4).await.unwrap();
    let error = worker.declare_epoch("t", 1, 6).await.unwrap_err();
    assert!(!error.is_transient());
    let CommitError::Intent(
        error @ IntentError::PartitionCount {
            declared: 4, found: 6, ..
        },
    ) = error
    else {
        panic!("{error:?}")
    };
    assert!(
        error
            .to_string()
            .contains("topic t has 6 partitions, but its epoch 1 began with 4"),
        "{error}"
    );
    worker.declare_epoch("t", 2, 6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_that_does_not_continue_its_partition_is_refused() {
    let store = memory();
    let worker = committer(&store, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    commit(&worker, &chunk(&id, 0, 4)).await;
    for (from, to) in [(0, 4), (3, 5), (5, 6), (4, 4)] {
        let error = worker.seal(&chunk(&id, from, to)).await.unwrap_err();
        assert!(
            matches!(error, CommitError::OutOfOrder { watermark: 4, .. }),
            "[{from}, {to}): {error:?}"
        );
        assert!(!error.is_transient());
    }
    assert_exactly_once(&store, &[(id, 4)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_refuses_a_gap_and_takes_the_rest_of_the_group() {
    let store = memory();
    let worker = committer(&store, "worker").await;
    let (good, gap) = (partition(0), partition(1));
    let mut intents = Vec::new();
    for chunk in [chunk(&good, 0, 2), chunk(&gap, 7, 9), chunk(&good, 2, 3)] {
        let files = Sink::new(store.clone(), ZONE).stage(&chunk).await.unwrap();
        intents.push(Intent::new(&chunk, files, "worker").into());
    }
    for table in Table::ALL {
        let stuck = worker.tables().commit(table, &intents).await.unwrap();
        assert_eq!(
            stuck,
            [Stuck {
                partition: gap.clone(),
                watermark: 0,
                from: 7
            }]
        );
    }
    assert_exactly_once(&store, &[(good, 3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_or_missing_intent_stops_recovery_and_says_where() {
    let store = memory();
    let id = partition(0);
    let worker = committer(&store, "worker").await;
    worker.recover(&id).await.unwrap();
    worker.seal(&chunk_of_dead_letters(&id, 0, 1)).await.unwrap();
    worker.seal(&chunk_of_dead_letters(&id, 1, 2)).await.unwrap();
    let path = store.path(&format!("{ZONE}/_intents/{id}/00000000000000000000.json"));
    let whole = store.objects().get(&path).await.unwrap().bytes().await.unwrap();
    let text = std::str::from_utf8(&whole).unwrap();
    let cases = [
        (text.replace("dead-letters", "dead-lettres"), "checksum"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
    ];
    for (damaged, reason) in cases {
        store.objects().put(&path, damaged.into()).await.unwrap();
        let error = worker.recover(&id).await.unwrap_err();
        assert!(!error.is_transient());
        let CommitError::Intent(error) = error else {
            panic!("{error:?}")
        };
        let text = error.to_string();
        assert!(
            text.contains("00000000000000000000.json is damaged") && text.contains(reason),
            "{text}"
        );
    }
    store.objects().delete(&path).await.unwrap();
    let error = worker.recover(&id).await.unwrap_err();
    assert!(
        matches!(error, CommitError::Intent(IntentError::Corrupt { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_ledger_is_rebuilt_from_the_intents() {
    let store = memory();
    let worker = committer(&store, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    for from in 0..7 {
        commit(&worker, &chunk(&id, from, from + 1)).await;
    }
    let log = store.path(&format!("{ZONE}/billing_events/_delta_log"));
    let entries = store.objects().list(Some(&log)).map_ok(|meta| meta.location).boxed();
    store
        .objects()
        .delete_stream(entries)
        .try_for_each(async |_| Ok(()))
        .await
        .unwrap();
    let next = committer(&store, "next").await;
    assert_eq!(next.recover(&id).await.unwrap().watermark, Some(7));
    assert_exactly_once(&store, &[(id, 7)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_filters_by_partition_and_by_job_and_projects() {
    let (store, _directory) = directory();
    let worker = committer(&store, "worker").await;
    for number in 0..3 {
        worker.recover(&partition(number)).await.unwrap();
        commit(&worker, &chunk(&partition(number), 0, 4)).await;
    }
    let tables = Tables::open(&store, ZONE).await.unwrap();
    let equals = |column: &str, value: &str| {
        Some(Equals {
            column: column.to_owned(),
            value: value.to_owned(),
        })
    };
    let check = async |table, filter: Option<Equals>, files: usize, rows: usize| {
        let found = tables.files(table, filter.as_ref()).await.unwrap();
        assert_eq!(found.len(), files, "{filter:?}");
        let batches: Vec<_> = tables
            .scan(table, &["kafka_offset", table.partition_column()], filter.as_ref())
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert!(batches.iter().all(|batch| batch.num_columns() == 2));
        assert_eq!(
            batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
            rows,
            "{filter:?}"
        );
    };
    check(Table::Results, None, 6, 24).await;
    check(Table::Results, equals("day", "2026-11-30"), 3, 12).await;
    check(Table::Results, equals("day", "2026-11-29"), 0, 0).await;
    check(Table::BillingEvents, equals("usage_period", "2026-12"), 3, 12).await;
    check(Table::Results, equals("job_id", job(&partition(1)).as_str()), 2, 8).await;
    check(Table::BillingEvents, equals("job_id", "job-1-1x"), 0, 0).await;
    check(Table::Results, equals("custom_id", "row-2-1"), 6, 3).await;
    let wrong = tables
        .scan(Table::Results, &["nope"], None)
        .await
        .map(drop)
        .unwrap_err();
    assert!(wrong.to_string().contains("nope"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_exist_are_not_made_by_readers() {
    let (store, directory) = directory();
    let error = Tables::open(&store, "nowhere").await.unwrap_err();
    assert!(matches!(error, TableError::Missing { .. }), "{error:?}");
    assert!(error.to_string().contains("nowhere/results"), "{error}");
    assert!(!directory.path().join("a directory/nowhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_another_shape_is_refused() {
    let store = memory();
    let log = store.path(&format!("{ZONE}/results/_delta_log/00000000000000000000.json"));
    let entry = concat!(
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#,
        "\n",
        r#"{"metaData":{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"#,
        r#""{\"type\":\"struct\",\"fields\":[{\"name\":\"job_id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}","#,
        r#""partitionColumns":[],"configuration":{},"createdTime":0}}"#,
    );
    store.objects().put(&log, entry.into()).await.unwrap();
    let error = Committer::open(store, ZONE, "worker", CommitSettings::default())
        .await
        .unwrap_err();
    let CommitError::Table(error @ TableError::Schema { .. }) = error else {
        panic!("{error:?}")
    };
    assert!(
        error.to_string().contains("column job_id is long, but must be string"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_work_pass_the_check_and_stay_clean() {
    let (store, _directory) = directory();
    for store in [store, memory()] {
        store.check().await.unwrap();
        let left: Vec<_> = store.objects().list(Some(&store.path(""))).try_collect().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn unusable_stores_say_what_is_wrong_and_what_to_do() {
    let check = |uri: &str, expected: &str| {
        let error = Store::open(uri).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(uri), "{error}");
    };
    check("bitnet-data", "has no scheme");
    check("http://x/y", "unknown scheme \"http\"");
    check("file://bitnet-data", "neither absolute");
    check("s3://", "s3://");
    check("file:///proc/bitnet", "cannot create directory /proc/bitnet");
    check("file:///dev/null/bitnet", "cannot create directory /dev/null/bitnet");
    // A directory that exists but takes no files, even from root.
    let store = Store::open("file:///proc/self").unwrap();
    let error = store.check().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Denied { .. } | StoreError::Unreachable { .. }),
        "{error:?}"
    );
}

#[test]
fn relative_directory_is_made_below_the_current_one() {
    let store = Store::open("file://./target/bitnet-relative-test").unwrap();
    let here = std::env::current_dir().unwrap().join("target/bitnet-relative-test");
    assert_eq!(store.url().to_file_path().unwrap(), here);
    std::fs::remove_dir(here).unwrap();
}
