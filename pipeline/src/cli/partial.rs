//! A file that appears under its name only when it is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Exit, Failure};

/// A file being written beside its final place; dropped unfinished, it is gone.
#[derive(Debug)]
pub(super) struct Partial {
    place: PathBuf,
    partial: PathBuf,
}

impl Partial {
    /// Creates `PLACE.partial`.
    pub(super) fn create(place: &Path) -> Result<(Partial, File), Failure> {
        let mut name = place.as_os_str().to_owned();
        name.push(".partial");
        let this = Partial {
            place: place.to_owned(),
            partial: name.into(),
        };
        let file = File::create(&this.partial).map_err(|error| this.failed(&error))?;
        Ok((this, file))
    }

    /// Puts the file in its place. Whoever wrote it must have flushed it.
    pub(super) fn finish(self) -> Result<(), Failure> {
        fs::rename(&self.partial, &self.place).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::new(Exit::Usage, format!("cannot write {}: {error}", self.place.display()))
            .help("name a file in a folder that exists and may be written to")
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `finish` there is nothing left under this name.
        let _ = fs::remove_file(&self.partial);
    }
}
