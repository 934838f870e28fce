//! Files that earlier versions wrote still read, with every value as it was.
//!
//! The files were written once, by `cargo run --release -p schemas --example write_old_files`, and are
//! never written again: a new version of a table adds files of its own beside them.

mod common;

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::{billing, result};

fn read(name: &str) -> RecordBatch {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old_files").join(name);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

#[test]
fn results_v1_reads() {
    assert_eq!(
        result::from_batch(&read("results.v1.parquet")).unwrap(),
        common::result_rows()
    );
}

#[test]
fn billing_events_v1_reads() {
    assert_eq!(
        billing::from_batch(&read("billing_events.v1.parquet")).unwrap(),
        common::billing_rows()
    );
}
