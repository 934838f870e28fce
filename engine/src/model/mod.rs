//! A model: its configuration, its weights, its tokenizer and its chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::job::{Endpoint, Job, RequestError};

/// Choices about how a model is loaded; none of them changes an answer, save `date`.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Positions allowed to a request, if fewer than the model was trained for.
    pub context_length_max: Option<usize>,
    /// The day that a chat template sees through `strftime_now`: year, month, day. Templates that ask for the date
    /// fail without one, for an answer must not depend on when it is computed.
    pub date: Option<(u16, u8, u8)>,
}

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
}

/// A loaded model, immutable; share it in an `Arc`.
pub struct Model {}

impl Model {
    /// Reads a Hugging Face directory: `config.json`, `*.safetensors`, `tokenizer.json`, and the chat template if there is one.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Model, LoadError> {
        let _ = (dir, options);
        unimplemented!()
    }

    /// SHA-256 of configuration and weights, in hexadecimal.
    pub fn digest(&self) -> &str {
        unimplemented!()
    }

    /// SHA-256 of the tokenizer's files, chat template included, in hexadecimal.
    pub fn tokenizer_digest(&self) -> &str {
        unimplemented!()
    }

    /// Positions that prompt and answer share.
    pub fn context_length(&self) -> usize {
        unimplemented!()
    }

    /// Turns a request body into a job: renders, tokenizes, and checks every field and limit. An unset `seed` follows
    /// from `request_key`, so that a request asked again gives the same answer.
    pub fn prepare(&self, endpoint: Endpoint, body: &Value, request_key: &str) -> Result<Job, RequestError> {
        let _ = (endpoint, body, request_key);
        unimplemented!()
    }

    /// Logits of every position, `[tokens, vocabulary]`, computed alone. For tests and inspection.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, RequestError> {
        let _ = tokens;
        unimplemented!()
    }
}
