//! AVX-512 VNNI: `vpdpbusd` multiplies 16 rows by four columns in one instruction.
//!
//! A line masked to one of its four groups of rows is an unsigned operand as it is: the group's codes stand
//! 2 · group bits up, so its sums come out 4^group times too large and are shifted down once, exactly. The largest
//! operand is 2 · 64, so a sum stays within 128 · 128 · 2^16 columns = 2^30.
//!
//! Few tokens mask in registers, halving the tile once it has too many accumulators. Many tokens mask a block of
//! the tile into L1 and run 64 rows × 6 tokens from there: 24 multiplications for 10 loads.

use std::arch::x86_64::*;

use super::{Sums, even_ranges};
use crate::activations::Activations;
use crate::memory::Line;
use crate::ternary::{COLS_MAX, TILE_LANES, TILE_ROWS};

/// Groups of 16 rows in a tile.
const GROUPS: usize = TILE_ROWS / TILE_LANES;
/// Tokens up to which masking in registers is faster.
const DIRECT_TOKENS_MAX: usize = 24;
/// Lines that are masked into L1 at a time, 16 KB.
const BLOCK_LINES: usize = 64;
/// Tokens of a register tile over all groups.
const BLOCK_TOKENS: usize = 6;

const _: () = assert!(128 * 128 * COLS_MAX < 1 << 31);

/// A line's groups, each masked.
#[derive(Clone, Copy)]
struct Masked([Line<u8>; GROUPS]);

/// The products of a tile's rows with every token.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn tile_sums(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    if sums.len() <= DIRECT_TOKENS_MAX {
        direct(tile, activations, sums)
    } else {
        blocked(tile, activations, sums)
    }
    for (token, sums) in sums.iter_mut().enumerate() {
        let sum = activations.sum(token);
        for (row, acc) in sums.0.iter_mut().enumerate() {
            *acc = (*acc >> (2 * (row / TILE_LANES))) - sum;
        }
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn direct(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    for range in even_ranges(sums.len(), 8) {
        let (from, sums) = (range.start, &mut sums[range]);
        match sums.len() {
            1 => one_token(tile, activations.words(from), &mut sums[0]),
            2 => masked_in_registers::<4, 2>(tile, activations, from, sums),
            3 => masked_in_registers::<4, 3>(tile, activations, from, sums),
            4 => masked_in_registers::<4, 4>(tile, activations, from, sums),
            5 => masked_in_registers::<4, 5>(tile, activations, from, sums),
            6 => masked_in_registers::<2, 6>(tile, activations, from, sums),
            7 => masked_in_registers::<2, 7>(tile, activations, from, sums),
            _ => masked_in_registers::<2, 8>(tile, activations, from, sums),
        }
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn blocked(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    let mut masked = [Masked([Line([0; 64]); GROUPS]); BLOCK_LINES];
    for (block, lines) in tile.chunks(BLOCK_LINES).enumerate() {
        let masked = &mut masked[..lines.len()];
        for (masked, line) in masked.iter_mut().zip(lines) {
            let line = load(line);
            for (group, masked) in masked.0.iter_mut().enumerate() {
                store(masked, _mm512_and_si512(line, mask(group)));
            }
        }
        for range in even_ranges(sums.len(), BLOCK_TOKENS) {
            let (from, sums) = ((range.start, block * BLOCK_LINES), &mut sums[range]);
            match sums.len() {
                1 => from_block::<1>(masked, activations, from, sums),
                2 => from_block::<2>(masked, activations, from, sums),
                3 => from_block::<3>(masked, activations, from, sums),
                4 => from_block::<4>(masked, activations, from, sums),
                5 => from_block::<5>(masked, activations, from, sums),
                _ => from_block::<6>(masked, activations, from, sums),
            }
        }
    }
}

/// One token. Its four sums are kept twice, so that no multiplication waits for the one before.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn one_token(tile: &[Line<u8>], words: &[i32], sums: &mut Sums) {
    let mut acc = [[_mm512_setzero_si512(); GROUPS]; 2];
    let words = &words[..tile.len()];
    let (pairs, last) = tile.as_chunks::<2>();
    let (word_pairs, last_word) = words.as_chunks::<2>();
    for (lines, words) in pairs.iter().zip(word_pairs) {
        for half in 0..2 {
            multiply_all(&lines[half], words[half], &mut acc[half]);
        }
    }
    for (line, word) in last.iter().zip(last_word) {
        multiply_all(line, *word, &mut acc[0]);
    }
    for (group, out) in sums.0.as_chunks_mut().0.iter_mut().enumerate() {
        store_sums(out, _mm512_add_epi32(acc[0][group], acc[1][group]));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_all(line: &Line<u8>, word: i32, acc: &mut [__m512i; GROUPS]) {
    let (line, activations) = (load(line), _mm512_set1_epi32(word));
    for (group, acc) in acc.iter_mut().enumerate() {
        *acc = _mm512_dpbusd_epi32(*acc, _mm512_and_si512(line, mask(group)), activations);
    }
}

/// `T` tokens, `G` groups of rows at a time.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn masked_in_registers<const G: usize, const T: usize>(
    tile: &[Line<u8>],
    activations: &Activations,
    from: usize,
    sums: &mut [Sums],
) {
    let words: [&[i32]; T] = std::array::from_fn(|t| &activations.words(from + t)[..tile.len()]);
    for first in (0..GROUPS).step_by(G) {
        let mut acc = [[_mm512_setzero_si512(); G]; T];
        for (k, line) in tile.iter().enumerate() {
            let line = load(line);
            let mut operands = [_mm512_setzero_si512(); G];
            for (g, operand) in operands.iter_mut().enumerate() {
                *operand = _mm512_and_si512(line, mask(first + g));
            }
            for t in 0..T {
                // SAFETY: every slice of words is as long as the tile.
                let word = _mm512_set1_epi32(unsafe { *words[t].get_unchecked(k) });
                for g in 0..G {
                    acc[t][g] = _mm512_dpbusd_epi32(acc[t][g], operands[g], word);
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (out, acc) in sums.0.as_chunks_mut().0[first..].iter_mut().zip(acc) {
                store_sums(out, acc);
            }
        }
    }
}

/// Adds the products of a masked block with `T` tokens, `from` being the first token and the first word.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn from_block<const T: usize>(
    block: &[Masked],
    activations: &Activations,
    (token, word): (usize, usize),
    sums: &mut [Sums],
) {
    let words: [&[i32]; T] = std::array::from_fn(|t| &activations.words(token + t)[word..word + block.len()]);
    let mut acc = [[_mm512_setzero_si512(); GROUPS]; T];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        for (acc, sums) in acc.iter_mut().zip(sums.0.as_chunks().0) {
            *acc = load_sums(sums);
        }
    }
    for (k, masked) in block.iter().enumerate() {
        let mut operands = [_mm512_setzero_si512(); GROUPS];
        for (operand, masked) in operands.iter_mut().zip(&masked.0) {
            *operand = load(masked);
        }
        for t in 0..T {
            // SAFETY: every slice of words is as long as the block.
            let word = _mm512_set1_epi32(unsafe { *words[t].get_unchecked(k) });
            for g in 0..GROUPS {
                acc[t][g] = _mm512_dpbusd_epi32(acc[t][g], operands[g], word);
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (out, acc) in sums.0.as_chunks_mut().0.iter_mut().zip(acc) {
            store_sums(out, acc);
        }
    }
}

/// The bits of a group's codes in every byte.
#[inline]
#[target_feature(enable = "avx512f")]
fn mask(group: usize) -> __m512i {
    _mm512_set1_epi32(0x0303_0303 << (2 * group))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line<u8>) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(line: &mut Line<u8>, value: __m512i) {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(std::ptr::from_mut(line).cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums(sums: &[i32; TILE_LANES]) -> __m512i {
    // SAFETY: 16 values are 64 bytes.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_sums(out: &mut [i32; TILE_LANES], value: __m512i) {
    // SAFETY: 16 values are 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}
