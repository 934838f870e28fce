//! Compacting: what it leaves alone, and under deaths.

use arrow::array::RecordBatch;
use pipeline::sink::Table;
use pipeline::store::Store;
use pipeline::tables::Tables;

use super::world::{World, die_at_every_write, name, read};
use crate::behaviour::{ZONE, assert_rows, chunk, commit, committer, compact, mixed, partition};

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

    world.close().await;
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
