//! A tensor in a file, read when it is wanted, a piece at a time where it is large.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use kernels::float::DenseMatrix;

use crate::model::error::LoadError;

/// Bytes read at once of a large tensor.
const CHUNK_LEN: usize = 1 << 20;

/// A file of tensors.
pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// One tensor, inside its file as far as that was checked when it was listed; `kind` is its type in the terms of the format.
pub(crate) struct Tensor<Kind> {
    pub(crate) file: Arc<TensorFile>,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    /// Where its bytes begin in the file.
    pub(crate) start: u64,
    pub(crate) bytes_len: usize,
}

/// How plain numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    fn bytes_len(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    fn widen(self, bytes: &[u8]) -> impl Iterator<Item = f32> {
        let value = move |bytes: &[u8]| match (self, bytes) {
            (Float::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Float::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (_, bytes) => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        };
        bytes.chunks_exact(self.bytes_len()).map(value)
    }
}

impl<Kind> Tensor<Kind> {
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// All bytes at once, in the memory of `buffer`.
    pub(crate) fn bytes<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], LoadError> {
        buffer.resize(self.bytes_len, 0);
        self.read(0, buffer)?;
        Ok(buffer)
    }

    /// Gives all bytes to `take`, a whole number of units at a time, until it returns false.
    pub(crate) fn each_chunk(
        &self,
        unit_len: usize,
        mut take: impl FnMut(&[u8]) -> Result<bool, LoadError>,
    ) -> Result<(), LoadError> {
        let chunk_len = (CHUNK_LEN / unit_len).max(1) * unit_len;
        let mut buffer = vec![0; chunk_len.min(self.bytes_len)];
        for at in (0..self.bytes_len).step_by(chunk_len) {
            let chunk = &mut buffer[..chunk_len.min(self.bytes_len - at)];
            self.read(at, chunk)?;
            if !take(chunk)? {
                break;
            }
        }
        Ok(())
    }

    /// Checks the shape that the configuration demands.
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<(), LoadError> {
        if self.shape == expected {
            return Ok(());
        }
        Err(LoadError::Shape {
            path: self.path().to_owned(),
            tensor: self.name.clone(),
            expected: expected.to_vec(),
            found: self.shape.clone(),
        })
    }

    /// All values as f32, each of them finite.
    pub(crate) fn floats(&self, float: Float) -> Result<Vec<f32>, LoadError> {
        let mut values = Vec::with_capacity(self.bytes_len / float.bytes_len());
        self.each_chunk(float.bytes_len(), |bytes| {
            self.extend_finite(&mut values, float.widen(bytes))
        })?;
        Ok(values)
    }

    /// A table of rows as bf16 if that holds every value exactly, else as f32.
    pub(crate) fn dense(&self, float: Float, [rows, cols]: [usize; 2]) -> Result<DenseMatrix, LoadError> {
        let mut bits: Vec<u16> = Vec::with_capacity(self.bytes_len / float.bytes_len());
        let mut exact = true;
        self.each_chunk(float.bytes_len(), |bytes| {
            let before = bits.len();
            bits.extend(float.widen(bytes).map(|value| {
                exact &= value.to_bits() & 0xffff == 0;
                (value.to_bits() >> 16) as u16
            }));
            let infinite = |bits: &u16| bits & 0x7f80 == 0x7f80;
            match bits[before..].iter().position(infinite) {
                Some(at) if exact => Err(self.not_finite(bf16::from_bits(bits[before + at]).to_f32(), before + at)),
                _ => Ok(exact),
            }
        })?;
        let matrix = if exact {
            DenseMatrix::from_bf16(rows, cols, bits)
        } else {
            drop(bits);
            DenseMatrix::from_f32(rows, cols, self.floats(float)?)
        };
        matrix.map_err(|error| self.error(error))
    }

    /// Appends values, unless one of them is not finite; gives true, to go on.
    pub(crate) fn extend_finite(
        &self,
        values: &mut Vec<f32>,
        more: impl Iterator<Item = f32>,
    ) -> Result<bool, LoadError> {
        let before = values.len();
        values.extend(more);
        match values[before..].iter().position(|value| !value.is_finite()) {
            None => Ok(true),
            Some(at) => Err(self.not_finite(values[before + at], before + at)),
        }
    }

    /// An error about this tensor; `what` continues the sentence "tensor x …".
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> LoadError {
        LoadError::invalid(self.path(), format!("tensor {} {what}", self.name))
    }

    fn not_finite(&self, value: f32, at: usize) -> LoadError {
        self.error(format!("is {value} at {}", self.index_of(at)))
    }

    fn read(&self, at: usize, buffer: &mut [u8]) -> Result<(), LoadError> {
        let read = self.file.file.read_exact_at(buffer, self.start + at as u64);
        read.map_err(|source| LoadError::io(self.path(), source))
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
