//! The queries of one task against their context.
//!
//! Scores of two groups of 16 positions, and sums of values, stay in registers for up to eight queries at a time, or two
//! where registers are few. How queries are put together changes which loads they share, never the order of a sum.

use std::ops::Range;

use super::super::kv_cache::KvCache;
use super::super::lanes::{Aligned, LANES};
use super::super::softmax::Exponentials;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// Columns of keys that are multiplied before the next part of what comes after them is prefetched.
const KEYS_PART: usize = 16;
/// The same in positions of values.
const VALUES_PART: usize = 8;

/// The keys and values that queries see.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) cache: &'a KvCache,
    pub(super) layer: usize,
    pub(super) kv_head: usize,
    pub(super) blocks: &'a [u32],
}

/// A query and how many positions it sees.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) q: &'a [f32],
    pub(super) positions: usize,
}

/// A thread's working memory.
#[derive(Default)]
pub(super) struct Scratch {
    scores: Vec<f32>,             // [queries, positions in whole groups]
    sums: Vec<f32>,               // [queries]
    pub(super) acc: Vec<Aligned>, // [queries, value_vectors]
}

/// Attends queries of one key-value head; the result is in `scratch.acc`.
pub(super) struct Attend<'a> {
    pub(super) context: Context<'a>,
    pub(super) queries: &'a [Query<'a>],
    /// What is most likely attended after it.
    pub(super) next: Option<Context<'a>>,
    pub(super) scratch: &'a mut Scratch,
}

impl Pass for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Attend {
            context,
            queries,
            next,
            scratch: Scratch { scores, sums, acc },
        } = self;
        let (positions, vectors) = (positions(queries), context.cache.shape().value_vectors());
        let stride = positions.next_multiple_of(LANES);
        scores.resize(queries.len() * stride, 0.0);
        sums.resize(queries.len(), 0.0);
        acc.clear();
        acc.resize(queries.len() * vectors, Aligned([0.0; LANES]));
        let last = (stride / LANES).saturating_sub(1);
        for group in (0..=last).step_by(2) {
            let ahead = if group + 2 <= last {
                [context.keys(group + 2), context.keys((group + 3).min(last))]
            } else {
                let rows = context.values(0).rows;
                [&rows[..rows.len() / 2], &rows[rows.len() / 2..]]
            };
            score(
                simd,
                queries,
                context,
                [group, (group + 1).min(last)],
                ahead,
                scores,
                stride,
            );
        }
        for ((sum, row), query) in sums.iter_mut().zip(scores.chunks_exact_mut(stride)).zip(queries) {
            *sum = Exponentials {
                x: &mut row[..query.positions],
            }
            .run(simd);
        }
        let block_len = context.cache.shape().block_len;
        for from in (0..positions).step_by(block_len) {
            let ahead = if from + block_len < positions {
                context.values(from + block_len).rows
            } else {
                next.map_or(&[][..], |next| next.keys(0))
            };
            let block = from..positions.min(from + block_len);
            add_block(simd, queries, context, block, ahead, (scores, stride), acc);
        }
        for (acc, sum) in acc.chunks_exact_mut(vectors).zip(sums) {
            for acc in acc {
                simd.store(simd.div(simd.load(&acc.0), simd.splat(*sum)), &mut acc.0);
            }
        }
    }
}

/// The length of parts of `len`: all of it, if nothing is to be prefetched between them.
#[inline(always)]
fn part_len(ahead: &[Aligned], part_len: usize, len: usize) -> usize {
    if ahead.is_empty() { len.max(1) } else { part_len }
}

/// Prefetches part `i` of `parts` of what comes next, for with few queries memory is what everything waits for, and blocks do
/// not lie in a row.
#[inline(always)]
fn fetch<S: Simd>(simd: S, ahead: &[Aligned], i: usize, parts: usize) {
    for line in &ahead[i * ahead.len() / parts..(i + 1) * ahead.len() / parts] {
        simd.prefetch(line);
    }
}

/// The positions that any of the queries sees.
#[inline(always)]
fn positions(queries: &[Query<'_>]) -> usize {
    queries.iter().map(|query| query.positions).fold(0, usize::max)
}

/// Writes the scores of two groups of positions, which may be the same one, for all queries.
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    queries: &[Query<'_>],
    context: Context<'_>,
    groups: [usize; 2],
    mut ahead: [&[Aligned]; 2],
    scores: &mut [f32],
    stride: usize,
) {
    let keys = [context.keys(groups[0]), context.keys(groups[1])];
    let mut row = 0;
    while row < queries.len() {
        let (queries, scores) = (&queries[row..], &mut scores[row * stride..]);
        row += match queries.len() {
            8.. if S::WIDE => score_tile::<S, 8>(simd, queries, keys, groups, ahead, scores, stride),
            4.. if S::WIDE => score_tile::<S, 4>(simd, queries, keys, groups, ahead, scores, stride),
            2.. => score_tile::<S, 2>(simd, queries, keys, groups, ahead, scores, stride),
            _ => score_tile::<S, 1>(simd, queries, keys, groups, ahead, scores, stride),
        };
        ahead = [&[]; 2];
    }
}

/// The scores of the first `N` queries; returns `N`.
#[inline(always)]
fn score_tile<S: Simd, const N: usize>(
    simd: S,
    queries: &[Query<'_>],
    keys: [&[Aligned]; 2],
    groups: [usize; 2],
    ahead: [&[Aligned]; 2],
    scores: &mut [f32],
    stride: usize,
) -> usize {
    let part = part_len(ahead[0], KEYS_PART, keys[0].len());
    let parts = keys[0].len().div_ceil(part);
    let mut acc = [[simd.splat(0.0); 2]; N];
    for (i, keys) in keys[0].chunks(part).zip(keys[1].chunks(part)).enumerate() {
        ahead.into_iter().for_each(|ahead| fetch(simd, ahead, i, parts));
        let q: [&[f32]; N] = std::array::from_fn(|n| &queries[n].q[i * part..][..keys.0.len()]);
        for (d, (first, second)) in keys.0.iter().zip(keys.1).enumerate() {
            let (first, second) = (simd.load(&first.0), simd.load(&second.0));
            for n in 0..N {
                let q = simd.splat(q[n][d]);
                acc[n][0] = simd.mul_add(q, first, acc[n][0]);
                acc[n][1] = simd.mul_add(q, second, acc[n][1]);
            }
        }
    }
    let scale = simd.splat(1.0 / (keys[0].len() as f32).sqrt());
    for n in 0..N {
        for (i, group) in groups.into_iter().enumerate() {
            let out = &mut scores[n * stride..(n + 1) * stride].as_chunks_mut().0[group];
            simd.store(simd.mul(acc[n][i], scale), out);
        }
    }
    N
}

/// Adds a block's weighted values to the sums `acc [queries, value_vectors]`, weights being `[queries, stride]`.
#[inline(always)]
fn add_block<S: Simd>(
    simd: S,
    queries: &[Query<'_>],
    context: Context<'_>,
    block: Range<usize>,
    mut ahead: &[Aligned],
    (weights, stride): (&[f32], usize),
    acc: &mut [Aligned],
) {
    let values = context.values(block.start);
    let mut row = 0;
    while row < queries.len() {
        let (queries, weights) = (&queries[row..], (&weights[row * stride..], stride));
        let acc = &mut acc[row * values.vectors..];
        row += match queries.len() {
            8.. if S::WIDE => add_tile::<S, 8, 2>(simd, queries, values, block.clone(), ahead, weights, acc),
            4.. if S::WIDE => add_tile::<S, 4, 4>(simd, queries, values, block.clone(), ahead, weights, acc),
            2.. => add_tile::<S, 2, 2>(simd, queries, values, block.clone(), ahead, weights, acc),
            _ => add_tile::<S, 1, 4>(simd, queries, values, block.clone(), ahead, weights, acc),
        };
        ahead = &[];
    }
}

/// As [`add_block`] for the first `N` queries, `C` vectors of a value at a time; returns `N`.
#[inline(always)]
fn add_tile<S: Simd, const N: usize, const C: usize>(
    simd: S,
    queries: &[Query<'_>],
    values: Values<'_>,
    block: Range<usize>,
    ahead: &[Aligned],
    (weights, stride): (&[f32], usize),
    acc: &mut [Aligned],
) -> usize {
    let limit = |n: usize| queries[n].positions.clamp(block.start, block.end);
    let common = (0..N).map(limit).fold(block.end, usize::min);
    let rows: [&[f32]; N] = std::array::from_fn(|n| &weights[n * stride..(n + 1) * stride]);
    let from = block.start;
    add_values::<S, N, C>(simd, rows.map(|row| &row[from..common]), values, ahead, acc);
    for n in 0..N {
        let acc = &mut acc[n * values.vectors..(n + 1) * values.vectors];
        let weights = [&rows[n][common..limit(n)]];
        add_values::<S, 1, C>(simd, weights, values.from(common - from), &[], acc);
    }
    N
}

/// Adds `weights[n][p] * v[p]` for all weights, p ascending.
#[inline(always)]
fn add_values<S: Simd, const N: usize, const C: usize>(
    simd: S,
    weights: [&[f32]; N],
    values: Values<'_>,
    ahead: &[Aligned],
    acc: &mut [Aligned],
) {
    let mut vector = 0;
    while vector < values.vectors && !weights[0].is_empty() {
        vector += if values.vectors - vector >= C {
            add_vectors::<S, N, C>(simd, weights, values, vector, ahead, acc)
        } else {
            add_vectors::<S, N, 1>(simd, weights, values, vector, ahead, acc)
        };
    }
}

/// As [`add_values`] for `C` vectors of a value; returns `C`.
#[inline(always)]
fn add_vectors<S: Simd, const N: usize, const C: usize>(
    simd: S,
    weights: [&[f32]; N],
    values: Values<'_>,
    vector: usize,
    ahead: &[Aligned],
    acc: &mut [Aligned],
) -> usize {
    let at = |n: usize, c: usize| n * values.vectors + vector + c;
    let mut sums = [[simd.splat(0.0); C]; N];
    for n in 0..N {
        for c in 0..C {
            sums[n][c] = simd.load(&acc[at(n, c)].0);
        }
    }
    let ahead = &ahead[ahead.len() * vector / values.vectors..ahead.len() * (vector + C) / values.vectors];
    let len = weights[0].len();
    let part = part_len(ahead, VALUES_PART, len);
    let parts = len.div_ceil(part);
    let rows = values.rows[..len * values.vectors].chunks(part * values.vectors);
    for (i, rows) in rows.enumerate() {
        fetch(simd, ahead, i, parts);
        let weights = weights.map(|weights| &weights[i * part..][..rows.len() / values.vectors]);
        for (p, row) in rows.chunks_exact(values.vectors).enumerate() {
            let lanes: &[Aligned; C] = row[vector..].first_chunk().expect("the row has these vectors");
            for n in 0..N {
                let weight = simd.splat(weights[n][p]);
                for c in 0..C {
                    sums[n][c] = simd.mul_add(weight, simd.load(&lanes[c].0), sums[n][c]);
                }
            }
        }
    }
    for n in 0..N {
        for c in 0..C {
            simd.store(sums[n][c], &mut acc[at(n, c)].0);
        }
    }
    C
}

/// Consecutive positions' values, `[positions, vectors]`.
#[derive(Clone, Copy)]
struct Values<'a> {
    rows: &'a [Aligned],
    vectors: usize,
}

impl Values<'_> {
    /// All but the first positions.
    #[inline(always)]
    fn from(self, positions: usize) -> Self {
        Values {
            rows: &self.rows[positions * self.vectors..],
            ..self
        }
    }
}

impl<'a> Context<'a> {
    /// The keys of 16 positions, `[head_dim]`.
    #[inline(always)]
    fn keys(self, group: usize) -> &'a [Aligned] {
        let shape = self.cache.shape();
        let groups = shape.block_len / LANES;
        let block = self.cache.keys(self.layer, self.blocks[group / groups], self.kv_head);
        &block[group % groups * shape.head_dim..][..shape.head_dim]
    }

    /// The values of the block that starts at a position.
    #[inline(always)]
    fn values(self, position: usize) -> Values<'a> {
        let shape = self.cache.shape();
        let block = self.blocks[position / shape.block_len];
        Values {
            rows: self.cache.values(self.layer, block, self.kv_head),
            vectors: shape.value_vectors(),
        }
    }
}
