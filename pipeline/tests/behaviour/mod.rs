//! What every store must do, as functions of a store, so that one suite runs on memory, disk and S3.
//!
//! Every function takes an empty store, or at least one whose zone `eu` is unused.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary that includes this file uses a part of it"
)]

mod rows;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use pipeline::committer::{CommitSettings, Committer, Sealed};
use pipeline::intent::{Intent, Intents, Seal};
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::Tables;
use schemas::billing::BillingRow;
use schemas::result::ResultRow;

pub use rows::*;
pub use upkeep::*;

/// A committer of the tests' zone.
pub async fn committer(store: &Store, worker_id: &str) -> Committer {
    let settings = CommitSettings {
        intents_per_checkpoint: 3,
        ..CommitSettings::default()
    };
    Committer::open(store.clone(), ZONE, worker_id, settings).await.unwrap()
}

/// Seals and applies one chunk.
pub async fn commit(committer: &Committer, chunk: &Chunk) -> Sealed {
    let sealed = committer.seal(chunk).await.unwrap();
    committer.apply(std::slice::from_ref(&sealed)).await.unwrap();
    sealed
}

/// Every row of both tables.
pub async fn rows(store: &Store) -> (Vec<ResultRow>, Vec<BillingRow>) {
    let tables = Tables::open(store, ZONE).await.unwrap();
    let (mut results, mut billing) = (Vec::new(), Vec::new());
    let batches: Vec<_> = tables
        .scan(Table::Results, &[], None)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    batches
        .iter()
        .for_each(|batch| results.extend(schemas::result::from_batch(batch).unwrap()));
    let batches: Vec<_> = tables
        .scan(Table::BillingEvents, &[], None)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    batches
        .iter()
        .for_each(|batch| billing.extend(schemas::billing::from_batch(batch).unwrap()));
    (results, billing)
}

/// Asserts that both tables hold exactly the rows of `[0, to)` of each partition given, each once, with
/// the content that was committed.
pub async fn assert_exactly_once(store: &Store, ends: &[(PartitionId, i64)]) {
    let expected = ends
        .iter()
        .flat_map(|(partition, to)| chunk(partition, 0, *to).outcomes);
    assert_rows(store, expected).await;
}

/// Asserts that both tables hold exactly these rows, in any order.
pub async fn assert_rows(store: &Store, expected: impl Iterator<Item = Outcome>) {
    let (mut results, mut billing): (Vec<_>, Vec<_>) =
        expected.map(|outcome| (outcome.result, outcome.billing)).unzip();
    let (mut found_results, mut found_billing) = rows(store).await;
    results.sort_by_key(|row| (row.position.clone(), row.batch_index));
    found_results.sort_by_key(|row| (row.position.clone(), row.batch_index));
    billing.sort_by_key(|row| (row.position.clone(), row.batch_index));
    found_billing.sort_by_key(|row| (row.position.clone(), row.batch_index));
    assert_eq!(found_results, results);
    assert_eq!(found_billing, billing);
}

/// Paths of all objects below the zone, with their sizes.
pub async fn objects(store: &Store) -> BTreeMap<String, u64> {
    let zone = store.path(ZONE);
    let listed: Vec<_> = store.objects().list(Some(&zone)).try_collect().await.unwrap();
    let prefix = format!("{zone}/");
    listed
        .into_iter()
        .map(|meta| (meta.location.as_ref().replacen(&prefix, "", 1), meta.size))
        .collect()
}

/// Data files that exist, in a table or not.
pub async fn data_files(store: &Store) -> usize {
    objects(store)
        .await
        .keys()
        .filter(|path| path.contains("/part-"))
        .count()
}

/// Entries of a table's log.
pub async fn log_entries(store: &Store, table: Table) -> usize {
    let log = format!("{}/_delta_log/", table.name());
    objects(store)
        .await
        .keys()
        .filter(|path| path.starts_with(&log) && path.ends_with(".json"))
        .count()
}

/// Eight writers seal the same range with different content, `rounds` times: exactly one wins, all
/// others learn who, and the object is the winner's.
pub async fn eight_writers_race_one_intent(store: Store, rounds: i64) {
    let intents = Intents::new(store, ZONE);
    for round in 0..rounds {
        let writers = (0..8).map(|writer| {
            let intents = intents.clone();
            let chunk = chunk_of_dead_letters(&partition(0), round * 100, round * 100 + writer + 1);
            let intent = Intent::new(&chunk, Default::default(), &format!("worker-{writer}"));
            tokio::spawn(async move { (intents.seal(&intent, Default::default()).await.unwrap(), intent) })
        });
        let mut winners = Vec::new();
        let mut adopted = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                (Seal::Ours, intent) => winners.push(intent),
                (Seal::Theirs(theirs), _) => adopted.push(theirs),
            }
        }
        assert_eq!((winners.len(), adopted.len()), (1, 7), "round {round}");
        assert!(adopted.iter().all(|theirs| **theirs == winners[0]), "round {round}");
        let again = intents.seal(&winners[0], Default::default()).await.unwrap();
        assert_eq!(again, Seal::Ours, "a winner that asks again still won");
    }
}

/// Eight committers take the same partition with chunks of different lengths and race over its whole
/// range: rows appear once.
pub async fn eight_committers_race_one_partition(store: Store) {
    const TO: i64 = 24;
    committer(&store, "first").await;
    let racers = (0..8).map(|racer| {
        let store = store.clone();
        tokio::spawn(async move {
            let committer = committer(&store, &format!("worker-{racer}")).await;
            let id = partition(0);
            let mut from = committer.recover(&id).await.unwrap().watermark.unwrap_or(0);
            while from < TO {
                let sealed = commit(&committer, &chunk(&id, from, (from + 1 + racer).min(TO))).await;
                from = sealed.to();
            }
        })
    });
    for racer in racers.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
    assert_exactly_once(&store, &[(partition(0), TO)]).await;
    let named = Tables::open(&store, ZONE).await.unwrap();
    let mut files = 0;
    for table in Table::ALL {
        files += named.files(table, None).await.unwrap().len();
    }
    assert_eq!(data_files(&store).await, files, "losers delete their files");
}

/// Chunks pass through seal and apply, also in groups, also without rows, and the tables hold them.
pub async fn chunks_become_rows(store: Store) {
    let worker = committer(&store, "worker").await;
    for number in 0..8 {
        let recovered = worker.recover(&partition(number)).await.unwrap();
        assert_eq!((recovered.watermark, recovered.seen.len()), (None, 0));
    }
    let mut group = Vec::new();
    for number in 0..8 {
        group.push(worker.seal(&chunk(&partition(number), 0, 3)).await.unwrap());
    }
    group.push(worker.seal(&chunk(&partition(2), 3, 5)).await.unwrap());
    assert!(group.iter().all(|sealed| !sealed.is_adopted()));
    worker.apply(&group).await.unwrap();
    for table in Table::ALL {
        assert_eq!(
            log_entries(&store, table).await,
            2,
            "one entry made the table, one holds the group"
        );
    }
    commit(&worker, &chunk_of_dead_letters(&partition(1), 3, 4)).await;
    worker.apply(&group).await.unwrap();
    let end = |number| (partition(number), if number == 2 { 5 } else { 3 });
    assert_exactly_once(&store, &(0..8).map(end).collect::<Vec<_>>()).await;

    let next = committer(&store, "next").await;
    let recovered = next.recover(&partition(1)).await.unwrap();
    assert_eq!(recovered.watermark, Some(4));
    let seen = |offset| recovered.seen.get(&dedup_key(&partition(1), offset)).copied();
    assert_eq!([seen(0), seen(1), seen(2), seen(3)], [Some(0), Some(1), Some(2), None]);
}

/// A worker dies after sealing three chunks of which one is half applied; four others recover at once.
pub async fn sealed_chunks_are_applied_by_whoever_comes_next(store: Store) {
    let dying = committer(&store, "dying").await;
    let id = partition(5);
    dying.recover(&id).await.unwrap();
    let first = commit(&dying, &chunk(&id, 0, 2)).await;
    assert_eq!(first.to(), 2);
    let files = Sink::new(store.clone(), ZONE).stage(&chunk(&id, 2, 4)).await.unwrap();
    let half = Arc::new(Intent::new(&chunk(&id, 2, 4), files, "dying"));
    Intents::new(store.clone(), ZONE)
        .seal(&half, Default::default())
        .await
        .unwrap();
    dying.tables().commit(Table::Results, &[half]).await.unwrap();
    for from in [4, 6] {
        let files = Sink::new(store.clone(), ZONE)
            .stage(&chunk(&id, from, from + 2))
            .await
            .unwrap();
        let sealed = Intent::new(&chunk(&id, from, from + 2), files, "dying");
        Intents::new(store.clone(), ZONE)
            .seal(&sealed, Default::default())
            .await
            .unwrap();
    }
    drop(dying);
    let recoverers = (0..4).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let worker = committer(&store, &format!("worker-{number}")).await;
            worker.recover(&partition(5)).await.unwrap()
        })
    });
    for recoverer in recoverers.collect::<Vec<_>>() {
        let recovered = recoverer.await.unwrap();
        assert_eq!((recovered.watermark, recovered.seen.len()), (Some(8), 8));
    }
    assert_exactly_once(&store, &[(id, 8)]).await;
}

/// Many commits: checkpoints of log and dedup keys appear, and nothing is lost behind them.
pub async fn checkpoints_carry_watermarks_and_dedup_keys(store: Store) {
    let worker = committer(&store, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    for from in 0..23 {
        commit(&worker, &chunk(&id, from, from + 1)).await;
    }
    let found = objects(&store).await;
    for table in Table::ALL {
        let hint = format!("{}/_delta_log/_last_checkpoint", table.name());
        assert!(found.contains_key(&hint), "{hint} is not among {:?}", found.keys());
    }
    let seen: Vec<_> = found.keys().filter(|path| path.contains("/seen/")).collect();
    assert_eq!(seen.len(), 2, "older ones are dropped: {seen:?}");
    // Without the intents behind the checkpoint, start-up must still know every batch.
    for path in found.keys().filter(|path| path.starts_with("_intents/")) {
        let from = path
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".json")?.parse::<i64>().ok());
        if from.is_some_and(|from| from < 21) {
            store
                .objects()
                .delete(&store.path(&format!("{ZONE}/{path}")))
                .await
                .unwrap();
        }
    }
    let next = committer(&store, "next").await;
    let recovered = next.recover(&id).await.unwrap();
    assert_eq!(recovered.watermark, Some(23));
    let expected = (0..23).map(|offset| (dedup_key(&id, offset), offset)).collect();
    assert_eq!(recovered.seen, expected);
    assert_exactly_once(&store, &[(id, 23)]).await;
}
