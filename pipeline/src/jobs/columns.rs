//! Parquet in: two columns of each file, row by row, and the small Parquet parts that travel on.
//!
//! A worker must check a whole file's digest before it trusts a row of it. So a large file is cut into
//! parts of one row group that hold the two columns and nothing else: a message points at one part, and
//! neither side ever holds more than that.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use schemas::ids::CustomId;
use schemas::request::ClaimCheckColumns;

/// Rows decoded at once.
const BATCH_ROWS: usize = 1024;

/// One row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// From the `custom_id` column.
    pub custom_id: CustomId,
    /// Text of the text column.
    pub text: String,
}

/// Reads the two columns of one file, row by row.
pub struct Rows {
    reader: ParquetRecordBatchReader,
    columns: ClaimCheckColumns,
    batch: Option<(StringArray, StringArray)>,
    at: usize,
    row: u64,
}

impl Rows {
    /// Opens a file and looks for its columns.
    ///
    /// # Errors
    /// A text that says what is wrong with the file and what to do.
    pub fn open(path: &Path, columns: &ClaimCheckColumns) -> Result<Rows, String> {
        let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
        let names = [columns.custom_id.as_str(), columns.text.as_str()];
        for (role, name) in ["custom_id", "text"].into_iter().zip(names) {
            let field = builder.schema().field_with_name(name).map_err(|_| {
                let known: Vec<_> = builder
                    .schema()
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                format!(
                    "has no column {name:?}; name one with --column {role}=…, it has {}",
                    known.join(", ")
                )
            })?;
            if !(is_text(field.data_type()) || role == "custom_id" && field.data_type().is_integer()) {
                return Err(format!(
                    "column {name:?} holds {}, but {role} must be text",
                    field.data_type()
                ));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(unreadable)?;
        Ok(Rows {
            reader,
            columns: columns.clone(),
            batch: None,
            at: 0,
            row: 0,
        })
    }

    /// The next row and its number from 1; none at the end of the file.
    ///
    /// # Errors
    /// A text that says what is wrong with the file or this row, and what to do.
    pub fn next_row(&mut self) -> Result<Option<(u64, Row)>, String> {
        loop {
            if let Some((ids, texts)) = self.batch.as_ref().filter(|(ids, _)| self.at < ids.len()) {
                self.row += 1;
                for (name, column) in [(&self.columns.custom_id, ids), (&self.columns.text, texts)] {
                    if column.is_null(self.at) {
                        return Err(format!(
                            "row {}: column {name:?} is null; fill it or drop the row",
                            self.row
                        ));
                    }
                }
                let custom_id = ids.value(self.at).to_owned();
                let custom_id = CustomId::try_from(custom_id).map_err(|error| format!("row {}: {error}", self.row))?;
                let row = Row {
                    custom_id,
                    text: texts.value(self.at).to_owned(),
                };
                self.at += 1;
                return Ok(Some((self.row, row)));
            }
            let Some(batch) = self.reader.next() else {
                return Ok(None);
            };
            let batch = batch.map_err(|error| format!("cannot be read behind row {}: {error}", self.row))?;
            self.batch = Some((
                text(&batch, &self.columns.custom_id)?,
                text(&batch, &self.columns.text)?,
            ));
            self.at = 0;
        }
    }
}

/// Rows as a Parquet file of one row group; the same rows give the same bytes.
///
/// # Errors
/// When Arrow or Parquet refuse the rows.
pub fn part(rows: &[Row], columns: &ClaimCheckColumns) -> Result<Vec<u8>, ParquetError> {
    let fields = [&columns.custom_id, &columns.text].map(|name| Field::new(name, DataType::Utf8, false));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let ids = StringArray::from_iter_values(rows.iter().map(|row| row.custom_id.as_str()));
    let texts = StringArray::from_iter_values(rows.iter().map(|row| &row.text));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(texts)])?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(Some(rows.len().max(1)))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    writer.write(&batch)?;
    writer.into_inner()
}

fn unreadable(error: ParquetError) -> String {
    format!("is not a readable Parquet file: {error}")
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn text(batch: &RecordBatch, name: &str) -> Result<StringArray, String> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| format!("has no column {name:?}"))?;
    let column = cast(column, &DataType::Utf8).map_err(|error| format!("column {name:?}: {error}"))?;
    Ok(column.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn columns() -> ClaimCheckColumns {
        ClaimCheckColumns {
            custom_id: "id".into(),
            text: "prompt".into(),
        }
    }

    fn write(columns: Vec<(&str, ArrayRef)>) -> tempfile::NamedTempFile {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = ArrowWriter::try_new(file.reopen().unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file
    }

    fn read_all(path: &Path) -> Result<Vec<Row>, String> {
        let mut rows = Rows::open(path, &columns())?;
        let mut read = Vec::new();
        while let Some((number, row)) = rows.next_row()? {
            read.push(row);
            assert_eq!(number, read.len() as u64);
        }
        Ok(read)
    }

    fn refused(columns: Vec<(&str, ArrayRef)>, expected: &[&str]) {
        let file = write(columns);
        let problem = read_all(file.path()).unwrap_err();
        for part in expected {
            assert!(problem.contains(part), "{problem:?} does not mention {part:?}");
        }
    }

    #[test]
    fn a_part_reads_back_as_its_rows() {
        let rows: Vec<_> = (0..3000)
            .map(|n| Row {
                custom_id: format!("r{n}").parse().unwrap(),
                text: format!("text {n}"),
            })
            .collect();
        let bytes = part(&rows, &columns()).unwrap();
        assert_eq!(bytes, part(&rows, &columns()).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        assert_eq!(read_all(file.path()).unwrap(), rows);
    }

    #[test]
    fn integer_ids_become_text() {
        let file = write(vec![
            ("id", Arc::new(Int64Array::from(vec![7, 8]))),
            ("prompt", Arc::new(StringArray::from(vec!["a", "b"]))),
        ]);
        let ids: Vec<_> = read_all(file.path())
            .unwrap()
            .into_iter()
            .map(|row| String::from(row.custom_id))
            .collect();
        assert_eq!(ids, ["7", "8"]);
    }

    #[test]
    fn what_cannot_be_requests_is_refused_with_column_and_row() {
        let texts = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let two = || texts(vec![Some("a"), Some("b")]);
        refused(
            vec![("id", two()), ("prompt", texts(vec![Some("a"), None]))],
            &["row 2", "prompt", "null"],
        );
        refused(
            vec![("id", texts(vec![None, Some("b")])), ("prompt", two())],
            &["row 1", "id", "null"],
        );
        refused(
            vec![("id", two()), ("label", two())],
            &["no column \"prompt\"", "--column text=", "label"],
        );
        refused(
            vec![("id", two()), ("prompt", numbers)],
            &["\"prompt\" holds Int64", "must be text"],
        );
    }

    #[test]
    fn a_file_that_is_no_parquet_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello").unwrap();
        assert!(
            read_all(file.path())
                .unwrap_err()
                .contains("not a readable Parquet file")
        );
        assert!(
            read_all(Path::new("/nonexistent.parquet"))
                .unwrap_err()
                .contains("cannot be opened")
        );
    }
}
