//! Activations as int8, one scale per token.
//!
//! `scale = 127 / max(|x|, 1e-5)`, `q = clamp(round(x * scale), −128, 127)`, halves to even: BitNet b1.58's
//! activation quantization (Wang et al. 2023, arXiv 2310.11453; `ActQuant` in transformers).

use rayon::prelude::*;

use crate::Kernel;
use crate::cpu::Pass;
use crate::float::lanes::{LANES, max_abs_bits};
use crate::memory::{LINE_LEN, Line};

/// The smallest absmax: an all-zero token still has a finite scale.
const ABSMAX_MIN: f32 = 1e-5;
/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// `[tokens, cols]` of int8, with the step and the sum of each token. Refill it to reuse its memory.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    lines: Vec<Line<i8>>, // [tokens, lines in a row], zero behind the last column
    notes: Vec<Note>,
}

/// What is known of one token.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    step: f32,
    sum: i32,
}

impl Activations {
    /// Empty activations, to be filled.
    pub fn new() -> Self {
        Activations::default()
    }

    /// Quantizes `x [tokens, cols]` in place of what was there.
    ///
    /// A token that holds NaN or infinity has no scale: its step is NaN or infinite, and so are its products.
    ///
    /// # Panics
    /// `x` is not a whole number of rows of `cols`.
    pub fn quantize(&mut self, kernel: Kernel, x: &[f32], cols: usize) {
        let tokens = x.len().checked_div(cols).unwrap_or(0);
        assert_eq!(tokens * cols, x.len(), "activations are not whole rows of {cols}");
        (self.tokens, self.cols) = (tokens, cols);
        let row_lines = cols.div_ceil(LINE_LEN);
        self.lines.resize(tokens * row_lines, Line([0; LINE_LEN]));
        self.notes.resize(tokens, Note::default());
        let tokens_min = PARALLEL_MIN.div_ceil(cols.max(1));
        let rows = self
            .lines
            .par_chunks_mut(row_lines.max(1))
            .zip(&mut self.notes)
            .zip(x.par_chunks(cols.max(1)));
        rows.with_min_len(tokens_min)
            .for_each(|((out, note), x)| *note = kernel.run(Quantize { x, out }));
    }

    /// Tokens, the rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The int8 values of one token.
    pub fn row(&self, token: usize) -> &[i8] {
        let row_lines = self.cols.div_ceil(LINE_LEN);
        &Line::values(&self.lines[token * row_lines..(token + 1) * row_lines])[..self.cols]
    }

    /// What one unit of a token's int8 values stands for: `1 / scale`.
    pub fn step(&self, token: usize) -> f32 {
        self.notes[token].step
    }

    /// The sum of a token's int8 values.
    pub fn sum(&self, token: usize) -> i32 {
        self.notes[token].sum
    }

    /// Activations of these values, for tests of values that the quantizer never makes.
    #[cfg(test)]
    pub(crate) fn from_values(values: &[i8], cols: usize) -> Self {
        let mut activations = Activations::new();
        activations.quantize(Kernel::Scalar, &vec![0.0; values.len()], cols);
        let lines = activations.lines.chunks_mut(cols.div_ceil(LINE_LEN));
        for ((lines, note), values) in lines.zip(&mut activations.notes).zip(values.chunks(cols)) {
            for (line, values) in lines.iter_mut().zip(values.chunks(LINE_LEN)) {
                line.0[..values.len()].copy_from_slice(values);
            }
            note.sum = values.iter().map(|&q| i32::from(q)).sum();
        }
        activations
    }

    /// A token's values with the zeros that fill its last line, four in a word, in memory order.
    pub(crate) fn words(&self, token: usize) -> &[i32] {
        let row_lines = self.cols.div_ceil(LINE_LEN);
        Line::words(&self.lines[token * row_lines..(token + 1) * row_lines])
    }
}

/// Quantizes one token.
struct Quantize<'a> {
    x: &'a [f32],
    out: &'a mut [Line<i8>],
}

impl Pass for Quantize<'_> {
    type Output = Note;

    #[inline(always)]
    fn run(self) -> Note {
        let absmax = f32::from_bits(max_abs_bits(self.x));
        let scale = 127.0 / if absmax < ABSMAX_MIN { ABSMAX_MIN } else { absmax };
        let mut sums = [0i32; LANES];
        for (line, x) in self.out.iter_mut().zip(self.x.chunks(LINE_LEN)) {
            let mut padded = [0.0; LINE_LEN];
            padded[..x.len()].copy_from_slice(x);
            for (i, (q, x)) in line.0.iter_mut().zip(padded).enumerate() {
                let rounded = (x * scale).round_ties_even() as i32;
                let clamped = rounded.clamp(-128, 127);
                sums[i % LANES] += clamped;
                *q = clamped as i8;
            }
        }
        Note {
            step: 1.0 / scale,
            sum: sums.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(x: &[f32], expected: &[i8]) {
        for kernel in Kernel::available() {
            let mut activations = Activations::new();
            activations.quantize(kernel, x, x.len());
            assert_eq!(activations.row(0), expected, "{kernel}");
            assert_eq!(
                activations.sum(0),
                expected.iter().map(|&q| i32::from(q)).sum::<i32>(),
                "{kernel}"
            );
        }
    }

    #[test]
    fn halves_round_to_even_and_the_largest_becomes_127() {
        check(
            &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0],
            &[127, 0, 2, 2, 0, -2, -127],
        );
    }

    #[test]
    fn a_zero_token_stays_zero() {
        check(&[0.0; 70], &[0; 70]);
    }

    #[test]
    fn a_token_without_scale_poisons_its_step_alone() {
        for kernel in Kernel::available() {
            let mut activations = Activations::new();
            activations.quantize(kernel, &[1.0, f32::NAN, 1.0, -2.0, f32::INFINITY, 0.0], 2);
            assert!(activations.step(0).is_nan(), "{kernel}");
            assert_eq!(activations.step(1), 1.0 / (127.0 / 2.0), "{kernel}");
            assert!(activations.step(2).is_infinite(), "{kernel}");
        }
    }

    #[test]
    fn refilling_leaves_no_old_values_behind_the_last_column() {
        let mut activations = Activations::new();
        activations.quantize(Kernel::Scalar, &[1.0; 128], 64);
        activations.quantize(Kernel::Scalar, &[1.0; 6], 3);
        assert_eq!((activations.tokens(), activations.row(1)), (2, &[127i8; 3][..]));
        let [first, rest @ ..] = activations.words(1) else {
            panic!("one line")
        };
        assert_eq!((first.to_ne_bytes(), rest), ([127, 127, 127, 0], &[0; 15][..]));
    }
}
