//! What someone who can write to the bucket may do to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema};
use billing::close::manifest::{ClosedFile, Manifest};
use billing::event::payload_hash;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::billing::{BillingRow, PARTITION_COLUMN, from_batch, to_batch};
use serde_json::Value;

use super::store::{Books, ZONE};

/// Changes the ledger's rows of one month, where they lie: the file that `edit` wants gets what it leaves.
pub(crate) fn edit_ledger(books: &Books, month: &str, edit: impl Fn(&mut Vec<BillingRow>) -> bool) -> Result<()> {
    for file in ledger_files(books, month)? {
        let mut rows = ledger_rows(&file, month)?;
        if edit(&mut rows) {
            let batch = to_batch(&rows)?;
            let columns: Vec<usize> = (0..batch.num_columns() - 1).collect();
            write_parquet(&file, &batch.project(&columns)?)?;
            return relist(books, &file, rows.len());
        }
    }
    anyhow::bail!("no file of {month} has such a row")
}

/// Changes the row of the ledger that `custom_id` and the row's kind name; with a true hash if `rehash`.
pub(crate) fn edit_event(
    books: &Books,
    month: &str,
    is_it: impl Fn(&BillingRow) -> bool,
    rehash: bool,
    edit: impl Fn(&mut BillingRow),
) -> Result<()> {
    edit_ledger(books, month, |rows| {
        let Some(row) = rows.iter_mut().find(|row| is_it(row)) else {
            return false;
        };
        edit(row);
        if rehash {
            row.payload_hash = payload_hash(row);
        }
        true
    })
}

/// Every row of the ledger's month.
pub(crate) fn ledger(books: &Books, month: &str) -> Result<Vec<BillingRow>> {
    let mut rows = Vec::new();
    for file in ledger_files(books, month)? {
        rows.extend(ledger_rows(&file, month)?);
    }
    Ok(rows)
}

pub(crate) fn ledger_files(books: &Books, month: &str) -> Result<Vec<PathBuf>> {
    let folder = books.path(&format!("{ZONE}/billing_events/{PARTITION_COLUMN}={month}"));
    let mut files: Vec<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

fn ledger_rows(file: &Path, month: &str) -> Result<Vec<BillingRow>> {
    let batch = read_parquet(file)?;
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(PARTITION_COLUMN, DataType::Utf8, false)));
    let months: ArrayRef = Arc::new(StringArray::from(vec![month; batch.num_rows()]));
    let columns = [batch.columns(), &[months]].concat();
    Ok(from_batch(&RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns,
    )?)?)
}

/// Makes the table's log say the file's new length and number of rows.
fn relist(books: &Books, file: &Path, rows: usize) -> Result<()> {
    let name = file.file_name().and_then(|name| name.to_str()).context("a name")?;
    for commit in fs::read_dir(books.path(&format!("{ZONE}/billing_events/_delta_log")))? {
        let commit = commit?.path();
        let text = fs::read_to_string(&commit)?;
        let lines = text.lines().map(|line| {
            let mut action: Value = serde_json::from_str(line)?;
            if action["add"]["path"].as_str().is_some_and(|path| path.ends_with(name)) {
                action["add"]["size"] = fs::metadata(file)?.len().into();
                let mut stats: Value = serde_json::from_str(action["add"]["stats"].as_str().context("statistics")?)?;
                stats["numRecords"] = rows.into();
                action["add"]["stats"] = stats.to_string().into();
            }
            Ok(action.to_string())
        });
        let lines: Vec<_> = lines.collect::<Result<_>>()?;
        fs::write(&commit, lines.join("\n") + "\n")?;
    }
    Ok(())
}

/// How many answers have this text in them.
pub(crate) fn mentions(books: &Books, text: &str) -> Result<usize> {
    let mut count = 0;
    for file in result_files(books)? {
        let rows = read_parquet(&file)?;
        let answers = rows
            .column_by_name("output_text")
            .context("answers")?
            .as_string::<i32>();
        count += answers.iter().flatten().filter(|answer| answer.contains(text)).count();
    }
    Ok(count)
}

fn result_files(books: &Books) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in fs::read_dir(books.path(&format!("{ZONE}/results")))? {
        let day = day?.path();
        if day
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("day="))
        {
            files.extend(
                fs::read_dir(day)?
                    .map(|file| Ok(file?.path()))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
    }
    Ok(files)
}

/// Adds 10⁻¹² to an amount of a row of rated rows; which row it is, from 1, its event and its tenant.
pub(crate) fn add_to_rated(file: &Path, column: &str, tenant: &str) -> Result<(usize, String)> {
    let batch = read_parquet(file)?;
    let text = |name: &str| {
        batch
            .column_by_name(name)
            .context("a column")
            .map(|column| column.as_string::<i32>().clone())
    };
    let (tenants, ids) = (text("tenant_id")?, text("event_id")?);
    let at = batch.schema().index_of(column)?;
    let amounts = batch.column(at).as_primitive::<Decimal128Type>();
    let row = (0..batch.num_rows()).find(|row| tenants.value(*row) == tenant && amounts.value(*row) > 0);
    let row = row.with_context(|| format!("{tenant} pays nothing for {column}"))?;
    let mut parts = amounts.values().to_vec();
    parts[row] += 1_000_000;
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(Decimal128Array::from(parts).with_data_type(amounts.data_type().clone()));
    write_parquet(file, &RecordBatch::try_new(batch.schema(), columns)?)?;
    Ok((row + 1, ids.value(row).to_owned()))
}

/// Makes the closed month's manifest say the hash that the file has now.
pub(crate) fn rehash(books: &Books, file: &str) -> Result<()> {
    let path = books.closed("manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path)?)?;
    manifest
        .files
        .insert(file.to_owned(), ClosedFile::of(&fs::read(books.closed(file))?));
    fs::write(path, serde_json::to_string_pretty(&manifest)? + "\n")?;
    Ok(())
}

/// The hash that the closed month's manifest has of a file.
pub(crate) fn closed_as(books: &Books, file: &str) -> Result<String> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(books.closed("manifest.json"))?)?;
    Ok(manifest
        .files
        .get(file)
        .context("it is in the manifest")?
        .sha256
        .clone())
}

/// Puts one text in place of another, which must be there once.
pub(crate) fn replace(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(
        text.matches(from).count() == 1,
        "{from} is {} times in {text}",
        text.matches(from).count()
    );
    fs::write(file, text.replace(from, to))?;
    Ok(())
}

pub(crate) fn read_parquet(file: &Path) -> Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build()?.collect::<Result<_, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

pub(crate) fn write_parquet(file: &Path, batch: &RecordBatch) -> Result<()> {
    let mut writer = ArrowWriter::try_new(File::create(file)?, batch.schema(), None)?;
    writer.write(batch)?;
    writer.close()?;
    Ok(())
}
