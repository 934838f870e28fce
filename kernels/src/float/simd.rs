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
    /// Sixteen values to memory.
    fn store(self, vector: Self::V, out: &mut Lanes);
    /// `a * b` in each lane.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c` in each lane, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
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

    fn store(self, vector: Lanes, out: &mut Lanes) {
        *out = vector;
    }

    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
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
    fn store(self, vector: __m512, out: &mut Lanes) {
        // SAFETY: `self` proves AVX-512 F, and sixteen values are 64 bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
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
    fn store(self, vector: [__m256; 2], out: &mut Lanes) {
        // SAFETY: `self` proves AVX, and each half of sixteen values is 32 bytes.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), vector[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(LANES / 2), vector[1]);
        }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves FMA.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
}
