//! Reads the requests of all files in order, and says where one batch ends and the next begins.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::Path;

use super::{Input, JobSpec, SubmitError};
use crate::jobs::columns::{Row, Rows};
use crate::jobs::lines::{Entry, Lines};
use crate::settings::Settings;

/// Room for what a message says beside its requests; its names are bounded.
const ENVELOPE_BYTES: usize = 4096;

/// One request of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// A line.
    Entry(Entry),
    /// A row.
    Row(Row),
}

impl Item {
    pub(super) fn custom_id(&self) -> &str {
        match self {
            Item::Entry(entry) => entry.custom_id.as_str(),
            Item::Row(row) => row.custom_id.as_str(),
        }
    }

    /// Bytes that it takes in its message or part.
    pub(super) fn size(&self) -> usize {
        match self {
            Item::Entry(entry) => {
                let body = serde_json::to_vec(&entry.body)
                    .expect("JSON read is JSON written")
                    .len();
                let id = serde_json::to_vec(&entry.custom_id).expect("text is JSON").len();
                body + id + r#"{"custom_id":,"body":},"#.len()
            }
            Item::Row(row) => row.custom_id.as_str().len() + row.text.len() + 8,
        }
    }
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) file: &'a Path,
    pub(super) number: u64,
    unit: &'static str,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} {}", self.file.display(), self.unit, self.number)
    }
}

impl Place<'_> {
    pub(super) fn wrong(self, problem: impl Into<String>) -> SubmitError {
        SubmitError::Input {
            place: self.to_string(),
            problem: problem.into(),
        }
    }
}

/// Visits every request until one is refused or the visitor has enough.
pub(super) fn each(
    input: &Input,
    line_bytes_max: usize,
    mut visit: impl FnMut(Place<'_>, Item) -> Result<ControlFlow<()>, SubmitError>,
) -> Result<(), SubmitError> {
    for file in input.files() {
        let wrong = |problem: String| SubmitError::Input {
            place: file.display().to_string(),
            problem,
        };
        let flow = match input {
            Input::Jsonl(_) => {
                let opened = File::open(file).map_err(|error| wrong(format!("cannot be opened: {error}")))?;
                let mut lines = Lines::new(BufReader::new(opened), line_bytes_max);
                let next = || {
                    lines
                        .next_line()
                        .map_err(|error| wrong(format!("cannot be read: {error}")))
                };
                each_line(file, next, &mut visit)?
            }
            Input::Parquet { columns, .. } => {
                let mut rows = Rows::open(file, columns).map_err(wrong)?;
                each_row(file, || rows.next_row().map_err(wrong), &mut visit)?
            }
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

type Visit<'v> = &'v mut dyn FnMut(Place<'_>, Item) -> Result<ControlFlow<()>, SubmitError>;

fn each_line(
    file: &Path,
    mut next: impl FnMut() -> Result<Option<crate::jobs::lines::Line>, SubmitError>,
    visit: Visit<'_>,
) -> Result<ControlFlow<()>, SubmitError> {
    while let Some((number, entry)) = next()? {
        let place = Place {
            file,
            number,
            unit: "line",
        };
        let entry = entry.map_err(|error| place.wrong(error.problem))?;
        if visit(place, Item::Entry(entry))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn each_row(
    file: &Path,
    mut next: impl FnMut() -> Result<Option<(u64, Row)>, SubmitError>,
    visit: Visit<'_>,
) -> Result<ControlFlow<()>, SubmitError> {
    while let Some((number, row)) = next()? {
        if visit(
            Place {
                file,
                number,
                unit: "row",
            },
            Item::Row(row),
        )?
        .is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// How much one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLimits {
    pub(super) items_max: usize,
    pub(super) bytes_max: usize,
}

impl BatchLimits {
    pub(super) fn of(settings: &Settings, spec: &JobSpec, input: &Input) -> Result<BatchLimits, SubmitError> {
        let limits = &settings.limits;
        let (key, items_max, bytes_max) = match input {
            Input::Jsonl(_) => {
                let labels: usize = spec
                    .metadata
                    .iter()
                    .map(|(name, value)| 6 * (name.len() + value.len()) + 8)
                    .sum();
                let room = limits.message_bytes_max.get().saturating_sub(ENVELOPE_BYTES + labels);
                ("requests_per_batch_max", limits.requests_per_batch_max.get(), room)
            }
            Input::Parquet { .. } => {
                let bytes_max = usize::try_from(limits.claim_check_bytes_max.get()).unwrap_or(usize::MAX);
                (
                    "claim_check_rows_max",
                    limits.claim_check_rows_max.get(),
                    bytes_max.saturating_sub(ENVELOPE_BYTES),
                )
            }
        };
        if !(1..=items_max).contains(&spec.batch_size) {
            let found = spec.batch_size;
            let problem = format!("the batch size is {found}; give 1 to {items_max} (limits.{key})");
            return Err(SubmitError::Spec { problem });
        }
        Ok(BatchLimits {
            items_max: spec.batch_size,
            bytes_max,
        })
    }
}

/// Decides where batches begin; the same requests are cut the same way in both readings.
#[derive(Debug, Clone)]
pub(super) struct Batcher {
    limits: BatchLimits,
    items: usize,
    bytes: usize,
}

impl Batcher {
    pub(super) fn new(limits: BatchLimits) -> Batcher {
        Batcher {
            limits,
            items: 0,
            bytes: 0,
        }
    }

    /// True if a request of `size` bytes begins a batch.
    pub(super) fn begins(&mut self, size: usize) -> bool {
        let BatchLimits { items_max, bytes_max } = self.limits;
        let begins = self.items == 0 || self.items == items_max || self.bytes.saturating_add(size) > bytes_max;
        if begins {
            (self.items, self.bytes) = (0, 0);
        }
        self.items += 1;
        self.bytes = self.bytes.saturating_add(size);
        begins
    }
}
