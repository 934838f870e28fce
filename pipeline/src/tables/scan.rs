//! Reads rows back, for `bitnet jobs` and the reports. Files that cannot match are not opened.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, Scalar, StringArray, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use delta_kernel::KernelError;
use delta_kernel::expressions::{ColumnName, Expression, Predicate};
use delta_kernel::scan::state::ScanFile;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::{DeltaTable, TableError, Tables};
use crate::sink::Table;
use crate::store::Store;

/// Rows in one batch read.
const BATCH_ROWS: usize = 8_192;
/// Files opened ahead of the one being read.
const FILES_AHEAD: usize = 8;
/// Files up to this size are fetched whole: one request, where footer and columns would take three.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Keeps the rows whose text column, or partition column, has this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equals {
    /// Column name.
    pub column: String,
    /// Its value, e.g. a job id, or `2026-11-24` for `day`.
    pub value: String,
}

/// A file of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableFile {
    /// Value of the partition column.
    pub partition_value: String,
    /// Relative to the table, or absolute, percent-encoded.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Rows, if the log says.
    pub rows: Option<u64>,
}

impl Tables {
    /// The files of the table's newest version that may hold matching rows, in the order of their paths.
    pub async fn files(&self, table: Table, filter: Option<&Equals>) -> Result<Vec<TableFile>, TableError> {
        let table = self.table(table);
        let snapshot = table.snapshot().await?;
        let partition = filter
            .filter(|filter| filter.column == table.table.partition_column())
            .cloned();
        let predicate = filter.filter(|_| partition.is_none()).map(|filter| {
            let column = Expression::Column(ColumnName::new([filter.column.as_str()]));
            Arc::new(Predicate::eq(column, Expression::literal(filter.value.as_str())))
        });
        let column = table.table.partition_column();
        let (mut files, deleted) = table
            .run(move |engine| {
                let scan = snapshot.scan_builder().with_predicate(predicate).build()?;
                let mut found = Vec::new();
                for metadata in scan.scan_metadata(engine)? {
                    found = metadata?.visit_scan_files(found, |found, file| found.push(file))?;
                }
                let deleted = found.iter().any(|file: &ScanFile| file.dv_info.has_vector());
                let files = found.into_iter().map(|mut file| {
                    let partition_value = file.partition_values.remove(column).unwrap_or_default();
                    let size = u64::try_from(file.size).map_err(|e| KernelError::generic(e.to_string()))?;
                    let rows = file.stats.map(|stats| stats.num_records);
                    Ok(TableFile {
                        partition_value,
                        path: file.path,
                        size,
                        rows,
                    })
                });
                Ok((files.collect::<Result<Vec<_>, KernelError>>()?, deleted))
            })
            .await?;
        if deleted {
            let reason = "it has deletion vectors; rewrite it without (REORG TABLE … APPLY (PURGE))".to_owned();
            return Err(TableError::Schema {
                url: table.url.clone(),
                reason,
            });
        }
        files.retain(|file| {
            partition
                .as_ref()
                .is_none_or(|wanted| wanted.value == file.partition_value)
        });
        files.sort_unstable();
        Ok(files)
    }

    /// The rows of the table's newest version, in the order of the files' paths, a batch at a time.
    ///
    /// `columns` are given in that order; none means all of [`Table::arrow_schema`].
    pub async fn scan(
        &self,
        table: Table,
        columns: &[&str],
        filter: Option<&Equals>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let files = self.files(table, filter).await?;
        self.scan_files(table, files, columns, filter)
    }

    /// As [`Tables::scan`], of given files: however often it is called, the rows are the same.
    pub fn scan_files(
        &self,
        table: Table,
        files: Vec<TableFile>,
        columns: &[&str],
        filter: Option<&Equals>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let table = self.table(table).clone();
        let schema = projected(&table, columns)?;
        let filter = filter
            .filter(|filter| filter.column != table.table.partition_column())
            .cloned();
        let opened = stream::iter(files).map(move |file| {
            let (table, schema, filter) = (table.clone(), schema.clone(), filter.clone());
            async move { table.read(file, schema, filter).await }
        });
        Ok(opened.buffered(FILES_AHEAD).try_flatten().boxed())
    }
}

impl Tables {
    /// Where a file that the table's log names lies in the store.
    pub fn place(&self, table: Table, file: &str) -> Result<Path, TableError> {
        self.table(table).place(file)
    }
}

/// Opens a data file, in a table or not, as its footer describes it.
pub(crate) async fn open_file(
    store: &Store,
    path: &Path,
    size: u64,
    options: ArrowReaderOptions,
) -> Result<DataFileReader, TableError> {
    let failed = |source| TableError::file(path, source);
    let reader = ObjectReader::open(store.objects().clone(), path.clone(), size).await;
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader.map_err(failed)?, options).await;
    builder.map_err(failed)
}

/// A data file of which the footer is read.
pub(crate) type DataFileReader = ParquetRecordBatchStreamBuilder<ObjectReader>;

fn projected(table: &DeltaTable, columns: &[&str]) -> Result<SchemaRef, TableError> {
    let all = table.table.arrow_schema();
    if columns.is_empty() {
        return Ok(all);
    }
    let fields: Result<Vec<_>, ArrowError> = columns
        .iter()
        .map(|name| Ok(all.field_with_name(name)?.clone()))
        .collect();
    let fields = fields.map_err(|e| TableError::Schema {
        url: table.url.clone(),
        reason: e.to_string(),
    })?;
    Ok(Arc::new(Schema::new(fields)))
}

impl DeltaTable {
    pub(super) fn place(&self, file: &str) -> Result<Path, TableError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| TableError::File {
            path: file.to_owned(),
            source: ParquetError::External(source),
        };
        let url = self.url.join(file).map_err(|error| failed(error.into()))?;
        Path::from_url_path(url.path()).map_err(|error| failed(error.into()))
    }

    async fn read(
        &self,
        file: TableFile,
        schema: SchemaRef,
        filter: Option<Equals>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let path = self.place(&file.path)?;
        let builder = open_file(&self.store, &path, file.size, ArrowReaderOptions::new()).await?;
        let failed = move |source| TableError::file(&path, source);
        let wanted = schema.fields().iter().map(|field| field.name().as_str());
        let wanted: Vec<&str> = wanted
            .chain(filter.as_ref().map(|filter| filter.column.as_str()))
            .collect();
        let projection = ProjectionMask::columns(builder.parquet_schema(), wanted);
        let batches = builder
            .with_projection(projection)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(&failed)?;
        let partition = (self.table.partition_column(), file.partition_value);
        let assembled = batches.map(move |batch| {
            let rows = batch.and_then(|batch| Ok(assemble(&batch, &schema, &partition, filter.as_ref())?));
            rows.map_err(&failed)
        });
        Ok(assembled.boxed())
    }
}

/// Brings a file's batch into the wanted columns: the partition column is filled in, columns that the
/// file was written without are null.
fn assemble(
    batch: &RecordBatch,
    schema: &SchemaRef,
    (partition_column, partition_value): &(&str, String),
    filter: Option<&Equals>,
) -> Result<RecordBatch, ArrowError> {
    let mut batch = batch.clone();
    if let Some(Equals { column, value }) = filter {
        let column = batch.column(batch.schema().index_of(column)?);
        let keep = cmp::eq(column, &Scalar::new(StringArray::from(vec![value.as_str()])))?;
        batch = filter_record_batch(&batch, &keep)?;
    }
    let column_of = |field: &FieldRef| -> Result<ArrayRef, ArrowError> {
        if field.name() == partition_column {
            let value = cast(&StringArray::from(vec![partition_value.as_str()]), field.data_type())?;
            let rows = UInt32Array::from(vec![0; batch.num_rows()]);
            return take(&value, &rows, None);
        }
        match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    };
    let columns: Result<Vec<_>, _> = schema.fields().iter().map(column_of).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns?, &options)
}

/// A file of the store, as the Parquet reader wants it.
pub(crate) struct ObjectReader {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// All of it, if it is small.
    whole: Option<Bytes>,
}

impl ObjectReader {
    async fn open(objects: Arc<dyn ObjectStore>, path: Path, size: u64) -> Result<ObjectReader, ParquetError> {
        let mut reader = ObjectReader {
            objects,
            path,
            size,
            whole: None,
        };
        if size <= WHOLE_BYTES_MAX {
            reader.whole = Some(reader.get_bytes(0..size).await?);
        }
        Ok(reader)
    }

    async fn ranges(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let Some(whole) = &self.whole else {
            return match self.objects.get_ranges(&self.path, &ranges).await {
                Ok(parts) => Ok(parts),
                Err(error) => Err(self.failed(error).await),
            };
        };
        let part = |Range { start, end }: Range<u64>| {
            let inside = start <= end && end <= whole.len() as u64;
            inside.then(|| whole.slice(start as usize..end as usize))
        };
        let parts: Option<Vec<Bytes>> = ranges.into_iter().map(part).collect();
        parts.ok_or_else(|| ParquetError::EOF(format!("{} is shorter than its log entry or footer says", self.path)))
    }

    /// Of a range that lies behind the end stores say no more than that it is none; then the file is at fault.
    async fn failed(&self, error: object_store::Error) -> ParquetError {
        match self.objects.head(&self.path).await {
            Ok(meta) if meta.size != self.size => {
                ParquetError::EOF(format!("it has {} bytes, and must have {}", meta.size, self.size))
            }
            _ => external(error),
        }
    }
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.ranges(vec![range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.ranges(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let (reader, size) = (
            ParquetMetaDataReader::new().with_arrow_reader_options(options),
            self.size,
        );
        async move { Ok(Arc::new(reader.load_and_finish(self, size).await?)) }.boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(error.into())
}
