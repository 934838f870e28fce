//! AVX-512 without VNNI: `vpmaddubsw` adds pairs of products in 16 bits, widened once a block.
//!
//! A pair is at most 2 · 2 · 128 = 512 in magnitude, so 63 of them fit an i16 (63 · 512 = 32,256) and neither the
//! saturating instruction nor the additions ever clip. A block is unpacked into L1 and used for every token.

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

const _: () = assert!(BLOCK_LINES * 2 * 2 * 128 <= i16::MAX as usize);

/// The codes of a line's groups.
#[derive(Clone, Copy)]
struct Codes([Line<u8>; GROUPS]);

/// The products of a tile's rows with every token.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tile_sums(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    let mut codes = [Codes([Line([0; 64]); GROUPS]); BLOCK_LINES];
    for (token, sums) in sums.iter_mut().enumerate() {
        sums.0.fill(-activations.sum(token));
    }
    for (block, lines) in tile.chunks(BLOCK_LINES).enumerate() {
        let codes = &mut codes[..lines.len()];
        for (codes, line) in codes.iter_mut().zip(lines) {
            unpack(line, codes);
        }
        for range in even_ranges(sums.len(), BLOCK_TOKENS) {
            let (from, sums) = ((range.start, block * BLOCK_LINES), &mut sums[range]);
            match sums.len() {
                1 => from_block::<1>(codes, activations, from, sums),
                2 => from_block::<2>(codes, activations, from, sums),
                3 => from_block::<3>(codes, activations, from, sums),
                _ => from_block::<4>(codes, activations, from, sums),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(line: &Line<u8>, codes: &mut Codes) {
    let mask = _mm512_set1_epi8(3);
    // SAFETY: a line is 64 bytes, aligned to 64.
    let mut packed = unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) };
    for codes in &mut codes.0 {
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512(std::ptr::from_mut(codes).cast(), _mm512_and_si512(packed, mask)) };
        packed = _mm512_srli_epi16::<2>(packed); // what crosses a byte is masked off
    }
}

/// Adds the products of a block with `T` tokens, `from` being the first token and the first word.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn from_block<const T: usize>(
    block: &[Codes],
    activations: &Activations,
    (token, word): (usize, usize),
    sums: &mut [Sums],
) {
    let words: [&[i32]; T] = std::array::from_fn(|t| &activations.words(token + t)[word..word + block.len()]);
    let mut acc = [[_mm512_setzero_si512(); GROUPS]; T];
    for (k, codes) in block.iter().enumerate() {
        for (g, codes) in codes.0.iter().enumerate() {
            // SAFETY: a line is 64 bytes, aligned to 64.
            let codes = unsafe { _mm512_load_si512(std::ptr::from_ref(codes).cast()) };
            for t in 0..T {
                // SAFETY: every slice of words is as long as the block.
                let word = _mm512_set1_epi32(unsafe { *words[t].get_unchecked(k) });
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
