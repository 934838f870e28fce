//! Three files of ten rows, one of them not as it was.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use parquet::arrow::ArrowWriter;

use super::*;
use crate::store::Store;

/// Rows with these numbers, each with ten times its number as its quantity.
fn rows(numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let ids = StringArray::from_iter_values(numbers.iter().map(|number| format!("{number:04}")));
    let tenants = StringArray::from(vec!["acme"; numbers.len()]);
    let quantities = Int64Array::from_iter_values(numbers.iter().map(|number| 10 * number));
    let columns: [(&str, ArrayRef); 3] = [
        ("event_id", Arc::new(ids)),
        ("tenant_id", Arc::new(tenants)),
        ("quantity", Arc::new(quantities)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn parquet(rows: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap()
}

/// What is found when these files are stored and the ledger makes the rows 0 to 29, so many at a time.
async fn found(files: [Option<Vec<u8>>; 3], at_a_time: usize) -> Vec<String> {
    let objects = Objects::new(Store::open("memory://").unwrap());
    let names = ["a", "b", "c"].map(|name| (name.to_owned(), name.to_owned()));
    for ((name, _), bytes) in names.iter().zip(files) {
        if let Some(bytes) = bytes {
            objects.create(name, bytes).await.unwrap();
        }
    }
    let mut check = RowCheck::new(objects, names.to_vec(), None);
    let walked = tokio::task::spawn_blocking(move || {
        let made = rows(0..30);
        for at in (0..30).step_by(at_a_time) {
            check.take(made.slice(at, at_a_time.min(30 - at))).unwrap();
        }
        check.end().unwrap();
        check.found
    });
    let found = walked.await.unwrap();
    found
        .shown
        .into_iter()
        .map(|(file, problem)| format!("{file} {problem}"))
        .collect()
}

/// The files as they were, but for the second.
async fn check(second: Option<Vec<u8>>, expected: &[&str]) {
    for at_a_time in [1, 7, 10, 30] {
        let files = [
            Some(parquet(&rows(0..10))),
            second.clone(),
            Some(parquet(&rows(20..30))),
        ];
        let found = found(files, at_a_time).await;
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{expected}: {found}");
        }
    }
}

#[tokio::test]
async fn rows_as_they_were_are_not_told() {
    check(Some(parquet(&rows(10..20))), &[]).await;
}

#[tokio::test]
async fn missing_and_added_rows_are_told_where_they_should_be_and_are() {
    check(Some(parquet(&rows(11..20))), &["b lacks event 0010 of acme"]).await;
    check(Some(parquet(&rows(10..19))), &["c lacks event 0019 of acme"]).await;
    let added = concat_batches(&rows(0..0).schema(), &[rows(10..20), rows([19])]).unwrap();
    check(Some(parquet(&added)), &["b row 11: event 0019 of acme is charged here"]).await;
    check(
        Some(parquet(&rows((10..15).chain(16..20)))),
        &["b lacks event 0015 of acme"],
    )
    .await;
}

#[tokio::test]
async fn a_changed_row_is_told_with_both_values() {
    let changed = rows((10..20).map(|number| if number == 14 { 140 } else { number }));
    let ids = rows(10..20).column(0).clone();
    let changed = RecordBatch::try_new(
        changed.schema(),
        vec![ids, changed.column(1).clone(), changed.column(2).clone()],
    );
    let told = "b row 5: event 0014 of acme: quantity is 1400, but the ledger makes it 140";
    check(Some(parquet(&changed.unwrap())), &[told]).await;
}

#[tokio::test]
async fn behind_what_cannot_be_read_or_is_lost_rows_are_told_again() {
    check(Some(b"no Parquet at all".to_vec()), &["b cannot be read from row 1 on"]).await;
    check(None, &[]).await;
    let files = [None, None, Some(parquet(&rows(20..29)))];
    let told = found(files, 7).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with("c lacks event 0029"), "{told:#?}");
}
