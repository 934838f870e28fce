//! AVX-512 VNNI: `vpdpbusd` multiplies 16 rows by four columns in one instruction.
//!
//! A line masked to one of its four groups of rows is an unsigned operand as it is: the group's codes stand
//! 2 · group bits up, so its sums come out 4^group times too large and are shifted down once, exactly. The first
//! group needs no mask: the whole byte holds all four, and the other three are taken off its sums. The largest byte is
//! 170, so a sum stays within 170 · 128 · 2^16 columns.
//!
//! Up to five tokens fit the registers with all 64 rows. More take 32 rows at a time, up to twelve tokens: three
//! masks for 48 multiplications, and no sum leaves its register before the last column.

use std::arch::x86_64::*;

use super::{FETCH_LINES, Sums, Tile, after};
use crate::activations::{PANEL_TOKENS_MAX, Panel};
use crate::memory::Line;
use crate::ternary::{COLS_MAX, TILE_LANES, TILE_ROWS};

/// Groups of 16 rows in a tile.
pub(super) const GROUPS: usize = TILE_ROWS / TILE_LANES;

/// Streams in which one token reads a tile.
const STREAMS: usize = 4;

const _: () = assert!(170 * 128 * COLS_MAX < 1 << 31);

/// The products of a tile's rows with every token of a panel.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn tile_sums(tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    match sums.len() {
        1 => one_token(tile, panel, &mut sums[0]),
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
    for (sums, sum) in sums.iter_mut().zip(panel.sums) {
        finish(sums, *sum);
    }
}

/// Hands out the lines ahead evenly, one for each line of the tile.
struct Fetcher {
    start: *const Line,
    at: u64, // in 2^−32 lines, and so is `step`
    step: u64,
}

impl Fetcher {
    fn new(tile: Tile<'_>) -> Self {
        let step = ((tile.ahead.len() as u64) << 32) / tile.lines.len().max(1) as u64;
        Fetcher {
            start: tile.ahead.as_ptr(),
            at: 0,
            step,
        }
    }

    /// An address to prefetch; not one to read from.
    #[inline(always)]
    fn next_line(&mut self) -> *const i8 {
        let line = self.start.wrapping_add((self.at >> 32) as usize);
        self.at += self.step;
        line.cast()
    }
}

/// One token, which memory bounds. Each quarter of the tile is a stream with sums of its own: several streams come from
/// memory faster than one, and no multiplication waits for the one before.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn one_token(tile: Tile<'_>, panel: Panel<'_>, sums: &mut Sums) {
    let (len, quarter) = (tile.lines.len(), tile.lines.len() / STREAMS);
    let words = &panel.words[..len];
    let mut acc = [[_mm512_setzero_si512(); GROUPS]; STREAMS];
    // A page on in the same stream, then in the next tile's. With none to come, lines that are here already.
    let here = tile.lines.as_ptr().wrapping_add(FETCH_LINES);
    let ahead = match tile.ahead {
        [] => tile.lines.as_ptr(),
        lines => lines.as_ptr().wrapping_add(FETCH_LINES).wrapping_sub(quarter),
    };
    for k in 0..quarter {
        let fetch = if k + FETCH_LINES < quarter { here } else { ahead };
        for (stream, acc) in acc.iter_mut().enumerate() {
            let at = stream * quarter + k;
            _mm_prefetch::<_MM_HINT_T1>(fetch.wrapping_add(at).cast());
            multiply_all(&tile.lines[at], words[at], acc);
        }
    }
    for (line, word) in tile.lines.iter().zip(words).skip(STREAMS * quarter) {
        multiply_all(line, *word, &mut acc[0]);
    }
    for (group, out) in sums.groups().iter_mut().enumerate() {
        let total = acc
            .iter()
            .fold(_mm512_setzero_si512(), |total, acc| _mm512_add_epi32(total, acc[group]));
        store(out, total);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_all(line: &Line, word: i32, acc: &mut [__m512i; GROUPS]) {
    let (line, activations) = (load_line(line), _mm512_set1_epi32(word));
    for (group, acc) in acc.iter_mut().enumerate() {
        *acc = _mm512_dpbusd_epi32(*acc, masked(line, group), activations);
    }
}

/// `T` tokens, `G` groups of rows at a time.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tokens_of<const G: usize, const T: usize>(tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    let words = panel.words.as_chunks::<T>().0;
    for first in (0..GROUPS).step_by(G) {
        let mut ahead = Fetcher::new(tile.with_share_of_ahead(first, first + G, GROUPS));
        let mut acc = [[_mm512_setzero_si512(); G]; T];
        for (line, words) in tile.lines.iter().zip(words) {
            _mm_prefetch::<_MM_HINT_T1>(ahead.next_line());
            _mm_prefetch::<_MM_HINT_T0>(after(line));
            let line = load_line(line);
            let mut operands = [_mm512_setzero_si512(); G];
            for (g, operand) in operands.iter_mut().enumerate() {
                *operand = masked(line, first + g);
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
                store(out, acc);
            }
        }
    }
}

/// The operand of a group: its codes where they stand, or the whole line for the first group.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn masked(line: __m512i, group: usize) -> __m512i {
    if group == 0 {
        line
    } else {
        _mm512_and_si512(line, _mm512_set1_epi32(0x0303_0303 << (2 * group)))
    }
}

/// Turns the sums of the groups' operands into those of their weights; `sum` is that of the activations.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn finish(sums: &mut Sums, sum: i32) {
    let [all, rest @ ..] = sums.groups() else {
        unreachable!("a tile has groups")
    };
    let mut first = load(all);
    for (group, out) in (1..).zip(rest) {
        let acc = load(out);
        first = _mm512_sub_epi32(first, acc);
        let codes = _mm512_srav_epi32(acc, _mm512_set1_epi32(2 * group));
        store(out, _mm512_sub_epi32(codes, _mm512_set1_epi32(sum)));
    }
    store(all, _mm512_sub_epi32(first, _mm512_set1_epi32(sum)));
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_line(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(sums: &[i32; TILE_LANES]) -> __m512i {
    // SAFETY: 16 values are 64 bytes.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [i32; TILE_LANES], value: __m512i) {
    // SAFETY: 16 values are 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}
