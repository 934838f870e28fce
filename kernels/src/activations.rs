//! Activations as int8, one scale per token, in the order that the kernels read them.
//!
//! `scale = 127 / max(|x|, 1e-5)`, `q = clamp(round(x * scale), −128, 127)`, halves to even: BitNet b1.58's
//! activation quantization (Wang et al. 2023, arXiv 2310.11453; `ActQuant` in transformers).
//!
//! Tokens are grouped in panels of up to twelve. A panel is a run of words, each four columns of one token, and the
//! words of its tokens take turns: `panel[c * width + t]` holds columns 4c to 4c + 3 of its token t. So a register
//! tile over a panel reads one stream from front to back.
//!
//! For AMX, many tokens are panels of one, each filling whole cache lines: rows, as its tile registers load them.

use rayon::prelude::*;

use crate::Kernel;
use crate::cpu::Pass;
use crate::float::lanes::{LANES, max_magnitude, padded};
use crate::float::simd::Simd;
use crate::memory::{WORDS, WordLine};
use crate::ternary::LINE_COLS;

/// The smallest absmax: an all-zero token still has a finite scale.
const ABSMAX_MIN: f32 = 1e-5;
/// The most tokens of a panel, what the registers of the widest kernel take.
pub(crate) const PANEL_TOKENS_MAX: usize = 12;
/// Tokens in rows are padded to a multiple of this, the rows of a tile register.
const ROWS_MULTIPLE: usize = 16;
/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// `[tokens, cols]` of int8, with the step and the sum of each token. Refill it to reuse its memory.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    in_rows: bool,
    lines: Vec<WordLine>, // panels one after another, zero behind the last column
    steps: Vec<f32>,
    sums: Vec<i32>,
}

/// Up to [`PANEL_TOKENS_MAX`] tokens.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// `[words of a token, width]`.
    pub(crate) words: &'a [i32],
    /// The sum of each token's values, `[width]`.
    pub(crate) sums: &'a [i32],
}

impl Panel<'_> {
    /// Its tokens.
    pub(crate) fn width(&self) -> usize {
        self.sums.len()
    }
}

impl Kernel {
    /// Whether so many tokens are worth tile registers.
    fn wants_rows(self, tokens: usize) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(_) => tokens > PANEL_TOKENS_MAX,
            _ => false,
        }
    }
}

impl Activations {
    /// Empty activations, to be filled.
    pub fn new() -> Self {
        Activations::default()
    }

    /// Quantizes `x [tokens, cols]` in place of what was there.
    ///
    /// A token that holds NaN or infinity has no scale: its values are 0, and its step is NaN or infinite, which makes
    /// its products NaN.
    ///
    /// # Panics
    /// `x` is not a whole number of rows of `cols`.
    pub fn quantize(&mut self, kernel: Kernel, x: &[f32], cols: usize) {
        let tokens = x.len().checked_div(cols).unwrap_or(0);
        assert_eq!(tokens * cols, x.len(), "activations are not whole rows of {cols}");
        self.quantize_computed(kernel, [tokens, cols], |token, row| {
            row.copy_from_slice(&x[token * cols..(token + 1) * cols]);
        });
    }

    /// The same for rows that `compute(token, row)` writes: each is made int8 while it is in the cache of the thread that
    /// computed it.
    pub fn quantize_computed(
        &mut self,
        kernel: Kernel,
        [tokens, cols]: [usize; 2],
        compute: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        (self.tokens, self.cols) = (tokens, cols);
        self.in_rows = kernel.wants_rows(tokens);
        let (width, stride) = (self.panel_width(), self.stride());
        let tokens_padded = if self.in_rows {
            tokens.next_multiple_of(ROWS_MULTIPLE)
        } else {
            tokens
        };
        self.lines
            .resize((tokens_padded * stride).div_ceil(WORDS), WordLine([0; WORDS]));
        self.steps.resize(tokens, 0.0);
        self.sums.resize(tokens, 0);
        if tokens * cols == 0 {
            return;
        }
        let words = WordLine::flat_mut(&mut self.lines).par_chunks_mut(width * stride);
        let notes = self.steps.par_chunks_mut(width).zip(self.sums.par_chunks_mut(width));
        let panels = words.zip(notes).enumerate();
        panels.with_min_len(PARALLEL_MIN.div_ceil(width * cols)).for_each_init(
            || vec![0.0; cols],
            |row, (panel, (words, (steps, sums)))| {
                let tokens = steps.len();
                for token in 0..tokens {
                    compute(panel * width + token, row);
                    let words = &mut words[token..tokens * stride - (tokens - 1 - token)];
                    (steps[token], sums[token]) = kernel.run(Quantize {
                        x: row,
                        words,
                        width: tokens,
                    });
                }
            },
        );
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
    pub fn values(&self, token: usize) -> impl Iterator<Item = i8> {
        let Panel { words, sums } = self.panel(token / self.panel_width());
        let words = words[token % self.panel_width()..].iter().step_by(sums.len());
        words
            .flat_map(|word| word.to_ne_bytes())
            .map(|byte| byte as i8)
            .take(self.cols)
    }

    /// What one unit of a token's int8 values stands for: `1 / scale`.
    pub fn step(&self, token: usize) -> f32 {
        self.steps[token]
    }

    /// The sum of a token's int8 values.
    pub fn sum(&self, token: usize) -> i32 {
        self.sums[token]
    }

    /// Whether every panel is one token in whole cache lines, behind which more are readable up to a multiple of
    /// [`ROWS_MULTIPLE`] tokens.
    pub(crate) fn in_rows(&self) -> bool {
        self.in_rows
    }

    /// Tokens of every panel but the last: as even as panels of one width can be.
    pub(crate) fn panel_width(&self) -> usize {
        if self.in_rows {
            return 1;
        }
        self.tokens
            .div_ceil(self.tokens.div_ceil(PANEL_TOKENS_MAX).max(1))
            .max(1)
    }

    /// Words of a token.
    pub(crate) fn stride(&self) -> usize {
        let words = self.cols.div_ceil(LINE_COLS);
        if self.in_rows {
            words.next_multiple_of(WORDS)
        } else {
            words
        }
    }

    /// Panels.
    pub(crate) fn panels(&self) -> usize {
        self.tokens.div_ceil(self.panel_width())
    }

    /// One of the panels.
    pub(crate) fn panel(&self, panel: usize) -> Panel<'_> {
        let from = panel * self.panel_width();
        let to = self.tokens.min(from + self.panel_width());
        let words = &WordLine::flat(&self.lines)[from * self.stride()..to * self.stride()];
        Panel {
            words,
            sums: &self.sums[from..to],
        }
    }

    /// Activations of one value, for tests with −128, which the quantizer never makes.
    #[cfg(test)]
    pub(crate) fn uniform(value: i8, tokens: usize, cols: usize) -> Self {
        let mut activations = Activations::new();
        activations.quantize(Kernel::Scalar, &vec![127.0; tokens * cols], cols);
        for word in WordLine::flat_mut(&mut activations.lines) {
            *word = i32::from_ne_bytes(word.to_ne_bytes().map(|byte| if byte == 127 { value as u8 } else { 0 }));
        }
        activations.sums.fill(i32::from(value) * cols as i32);
        activations
    }

    /// The lines of the tokens from one on, which lie [in rows](Self::in_rows).
    pub(crate) fn rows(&self, first: usize) -> &[WordLine] {
        debug_assert!(self.in_rows);
        &self.lines[first * self.stride() / WORDS..]
    }
}

/// Quantizes one token into every `width`th word; returns its step and its sum.
struct Quantize<'a> {
    x: &'a [f32],
    words: &'a mut [i32],
    width: usize,
}

impl Pass for Quantize<'_> {
    type Output = (f32, i32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, i32) {
        let absmax = max_magnitude(simd, self.x);
        let scale = 127.0 / if absmax < ABSMAX_MIN { ABSMAX_MIN } else { absmax };
        let mut words = self.words.iter_mut().step_by(self.width);
        if !absmax.is_finite() {
            words.for_each(|word| *word = 0);
            return (1.0 / scale, 0);
        }
        let mut sums = [0i32; LANES];
        let (chunks, rest) = self.x.as_chunks::<LANES>();
        let last = padded(rest, 0.0);
        for x in chunks.iter().chain((!rest.is_empty()).then_some(&last)) {
            let values = simd.to_i8(simd.mul(simd.load(x), simd.splat(scale)));
            for i in 0..LANES {
                sums[i] += i32::from(values[i]);
            }
            for (four, word) in values.as_chunks::<LINE_COLS>().0.iter().zip(&mut words) {
                *word = i32::from_ne_bytes(four.map(|value| value as u8));
            }
        }
        words.for_each(|word| *word = 0); // to the end of a line
        (1.0 / scale, sums.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(x: &[f32], expected: &[i8]) {
        for kernel in Kernel::available() {
            let mut activations = Activations::new();
            activations.quantize(kernel, x, x.len());
            assert!(activations.values(0).eq(expected.iter().copied()), "{kernel}");
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
    fn panels_hold_every_token_and_refilling_leaves_nothing_old() {
        let mut activations = Activations::new();
        for (tokens, cols) in [(64, 70), (1, 3), (13, 9), (12, 64), (25, 5), (2, 1)] {
            let x: Vec<f32> = (0..tokens * cols)
                .map(|i| {
                    if i % cols == 0 {
                        127.0
                    } else {
                        (i * 11 % 200) as f32 - 100.0
                    }
                })
                .collect();
            activations.quantize(Kernel::best(), &x, cols);
            let widths: Vec<usize> = (0..activations.panels())
                .map(|panel| activations.panel(panel).width())
                .collect();
            assert!(widths.iter().sum::<usize>() == tokens && widths.iter().all(|&width| width <= PANEL_TOKENS_MAX));
            for (token, x) in x.chunks(cols).enumerate() {
                assert!(
                    activations.values(token).eq(x.iter().map(|&x| x as i8)),
                    "{token} of {tokens} x {cols}"
                );
                assert_eq!(activations.sum(token), x.iter().sum::<f32>() as i32);
            }
            let bytes: i32 = (0..activations.panels())
                .flat_map(|panel| activations.panel(panel).words)
                .flat_map(|word| word.to_ne_bytes())
                .map(|byte| i32::from(byte as i8))
                .sum();
            assert_eq!(
                bytes,
                activations.sums.iter().sum::<i32>(),
                "what fills the last word is not zero"
            );
        }
    }
}
