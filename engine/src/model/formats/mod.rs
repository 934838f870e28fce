//! How models lie on disk: Hugging Face directories and GGUF files, opened the same way.

pub(crate) mod tensor;
pub(crate) mod filler;
pub(crate) mod safetensors;
pub(crate) mod hugging_face;
pub(crate) mod gguf;
pub(crate) mod tiles;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use self::hugging_face::HuggingFace;
use self::safetensors::Checkpoint;
use crate::model::config::hugging_face::{self as config_json, TokenIds, WeightForm};
use crate::model::config::{Architecture, Config};
use crate::model::error::LoadError;
use crate::model::weights::Source;

/// Bytes of `config.json` and its like.
pub(crate) const JSON_BYTES_MAX: u64 = 256 << 20;

/// A model whose configuration and tokenizer are read, and whose weights are not.
pub(crate) struct Opened {
    pub(crate) config: Config,
    pub(crate) weights: Box<dyn Source + Send>,
    pub(crate) tokenizer: TokenizerFiles,
    /// Where its configuration stands.
    pub(crate) config_path: PathBuf,
    /// The files that hold configuration and weights.
    pub(crate) files: Vec<PathBuf>,
    /// What kind of files these are, in words.
    pub(crate) format: String,
    /// What cannot be known from them and would spoil every answer, in words.
    pub(crate) caution: Option<&'static str>,
}

/// A file in memory, or what would be in it.
pub(crate) struct TextFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// What a tokenizer is made of, under the names that Hugging Face has for it.
pub(crate) struct TokenizerFiles {
    /// `tokenizer.json`
    pub(crate) tokenizer: TextFile,
    /// `tokenizer_config.json`
    pub(crate) config: Option<TextFile>,
    /// `chat_template.jinja`
    pub(crate) template: Option<TextFile>,
}

impl Opened {
    /// Opens a GGUF file, a Hugging Face directory, or a directory with one GGUF file in it.
    pub(crate) fn open(path: &Path) -> Result<Opened, LoadError> {
        let metadata = std::fs::metadata(path).map_err(|source| LoadError::io(path, source))?;
        if !metadata.is_dir() {
            return gguf::open(path);
        }
        let config_path = path.join("config.json");
        match only_gguf(path)? {
            Some(file) if !config_path.exists() => gguf::open(&file),
            _ => Opened::hugging_face(path, config_path),
        }
    }

    fn hugging_face(dir: &Path, config_path: PathBuf) -> Result<Opened, LoadError> {
        let (mut config, form) = config_json::parse(&config_path, &read_bounded(&config_path, JSON_BYTES_MAX)?)?;
        config.eos = eos(dir, config.eos)?;
        let tokenizer = TokenizerFiles::read(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let name = match config.architecture {
            Architecture::BitNet => config_json::BITNET,
            Architecture::Llama => config_json::LLAMA,
        };
        let weights = match form {
            WeightForm::Multiply => "offline weights, scale multiplies",
            WeightForm::Divide => "offline weights, scale divides",
            WeightForm::Master => "master weights, made ternary at load",
            WeightForm::Tiles => "converted, read as it lies",
        };
        let mut files = vec![config_path.clone()];
        files.extend(checkpoint.paths().map(Path::to_owned));
        Ok(Opened {
            config,
            weights: Box::new(HuggingFace {
                checkpoint,
                form,
                buffer: Vec::new(),
            }),
            tokenizer,
            config_path,
            files,
            format: format!("safetensors, {name}: {weights}"),
            caution: None,
        })
    }

    /// SHA-256 of configuration and weights, in hexadecimal.
    pub(crate) fn digest(files: &[PathBuf]) -> Result<String, LoadError> {
        let mut sha = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for path in files {
            let io = |source| LoadError::io(path, source);
            let mut file = File::open(path).map_err(io)?;
            digest_head(&mut sha, path, file.metadata().map_err(io)?.len());
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
}

impl TokenizerFiles {
    /// Reads those of a directory.
    pub(crate) fn read(dir: &Path) -> Result<TokenizerFiles, LoadError> {
        let read = |name: &str| {
            let path = dir.join(name);
            let bytes = read_bounded(&path, JSON_BYTES_MAX)?;
            Ok(TextFile { path, bytes })
        };
        let read_if_there = |name: &str| dir.join(name).exists().then(|| read(name)).transpose();
        Ok(TokenizerFiles {
            tokenizer: read("tokenizer.json")?,
            config: read_if_there("tokenizer_config.json")?,
            template: read_if_there("chat_template.jinja")?,
        })
    }

    /// Every file there is.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TextFile> {
        [Some(&self.tokenizer), self.config.as_ref(), self.template.as_ref()]
            .into_iter()
            .flatten()
    }

    /// SHA-256 over all of them, in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        let mut sha = Sha256::new();
        for file in self.all() {
            digest_head(&mut sha, &file.path, file.bytes.len() as u64);
            sha.update(&file.bytes);
        }
        hex::encode(sha.finalize())
    }
}

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

/// The only GGUF file of a directory.
fn only_gguf(dir: &Path) -> Result<Option<PathBuf>, LoadError> {
    let io = |source| LoadError::io(dir, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension() == Some(OsStr::new("gguf")) {
            found.push(path);
        }
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// Name and length of a file, which its digest begins with.
fn digest_head(sha: &mut Sha256, path: &Path, len: u64) {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    sha.update((name.len() as u64).to_le_bytes());
    sha.update(name);
    sha.update(len.to_le_bytes());
}

/// The tokens that end a text: those of `generation_config.json` where it names any, else the configuration's.
fn eos(dir: &Path, of_config: Vec<u32>) -> Result<Vec<u32>, LoadError> {
    #[derive(Deserialize)]
    struct GenerationConfig {
        eos_token_id: Option<TokenIds>,
    }
    let path = dir.join("generation_config.json");
    if !path.exists() {
        return Ok(of_config);
    }
    let text = read_bounded(&path, JSON_BYTES_MAX)?;
    let parsed: GenerationConfig =
        serde_json::from_slice(&text).map_err(|error| LoadError::invalid(&path, error.to_string()))?;
    Ok(parsed.eos_token_id.map_or(of_config, TokenIds::into_vec))
}
