//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).

use rayon::prelude::*;

use super::lanes::sum_of_squares;
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// `out = weight * (x * (1 / sqrt(mean(x²) + eps)))` for each row of `x [tokens, cols]`, `weight [cols]`.
///
/// # Panics
/// `x` is not whole rows of `weight.len()`, or `out` has another length.
pub fn rms_norm(kernel: Kernel, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len().max(1);
    assert!(
        x.len().is_multiple_of(cols) && x.len() == out.len(),
        "x and out are not [tokens, {cols}]"
    );
    let tokens_min = PARALLEL_MIN.div_ceil(cols);
    let rows = x
        .par_chunks(cols)
        .zip(out.par_chunks_mut(cols))
        .with_min_len(tokens_min);
    rows.for_each(|(x, out)| kernel.run(Normalise { x, weight, eps, out }));
}

/// The same in place, for one row `x [cols]`.
///
/// # Panics
/// `weight` has another length.
pub fn rms_norm_row(kernel: Kernel, x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "x is not [{}]", weight.len());
    kernel.run(NormaliseRow { x, weight, eps });
}

struct Normalise<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Pass for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let factor = factor(self.x, self.eps);
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = weight * (x * factor);
        }
    }
}

struct NormaliseRow<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Pass for NormaliseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let factor = factor(self.x, self.eps);
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = weight * (*x * factor);
        }
    }
}

/// What makes the mean square of a row 1.
#[inline(always)]
fn factor(x: &[f32], eps: f32) -> f32 {
    let mean = sum_of_squares(x) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_unit_mean_square() {
        let x = [3.0, -3.0, 3.0, 0.5, 0.5, 0.5];
        let mut out = [0.0; 6];
        rms_norm(Kernel::Scalar, &x, &[1.0, 2.0, 1.0], 0.0, &mut out);
        let expected = [1.0, -2.0, 1.0, 1.0, 2.0, 1.0];
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
    }

    #[test]
    fn a_row_in_place_has_the_same_bits() {
        let x: Vec<f32> = (0..77).map(|i| (i * 37 % 19) as f32 / 7.0 - 1.0).collect();
        for kernel in Kernel::available() {
            let (mut out, mut row) = (vec![0.0; 77], x.clone());
            rms_norm(kernel, &x, &x, 1e-5, &mut out);
            rms_norm_row(kernel, &mut row, &x, 1e-5);
            assert_eq!(out, row, "{kernel}");
        }
    }
}
