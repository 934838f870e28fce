//! AVX-512 without VNNI: `vpmaddubsw` adds pairs of products in 16 bits, widened once a block.
//!
//! A pair is at most 2 · 2 · 128 = 512 in magnitude, so 63 of them fit an i16 (63 · 512 = 32,256) and neither the
//! saturating instruction nor the additions ever clip. A block is unpacked into L1 and used for every token.

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

const _: () = assert!(BLOCK_LINES * 2 * 2 * 128 <= i16::MAX as usize);

/// The codes of a line's groups.
#[derive(Clone, Copy)]
struct Codes([Line; GROUPS]);

/// The products of a tile's rows with every token of a panel.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tile_sums(tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    let mut codes = [Codes([Line([0; 64]); GROUPS]); BLOCK_LINES];
    for (sums, sum) in sums.iter_mut().zip(panel.sums) {
        sums.0.fill(-sum);
    }
    for (block, lines) in tile.lines.chunks(BLOCK_LINES).enumerate() {
        let codes = &mut codes[..lines.len()];
        for (codes, line) in codes.iter_mut().zip(lines) {
            unpack(line, codes);
        }
        for range in even_ranges(sums.len(), BLOCK_TOKENS) {
            let (first, sums) = ((block * BLOCK_LINES, range.start), &mut sums[range]);
            match sums.len() {
                1 => from_block::<1>(codes, panel, first, sums),
                2 => from_block::<2>(codes, panel, first, sums),
                3 => from_block::<3>(codes, panel, first, sums),
                _ => from_block::<4>(codes, panel, first, sums),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(line: &Line, codes: &mut Codes) {
    let mask = _mm512_set1_epi8(3);
    _mm_prefetch::<_MM_HINT_T0>(after(line));
    // SAFETY: a line is 64 bytes, aligned to 64.
    let mut packed = unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) };
    for codes in &mut codes.0 {
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512(std::ptr::from_mut(codes).cast(), _mm512_and_si512(packed, mask)) };
        packed = _mm512_srli_epi16::<2>(packed); // what crosses a byte is masked off
    }
}

/// Adds the products of a block with `T` tokens, `first` being the block's first line and the first token.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn from_block<const T: usize>(block: &[Codes], panel: Panel<'_>, first: (usize, usize), sums: &mut [Sums]) {
    let words = panel.words.chunks_exact(panel.width()).skip(first.0);
    let mut acc = [[_mm512_setzero_si512(); GROUPS]; T];
    for (codes, words) in block.iter().zip(words) {
        let words: &[i32; T] = words[first.1..].first_chunk().expect("the panel has these tokens");
        for (g, codes) in codes.0.iter().enumerate() {
            // SAFETY: a line is 64 bytes, aligned to 64.
            let codes = unsafe { _mm512_load_si512(std::ptr::from_ref(codes).cast()) };
            for t in 0..T {
                let word = _mm512_set1_epi32(words[t]);
                acc[t][g] = _mm512_add_epi16(acc[t][g], _mm512_maddubs_epi16(codes, word));
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sums, acc) in sums.0.as_chunks_mut::<TILE_LANES>().0.iter_mut().zip(acc) {
            let wide = _mm512_madd_epi16(acc, _mm512_set1_epi16(1));
            // SAFETY: 16 values are 64 bytes.
            let before = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
            // SAFETY: 16 values are 64 bytes.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_add_epi32(before, wide)) };
        }
    }
}
