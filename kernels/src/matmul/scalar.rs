//! The specification: every weight of a tile, decoded on its own.

use super::Sums;
use crate::activations::Activations;
use crate::memory::Line;
use crate::ternary::{LINE_COLS, TILE_LANES};

/// The products of a tile's rows with every token.
pub(super) fn tile_sums(tile: &[Line<u8>], activations: &Activations, sums: &mut [Sums]) {
    for (token, sums) in sums.iter_mut().enumerate() {
        for (line, word) in tile.iter().zip(activations.words(token)) {
            for (row, sum) in sums.0.iter_mut().enumerate() {
                let (lane, shift) = (row % TILE_LANES, row / TILE_LANES * 2);
                for (i, activation) in word.to_ne_bytes().into_iter().enumerate() {
                    let weight = i32::from(line.0[lane * LINE_COLS + i] >> shift & 3) - 1;
                    *sum += weight * i32::from(activation as i8);
                }
            }
        }
    }
}
