//! Stored rated rows against those that the ledger makes now. Both are in the order of event ids, so one walk
//! along both tells which row differs, is missing or is too many.

use std::collections::{BTreeSet, VecDeque};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Decimal128Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use billing::close::BoxError;
use billing::money::Money;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use tokio::runtime::Handle;

use super::super::objects::Objects;
use super::super::write::{Files, RatedTaker};

/// Rows that are compared at once as long as they are equal.
const EQUAL_ROWS: usize = 1_024;

/// How many rows are told; all are counted.
const SHOWN_MAX: usize = 100;

/// Walks along both.
pub(super) struct RowCheck {
    stored: StoredRows,
    held: Option<Held>,
    /// What is stored from here on cannot be told, up to the next row that can be read.
    blind: bool,
    /// Makes the files' bytes again, if they are wanted.
    pub(super) encoder: Option<Files>,
    pub(super) found: Rows,
}

/// What is wrong with the rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// File and problem of the first hundred.
    pub(super) shown: Vec<(String, String)>,
    /// Those that are not shown.
    pub(super) more: u64,
    /// Files with something wrong in them.
    pub(super) files: BTreeSet<String>,
}

/// Stored rows that are not compared yet.
struct Held {
    file: String,
    /// Number of the first of them in the file, from 1.
    first: usize,
    rows: RecordBatch,
}

impl RowCheck {
    /// Of the rated rows in `files`, in this order: the name of each and its path in the store.
    pub(super) fn new(objects: Objects, files: Vec<(String, String)>, encoder: Option<Files>) -> Self {
        RowCheck {
            stored: StoredRows {
                objects,
                runtime: Handle::current(),
                files: files.into(),
                open: None,
            },
            held: None,
            blind: false,
            encoder,
            found: Rows::default(),
        }
    }

    /// Makes sure that rows are held, if there are more. What cannot be read is told, but a lost file is told
    /// by its hash already.
    fn hold(&mut self) -> Result<(), BoxError> {
        while self.held.as_ref().is_none_or(|held| held.rows.num_rows() == 0) {
            self.held = None;
            match self.stored.next()? {
                None => return Ok(()),
                Some(Piece::Rows(held)) => self.held = Some(held),
                Some(Piece::Lost) => self.blind = true,
                Some(Piece::Unreadable { file, row, why }) => {
                    self.blind = true;
                    self.found.add(file, format!("cannot be read from row {row} on: {why}"));
                }
            }
        }
        Ok(())
    }

    /// Passes by the rows of `made` that were stored where nothing can be read.
    fn skip_lost(&mut self, made: &RecordBatch) -> Result<usize, BoxError> {
        let Some(held) = self.held.as_ref().filter(|_| self.blind) else {
            return Ok(if self.blind { made.num_rows() } else { 0 });
        };
        let first = id(&held.rows, 0)?;
        let mut lost = 0;
        while lost < made.num_rows() && id(made, lost)? < first {
            lost += 1;
        }
        self.blind = lost == made.num_rows();
        Ok(lost)
    }

    /// Compares the first rows of both, and says how many of `made` that were.
    fn step(&mut self, made: &RecordBatch) -> Result<usize, BoxError> {
        let Some(held) = &mut self.held else {
            self.found.missing(made, self.stored.last_file())?;
            return Ok(made.num_rows());
        };
        let count = EQUAL_ROWS.min(made.num_rows()).min(held.rows.num_rows());
        if held.rows.slice(0, count) == made.slice(0, count) {
            held.pass(count);
            return Ok(count);
        }
        let (mut passed, mut of_made) = (0, 0);
        while passed < count && of_made < count {
            let (stored_id, made_id) = (id(&held.rows, passed)?, id(made, of_made)?);
            let place = format!(
                "row {}: event {stored_id} of {}",
                held.first + passed,
                tenant(&held.rows, passed)?
            );
            if stored_id < made_id {
                let problem = format!("{place} is charged here, but is not in the ledger that was locked");
                self.found.add(held.file.clone(), problem);
                passed += 1;
            } else if made_id < stored_id {
                self.found.missing(&made.slice(of_made, 1), &held.file)?;
                of_made += 1;
            } else {
                let different = differences(&held.rows.slice(passed, 1), &made.slice(of_made, 1))?;
                if !different.is_empty() {
                    self.found
                        .add(held.file.clone(), format!("{place}: {}", different.join("; ")));
                }
                (passed, of_made) = (passed + 1, of_made + 1);
            }
        }
        held.pass(passed);
        Ok(of_made)
    }
}

impl RatedTaker for RowCheck {
    fn take(&mut self, batch: RecordBatch) -> Result<(), BoxError> {
        if let Some(encoder) = &mut self.encoder {
            encoder.take(batch.clone())?;
        }
        let mut made = batch;
        while made.num_rows() > 0 {
            self.hold()?;
            let mut passed = self.skip_lost(&made)?;
            if passed == 0 {
                passed = self.step(&made)?;
            }
            made = made.slice(passed, made.num_rows() - passed);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxError> {
        if let Some(encoder) = &mut self.encoder {
            encoder.end()?;
        }
        self.hold()?;
        while let Some(held) = &mut self.held {
            for row in 0..held.rows.num_rows() {
                let (id, tenant) = (id(&held.rows, row)?, tenant(&held.rows, row)?);
                let place = format!("row {}: event {id} of {tenant}", held.first + row);
                let problem = format!("{place} is charged here, but is not in the ledger that was locked");
                self.found.add(held.file.clone(), problem);
            }
            held.pass(held.rows.num_rows());
            self.hold()?;
        }
        Ok(())
    }
}

impl Held {
    fn pass(&mut self, count: usize) {
        self.rows = self.rows.slice(count, self.rows.num_rows() - count);
        self.first += count;
    }
}

impl Rows {
    fn add(&mut self, file: String, problem: String) {
        self.files.insert(file.clone());
        if self.shown.len() < SHOWN_MAX {
            self.shown.push((file, problem));
        } else {
            self.more += 1;
        }
    }

    fn missing(&mut self, made: &RecordBatch, file: &str) -> Result<(), BoxError> {
        for row in 0..made.num_rows() {
            let (id, tenant) = (id(made, row)?, tenant(made, row)?);
            let problem = format!("lacks event {id} of {tenant}, which is in the ledger that was locked");
            self.add(file.to_owned(), problem);
        }
        Ok(())
    }
}

/// Column by column, what one row says on both sides.
fn differences(stored: &RecordBatch, made: &RecordBatch) -> Result<Vec<String>, BoxError> {
    let mut different = Vec::new();
    for (field, made) in made.schema().fields().iter().zip(made.columns()) {
        let name = field.name();
        let stored = stored
            .column_by_name(name)
            .ok_or_else(|| format!("there is no column {name}"))?;
        if stored != made {
            let (is, makes) = (text_of(stored)?, text_of(made)?);
            different.push(format!("{name} is {is}, but the ledger makes it {makes}"));
        }
    }
    Ok(different)
}

/// The only value of a column.
fn text_of(column: &dyn Array) -> Result<String, BoxError> {
    if let Some(amounts) = column.as_primitive_opt::<Decimal128Type>() {
        return Ok(Money::from_parts(amounts.value(0))?.to_string());
    }
    let options = FormatOptions::new().with_null("null");
    Ok(ArrayFormatter::try_new(column, &options)?.value(0).to_string())
}

fn id(rows: &RecordBatch, row: usize) -> Result<&str, BoxError> {
    text(rows, "event_id", row)
}

fn tenant(rows: &RecordBatch, row: usize) -> Result<&str, BoxError> {
    text(rows, "tenant_id", row)
}

fn text<'a>(rows: &'a RecordBatch, column: &str, row: usize) -> Result<&'a str, BoxError> {
    let array = rows
        .column_by_name(column)
        .and_then(|array| array.as_string_opt::<i32>());
    Ok(array
        .ok_or_else(|| format!("there is no text column {column}"))?
        .value(row))
}

/// Stored rated rows, file by file.
struct StoredRows {
    objects: Objects,
    runtime: Handle,
    files: VecDeque<(String, String)>,
    open: Option<Open>,
}

struct Open {
    file: String,
    /// Number of the next row, from 1.
    next: usize,
    /// None once nothing more is read of it.
    reader: Option<ParquetRecordBatchReader>,
}

enum Piece {
    Rows(Held),
    /// The file is not there.
    Lost,
    Unreadable {
        file: String,
        row: usize,
        why: String,
    },
}

impl StoredRows {
    fn next(&mut self) -> Result<Option<Piece>, BoxError> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(piece) = open.next()
            {
                return Ok(Some(piece));
            }
            let Some((file, path)) = self.files.pop_front() else {
                return Ok(None);
            };
            let bytes = self.runtime.block_on(self.objects.bytes(&path))?;
            let open = self.open.insert(Open {
                file,
                next: 1,
                reader: None,
            });
            let Some(bytes) = bytes else {
                return Ok(Some(Piece::Lost));
            };
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes);
            match reader.and_then(ParquetRecordBatchReaderBuilder::build) {
                Ok(reader) => open.reader = Some(reader),
                Err(error) => return Ok(Some(open.unreadable(&error))),
            }
        }
    }

    /// The file that was opened last.
    fn last_file(&self) -> &str {
        self.open.as_ref().map_or("rated-00000.parquet", |open| &open.file)
    }
}

impl Open {
    fn next(&mut self) -> Option<Piece> {
        let rows = match self.reader.as_mut()?.next()? {
            Ok(rows) => rows,
            Err(error) => return Some(self.unreadable(&error)),
        };
        let readable = ["event_id", "tenant_id"]
            .iter()
            .try_for_each(|column| text_column(&rows, column));
        if let Err(error) = readable {
            return Some(self.unreadable(&error));
        }
        let first = self.next;
        self.next += rows.num_rows();
        Some(Piece::Rows(Held {
            file: self.file.clone(),
            first,
            rows,
        }))
    }

    fn unreadable(&mut self, why: &dyn std::fmt::Display) -> Piece {
        self.reader = None;
        Piece::Unreadable {
            file: self.file.clone(),
            row: self.next,
            why: why.to_string(),
        }
    }
}

fn text_column(rows: &RecordBatch, column: &str) -> Result<(), String> {
    let array = rows
        .column_by_name(column)
        .and_then(|array| array.as_string_opt::<i32>());
    array
        .map(drop)
        .ok_or_else(|| format!("there is no text column {column}"))
}

#[cfg(test)]
mod tests;
