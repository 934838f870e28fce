//! AVX-512 VNNI over int8 weights: as over a ternary tile, with nothing to mask.
//!
//! The lines of a group are one stream, so two or four streams come from memory side by side.

use std::arch::x86_64::*;

use super::pack::GROUPS;
use crate::activations::{Activations, PANEL_TOKENS_MAX, Panel};
use crate::matmul::Sums;
use crate::memory::Line;
use crate::ternary::TILE_ROWS;

/// Lines between the one that is read and the one to fetch.
const FETCH_LINES: usize = 64;

/// The sums of a tile `[groups, lines of a group]` with every token, handed on at once.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn products(tile: &[Line], tokens: &Activations, mut write: impl FnMut(usize, &[Sums])) {
    let mut all = vec![Sums([0; TILE_ROWS]); tokens.tokens()];
    for index in 0..tokens.panels() {
        let first = index * tokens.panel_width();
        let panel = tokens.panel(index);
        let sums = &mut all[first..first + panel.width()];
        panel_sums(tile, panel, sums);
    }
    write(0, &all);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panel_sums(tile: &[Line], panel: Panel<'_>, sums: &mut [Sums]) {
    match sums.len() {
        1 => tokens_of::<4, 1>(tile, panel, sums),
        2 => tokens_of::<4, 2>(tile, panel, sums),
        3 => tokens_of::<4, 3>(tile, panel, sums),
        4 => tokens_of::<4, 4>(tile, panel, sums),
        5 => tokens_of::<4, 5>(tile, panel, sums),
        6 => tokens_of::<2, 6>(tile, panel, sums),
        7 => tokens_of::<2, 7>(tile, panel, sums),
        8 => tokens_of::<2, 8>(tile, panel, sums),
        9 => tokens_of::<2, 9>(tile, panel, sums),
        10 => tokens_of::<2, 10>(tile, panel, sums),
        11 => tokens_of::<2, 11>(tile, panel, sums),
        _ => tokens_of::<2, PANEL_TOKENS_MAX>(tile, panel, sums),
    }
}

/// `T` tokens, `G` groups of rows at a time.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tokens_of<const G: usize, const T: usize>(tile: &[Line], panel: Panel<'_>, sums: &mut [Sums]) {
    let words = panel.words.as_chunks::<T>().0;
    let len = tile.len() / GROUPS;
    for first in (0..GROUPS).step_by(G) {
        let groups: [&[Line]; G] = std::array::from_fn(|g| &tile[(first + g) * len..][..words.len()]);
        let mut acc = [[_mm512_setzero_si512(); G]; T];
        for (k, words) in words.iter().enumerate() {
            let mut operands = [_mm512_setzero_si512(); G];
            for g in 0..G {
                let line = std::ptr::from_ref(&groups[g][k]);
                _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(FETCH_LINES).cast());
                // SAFETY: a line is 64 bytes, aligned to 64.
                operands[g] = unsafe { _mm512_load_si512(line.cast()) };
            }
            for t in 0..T {
                let word = _mm512_set1_epi32(words[t]);
                for g in 0..G {
                    acc[t][g] = _mm512_dpbusd_epi32(acc[t][g], operands[g], word);
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (out, acc) in sums.groups()[first..].iter_mut().zip(acc) {
                // SAFETY: 16 values are 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), acc) };
            }
        }
    }
}
