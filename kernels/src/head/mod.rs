//! The LM head where only the likeliest token counts: a shortlist in int8, decided in f32.
//!
//! Beside the table of bf16 or f32 lies a copy in int8 with a factor for each row, and states are split into two int8
//! values each, so `w·x = factor · (step₁ Σ w₁x₁ + step₀ Σ w₁x₀) + e`, whose error Cauchy-Schwarz bounds:
//! `|e| ≤ ‖w − w₁‖ ‖x‖ + ‖w₁‖ ‖x − x₁ − x₀‖`, and the rounding of f32. Rows whose bound from above is below the best bound
//! from below cannot be the largest. The few that remain get the very logits that [`DenseMatrix::logits`] computes, so the
//! choice is the same as without a shortlist, to the last bit, at a half of the memory read and a fraction of the
//! multiplications. Instruction sets without int8 products of four compute every logit instead.

mod pack;
#[cfg(target_arch = "x86_64")]
mod vnni;

use rayon::prelude::*;

use self::pack::{Packed, Rounding};
use crate::Kernel;
use crate::activations::Activations;
use crate::cpu::Pass;
use crate::float::DenseMatrix;
use crate::float::simd::Simd;
use crate::memory::SharedRows;
use crate::ternary::TILE_ROWS;

/// Of so many rows one may remain; with more, computing all logits of a state is faster.
const CANDIDATES_SHARE: usize = 32;

/// A dense matrix with its copy in int8, if the kernel has use for one.
#[derive(Debug)]
pub struct Head {
    packed: Option<Packed>,
}

/// More than all products of a row can lose below the smallest normal numbers.
const UNDERFLOW: f32 = 1e-30;

/// The states of a call, made int8.
struct States {
    /// Two tokens a state: its values and what their rounding left.
    split: Activations,
    /// `‖x‖`, rounded up.
    norms: Vec<f32>,
    /// `‖x − x₁ − x₀‖`, rounded up.
    errors: Vec<f32>,
}

impl Head {
    /// Prepares the head `matrix` for a kernel. Takes a byte for each of its values where the kernel multiplies int8.
    pub fn new(kernel: Kernel, matrix: &DenseMatrix) -> Head {
        Head {
            packed: pack::is_of_use(kernel, matrix.cols()).then(|| Packed::new(matrix)),
        }
    }

    /// Bytes that are read to find the largest logit.
    pub fn bytes_len(&self) -> Option<usize> {
        self.packed.as_ref().map(Packed::bytes_len)
    }

    /// Logits of each of `x [any, cols]` in which the largest are as [`DenseMatrix::logits`] has them, and every other is
    /// some value below the largest: `out [any, rows]`, good for taking the first of the largest. `matrix` is the one that the
    /// head was made of.
    ///
    /// # Panics
    /// A slice or the matrix has another shape.
    pub fn largest_logits(&self, kernel: Kernel, matrix: &DenseMatrix, x: &[f32], out: &mut [f32]) {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let states = x.len().checked_div(cols).unwrap_or(0);
        assert!(
            states * cols == x.len() && out.len() == states * rows,
            "x and out are not [any, {cols}] and [any, {rows}]"
        );
        let Some(packed) = self.packed.as_ref().filter(|_| x.iter().all(|x| x.is_finite())) else {
            return matrix.logits(kernel, x, out);
        };
        assert!(packed.rows() == rows, "the head is of another matrix");
        let split = States::new(kernel, x, cols);
        let best = bounds(kernel, packed, &split, &mut SharedRows::new(out, rows));
        let states = x.par_chunks_exact(cols).zip(out.par_chunks_exact_mut(rows.max(1)));
        states
            .zip(best)
            .for_each(|((x, out), best)| decide(kernel, matrix, x, best, out));
    }
}

impl States {
    fn new(kernel: Kernel, x: &[f32], cols: usize) -> States {
        let mut split = Activations::new();
        split.quantize(kernel, x, cols);
        let mut pairs = Vec::with_capacity(2 * x.len());
        for (state, x) in x.chunks_exact(cols).enumerate() {
            let step = split.step(state);
            pairs.extend_from_slice(x);
            pairs.extend(split.values(state).zip(x).map(|(q, x)| x - f32::from(q) * step));
        }
        split.quantize(kernel, &pairs, cols);
        let (mut norms, mut errors) = (Vec::new(), Vec::new());
        for (state, x) in x.chunks_exact(cols).enumerate() {
            let part = |token| split.values(token).map(f64::from);
            let steps = [split.step(2 * state), split.step(2 * state + 1)].map(f64::from);
            let rounded = part(2 * state)
                .zip(part(2 * state + 1))
                .map(|(high, low)| high * steps[0] + low * steps[1]);
            let error: f64 = x.iter().zip(rounded).map(|(x, r)| (f64::from(*x) - r).powi(2)).sum();
            norms.push(pack::norm_up(x.iter().map(|x| f64::from(*x).powi(2)).sum()));
            errors.push(pack::norm_up(error));
        }
        States { split, norms, errors }
    }

    fn len(&self) -> usize {
        self.norms.len()
    }
}

/// Writes to `out [states, rows]` what each logit cannot exceed, and returns for each state the best of what logits cannot
/// fall below.
fn bounds(kernel: Kernel, packed: &Packed, states: &States, out: &mut SharedRows<'_, f32>) -> Vec<f32> {
    let out = &*out;
    let none = || vec![f32::NEG_INFINITY; states.len()];
    let larger = |mut a: Vec<f32>, b: Vec<f32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
        a
    };
    (0..packed.tiles())
        .into_par_iter()
        .fold(none, |mut best, tile| {
            pack::products(kernel, packed, tile, &states.split, |first, sums| {
                for (i, [high, low]) in sums.as_chunks::<2>().0.iter().enumerate() {
                    let state = first / 2 + i;
                    let rows = tile * TILE_ROWS..packed.rows().min((tile + 1) * TILE_ROWS);
                    // SAFETY: a tile is one task, and it alone touches its columns of a state's row, one at a time.
                    let out = unsafe { out.piece(state, rows.start, rows.len()) };
                    let lowest = kernel.run(Bound {
                        sums: [&high.0, &low.0],
                        activation_sums: [states.split.sum(2 * state), states.split.sum(2 * state + 1)],
                        steps: [states.split.step(2 * state), states.split.step(2 * state + 1)],
                        norm: states.norms[state],
                        error: states.errors[state],
                        rounding: packed.rounding(tile),
                        out,
                    });
                    best[state] = best[state].max(lowest);
                }
            });
            best
        })
        .reduce(none, larger)
}

/// The bounds of a tile's logits with one state; returns the best one from below.
struct Bound<'a> {
    sums: [&'a [i32; TILE_ROWS]; 2],
    activation_sums: [i32; 2],
    steps: [f32; 2],
    norm: f32,
    error: f32,
    rounding: &'a Rounding,
    out: &'a mut [f32],
}

impl Pass for Bound<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let Bound {
            sums: [high, low],
            activation_sums,
            steps,
            rounding,
            ..
        } = self;
        let mut lowest = [f32::NEG_INFINITY; TILE_ROWS];
        let mut highest = [0f32; TILE_ROWS];
        for i in 0..TILE_ROWS {
            let high = (high[i] - pack::OFFSET * activation_sums[0]) as f32 * steps[0];
            let low = (low[i] - pack::OFFSET * activation_sums[1]) as f32 * steps[1];
            let logit = (high + low) * rounding.factors[i];
            let bound = rounding.errors[i] * self.norm + rounding.norms[i] * self.error + UNDERFLOW;
            lowest[i] = logit - bound;
            highest[i] = logit + bound;
        }
        self.out.copy_from_slice(&highest[..self.out.len()]);
        let lowest = &lowest[..self.out.len()];
        lowest
            .iter()
            .fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
    }
}

/// Replaces the bounds of rows that may be the largest by their logits.
fn decide(kernel: Kernel, matrix: &DenseMatrix, x: &[f32], best: f32, out: &mut [f32]) {
    // A bound that is not a number bounds nothing.
    let candidates: Vec<usize> = (0..out.len())
        .filter(|&row| out[row] >= best || out[row].is_nan())
        .collect();
    if candidates.len() > out.len() / CANDIDATES_SHARE + 1 {
        return matrix.logits(kernel, x, out);
    }
    for row in candidates {
        out[row] = matrix.logit(kernel, row, x);
    }
}

#[cfg(test)]
mod tests;
