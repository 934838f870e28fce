//! How reports read a table: piece by piece, several pieces at a time, as often as they need.

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};

use arrow::array::RecordBatch;

use super::ReportError;

/// Why a batch could not be had.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The batches of one piece, from its first to its last.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, BoxError>>>;

/// A table, pinned at one version: every reading gives the same rows, in any order.
pub trait Table: Sync {
    /// How many pieces there are.
    fn pieces(&self) -> usize;

    /// Reads one piece: these columns, in any order.
    fn read(&self, piece: usize, columns: &[&'static str]) -> Batches;
}

/// A table in memory, a piece each batch. As from a file, only the columns asked for come.
#[derive(Debug, Clone)]
pub struct InMemory(pub Vec<RecordBatch>);

impl Table for InMemory {
    fn pieces(&self) -> usize {
        self.0.len()
    }

    fn read(&self, piece: usize, columns: &[&'static str]) -> Batches {
        let asked = |batch: &RecordBatch| {
            let schema = batch.schema();
            let found = columns.iter().filter_map(|name| schema.index_of(name).ok());
            batch.project(&found.collect::<Vec<_>>()).map_err(BoxError::from)
        };
        Box::new(self.0.get(piece).map(asked).into_iter().collect::<Vec<_>>().into_iter())
    }
}

/// Reads every piece, one thread a core; each thread folds its batches into a state of its own.
pub(crate) fn fold<S: Send>(
    name: &'static str,
    table: &dyn Table,
    columns: &[&'static str],
    new: impl Fn() -> S + Sync,
    step: impl Fn(&mut S, &RecordBatch) -> Result<(), ReportError> + Sync,
) -> Result<Vec<S>, ReportError> {
    let next = AtomicUsize::new(0);
    let reader = || {
        let mut state = new();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= table.pieces() {
                return Ok(state);
            }
            for batch in table.read(piece, columns) {
                let batch = batch.map_err(|source| ReportError::Table { table: name, source })?;
                step(&mut state, &batch)?;
            }
        }
    };
    let threads = available_parallelism().map_or(1, usize::from).min(table.pieces());
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(reader)).collect();
        let states = readers.into_iter().map(|reader| reader.join());
        states
            .map(|state| state.unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect()
    })
}

/// Half of an id, by which ids are first told apart. Whatever rests on two keys being equal is looked at
/// again by the whole ids.
pub(crate) fn key(id: uuid::Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high ^ low
}
