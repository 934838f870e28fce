//! One data file, written batch after batch, and what the table's log says of it.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::{EncodeError, Encoded, StagedFile, Table};

const ZSTD_LEVEL: i32 = 3;
const ROW_GROUP_ROWS_MAX: usize = 65_536;

/// A file of a table that is being written. Memory holds its compressed bytes and one row group.
pub(crate) struct DataFile {
    table: Table,
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
    columns: BTreeMap<&'static str, ColumnStats>,
}

/// Both ends are null while all values are.
#[derive(Default)]
struct ColumnStats {
    least: Value,
    most: Value,
    nulls: usize,
}

impl DataFile {
    /// A file of about `rows`; `schema` has every column of the table but the partition's.
    pub(crate) fn new(table: Table, schema: SchemaRef, rows: u64) -> Result<DataFile, ParquetError> {
        let job_id = ColumnPath::from("job_id");
        let properties = WriterProperties::builder()
            .set_created_by("bitnet".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_column_bloom_filter_enabled(job_id.clone(), true)
            .set_column_bloom_filter_max_ndv(job_id, rows.min(ROW_GROUP_ROWS_MAX as u64))
            .build();
        Ok(DataFile {
            table,
            writer: ArrowWriter::try_new(Vec::new(), schema, Some(properties))?,
            rows: 0,
            columns: BTreeMap::new(),
        })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        self.writer.write(batch)?;
        self.rows += batch.num_rows() as u64;
        for &name in self.table.stats_columns() {
            let column = batch.column(batch.schema().index_of(name)?);
            self.columns.entry(name).or_default().add(name, column)?;
        }
        Ok(())
    }

    /// The whole file, under a name that begins with `stem` and that nobody else picks.
    pub(crate) fn finish(self, partition_value: String, stem: &str) -> Result<Encoded, EncodeError> {
        let bytes = self.writer.into_inner()?;
        let (column, id) = (self.table.partition_column(), Ulid::generate());
        let file = StagedFile {
            path: format!("{column}={partition_value}/{stem}-{id}.parquet"),
            partition_value,
            rows: self.rows,
            size: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(&bytes)),
            modified_ms: jiff::Timestamp::now().as_millisecond(),
            stats: stats(self.rows, self.columns),
        };
        Ok(Encoded {
            table: self.table,
            file,
            bytes: bytes.into(),
        })
    }
}

impl ColumnStats {
    fn add(&mut self, name: &str, column: &dyn Array) -> Result<(), ArrowError> {
        let (low, high) = match column.data_type() {
            DataType::Utf8 => (
                json!(min_string(column.as_string::<i32>())),
                json!(max_string(column.as_string::<i32>())),
            ),
            DataType::Int32 => (
                json!(min(column.as_primitive::<Int32Type>())),
                json!(max(column.as_primitive::<Int32Type>())),
            ),
            DataType::Int64 => (
                json!(min(column.as_primitive::<Int64Type>())),
                json!(max(column.as_primitive::<Int64Type>())),
            ),
            other => {
                return Err(ArrowError::NotYetImplemented(format!(
                    "statistics of {name}, which is {other}"
                )));
            }
        };
        self.nulls += column.null_count();
        if low.is_null() {
            return Ok(());
        }
        if self.least.is_null() || precedes(&low, &self.least) {
            self.least = low;
        }
        if self.most.is_null() || precedes(&self.most, &high) {
            self.most = high;
        }
        Ok(())
    }
}

/// Of two texts or two whole numbers.
fn precedes(a: &Value, b: &Value) -> bool {
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_i64() < b.as_i64(),
    }
}

/// `numRecords`, and `minValues`, `maxValues` and `nullCount` of each column, as the Delta protocol
/// ("Per-file Statistics") writes them.
fn stats(rows: u64, columns: BTreeMap<&'static str, ColumnStats>) -> Value {
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (name, column) in columns {
        if !column.least.is_null() {
            least.insert(name.to_owned(), column.least);
            most.insert(name.to_owned(), column.most);
        }
        nulls.insert(name.to_owned(), json!(column.nulls));
    }
    json!({ "numRecords": rows, "minValues": least, "maxValues": most, "nullCount": nulls, "tightBounds": true })
}
