//! What upkeep of tables must do on every store, while workers go on.

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::array::AsArray;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipeline::chunk::{Chunk, Outcome};
use pipeline::intent::{Intent, Intents};
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::{Replaced, Replacement, TableError, Tables};
use pipeline::upkeep::check::{Checked, check};
use pipeline::upkeep::compact::{Compacted, Compactor};
use pipeline::upkeep::erase::{Erased, Eraser, Subject};
use pipeline::upkeep::vacuum::Waste;
use pipeline::upkeep::{RETENTION, UpkeepError};
use schemas::result::CONTENT_COLUMNS;
use tokio::task::JoinHandle;

use super::{ZONE, assert_exactly_once, assert_rows, chunk, commit, committer, job, partition};

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

/// Where workers of these tests end.
const TO: i64 = 16;

/// A worker that has committed its first chunk and goes on, one offset after the other.
async fn work(store: &Store) -> JoinHandle<()> {
    let worker = committer(store, "worker").await;
    worker.recover(&partition(0)).await.unwrap();
    commit(&worker, &chunk(&partition(0), 0, 2)).await;
    tokio::spawn(async move {
        for from in 2..TO {
            commit(&worker, &chunk(&partition(0), from, from + 1)).await;
        }
    })
}

/// A table whose files are replaced again and again, while a worker adds some, has every row once.
pub async fn files_are_replaced_under_a_worker(store: Store) {
    let id = partition(0);
    let working = work(&store).await;
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

/// The job of partition 0.
pub fn subject() -> Subject {
    Subject {
        tenant: "acme".parse().unwrap(),
        project: None,
        job: Some(job(&partition(0))),
    }
}

/// Erases the job's texts.
pub async fn erase(store: &Store, dry_run: bool, now: Timestamp) -> Result<Erased, UpkeepError> {
    let (tables, subject) = (Tables::open(store, ZONE).await?, subject());
    let eraser = Eraser {
        store,
        zone: ZONE,
        tables: &tables,
        subject: &subject,
        dry_run,
    };
    eraser.results(now).await
}

/// A chunk of partition 2 in which every other row is of the job of partition 0.
pub fn mixed() -> Chunk {
    let mut mixed = chunk(&partition(2), 0, 4);
    for outcome in mixed.outcomes.iter_mut().step_by(2) {
        outcome.result.job_id = job(&partition(0));
        outcome.billing.job_id = job(&partition(0));
    }
    mixed
}

/// Rows of the job with something in a column that says what was asked or answered, in any file of the store.
pub async fn texts(store: &Store) -> usize {
    let directory = store.path(&format!("{ZONE}/results"));
    let listed: Vec<ObjectMeta> = store.objects().list(Some(&directory)).try_collect().await.unwrap();
    let mut texts = 0;
    for place in listed.into_iter().map(|meta| meta.location) {
        if !place.as_ref().contains("/day=") {
            continue;
        }
        let bytes = store.objects().get(&place).await.unwrap().bytes().await.unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap()
        {
            let batch = batch.unwrap();
            let jobs = batch.column_by_name("job_id").unwrap().as_string::<i32>();
            let columns = CONTENT_COLUMNS.map(|name| batch.column_by_name(name).unwrap());
            texts += (0..batch.num_rows())
                .filter(|row| jobs.value(*row) == job(&partition(0)).as_str())
                .filter(|row| columns.iter().any(|column| column.is_valid(*row)))
                .count();
        }
    }
    texts
}

/// Asserts that the tables hold the rows of these chunks, those of the job without texts.
pub async fn assert_erased(store: &Store, chunks: &[Chunk]) {
    let without_texts = |mut outcome: Outcome| {
        let row = &mut outcome.result;
        if row.job_id == job(&partition(0)) {
            row.error_message = None;
            row.output_text = None;
            row.response = None;
            row.embedding = None;
            row.scores = None;
        }
        outcome
    };
    let expected = chunks.iter().flat_map(|chunk| chunk.outcomes.iter().cloned());
    assert_rows(store, expected.map(without_texts)).await;
    assert_eq!(texts(store).await, 0);
}

/// A job's texts go, from files that it shares and from old versions, while a worker answers another job.
pub async fn texts_are_erased_under_a_worker(store: Store) {
    let worker = committer(&store, "worker").await;
    for number in 0..3 {
        worker.recover(&partition(number)).await.unwrap();
    }
    let mut chunks = vec![chunk(&partition(0), 0, 4), mixed()];
    for chunk in &chunks {
        commit(&worker, chunk).await;
    }
    // Another version, whose files an older one named.
    let tables = Tables::open(&store, ZONE).await.unwrap();
    let before = tables.files(Table::Results, None).await.unwrap();
    let anew = same_rows_anew(&store).await;
    tables.replace(Table::Results, &anew).await.unwrap();
    // Sealed and not applied; staged by a loser; staged by someone who may yet seal.
    let last = chunk(&partition(0), 4, 6);
    let sink = Sink::new(store.clone(), ZONE);
    let sealed = Intent::new(&last, sink.stage(&last).await.unwrap(), "dying");
    Intents::new(store.clone(), ZONE)
        .seal(&sealed, Duration::ZERO)
        .await
        .unwrap();
    sink.stage(&chunk(&partition(0), 0, 3)).await.unwrap();
    sink.stage(&chunk(&partition(0), 6, 7)).await.unwrap();
    chunks.push(last);

    let counts = erase(&store, true, Timestamp::now()).await.unwrap();
    assert_eq!(
        (counts.rows, counts.left.len()),
        (12, 3),
        "two files are sealed, one is staged"
    );
    let working = tokio::spawn(async move {
        for from in 0..TO {
            commit(&worker, &chunk(&partition(1), from, from + 1)).await;
        }
    });
    let erased = erase(&store, false, Timestamp::now()).await.unwrap();
    assert_eq!(erased.rows, 8 + 4 + 4, "{erased:?}");
    let left: Vec<_> = erased
        .left
        .iter()
        .map(|left| left.path.contains("00000000000000000006"))
        .collect();
    assert_eq!(left, [true], "{erased:?}");
    working.await.unwrap();
    chunks.push(chunk(&partition(1), 0, TO));

    let later = erase(&store, false, Timestamp::now() + RETENTION).await.unwrap();
    assert_eq!((later.rows, later.deleted, later.left), (0, 1, vec![]));
    assert_erased(&store, &chunks).await;
    assert_eq!(erase(&store, false, Timestamp::now()).await.unwrap(), Erased::default());
    assert_whole(&store).await;

    let stale = tables.scan_files(Table::Results, before, &[], None).unwrap();
    let error = stale.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, TableError::Gone { .. }), "{error:?}");
    let next = committer(&store, "next").await;
    assert_eq!(next.recover(&partition(0)).await.unwrap().watermark, Some(6));
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

/// Compacts a table as on this day.
pub async fn compact(store: &Store, table: Table, today: &str) -> Result<Compacted, UpkeepError> {
    let tables = Tables::open(store, ZONE).await?;
    let compactor = Compactor {
        store,
        zone: ZONE,
        tables: &tables,
        table,
        month: None,
        today: today.parse().unwrap(),
        dry_run: false,
    };
    compactor.run().await
}

/// Small files become one a day while a worker adds more, and every row stays as it is.
pub async fn files_are_compacted_under_a_worker(store: Store) {
    let id = partition(0);
    let working = work(&store).await;
    while !working.is_finished() {
        for table in Table::ALL {
            assert_eq!(compact(&store, table, "2027-01-01").await.unwrap().overtaken, 0);
        }
    }
    working.await.unwrap();
    let tables = Tables::open(&store, ZONE).await.unwrap();
    for table in Table::ALL {
        compact(&store, table, "2027-01-01").await.unwrap();
        let again = compact(&store, table, "2027-01-01").await.unwrap();
        assert_eq!(again, Compacted::default(), "{table:?}: twice is once");
        assert_eq!(tables.files(table, None).await.unwrap().len(), 2, "{table:?}");
        let later = Timestamp::now() + RETENTION;
        let waste = Waste::find(&store, ZONE, &tables, table, RETENTION, later)
            .await
            .unwrap();
        waste.delete(&store).await.unwrap();
    }
    assert_exactly_once(&store, &[(id.clone(), TO)]).await;
    assert_whole(&store).await;
    assert_eq!(
        committer(&store, "next").await.recover(&id).await.unwrap().watermark,
        Some(TO)
    );
}
