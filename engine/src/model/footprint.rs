//! What a model costs: the work and the memory traffic of a step, for those who hold its speed against a limit.

use crate::model::Model;

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

impl Model {
    /// The sizes that decide how fast the model can be.
    pub fn footprint(&self) -> Footprint {
        let (config, weights) = (&self.forward.config, &self.forward.weights);
        let matrices = || {
            weights.layers.iter().flat_map(|layer| {
                [
                    &layer.q,
                    &layer.k,
                    &layer.v,
                    &layer.o,
                    &layer.gate,
                    &layer.up,
                    &layer.down,
                ]
            })
        };
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

    /// The name of the instruction set that it computes with.
    pub fn kernel_name(&self) -> &'static str {
        self.forward.kernel.name()
    }
}
