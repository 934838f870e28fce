//! Causal grouped-query attention over the paged cache.
//!
//! For one query: `score[p] = (Σ_d q[d]·k[p][d]) / sqrt(head_dim)`, d ascending; softmax in the lane order of
//! [`lanes`](super::lanes) by position; `out = (Σ_p e[p]·v[p]) / Σ e`, p ascending from 0. So a query's result
//! depends on it and its context alone, whatever the blocks, the chunk of the prompt or the batch it came with.
//! Queries that share a key-value head are taken [`TASK_ROWS`] at a time, so keys and values come from memory once for
//! all of them.

mod tile;

use std::ops::Range;

use self::tile::{Attend, Context, Query, Scratch};
use super::kv_cache::KvCache;
use super::lanes::LANES;
use crate::Kernel;
use crate::memory::SharedRows;
use crate::share::share;

/// Queries of a task.
const TASK_ROWS: usize = 64;
/// Multiply-adds below which a second thread costs more than it saves: two microseconds of one.
const PARALLEL_MIN: usize = 1 << 17;

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
    if out.is_empty() {
        return;
    }
    let group = heads / shape.kv_heads;
    let tasks = tasks(shape.kv_heads, group, spans);
    check_spans(spans, q.len() / cols.max(1), shape.block_len);
    let out = SharedRows::new(out, cols);
    let context = |task: &Task| Context {
        cache,
        layer,
        kv_head: task.kv_head,
        blocks: spans[task.span].blocks,
    };
    let seen = |span: &QuerySpan<'_>| span.tokens.len() * (span.position + span.tokens.len());
    let macs = 2 * cols * spans.iter().map(seen).sum::<usize>();
    share(
        tasks.len(),
        macs / PARALLEL_MIN,
        Scratch::default,
        |scratch, index, next| {
            let task = &tasks[index];
            let span = &spans[task.span];
            let column = |row: usize| (task.kv_head * group + row % group) * shape.head_dim;
            let query = |row: usize| {
                let from = (span.tokens.start + row / group) * cols + column(row);
                Query {
                    q: &q[from..from + shape.head_dim],
                    positions: span.position + row / group + 1,
                }
            };
            let queries: Vec<Query<'_>> = task.rows.clone().map(query).collect();
            kernel.run(Attend {
                context: context(task),
                queries: &queries,
                next: next.map(|next| context(&tasks[next])),
                scratch,
            });
            for (acc, row) in scratch
                .acc
                .chunks_exact(shape.value_vectors().max(1))
                .zip(task.rows.clone())
            {
                // SAFETY: spans do not overlap, and a row of a task is one head of one token: nobody else's.
                let out = unsafe { out.piece(span.tokens.start + row / group, column(row), shape.head_dim) };
                for (out, acc) in out.chunks_mut(LANES).zip(acc) {
                    out.copy_from_slice(&acc.0[..out.len()]);
                }
            }
        },
    );
}

/// Up to [`TASK_ROWS`] queries of one span and key-value head. Row `token * group + head of the group`.
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
            let tiles = (0..rows).step_by(TASK_ROWS).map(|row| row..rows.min(row + TASK_ROWS));
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

#[cfg(test)]
mod tests;
