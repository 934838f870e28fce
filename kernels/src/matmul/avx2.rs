//! AVX2: as AVX-512 without VNNI, in halves of a line and with sixteen registers.
//!
//! A pair is at most 2 · 2 · 128 = 512 in magnitude, so 63 of them fit an i16 (63 · 512 = 32,256) and neither the
//! saturating instruction nor the additions ever clip. A register tile is 16 rows × 4 tokens.

use std::arch::x86_64::*;

use super::{Sums, even_ranges};
use crate::activations::Activations;
use crate::memory::Line;
use crate::ternary::{TILE_LANES, TILE_ROWS};

/// Groups of 16 rows in a tile.
const GROUPS: usize = TILE_ROWS / TILE_LANES;
/// Lines unpacked at a time, and pairs added in 16 bits.
const BLOCK_LINES: usize = 63;
/// Tokens of a register tile.
const BLOCK_TOKENS: usize = 4;
/// Vectors in a line, and rows in a vector.
const HALVES: usize = 2;
const HALF_ROWS: usize = TILE_LANES / HALVES;

const _: () = assert!(BLOCK_LINES * 2 * 2 * 128 <= i16::MAX as usize);

/// The codes of a block, a group's lines one after another.
type Codes = [[Line<u8>; BLOCK_LINES]; GROUPS];

/// The products of a tile's rows with every token.
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile_sums(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    let mut codes: Codes = [[Line([0; 64]); BLOCK_LINES]; GROUPS];
    for (token, sums) in sums.iter_mut().enumerate() {
        sums.0.fill(-activations.sum(token));
    }
    for (block, lines) in tile.chunks(BLOCK_LINES).enumerate() {
        unpack(lines, &mut codes);
        for range in even_ranges(sums.len(), BLOCK_TOKENS) {
            let (from, sums) = ((range.start, block * BLOCK_LINES), &mut sums[range]);
            for (group, codes) in codes.iter().enumerate() {
                let codes = &codes[..lines.len()];
                match sums.len() {
                    1 => from_block::<1>(codes, group, activations, from, sums),
                    2 => from_block::<2>(codes, group, activations, from, sums),
                    3 => from_block::<3>(codes, group, activations, from, sums),
                    _ => from_block::<4>(codes, group, activations, from, sums),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn unpack(lines: &[Line<u8>], codes: &mut Codes) {
    let mask = _mm256_set1_epi8(3);
    for (i, line) in lines.iter().enumerate() {
        for half in 0..HALVES {
            let mut packed = load(line, half);
            for codes in codes.iter_mut() {
                let out = std::ptr::from_mut(&mut codes[i]).cast::<__m256i>();
                // SAFETY: a line is two vectors, aligned to 64.
                unsafe { _mm256_store_si256(out.add(half), _mm256_and_si256(packed, mask)) };
                packed = _mm256_srli_epi16::<2>(packed); // what crosses a byte is masked off
            }
        }
    }
}

/// Adds the products of a group's block with `T` tokens, `from` being the first token and the first word.
#[target_feature(enable = "avx2,fma")]
fn from_block<const T: usize>(
    block: &[Line<u8>],
    group: usize,
    activations: &Activations,
    (token, word): (usize, usize),
    sums: &mut [Sums],
) {
    let words: [&[i32]; T] = std::array::from_fn(|t| &activations.words(token + t)[word..word + block.len()]);
    let mut acc = [[_mm256_setzero_si256(); HALVES]; T];
    for (k, line) in block.iter().enumerate() {
        let codes = [load(line, 0), load(line, 1)];
        for t in 0..T {
            // SAFETY: every slice of words is as long as the block.
            let word = _mm256_set1_epi32(unsafe { *words[t].get_unchecked(k) });
            for half in 0..HALVES {
                acc[t][half] = _mm256_add_epi16(acc[t][half], _mm256_maddubs_epi16(codes[half], word));
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        let rows = sums.0.as_chunks_mut::<HALF_ROWS>().0[group * HALVES..].iter_mut();
        for (sums, acc) in rows.zip(acc) {
            let wide = _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
            // SAFETY: 8 values are 32 bytes.
            let before = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
            // SAFETY: 8 values are 32 bytes.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi32(before, wide)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &Line<u8>, half: usize) -> __m256i {
    // SAFETY: a line is two vectors, aligned to 64, and `half` is 0 or 1.
    unsafe { _mm256_load_si256(std::ptr::from_ref(line).cast::<__m256i>().add(half)) }
}
