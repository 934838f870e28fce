//! Every SQL statement of `docs/finance.md` finds in DuckDB what the document shows, in a store that holds the
//! document's worked month.
//!
//! `UPDATE=1 cargo test --release --workspace --test finance_sql` writes what it finds.

#![forbid(unsafe_code)]

#[path = "../../billing/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::stack::{installed, repository, run_folder};
use jiff::SignedDuration;
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use pipeline::close::Periods;
use pipeline::committer::{CommitSettings, Committer};
use pipeline::prices::Prices;
use pipeline::settings::Settings;
use pipeline::store::Store;

const BEGIN: &str = "```sql\n";
const OUTPUT: &str = "```\n\n```text\n";
const END: &str = "```\n";

/// The store of the worked month (`billing/tests/worked_month.rs`), closed.
async fn worked_month(folder: &Path) -> Result<()> {
    let store = Store::open(&format!("file://{}", folder.display()))?;
    let outcomes = common::worked_month().into_iter().map(|result| {
        let billing = common::event(&result);
        Outcome { result, billing }
    });
    let chunk = Chunk {
        partition: PartitionId {
            topic: "bitnet.requests.eu.bulk".to_owned(),
            epoch: 1,
            partition: 0,
        },
        from: 0,
        to: 1_001,
        outcomes: outcomes.collect(),
        dedup_keys: Vec::new(),
        dead_letters: Vec::new(),
    };
    let committer = Committer::open(store.clone(), "eu", "worker-0", CommitSettings::default()).await?;
    let sealed = committer.seal(&chunk).await?;
    committer.apply(&[sealed]).await?;
    let (prices, grace) = (
        Prices::load(&Settings::load(None)?.billing)?,
        SignedDuration::from_hours(72),
    );
    let now = "2026-12-04T00:00:00Z".parse()?;
    Periods::new(store)
        .close("2026-11".parse()?, &prices, &[], grace, now)
        .await?;
    Ok(())
}

/// What each statement finds: names of columns, then rows.
fn run(statements: &[String]) -> Result<Vec<Vec<Vec<String>>>> {
    let mut child = Command::new(installed()?.join("python/bin/python"))
        .arg(repository().join("integration/readers/duckdb_document.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("piped")?;
    input.write_all(&serde_json::to_vec(statements)?)?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "duckdb_document.py failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Columns as wide as their widest text.
fn table(rows: &[Vec<String>]) -> String {
    if rows.len() == 1 {
        return "nothing\n".to_owned();
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .enumerate()
            .map(|(at, cell)| format!("{cell:width$}", width = width(at)));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_finds_what_the_document_shows() -> Result<()> {
    let folder = run_folder("finance-sql")?;
    worked_month(&folder).await?;
    let path = repository().join("docs/finance.md");
    let document = fs::read_to_string(&path)?;
    let parts: Vec<&str> = document.split(BEGIN).collect();
    let statement = |part: &str| {
        let (statement, _) = part
            .split_once(OUTPUT)
            .with_context(|| format!("what is found is not shown: {part}"))?;
        anyhow::Ok(statement.replace("STORE", &folder.display().to_string()))
    };
    let statements: Vec<String> = parts[1..].iter().map(|part| statement(part)).collect::<Result<_>>()?;
    ensure!(
        statements.len() >= 9,
        "docs/finance.md has {} statements",
        statements.len()
    );
    let mut written = parts[0].to_owned();
    for (part, found) in parts[1..].iter().zip(run(&statements)?) {
        let (statement, rest) = part.split_once(OUTPUT).context("checked above")?;
        let (_, rest) = rest.split_once(END).context("an end")?;
        written += &format!("{BEGIN}{statement}{OUTPUT}{}{END}{rest}", table(&found));
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &written)?;
    }
    assert!(
        document == written || std::env::var_os("UPDATE").is_some(),
        "docs/finance.md shows something else than DuckDB finds:\n{written}"
    );
    Ok(())
}
