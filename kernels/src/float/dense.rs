//! A dense matrix in bf16 or f32: the embedding table and the LM head, which are often one and the same.
//!
//! Rows stay as the model stores them, so an embedding is a copy. A logit is the row's dot product with a
//! hidden state in the lane order of [`lanes`](super::lanes); bf16 is widened to f32, exactly.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{Aligned, LANES, Lanes, padded, sum};
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;
use crate::memory::SharedRows;

/// Matrix rows of a task, a multiple of what the register tiles take.
const TASK_ROWS: usize = 48;
/// States of the largest register tile.
const STATES_MAX: usize = 8;
/// Columns of so many states that stay in the L1 cache while all rows of a task pass.
const BLOCK_COLS: usize = 512;

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

    /// Bytes that the values take.
    pub fn bytes_len(&self) -> usize {
        match &self.values {
            Values::Bf16(bits) => size_of_val(bits.as_slice()),
            Values::F32(values) => size_of_val(values.as_slice()),
        }
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
        let (out, panels) = (SharedRows::new(out, self.rows), panels(x, self.cols));
        (0..self.rows.div_ceil(TASK_ROWS)).into_par_iter().for_each(|task| {
            let rows = task * TASK_ROWS..self.rows.min((task + 1) * TASK_ROWS);
            let (cols, panels, out) = (self.cols, panels.as_slice(), &out);
            match &self.values {
                Values::Bf16(bits) => kernel.run(Block {
                    matrix: bits,
                    cols,
                    rows,
                    panels,
                    out,
                }),
                Values::F32(values) => kernel.run(Block {
                    matrix: values,
                    cols,
                    rows,
                    panels,
                    out,
                }),
            }
        });
    }
}

impl DenseMatrix {
    /// One logit of `x [cols]`, to the bit what [`logits`](Self::logits) gives.
    pub(crate) fn logit(&self, kernel: Kernel, row: usize, x: &[f32]) -> f32 {
        let range = row * self.cols..(row + 1) * self.cols;
        match &self.values {
            Values::Bf16(bits) => kernel.run(Dot { w: &bits[range], x }),
            Values::F32(values) => kernel.run(Dot { w: &values[range], x }),
        }
    }
}

/// The dot product of one row with one state.
struct Dot<'a, E> {
    w: &'a [E],
    x: &'a [f32],
}

impl<E: Element> Pass for Dot<'_, E> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (w, w_rest) = self.w.as_chunks::<LANES>();
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let mut acc = simd.splat(0.0);
        for (w, x) in w.iter().zip(x) {
            acc = simd.mul_add(E::load(simd, w), simd.load(x), acc);
        }
        if !w_rest.is_empty() {
            let (w, x) = (padded(w_rest, E::default()), padded(x_rest, 0.0));
            acc = simd.mul_add(E::load(simd, &w), simd.load(&x), acc);
        }
        let mut lanes = [0.0; LANES];
        simd.store(acc, &mut lanes);
        sum(&lanes)
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

/// Up to [`STATES_MAX`] hidden states, taking turns every sixteen columns, zero behind the last column.
struct Panel {
    width: usize,
    lanes: Vec<Aligned>, // [sixteens of columns, width]
}

fn panels(x: &[f32], cols: usize) -> Vec<Panel> {
    let pack = |x: &[f32]| {
        let width = x.len() / cols;
        let mut lanes = vec![Aligned([0.0; LANES]); cols.div_ceil(LANES) * width];
        for (state, x) in x.chunks_exact(cols).enumerate() {
            for (out, x) in lanes[state..].iter_mut().step_by(width).zip(x.chunks(LANES)) {
                out.0[..x.len()].copy_from_slice(x);
            }
        }
        Panel { width, lanes }
    };
    x.chunks((cols * STATES_MAX).max(1)).map(pack).collect()
}

/// The logits of a block of rows for all states.
struct Block<'a, E> {
    matrix: &'a [E],
    cols: usize,
    rows: Range<usize>,
    panels: &'a [Panel],
    out: &'a SharedRows<'a, f32>,
}

/// The lanes of a block's dot products with a panel.
type Sums = [[Aligned; TASK_ROWS]; STATES_MAX];

impl<E: Element> Pass for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (index, panel) in self.panels.iter().enumerate() {
            let mut sums: Sums = [[Aligned([0.0; LANES]); TASK_ROWS]; STATES_MAX];
            let mut state = 0;
            while state < panel.width {
                state += match panel.width - state {
                    STATES_MAX.. if S::WIDE => self.states::<S, STATES_MAX, 3>(simd, panel, state, &mut sums),
                    4.. if S::WIDE => self.states::<S, 4, 4>(simd, panel, state, &mut sums),
                    2.. => self.states::<S, 2, 2>(simd, panel, state, &mut sums),
                    _ => self.states::<S, 1, 4>(simd, panel, state, &mut sums),
                };
            }
            for (state, sums) in sums[..panel.width].iter().enumerate() {
                let state = index * STATES_MAX + state;
                // SAFETY: a block's rows are columns of `out` that no other block has; pieces live one at a time.
                let out = unsafe { self.out.piece(state, self.rows.start, self.rows.len()) };
                for (out, lanes) in out.iter_mut().zip(sums) {
                    *out = sum(&lanes.0);
                }
            }
        }
    }
}

impl<E: Element> Block<'_, E> {
    /// The lanes of `N` states of a panel with all rows, `M` at a time; returns `N`.
    #[inline(always)]
    fn states<S: Simd, const N: usize, const M: usize>(
        &self,
        simd: S,
        panel: &Panel,
        state: usize,
        sums: &mut Sums,
    ) -> usize {
        let block_cols = if N < STATES_MAX { self.cols } else { BLOCK_COLS };
        for from in (0..self.cols).step_by(block_cols) {
            let cols = from..self.cols.min(from + block_cols);
            let mut row = 0;
            while row < self.rows.len() {
                row += if self.rows.len() - row >= M {
                    self.tile::<S, N, M>(simd, (panel, state), row, cols.clone(), sums)
                } else {
                    self.tile::<S, N, 1>(simd, (panel, state), row, cols.clone(), sums)
                };
            }
        }
        N
    }

    /// Adds the products of some columns of `N` states and `M` rows, the first being `row` of the block; returns `M`.
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const M: usize>(
        &self,
        simd: S,
        (panel, state): (&Panel, usize),
        row: usize,
        cols: Range<usize>,
        sums: &mut Sums,
    ) -> usize {
        let first = self.rows.start + row;
        let w: [&[E]; M] = std::array::from_fn(|m| &self.matrix[(first + m) * self.cols..][cols.clone()]);
        let (chunks, rest) = (cols.len() / LANES, cols.len() / LANES * LANES..cols.len());
        let w_chunks = w.map(|w| &w.as_chunks().0[..chunks]);
        let mut x = panel.lanes[cols.start / LANES * panel.width..].chunks_exact(panel.width);
        let mut acc = [[simd.splat(0.0); M]; N];
        for n in 0..N {
            for m in 0..M {
                acc[n][m] = simd.load(&sums[state + n][row + m].0);
            }
        }
        for (c, x) in x.by_ref().take(chunks).enumerate() {
            for w in w_chunks {
                simd.prefetch(w[c].as_ptr().wrapping_add(self.cols * M)); // the rows that come next
            }
            step(simd, &x[state..], w_chunks.map(|w| &w[c]), &mut acc);
        }
        if let (Some(x), false) = (x.next(), rest.is_empty()) {
            let w = w.map(|w| padded(&w[rest.clone()], E::default()));
            step(simd, &x[state..], w.each_ref(), &mut acc);
        }
        for n in 0..N {
            for m in 0..M {
                simd.store(acc[n][m], &mut sums[state + n][row + m].0);
            }
        }
        M
    }
}

/// Adds the products of sixteen columns.
#[inline(always)]
fn step<S: Simd, E: Element, const N: usize, const M: usize>(
    simd: S,
    x: &[Aligned],
    w: [&[E; LANES]; M],
    acc: &mut [[S::V; M]; N],
) {
    let mut lanes = [simd.splat(0.0); M];
    for m in 0..M {
        lanes[m] = E::load(simd, w[m]);
    }
    for (x, acc) in x[..N].iter().zip(acc) {
        let x = simd.load(&x.0);
        for m in 0..M {
            acc[m] = simd.mul_add(lanes[m], x, acc[m]);
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
