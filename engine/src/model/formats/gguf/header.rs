//! The header of a GGUF file: its metadata, and where its tensors lie.
//!
//! Every length, offset and type is checked against the length of the file before anything is allocated for it. Format:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::kind::Kind;
use super::metadata::{Metadata, Value};
use crate::model::error::LoadError;
use crate::model::formats::tensor::{Tensor, TensorFile};

/// Bytes of everything before the tensors; the largest vocabularies in use take 20 MB.
const HEADER_BYTES_MAX: u64 = 64 << 20;
const ALIGNMENT_MAX: u64 = 1 << 20;
const DIMENSIONS_MAX: u32 = 4;

/// The tensors of a file, by name.
pub(super) type Tensors = BTreeMap<String, Tensor<Kind>>;

/// Reads the header of the file at `path`.
pub(super) fn read(path: &Path) -> Result<(Metadata, Tensors), LoadError> {
    let file = File::open(path).map_err(|source| LoadError::io(path, source))?;
    let file_len = file.metadata().map_err(|source| LoadError::io(path, source))?.len();
    let mut reader = Reader {
        path,
        inner: BufReader::new(&file),
        at: 0,
        end: file_len.min(HEADER_BYTES_MAX),
    };
    if reader.bytes(4)? != b"GGUF" {
        return Err(LoadError::invalid(path, "does not begin with \"GGUF\""));
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        let message =
            format!("is GGUF version {version}, but only 2 and 3 are supported (a large number is big-endian)");
        return Err(LoadError::unsupported(path, message));
    }
    let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
    let mut values = BTreeMap::new();
    for _ in 0..value_count {
        let (key, value_type) = (reader.text()?, reader.u32()?);
        let value = reader.value(&key, value_type)?;
        if values.contains_key(&key) {
            return Err(LoadError::invalid(path, format!("{key} stands in it twice")));
        }
        values.insert(key, value);
    }
    let metadata = Metadata {
        path: path.to_owned(),
        values,
    };
    let infos = (0..tensor_count)
        .map(|_| reader.tensor_info())
        .collect::<Result<Vec<_>, _>>()?;
    let alignment = metadata.integer("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        let message = format!("general.alignment is {alignment}, but must be a power of two up to {ALIGNMENT_MAX}");
        return Err(LoadError::invalid(path, message));
    }
    let data_start = reader.at.next_multiple_of(alignment);
    drop(reader);
    let file = Arc::new(TensorFile {
        path: path.to_owned(),
        file,
    });
    let mut tensors = BTreeMap::new();
    for info in infos {
        let tensor = info.place(&file, data_start, alignment, file_len)?;
        if let Some(twice) = tensors.insert(tensor.name.clone(), tensor) {
            return Err(twice.error("stands in it twice"));
        }
    }
    Ok((metadata, tensors))
}

/// A tensor as the header describes it.
struct TensorInfo {
    name: String,
    /// Rows first.
    shape: Vec<usize>,
    kind: Kind,
    offset: u64,
}

impl TensorInfo {
    fn place(
        self,
        file: &Arc<TensorFile>,
        data_start: u64,
        alignment: u64,
        file_len: u64,
    ) -> Result<Tensor<Kind>, LoadError> {
        let TensorInfo {
            name,
            shape,
            kind,
            offset,
        } = self;
        let invalid = |message: String| LoadError::invalid(&file.path, format!("tensor {name} {message}"));
        let elements = shape.iter().try_fold(1usize, |product, len| product.checked_mul(*len));
        let cols = shape.last().copied().unwrap_or(0);
        let bytes_len = elements
            .and_then(|elements| kind.bytes_len(elements, cols))
            .ok_or_else(|| invalid(format!("of shape {shape:?} cannot be stored as {kind}")))?;
        if !offset.is_multiple_of(alignment) {
            return Err(invalid(format!(
                "begins at {offset}, which is no multiple of general.alignment, {alignment}"
            )));
        }
        let start = data_start.saturating_add(offset);
        if start.saturating_add(bytes_len as u64) > file_len {
            return Err(invalid(format!(
                "takes {bytes_len} bytes from {start} on, but the file is {file_len} bytes long: truncated?"
            )));
        }
        Ok(Tensor {
            file: Arc::clone(file),
            name,
            kind,
            shape,
            start,
            bytes_len,
        })
    }
}

/// Reads little-endian values, never beyond `end`.
struct Reader<'a> {
    path: &'a Path,
    inner: BufReader<&'a File>,
    at: u64,
    end: u64,
}

impl Reader<'_> {
    /// The next bytes, if there are so many.
    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, LoadError> {
        self.expect(len, 1)?;
        let mut bytes = vec![0; len as usize];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|source| LoadError::io(self.path, source))?;
        self.at += len;
        Ok(bytes)
    }

    /// Fails unless `count` things of at least `bytes_each` follow.
    fn expect(&self, count: u64, bytes_each: u64) -> Result<(), LoadError> {
        let left = self.end - self.at;
        if count > left / bytes_each {
            let message = format!(
                "claims {count} × {bytes_each} bytes at {}, where the header can have {left} more: truncated, or damaged",
                self.at
            );
            return Err(LoadError::invalid(self.path, message));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        self.expect(1, N as u64)?;
        let mut bytes = [0; N];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|source| LoadError::io(self.path, source))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, LoadError> {
        let (at, len) = (self.at, self.u64()?);
        String::from_utf8(self.bytes(len)?)
            .map_err(|error| LoadError::invalid(self.path, format!("the text at {at} is not UTF-8: {error}")))
    }

    fn tensor_info(&mut self) -> Result<TensorInfo, LoadError> {
        let (name, dimensions) = (self.text()?, self.u32()?);
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            let message = format!("tensor {name} has {dimensions} dimensions, but 1 to {DIMENSIONS_MAX} are possible");
            return Err(LoadError::invalid(self.path, message));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let len = self.u64()?;
            shape.push(usize::try_from(len).unwrap_or(usize::MAX));
        }
        shape.reverse();
        Ok(TensorInfo {
            name,
            shape,
            kind: Kind::from_code(self.u32()?),
            offset: self.u64()?,
        })
    }

    fn value(&mut self, key: &str, value_type: u32) -> Result<Value, LoadError> {
        if value_type != 9 {
            return self.scalar(key, value_type);
        }
        let (element_type, count) = (self.u32()?, self.u64()?);
        match element_type {
            8 => {
                self.expect(count, 8)?; // the length of each
                let texts = (0..count).map(|_| self.text()).collect::<Result<_, _>>()?;
                Ok(Value::Texts(texts))
            }
            0..=7 | 10..=12 => {
                self.expect(count, scalar_len(element_type))?;
                let number = |value| match value {
                    Value::Integer(value) => value as f32,
                    Value::Float(value) => value as f32,
                    _ => 0.0, // a bool: no key that matters here is an array of them
                };
                let numbers = (0..count).map(|_| self.scalar(key, element_type).map(number));
                Ok(Value::Numbers(numbers.collect::<Result<_, _>>()?))
            }
            _ => Err(LoadError::unsupported(
                self.path,
                format!("{key} is an array of type {element_type}, but only texts and numbers are supported"),
            )),
        }
    }

    fn scalar(&mut self, key: &str, value_type: u32) -> Result<Value, LoadError> {
        Ok(match value_type {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => {
                let message = format!("{key} has type {value_type}, which GGUF does not have");
                return Err(LoadError::invalid(self.path, message));
            }
        })
    }
}

/// Bytes of a number.
fn scalar_len(value_type: u32) -> u64 {
    match value_type {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}
