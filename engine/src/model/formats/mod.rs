//! How models lie on disk. One form so far: safetensors.

pub(crate) mod safetensors;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::model::error::LoadError;

/// A whole file of at most `bytes_max` bytes.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|source| LoadError::io(path, source))?;
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| LoadError::io(path, source))?;
    if bytes.len() as u64 > bytes_max {
        return Err(LoadError::invalid(path, format!("is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// SHA-256 over files, each with its name and length, in the order given; hexadecimal.
pub(crate) fn digest<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<String, LoadError> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let io = |source| LoadError::io(path, source);
        let mut file = File::open(path).map_err(io)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        sha.update((name.len() as u64).to_le_bytes());
        sha.update(name);
        sha.update(file.metadata().map_err(io)?.len().to_le_bytes());
        loop {
            let len = file.read(&mut buffer).map_err(io)?;
            if len == 0 {
                break;
            }
            sha.update(&buffer[..len]);
        }
    }
    Ok(hex::encode(sha.finalize()))
}
