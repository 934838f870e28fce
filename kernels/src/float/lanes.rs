//! Sixteen lanes of f32: the one order in which floats are reduced.
//!
//! Value `i` of a row belongs to lane `i % 16`. A lane takes its values from left to right with fused
//! multiply-adds, and at the end the lanes are added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Every instruction
//! set can do just that, so all give the same bits. The functions must be inlined to be compiled for one.

use super::simd::Simd;

/// Lanes of a reduction.
pub(crate) const LANES: usize = 16;

/// Sixteen values, one a lane.
pub(crate) type Lanes = [f32; LANES];

/// Sixteen values in a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Aligned(pub(crate) Lanes);

/// `acc + a * b` in each lane, rounded once.
#[inline(always)]
pub(crate) fn mul_add(a: &Lanes, b: &Lanes, acc: &mut Lanes) {
    for i in 0..LANES {
        acc[i] = a[i].mul_add(b[i], acc[i]);
    }
}

/// The sum of all lanes, in halves.
#[inline(always)]
pub(crate) fn sum(lanes: &Lanes) -> f32 {
    let mut lanes = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Up to sixteen values, the missing ones replaced.
#[inline(always)]
pub(crate) fn padded<T: Copy>(values: &[T], missing: T) -> [T; LANES] {
    let mut lanes = [missing; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// `Σ x²`.
#[inline(always)]
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        mul_add(x, x, &mut acc);
    }
    let rest = padded(rest, 0.0);
    mul_add(&rest, &rest, &mut acc);
    sum(&acc)
}

/// The largest value; NaN is never larger. −∞ of nothing.
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = padded(rest, f32::NEG_INFINITY);
    let mut acc = simd.splat(f32::NEG_INFINITY);
    for x in chunks {
        acc = simd.larger(simd.load(x), acc);
    }
    simd.store(simd.larger(simd.load(&last), acc), &mut last);
    last.into_iter()
        .fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max })
}

/// The largest `|x|`. NaN is larger than infinity, so it is never lost.
#[inline(always)]
pub(crate) fn max_magnitude<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = padded(rest, 0.0);
    let mut acc = simd.load(&last);
    for x in chunks {
        acc = simd.larger_magnitude(simd.load(x), acc);
    }
    simd.store(acc, &mut last);
    f32::from_bits(last.into_iter().map(|x| x.abs().to_bits()).fold(0, u32::max))
}

/// `eˣ` in each lane to 2 units in the last place, 0 below −87.3 and infinity above 88.7.
///
/// `x = n·ln 2 + r`, `eʳ` by the polynomial of Cephes' `expf` (S. Moshier), `2ⁿ` in two factors, since n may be 128.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let clamped = simd.larger(simd.splat(EXP_MIN), simd.smaller(simd.splat(89.0), x));
    let n = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-LN2_LOW), simd.mul_add(n, simd.splat(-LN2_HIGH), clamped));
    let mut p = simd.splat(COEFFICIENTS[0]);
    for c in &COEFFICIENTS[1..] {
        p = simd.mul_add(p, r, simd.splat(*c));
    }
    let e = simd.add(simd.mul_add(simd.mul(r, r), p, r), simd.splat(1.0));
    let half = simd.round(simd.mul(n, simd.splat(0.5)));
    let scaled = simd.mul(
        simd.mul(e, simd.power_of_two(half)),
        simd.power_of_two(simd.sub(n, half)),
    );
    simd.zero_below(EXP_MIN, x, scaled)
}

/// Where `eˣ` is taken for 0, just above the smallest normal number.
const EXP_MIN: f32 = -87.3;

#[cfg(test)]
mod tests {
    use super::super::simd::Plain;
    use super::*;

    fn exp_of(x: f32) -> f32 {
        exp(Plain, [x; LANES])[0]
    }

    #[test]
    fn exp_is_close_everywhere_and_exact_at_the_ends() {
        let mut worst = 0.0f64;
        for i in -87_000..=88_700 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_of(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst}");
        assert_eq!(
            (exp_of(0.0), exp_of(f32::NEG_INFINITY), exp_of(f32::INFINITY)),
            (1.0, 0.0, f32::INFINITY)
        );
        assert_eq!((exp_of(-100.0), exp_of(1e30)), (0.0, f32::INFINITY));
        assert!(exp_of(f32::NAN).is_nan());
    }

    #[test]
    fn the_tree_adds_every_lane_once() {
        let lanes: Lanes = std::array::from_fn(|i| (1 << i) as f32);
        assert_eq!(sum(&lanes), 65535.0);
    }
}
