//! A matrix of {−1, 0, 1} in two bits a weight, in the order that the kernels read it.
//!
//! Rows are grouped in tiles of 64. A tile is a run of cache lines, one for four columns, and every byte
//! holds one column of four rows:
//!
//! ```text
//! line c, byte 4 * lane + i   =  code(row lane,      col 4c + i)
//!                             |  code(row lane + 16, col 4c + i) << 2
//!                             |  code(row lane + 32, col 4c + i) << 4
//!                             |  code(row lane + 48, col 4c + i) << 6        lane 0..16, i 0..4
//! ```
//!
//! A code is the weight plus one. So a line masked with 3 is 16 rows by four columns of unsigned bytes, just
//! what a VNNI instruction multiplies with four activations that it broadcasts, and the other three masks give
//! the other rows times 4, 16 and 64. Missing rows and columns have code 0 and meet zero activations.

mod stored;

use std::fmt;

pub use self::stored::LAYOUT;
use crate::memory::{LINE_LEN, Line};

/// Rows in a tile.
pub(crate) const TILE_ROWS: usize = 64;
/// Rows that one vector of a tile holds.
pub(crate) const TILE_LANES: usize = 16;
/// Columns in a line of a tile.
pub(crate) const LINE_COLS: usize = 4;
/// The most columns a matrix may have: below it no sum of `170 * 128 * cols` leaves an i32, where 170 is the
/// largest byte of four codes.
pub const COLS_MAX: usize = 1 << 16;

/// `[rows, cols]` of {−1, 0, 1} with one factor for the whole matrix.
#[derive(Clone, Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    factor: f32,
    lines: Vec<Line>, // [tiles, lines in a tile]
}

/// Fills a [`TernaryMatrix`] from row 0 on, so that a loader never holds the matrix unpacked.
#[derive(Debug)]
pub struct TernaryBuilder {
    matrix: TernaryMatrix,
    rows_filled: usize,
}

/// Why weights do not make a matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum TernaryError {
    /// Nobody can multiply with this shape.
    Shape {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for, allowed up to [`COLS_MAX`].
        cols: usize,
    },
    /// The factor is not a finite number.
    Factor(f32),
    /// A slice of weights is not a whole number of rows, or goes beyond the last one.
    Length {
        /// Weights given.
        len: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Rows still missing.
        rows_missing: usize,
    },
    /// A weight is not −1, 0 or 1.
    Weight {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// What it is.
        value: i8,
    },
    /// The matrix was finished before its last row.
    Unfinished {
        /// Rows given.
        filled: usize,
        /// Rows promised.
        rows: usize,
    },
    /// Stored bytes have another length than the matrix.
    Stored {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Bytes given.
        len: usize,
    },
    /// A stored code stands for no weight.
    Code {
        /// Which cache line of the bytes holds it.
        line: usize,
    },
}

impl TernaryMatrix {
    /// Starts a matrix. The product with it is multiplied by `factor` (see [`crate::matmul`]).
    ///
    /// # Errors
    /// More than [`COLS_MAX`] columns, a size beyond the address space, or a factor that is not finite.
    pub fn builder(rows: usize, cols: usize, factor: f32) -> Result<TernaryBuilder, TernaryError> {
        let lines = rows.div_ceil(TILE_ROWS).checked_mul(cols.div_ceil(LINE_COLS));
        let bytes_len = lines
            .and_then(|lines| lines.checked_mul(LINE_LEN))
            .filter(|len| isize::try_from(*len).is_ok());
        if cols > COLS_MAX || bytes_len.is_none() {
            return Err(TernaryError::Shape { rows, cols });
        }
        if !factor.is_finite() {
            return Err(TernaryError::Factor(factor));
        }
        let matrix = TernaryMatrix {
            rows,
            cols,
            factor,
            lines: Vec::new(),
        };
        Ok(TernaryBuilder { matrix, rows_filled: 0 })
    }

    /// A matrix from all its weights `[rows, cols]` at once.
    ///
    /// # Errors
    /// As the builder's.
    pub fn from_weights(rows: usize, cols: usize, factor: f32, weights: &[i8]) -> Result<Self, TernaryError> {
        let mut builder = TernaryMatrix::builder(rows, cols, factor)?;
        builder.push_rows(weights)?;
        builder.finish()
    }

    /// Rows, the length of an output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the length of an input.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What the products are multiplied by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Bytes that the packed weights take.
    pub fn bytes_len(&self) -> usize {
        self.lines.len() * LINE_LEN
    }

    /// The weight at a place. Panics outside the matrix. For tests and tools; no kernel reads this way.
    pub fn weight(&self, row: usize, col: usize) -> i8 {
        assert!(
            row < self.rows && col < self.cols,
            "({row}, {col}) is outside {} x {}",
            self.rows,
            self.cols
        );
        let line = &self.tile(row / TILE_ROWS)[col / LINE_COLS];
        let (byte, shift) = place(row % TILE_ROWS, col % LINE_COLS);
        (line.0[byte] >> shift & 3) as i8 - 1
    }

    /// Tiles, the last one padded.
    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The lines of one tile.
    pub(crate) fn tile(&self, tile: usize) -> &[Line] {
        let lines = self.cols.div_ceil(LINE_COLS);
        &self.lines[tile * lines..(tile + 1) * lines]
    }
}

impl TernaryBuilder {
    /// Adds the next row or rows, `weights` being `[any, cols]` of −1, 0 and 1.
    ///
    /// # Errors
    /// Another length, rows beyond the last, or another weight. The builder is of no use afterwards.
    pub fn push_rows(&mut self, weights: &[i8]) -> Result<(), TernaryError> {
        let TernaryMatrix { rows, cols, .. } = self.matrix;
        let rows_missing = rows - self.rows_filled;
        let rows_given = weights.len().checked_div(cols).unwrap_or(0);
        if rows_given * cols != weights.len() || rows_given > rows_missing {
            return Err(TernaryError::Length {
                len: weights.len(),
                cols,
                rows_missing,
            });
        }
        for row in weights.chunks_exact(cols.max(1)) {
            self.push_row(row)?;
        }
        Ok(())
    }

    /// The matrix, once every row is there.
    ///
    /// # Errors
    /// Rows are missing.
    pub fn finish(self) -> Result<TernaryMatrix, TernaryError> {
        let TernaryMatrix { rows, cols, .. } = self.matrix;
        if self.rows_filled < rows && cols > 0 {
            return Err(TernaryError::Unfinished {
                filled: self.rows_filled,
                rows,
            });
        }
        Ok(self.matrix)
    }

    fn push_row(&mut self, weights: &[i8]) -> Result<(), TernaryError> {
        let lines_len = weights.len().div_ceil(LINE_COLS);
        let row = self.rows_filled;
        if row.is_multiple_of(TILE_ROWS) {
            self.matrix
                .lines
                .resize(self.matrix.lines.len() + lines_len, Line([0; LINE_LEN]));
        }
        let from = self.matrix.lines.len() - lines_len;
        for (c, (line, four)) in self.matrix.lines[from..]
            .iter_mut()
            .zip(weights.chunks(LINE_COLS))
            .enumerate()
        {
            for (i, &value) in four.iter().enumerate() {
                if !(-1..=1).contains(&value) {
                    return Err(TernaryError::Weight {
                        row,
                        col: c * LINE_COLS + i,
                        value,
                    });
                }
                let (byte, shift) = place(row % TILE_ROWS, i);
                line.0[byte] |= ((value + 1) as u8) << shift;
            }
        }
        self.rows_filled += 1;
        Ok(())
    }
}

impl fmt::Display for TernaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TernaryError::Shape { rows, cols } => {
                write!(
                    f,
                    "a ternary matrix of {rows} x {cols} is too large, at most {COLS_MAX} columns are possible"
                )
            }
            TernaryError::Factor(factor) => write!(f, "the weight factor is {factor}, it must be finite"),
            TernaryError::Length {
                len,
                cols,
                rows_missing,
            } => {
                write!(
                    f,
                    "{len} weights are not whole rows of {cols}, of which {rows_missing} are missing"
                )
            }
            TernaryError::Weight { row, col, value } => {
                write!(
                    f,
                    "the weight in row {row}, column {col} is {value}, it must be -1, 0 or 1"
                )
            }
            TernaryError::Unfinished { filled, rows } => write!(f, "{filled} of {rows} rows were given"),
            TernaryError::Stored { rows, cols, len } => {
                write!(f, "{len} bytes are no stored matrix of {rows} x {cols}")
            }
            TernaryError::Code { line } => write!(f, "line {line} of 64 bytes holds a code that is no weight"),
        }
    }
}

impl std::error::Error for TernaryError {}

/// Where in its line a weight lies: byte and shift.
fn place(row_in_tile: usize, col_in_line: usize) -> (usize, usize) {
    (
        (row_in_tile % TILE_LANES) * LINE_COLS + col_in_line,
        row_in_tile / TILE_LANES * 2,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_from_every_place() {
        for (rows, cols) in [(1, 1), (3, 5), (64, 4), (65, 7), (130, 33), (0, 9), (9, 0)] {
            let weights: Vec<i8> = (0..rows * cols)
                .map(|i| (i * 7 + i / 5) as i8 % 3)
                .map(|w| w.abs() - 1)
                .collect();
            let matrix = TernaryMatrix::from_weights(rows, cols, 1.0, &weights).unwrap();
            for (i, &weight) in weights.iter().enumerate() {
                assert_eq!(matrix.weight(i / cols, i % cols), weight, "{i} of {rows} x {cols}");
            }
        }
    }

    #[test]
    fn bad_input_names_its_place() {
        let weight = TernaryMatrix::from_weights(2, 3, 1.0, &[0, 1, -1, 0, 2, 0]).unwrap_err();
        assert_eq!(
            weight,
            TernaryError::Weight {
                row: 1,
                col: 1,
                value: 2
            }
        );
        let length = TernaryMatrix::from_weights(2, 3, 1.0, &[0; 5]).unwrap_err();
        assert_eq!(
            length,
            TernaryError::Length {
                len: 5,
                cols: 3,
                rows_missing: 2
            }
        );
        let beyond = TernaryMatrix::from_weights(2, 3, 1.0, &[0; 9]).unwrap_err();
        assert_eq!(
            beyond,
            TernaryError::Length {
                len: 9,
                cols: 3,
                rows_missing: 2
            }
        );
        let unfinished = TernaryMatrix::from_weights(2, 3, 1.0, &[0; 3]).unwrap_err();
        assert_eq!(unfinished, TernaryError::Unfinished { filled: 1, rows: 2 });
        assert!(matches!(
            TernaryMatrix::builder(1, 1, f32::NAN),
            Err(TernaryError::Factor(_))
        ));
    }

    #[test]
    fn a_hostile_shape_allocates_nothing() {
        for (rows, cols) in [
            (usize::MAX, 4),
            (1, usize::MAX),
            (usize::MAX, usize::MAX),
            (1 << 62, COLS_MAX),
        ] {
            assert_eq!(
                TernaryMatrix::builder(rows, cols, 1.0).unwrap_err(),
                TernaryError::Shape { rows, cols }
            );
        }
        assert!(TernaryMatrix::builder(1 << 40, COLS_MAX, 1.0).is_ok());
    }
}
