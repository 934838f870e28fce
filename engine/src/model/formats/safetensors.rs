//! Reads safetensors checkpoints, one file or several with an index, tensor by tensor.
//!
//! Headers are checked against the length of their file before anything is allocated, so a header cannot ask for
//! more memory than the file is long. Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;

use super::JSON_BYTES_MAX;
use super::tensor::{Tensor, TensorFile};
use crate::model::error::LoadError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The limit of the safetensors library itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The tensors of a model directory that nobody has taken yet.
pub(crate) struct Checkpoint {
    files: Vec<Arc<TensorFile>>,
    tensors: BTreeMap<String, Tensor<Dtype>>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` lists, and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
        let index = dir.join(INDEX);
        let mut checkpoint = Checkpoint {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if !index.exists() {
            checkpoint.add_file(dir.join(SINGLE))?;
            return Ok(checkpoint);
        }
        let weight_map = read_index(&index)?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        for name in names {
            if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
                let message = format!("weight_map names the file {name:?}, which must be a plain name in this folder");
                return Err(LoadError::invalid(&index, message));
            }
            checkpoint.add_file(dir.join(name))?;
        }
        for (tensor, file) in &weight_map {
            let found = checkpoint.tensors.get(tensor).map(|tensor| tensor.path().to_owned());
            if found != Some(dir.join(file)) {
                return Err(LoadError::invalid(
                    &index,
                    format!("tensor {tensor} is not in {file}, where weight_map puts it"),
                ));
            }
        }
        Ok(checkpoint)
    }

    /// The files, in the order of their names.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The tensors that were not taken.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = &Tensor<Dtype>> {
        self.tensors.values()
    }

    /// True until the tensor is taken.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes a tensor out.
    pub(crate) fn take(&mut self, name: &str) -> Result<Tensor<Dtype>, LoadError> {
        self.tensors.remove(name).ok_or_else(|| {
            let path = self.paths().next().unwrap_or(Path::new(SINGLE));
            LoadError::invalid(path, format!("tensor {name} is missing"))
        })
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), LoadError> {
        let mut file = File::open(&path).map_err(|source| LoadError::io(&path, source))?;
        let (start, metadata) = read_header(&path, &mut file)?;
        let file = Arc::new(TensorFile { path, file });
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets; // inside the file, as `read_header` checked
            let tensor = Tensor {
                file: Arc::clone(&file),
                name: name.clone(),
                kind: info.dtype,
                shape: info.shape.clone(),
                start: start + from as u64,
                bytes_len: to - from,
            };
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let message = format!("tensor {name} is also in {}", other.path().display());
                return Err(LoadError::invalid(&file.path, message));
            }
        }
        self.files.push(file);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let text = super::read_bounded(path, JSON_BYTES_MAX)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| LoadError::invalid(path, error.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(LoadError::invalid(path, "weight_map is empty"));
    }
    Ok(index.weight_map)
}

/// Where the data begins, and what the header says of it.
fn read_header(path: &Path, file: &mut File) -> Result<(u64, Metadata), LoadError> {
    let io = |source| LoadError::io(path, source);
    let file_len = file.metadata().map_err(io)?.len();
    if file_len < 8 {
        return Err(LoadError::invalid(
            path,
            format!("is {file_len} bytes long, too short for a safetensors file"),
        ));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let header_len = u64::from_le_bytes(length);
    if header_len > HEADER_BYTES_MAX || header_len > file_len - 8 {
        let message =
            format!("claims a header of {header_len} bytes in a file of {file_len}: truncated, or not safetensors");
        return Err(LoadError::invalid(path, message));
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| LoadError::invalid(path, format!("header: {error}")))?;
    let start = 8 + header_len;
    let data_len = metadata.data_len() as u64;
    if data_len != file_len - start {
        let message = format!(
            "its tensors take {data_len} bytes, but {} follow the header",
            file_len - start
        );
        return Err(LoadError::invalid(path, message));
    }
    Ok((start, metadata))
}
