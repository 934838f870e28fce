//! Rows of both tables survive the way to Arrow and back, and what is not a row is named.

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use common::{billing_rows, result_rows};
use schemas::columns::{ReadError, WriteError};
use schemas::view::{EventColumns, ResultColumns};
use schemas::{billing, result};

fn kind(schema: &Schema, column: &str) -> String {
    let field = schema.field_with_name(column).unwrap();
    format!("{}{}", field.data_type(), if field.is_nullable() { "?" } else { "" })
}

/// The batch with `column` put in place of the one of that name, or with that column left out.
fn with_column(batch: &RecordBatch, name: &str, column: Option<ArrayRef>) -> RecordBatch {
    let mut columns = Vec::new();
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        match &column {
            _ if field.name() != name => columns.push((field.name().clone(), array.clone(), true)),
            Some(column) => columns.push((name.to_owned(), column.clone(), true)),
            None => {}
        }
    }
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[test]
fn rows_come_back_as_they_were() {
    let rows = result_rows();
    let batch = result::to_batch(&rows).unwrap();
    assert_eq!(batch.schema(), result::arrow_schema());
    assert_eq!(result::from_batch(&batch).unwrap(), rows);

    let rows = billing_rows();
    let batch = billing::to_batch(&rows).unwrap();
    assert_eq!(batch.schema(), billing::arrow_schema());
    assert_eq!(billing::from_batch(&batch).unwrap(), rows);
}

#[test]
fn no_rows_make_an_empty_batch() {
    let batch = result::to_batch(&[]).unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, 35));
    assert_eq!(result::from_batch(&batch).unwrap(), []);
    let batch = billing::to_batch(&[]).unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, 38));
    assert_eq!(billing::from_batch(&batch).unwrap(), []);
}

/// A new column must be put on one side or the other.
#[test]
fn optional_columns_of_results_are_content_or_known_to_be_none() {
    let harmless = [
        "model_digest",
        "tokenizer_digest",
        "error_code",
        "finish_reason",
        "admitted_at",
        "first_token_at",
    ];
    let schema = result::arrow_schema();
    let optional = schema.fields().iter().filter(|field| field.is_nullable());
    let mut optional: Vec<&str> = optional.map(|field| field.name().as_str()).collect();
    let mut known = [&harmless[..], &result::CONTENT_COLUMNS].concat();
    optional.sort_unstable();
    known.sort_unstable();
    assert_eq!(optional, known);
}

#[test]
fn columns_have_the_published_types() {
    let results = result::arrow_schema();
    let expected = [
        ("job_id", "Utf8"),
        ("batch_seq", "Int64"),
        ("result_id", "Utf8"),
        ("model_digest", "Utf8?"),
        ("output_text", "Utf8?"),
        ("input_tokens", "Int64"),
        ("kafka_epoch", "Int32"),
        ("kafka_offset", "Int64"),
        ("day", "Date32"),
    ];
    for (column, expected) in expected {
        assert_eq!(kind(&results, column), expected, "{column}");
    }
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(results.field_with_name("finished_at").unwrap().data_type(), &micros);
    let DataType::List(item) = results.field_with_name("embedding").unwrap().data_type().clone() else {
        panic!()
    };
    assert_eq!(
        (item.name().as_str(), item.data_type(), item.is_nullable()),
        ("element", &DataType::Float32, false)
    );
    assert_eq!(results.fields().last().unwrap().name(), result::PARTITION_COLUMN);

    let events = billing::arrow_schema();
    for (column, expected) in [
        ("event_id", "Utf8"),
        ("schema_version", "Int32"),
        ("api_key_ref", "Utf8?"),
        ("requests", "Int64"),
        ("billable", "Boolean"),
        ("corrects_event_id", "Utf8?"),
        ("usage_period", "Utf8"),
    ] {
        assert_eq!(kind(&events, column), expected, "{column}");
    }
    assert_eq!(events.fields().last().unwrap().name(), billing::PARTITION_COLUMN);
}

#[test]
fn column_order_width_and_absent_optional_columns_do_not_matter() {
    let mut rows = result_rows();
    let batch = result::to_batch(&rows).unwrap();
    let backwards: Vec<usize> = (0..batch.num_columns()).rev().collect();
    let batch = batch.project(&backwards).unwrap();
    let wide: LargeStringArray = rows.iter().map(|row| Some(row.job_id.as_str())).collect();
    let batch = with_column(&batch, "job_id", Some(Arc::new(wide)));
    let batch = with_column(&batch, "response", None);
    rows.iter_mut().for_each(|row| row.response = None);
    assert_eq!(result::from_batch(&batch).unwrap(), rows);
}

#[test]
fn batches_of_one_table_concatenate() {
    let rows = billing_rows();
    let parts: Vec<_> = rows.chunks(1).map(|rows| billing::to_batch(rows).unwrap()).collect();
    let whole = concat_batches(&billing::arrow_schema(), &parts).unwrap();
    assert_eq!(billing::from_batch(&whole).unwrap(), rows);
}

#[test]
fn a_day_is_the_utc_date_also_before_1970() {
    let mut row = result_rows().remove(0);
    for (time, day) in [
        ("1969-12-31T23:59:59.999999Z", "1969-12-31"),
        ("1970-01-01T00:00:00Z", "1970-01-01"),
        ("2024-02-29T23:59:59Z", "2024-02-29"),
        ("2026-11-25T00:30:00+01:00", "2026-11-24"),
    ] {
        row.finished_at = time.parse().unwrap();
        assert_eq!(row.day().to_string(), day);
        let batch = result::to_batch(std::slice::from_ref(&row)).unwrap();
        let column = batch.column_by_name("day").unwrap();
        let text = arrow::compute::cast(column, &DataType::Utf8).unwrap();
        assert_eq!(text.as_ref(), &StringArray::from(vec![day]) as &dyn arrow::array::Array);
    }
}

#[test]
fn a_number_beyond_its_column_is_named() {
    let mut rows = result_rows();
    rows[1].batch_index = u32::MAX;
    let error = result::to_batch(&rows).unwrap_err();
    assert!(
        matches!(
            error,
            WriteError::Range {
                row: 1,
                column: "batch_index",
                value: 4_294_967_295
            }
        ),
        "{error}"
    );
}

#[test]
fn what_is_not_a_row_is_named() {
    let rows = billing_rows();
    let good = billing::to_batch(&rows).unwrap();
    let check = |column: &str, array: Option<ArrayRef>, expected: &str| {
        let error = billing::from_batch(&with_column(&good, column, array)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let texts = |text: &str| -> Option<ArrayRef> { Some(Arc::new(StringArray::from(vec![text; rows.len()]))) };
    check("event_id", texts("17"), "row 0: event_id: invalid length: found 2");
    check(
        "outcome",
        texts("fine"),
        "row 0: outcome: status must be one of ok, error, expired, cancelled, duplicate, but is \"fine\"",
    );
    check(
        "tenant_id",
        None,
        "column tenant_id is missing; read the whole table, or all columns but optional ones",
    );
    let nulls = new_null_array(&DataType::Utf8, rows.len());
    check(
        "region",
        Some(nulls),
        "row 0: region is null, but every row must have it",
    );
    let binary = new_null_array(&DataType::Date32, rows.len());
    check(
        "billable",
        Some(binary),
        "column billable is Date32, but must be Boolean",
    );
    let negative: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![-1; rows.len()]));
    let error = billing::from_batch(&with_column(&good, "batch_index", Some(negative))).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Value {
                row: 0,
                column: "batch_index",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_view_of_the_columns_is_a_view_of_the_row() {
    let rows = billing_rows();
    let columns = EventColumns::of(&billing::to_batch(&rows).unwrap()).unwrap();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(columns.view(index).unwrap(), row.view());
    }
    let rows = result_rows();
    let columns = ResultColumns::of(&result::to_batch(&rows).unwrap()).unwrap();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(columns.view(index).unwrap(), row.view());
    }
}
