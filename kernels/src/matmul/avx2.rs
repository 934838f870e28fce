//! AVX2: as AVX-512 without VNNI, in halves of a line and with sixteen registers.
//!
//! A pair is at most 2 · 2 · 128 = 512 in magnitude, so 63 of them fit an i16 (63 · 512 = 32,256) and neither the
//! saturating instruction nor the additions ever clip. A register tile is 16 rows × 4 tokens.

use std::arch::x86_64::*;

use super::{Sums, Tile, after, even_ranges};
use crate::activations::Panel;
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
type Codes = [[Line; BLOCK_LINES]; GROUPS];

/// The products of a tile's rows with every token of a panel.
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile_sums(tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    let mut codes: Codes = [[Line([0; 64]); BLOCK_LINES]; GROUPS];
    for (sums, sum) in sums.iter_mut().zip(panel.sums) {
        sums.0.fill(-sum);
    }
    for (block, lines) in tile.lines.chunks(BLOCK_LINES).enumerate() {
        unpack(lines, &mut codes);
        for range in even_ranges(sums.len(), BLOCK_TOKENS) {
            let (first, sums) = ((block * BLOCK_LINES, range.start), &mut sums[range]);
            for (group, codes) in codes.iter().enumerate() {
                let codes = &codes[..lines.len()];
                match sums.len() {
                    1 => from_block::<1>(codes, group, panel, first, sums),
                    2 => from_block::<2>(codes, group, panel, first, sums),
                    3 => from_block::<3>(codes, group, panel, first, sums),
                    _ => from_block::<4>(codes, group, panel, first, sums),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn unpack(lines: &[Line], codes: &mut Codes) {
    let mask = _mm256_set1_epi8(3);
    for (i, line) in lines.iter().enumerate() {
        _mm_prefetch::<_MM_HINT_T0>(after(line));
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

/// Adds the products of a group's block with `T` tokens, `first` being the block's first line and the first token.
#[target_feature(enable = "avx2,fma")]
fn from_block<const T: usize>(
    block: &[Line],
    group: usize,
    panel: Panel<'_>,
    first: (usize, usize),
    sums: &mut [Sums],
) {
    let words = panel.words.chunks_exact(panel.width()).skip(first.0);
    let mut acc = [[_mm256_setzero_si256(); HALVES]; T];
    for (line, words) in block.iter().zip(words) {
        let words: &[i32; T] = words[first.1..].first_chunk().expect("the panel has these tokens");
        let codes = [load(line, 0), load(line, 1)];
        for t in 0..T {
            let word = _mm256_set1_epi32(words[t]);
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
fn load(line: &Line, half: usize) -> __m256i {
    // SAFETY: a line is two vectors, aligned to 64, and `half` is 0 or 1.
    unsafe { _mm256_load_si256(std::ptr::from_ref(line).cast::<__m256i>().add(half)) }
}
