//! Reads safetensors checkpoints, one file or several with an index, tensor by tensor.
//!
//! Headers are checked against the length of their file before anything is allocated, so a header cannot ask for
//! more memory than the file is long. Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use crate::model::config::JSON_BYTES_MAX;
use crate::model::error::LoadError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The limit of the safetensors library itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The tensors of a model directory that nobody has taken yet.
pub(crate) struct Checkpoint {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    file: usize,
    /// Where its bytes begin in the file.
    start: u64,
    info: TensorInfo,
}

/// One tensor as it lies in its file.
pub(crate) struct Tensor {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
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
            let found = checkpoint
                .tensors
                .get(tensor)
                .map(|place| &checkpoint.files[place.file].0);
            if found != Some(&dir.join(file)) {
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
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Names that were not taken, with the file that holds them.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.tensors
            .iter()
            .map(|(name, place)| (name.as_str(), self.files[place.file].0.as_path()))
    }

    /// True until the tensor is taken.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads a tensor and crosses it off.
    pub(crate) fn take(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let Some(place) = self.tensors.remove(name) else {
            let path = self.paths().next().unwrap_or(Path::new(SINGLE));
            return Err(LoadError::invalid(path, format!("tensor {name} is missing")));
        };
        let (path, file) = &mut self.files[place.file];
        let (from, to) = place.info.data_offsets;
        let mut bytes = vec![0; to - from]; // inside the file, as `read_header` checked
        file.seek(SeekFrom::Start(place.start + from as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| LoadError::io(path, source))?;
        let TensorInfo { dtype, shape, .. } = place.info;
        Ok(Tensor {
            path: path.clone(),
            name: name.to_owned(),
            dtype,
            shape,
            bytes,
        })
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), LoadError> {
        let mut file = File::open(&path).map_err(|source| LoadError::io(&path, source))?;
        let (start, metadata) = read_header(&path, &mut file)?;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let place = Place {
                file: index,
                start,
                info: info.clone(),
            };
            if let Some(other) = self.tensors.insert(name.clone(), place) {
                let other = self.files[other.file].0.display();
                return Err(LoadError::invalid(&path, format!("tensor {name} is also in {other}")));
            }
        }
        self.files.push((path, file));
        Ok(())
    }
}

impl Tensor {
    /// Checks the shape that the configuration demands.
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<(), LoadError> {
        if self.shape == expected {
            return Ok(());
        }
        let (path, tensor) = (self.path.clone(), self.name.clone());
        Err(LoadError::Shape {
            path,
            tensor,
            expected: expected.to_vec(),
            found: self.shape.clone(),
        })
    }

    /// All values as f32, each of them finite.
    pub(crate) fn floats(&self) -> Result<Vec<f32>, LoadError> {
        let values: Vec<f32> = match self.dtype {
            Dtype::F32 => self.chunks(f32::from_le_bytes),
            Dtype::F16 => self.chunks(|bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => self.chunks(|bytes| bf16::from_le_bytes(bytes).to_f32()),
            _ => return Err(self.error(format!("has type {:?}, but F32, F16 or BF16 is expected", self.dtype))),
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.error(format!("is {} at {}", values[at], self.index_of(at)))),
        }
    }

    /// The bits of BF16 values, each of them finite.
    pub(crate) fn bf16_bits(&self) -> Result<Vec<u16>, LoadError> {
        let bits: Vec<u16> = self
            .bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u16::from_le_bytes(*bytes))
            .collect();
        match bits.iter().position(|bits| !bf16::from_bits(*bits).is_finite()) {
            None => Ok(bits),
            Some(at) => Err(self.error(format!("is {} at {}", bf16::from_bits(bits[at]), self.index_of(at)))),
        }
    }

    /// An error about this tensor; `what` continues the sentence "tensor x …".
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> LoadError {
        LoadError::invalid(&self.path, format!("tensor {} {what}", self.name))
    }

    fn chunks<const N: usize>(&self, value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        self.bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|bytes| value(*bytes))
            .collect()
    }

    /// A flat position as indices, e.g. `[3, 17]`.
    fn index_of(&self, mut at: usize) -> String {
        let mut indices = vec![0; self.shape.len()];
        for (index, &len) in indices.iter_mut().zip(&self.shape).rev() {
            *index = at % len;
            at /= len;
        }
        format!("{indices:?}")
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
