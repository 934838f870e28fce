//! What upkeep of tables must do on every store, while workers go on.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use pipeline::intent::{Intent, Intents};
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::{Replaced, Replacement, Tables};
use pipeline::upkeep::RETENTION;
use pipeline::upkeep::check::{Checked, check};
use pipeline::upkeep::vacuum::Waste;

use super::{ZONE, assert_exactly_once, chunk, commit, committer, partition};

/// What `bitnet table check` finds of both tables, at `now`.
pub async fn checked(store: &Store, now: Timestamp) -> [Checked; 2] {
    let tables = Tables::open(store, ZONE).await.unwrap();
    let mut found = Vec::new();
    for table in Table::ALL {
        found.push(check(store, ZONE, &tables, table, now).await.unwrap());
    }
    found.try_into().unwrap()
}

/// Asserts that check has nothing to say.
pub async fn assert_whole(store: &Store) {
    for checked in checked(store, Timestamp::now()).await {
        assert_eq!(checked.findings, []);
    }
}

/// The same rows of `results` in new files, which are not in the table.
pub async fn same_rows_anew(store: &Store) -> Replacement {
    let tables = Tables::open(store, ZONE).await.unwrap();
    let files = tables.files(Table::Results, None).await.unwrap();
    let removed = files.iter().map(|file| file.path.clone()).collect();
    let batches = tables.scan_files(Table::Results, files, &[], None).unwrap();
    let batches: Vec<_> = batches.try_collect().await.unwrap();
    let rows = batches
        .iter()
        .flat_map(|batch| schemas::result::from_batch(batch).unwrap());
    let sink = Sink::new(store.clone(), ZONE);
    let staged = sink.stage_rows(&partition(0), 0, rows.collect(), Vec::new()).await;
    Replacement {
        removed,
        added: staged.unwrap().results,
        changes_rows: false,
    }
}

/// A table whose files are replaced again and again, while a worker adds some, has every row once.
pub async fn files_are_replaced_under_a_worker(store: Store) {
    const TO: i64 = 16;
    let worker = committer(&store, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    commit(&worker, &chunk(&id, 0, 2)).await;
    let working = tokio::spawn(async move {
        for from in 2..TO {
            commit(&worker, &chunk(&partition(0), from, from + 1)).await;
        }
    });
    let tables = Tables::open(&store, ZONE).await.unwrap();
    let mut replaced = 0;
    while !working.is_finished() || replaced == 0 {
        let replacement = same_rows_anew(&store).await;
        assert_eq!(
            tables.replace(Table::Results, &replacement).await.unwrap(),
            Replaced::Done
        );
        replaced += 1;
    }
    working.await.unwrap();
    assert_exactly_once(&store, &[(id.clone(), TO)]).await;

    let [first, second] = [same_rows_anew(&store).await, same_rows_anew(&store).await];
    for (replacement, expected) in [
        (&first, Replaced::Done),
        (&first, Replaced::Done), // its reply had been lost
        (&second, Replaced::Overtaken),
    ] {
        assert_eq!(tables.replace(Table::Results, replacement).await.unwrap(), expected);
    }
    let next = committer(&store, "next").await;
    assert_eq!(next.recover(&id).await.unwrap().watermark, Some(TO));
    assert_exactly_once(&store, &[(id, TO)]).await;
    assert_whole(&store).await;
}

/// Vacuum deletes what was staged and never sealed and what is out of the table, and nothing else.
pub async fn vacuum_keeps_what_anyone_needs(store: Store) {
    let worker = committer(&store, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    commit(&worker, &chunk(&id, 0, 2)).await;
    let tables = Tables::open(&store, ZONE).await.unwrap();
    let anew = same_rows_anew(&store).await;
    tables.replace(Table::Results, &anew).await.unwrap();
    let sink = Sink::new(store.clone(), ZONE);
    let orphans = sink.stage(&chunk(&id, 2, 4)).await.unwrap();
    let next = chunk(&id, 2, 6);
    let sealed = Intent::new(&next, sink.stage(&next).await.unwrap(), "dying");
    Intents::new(store.clone(), ZONE)
        .seal(&sealed, Duration::ZERO)
        .await
        .unwrap();

    let later = Timestamp::now() + RETENTION;
    for table in Table::ALL {
        let now = Timestamp::now();
        let waste = Waste::find(&store, ZONE, &tables, table, RETENTION, now).await.unwrap();
        assert_eq!(waste.files, [], "{table:?}: all of it is young");
        let waste = Waste::find(&store, ZONE, &tables, table, RETENTION, later)
            .await
            .unwrap();
        let found: BTreeSet<Path> = waste.files.iter().map(|meta| meta.location.clone()).collect();
        let mut expected: BTreeSet<String> = orphans.of(table).iter().map(|file| file.path.clone()).collect();
        if table == Table::Results {
            expected.extend(anew.removed.iter().cloned());
        }
        let expected = expected.iter().map(|path| tables.place(table, path).unwrap()).collect();
        assert_eq!(found, expected, "{table:?}");
        waste.delete(&store).await.unwrap();
    }
    for checked in checked(&store, later).await {
        assert_eq!((checked.findings, checked.sealed, checked.unnamed), (vec![], 2, 0));
    }
    assert_eq!(
        committer(&store, "next").await.recover(&id).await.unwrap().watermark,
        Some(6)
    );
    assert_exactly_once(&store, &[(id, 6)]).await;
}
