//! Why a model is refused.

use std::path::{Path, PathBuf};

/// Why a model is refused. Nothing is loaded then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file says something that no model can mean.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The place in it, the value, and what was expected.
        message: String,
    },
    /// A tensor has another shape than the configuration demands.
    #[error("{}: tensor {tensor} has shape {found:?}, but config.json makes it {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A valid model of a kind that is not implemented.
    #[error("{}: {message}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, its value, and what is supported.
        message: String,
    },
    /// The instruction set asked for is not there.
    #[error("{0}")]
    Kernel(String),
}

impl LoadError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> LoadError {
        LoadError::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn invalid(path: &Path, message: impl Into<String>) -> LoadError {
        LoadError::Invalid {
            path: path.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn unsupported(path: &Path, message: impl Into<String>) -> LoadError {
        LoadError::Unsupported {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
