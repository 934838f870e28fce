//! Models of random weights: as large and as fast as real ones, and of no use but to be measured.

use kernels::Kernel;
use kernels::float::{DenseMatrix, Rope};
use kernels::head::Head;
use kernels::ternary::TernaryMatrix;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::model::config::{Activation, Architecture, Config};
use crate::model::weights::{Source, Weights};
use crate::model::{LoadError, LoadOptions, Model, TextFile};
use crate::tokenizer::Tokenizer;

/// Columns that share a factor's inverse square root keep products near 1; ternary noise has a variance of 2/3.
const VARIANCE: f32 = 2.0 / 3.0;
const ROPE_THETA: f32 = 500_000.0;

/// Shapes of published models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// microsoft/bitnet-b1.58-2B-4T: 2.1 billion ternary weights, 0.3 billion in the embedding, which is the head too.
    Bitnet2B4T,
    /// The layout of it with two narrow layers, to try things out.
    Tiny,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 2] = [Shape::Bitnet2B4T, Shape::Tiny];

    /// The name on command lines and in records.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Bitnet2B4T => "2b4t",
            Shape::Tiny => "tiny",
        }
    }

    fn config(self) -> Config {
        let large = Config {
            architecture: Architecture::BitNet,
            activation: Activation::ReluSquared,
            layers: 30,
            hidden: 2560,
            feed_forward: 6912,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            vocabulary: 128_256,
            context_length: 4096,
            rms_norm_eps: 1e-5,
            rope_frequencies: Rope::frequencies(ROPE_THETA, 128),
            tied: true,
            eos: Vec::new(),
        };
        match self {
            Shape::Bitnet2B4T => large,
            Shape::Tiny => Config {
                layers: 2,
                hidden: 256,
                feed_forward: 640,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                rope_frequencies: Rope::frequencies(ROPE_THETA, 64),
                vocabulary: 512,
                ..large
            },
        }
    }
}

impl Model {
    /// A model of the shape with weights drawn from a fixed seed, the same everywhere. It ends no text by itself.
    ///
    /// # Errors
    /// The kernel asked for is not there.
    pub fn random(shape: Shape, options: &LoadOptions) -> Result<Model, LoadError> {
        let kernel = match &options.kernel {
            Some(name) => Kernel::named(name),
            None => Kernel::from_env(),
        };
        let kernel = kernel.map_err(|error| LoadError::Kernel(error.to_string()))?;
        let config = shape.config();
        let context_length = options
            .context_length_max
            .unwrap_or(usize::MAX)
            .clamp(1, config.context_length);
        let rope = Rope::new(&config.rope_frequencies, context_length);
        let weights = Weights::load(&config, &mut Noise::new(u64::MAX))?;
        let forward = super::Forward {
            head: Head::new(kernel, weights.head()),
            weights,
            rope,
            kernel,
            config,
        };
        Ok(Model {
            tokenizer: tokenizer(forward.config.vocabulary)?,
            forward,
            template: None,
            eos: Vec::new(),
            grammars: crate::grammar::Grammars::default(),
            context_length,
            digest: format!("random {}", shape.name()),
            tokenizer_digest: format!("random {}", shape.name()),
        })
    }

    /// The same model, which ends no text by itself: what it writes can be timed.
    pub fn without_end(self) -> Model {
        Model {
            eos: Vec::new(),
            ..self
        }
    }
}

impl Source for Noise {
    fn floats(&mut self, _: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok(vec![1.0; len]) // a norm
    }

    fn dense(&mut self, _: &str, [rows, cols]: [usize; 2]) -> Result<DenseMatrix, LoadError> {
        let mut bits = vec![0u16; rows * cols];
        bits.par_chunks_mut(cols).enumerate().for_each(|(row, out)| {
            let mut noise = Noise::new(row as u64);
            // bf16 of random sign and mantissa, 1/4 to 1 in magnitude.
            out.fill_with(|| (noise.next() >> 48) as u16 & 0x80ff | 0x3e80);
        });
        Ok(DenseMatrix::from_bf16(rows, cols, bits).expect("the length is right"))
    }

    fn ternary(&mut self, _: &str, [rows, cols]: [usize; 2]) -> Result<TernaryMatrix, LoadError> {
        let factor = 1.0 / (cols as f32 * VARIANCE).sqrt();
        let mut builder = TernaryMatrix::builder(rows, cols, factor).expect("the shape is possible");
        let mut row = vec![0i8; cols];
        for _ in 0..rows {
            for eight in row.chunks_mut(8) {
                // 85 or 86 of 256 values for each weight.
                let weights = self
                    .next()
                    .to_le_bytes()
                    .map(|byte| ((u32::from(byte) * 3) >> 8) as i8 - 1);
                eight.copy_from_slice(&weights[..eight.len()]);
            }
            builder.push_rows(&row).expect("weights are ternary");
        }
        Ok(builder.finish().expect("every row is there"))
    }

    fn tables_are_bf16(&self) -> bool {
        true
    }

    fn expect_empty(&self, _: bool) -> Result<(), LoadError> {
        Ok(())
    }
}

/// A tokenizer that knows `vocabulary` words.
fn tokenizer(vocabulary: usize) -> Result<Tokenizer, LoadError> {
    let words: Map<String, Value> = (0..vocabulary).map(|id| (format!("w{id}"), json!(id))).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
    });
    Tokenizer::new(&TextFile {
        path: "tokenizer.json".into(),
        bytes: file.to_string().into_bytes(),
    })
}

/// Xorshift64* (Marsaglia 2003, Vigna 2016).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_model_answers_with_finite_logits() {
        let model = Model::random(Shape::Tiny, &LoadOptions::default()).unwrap();
        let logits = model.logits(&[1, 2, 3]).unwrap();
        assert_eq!(logits.len(), 3 * 512);
        assert!(logits.iter().all(|logit| logit.is_finite()));
        assert!(logits.iter().any(|logit| *logit != logits[0]), "all logits are equal");
    }
}
