//! The weights of a model in the form that the kernels read, from any form that lies on disk.

use kernels::float::DenseMatrix;
use kernels::ternary::{TernaryBuilder, TernaryMatrix};
use safetensors::Dtype;

use crate::model::config::{Architecture, Config, WeightForm};
use crate::model::error::LoadError;
use crate::model::formats::safetensors::{Checkpoint, Tensor};

/// The smallest mean of |w| that scales master weights, as `WeightQuant` in transformers has it.
const MEAN_MIN: f64 = 1e-5;
/// Packed rows in one byte.
const PACKED_ROWS: usize = 4;

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

    /// Takes every tensor out of the checkpoint, and refuses one that is left over: it would have meant something.
    pub(crate) fn load(config: &Config, checkpoint: &mut Checkpoint) -> Result<Weights, LoadError> {
        let table = [config.vocabulary, config.hidden];
        let mut loader = Loader {
            checkpoint,
            form: config.weights,
        };
        let embedding = loader.dense("model.embed_tokens.weight", table)?; // first: it is the largest to hold twice
        let head = if config.tied {
            None
        } else {
            Some(loader.dense("lm_head.weight", table)?)
        };
        let layers = (0..config.layers)
            .map(|layer| loader.layer(config, layer))
            .collect::<Result<_, _>>()?;
        let norm = loader.floats("model.norm.weight", config.hidden)?;
        let harmless = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight");
        match checkpoint.remaining().find(|(name, _)| !harmless(name)) {
            Some((name, path)) => Err(LoadError::invalid(
                path,
                format!("tensor {name} has no place in such a model"),
            )),
            None => Ok(Weights {
                embedding,
                layers,
                norm,
                head,
            }),
        }
    }
}

struct Loader<'a> {
    checkpoint: &'a mut Checkpoint,
    form: WeightForm,
}

impl Loader<'_> {
    fn layer(&mut self, config: &Config, layer: usize) -> Result<LayerWeights, LoadError> {
        let Config {
            hidden, feed_forward, ..
        } = *config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let has_sub_norms = config.architecture == Architecture::BitNet;
        let sub_norm = |loader: &mut Self, part: &str, len: usize| {
            has_sub_norms.then(|| loader.floats(&name(part), len)).transpose()
        };
        Ok(LayerWeights {
            input_norm: self.floats(&name("input_layernorm.weight"), hidden)?,
            q: self.ternary(&name("self_attn.q_proj"), q_dim, hidden)?,
            k: self.ternary(&name("self_attn.k_proj"), kv_dim, hidden)?,
            v: self.ternary(&name("self_attn.v_proj"), kv_dim, hidden)?,
            attention_sub_norm: sub_norm(self, "self_attn.attn_sub_norm.weight", q_dim)?,
            o: self.ternary(&name("self_attn.o_proj"), hidden, q_dim)?,
            post_attention_norm: self.floats(&name("post_attention_layernorm.weight"), hidden)?,
            gate: self.ternary(&name("mlp.gate_proj"), feed_forward, hidden)?,
            up: self.ternary(&name("mlp.up_proj"), feed_forward, hidden)?,
            feed_forward_sub_norm: sub_norm(self, "mlp.ffn_sub_norm.weight", feed_forward)?,
            down: self.ternary(&name("mlp.down_proj"), hidden, feed_forward)?,
        })
    }

    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        tensor.expect_shape(&[len])?;
        tensor.floats()
    }

    /// A table of rows, left in bf16 where it lies so.
    fn dense(&mut self, name: &str, shape: [usize; 2]) -> Result<DenseMatrix, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        tensor.expect_shape(&shape)?;
        let [rows, cols] = shape;
        let matrix = if tensor.dtype == Dtype::BF16 {
            let bits = tensor.bf16_bits()?;
            DenseMatrix::from_bf16(rows, cols, bits)
        } else {
            DenseMatrix::from_f32(rows, cols, tensor.floats()?)
        };
        matrix.map_err(|error| tensor.error(error))
    }

    /// A projection `[rows, cols]` with its scale as the factor of its products.
    fn ternary(&mut self, name: &str, rows: usize, cols: usize) -> Result<TernaryMatrix, LoadError> {
        let (weight_name, scale_name) = (format!("{name}.weight"), format!("{name}.weight_scale"));
        let weight = self.checkpoint.take(&weight_name)?;
        match self.form {
            WeightForm::Master => {
                if self.checkpoint.contains(&scale_name) {
                    return Err(weight.error("has a weight_scale, but quantization_mode is \"online\""));
                }
                quantize(&weight, rows, cols)
            }
            WeightForm::Multiply => unpack(&weight, rows, cols, self.scale(&scale_name)?),
            WeightForm::Divide => unpack(&weight, rows, cols, 1.0 / self.scale(&scale_name)?),
        }
    }

    fn scale(&mut self, name: &str) -> Result<f32, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        if !tensor.shape.is_empty() {
            tensor.expect_shape(&[1])?;
        }
        match tensor.floats()?[..] {
            [scale] if scale > 0.0 && (1.0 / scale).is_finite() => Ok(scale),
            ref other => Err(tensor.error(format!("is {other:?}, but a scale must be positive"))),
        }
    }
}

/// Offline weights: four rows a byte as `pack_weights` in transformers has them, or {−1, 0, 1} as floats.
///
/// Row `r` of block `b` lies in bits `2b` and `2b + 1` of packed row `r`, as the weight plus one.
fn unpack(tensor: &Tensor, rows: usize, cols: usize, factor: f32) -> Result<TernaryMatrix, LoadError> {
    let mut filler = Filler::new(tensor, rows, cols, factor)?;
    if tensor.dtype != Dtype::U8 {
        let values = tensor.floats()?;
        tensor.expect_shape(&[rows, cols])?;
        for row in values.chunks_exact(cols) {
            filler.push(row.iter().map(|value| {
                if [-1.0, 0.0, 1.0].contains(value) {
                    *value as i8
                } else {
                    i8::MAX
                }
            }))?;
        }
        return filler.finish();
    }
    let packed_rows = rows.div_ceil(PACKED_ROWS);
    tensor.expect_shape(&[packed_rows, cols])?;
    for row in 0..rows {
        let (block, packed_row) = (row / packed_rows, row % packed_rows);
        let bytes = &tensor.bytes[packed_row * cols..(packed_row + 1) * cols];
        filler.push(bytes.iter().map(|byte| (byte >> (2 * block) & 3) as i8 - 1))?;
    }
    filler.finish()
}

/// Master weights: `s = 1 / mean|w|`, `round(w · s)` with halves to even, clamped to ±1; the product is divided by `s`.
fn quantize(tensor: &Tensor, rows: usize, cols: usize) -> Result<TernaryMatrix, LoadError> {
    tensor.expect_shape(&[rows, cols])?;
    let values = tensor.floats()?;
    let sum: f64 = values.iter().map(|value| f64::from(value.abs())).sum();
    let scale = 1.0 / (sum / values.len() as f64).max(MEAN_MIN) as f32;
    let mut filler = Filler::new(tensor, rows, cols, 1.0 / scale)?;
    for row in values.chunks_exact(cols) {
        filler.push(
            row.iter()
                .map(|value| (value * scale).round_ties_even().clamp(-1.0, 1.0) as i8),
        )?;
    }
    filler.finish()
}

/// Fills a matrix row by row and tells errors with the tensor's name.
struct Filler<'a> {
    tensor: &'a Tensor,
    builder: TernaryBuilder,
    row: Vec<i8>,
}

impl<'a> Filler<'a> {
    fn new(tensor: &'a Tensor, rows: usize, cols: usize, factor: f32) -> Result<Filler<'a>, LoadError> {
        let builder = TernaryMatrix::builder(rows, cols, factor).map_err(|error| tensor.error(error))?;
        Ok(Filler {
            tensor,
            builder,
            row: Vec::with_capacity(cols.min(tensor.bytes.len())),
        })
    }

    fn push(&mut self, weights: impl Iterator<Item = i8>) -> Result<(), LoadError> {
        self.row.clear();
        self.row.extend(weights);
        self.builder
            .push_rows(&self.row)
            .map_err(|error| self.tensor.error(error))
    }

    fn finish(self) -> Result<TernaryMatrix, LoadError> {
        self.builder.finish().map_err(|error| self.tensor.error(error))
    }
}
