//! Where a report goes, and in which form.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use billing::report::ReportError;
use billing::report::render::{self, WorkbookError};
use billing::report::sheet::Sheet;
use clap::{Args, ValueEnum};

use super::remedy;
use crate::cli::partial::Partial;
use crate::cli::{Exit, Failure};

/// Where a file goes.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Where it goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Files that hold rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RowFormat {
    /// Amounts exact
    Csv,
    /// Amounts exact, as DECIMAL(38,18)
    Parquet,
}

impl Target {
    /// Writes text, a file all at once or not at all.
    pub(super) fn text(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
        match &self.output {
            None => {
                let mut out = io::stdout().lock();
                write(&mut out)?;
                Ok(out.flush()?)
            }
            Some(path) => to_file(path, |file| {
                let mut out = BufWriter::new(file);
                write(&mut out)?;
                Ok(out.flush()?)
            }),
        }
    }

    /// Writes what is not text, which needs a file.
    pub(super) fn binary(&self, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<(), Failure> {
        match &self.output {
            Some(path) => to_file(path, write),
            None => Err(Failure::new(Exit::Usage, "this format is not text").help("name a file with -o")),
        }
    }

    /// Writes one sheet as rows.
    pub(super) fn rows(&self, sheet: Sheet<'_>, format: RowFormat, notes: &[(String, String)]) -> Result<(), Failure> {
        match format {
            RowFormat::Csv => self.text(|out| render::csv(sheet, out).map_err(written)),
            RowFormat::Parquet => self.binary(|file| render::parquet(sheet, notes, file).map_err(written)),
        }
    }
}

fn to_file(path: &Path, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<(), Failure> {
    let (partial, mut file) = Partial::create(path)?;
    write(&mut file)?;
    partial.finish()
}

/// Rows are made while they are written, so that either may have gone wrong.
pub(super) fn written(error: impl Error + Send + Sync + 'static) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let made = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(report) = made.and_then(|made| made.downcast_ref::<ReportError>()) {
            let (exit, remedy) = remedy(report);
            return Failure::new(exit, error).help(remedy);
        }
        cause = current.source();
    }
    Failure::new(Exit::Internal, error)
}

impl From<WorkbookError> for Failure {
    fn from(error: WorkbookError) -> Failure {
        match error {
            WorkbookError::Rows => Failure::new(Exit::Usage, error).help("write CSV or Parquet, or ask for one month"),
            WorkbookError::Write(_) => written(error),
        }
    }
}
