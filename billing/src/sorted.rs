//! Sorts more than memory holds: sorted runs in a temporary file, merged as they are read.
//!
//! The file has no name, so nothing is left of it whatever ends the program; `TMPDIR` says in which folder it
//! lies. What fits into memory is never written.

use std::env;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::iter::Peekable;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use itertools::{Either, Itertools};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Memory of one run, in bytes.
pub(crate) const RUN_BYTES: usize = 8 << 20;

/// Read of each run at a time, in bytes.
const READ_BYTES: usize = 32 << 10;

/// Why records could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep what is sorted in a temporary file in {}; free room there, or name another folder in TMPDIR", folder.display())]
pub struct SortError {
    folder: PathBuf,
    source: io::Error,
}

impl From<io::Error> for SortError {
    fn from(source: io::Error) -> Self {
        SortError {
            folder: env::temp_dir(),
            source,
        }
    }
}

/// A record that can be sorted and kept.
pub(crate) trait Record: Ord + Clone + Serialize + DeserializeOwned {}

impl<T: Ord + Clone + Serialize + DeserializeOwned> Record for T {}

/// Takes records in any order.
pub(crate) struct Sorter<T> {
    run_records: usize,
    held: Vec<T>,
    file: Option<Arc<File>>,
    len: u64,
    runs: Vec<Run<T>>,
}

/// All records of some sorters, in order, to be read as often as need be.
#[derive(Debug)]
pub(crate) struct Sorted<T> {
    runs: Vec<Run<T>>,
}

/// Sorted records.
#[derive(Debug)]
enum Run<T> {
    Held(Vec<T>),
    Kept { file: Arc<File>, from: u64, records: usize },
}

impl<T: Record> Sorter<T> {
    /// `run_bytes` counts what lies in a record itself, and not what it points to.
    pub(crate) fn new(run_bytes: usize) -> Self {
        Sorter {
            run_records: (run_bytes / size_of::<T>()).max(1),
            held: Vec::new(),
            file: None,
            len: 0,
            runs: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, record: T) -> Result<(), SortError> {
        if self.held.len() == self.run_records {
            let records = std::mem::take(&mut self.held);
            self.held = self.keep(records)?;
        }
        self.held.push(record);
        Ok(())
    }

    /// Writes a run of its own; what is returned is empty, and has the same room.
    pub(crate) fn keep(&mut self, mut records: Vec<T>) -> Result<Vec<T>, SortError> {
        records.sort_unstable();
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.file.insert(Arc::new(tempfile::tempfile()?)).clone(),
        };
        self.runs.push(Run::Kept {
            file: file.clone(),
            from: self.len,
            records: records.len(),
        });
        let mut out = BufWriter::with_capacity(READ_BYTES, &*file);
        for record in records.drain(..) {
            let bytes = postcard::to_stdvec(&record).map_err(io::Error::other)?;
            let count = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            out.write_all(&count.to_le_bytes())?;
            out.write_all(&bytes)?;
            self.len += u64::from(count) + 4;
        }
        out.flush()?;
        Ok(records)
    }
}

impl<T: Record> Sorted<T> {
    /// The records of all `sorters`.
    pub(crate) fn of(sorters: impl IntoIterator<Item = Sorter<T>>) -> Self {
        let mut runs = Vec::new();
        for mut sorter in sorters {
            runs.append(&mut sorter.runs);
            sorter.held.sort_unstable();
            runs.push(Run::Held(sorter.held));
        }
        Sorted { runs }
    }

    /// Every record, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<T, SortError>> + '_ {
        let runs = self.runs.iter().map(|run| match run {
            Run::Held(records) => Either::Left(records.iter().cloned().map(Ok)),
            Run::Kept { file, from, records } => Either::Right(Kept::new(file.clone(), *from, *records)),
        });
        // An error comes before every record.
        runs.kmerge_by(|a: &io::Result<T>, b| match (a, b) {
            (Ok(a), Ok(b)) => a < b,
            (a, _) => a.is_err(),
        })
        .map(|record| Ok(record?))
    }
}

/// The record in front, which stays there. An error there is taken.
pub(crate) fn front<'a, T: 'a, E: 'a>(
    records: &'a mut Peekable<impl Iterator<Item = Result<T, E>>>,
) -> Result<Option<&'a T>, E> {
    match records.next_if(Result::is_err) {
        Some(error) => error.map(|_| None),
        None => Ok(records.peek().and_then(|record| record.as_ref().ok())),
    }
}

/// The record in front, if it is wanted. An error there is taken in any case.
pub(crate) fn take_if<T, E>(
    records: &mut Peekable<impl Iterator<Item = Result<T, E>>>,
    is_wanted: impl Fn(&T) -> bool,
) -> Result<Option<T>, E> {
    records
        .next_if(|record| record.as_ref().map_or(true, &is_wanted))
        .transpose()
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Sorted { runs: Vec::new() }
    }
}

/// Reads a run back.
struct Kept<T> {
    file: BufReader<ReadFrom>,
    records: usize,
    bytes: Vec<u8>,
    of: PhantomData<T>,
}

/// The file from a place on; many read it at once.
struct ReadFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<T: Record> Kept<T> {
    fn new(file: Arc<File>, at: u64, records: usize) -> Self {
        Kept {
            file: BufReader::with_capacity(READ_BYTES, ReadFrom { file, at }),
            records,
            bytes: Vec::new(),
            of: PhantomData,
        }
    }

    fn read(&mut self) -> io::Result<T> {
        let mut count = [0; 4];
        self.file.read_exact(&mut count)?;
        self.bytes.resize(u32::from_le_bytes(count) as usize, 0);
        self.file.read_exact(&mut self.bytes)?;
        postcard::from_bytes(&self.bytes).map_err(io::Error::other)
    }
}

impl<T: Record> Iterator for Kept<T> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records = self.records.checked_sub(1)?;
        Some(self.read())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_record_comes_in_order_however_small_the_runs_are(
            records in prop::collection::vec((any::<u64>(), ".{0,9}"), 0..200),
            run_records in 1..50_usize,
            sorters in 1..4_usize,
        ) {
            let run_bytes = run_records * size_of::<(u64, String)>();
            let mut some: Vec<_> = (0..sorters).map(|_| Sorter::new(run_bytes)).collect();
            for (index, record) in records.iter().enumerate() {
                some[index % sorters].push(record.clone()).unwrap();
            }
            let sorted = Sorted::of(some);
            let mut expected = records;
            expected.sort();
            for _ in 0..2 {
                let read: Vec<_> = sorted.iter().collect::<Result<_, _>>().unwrap();
                prop_assert_eq!(&read, &expected);
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_off_is_an_error_and_not_an_end() {
        let mut sorter = Sorter::new(size_of::<u64>());
        for record in 0..9_u64 {
            sorter.push(record).unwrap();
        }
        sorter.file.as_ref().unwrap().set_len(sorter.len - 1).unwrap();
        assert!(Sorted::of([sorter]).iter().any(|record| record.is_err()));
    }
}
