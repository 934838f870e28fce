//! `bitnet model convert`: a model of any form to a folder that loads at once.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use engine::{ConvertError, LoadError, convert, inspect};

use crate::cli::{Exit, Failure};

const EXAMPLES: &str = "Examples:
  bitnet model convert bitnet-b1.58-2B-4T /srv/models/bitnet-2b
  bitnet model convert ggml-model-i2_s.gguf /srv/models/bitnet-2b";

/// `bitnet model convert`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// A Hugging Face folder, or a GGUF file
    from: PathBuf,
    /// The folder to write; it must not be there yet
    to: PathBuf,
}

impl Convert {
    pub(super) fn run(&self) -> Result<(), Failure> {
        convert(&self.from, &self.to)?;
        let info = inspect(&self.to)?;
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{}: {} bytes, digest {}",
            self.to.display(),
            info.files_bytes,
            info.digest
        )?;
        Ok(())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        let (exit, remedy) = match &error {
            LoadError::Io { .. } => (
                Exit::BadInput,
                "name a model's folder, or a GGUF file, that can be read",
            ),
            LoadError::Invalid { .. } | LoadError::Shape { .. } => (Exit::BadInput, "fetch the model's files again"),
            LoadError::Unsupported { .. } => (Exit::BadInput, "choose a model of a kind that README.md lists"),
            LoadError::Kernel(_) => (Exit::Usage, "unset BITNET_KERNEL, or set it to one of them"),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Failure {
        match error {
            ConvertError::Load(error) => error.into(),
            ConvertError::Exists(_) => Failure::new(Exit::Usage, error).help("a model in use is never overwritten"),
            ConvertError::Write { .. } => {
                Failure::new(Exit::Usage, error).help("name a folder inside one that exists, with room for the model")
            }
        }
    }
}
