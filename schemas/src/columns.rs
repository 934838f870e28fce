//! Rows to Arrow columns and back; both tables are made of these few column kinds.
//!
//! A table is written down once, as the list of its columns in `result::to_batch` and
//! `billing::to_batch`, and its Arrow schema is read off that list. Types are those that Delta has:
//! signed integers, UTF-8 text (ids too), microseconds in UTC, days, lists. A column is nullable only
//! where the row holds an `Option`.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Date32Array, Int32Array, Int64Array, ListArray,
    PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use jiff::Timestamp;
use uuid::Uuid;

/// Why rows do not fit into one batch of columns.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A number is beyond its column's type.
    #[error(
        "row {row}: {column} is {value}, but the column holds at most {}; lower it",
        i32::MAX
    )]
    Range {
        /// Index in the rows given.
        row: usize,
        /// Column name.
        column: &'static str,
        /// The number.
        value: i64,
    },
    /// The values of one column together are too long for 32-bit offsets.
    #[error(
        "{column}: {len} bytes or list items in one batch, at most {}; write fewer rows at a time",
        i32::MAX
    )]
    Length {
        /// Column name.
        column: &'static str,
        /// Their length.
        len: usize,
    },
    /// Arrow refused the columns.
    #[error("cannot put the columns together")]
    Arrow(#[from] ArrowError),
}

/// Why a batch of columns does not read as rows.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A column that every version of the table has is not there.
    #[error("column {column} is missing; read the whole table, or all columns but optional ones")]
    Missing {
        /// Column name.
        column: &'static str,
    },
    /// A column has a type that does not convert.
    #[error("column {column} is {found}, but must be {expected}")]
    Type {
        /// Column name.
        column: &'static str,
        /// Its type in the batch.
        found: DataType,
        /// Its type in the table.
        expected: DataType,
    },
    /// A required value is null.
    #[error("row {row}: {column} is null, but every row must have it")]
    Null {
        /// Index in the batch.
        row: usize,
        /// Column name.
        column: &'static str,
    },
    /// A value is not what its column may hold.
    #[error("row {row}: {column}: {problem}")]
    Value {
        /// Index in the batch.
        row: usize,
        /// Column name.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Builds the columns of `rows`, in the order of the calls.
pub(crate) struct Columns<'a, R> {
    rows: &'a [R],
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
    error: Option<WriteError>,
}

impl<'a, R> Columns<'a, R> {
    pub(crate) fn of(rows: &'a [R]) -> Self {
        Columns {
            rows,
            fields: Vec::new(),
            arrays: Vec::new(),
            error: None,
        }
    }

    fn push(&mut self, name: &str, nullable: bool, array: impl Array + 'static) {
        self.fields.push(Field::new(name, array.data_type().clone(), nullable));
        self.arrays.push(Arc::new(array));
    }

    /// True if offsets of 32 bits reach `len`; otherwise the first such column becomes the error.
    fn fits(&mut self, column: &'static str, len: usize) -> bool {
        let fits = len <= i32::MAX as usize;
        if !fits {
            self.error.get_or_insert(WriteError::Length { column, len });
        }
        fits
    }

    pub(crate) fn text(&mut self, name: &'static str, of: impl Fn(&'a R) -> &'a str) {
        if self.fits(name, self.rows.iter().map(|row| of(row).len()).sum()) {
            self.push(name, false, StringArray::from_iter_values(self.rows.iter().map(of)));
        }
    }

    pub(crate) fn optional_text(&mut self, name: &'static str, of: impl Fn(&'a R) -> Option<&'a str>) {
        if self.fits(name, self.rows.iter().filter_map(|row| Some(of(row)?.len())).sum()) {
            self.push(name, true, self.rows.iter().map(of).collect::<StringArray>());
        }
    }

    pub(crate) fn uuid(&mut self, name: &'static str, of: impl Fn(&'a R) -> Uuid) {
        if self.fits(name, self.rows.len() * 36) {
            self.push(
                name,
                false,
                StringArray::from_iter_values(self.rows.iter().map(|row| of(row).to_string())),
            );
        }
    }

    pub(crate) fn optional_uuid(&mut self, name: &'static str, of: impl Fn(&'a R) -> Option<Uuid>) {
        if self.fits(name, self.rows.len() * 36) {
            let texts = self.rows.iter().map(|row| of(row).map(|id| id.to_string()));
            self.push(name, true, texts.collect::<StringArray>());
        }
    }

    pub(crate) fn int32(&mut self, name: &'static str, of: impl Fn(&'a R) -> i64) {
        let mut values = Vec::with_capacity(self.rows.len());
        for (row, value) in self.rows.iter().map(of).enumerate() {
            match i32::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => {
                    self.error.get_or_insert(WriteError::Range {
                        row,
                        column: name,
                        value,
                    });
                    return;
                }
            }
        }
        self.push(name, false, Int32Array::from(values));
    }

    pub(crate) fn int64(&mut self, name: &'static str, of: impl Fn(&'a R) -> i64) {
        self.push(name, false, Int64Array::from_iter_values(self.rows.iter().map(of)));
    }

    pub(crate) fn boolean(&mut self, name: &'static str, of: impl Fn(&'a R) -> bool) {
        self.push(
            name,
            false,
            BooleanArray::from_iter(self.rows.iter().map(|row| Some(of(row)))),
        );
    }

    pub(crate) fn time(&mut self, name: &'static str, of: impl Fn(&'a R) -> Timestamp) {
        let micros = self.rows.iter().map(|row| of(row).as_microsecond());
        self.push(
            name,
            false,
            TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"),
        );
    }

    pub(crate) fn optional_time(&mut self, name: &'static str, of: impl Fn(&'a R) -> Option<Timestamp>) {
        let micros = self.rows.iter().map(|row| of(row).map(Timestamp::as_microsecond));
        self.push(
            name,
            true,
            TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"),
        );
    }

    /// The UTC date of a time.
    pub(crate) fn day(&mut self, name: &'static str, of: impl Fn(&'a R) -> Timestamp) {
        let days = self.rows.iter().map(|row| days_since_epoch(of(row)));
        self.push(name, false, Date32Array::from_iter_values(days));
    }

    /// Lists without null items; the item field is named as Delta and Parquet name it.
    pub(crate) fn optional_list<T: ArrowPrimitiveType>(
        &mut self,
        name: &'static str,
        of: impl Fn(&'a R) -> Option<&'a [T::Native]>,
    ) {
        let lists = || self.rows.iter().map(&of);
        if !self.fits(name, lists().map(|list| list.map_or(0, <[_]>::len)).sum()) {
            return;
        }
        let offsets = OffsetBuffer::from_lengths(lists().map(|list| list.map_or(0, <[_]>::len)));
        let items = PrimitiveArray::<T>::from_iter_values(lists().flatten().flatten().copied());
        let nulls = NullBuffer::from_iter(lists().map(|list| list.is_some()));
        let item = Arc::new(Field::new("element", T::DATA_TYPE, false));
        match ListArray::try_new(item, offsets, Arc::new(items), Some(nulls)) {
            Ok(array) => self.push(name, true, array),
            Err(error) => {
                self.error.get_or_insert(error.into());
            }
        }
    }

    pub(crate) fn finish(self) -> Result<RecordBatch, WriteError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        let schema = Arc::new(Schema::new(self.fields));
        Ok(RecordBatch::try_new_with_options(schema, self.arrays, &options)?)
    }
}

/// Days from 1970-01-01 to the UTC date of `time`: what a `Date32` holds.
pub(crate) fn days_since_epoch(time: Timestamp) -> i32 {
    const SECONDS_PER_DAY: i64 = 86_400;
    // A jiff timestamp lies within the years -9999 to 9999, so its day number fits.
    let seconds = time.as_microsecond().div_euclid(1_000_000);
    seconds.div_euclid(SECONDS_PER_DAY) as i32
}

/// The column of `batch` for `field`, in the field's type; all null if it is optional and not there.
fn column_of(batch: &RecordBatch, field: &'static Field) -> Result<ArrayRef, ReadError> {
    let column = field.name().as_str();
    let expected = field.data_type();
    match batch.column_by_name(column) {
        None if field.is_nullable() => Ok(new_null_array(expected, batch.num_rows())),
        None => Err(ReadError::Missing { column }),
        Some(array) if array.data_type() == expected => Ok(Arc::clone(array)),
        Some(array) => cast(array, expected).map_err(|_| ReadError::Type {
            column,
            found: array.data_type().clone(),
            expected: expected.clone(),
        }),
    }
}

/// The columns of a batch with their types, for views of its rows. No value of a required column is null.
pub(crate) struct Typed<'a> {
    pub(crate) batch: &'a RecordBatch,
    pub(crate) schema: &'static Schema,
}

impl Typed<'_> {
    fn column(&self, name: &'static str) -> Result<ArrayRef, ReadError> {
        let field = self.schema.field_with_name(name);
        let field = field.map_err(|_| ReadError::Missing { column: name })?;
        let array = column_of(self.batch, field)?;
        match array
            .nulls()
            .filter(|nulls| !field.is_nullable() && nulls.null_count() > 0)
        {
            Some(nulls) => Err(ReadError::Null {
                row: nulls.iter().position(|valid| !valid).unwrap_or_default(),
                column: name,
            }),
            None => Ok(array),
        }
    }

    pub(crate) fn texts(&self, name: &'static str) -> Result<StringArray, ReadError> {
        Ok(self.column(name)?.as_string::<i32>().clone())
    }

    pub(crate) fn numbers<T: ArrowPrimitiveType>(&self, name: &'static str) -> Result<PrimitiveArray<T>, ReadError> {
        Ok(self.column(name)?.as_primitive::<T>().clone())
    }

    pub(crate) fn booleans(&self, name: &'static str) -> Result<BooleanArray, ReadError> {
        Ok(self.column(name)?.as_boolean().clone())
    }
}

/// The value of an optional text column.
pub(crate) fn optional(texts: &StringArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

/// A value of a column, read from a text or number that may not be one.
pub(crate) fn value<T>(row: usize, column: &'static str, parsed: Result<T, impl Display>) -> Result<T, ReadError> {
    parsed.map_err(|problem| ReadError::Value {
        row,
        column,
        problem: problem.to_string(),
    })
}

/// The cells of a batch, read one row at a time. Columns are found by name: their order, columns that
/// are not ours, and other widths of the same kind of value (e.g. `LargeUtf8`) make no difference, and
/// an optional column that is not there reads as null.
pub(crate) struct Cells {
    names: Vec<&'static str>,
    arrays: Vec<ArrayRef>,
    row: usize,
    /// Where the next look-up starts; reading in the table's order costs one comparison a cell.
    next: usize,
}

impl Cells {
    /// Takes from `batch` the columns of `schema`, which lives as long as the program does.
    pub(crate) fn of(batch: &RecordBatch, schema: &'static Schema) -> Result<Self, ReadError> {
        let mut names = Vec::with_capacity(schema.fields().len());
        let mut arrays = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            names.push(field.name().as_str());
            arrays.push(column_of(batch, field)?);
        }
        Ok(Cells {
            names,
            arrays,
            row: 0,
            next: 0,
        })
    }

    pub(crate) fn go_to(&mut self, row: usize) {
        self.row = row;
        self.next = 0;
    }

    /// The column called `name` if it holds a value in this row.
    fn present(&mut self, name: &'static str) -> Result<Option<&ArrayRef>, ReadError> {
        let from_next = self
            .names
            .iter()
            .skip(self.next)
            .position(|column| *column == name)
            .map(|i| i + self.next);
        let found = from_next.or_else(|| self.names.iter().position(|column| *column == name));
        let index = found.ok_or(ReadError::Missing { column: name })?;
        self.next = index + 1;
        let array = &self.arrays[index];
        Ok(array.is_valid(self.row).then_some(array))
    }

    fn required(&mut self, name: &'static str) -> Result<&ArrayRef, ReadError> {
        let row = self.row;
        self.present(name)?.ok_or(ReadError::Null { row, column: name })
    }

    fn value(&self, column: &'static str, problem: impl Display) -> ReadError {
        ReadError::Value {
            row: self.row,
            column,
            problem: problem.to_string(),
        }
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<String, ReadError> {
        let row = self.row;
        Ok(self.required(name)?.as_string::<i32>().value(row).to_owned())
    }

    pub(crate) fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, ReadError> {
        let row = self.row;
        Ok(self
            .present(name)?
            .map(|array| array.as_string::<i32>().value(row).to_owned()))
    }

    /// A text that reads as `T`: an id, a UUID or one of a few names.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<T, ReadError> {
        let row = self.row;
        let parsed = self.required(name)?.as_string::<i32>().value(row).parse();
        parsed.map_err(|problem: T::Err| self.value(name, problem))
    }

    pub(crate) fn optional_uuid(&mut self, name: &'static str) -> Result<Option<Uuid>, ReadError> {
        let row = self.row;
        let parsed = self
            .present(name)?
            .map(|array| array.as_string::<i32>().value(row).parse())
            .transpose();
        parsed.map_err(|problem: uuid::Error| self.value(name, problem))
    }

    pub(crate) fn int32(&mut self, name: &'static str) -> Result<i32, ReadError> {
        let row = self.row;
        Ok(self.required(name)?.as_primitive::<Int32Type>().value(row))
    }

    /// A number that is never negative, such as an index or a batch's number; of either width.
    pub(crate) fn count(&mut self, name: &'static str) -> Result<u32, ReadError> {
        let row = self.row;
        let array = self.required(name)?;
        let number = match array.as_primitive_opt::<Int32Type>() {
            Some(narrow) => narrow.value(row).into(),
            None => array.as_primitive::<Int64Type>().value(row),
        };
        u32::try_from(number).map_err(|_| self.value(name, format_args!("{number} is not from 0 to {}", u32::MAX)))
    }

    pub(crate) fn int64(&mut self, name: &'static str) -> Result<i64, ReadError> {
        let row = self.row;
        Ok(self.required(name)?.as_primitive::<Int64Type>().value(row))
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<bool, ReadError> {
        let row = self.row;
        Ok(self.required(name)?.as_boolean().value(row))
    }

    pub(crate) fn time(&mut self, name: &'static str) -> Result<Timestamp, ReadError> {
        let row = self.row;
        self.optional_time(name)?.ok_or(ReadError::Null { row, column: name })
    }

    pub(crate) fn optional_time(&mut self, name: &'static str) -> Result<Option<Timestamp>, ReadError> {
        let row = self.row;
        let micros = self
            .present(name)?
            .map(|array| array.as_primitive::<TimestampMicrosecondType>().value(row));
        micros
            .map(Timestamp::from_microsecond)
            .transpose()
            .map_err(|problem| self.value(name, problem))
    }

    pub(crate) fn optional_f32s(&mut self, name: &'static str) -> Result<Option<Vec<f32>>, ReadError> {
        self.optional_list::<Float32Type>(name)
    }

    pub(crate) fn optional_f64s(&mut self, name: &'static str) -> Result<Option<Vec<f64>>, ReadError> {
        self.optional_list::<Float64Type>(name)
    }

    fn optional_list<T: ArrowPrimitiveType>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Vec<T::Native>>, ReadError> {
        let row = self.row;
        let Some(array) = self.present(name)? else {
            return Ok(None);
        };
        let items = array.as_list::<i32>().value(row);
        if items.null_count() > 0 {
            return Err(self.value(name, "a list item is null"));
        }
        Ok(Some(items.as_primitive::<T>().values().to_vec()))
    }
}
