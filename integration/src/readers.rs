//! The tables as programs that are not ours read them: `integration/readers/*.py`.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bitnet::Deployment;
use crate::stack::{Bucket, installed, repository};
use crate::wait;

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// DuckDB, with its own reader of Delta tables.
    DuckDb,
    /// The Python package `deltalake`.
    DeltaLake,
}

/// What a reader found in the two tables of one zone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Rows of `results` by status.
    pub results: BTreeMap<String, u64>,
    /// Rows of `billing_events` by outcome.
    pub billing: BTreeMap<String, u64>,
    /// Rows of `results` whose place (topic, partition, offset, index in the batch) another row has too.
    pub repeated_places: u64,
    /// Rows of `results` whose `result_id` another row has too.
    pub repeated_results: u64,
    /// Rows of `billing_events` whose `event_id` another row has too.
    pub repeated_events: u64,
    /// Rows of either table that join none or several of the other by `result_id`.
    pub unmatched: u64,
    /// Prompt tokens by `results`.
    pub input_tokens: i64,
    /// Prompt tokens by `billing_events`, both classes.
    pub billed_input_tokens: i64,
    /// Tokens written by `results`.
    pub output_tokens: i64,
    /// Tokens written by `billing_events`.
    pub billed_output_tokens: i64,
    /// Workers that have rows.
    pub workers: Vec<String>,
    /// `<job_id>/<custom_id>` and `output_text` of every `ok` row.
    pub answers: BTreeMap<String, String>,
}

impl Summary {
    /// Rows of `results`.
    pub fn rows(&self) -> u64 {
        self.results.values().sum()
    }

    /// The answers without the space that a completion starts with.
    pub fn trimmed_answers(&self) -> BTreeMap<String, String> {
        self.answers
            .iter()
            .map(|(name, text)| (name.clone(), text.trim().to_owned()))
            .collect()
    }

    /// Requires one result row and one billing row per request, the same tokens in both tables, and these
    /// numbers of rows by status.
    ///
    /// # Panics
    /// If that is not so.
    #[track_caller]
    pub fn assert_exactly_once(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<String, u64> = expected.iter().map(|&(status, n)| (status.to_owned(), n)).collect();
        assert_eq!(self.results, expected, "result rows by status");
        assert_eq!(self.billing, expected, "billing rows by outcome");
        let repeated = (
            self.repeated_places,
            self.repeated_results,
            self.repeated_events,
            self.unmatched,
        );
        assert_eq!(
            repeated,
            (0, 0, 0, 0),
            "repeated places, results, events; unmatched rows"
        );
        assert_eq!(self.input_tokens, self.billed_input_tokens, "prompt tokens");
        assert_eq!(self.output_tokens, self.billed_output_tokens, "written tokens");
    }
}

/// Reads both tables.
pub fn read(reader: Reader, bucket: &Bucket) -> Result<Summary> {
    let script = match reader {
        Reader::DuckDb => "duckdb_summary.py",
        Reader::DeltaLake => "deltalake_summary.py",
    };
    let output = Command::new(installed()?.join("python/bin/python"))
        .arg(repository().join("integration/readers").join(script))
        .arg(format!("{}/{}", bucket.uri, Deployment::ZONE))
        .envs(bucket.env.iter().map(|(key, value)| (key, value)))
        .output()?;
    if !output.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{script} printed something else"))
}

/// Reads both tables with both readers, which must find the same.
///
/// # Panics
/// If they differ.
pub fn read_with_both(bucket: &Bucket) -> Result<Summary> {
    let (duckdb, deltalake) = (read(Reader::DuckDb, bucket)?, read(Reader::DeltaLake, bucket)?);
    assert_eq!(duckdb, deltalake, "DuckDB and deltalake read different things");
    Ok(duckdb)
}

/// Waits until both tables have `rows` rows or more.
pub fn wait_for_rows(bucket: &Bucket, rows: u64, limit: Duration) -> Result<()> {
    let mut last = None;
    wait::until(&format!("{rows} rows in both tables"), limit, || {
        // Until the first commit there is no table.
        last = read(Reader::DeltaLake, bucket).ok();
        let enough = |found: &Summary| found.rows() >= rows && found.billing.values().sum::<u64>() >= rows;
        Ok(last.as_ref().is_some_and(enough).then_some(()))
    })
    .with_context(|| format!("last seen: {last:?}"))
}
