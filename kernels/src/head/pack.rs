//! The head's weights as int8, in the order that they are multiplied in.
//!
//! A tile is 64 rows; each group of 16 of them is a run of lines, one for four columns, padded to whole tile registers of
//! 16 lines: what a masked group of a ternary tile is. A byte is the weight plus 128, since the products want unsigned
//! weights; the sums are 128 times those of the activations too large.

use rayon::prelude::*;

use crate::Kernel;
use crate::activations::Activations;
use crate::float::DenseMatrix;
use crate::matmul::{Sums, Tile};
use crate::memory::{LINE_LEN, Line};
use crate::ternary::{COLS_MAX, LINE_COLS, TILE_LANES, TILE_ROWS};

/// What a weight is moved up by to be unsigned.
pub(super) const OFFSET: i32 = 128;
/// Groups of 16 rows in a tile.
pub(super) const GROUPS: usize = TILE_ROWS / TILE_LANES;
/// Lines in a tile register, to a multiple of which a group is padded.
const BLOCK_LINES: usize = 16;
/// Above what f64 and the roundings of the bounds themselves can lose.
const MARGIN: f64 = 1.0001;

const _: () = assert!(255 * 128 * COLS_MAX < 1 << 31);

/// int8 weights of a whole matrix.
#[derive(Debug)]
pub(super) struct Packed {
    rows: usize,
    lines: Vec<Line>, // [tiles, groups, lines of a group]
    rounding: Vec<Rounding>,
}

/// What the rows of a tile lost when they became int8.
#[derive(Clone, Debug)]
pub(super) struct Rounding {
    /// What a unit of int8 stands for.
    pub(super) factors: [f32; TILE_ROWS],
    /// `‖w₁‖`, rounded up.
    pub(super) norms: [f32; TILE_ROWS],
    /// `‖w − w₁‖` and what f32 may lose, as a multiple of `‖w‖`, rounded up. Infinite if a weight is not finite.
    pub(super) errors: [f32; TILE_ROWS],
}

/// Whether the kernel has int8 products of four, and rows are short enough for their sums.
pub(super) fn is_of_use(kernel: Kernel, cols: usize) -> bool {
    let multiplies = match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni(_) => true,
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(_) => true,
        _ => false,
    };
    multiplies && cols <= COLS_MAX
}

/// The root of a sum of squares, rounded up.
pub(super) fn norm_up(squares: f64) -> f32 {
    (squares.sqrt() * MARGIN) as f32
}

impl Packed {
    pub(super) fn new(matrix: &DenseMatrix) -> Packed {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (tiles, tile_len) = (rows.div_ceil(TILE_ROWS), GROUPS * group_lines(cols));
        let mut lines = vec![Line([0; LINE_LEN]); tiles * tile_len];
        let mut rounding = vec![Rounding::NONE; tiles];
        let tiles = lines.par_chunks_mut(tile_len.max(1)).zip(&mut rounding).enumerate();
        tiles.for_each(|(tile, (lines, rounding))| {
            let mut row = vec![0.0; cols];
            for i in 0..TILE_ROWS.min(rows - tile * TILE_ROWS) {
                matrix.row(tile * TILE_ROWS + i, &mut row);
                rounding.fill_row(i, &row, lines);
            }
        });
        Packed { rows, lines, rounding }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn tiles(&self) -> usize {
        self.rounding.len()
    }

    pub(super) fn rounding(&self, tile: usize) -> &Rounding {
        &self.rounding[tile]
    }

    pub(super) fn bytes_len(&self) -> usize {
        self.lines.len() * LINE_LEN
    }

    /// `[groups, lines of a group]`
    fn tile(&self, tile: usize) -> &[Line] {
        let len = self.lines.len() / self.tiles();
        &self.lines[tile * len..(tile + 1) * len]
    }
}

impl Rounding {
    const NONE: Rounding = Rounding {
        factors: [0.0; TILE_ROWS],
        norms: [0.0; TILE_ROWS],
        errors: [0.0; TILE_ROWS],
    };

    /// Rounds row `i` of a tile into its lines.
    fn fill_row(&mut self, i: usize, row: &[f32], tile: &mut [Line]) {
        let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
        if !row.iter().all(|w| w.is_finite()) {
            self.errors[i] = f32::INFINITY;
            return;
        }
        let factor = largest / 127.0;
        let inverse = Some(1.0 / factor).filter(|inverse| inverse.is_finite()).unwrap_or(0.0);
        let group_len = tile.len() / GROUPS;
        let group = &mut tile[i / TILE_LANES * group_len..][..group_len];
        let (mut squares, mut rounded, mut lost) = (0.0, 0.0, 0.0);
        for (line, four) in group.iter_mut().zip(row.chunks(LINE_COLS)) {
            for (k, &w) in four.iter().enumerate() {
                let q = (w * inverse).round_ties_even().clamp(-127.0, 127.0);
                line.0[i % TILE_LANES * LINE_COLS + k] = (q as i32 + OFFSET) as u8;
                let (w, q) = (f64::from(w), f64::from(q) * f64::from(factor));
                (squares, rounded, lost) = (squares + w * w, rounded + q * q, lost + (w - q) * (w - q));
            }
        }
        // A lane adds a sixteenth of the products and the lanes are added in four steps; twice that, for the bounds too.
        let of_f32 = f64::from(f32::EPSILON) * (row.len() as f64 / TILE_LANES as f64 + 16.0);
        self.factors[i] = factor;
        self.norms[i] = norm_up(rounded);
        self.errors[i] = norm_up(lost) + norm_up(squares) * of_f32 as f32;
    }
}

/// Multiplies a tile with all tokens, and calls `write(first token, sums)` for an even number of them at a time.
pub(super) fn products(
    kernel: Kernel,
    packed: &Packed,
    tile: usize,
    tokens: &Activations,
    write: impl FnMut(usize, &[Sums]),
) {
    let tile = Tile {
        lines: packed.tile(tile),
        ahead: if tile + 1 < packed.tiles() {
            packed.tile(tile + 1)
        } else {
            &[]
        },
    };
    match kernel {
        // SAFETY: an `Amx` exists only if `detect` saw the features and got the permission.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(_) if tokens.in_rows() => unsafe { crate::matmul::amx::products_of_bytes(tile, tokens, write) },
        // SAFETY: an `Amx` has AVX-512 VNNI, too.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(_) => unsafe { super::vnni::products(tile.lines, tokens, write) },
        // SAFETY: an `Avx512Vnni` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni(_) => unsafe { super::vnni::products(tile.lines, tokens, write) },
        _ => unreachable!("only these kernels have packed heads"),
    }
}

fn group_lines(cols: usize) -> usize {
    cols.div_ceil(LINE_COLS).next_multiple_of(BLOCK_LINES)
}
