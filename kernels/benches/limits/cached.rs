//! How fast a ternary matrix that sits in L1 is unpacked and multiplied with one token.

use kernels::Kernel;
use kernels::activations::Activations;
use kernels::matmul::{Projection, matmul};
use kernels::ternary::TernaryMatrix;

use crate::cases::{noise, time};
use crate::clock::Clock;

/// One tile of 64 rows and 16 KiB.
const ROWS: usize = 64;
const COLS: usize = 1024;
/// Times that one product reads it: starting a product shall not count.
const TIMES: usize = 256;
const MIN_SECONDS: f64 = 0.005;

/// The matrix, and the token.
pub(crate) struct Cached {
    weights: TernaryMatrix,
    activations: Activations,
    out: Vec<f32>,
}

impl Cached {
    pub(crate) fn new(kernel: Kernel) -> Cached {
        let weights: Vec<i8> = noise(3, ROWS * COLS).map(|x| (x * 1.5).round() as i8).collect();
        let mut activations = Activations::new();
        activations.quantize(kernel, &noise(4, COLS).collect::<Vec<f32>>(), COLS);
        Cached {
            weights: TernaryMatrix::from_weights(ROWS, COLS, 0.01, &weights).expect("weights are ternary"),
            activations,
            out: vec![0.0; ROWS * TIMES],
        }
    }

    /// Multiply-adds a second of the current pool, which has one thread.
    pub(crate) fn macs(&mut self, kernel: Kernel, clock: Clock) -> f64 {
        let seconds = time(clock, MIN_SECONDS, &mut || {
            let weights = &self.weights;
            let outs = self.out.chunks_mut(ROWS);
            let mut products: Vec<_> = outs.map(|out| Projection { weights, out }).collect();
            matmul(kernel, &self.activations, &mut products);
        });
        (ROWS * COLS * TIMES) as f64 / seconds
    }
}
