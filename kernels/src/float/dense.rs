//! A dense matrix in bf16 or f32: the embedding table and the LM head, which are often one and the same.
//!
//! Rows stay as the model stores them, so an embedding is a copy. A logit is the row's dot product with a
//! hidden state in the lane order of [`lanes`](super::lanes); bf16 is widened to f32, exactly.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{LANES, Lanes, padded, sum};
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;
use crate::memory::SharedRows;

/// Matrix rows of a task, a multiple of what the register tiles take.
const TASK_ROWS: usize = 48;

/// `[rows, cols]` of bf16 or f32.
#[derive(Debug)]
pub struct DenseMatrix {
    rows: usize,
    cols: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Bf16(Vec<u16>),
    F32(Vec<f32>),
}

/// The values are not `rows * cols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseError {
    /// Rows asked for.
    pub rows: usize,
    /// Columns asked for.
    pub cols: usize,
    /// Values given.
    pub len: usize,
}

impl DenseMatrix {
    /// From the bits of bf16 values.
    ///
    /// # Errors
    /// There are not `rows * cols` of them.
    pub fn from_bf16(rows: usize, cols: usize, bits: Vec<u16>) -> Result<DenseMatrix, DenseError> {
        check(rows, cols, bits.len())?;
        Ok(DenseMatrix {
            rows,
            cols,
            values: Values::Bf16(bits),
        })
    }

    /// From f32 values.
    ///
    /// # Errors
    /// There are not `rows * cols` of them.
    pub fn from_f32(rows: usize, cols: usize, values: Vec<f32>) -> Result<DenseMatrix, DenseError> {
        check(rows, cols, values.len())?;
        Ok(DenseMatrix {
            rows,
            cols,
            values: Values::F32(values),
        })
    }

    /// Rows: the vocabulary.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the hidden size.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Copies one row: a token's embedding, `out [cols]`.
    ///
    /// # Panics
    /// There is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.cols..(row + 1) * self.cols;
        match &self.values {
            Values::F32(values) => out.copy_from_slice(&values[range]),
            Values::Bf16(bits) => {
                assert_eq!(out.len(), self.cols, "a row has {} values", self.cols);
                out.iter_mut()
                    .zip(&bits[range])
                    .for_each(|(out, bits)| *out = widen(*bits));
            }
        }
    }

    /// The product of every row with each of `x [any, cols]`: logits `out [any, rows]`.
    /// Give only the hidden states whose logits are wanted.
    ///
    /// # Panics
    /// A slice has another shape.
    pub fn logits(&self, kernel: Kernel, x: &[f32], out: &mut [f32]) {
        let states = x.len().checked_div(self.cols).unwrap_or(0);
        assert_eq!(states * self.cols, x.len(), "x is not [any, {}]", self.cols);
        assert_eq!(out.len(), states * self.rows, "out is not [{states}, {}]", self.rows);
        let out = SharedRows::new(out, self.rows);
        (0..self.rows.div_ceil(TASK_ROWS)).into_par_iter().for_each(|task| {
            let rows = task * TASK_ROWS..self.rows.min((task + 1) * TASK_ROWS);
            match &self.values {
                Values::Bf16(bits) => kernel.run(Block {
                    matrix: bits,
                    cols: self.cols,
                    rows,
                    x,
                    out: &out,
                }),
                Values::F32(values) => kernel.run(Block {
                    matrix: values,
                    cols: self.cols,
                    rows,
                    x,
                    out: &out,
                }),
            }
        });
    }
}

impl fmt::Display for DenseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} values do not make a matrix of {} x {}",
            self.len, self.rows, self.cols
        )
    }
}

impl std::error::Error for DenseError {}

fn check(rows: usize, cols: usize, len: usize) -> Result<(), DenseError> {
    if rows.checked_mul(cols) == Some(len) {
        Ok(())
    } else {
        Err(DenseError { rows, cols, len })
    }
}

/// A stored value that widens to f32 exactly.
trait Element: Copy + Default + Sync {
    fn load<S: Simd>(simd: S, values: &[Self; LANES]) -> S::V;
}

impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, bits: &[u16; LANES]) -> S::V {
        simd.load_bf16(bits)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &Lanes) -> S::V {
        simd.load(values)
    }
}

fn widen(bf16: u16) -> f32 {
    f32::from_bits(u32::from(bf16) << 16)
}

/// The logits of a block of rows for all states.
struct Block<'a, E> {
    matrix: &'a [E],
    cols: usize,
    rows: Range<usize>,
    x: &'a [f32],
    out: &'a SharedRows<'a, f32>,
}

impl<E: Element> Pass for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let states = self.x.len().checked_div(self.cols).unwrap_or(0);
        let mut state = 0;
        while state < states {
            state += match states - state {
                8.. if S::WIDE => self.states::<S, 8, 3>(simd, state),
                4.. if S::WIDE => self.states::<S, 4, 4>(simd, state),
                2.. => self.states::<S, 2, 2>(simd, state),
                _ => self.states::<S, 1, 4>(simd, state),
            };
        }
    }
}

impl<E: Element> Block<'_, E> {
    /// The dot products of `N` states with all rows, `M` at a time; returns `N`.
    #[inline(always)]
    fn states<S: Simd, const N: usize, const M: usize>(&self, simd: S, state: usize) -> usize {
        let mut row = self.rows.start;
        while row < self.rows.end {
            if self.rows.end - row >= M {
                self.tile::<S, N, M>(simd, state, row);
                row += M;
            } else {
                self.tile::<S, N, 1>(simd, state, row);
                row += 1;
            }
        }
        N
    }

    /// The dot products of `N` states with `M` rows.
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const M: usize>(&self, simd: S, state: usize, row: usize) {
        let x: [&[f32]; N] = std::array::from_fn(|n| &self.x[(state + n) * self.cols..][..self.cols]);
        let w: [&[E]; M] = std::array::from_fn(|m| &self.matrix[(row + m) * self.cols..][..self.cols]);
        let (chunks, rest) = (self.cols / LANES, self.cols / LANES * LANES..self.cols);
        let (x_chunks, w_chunks) = (
            x.map(|x| &x.as_chunks().0[..chunks]),
            w.map(|w| &w.as_chunks().0[..chunks]),
        );
        let mut acc = [[simd.splat(0.0); M]; N];
        for c in 0..chunks {
            step(simd, x_chunks.map(|x| &x[c]), w_chunks.map(|w| &w[c]), &mut acc);
        }
        if !rest.is_empty() {
            let x = x.map(|x| padded(&x[rest.clone()], 0.0));
            let w = w.map(|w| padded(&w[rest.clone()], E::default()));
            step(simd, x.each_ref(), w.each_ref(), &mut acc);
        }
        for (n, acc) in acc.into_iter().enumerate() {
            // SAFETY: a block's rows are columns of `out` that no other block has, and pieces live one at a time.
            let out = unsafe { self.out.piece(state + n, row, M) };
            for (out, acc) in out.iter_mut().zip(acc) {
                let mut lanes = [0.0; LANES];
                simd.store(acc, &mut lanes);
                *out = sum(&lanes);
            }
        }
    }
}

/// Adds the products of sixteen columns.
#[inline(always)]
fn step<S: Simd, E: Element, const N: usize, const M: usize>(
    simd: S,
    x: [&Lanes; N],
    w: [&[E; LANES]; M],
    acc: &mut [[S::V; M]; N],
) {
    let mut lanes = [simd.splat(0.0); M];
    for m in 0..M {
        lanes[m] = E::load(simd, w[m]);
    }
    for n in 0..N {
        let x = simd.load(x[n]);
        for m in 0..M {
            acc[n][m] = simd.mul_add(lanes[m], x, acc[n][m]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + i / 7) % 19) as f32 / 8.0 - 1.0).collect()
    }

    #[test]
    fn logits_match_a_plain_sum_for_both_elements() {
        for (rows, cols, states) in [(1, 1, 1), (70, 33, 6), (130, 64, 1), (5, 16, 9), (3, 8, 0)] {
            let (w, x) = (values(rows * cols), values(states * cols));
            let bits = w.iter().map(|w| (w.to_bits() >> 16) as u16).collect();
            let matrices = [
                DenseMatrix::from_f32(rows, cols, w.clone()),
                DenseMatrix::from_bf16(rows, cols, bits),
            ]
            .map(Result::unwrap);
            for (kernel, matrix) in Kernel::available().flat_map(|kernel| matrices.iter().map(move |m| (kernel, m))) {
                let mut out = vec![0.0; states * rows];
                matrix.logits(kernel, &x, &mut out);
                for (i, logit) in out.iter().enumerate() {
                    let (x, w) = (&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
                    // Multiples of 1/64 below 2^18: every order of the sum is exact.
                    assert_eq!(*logit, x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>(), "{kernel} {i}");
                }
            }
        }
    }

    #[test]
    fn an_embedding_is_its_row() {
        let matrix = DenseMatrix::from_bf16(2, 2, vec![0, 0, 0x3f80, 0xc000]).unwrap();
        let mut out = [0.0; 2];
        matrix.row(1, &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let error = DenseMatrix::from_f32(usize::MAX, 2, vec![]).unwrap_err();
        assert_eq!(
            error,
            DenseError {
                rows: usize::MAX,
                cols: 2,
                len: 0
            }
        );
    }
}
