//! The configuration of a model from the metadata of its GGUF file.

use super::header::Tensors;
use super::kind::Kind;
use super::metadata::Metadata;
use super::tokenizer;
use crate::model::config::rope::{self, Scaling};
use crate::model::config::{Activation, Architecture, Config, SIZE_MAX};
use crate::model::error::LoadError;
use crate::model::formats::tensor::Float;

/// Factors that the rotary frequencies are divided by: how llama.cpp stores the scaling of Llama 3.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What the name of an architecture says.
pub(super) struct Family {
    pub(super) architecture: Architecture,
    pub(super) activation: Activation,
    /// Rows of the query and key projections are stored so that values which turn together are neighbours.
    pub(super) pairs_are_neighbours: bool,
}

/// Reads `general.architecture`. Activation functions as `build_bitnet` and `build_bitnet_158` of bitnet.cpp's llama.cpp have
/// them, the order of rows as its `llama_rope_type`.
pub(super) fn family(metadata: &Metadata) -> Result<(&str, Family), LoadError> {
    let name = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    let family = |architecture, activation, pairs_are_neighbours| Family {
        architecture,
        activation,
        pairs_are_neighbours,
    };
    let family = match name {
        "llama" => family(Architecture::Llama, Activation::Silu, true),
        "bitnet" => family(Architecture::BitNet, Activation::Silu, false),
        "bitnet-b1.58" | "bitnet-25" => family(Architecture::BitNet, Activation::ReluSquared, false),
        other => {
            let message = format!(
                "general.architecture is {other:?}, but only \"llama\", \"bitnet\", \"bitnet-b1.58\" and \"bitnet-25\" are supported"
            );
            return Err(LoadError::unsupported(&metadata.path, message));
        }
    };
    Ok((name, family))
}

/// Reads the configuration, and takes the rotary factors out of the tensors.
pub(super) fn read(metadata: &Metadata, tensors: &mut Tensors) -> Result<Config, LoadError> {
    let (name, family) = family(metadata)?;
    let key = |part: &str| format!("{name}.{part}");
    if let Some(files) = metadata.integer("split.count")?.filter(|files| *files > 1) {
        let message = format!("split.count is {files}: merge the files with llama.cpp's gguf-split first");
        return Err(LoadError::unsupported(&metadata.path, message));
    }
    let (hidden, heads) = (
        metadata.size(&key("embedding_length"))?,
        metadata.size(&key("attention.head_count"))?,
    );
    let optional = |part: &str, otherwise: usize| {
        let value = metadata.integer(&key(part))?;
        Ok(value.map_or(otherwise, |value| usize::try_from(value).unwrap_or(usize::MAX)))
    };
    let head_dim = optional("attention.key_length", hidden.checked_div(heads).unwrap_or(0))?;
    let eps = key("attention.layer_norm_rms_epsilon");
    let config = Config {
        architecture: family.architecture,
        activation: family.activation,
        layers: metadata.size(&key("block_count"))?,
        hidden,
        feed_forward: metadata.size(&key("feed_forward_length"))?,
        heads,
        kv_heads: optional("attention.head_count_kv", heads)?,
        head_dim,
        vocabulary: tensors.get("token_embd.weight").map_or(0, |tensor| tensor.shape[0]),
        context_length: metadata.size(&key("context_length"))?,
        rms_norm_eps: metadata.required(&eps, metadata.float(&eps)?)? as f32,
        rope_frequencies: rope_frequencies(metadata, name, head_dim.min(SIZE_MAX), tensors)?,
        tied: !tensors.contains_key("output.weight"),
        eos: tokenizer::end_tokens(metadata)?,
    };
    config.check(&metadata.path, |hugging_face| match hugging_face {
        "num_hidden_layers" => key("block_count"),
        "hidden_size" => key("embedding_length"),
        "intermediate_size" => key("feed_forward_length"),
        "num_attention_heads" => key("attention.head_count"),
        "num_key_value_heads" => key("attention.head_count_kv"),
        "head_dim" => key("attention.key_length"),
        "max_position_embeddings" => key("context_length"),
        "rms_norm_eps" => key("attention.layer_norm_rms_epsilon"),
        _ => "the number of rows of token_embd.weight".to_owned(),
    })?;
    for part in ["attention.value_length", "rope.dimension_count"] {
        let len = optional(part, head_dim)?;
        if len != head_dim {
            let message = format!(
                "{} is {len}, but only the length of a head, {head_dim}, is supported",
                key(part)
            );
            return Err(LoadError::unsupported(&metadata.path, message));
        }
    }
    Ok(config)
}

fn rope_frequencies(
    metadata: &Metadata,
    name: &str,
    head_dim: usize,
    tensors: &mut Tensors,
) -> Result<Vec<f32>, LoadError> {
    let base_key = format!("{name}.rope.freq_base");
    let base = metadata.float(&base_key)?.unwrap_or(10_000.0);
    if !((base as f32).is_finite() && base >= 1.0) {
        let message = format!("{base_key} is {base}, but must be at least 1");
        return Err(LoadError::invalid(&metadata.path, message));
    }
    let (type_key, factor_key) = (
        format!("{name}.rope.scaling.type"),
        format!("{name}.rope.scaling.factor"),
    );
    let scaling = match metadata.text(&type_key)?.unwrap_or("none") {
        "none" => Scaling::None,
        "linear" => match metadata.float(&factor_key)?.unwrap_or(1.0) {
            factor if factor > 0.0 && (factor as f32).is_finite() => Scaling::Linear(factor),
            factor => {
                let message = format!("{factor_key} is {factor}, but must be positive");
                return Err(LoadError::invalid(&metadata.path, message));
            }
        },
        other => {
            let message = format!("{type_key} is {other:?}, but only \"none\" and \"linear\" are supported");
            return Err(LoadError::unsupported(&metadata.path, message));
        }
    };
    let mut frequencies = rope::frequencies(base, head_dim, scaling);
    if let Some(factors) = tensors.remove(ROPE_FACTORS) {
        factors.expect_shape(&[head_dim / 2])?;
        let Kind::Float(Float::F32) = factors.kind else {
            return Err(factors.error(format!("has type {}, but F32 is expected", factors.kind)));
        };
        for (frequency, factor) in frequencies.iter_mut().zip(factors.floats(Float::F32)?) {
            *frequency /= factor;
        }
    }
    Ok(frequencies)
}
