use super::*;
use crate::float::KvShape;

const SHAPE: KvShape = KvShape {
    layers: 2,
    blocks: 16,
    block_len: 16,
    kv_heads: 2,
    head_dim: 20,
};
const HEADS: usize = 6;
const COLS: usize = HEADS * 20;
const KV_COLS: usize = 2 * 20;

/// Numbers that look random and are the same everywhere.
fn noise(seed: usize, len: usize) -> Vec<f32> {
    let mut state = seed as u32 + 1;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next(&mut state)).collect()
}

/// One sequence of 75 positions, its keys, values and queries.
struct Sequence {
    keys: Vec<f32>,
    values: Vec<f32>,
    q: Vec<f32>,
}

fn sequence() -> Sequence {
    Sequence {
        keys: noise(1, 75 * KV_COLS),
        values: noise(2, 75 * KV_COLS),
        q: noise(3, 75 * COLS),
    }
}

/// A cache whose unwritten places are poison.
fn cache(sequence: &Sequence, block_len: usize, blocks: &[u32]) -> KvCache {
    let mut cache = KvCache::new(KvShape { block_len, ..SHAPE }).unwrap();
    let all: Vec<u32> = (0..SHAPE.blocks as u32).collect();
    let span = |tokens: usize, blocks| {
        [QuerySpan {
            tokens: 0..tokens,
            position: 0,
            blocks,
        }]
    };
    let poison = vec![f32::NAN; all.len() * block_len * KV_COLS];
    cache.write(1, &span(all.len() * block_len, &all), &poison, &poison);
    cache.write(1, &span(75, blocks), &sequence.keys, &sequence.values);
    cache
}

/// The textbook's formula, in f64.
fn reference(sequence: &Sequence, token: usize, head: usize) -> Vec<f64> {
    let at = |x: &[f32], cols: usize, row: usize, col: usize| f64::from(x[row * cols + col]);
    let kv_head = head / (HEADS / 2);
    let score = |p: usize| -> f64 {
        let product =
            |d: usize| at(&sequence.q, COLS, token, head * 20 + d) * at(&sequence.keys, KV_COLS, p, kv_head * 20 + d);
        (0..20).map(product).sum::<f64>() / 20f64.sqrt()
    };
    let weights: Vec<f64> = (0..=token).map(|p| score(p).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let value = |p: usize, d: usize| at(&sequence.values, KV_COLS, p, kv_head * 20 + d);
    (0..20)
        .map(|d| weights.iter().enumerate().map(|(p, w)| w * value(p, d)).sum::<f64>() / sum)
        .collect()
}

/// All 75 queries, in chunks of the given length.
fn attend_in_chunks(kernel: Kernel, block_len: usize, blocks: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = sequence();
    let cache = cache(&sequence, block_len, blocks);
    let mut out = vec![0.0; sequence.q.len()];
    for from in (0..75).step_by(chunk) {
        let tokens = from..75.min(from + chunk);
        let spans = [QuerySpan {
            tokens,
            position: from,
            blocks,
        }];
        attention(kernel, &cache, 1, HEADS, &spans, &sequence.q, &mut out);
    }
    out
}

#[test]
fn matches_the_textbook() {
    let out = attend_in_chunks(Kernel::Scalar, 16, &[3, 1, 15, 0, 7], 75);
    let sequence = sequence();
    for token in 0..75 {
        for head in 0..HEADS {
            let row = &out[token * COLS + head * 20..][..20];
            let expected = reference(&sequence, token, head);
            let close = row.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-6);
            assert!(close, "token {token}, head {head}");
        }
    }
}

#[test]
fn instruction_set_blocks_and_chunks_do_not_show() {
    let bits = |out: Vec<f32>| out.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let expected = bits(attend_in_chunks(Kernel::Scalar, 16, &[3, 1, 15, 0, 7], 75));
    for kernel in Kernel::available() {
        for chunk in [1, 2, 7, 16, 33] {
            assert_eq!(
                bits(attend_in_chunks(kernel, 16, &[9, 8, 2, 4, 5], chunk)),
                expected,
                "{kernel}, {chunk}"
            );
        }
        assert_eq!(bits(attend_in_chunks(kernel, 48, &[6, 2], 20)), expected, "{kernel}");
    }
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let sequence = sequence();
    let blocks = [3, 1, 15, 0, 7];
    let cache = cache(&sequence, 16, &blocks);
    let alone = attend_in_chunks(Kernel::best(), 16, &blocks, 75);
    let mut out = vec![-1.0; sequence.q.len()];
    let span = |tokens: Range<usize>| QuerySpan {
        position: tokens.start,
        tokens,
        blocks: &blocks,
    };
    attention(
        Kernel::best(),
        &cache,
        1,
        HEADS,
        &[span(40..75), span(3..4), span(0..2)],
        &sequence.q,
        &mut out,
    );
    for token in 0..75 {
        let row = token * COLS..(token + 1) * COLS;
        let named = token < 2 || token == 3 || token >= 40;
        assert_eq!(out[row.clone()] == alone[row.clone()], named, "token {token}");
        assert!(named || out[row].iter().all(|&x| x == -1.0), "token {token}");
    }
}

#[test]
#[should_panic(expected = "overlaps")]
fn overlapping_spans_are_refused() {
    let sequence = sequence();
    let cache = cache(&sequence, 16, &[0, 1, 2, 3, 4]);
    let span = |tokens: Range<usize>| QuerySpan {
        position: 0,
        tokens,
        blocks: &[0, 1, 2, 3, 4],
    };
    let mut out = vec![0.0; sequence.q.len()];
    attention(
        Kernel::Scalar,
        &cache,
        1,
        HEADS,
        &[span(0..4), span(3..5)],
        &sequence.q,
        &mut out,
    );
}
