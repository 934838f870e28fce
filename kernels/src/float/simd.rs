//! Sixteen lanes in registers, for the loops that compilers do not vectorize on their own.
//!
//! The proof of an instruction set is also the way to its operations: whoever has one may use them, and only code
//! inlined into a `#[target_feature]` function is fast with them. Each operation rounds as IEEE 754 says, so the
//! implementations agree to the bit.

use super::lanes::{LANES, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{Avx2, Avx512Bw};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rounds halves to even and raises no flag.
#[cfg(target_arch = "x86_64")]
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// The operations of an instruction set on sixteen lanes of f32.
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Whether the registers hold a tile of 16 vectors and more, or only one of 4.
    const WIDE: bool;

    /// The same value in each lane.
    fn splat(self, value: f32) -> Self::V;
    /// Sixteen values from memory.
    fn load(self, values: &Lanes) -> Self::V;
    /// Sixteen bf16 values from memory, widened.
    fn load_bf16(self, bits: &[u16; LANES]) -> Self::V;
    /// Asks for the cache line of an address, which need not be one to read from. It comes into L2: L1's line buffers are
    /// too few to wait for memory with.
    fn prefetch<T>(self, address: *const T);
    /// Sixteen values to memory.
    fn store(self, vector: Self::V, out: &mut Lanes);
    /// `a + b` in each lane.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b` in each lane.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b` in each lane.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b` in each lane.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c` in each lane, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }` in each lane.
    fn larger(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of `|a|` and `|b|` in each lane, NaN being larger than infinity.
    fn larger_magnitude(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }` in each lane.
    fn smaller(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, halves to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `2ⁿ` for integers −126 to 127.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// `if x < limit { 0 } else { a }` in each lane.
    fn zero_below(self, limit: f32, x: Self::V, a: Self::V) -> Self::V;
    /// The nearest int8, halves to even, of values that are near the range of int8.
    fn to_i8(self, a: Self::V) -> [i8; LANES];
}

/// Plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Simd for Plain {
    type V = Lanes;
    const WIDE: bool = false;

    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }

    fn load(self, values: &Lanes) -> Lanes {
        *values
    }

    fn load_bf16(self, bits: &[u16; LANES]) -> Lanes {
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    fn prefetch<T>(self, _: *const T) {}

    fn store(self, vector: Lanes, out: &mut Lanes) {
        *out = vector;
    }

    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] + b[i])
    }

    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] - b[i])
    }

    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] / b[i])
    }

    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    fn larger(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    fn larger_magnitude(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| f32::from_bits(a[i].abs().to_bits().max(b[i].abs().to_bits())))
    }

    fn smaller(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    fn round(self, a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }

    fn power_of_two(self, n: Lanes) -> Lanes {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    fn zero_below(self, limit: f32, x: Lanes, a: Lanes) -> Lanes {
        std::array::from_fn(|i| if x[i] < limit { 0.0 } else { a[i] })
    }

    fn to_i8(self, a: Lanes) -> [i8; LANES] {
        a.map(|a| a.round_ties_even() as i8)
    }
}

// The `unsafe` blocks below call intrinsics of features that `self` proves, on references to all the lanes they touch.

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512Bw {
    type V = __m512;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &Lanes) -> __m512 {
        // SAFETY: `self` proves AVX-512 F, and sixteen values are 64 bytes.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F, and sixteen values are 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: every x86-64 has SSE, and a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }

    #[inline(always)]
    fn store(self, vector: __m512, out: &mut Lanes) {
        // SAFETY: `self` proves AVX-512 F, and sixteen values are 64 bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn larger(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn larger_magnitude(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe {
            let (a, b) = (_mm512_abs_ps(a), _mm512_abs_ps(b));
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
        }
    }

    #[inline(always)]
    fn smaller(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_roundscale_ps::<NEAREST>(a) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn zero_below(self, limit: f32, x: __m512, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(limit)), a) }
    }

    #[inline(always)]
    fn to_i8(self, a: __m512) -> [i8; LANES] {
        let mut out = [0; LANES];
        // SAFETY: `self` proves AVX-512 F, and sixteen values are 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a))) };
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type V = [__m256; 2];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        [unsafe { _mm256_set1_ps(value) }; 2]
    }

    #[inline(always)]
    fn load(self, values: &Lanes) -> [__m256; 2] {
        // SAFETY: `self` proves AVX, and each half of sixteen values is 32 bytes.
        unsafe {
            [
                _mm256_loadu_ps(values.as_ptr()),
                _mm256_loadu_ps(values.as_ptr().add(LANES / 2)),
            ]
        }
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; LANES]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2, and each half of sixteen values is 16 bytes.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().add(LANES / 2).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: every x86-64 has SSE, and a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }

    #[inline(always)]
    fn store(self, vector: [__m256; 2], out: &mut Lanes) {
        // SAFETY: `self` proves AVX, and each half of sixteen values is 32 bytes.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), vector[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(LANES / 2), vector[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves FMA.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn larger(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn larger_magnitude(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let bits = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
            let (a, b) = (
                [_mm256_and_ps(a[0], bits), _mm256_and_ps(a[1], bits)],
                [_mm256_and_ps(b[0], bits), _mm256_and_ps(b[1], bits)],
            );
            let low = _mm256_max_epu32(_mm256_castps_si256(a[0]), _mm256_castps_si256(b[0]));
            let high = _mm256_max_epu32(_mm256_castps_si256(a[1]), _mm256_castps_si256(b[1]));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }

    #[inline(always)]
    fn smaller(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn round(self, a: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])] }
    }

    #[inline(always)]
    fn power_of_two(self, n: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let biased = [_mm256_cvtps_epi32(n[0]), _mm256_cvtps_epi32(n[1])];
            let biased = [_mm256_add_epi32(biased[0], bias), _mm256_add_epi32(biased[1], bias)];
            let shifted = [_mm256_slli_epi32::<23>(biased[0]), _mm256_slli_epi32::<23>(biased[1])];
            [_mm256_castsi256_ps(shifted[0]), _mm256_castsi256_ps(shifted[1])]
        }
    }

    #[inline(always)]
    fn zero_below(self, limit: f32, x: [__m256; 2], a: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe {
            let limit = _mm256_set1_ps(limit);
            let below = [
                _mm256_cmp_ps::<_CMP_LT_OQ>(x[0], limit),
                _mm256_cmp_ps::<_CMP_LT_OQ>(x[1], limit),
            ];
            [_mm256_andnot_ps(below[0], a[0]), _mm256_andnot_ps(below[1], a[1])]
        }
    }

    #[inline(always)]
    fn to_i8(self, a: [__m256; 2]) -> [i8; LANES] {
        let mut out = [0; LANES];
        // SAFETY: `self` proves AVX2, and sixteen values are 16 bytes.
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1]));
            // Packing works within 128 bits and leaves the middle quarters swapped.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
        out
    }
}
