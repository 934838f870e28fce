//! Causal grouped-query attention over the paged cache.
//!
//! For one query: `score[p] = (Σ_d q[d]·k[p][d]) / sqrt(head_dim)`, d ascending; softmax in the lane order of
//! [`lanes`](super::lanes) by position; `out = (Σ_p e[p]·v[p]) / Σ e`, p ascending from 0. So a query's result
//! depends on it and its context alone, whatever the blocks, the chunk of the prompt or the batch it came with.
//! Queries that share a key-value head are taken [`TILE`] at a time, so keys and values are loaded once for them.

use std::ops::Range;

use rayon::prelude::*;

use super::kv_cache::KvCache;
use super::lanes::{LANES, Lanes};
use super::softmax::Exponentials;
use crate::Kernel;
use crate::cpu::Pass;
use crate::memory::SharedRows;

/// Queries that share each load of keys and values.
const TILE: usize = 4;

/// The query tokens that one sequence has in a batch.
#[derive(Clone, Debug)]
pub struct QuerySpan<'a> {
    /// Its rows of the queries and of the output.
    pub tokens: Range<usize>,
    /// The position of the first of them; the others follow it.
    pub position: usize,
    /// The sequence's blocks from position 0 on. Its keys and values up to its last query are written.
    pub blocks: &'a [u32],
}

/// Attends every query `q [tokens, heads * head_dim]` of one layer, output of the same shape.
///
/// Rows that no span names are left alone.
///
/// # Panics
/// `heads` is not a multiple of the cache's heads, a slice has another shape, spans overlap or leave the queries,
/// or a span has too few blocks.
pub fn attention(
    kernel: Kernel,
    cache: &KvCache,
    layer: usize,
    heads: usize,
    spans: &[QuerySpan<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let shape = cache.shape();
    let cols = heads * shape.head_dim;
    assert!(
        heads.is_multiple_of(shape.kv_heads),
        "{heads} heads do not share {} evenly",
        shape.kv_heads
    );
    assert!(
        q.len() == out.len() && q.len().is_multiple_of(cols.max(1)),
        "q and out are not [tokens, {cols}]"
    );
    let group = heads / shape.kv_heads;
    let tasks = tasks(shape.kv_heads, group, spans);
    check_spans(spans, q.len() / cols.max(1), shape.block_len);
    let out = SharedRows::new(out, cols);
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let span = &spans[task.span];
        let context = Context {
            cache,
            layer,
            kv_head: task.kv_head,
            blocks: span.blocks,
        };
        let column = |row: usize| (task.kv_head * group + row % group) * shape.head_dim;
        let mut queries = [Query { q: &[], positions: 0 }; TILE];
        for (query, row) in queries.iter_mut().zip(task.rows.clone()) {
            let from = (span.tokens.start + row / group) * cols + column(row);
            *query = Query {
                q: &q[from..from + shape.head_dim],
                positions: span.position + row / group + 1,
            };
        }
        kernel.run(Attend {
            context,
            queries: &queries[..task.rows.len()],
            scratch,
        });
        for (acc, row) in scratch.acc.chunks_exact(shape.value_stride().max(1)).zip(task.rows) {
            // SAFETY: spans do not overlap, and a row of a task is one head of one token: nobody else's.
            let out = unsafe { out.piece(span.tokens.start + row / group, column(row), shape.head_dim) };
            out.copy_from_slice(&acc[..shape.head_dim]);
        }
    });
}

/// Up to [`TILE`] queries of one span and key-value head. Row `token * group + head of the group`.
struct Task {
    span: usize,
    kv_head: usize,
    rows: Range<usize>,
}

fn tasks(kv_heads: usize, group: usize, spans: &[QuerySpan<'_>]) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        let rows = span.tokens.len() * group;
        for kv_head in 0..kv_heads {
            let tiles = (0..rows).step_by(TILE).map(|row| row..rows.min(row + TILE));
            tasks.extend(tiles.map(|rows| Task {
                span: index,
                kv_head,
                rows,
            }));
        }
    }
    tasks
}

/// Panics unless the spans are disjoint, inside the queries, and have blocks enough: `attention` writes by them.
fn check_spans(spans: &[QuerySpan<'_>], tokens: usize, block_len: usize) {
    let mut sorted: Vec<_> = spans.iter().collect();
    sorted.sort_by_key(|span| span.tokens.start);
    let mut free_from = 0;
    for span in sorted {
        let Range { start, end } = span.tokens;
        assert!(
            free_from <= start && start <= end && end <= tokens,
            "span {start}..{end} overlaps or leaves {tokens}"
        );
        assert!(
            span.position + span.tokens.len() <= span.blocks.len() * block_len,
            "a span has too few blocks"
        );
        free_from = end;
    }
}

/// The keys and values that queries see.
#[derive(Clone, Copy)]
struct Context<'a> {
    cache: &'a KvCache,
    layer: usize,
    kv_head: usize,
    blocks: &'a [u32],
}

/// A query and how many positions it sees.
#[derive(Clone, Copy)]
struct Query<'a> {
    q: &'a [f32],
    positions: usize,
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>, // [queries, positions in whole groups]
    acc: Vec<f32>,    // [queries, value_stride]
}

/// Attends a tile of queries; the result is in `scratch.acc`.
struct Attend<'a> {
    context: Context<'a>,
    queries: &'a [Query<'a>],
    scratch: &'a mut Scratch,
}

impl Pass for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.queries {
            [a, b, c, d] => attend([*a, *b, *c, *d], self.context, self.scratch),
            [a, b, c] => attend([*a, *b, *c], self.context, self.scratch),
            [a, b] => attend([*a, *b], self.context, self.scratch),
            [a] => attend([*a], self.context, self.scratch),
            _ => unreachable!("a task has one to {TILE} rows"),
        }
    }
}

#[inline(always)]
fn attend<const N: usize>(queries: [Query<'_>; N], context: Context<'_>, scratch: &mut Scratch) {
    let shape = context.cache.shape();
    let groups = queries
        .iter()
        .map(|query| query.positions)
        .fold(0, usize::max)
        .div_ceil(LANES);
    let (stride, value_stride) = (groups * LANES, shape.value_stride());
    let Scratch { scores, acc } = scratch;
    scores.resize(N * stride, 0.0);
    acc.clear();
    acc.resize(N * value_stride, 0.0);
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    for group in 0..groups {
        let tile = group_scores(queries.map(|query| query.q), context.keys(group));
        for (n, lanes) in tile.iter().enumerate() {
            let from = n * stride + group * LANES;
            for (score, lane) in scores[from..from + LANES].iter_mut().zip(lanes) {
                *score = lane * scale;
            }
        }
    }
    let mut sums = [0.0; N];
    for (n, sum) in sums.iter_mut().enumerate() {
        let x = &mut scores[n * stride..n * stride + queries[n].positions];
        *sum = Exponentials { x }.run();
    }
    let common = queries.iter().map(|query| query.positions).fold(usize::MAX, usize::min);
    let rows: [&[f32]; N] = std::array::from_fn(|n| &scores[n * stride..(n + 1) * stride]);
    add_values(rows, context, 0..common, acc);
    for (n, acc) in acc.chunks_exact_mut(value_stride).enumerate() {
        add_values([rows[n]], context, common..queries[n].positions, acc);
        for acc in acc {
            *acc /= sums[n];
        }
    }
}

impl<'a> Context<'a> {
    /// The keys of 16 positions, `[head_dim, 16]`.
    #[inline(always)]
    fn keys(&self, group: usize) -> &'a [Lanes] {
        let shape = self.cache.shape();
        let groups = shape.block_len / LANES;
        let block = self.cache.keys(self.layer, self.blocks[group / groups], self.kv_head);
        let from = group % groups * shape.head_dim;
        &block.as_chunks().0[from..from + shape.head_dim]
    }
}

/// The products of each query with 16 positions.
#[inline(always)]
fn group_scores<const N: usize>(queries: [&[f32]; N], keys: &[Lanes]) -> [Lanes; N] {
    let queries = queries.map(|q| &q[..keys.len()]);
    let mut acc = [[0.0; LANES]; N];
    for (d, key) in keys.iter().enumerate() {
        for n in 0..N {
            let q = queries[n][d];
            for i in 0..LANES {
                acc[n][i] = q.mul_add(key[i], acc[n][i]);
            }
        }
    }
    acc
}

/// Adds `weights[n][p] * v[p]` over a range of positions to `acc [N, value_stride]`.
#[inline(always)]
fn add_values<const N: usize>(weights: [&[f32]; N], context: Context<'_>, positions: Range<usize>, acc: &mut [f32]) {
    let shape = context.cache.shape();
    let (block_len, stride) = (shape.block_len, shape.value_stride());
    let mut from = positions.start;
    while from < positions.end {
        let (block, slot) = (from / block_len, from % block_len);
        let len = (block_len - slot).min(positions.end - from);
        let values = context
            .cache
            .values(context.layer, context.blocks[block], context.kv_head);
        let values = &values[slot * stride..(slot + len) * stride];
        let weights = weights.map(|weights| &weights[from..from + len]);
        for lane in (0..stride).step_by(LANES) {
            let mut tile = [[0.0; LANES]; N];
            for n in 0..N {
                tile[n].copy_from_slice(&acc[n * stride + lane..n * stride + lane + LANES]);
            }
            for (p, row) in values.chunks_exact(stride).enumerate() {
                let value: &Lanes = row[lane..].first_chunk().expect("a row is whole lanes");
                for n in 0..N {
                    for i in 0..LANES {
                        tile[n][i] = weights[n][p].mul_add(value[i], tile[n][i]);
                    }
                }
            }
            for n in 0..N {
                acc[n * stride + lane..n * stride + lane + LANES].copy_from_slice(&tile[n]);
            }
        }
        from += len;
    }
}

#[cfg(test)]
mod tests;
