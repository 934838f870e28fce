//! Goes over a table as often as it takes to hold one range of its ids in memory at a time.
//!
//! Ids are hashes, so equal ranges hold about equally many. A range that turns out to hold too many is
//! halved on the spot; what falls out of it is read again in a later round.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use schemas::columns::ReadError;
use uuid::Uuid;

use super::{ReportError, Table};

/// Ids held in memory at a time: just under what a hash table of 2²¹ places takes.
pub(crate) const IDS_MAX: usize = 1_800_000;

/// A range of ids, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    from: u128,
    to: u128,
}

impl Window {
    pub(crate) fn all() -> Self {
        Window { from: 0, to: u128::MAX }
    }

    pub(crate) fn contains(self, id: Uuid) -> bool {
        (self.from..=self.to).contains(&id.as_u128())
    }

    /// The window behind this one, as wide; none if this one was the last.
    pub(crate) fn next(self) -> Option<Self> {
        let from = self.to.checked_add(1)?;
        Some(Window {
            from,
            to: from.saturating_add(self.to - self.from),
        })
    }

    /// Halves the window until no more than `ids_max` ids of `held` are in it, and drops the others.
    pub(crate) fn shrink<T>(&mut self, held: &mut HashMap<Uuid, T>, ids_max: usize) {
        while held.len() > ids_max.max(1) {
            self.to = self.from + (self.to - self.from) / 2;
            held.retain(|id, _| self.contains(*id));
        }
    }

    /// Reads `table` once and hands over, batch by batch, the rows whose id in `column` was in the window
    /// when their batch came. `take` may shrink the window.
    pub(crate) fn read(
        &mut self,
        name: &'static str,
        table: &Table<'_>,
        column: &'static str,
        mut take: impl FnMut(&mut Window, &RecordBatch) -> Result<(), ReportError>,
    ) -> Result<(), ReportError> {
        for batch in table() {
            let batch = batch.map_err(|source| ReportError::Table { table: name, source })?;
            let inside = self.rows_inside(&batch, column);
            let inside = inside.map_err(|source| ReportError::Row { table: name, source })?;
            let rows = match inside.true_count() {
                0 => continue,
                all if all == batch.num_rows() => batch,
                _ => filter_record_batch(&batch, &inside).map_err(|source| ReportError::Table {
                    table: name,
                    source: source.into(),
                })?,
            };
            take(self, &rows)?;
        }
        Ok(())
    }

    fn rows_inside(self, batch: &RecordBatch, column: &'static str) -> Result<BooleanArray, ReadError> {
        let array = batch.column_by_name(column).ok_or(ReadError::Missing { column })?;
        let texts = cast(array, &DataType::Utf8).map_err(|_| ReadError::Type {
            column,
            found: array.data_type().clone(),
            expected: DataType::Utf8,
        })?;
        // What is not an id stays in, so that reading the row says what is wrong with it.
        let inside = |text: Option<&str>| {
            text.and_then(|text| text.parse().ok())
                .is_none_or(|id| self.contains(id))
        };
        Ok(texts.as_string::<i32>().iter().map(|text| Some(inside(text))).collect())
    }
}
