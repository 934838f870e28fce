//! The specification: every weight of a tile, decoded on its own.

use super::{Sums, Tile};
use crate::activations::Panel;
use crate::ternary::{LINE_COLS, TILE_LANES, TILE_ROWS};

/// The products of a tile's rows with every token of a panel.
pub(super) fn tile_sums(tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    sums.fill(Sums([0; TILE_ROWS]));
    for (line, words) in tile.lines.iter().zip(panel.words.chunks_exact(panel.width())) {
        for (word, sums) in words.iter().zip(&mut *sums) {
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
