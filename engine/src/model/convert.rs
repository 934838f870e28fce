//! Any model that loads, to a directory that loads at once: its weights as the kernels read them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::LoadError;
use super::config::hugging_face::tiles_json;
use super::formats::{Opened, tiles};
use super::weights::Weights;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// Why a model was not converted. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The model itself is refused.
    #[error("cannot load the model")]
    Load(#[from] LoadError),
    /// There is something where the result would go.
    #[error("{} is there already; remove it, or name another place", .0.display())]
    Exists(PathBuf),
    /// The result cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes the model at `from`, of any form that [`Model::load`](crate::Model::load) reads, as the directory `to`:
/// `config.json`, `model.safetensors`, and the tokenizer's files. It gives the same answers.
///
/// # Errors
/// The model is refused, `to` exists, or something cannot be written.
pub fn convert(from: &Path, to: &Path) -> Result<(), ConvertError> {
    if to.exists() {
        return Err(ConvertError::Exists(to.to_owned()));
    }
    let mut opened = Opened::open(from)?;
    // A directory that would not load is of no use to anyone.
    Tokenizer::new(&opened.tokenizer.tokenizer)?;
    ChatTemplate::new(&opened.tokenizer, None)?;
    let weights = Weights::load(&opened.config, &mut *opened.weights)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let partial = to.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ConvertError::Write { path, source }
    };
    fs::create_dir(&partial).map_err(failed(&partial))?;
    let written = write_all(&partial, &opened, &weights).and_then(|()| fs::rename(&partial, to).map_err(failed(to)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial); // the error that matters is the first one
    }
    written
}

fn write_all(dir: &Path, opened: &Opened, weights: &Weights) -> Result<(), ConvertError> {
    let write = |name: &Path, content: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
        let path = dir.join(name);
        let written = File::create_new(&path).and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            content(&mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
        });
        written.map_err(|source| ConvertError::Write { path, source })
    };
    let config = serde_json::to_string_pretty(&tiles_json(&opened.config)).unwrap_or_default();
    write(Path::new("config.json"), &|out| out.write_all(config.as_bytes()))?;
    for file in opened.tokenizer.all() {
        let name = Path::new(file.path.file_name().unwrap_or_default());
        write(name, &|out| out.write_all(&file.bytes))?;
    }
    write(Path::new("model.safetensors"), &|out| tiles::write(weights, out))
}
