//! GGUF files of llama.cpp and bitnet.cpp: one file that holds weights, configuration, tokenizer and chat template.

mod header;
mod metadata;
mod kind;
mod config;
mod tokenizer;

use std::path::{Path, PathBuf};

use kernels::float::DenseMatrix;
use kernels::ternary::TernaryMatrix;

use self::header::Tensors;
use self::kind::{Kind, Ternary};
use super::Opened;
use super::filler::Filler;
use super::tensor::{Float, Tensor};
use crate::model::error::LoadError;
use crate::model::weights::Source;

/// `quantize_i2_s` in `ggml-bitnet-mad.cpp` of bitnet.cpp orders weights as the machine likes that it was compiled for.
const I2_S_CAUTION: &str = "read in the order that bitnet.cpp's converters and its x86 builds write, 128 weights in 32 bytes; its ARM builds \
     write 64 in 16, and a file does not say which it has: if every answer is nonsense, write it again on x86";

/// Opens the file at `path`.
pub(crate) fn open(path: &Path) -> Result<Opened, LoadError> {
    let (metadata, mut tensors) = header::read(path)?;
    let config = config::read(&metadata, &mut tensors)?;
    let (name, family) = config::family(&metadata)?;
    let kinds = |name: &str| {
        tensors
            .get(name)
            .map_or("?".to_owned(), |tensor| tensor.kind.to_string())
    };
    let format = format!(
        "GGUF, {name}: {} weights, {} embedding",
        kinds("blk.0.ffn_down.weight"),
        kinds("token_embd.weight")
    );
    let is_i2_s = |tensor: &Tensor<Kind>| tensor.kind == Kind::Ternary(Ternary::I2S);
    let caution = tensors.values().any(is_i2_s).then_some(I2_S_CAUTION);
    let heads = family.pairs_are_neighbours.then_some((config.heads, config.kv_heads));
    Ok(Opened {
        tokenizer: tokenizer::files(&metadata, &config)?,
        weights: Box::new(Gguf {
            path: path.to_owned(),
            tensors,
            permuted_heads: heads,
            buffer: Vec::new(),
        }),
        config,
        config_path: path.to_owned(),
        files: vec![path.to_owned()],
        format,
        caution,
    })
}

/// The tensors that nobody has taken yet.
struct Gguf {
    path: PathBuf,
    tensors: Tensors,
    /// Query and key heads, where the rows of their projections stand in another order.
    permuted_heads: Option<(usize, usize)>,
    /// Holds the bytes of one projection after the other: buffers of their own would leave holes between the matrices.
    buffer: Vec<u8>,
}

impl Source for Gguf {
    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.take(&name_of(name))?;
        tensor.expect_shape(&[len])?;
        match tensor.kind {
            Kind::Float(float) => tensor.floats(float),
            other => Err(tensor.error(format!("has type {other}, but F32, F16 or BF16 is expected"))),
        }
    }

    fn dense(&mut self, name: &str, [rows, cols]: [usize; 2]) -> Result<DenseMatrix, LoadError> {
        let tensor = self.take(&name_of(name))?;
        tensor.expect_shape(&[rows, cols])?;
        match tensor.kind {
            Kind::Float(float) => tensor.dense(float, [rows, cols]),
            Kind::Q8_0 => blocks(&tensor, [rows, cols], kind::q8_0),
            Kind::Q6K => blocks(&tensor, [rows, cols], kind::q6_k),
            other => Err(tensor.error(format!(
                "has type {other}, but F32, F16, BF16, Q8_0 or Q6_K is expected"
            ))),
        }
    }

    fn ternary(&mut self, name: &str, [rows, cols]: [usize; 2]) -> Result<TernaryMatrix, LoadError> {
        let stem = name_of(name);
        let tensor = self.take(&format!("{stem}.weight"))?;
        tensor.expect_shape(&[rows, cols])?;
        let Kind::Ternary(kind) = tensor.kind else {
            let message = format!(
                "has type {}, but a projection must be I2_S, TQ1_0 or TQ2_0",
                tensor.kind
            );
            return Err(tensor.error(message));
        };
        let extra = match self.tensors.contains_key(&format!("{stem}.scale")) {
            true => self.floats(&format!("{stem}.scale"), 1)?[0],
            false => 1.0,
        };
        let heads = self.permuted_heads.and_then(|(heads, kv_heads)| match name {
            _ if name.ends_with(".q_proj") => Some(heads),
            _ if name.ends_with(".k_proj") => Some(kv_heads),
            _ => None,
        });
        let bytes = tensor.bytes(&mut self.buffer)?;
        let (block_weights, block_len) = tensor.kind.block();
        let row_len = cols / block_weights * block_len;
        let scale = scale(&tensor, kind, bytes, rows * row_len)?;
        let mut filler = Filler::new(&tensor, rows, cols, scale * extra)?;
        let mut weights = Vec::with_capacity(cols);
        for row in 0..rows {
            let at = heads.map_or(row, |heads| neighbour_row(row, rows / heads)) * row_len;
            weights.clear();
            for block in bytes[at..at + row_len].chunks_exact(block_len) {
                let before = weights.len();
                kind.unpack(block, &mut weights);
                if kind.block_scale(block) == Some(0.0) {
                    weights[before..].fill(0);
                }
            }
            filler.push(weights.iter().copied())?;
        }
        filler.finish()
    }

    fn tables_are_bf16(&self) -> bool {
        // F16 mostly comes from bf16, and then bf16 holds it exactly.
        let mut tables = ["token_embd.weight", "output.weight"]
            .iter()
            .filter_map(|name| self.tensors.get(*name));
        tables.all(|tensor| matches!(tensor.kind, Kind::Float(Float::F16 | Float::Bf16)))
    }

    fn expect_empty(&self, _tied: bool) -> Result<(), LoadError> {
        match self.tensors.values().next() {
            Some(tensor) => Err(tensor.error("has no place in such a model")),
            None => Ok(()),
        }
    }
}

impl Gguf {
    fn take(&mut self, name: &str) -> Result<Tensor<Kind>, LoadError> {
        let missing = || LoadError::invalid(&self.path, format!("tensor {name} is missing"));
        self.tensors.remove(name).ok_or_else(missing)
    }
}

/// The one scale of a tensor. Blocks that have scales of their own must agree; those of zeros have none.
fn scale(tensor: &Tensor<Kind>, kind: Ternary, bytes: &[u8], weights_len: usize) -> Result<f32, LoadError> {
    let positive = |scale: f32| match scale.is_finite() && scale > 0.0 {
        true => Ok(scale),
        false => Err(tensor.error(format!("has the scale {scale}, but a scale must be positive"))),
    };
    if kind == Ternary::I2S {
        let tail = bytes[weights_len..].first_chunk().copied().unwrap_or_default();
        return positive(f32::from_le_bytes(tail));
    }
    let mut found = None;
    let (block_weights, block_len) = tensor.kind.block();
    for (index, block) in bytes.chunks_exact(block_len).enumerate() {
        let scale = kind.block_scale(block).filter(|scale| *scale != 0.0);
        match (found, scale) {
            (None, Some(scale)) => found = Some(positive(scale)?),
            (Some(first), Some(scale)) if scale != first => {
                let message = format!(
                    "has the scale {first}, but {scale} at weight {}: only one for all of it is supported",
                    index * block_weights
                );
                return Err(LoadError::unsupported(
                    tensor.path(),
                    format!("tensor {} {message}", tensor.name),
                ));
            }
            _ => (),
        }
    }
    Ok(found.unwrap_or(1.0))
}

/// Where llama.cpp puts a row of a query or key projection: values `i` and `i + head_dim / 2` of a head, which turn
/// together, become neighbours (`permute` in its `convert_hf_to_gguf.py`).
fn neighbour_row(row: usize, head_dim: usize) -> usize {
    let (head, value) = (row / head_dim, row % head_dim);
    let (pair, second) = (value % (head_dim / 2), value / (head_dim / 2));
    head * head_dim + pair * 2 + second
}

/// A table whose values stand in blocks with scales.
fn blocks(
    tensor: &Tensor<Kind>,
    [rows, cols]: [usize; 2],
    unpack: fn(&[u8], &mut Vec<f32>),
) -> Result<DenseMatrix, LoadError> {
    let (block_weights, block_len) = tensor.kind.block();
    let mut values = Vec::with_capacity(tensor.bytes_len / block_len * block_weights);
    let mut chunk = Vec::new();
    tensor.each_chunk(block_len, |bytes| {
        chunk.clear();
        bytes
            .chunks_exact(block_len)
            .for_each(|block| unpack(block, &mut chunk));
        tensor.extend_finite(&mut values, chunk.iter().copied())
    })?;
    DenseMatrix::from_f32(rows, cols, values).map_err(|error| tensor.error(error))
}

/// The name of a tensor in GGUF, from the one that Hugging Face has for it.
fn name_of(name: &str) -> String {
    const PARTS: [(&str, &str); 11] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.attn_sub_norm", "attn_sub_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.ffn_sub_norm", "ffn_sub_norm"),
        ("mlp.down_proj", "ffn_down"),
    ];
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        _ => (),
    }
    let name = name.replacen("model.layers.", "blk.", 1);
    match PARTS.iter().find(|(part, _)| name.contains(part)) {
        Some((part, ours)) => name.replacen(part, ours, 1),
        None => name,
    }
}
