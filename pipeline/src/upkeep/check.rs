//! Whether the files of a table are what its log says they are, as far as their footers tell.

use std::fmt;

use arrow::array::AsArray;
use arrow::compute::{max, min};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use super::files::{Inventory, NamedBy};
use super::vacuum::Waste;
use super::{REQUESTS_MAX, RETENTION, UpkeepError, reading};
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{DataFileReader, TableError, TableFile, Tables, open_file};

const LOST: &str = "restore it from a backup; until then its rows cannot be read";
const OTHER: &str = "restore it from a backup; a worker never writes a file twice";

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the store.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.path, self.problem, self.remedy)
    }
}

/// A table as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files of the newest version.
    pub files: u64,
    /// Their rows, as the log has them.
    pub rows: u64,
    /// Their bytes, as the log has them.
    pub bytes: u64,
    /// Files that sealed intents name and the table does not have yet; a worker adds them.
    pub sealed: u64,
    /// Files that only locks of months name.
    pub locked: u64,
    /// Files that nothing names.
    pub unnamed: u64,
    /// Their bytes.
    pub unnamed_bytes: u64,
    /// Everything that is wrong, in the order of paths.
    pub findings: Vec<Finding>,
}

/// Looks at every file that the table, an intent or a lock names, and at those that nothing names.
///
/// Needs a multi-threaded Tokio runtime.
///
/// # Errors
/// When the log, an intent or a lock cannot be read, or the store fails. What is wrong with files is no error.
pub async fn check(
    store: &Store,
    zone: &str,
    tables: &Tables,
    table: Table,
    now: Timestamp,
) -> Result<Checked, UpkeepError> {
    let Inventory { named, unnamed } = Inventory::take(store, zone, tables, table).await?;
    let mut checked = Checked {
        unnamed: unnamed.len() as u64,
        unnamed_bytes: unnamed.iter().map(|meta| meta.size).sum(),
        ..Checked::default()
    };
    for (file, by) in named.values() {
        match by {
            NamedBy::Log => {
                checked.files += 1;
                checked.rows += file.rows.unwrap_or_default();
                checked.bytes += file.size;
            }
            NamedBy::Intent => checked.sealed += 1,
            NamedBy::Lock => checked.locked += 1,
        }
    }
    let schema = table.arrow_schema();
    let looks = stream::iter(&named).map(|(place, (file, by))| look(store, table, &schema, place, file, *by));
    let found: Vec<Option<(NamedBy, Finding)>> = looks.buffer_unordered(REQUESTS_MAX).try_collect().await?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    if found.iter().any(|(by, _)| *by == NamedBy::Log) {
        // Whoever rewrote a file since then may have deleted it as well.
        let newest = tables.files(table, None).await?;
        let newest: Result<Vec<String>, TableError> = newest
            .iter()
            .map(|file| Ok(store.relative(&tables.place(table, &file.path)?)))
            .collect();
        let newest = newest?;
        found.retain(|(by, finding)| *by != NamedBy::Log || newest.contains(&finding.path));
    }
    checked.findings = found.into_iter().map(|(_, finding)| finding).collect();
    let waste = Waste::of(unnamed, tables, table, RETENTION, now).await?;
    checked.findings.extend(waste.files.iter().map(|meta| Finding {
        path: store.relative(&meta.location),
        problem: "is named by nothing, and by no version of the last 7 days".to_owned(),
        remedy: "`bitnet table vacuum` deletes it",
    }));
    checked.findings.sort_unstable();
    Ok(checked)
}

/// What is wrong with one file, if anything.
async fn look(
    store: &Store,
    table: Table,
    schema: &SchemaRef,
    place: &Path,
    file: &TableFile,
    by: NamedBy,
) -> Result<Option<(NamedBy, Finding)>, UpkeepError> {
    let finding = |(problem, remedy): (String, &'static str)| {
        let path = store.relative(place);
        Ok(Some((by, Finding { path, problem, remedy })))
    };
    let size = match store.objects().head(place).await {
        Ok(meta) => meta.size,
        Err(object_store::Error::NotFound { .. }) => return finding(("is gone".to_owned(), LOST)),
        Err(source) => return Err(UpkeepError::store(place, source)),
    };
    if size != file.size {
        return finding((format!("has {size} bytes, and must have {}", file.size), OTHER));
    }
    match open_file(store, place, file.size, reading()).await {
        Ok(reader) => footer(table, schema, file, &reader).map_or(Ok(None), finding),
        Err(error) if error.is_outage() => Err(error.into()),
        Err(TableError::Gone { .. }) => finding(("is gone".to_owned(), LOST)),
        Err(TableError::File { source, .. }) => finding((format!("is damaged: {source}"), OTHER)),
        Err(error) => Err(error.into()),
    }
}

/// What a footer says that it must not.
fn footer(
    table: Table,
    schema: &SchemaRef,
    file: &TableFile,
    reader: &DataFileReader,
) -> Option<(String, &'static str)> {
    let rows = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or_default();
    if let Some(said) = file.rows.filter(|said| *said != rows) {
        return Some((format!("has {rows} rows, and must have {said}"), OTHER));
    }
    let columns = schema.fields().iter();
    for column in columns.filter(|column| column.name() != table.partition_column()) {
        let (name, wanted) = (column.name(), column.data_type());
        let problem = match reader.schema().field_with_name(name) {
            Err(_) if column.is_nullable() => continue,
            Err(_) => format!("has no column {name}"),
            Ok(found) if found.data_type() == wanted => continue,
            Ok(found) => format!(
                "has a column {name} of {}, and must have one of {wanted}",
                found.data_type()
            ),
        };
        return Some((problem, "rewrite it with the columns of schemas/contracts/README.md"));
    }
    let (first, last) = times(table, reader)?;
    let values = [first, last].map(|time| partition_value(table, time));
    if values.iter().any(|value| *value != file.partition_value) {
        let (column, said) = (table.partition_column(), &file.partition_value);
        let problem = format!(
            "has rows of {} to {}, but stands under {column}={said}",
            values[0], values[1]
        );
        return Some((problem, "move its rows to where they belong: readers skip them there"));
    }
    None
}

/// The first and the last of the times by which rows are partitioned, if the footer has them.
fn times(table: Table, reader: &DataFileReader) -> Option<(Timestamp, Timestamp)> {
    let column = match table {
        Table::Results => "finished_at",
        Table::BillingEvents => "event_time",
    };
    let converter = StatisticsConverter::try_new(column, reader.schema(), reader.parquet_schema()).ok()?;
    let groups = reader.metadata().row_groups();
    let (least, most) = (converter.row_group_mins(groups), converter.row_group_maxes(groups));
    let (least, most) = (least.ok()?, most.ok()?);
    let time = |us: Option<i64>| Timestamp::from_microsecond(us?).ok();
    let first = time(min(least.as_primitive_opt::<TimestampMicrosecondType>()?))?;
    Some((first, time(max(most.as_primitive_opt::<TimestampMicrosecondType>()?))?))
}

fn partition_value(table: Table, time: Timestamp) -> String {
    let date = TimeZone::UTC.to_datetime(time).date();
    match table {
        Table::Results => date.to_string(),
        Table::BillingEvents => date.strftime("%Y-%m").to_string(),
    }
}
