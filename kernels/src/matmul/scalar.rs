//! The specification: every weight of a tile, decoded on its own.

use crate::memory::Line;
use crate::ternary::{LINE_COLS, TILE_LANES, TILE_ROWS};

/// Adds the products of a tile's rows with one token to `sums`.
pub(super) fn tile_row(tile: &[Line<u8>], activations: &[i8], sums: &mut [i32; TILE_ROWS]) {
    for (line, four) in tile.iter().zip(activations.chunks_exact(LINE_COLS)) {
        for (row, sum) in sums.iter_mut().enumerate() {
            let (lane, shift) = (row % TILE_LANES, row / TILE_LANES * 2);
            for (i, &activation) in four.iter().enumerate() {
                let weight = i32::from(line.0[lane * LINE_COLS + i] >> shift & 3) - 1;
                *sum += weight * i32::from(activation);
            }
        }
    }
}
