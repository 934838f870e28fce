//! What a model costs: the work and the memory traffic of a step, for those who hold its speed against a limit.

use kernels::activations::Activations;
use kernels::matmul::{Projection, matmul};
use kernels::ternary::TernaryMatrix;

use crate::model::weights::LayerWeights;
use crate::model::{Forward, Model};

/// Sizes of a model. A step multiplies every token with all ternary weights, and every row wanted with the head's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Ternary weights, padding left out.
    pub ternary_weights: u64,
    /// Bytes of them as the kernels read them.
    pub ternary_bytes: u64,
    /// Weights of the LM head.
    pub head_weights: u64,
    /// Bytes of the head that a step reads to choose the likeliest tokens.
    pub head_bytes: u64,
    /// Bytes of keys and values of one position, over all layers.
    pub position_bytes: u64,
    /// Multiply-adds of a token with one position of its context, over all layers.
    pub position_macs: u64,
}

/// The matrix products of a step and nothing else: no engine is faster.
pub struct Products<'m> {
    forward: &'m Forward,
    /// What each of a layer's four steps multiplies: `[tokens, cols]`.
    inputs: [Activations; 4],
    /// `[tokens, rows]` of the widest matrix, for each of those that share an input.
    outs: [Vec<f32>; 3],
    /// `[tokens, hidden]`
    states: Vec<f32>,
    /// `[tokens, vocabulary]`
    logits: Vec<f32>,
}

impl Model {
    /// The sizes that decide how fast the model can be.
    pub fn footprint(&self) -> Footprint {
        let (config, weights) = (&self.forward.config, &self.forward.weights);
        let matrices = || weights.layers.iter().flat_map(products).flatten();
        let head = weights.head();
        Footprint {
            ternary_weights: matrices().map(|matrix| (matrix.rows() * matrix.cols()) as u64).sum(),
            ternary_bytes: matrices().map(|matrix| matrix.bytes_len() as u64).sum(),
            head_weights: (head.rows() * head.cols()) as u64,
            head_bytes: self.forward.head.bytes_len().unwrap_or(head.bytes_len()) as u64,
            position_bytes: (self.kv_shape(1, 16).block_bytes_len().unwrap_or(0) / 16) as u64,
            position_macs: (config.layers * config.q_dim() * 2) as u64,
        }
    }

    /// The products of a step of so many tokens, each of which wants logits, ready to be computed again and again.
    pub fn products(&self, tokens: usize) -> Products<'_> {
        let config = &self.forward.config;
        let values = |cols: usize| -> Vec<f32> {
            let value = |i| (i * 7919 % 1009) as f32 / 504.0 - 1.0;
            (0..tokens * cols).map(value).collect()
        };
        let input = |cols| {
            let mut activations = Activations::new();
            activations.quantize(self.forward.kernel, &values(cols), cols);
            activations
        };
        let widest = config.feed_forward.max(config.hidden).max(config.q_dim());
        Products {
            forward: &self.forward,
            inputs: [config.hidden, config.q_dim(), config.hidden, config.feed_forward].map(input),
            outs: [(); 3].map(|()| vec![0.0; tokens * widest]),
            states: values(config.hidden),
            logits: vec![0.0; tokens * config.vocabulary],
        }
    }

    /// The name of the instruction set that it computes with.
    pub fn kernel_name(&self) -> &'static str {
        self.forward.kernel.name()
    }
}

impl Products<'_> {
    /// Computes them on the rayon pool in which it is called: the likeliest token of each state, or all logits.
    pub fn multiply(&mut self, likeliest_only: bool) {
        let Products {
            forward,
            inputs,
            outs,
            states,
            logits,
        } = self;
        let tokens = states.len() / forward.config.hidden;
        for layer in &forward.weights.layers {
            for (matrices, input) in products(layer).iter().zip(&*inputs) {
                let outs = matrices.iter().zip(&mut *outs);
                let mut projections: Vec<Projection<'_>> = outs
                    .map(|(weights, out)| Projection {
                        weights,
                        out: &mut out[..tokens * weights.rows()],
                    })
                    .collect();
                matmul(forward.kernel, input, &mut projections);
            }
        }
        match likeliest_only {
            true => forward.largest_logits(states, logits),
            false => forward.logits(states, logits),
        }
    }
}

/// A layer's matrices, those together that share an input.
fn products(layer: &LayerWeights) -> [Vec<&TernaryMatrix>; 4] {
    [
        vec![&layer.q, &layer.k, &layer.v],
        vec![&layer.o],
        vec![&layer.gate, &layer.up],
        vec![&layer.down],
    ]
}
