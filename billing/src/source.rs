//! Price books and contracts are TOML files that people write; what is wrong with one is said with its
//! line and with what to do.

use std::ops::Range;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// What is wrong with a price book or contracts file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FileError {
    /// Which file, as it was named to us.
    pub file: String,
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong there and what to do.
    pub problem: String,
}

/// A file's text and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The file as a `T`; unknown keys are errors.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, FileError> {
        toml::from_str(self.text).map_err(|error| {
            let problem = error.message().replace('\n', " ");
            self.error(error.span().unwrap_or(0..0), problem)
        })
    }

    /// An error at the line where `span` starts.
    pub(crate) fn error(self, span: Range<usize>, problem: impl Into<String>) -> FileError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        FileError {
            file: self.name.to_owned(),
            line,
            problem: problem.into(),
        }
    }

    /// SHA-256 of the text in hexadecimal, as `sha256sum` prints it.
    pub(crate) fn sha256(self) -> String {
        hex::encode(Sha256::digest(self.text))
    }
}
