//! Parquet: amounts as `DECIMAL(38,18)`, which every reader sums exactly.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Builder, Decimal128Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use jiff::civil::Date;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::money::MONEY_SCALE;
use crate::report::sheet::{Cell, Kind, Sheet};

/// Rows that are encoded at a time.
const BATCH_ROWS: usize = 8_192;
/// Rows of a row group, which is in memory until it is whole.
const GROUP_ROWS: usize = 8 * BATCH_ROWS;
const PRECISION: u8 = 38;

/// Writes every row; `notes` are kept in the file's metadata.
pub fn parquet(sheet: Sheet<'_>, notes: &[(String, String)], out: impl Write + Send) -> Result<(), ParquetError> {
    let fields = sheet
        .columns
        .iter()
        .map(|column| Field::new(column.name, data_type(column.kind), true));
    let metadata: HashMap<_, _> = notes.iter().cloned().collect();
    let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata));
    let properties = WriterProperties::builder()
        .set_created_by("bitnet".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
    let mut rows = sheet.rows.peekable();
    while rows.peek().is_some() {
        let batch: Vec<_> = rows.by_ref().take(BATCH_ROWS).collect::<Result<_, _>>()?;
        writer.write(&columns(&schema, &batch)?)?;
    }
    writer.close().map(drop)
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => DataType::Utf8,
        Kind::Number => DataType::Int64,
        Kind::Exact => DataType::Decimal128(PRECISION, MONEY_SCALE as i8),
        Kind::Date => DataType::Date32,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

fn columns(schema: &SchemaRef, rows: &[Vec<Cell>]) -> Result<RecordBatch, ArrowError> {
    let of_column = |(index, field): (usize, &Arc<Field>)| {
        let cells = rows.iter().map(move |row| row.get(index).unwrap_or(&Cell::Empty));
        column(field.data_type(), cells)
    };
    let arrays = schema.fields().iter().enumerate().map(of_column);
    RecordBatch::try_new(schema.clone(), arrays.collect::<Result<_, _>>()?)
}

fn column<'a>(kind: &DataType, cells: impl Iterator<Item = &'a Cell>) -> Result<ArrayRef, ArrowError> {
    Ok(match kind {
        DataType::Int64 => {
            let mut column = Int64Builder::new();
            cells.for_each(|cell| {
                column.append_option(if let Cell::Number(number) = cell {
                    Some(*number)
                } else {
                    None
                })
            });
            Arc::new(column.finish())
        }
        DataType::Decimal128(precision, scale) => {
            let mut column = Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?;
            cells.for_each(|cell| {
                column.append_option(if let Cell::Exact(amount, _) = cell {
                    Some(amount.parts())
                } else {
                    None
                });
            });
            Arc::new(column.finish())
        }
        DataType::Date32 => {
            let mut column = Date32Builder::new();
            cells.for_each(|cell| {
                column.append_option(if let Cell::Date(date) = cell {
                    Some(days(*date))
                } else {
                    None
                })
            });
            Arc::new(column.finish())
        }
        DataType::Timestamp(..) => {
            let mut column = TimestampMicrosecondBuilder::new().with_timezone("UTC");
            cells.for_each(|cell| {
                column.append_option(if let Cell::Time(time) = cell {
                    Some(time.as_microsecond())
                } else {
                    None
                });
            });
            Arc::new(column.finish())
        }
        _ => {
            let mut column = StringBuilder::new();
            cells.for_each(|cell| column.append_option(if let Cell::Text(text) = cell { Some(text) } else { None }));
            Arc::new(column.finish())
        }
    })
}

/// Days since 1970-01-01, as a `Date32` counts them.
fn days(date: Date) -> i32 {
    let epoch = jiff::civil::date(1970, 1, 1);
    // The years of a date are -9999 to 9999.
    date.duration_since(epoch).as_hours().div_euclid(24) as i32
}
