//! The elementwise kernels of a feed-forward block and of the residual stream.

use rayon::prelude::*;

use super::lanes::{LANES, Lanes, exp, padded};
use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// Values that one thread takes at a time.
const CHUNK_LEN: usize = 1 << 14;

/// `gate = max(gate, 0)² * up`, the squared ReLU of BitNet b1.58 (So et al. 2021, arXiv 2109.08668).
///
/// # Panics
/// The slices differ in length.
pub fn relu_squared(kernel: Kernel, gate: &mut [f32], up: &[f32]) {
    each_chunk(gate, up, |gate, up| kernel.run(ReluSquared { gate, up }));
}

/// `gate = gate / (1 + e^−gate) * up`, the SwiGLU of Llama models (Shazeer 2020, arXiv 2002.05202).
///
/// # Panics
/// The slices differ in length.
pub fn silu(kernel: Kernel, gate: &mut [f32], up: &[f32]) {
    each_chunk(gate, up, |gate, up| kernel.run(Silu { gate, up }));
}

/// `x = x + y`.
///
/// # Panics
/// The slices differ in length.
pub fn add(kernel: Kernel, x: &mut [f32], y: &[f32]) {
    each_chunk(x, y, |x, y| kernel.run(Add { x, y }));
}

fn each_chunk(x: &mut [f32], y: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
    assert_eq!(x.len(), y.len(), "operands differ in length");
    x.par_chunks_mut(CHUNK_LEN)
        .zip(y.par_chunks(CHUNK_LEN))
        .for_each(|(x, y)| work(x, y));
}

struct ReluSquared<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Pass for ReluSquared<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            let positive = if *gate < 0.0 { 0.0 } else { *gate }; // keeps NaN
            *gate = positive * positive * up;
        }
    }
}

struct Silu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Pass for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (chunks, rest) = self.gate.as_chunks_mut::<LANES>();
        let (up, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in chunks.iter_mut().zip(up) {
            silu_lanes(simd, gate, up);
        }
        let mut last = padded(rest, 0.0);
        silu_lanes(simd, &mut last, &padded(up_rest, 0.0));
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn silu_lanes<S: Simd>(simd: S, gate: &mut Lanes, up: &Lanes) {
    let x = simd.load(gate);
    let divisor = simd.add(simd.splat(1.0), exp(simd, simd.sub(simd.splat(0.0), x)));
    simd.store(simd.mul(simd.div(x, divisor), simd.load(up)), gate);
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Pass for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_match_their_formulas() {
        let mut gate = [2.0, -3.0, 0.0];
        relu_squared(Kernel::Scalar, &mut gate, &[3.0, 5.0, 7.0]);
        assert_eq!(gate, [12.0, 0.0, 0.0]);
        let mut gate = [0.0, 1.0, -200.0];
        silu(Kernel::Scalar, &mut gate, &[5.0, 2.0, 1.0]);
        assert!(
            gate[0] == 0.0 && (gate[1] - 1.462_117_2).abs() < 1e-6 && gate[2] == 0.0,
            "{gate:?}"
        );
    }

    #[test]
    fn not_a_number_stays_visible() {
        let mut gate = [f32::NAN];
        relu_squared(Kernel::best(), &mut gate, &[1.0]);
        assert!(gate[0].is_nan());
    }
}
