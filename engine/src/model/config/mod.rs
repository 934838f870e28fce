//! What a model computes: its sizes and its arithmetic, whatever file says so.
//!
//! Everything is checked here once, bounds included, so that later code may multiply sizes without overflow.

pub(crate) mod rope;
pub(crate) mod hugging_face;

use std::path::Path;

use crate::model::error::LoadError;

/// No size in a configuration may exceed this; their products then fit 64 bits.
pub(crate) const SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 4096;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) architecture: Architecture,
    pub(crate) activation: Activation,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context_length: usize,
    pub(crate) rms_norm_eps: f32,
    /// By how many radians a position turns each pair of a head's values, `[head_dim / 2]`.
    pub(crate) rope_frequencies: Vec<f32>,
    /// The LM head is the embedding.
    pub(crate) tied: bool,
    /// Tokens that end a text.
    pub(crate) eos: Vec<u32>,
}

/// What surrounds the projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// `BitNetForCausalLM`: norms before the output projections too.
    BitNet,
    /// `LlamaForCausalLM` with ternary projections: no such norms.
    Llama,
}

/// The non-linear function of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    ReluSquared,
    Silu,
}

impl Config {
    /// Values across all query heads.
    pub(crate) fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values across all key heads, and across all value heads.
    pub(crate) fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Shapes `[out, in]` of the projections of one layer, in the order in which they are computed: query, key, value,
    /// output, gate, up, down.
    pub(crate) fn projections(&self) -> [[usize; 2]; 7] {
        let (hidden, feed_forward, q_dim, kv_dim) = (self.hidden, self.feed_forward, self.q_dim(), self.kv_dim());
        [
            [q_dim, hidden],
            [kv_dim, hidden],
            [kv_dim, hidden],
            [hidden, q_dim],
            [feed_forward, hidden],
            [feed_forward, hidden],
            [hidden, feed_forward],
        ]
    }

    /// Checks sizes against their bounds and each other. `key` gives the name that the file at `path` has for a size, from
    /// the one that Hugging Face has.
    pub(crate) fn check(&self, path: &Path, key: impl Fn(&'static str) -> String) -> Result<(), LoadError> {
        let Config {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self;
        let sizes = [
            ("num_hidden_layers", self.layers, LAYERS_MAX),
            ("hidden_size", self.hidden, SIZE_MAX),
            ("intermediate_size", self.feed_forward, SIZE_MAX),
            ("num_attention_heads", heads, SIZE_MAX),
            ("num_key_value_heads", kv_heads, SIZE_MAX),
            ("head_dim", head_dim, SIZE_MAX),
            ("vocab_size", self.vocabulary, SIZE_MAX),
            ("max_position_embeddings", self.context_length, SIZE_MAX),
        ];
        if let Some((name, size, max)) = sizes.iter().find(|(_, size, max)| !(1..=*max).contains(size)) {
            let message = format!("{} is {size}, but must be from 1 to {max}", key(name));
            return Err(LoadError::invalid(path, message));
        }
        let wide = format!(
            "{} × {} is {}",
            key("num_attention_heads"),
            key("head_dim"),
            heads * head_dim
        );
        let message = if heads % kv_heads != 0 {
            let (heads_key, kv_key) = (key("num_attention_heads"), key("num_key_value_heads"));
            format!("{heads_key} is {heads}, but must be a multiple of {kv_key}, {kv_heads}")
        } else if head_dim % 2 != 0 {
            format!("{} is {head_dim}, but must be even", key("head_dim"))
        } else if heads * head_dim > SIZE_MAX {
            format!("{wide}, but must be at most {SIZE_MAX}")
        } else if self.architecture == Architecture::BitNet && heads * head_dim != self.hidden {
            format!(
                "{wide}, but attn_sub_norm wants {}, {}",
                key("hidden_size"),
                self.hidden
            )
        } else if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            format!("{} is {}, but must be positive", key("rms_norm_eps"), self.rms_norm_eps)
        } else if self.rope_frequencies.len() != head_dim / 2
            || !self.rope_frequencies.iter().all(|frequency| frequency.is_finite())
        {
            format!("the rotary frequencies are not {} finite numbers", head_dim / 2)
        } else {
            return Ok(());
        };
        Err(LoadError::invalid(path, message))
    }
}
