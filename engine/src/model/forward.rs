//! The forward pass: a batch of tokens from any number of sequences to hidden states and logits.
//!
//! Every function works on all rows of the batch at once and no row sees another one, save through attention to its
//! own sequence; so a row's result does not depend on the batch. BitNet b1.58 as `modeling_bitnet.py` in transformers:
//! sub-norms before the output projections and squared ReLU, or Llama without them and with SiLU; activations made int8 before every ternary product.

use kernels::Kernel;
use kernels::activations::Activations;
use kernels::float::{KvCache, QuerySpan, Rope, add, attention, relu_squared, rms_norm, silu};
use kernels::head::Head;
use kernels::matmul::{Projection, matmul};
use kernels::ternary::TernaryMatrix;

use crate::batch::Batch;
use crate::model::config::{Activation, Config};
use crate::model::weights::{LayerWeights, Weights};

/// The arithmetic of one model.
pub(crate) struct Forward {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) rope: Rope,
    pub(crate) kernel: Kernel,
    pub(crate) head: Head,
}

/// Memory of the intermediate results, kept from step to step. It grows to the largest batch seen.
#[derive(Default)]
pub(crate) struct Workspace {
    hidden: Vec<f32>,         // [rows, hidden]: the residual stream
    q: Vec<f32>,              // [rows, heads * head_dim]
    k: Vec<f32>,              // [rows, kv_heads * head_dim]
    v: Vec<f32>,              // [rows, kv_heads * head_dim]
    attended: Vec<f32>,       // [rows, heads * head_dim]
    gate: Vec<f32>,           // [rows, feed_forward]
    up: Vec<f32>,             // [rows, feed_forward]
    added: Vec<f32>,          // [rows, hidden]
    activations: Activations, // [rows, any]
    wanted: Vec<f32>,         // [wanted rows, hidden]
}

impl Workspace {
    fn resize(&mut self, config: &Config, rows: usize, wanted: usize) {
        let Config {
            hidden, feed_forward, ..
        } = *config;
        self.hidden.resize(rows * hidden, 0.0);
        self.q.resize(rows * config.q_dim(), 0.0);
        self.k.resize(rows * config.kv_dim(), 0.0);
        self.v.resize(rows * config.kv_dim(), 0.0);
        self.attended.resize(rows * config.q_dim(), 0.0);
        self.gate.resize(rows * feed_forward, 0.0);
        self.up.resize(rows * feed_forward, 0.0);
        self.added.resize(rows * hidden, 0.0);
        self.wanted.resize(wanted * hidden, 0.0);
    }
}

impl Forward {
    /// Computes the batch, writes its keys and values to the cache, and returns the final hidden states, after the last
    /// norm, of the rows wanted: `[wanted, hidden]`.
    pub(crate) fn run<'w>(&self, batch: &Batch, cache: &mut KvCache, space: &'w mut Workspace) -> &'w [f32] {
        let hidden = self.config.hidden;
        space.resize(&self.config, batch.tokens.len(), batch.wanted.len());
        for (&token, row) in batch.tokens.iter().zip(space.hidden.chunks_exact_mut(hidden)) {
            self.weights.embedding.row(token as usize, row);
        }
        let spans: Vec<QuerySpan<'_>> = batch
            .spans
            .iter()
            .map(|span| QuerySpan {
                tokens: span.rows.clone(),
                position: batch.positions[span.rows.start] as usize,
                blocks: &batch.blocks[span.blocks.clone()],
            })
            .collect();
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attend(index, layer, batch, &spans, cache, space);
            self.feed_forward(layer, space);
        }
        let Workspace {
            hidden: rows, wanted, ..
        } = space;
        for (&row, out) in batch.wanted.iter().zip(wanted.chunks_exact_mut(hidden)) {
            out.copy_from_slice(&rows[row * hidden..(row + 1) * hidden]);
        }
        rms_norm(self.kernel, wanted, &self.weights.norm, self.config.rms_norm_eps);
        wanted
    }

    /// Logits of hidden states `[any, hidden]`, `out [any, vocabulary]`.
    pub(crate) fn logits(&self, hidden: &[f32], out: &mut [f32]) {
        self.weights.head().logits(self.kernel, hidden, out);
    }

    /// The same, good for taking the first of the largest, which alone are right: [`Head::largest_logits`].
    pub(crate) fn largest_logits(&self, hidden: &[f32], out: &mut [f32]) {
        self.head.largest_logits(self.kernel, self.weights.head(), hidden, out);
    }

    /// `hidden += o_proj(sub_norm(attention(norm(hidden))))`
    fn attend(
        &self,
        index: usize,
        layer: &LayerWeights,
        batch: &Batch,
        spans: &[QuerySpan<'_>],
        cache: &mut KvCache,
        space: &mut Workspace,
    ) {
        let kernel = self.kernel;
        let Workspace {
            hidden,
            q,
            k,
            v,
            attended,
            added,
            activations,
            ..
        } = space;
        self.quantize_normed(&layer.input_norm, hidden, activations);
        project(
            kernel,
            activations,
            [(&layer.q, &mut *q), (&layer.k, &mut *k), (&layer.v, &mut *v)],
        );
        self.rope.rotate(kernel, &batch.positions, q);
        self.rope.rotate(kernel, &batch.positions, k);
        cache.write(index, spans, k, v);
        attention(kernel, cache, index, self.config.heads, spans, q, attended);
        match &layer.attention_sub_norm {
            Some(norm) => self.quantize_normed(norm, attended, activations),
            None => activations.quantize(kernel, attended, self.config.q_dim()),
        }
        project(kernel, activations, [(&layer.o, &mut *added)]);
        add(kernel, hidden, added);
    }

    /// `hidden += down(sub_norm(act(gate(x)) · up(x)))`, `x = norm(hidden)`, `act` being relu² or SiLU
    fn feed_forward(&self, layer: &LayerWeights, space: &mut Workspace) {
        let kernel = self.kernel;
        let Workspace {
            hidden,
            gate,
            up,
            added,
            activations,
            ..
        } = space;
        self.quantize_normed(&layer.post_attention_norm, hidden, activations);
        project(kernel, activations, [(&layer.gate, &mut *gate), (&layer.up, &mut *up)]);
        let cols = self.config.feed_forward;
        activations.quantize_computed(kernel, [gate.len() / cols, cols], |token, row| {
            let of_token = token * cols..(token + 1) * cols;
            row.copy_from_slice(&gate[of_token.clone()]);
            match self.config.activation {
                Activation::ReluSquared => relu_squared(kernel, row, &up[of_token]),
                Activation::Silu => silu(kernel, row, &up[of_token]),
            }
            if let Some(norm) = &layer.feed_forward_sub_norm {
                rms_norm(kernel, row, norm, self.config.rms_norm_eps);
            }
        });
        project(kernel, activations, [(&layer.down, &mut *added)]);
        add(kernel, hidden, added);
    }

    /// Makes rows `x [rows, cols]` int8, through a norm `[cols]`.
    fn quantize_normed(&self, norm: &[f32], x: &[f32], activations: &mut Activations) {
        let (kernel, cols) = (self.kernel, norm.len());
        activations.quantize_computed(kernel, [x.len() / cols, cols], |token, row| {
            row.copy_from_slice(&x[token * cols..(token + 1) * cols]);
            rms_norm(kernel, row, norm, self.config.rms_norm_eps);
        });
    }
}

/// Multiplies the same activations with several matrices.
fn project<const N: usize>(kernel: Kernel, activations: &Activations, outputs: [(&TernaryMatrix, &mut Vec<f32>); N]) {
    let mut projections = outputs.map(|(weights, out)| Projection { weights, out });
    matmul(kernel, activations, &mut projections);
}
