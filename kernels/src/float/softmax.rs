//! Softmax, its logarithm, and the largest value of a row.

use super::lanes::{LANES, exp, max, padded, sum};
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// `x = e^(x − max) / Σ e^(x − max)`. Values of −∞ become 0.
pub fn softmax(kernel: Kernel, x: &mut [f32]) {
    let sum = kernel.run(Exponentials { x });
    kernel.run(Divide { x, by: sum });
}

/// `x = x − max − ln Σ e^(x − max)`.
pub fn log_softmax(kernel: Kernel, x: &mut [f32]) {
    let max = kernel.run(Largest { x });
    let sum = kernel.run(ExponentialSum { x, max });
    let ln = f64::from(sum).ln() as f32; // in f64, so that a libm's last bit does not show
    kernel.run(Shift { x, max, ln });
}

/// The index of the largest value, the lowest one of equals. NaN is never the largest.
/// `None` if nothing is larger than −∞.
pub fn argmax(kernel: Kernel, x: &[f32]) -> Option<usize> {
    let max = kernel.run(Largest { x });
    if max == f32::NEG_INFINITY {
        None
    } else {
        x.iter().position(|&x| x == max)
    }
}

/// `x = e^(x − max)`, and their sum.
pub(crate) struct Exponentials<'a> {
    pub(crate) x: &'a mut [f32],
}

impl Pass for Exponentials<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let max = simd.splat(max(simd, self.x));
        let mut acc = simd.splat(0.0);
        let (chunks, rest) = self.x.as_chunks_mut::<LANES>();
        for x in chunks {
            let e = exp(simd, simd.sub(simd.load(x), max));
            acc = simd.add(acc, e);
            simd.store(e, x);
        }
        let mut last = padded(rest, f32::NEG_INFINITY); // adds e^−∞ = 0
        let e = exp(simd, simd.sub(simd.load(&last), max));
        acc = simd.add(acc, e);
        simd.store(e, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
        simd.store(acc, &mut last);
        sum(&last)
    }
}

struct Divide<'a> {
    x: &'a mut [f32],
    by: f32,
}

impl Pass for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.x {
            *x /= self.by;
        }
    }
}

struct Largest<'a> {
    x: &'a [f32],
}

impl Pass for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        max(simd, self.x)
    }
}

/// `Σ e^(x − max)`.
struct ExponentialSum<'a> {
    x: &'a [f32],
    max: f32,
}

impl Pass for ExponentialSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let max = simd.splat(self.max);
        let mut acc = simd.splat(0.0);
        let (chunks, rest) = self.x.as_chunks::<LANES>();
        for x in chunks {
            acc = simd.add(acc, exp(simd, simd.sub(simd.load(x), max)));
        }
        let mut last = padded(rest, f32::NEG_INFINITY); // adds e^−∞ = 0
        acc = simd.add(acc, exp(simd, simd.sub(simd.load(&last), max)));
        simd.store(acc, &mut last);
        sum(&last)
    }
}

struct Shift<'a> {
    x: &'a mut [f32],
    max: f32,
    ln: f32,
}

impl Pass for Shift<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.x {
            *x = *x - self.max - self.ln;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_its_logarithm_agrees() {
        let x: Vec<f32> = (0..37).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
        let (mut p, mut log_p) = (x.clone(), x);
        softmax(Kernel::Scalar, &mut p);
        log_softmax(Kernel::Scalar, &mut log_p);
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(p.iter().zip(log_p).all(|(p, log_p)| (p.ln() - log_p).abs() < 2e-6));
    }

    #[test]
    fn masked_values_get_no_probability() {
        let mut x = [0.0, f32::NEG_INFINITY, 0.0];
        softmax(Kernel::Scalar, &mut x);
        assert_eq!(x, [0.5, 0.0, 0.5]);
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_nan() {
        let mut x = vec![0.0; 100];
        (x[3], x[40], x[77]) = (f32::NAN, 5.0, 5.0);
        for kernel in Kernel::available() {
            assert_eq!(argmax(kernel, &x), Some(40), "{kernel}");
            assert_eq!(argmax(kernel, &[]), None, "{kernel}");
            assert_eq!(argmax(kernel, &[f32::NAN, f32::NEG_INFINITY]), None, "{kernel}");
            assert_eq!(argmax(kernel, &[f32::NEG_INFINITY, -1.0]), Some(1), "{kernel}");
        }
    }
}
