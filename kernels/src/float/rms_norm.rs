//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).

use rayon::prelude::*;

use super::lanes::sum_of_squares;
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// `x = weight * (x * (1 / sqrt(mean(x²) + eps)))` for each row of `x [tokens, cols]`, `weight [cols]`.
///
/// # Panics
/// `x` is not whole rows of `weight.len()`.
pub fn rms_norm(kernel: Kernel, x: &mut [f32], weight: &[f32], eps: f32) {
    let cols = weight.len().max(1);
    assert!(x.len().is_multiple_of(cols), "x is not [tokens, {cols}]");
    x.par_chunks_mut(cols)
        .with_min_len(PARALLEL_MIN.div_ceil(cols))
        .for_each(|x| kernel.run(Normalise { x, weight, eps }));
}

struct Normalise<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Pass for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mean = sum_of_squares(self.x) / self.x.len() as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = weight * (*x * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_unit_mean_square() {
        let mut x = [3.0, -3.0, 3.0, 0.5, 0.5, 0.5];
        rms_norm(Kernel::Scalar, &mut x, &[1.0, 2.0, 1.0], 0.0);
        let expected = [1.0, -2.0, 1.0, 1.0, 2.0, 1.0];
        assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{x:?}");
    }
}
