//! The product of int8 activations with ternary matrices: exact sums, then one rounding.
//!
//! `sum = Σ w·a` is an exact i32, computed as `Σ (w + 1)·a − Σ a` with the unsigned codes of the packed form.
//! The output is `sum as f32 * (step * factor)`, in f32 and in this order: `step` is the token's
//! (`1 / activation scale`), `factor` the matrix's. Threads share the tiles of rows; since the sums are exact,
//! how they share them cannot be seen in the result.

mod scalar;

use rayon::prelude::*;

use crate::Kernel;
use crate::activations::Activations;
use crate::memory::SharedRows;
use crate::ternary::{TILE_ROWS, TernaryMatrix};

/// One of the matrices that the same activations are multiplied with.
#[derive(Debug)]
pub struct Projection<'a> {
    /// `[rows, cols]`.
    pub weights: &'a TernaryMatrix,
    /// `[tokens, rows]`, overwritten.
    pub out: &'a mut [f32],
}

/// Multiplies activations `[tokens, cols]` with every matrix, all in one parallel sweep over the current rayon
/// pool: give q, k and v, or gate and up, together.
///
/// # Panics
/// A matrix has other columns than the activations, or an output another length than `tokens * rows`.
pub fn matmul(kernel: Kernel, activations: &Activations, projections: &mut [Projection<'_>]) {
    let steps: Vec<f32> = (0..activations.tokens()).map(|token| activations.step(token)).collect();
    let outputs = projections.iter_mut().map(|projection| {
        let factor = projection.weights.factor();
        (projection.weights, &mut *projection.out, move |sum: i32, step: f32| {
            sum as f32 * (step * factor)
        })
    });
    sweep(kernel, activations, outputs.collect(), &steps);
}

/// The exact sums `[tokens, rows]` that [`matmul`] scales. For tests.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_i32(kernel: Kernel, activations: &Activations, weights: &TernaryMatrix, out: &mut [i32]) {
    let steps = vec![0.0; activations.tokens()];
    sweep(kernel, activations, vec![(weights, out, |sum, _| sum)], &steps);
}

/// Computes every tile of every output and writes `finish(sum, step)`.
fn sweep<T: Send, F: Fn(i32, f32) -> T + Sync>(
    kernel: Kernel,
    activations: &Activations,
    outputs: Vec<(&TernaryMatrix, &mut [T], F)>,
    steps: &[f32],
) {
    let tokens = activations.tokens();
    let mut tasks = Vec::new();
    let mut targets = Vec::with_capacity(outputs.len());
    for (index, (weights, out, finish)) in outputs.into_iter().enumerate() {
        assert_eq!(
            weights.cols(),
            activations.cols(),
            "matrix {index} has other columns than the activations"
        );
        assert_eq!(
            out.len(),
            tokens * weights.rows(),
            "output {index} is not [tokens, rows]"
        );
        tasks.extend((0..weights.tiles()).map(|tile| (index, tile)));
        targets.push((weights, SharedRows::new(out, weights.rows()), finish));
    }
    tasks
        .into_par_iter()
        .for_each_init(Vec::new, |sums: &mut Vec<[i32; TILE_ROWS]>, (index, tile)| {
            let (weights, out, finish) = &targets[index];
            sums.clear();
            sums.resize(tokens, [0; TILE_ROWS]);
            tile_sums(kernel, weights.tile(tile), activations, sums);
            let first = tile * TILE_ROWS;
            let rows = TILE_ROWS.min(weights.rows() - first);
            for (token, sums) in sums.iter().enumerate() {
                // SAFETY: each tile is one task, and it alone touches the tile's columns of `out`.
                let out = unsafe { out.piece(token, first, rows) };
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = finish(sum, steps[token]);
                }
            }
        });
}

/// The sums of one tile of rows with every token, `sums [tokens, 64]`.
fn tile_sums(
    _kernel: Kernel,
    tile: &[crate::memory::Line<u8>],
    activations: &Activations,
    sums: &mut [[i32; TILE_ROWS]],
) {
    for (token, sums) in sums.iter_mut().enumerate() {
        scalar::tile_row(tile, activations.padded(token), sums);
    }
}
