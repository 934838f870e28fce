//! The paged cache of keys and values: blocks of positions, allocated once for all layers.
//!
//! Keys lie in groups of 16 positions, one a lane, so that a query's scores need no sum across lanes; values
//! lie one position after another. Nobody outside sees the layout or the element type.

use std::fmt;

use super::attention::QuerySpan;
use super::lanes::{Aligned, LANES};
use crate::memory::SharedRows;
use crate::share::share;

/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 12;

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Blocks, shared by all sequences; every layer has all of them.
    pub blocks: usize,
    /// Positions in a block, a multiple of 16.
    pub block_len: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// A cache cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvShapeError {
    /// A block must hold a whole number of 16 positions, and at least 16.
    BlockLen(usize),
    /// The cache does not fit the memory.
    TooLarge(KvShape),
}

/// Keys and values of every layer, all blocks zero at first.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    keys: Vec<Aligned>,   // [layers, blocks, kv_heads, block_len / 16, head_dim] of 16 positions
    values: Vec<Aligned>, // [layers, blocks, kv_heads, block_len, value_vectors] of 16 values of a head
}

impl KvShape {
    /// Bytes that one block takes over all layers, or `None` beyond the address space.
    pub fn block_bytes_len(&self) -> Option<usize> {
        let positions = self.layers.checked_mul(self.block_len)?.checked_mul(self.kv_heads)?;
        let values = self
            .head_dim
            .checked_add(self.head_dim.checked_next_multiple_of(LANES)?)?;
        positions.checked_mul(values)?.checked_mul(size_of::<f32>())
    }

    /// Vectors of one head's value at one position.
    pub(crate) fn value_vectors(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }
}

impl KvCache {
    /// Allocates a cache.
    ///
    /// # Errors
    /// The block length is no multiple of 16, or the memory is not there.
    pub fn new(shape: KvShape) -> Result<KvCache, KvShapeError> {
        if shape.block_len == 0 || !shape.block_len.is_multiple_of(LANES) {
            return Err(KvShapeError::BlockLen(shape.block_len));
        }
        let too_large = KvShapeError::TooLarge(shape);
        let bytes_len = shape.block_bytes_len().and_then(|len| len.checked_mul(shape.blocks));
        bytes_len.filter(|len| isize::try_from(*len).is_ok()).ok_or(too_large)?;
        let rows = shape.layers * shape.blocks * shape.kv_heads * shape.block_len;
        let keys = zeros(rows / LANES * shape.head_dim).ok_or(too_large)?;
        let values = zeros(rows * shape.value_vectors()).ok_or(too_large)?;
        Ok(KvCache { shape, keys, values })
    }

    /// Its size.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Writes the keys and values `[tokens, kv_heads * head_dim]` of every span's tokens at their positions in one layer.
    ///
    /// # Panics
    /// The layer or a block is outside the cache, a span has too few blocks or other tokens, or a slice has another shape.
    pub fn write(&mut self, layer: usize, spans: &[QuerySpan<'_>], keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        let (head_dim, vectors) = (shape.head_dim, shape.value_vectors());
        let cols = shape.kv_heads * head_dim;
        assert!(
            keys.len() == values.len() && keys.len().is_multiple_of(cols.max(1)),
            "keys and values are not [tokens, {cols}]"
        );
        let key_rows = SharedRows::new(&mut self.keys, head_dim);
        let value_rows = SharedRows::new(&mut self.values, vectors);
        let write_head = |(): &mut (), head: usize, _: Option<usize>| {
            for (token, block, slot) in spans.iter().flat_map(|span| places(span, shape.block_len)) {
                let row = block_start(shape, layer, block, head) + slot;
                let of_head = token * cols + head * head_dim..token * cols + (head + 1) * head_dim;
                // SAFETY: a head is one task, and the rows of its blocks are its own, taken one at a time.
                let lanes = unsafe { key_rows.piece(row / LANES, 0, head_dim) };
                for (lanes, key) in lanes.iter_mut().zip(&keys[of_head.clone()]) {
                    lanes.0[row % LANES] = *key;
                }
                // SAFETY: as above.
                let vectors = unsafe { value_rows.piece(row, 0, vectors) };
                for (lanes, values) in vectors.iter_mut().zip(values[of_head].chunks(LANES)) {
                    lanes.0[..values.len()].copy_from_slice(values);
                }
            }
        };
        share(shape.kv_heads, keys.len() / PARALLEL_MIN, || (), write_head);
    }

    /// A block's keys of one head, `[block_len / 16, head_dim]`, in the lanes of 16 positions.
    #[inline(always)]
    pub(crate) fn keys(&self, layer: usize, block: u32, head: usize) -> &[Aligned] {
        let KvShape {
            block_len, head_dim, ..
        } = self.shape;
        let from = block_start(self.shape, layer, block, head) / LANES * head_dim;
        &self.keys[from..from + block_len / LANES * head_dim]
    }

    /// A block's values of one head, `[block_len, value_vectors]`.
    #[inline(always)]
    pub(crate) fn values(&self, layer: usize, block: u32, head: usize) -> &[Aligned] {
        let vectors = self.shape.value_vectors();
        let from = block_start(self.shape, layer, block, head) * vectors;
        &self.values[from..from + self.shape.block_len * vectors]
    }
}

/// Each token of a span, with its block and its place there.
fn places(span: &QuerySpan<'_>, block_len: usize) -> impl Iterator<Item = (usize, u32, usize)> {
    let positions = span.position..;
    let tokens = span.tokens.clone().zip(positions);
    tokens.map(move |(token, position)| (token, span.blocks[position / block_len], position % block_len))
}

/// Positions before a block of a head.
#[inline(always)]
fn block_start(shape: KvShape, layer: usize, block: u32, head: usize) -> usize {
    let block = block as usize;
    assert!(
        layer < shape.layers && block < shape.blocks && head < shape.kv_heads,
        "layer {layer}, block {block} is outside"
    );
    ((layer * shape.blocks + block) * shape.kv_heads + head) * shape.block_len
}

impl fmt::Display for KvShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvShapeError::BlockLen(len) => write!(f, "a block of {len} positions: it must be a multiple of {LANES}"),
            KvShapeError::TooLarge(shape) => write!(f, "no memory for a key-value cache of {shape:?}: fewer blocks"),
        }
    }
}

impl std::error::Error for KvShapeError {}

fn zeros(len: usize) -> Option<Vec<Aligned>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    values.resize(len, Aligned([0.0; LANES]));
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        layers: 2,
        blocks: 3,
        block_len: 32,
        kv_heads: 2,
        head_dim: 5,
    };

    #[test]
    fn impossible_shapes_are_errors() {
        let block_len = KvCache::new(KvShape { block_len: 24, ..SHAPE }).unwrap_err();
        assert_eq!(block_len, KvShapeError::BlockLen(24));
        for shape in [
            KvShape {
                blocks: usize::MAX,
                ..SHAPE
            },
            KvShape {
                head_dim: usize::MAX,
                ..SHAPE
            },
        ] {
            assert_eq!(KvCache::new(shape).unwrap_err(), KvShapeError::TooLarge(shape));
        }
    }

    #[test]
    fn a_block_takes_what_it_says() {
        let cache = KvCache::new(SHAPE).unwrap();
        let bytes_len = (cache.keys.len() + cache.values.len()) * size_of::<Aligned>();
        assert_eq!(SHAPE.block_bytes_len(), Some(bytes_len / SHAPE.blocks));
    }

    #[test]
    fn a_position_lands_in_its_lane_and_row() {
        let mut cache = KvCache::new(SHAPE).unwrap();
        let keys: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let values: Vec<f32> = keys.iter().map(|key| -key).collect();
        let (tokens, position, blocks) = (0..1, 32 + 18, &[0, 2][..]);
        let span = QuerySpan {
            tokens,
            position,
            blocks,
        };
        cache.write(1, &[span], &keys, &values);
        for d in 0..5 {
            assert_eq!(cache.keys(1, 2, 1)[5 + d].0[2], keys[5 + d]);
            assert_eq!(cache.values(1, 2, 1)[18].0[d], values[5 + d]);
        }
        let written = cache.keys.iter().flat_map(|lanes| lanes.0).filter(|&key| key != 0.0);
        assert_eq!(written.count(), 9);
    }
}
