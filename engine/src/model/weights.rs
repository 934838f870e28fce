//! The weights of a model in the form that the kernels read, from whatever holds them on disk.

use kernels::float::DenseMatrix;
use kernels::ternary::TernaryMatrix;

use crate::model::config::{Architecture, Config};
use crate::model::error::LoadError;

/// Where tensors come from. They go by the names that Hugging Face gives them, and each can be taken once.
pub(crate) trait Source {
    /// A vector of that length.
    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError>;
    /// A table `[rows, cols]`, in the narrowest form that is exact.
    fn dense(&mut self, name: &str, shape: [usize; 2]) -> Result<DenseMatrix, LoadError>;
    /// A projection `[out, in]` with its scale as the factor of its products; `name` ends before `.weight`.
    fn ternary(&mut self, name: &str, shape: [usize; 2]) -> Result<TernaryMatrix, LoadError>;
    /// Embedding and head will take two bytes a value, as far as their types tell.
    fn tables_are_bf16(&self) -> bool;
    /// Fails if a tensor that means something was not taken.
    fn expect_empty(&self, tied: bool) -> Result<(), LoadError>;
}

/// All tensors of a model.
pub(crate) struct Weights {
    /// `[vocabulary, hidden]`
    pub(crate) embedding: DenseMatrix,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) norm: Vec<f32>,
    /// `[vocabulary, hidden]`, unless it is the embedding.
    pub(crate) head: Option<DenseMatrix>,
}

/// The tensors of one layer; only BitNet has sub-norms. Norms are `[cols of what follows]`, projections `[out, in]`.
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) q: TernaryMatrix,
    pub(crate) k: TernaryMatrix,
    pub(crate) v: TernaryMatrix,
    pub(crate) attention_sub_norm: Option<Vec<f32>>,
    pub(crate) o: TernaryMatrix,
    pub(crate) post_attention_norm: Vec<f32>,
    pub(crate) gate: TernaryMatrix,
    pub(crate) up: TernaryMatrix,
    pub(crate) feed_forward_sub_norm: Option<Vec<f32>>,
    pub(crate) down: TernaryMatrix,
}

impl Weights {
    /// The logits' matrix, `[vocabulary, hidden]`.
    pub(crate) fn head(&self) -> &DenseMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Takes every tensor out of `source`, and refuses one that is left over: it would have meant something.
    pub(crate) fn load(config: &Config, source: &mut dyn Source) -> Result<Weights, LoadError> {
        let table = [config.vocabulary, config.hidden];
        let embedding = source.dense("model.embed_tokens.weight", table)?; // first: it is the largest to read
        let head = if config.tied {
            None
        } else {
            Some(source.dense("lm_head.weight", table)?)
        };
        let layers = (0..config.layers)
            .map(|layer| LayerWeights::load(config, source, layer))
            .collect::<Result<_, _>>()?;
        let norm = source.floats("model.norm.weight", config.hidden)?;
        source.expect_empty(config.tied)?;
        Ok(Weights {
            embedding,
            layers,
            norm,
            head,
        })
    }
}

impl LayerWeights {
    fn load(config: &Config, source: &mut dyn Source, layer: usize) -> Result<LayerWeights, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let has_sub_norms = config.architecture == Architecture::BitNet;
        let sub_norm = |source: &mut dyn Source, part: &str, len: usize| {
            has_sub_norms.then(|| source.floats(&name(part), len)).transpose()
        };
        let Config {
            hidden, feed_forward, ..
        } = *config;
        let [q, k, v, o, gate, up, down] = config.projections();
        Ok(LayerWeights {
            input_norm: source.floats(&name("input_layernorm.weight"), hidden)?,
            q: source.ternary(&name("self_attn.q_proj"), q)?,
            k: source.ternary(&name("self_attn.k_proj"), k)?,
            v: source.ternary(&name("self_attn.v_proj"), v)?,
            attention_sub_norm: sub_norm(source, "self_attn.attn_sub_norm.weight", config.q_dim())?,
            o: source.ternary(&name("self_attn.o_proj"), o)?,
            post_attention_norm: source.floats(&name("post_attention_layernorm.weight"), hidden)?,
            gate: source.ternary(&name("mlp.gate_proj"), gate)?,
            up: source.ternary(&name("mlp.up_proj"), up)?,
            feed_forward_sub_norm: sub_norm(source, "mlp.ffn_sub_norm.weight", feed_forward)?,
            down: source.ternary(&name("mlp.down_proj"), down)?,
        })
    }
}
