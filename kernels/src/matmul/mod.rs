//! The product of int8 activations with ternary matrices: exact sums, then one rounding.
//!
//! `sum = Σ w·a` is an exact i32, computed as `Σ (w + 1)·a − Σ a` with the unsigned codes of the packed form.
//! The output is `sum as f32 * (step * factor)`, in f32 and in this order: `step` is the token's
//! (`1 / activation scale`), `factor` the matrix's. Threads share the tiles of rows; since the sums are exact,
//! how they share them cannot be seen in the result.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512bw;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;

use std::ops::Range;

use rayon::prelude::*;

use crate::Kernel;
use crate::activations::{Activations, PANEL_TOKENS_MAX, Panel};
use crate::cpu::Pass;
use crate::float::simd::Simd;
use crate::memory::{Line, SharedRows};
use crate::ternary::{TILE_LANES, TILE_ROWS, TernaryMatrix};

/// Activations that a task may have: they stay in the L2 cache for every tile.
const TASK_BYTES_MAX: usize = 1 << 18;

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
    let outputs = projections
        .iter_mut()
        .map(|projection| (projection.weights, &mut *projection.out));
    sweep(kernel, activations, outputs.collect(), |token, weights, sums, out| {
        kernel.run(Scale {
            sums,
            by: activations.step(token) * weights.factor(),
            out,
        });
    });
}

/// The exact sums `[tokens, rows]` that [`matmul`] scales. For tests.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_i32(kernel: Kernel, activations: &Activations, weights: &TernaryMatrix, out: &mut [i32]) {
    sweep(kernel, activations, vec![(weights, out)], |_, _, sums, out| {
        out.copy_from_slice(sums)
    });
}

/// A tile of rows, and what to fetch while it is multiplied: a part of the tile that comes after it.
#[derive(Clone, Copy)]
struct Tile<'a> {
    lines: &'a [Line],
    ahead: &'a [Line],
}

/// The sums of a tile's rows with one token.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([i32; TILE_ROWS]);

impl Tile<'_> {
    /// The same tile with the part `from / of..to / of` of what is ahead.
    fn with_share_of_ahead(self, from: usize, to: usize, of: usize) -> Self {
        let len = self.ahead.len();
        Tile {
            ahead: &self.ahead[len * from / of..len * to / of],
            ..self
        }
    }
}

impl Sums {
    /// The sums of each group of 16 rows.
    fn groups(&mut self) -> &mut [[i32; TILE_LANES]] {
        self.0.as_chunks_mut().0
    }
}

/// Part of a product: one tile of one matrix with a range of panels.
struct Task {
    matrix: usize,
    tile: usize,
    panels: Range<usize>,
}

/// Computes the sums of every tile of every matrix and lets `finish(token, weights, sums, out)` write them.
fn sweep<T: Send>(
    kernel: Kernel,
    activations: &Activations,
    outputs: Vec<(&TernaryMatrix, &mut [T])>,
    finish: impl Fn(usize, &TernaryMatrix, &[i32], &mut [T]) + Sync,
) {
    let tokens = activations.tokens();
    let mut targets = Vec::with_capacity(outputs.len());
    for (index, (weights, out)) in outputs.into_iter().enumerate() {
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
        targets.push((weights, SharedRows::new(out, weights.rows())));
    }
    let mut tasks = Vec::new();
    let panels_max = (TASK_BYTES_MAX / (activations.cols() * activations.panel_width()).max(1)).max(1);
    for panels in even_ranges(activations.panels(), panels_max) {
        for (matrix, (weights, _)) in targets.iter().enumerate() {
            tasks.extend((0..weights.tiles()).map(|tile| Task {
                matrix,
                tile,
                panels: panels.clone(),
            }));
        }
    }
    let lines = |task: &Task| targets[task.matrix].0.tile(task.tile);
    tasks.par_iter().enumerate().for_each(|(index, task)| {
        let (weights, out) = &targets[task.matrix];
        let tile = Tile {
            lines: lines(task),
            ahead: lines(tasks.get(index + 1).unwrap_or(task)),
        };
        let first = task.tile * TILE_ROWS;
        let rows = TILE_ROWS.min(weights.rows() - first);
        let mut sums = [Sums([0; TILE_ROWS]); PANEL_TOKENS_MAX];
        for (i, panel) in task.panels.clone().enumerate() {
            let tile = tile.with_share_of_ahead(i, i + 1, task.panels.len());
            let sums = &mut sums[..activations.panel(panel).width()];
            tile_sums(kernel, tile, activations.panel(panel), sums);
            for (token, sums) in (panel * activations.panel_width()..).zip(sums) {
                // SAFETY: a tile and a token meet in one task, and it alone touches the tile's columns of their row.
                let out = unsafe { out.piece(token, first, rows) };
                finish(token, weights, &sums.0[..rows], out);
            }
        }
    });
}

/// The sums of one tile of rows with one panel of tokens, overwriting `sums [width]`.
fn tile_sums(kernel: Kernel, tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    match kernel {
        Kernel::Scalar => scalar::tile_sums(tile, panel, sums),
        // SAFETY: an `Avx2` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(_) => unsafe { avx2::tile_sums(tile, panel, sums) },
        // SAFETY: an `Avx512Bw` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Bw(_) => unsafe { avx512bw::tile_sums(tile, panel, sums) },
        // SAFETY: an `Avx512Vnni` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni(_) => unsafe { avx512vnni::tile_sums(tile, panel, sums) },
    }
}

/// `out = sums as f32 * by`.
struct Scale<'a> {
    sums: &'a [i32],
    by: f32,
    out: &'a mut [f32],
}

impl Pass for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, &sum) in self.out.iter_mut().zip(self.sums) {
            *out = sum as f32 * self.by;
        }
    }
}

/// Splits `0..len` into the fewest ranges of at most `len_max`, as even as can be: a register tile that is nearly
/// empty would waste the loads it makes.
fn even_ranges(len: usize, len_max: usize) -> impl Iterator<Item = Range<usize>> {
    let ranges = len.div_ceil(len_max);
    (0..ranges).map(move |i| i * len / ranges..(i + 1) * len / ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::COLS_MAX;

    #[test]
    fn ranges_are_even_and_cover_everything() {
        let ranges = |len| even_ranges(len, 6).map(|range| range.len()).collect::<Vec<_>>();
        assert_eq!(
            (ranges(0), ranges(6), ranges(7), ranges(20)),
            (vec![], vec![6], vec![3, 4], vec![5, 5, 5, 5])
        );
    }

    /// −128 is allowed by the quantizer's clamp, though its scale never makes it.
    #[test]
    fn the_largest_magnitudes_neither_wrap_nor_saturate() {
        for cols in [1, 63 * 4, 64 * 4 + 1, 2560, COLS_MAX] {
            for (weight, value) in [(-1, -128i8), (1, -128), (1, 127), (0, -128)] {
                let matrix = TernaryMatrix::from_weights(65, cols, 1.0, &vec![weight; 65 * cols]).unwrap();
                for tokens in [1, 2, 8, 25] {
                    let activations = Activations::uniform(value, tokens, cols);
                    let expected = i32::from(weight) * i32::from(value) * cols as i32;
                    for kernel in Kernel::available() {
                        let mut sums = vec![0; tokens * 65];
                        matmul_i32(kernel, &activations, &matrix, &mut sums);
                        let right = sums.iter().all(|&sum| sum == expected);
                        assert!(
                            right,
                            "{kernel}: {weight} times {value} over {cols} columns, {tokens} tokens"
                        );
                    }
                }
            }
        }
    }
}
