//! What a model is and what it takes, told from its files' headers.

use std::path::{Path, PathBuf};

use kernels::float::KvShape;
use kernels::ternary::TernaryMatrix;
use serde::Serialize;

use super::LoadError;
use super::config::{Activation, Architecture, Config};
use super::formats::Opened;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What [`inspect`] tells. Sizes of files and memory are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelInfo {
    /// What kind of files these are.
    pub format: String,
    /// What cannot be known from the files and would spoil every answer.
    pub caution: Option<&'static str>,
    /// The files that hold configuration and weights.
    pub files: Vec<PathBuf>,
    /// Their size.
    pub files_bytes: u64,
    /// As [`Model::digest`](crate::Model::digest).
    pub digest: String,
    /// As [`Model::tokenizer_digest`](crate::Model::tokenizer_digest).
    pub tokenizer_digest: String,
    /// `BitNet` has norms before the output projections, `Llama` has none.
    pub architecture: &'static str,
    /// The function of the feed-forward gate: `relu2` or `silu`.
    pub activation: &'static str,
    /// Transformer blocks.
    pub layers: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Values between the feed-forward projections.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// The LM head is the embedding.
    pub tied: bool,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Chat messages can be rendered.
    pub chat_template: bool,
    /// Ternary weights.
    pub ternary_parameters: u64,
    /// All other weights; a tied head counts once.
    pub other_parameters: u64,
    /// Memory of the weights once loaded: two bits for ternary ones, bf16 for tables that it holds exactly.
    pub weights_bytes: u64,
    /// Memory of the int8 copy that the head gets on CPUs which multiply int8 by fours; none on others.
    pub head_copy_bytes: u64,
    /// Memory of keys and values, a position of a sequence.
    pub kv_bytes_per_token: u64,
}

/// Reads configuration, tokenizer and headers, and hashes the files; weights are not loaded.
///
/// # Errors
/// A file is missing, damaged, at odds with the configuration, or of a kind that is not implemented.
pub fn inspect(path: &Path) -> Result<ModelInfo, LoadError> {
    let opened = Opened::open(path)?;
    Tokenizer::new(&opened.tokenizer.tokenizer)?;
    let template = ChatTemplate::new(&opened.tokenizer, None)?;
    let mut files_bytes = 0;
    for file in &opened.files {
        let metadata = std::fs::metadata(file).map_err(|source| LoadError::io(file, source))?;
        files_bytes += metadata.len();
    }
    let Config {
        ref eos,
        layers,
        hidden,
        vocabulary,
        tied,
        ..
    } = opened.config;
    let config = &opened.config;
    let projections = config.projections();
    let ternary: usize = projections.iter().map(|[rows, cols]| rows * cols).sum();
    let ternary_bytes: usize = projections
        .iter()
        .map(|[rows, cols]| TernaryMatrix::stored_len(*rows, *cols).unwrap_or(usize::MAX))
        .sum();
    let table = vocabulary * hidden * if tied { 1 } else { 2 };
    let sub_norms = if config.architecture == Architecture::BitNet {
        config.q_dim() + config.feed_forward
    } else {
        0
    };
    let norms = layers * (2 * hidden + sub_norms) + hidden;
    let value_len = if opened.weights.tables_are_bf16() { 2 } else { 4 };
    Ok(ModelInfo {
        files_bytes,
        digest: Opened::digest(&opened.files)?,
        tokenizer_digest: opened.tokenizer.digest(),
        architecture: match config.architecture {
            Architecture::BitNet => "BitNet",
            Architecture::Llama => "Llama",
        },
        activation: match config.activation {
            Activation::ReluSquared => "relu2",
            Activation::Silu => "silu",
        },
        layers,
        hidden,
        feed_forward: config.feed_forward,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocabulary,
        context_length: config.context_length,
        tied,
        eos: eos.clone(),
        chat_template: template.is_some(),
        ternary_parameters: (layers * ternary) as u64,
        other_parameters: (table + norms) as u64,
        weights_bytes: (layers * ternary_bytes + table * value_len + norms * size_of::<f32>()) as u64,
        head_copy_bytes: (vocabulary * hidden) as u64,
        kv_bytes_per_token: kv_bytes_per_token(config),
        format: opened.format,
        caution: opened.caution,
        files: opened.files,
    })
}

fn kv_bytes_per_token(config: &Config) -> u64 {
    let block_len = 16;
    let shape = KvShape {
        layers: config.layers,
        blocks: 1,
        block_len,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
    };
    (shape.block_bytes_len().unwrap_or(usize::MAX) / block_len) as u64
}
