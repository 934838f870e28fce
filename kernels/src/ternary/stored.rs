//! A matrix as the bytes that the kernels read, so that a file of them is loaded without unpacking.

use super::{LINE_COLS, TILE_ROWS, TernaryError, TernaryMatrix};
use crate::memory::{LINE_LEN, Line};

/// Names the order of the bytes. It changes whenever stored bytes would mean something else.
pub const LAYOUT: &str = "tiles-64x4-2bit";

impl TernaryMatrix {
    /// Bytes that a matrix `[rows, cols]` takes, if they can be counted.
    pub fn stored_len(rows: usize, cols: usize) -> Option<usize> {
        rows.div_ceil(TILE_ROWS)
            .checked_mul(cols.div_ceil(LINE_COLS))?
            .checked_mul(LINE_LEN)
    }

    /// The bytes of the matrix, a cache line at a time.
    pub fn stored(&self) -> impl Iterator<Item = &[u8; LINE_LEN]> {
        self.lines.iter().map(|line| &line.0)
    }

    /// A matrix from its bytes, as [`stored`](Self::stored) gave them.
    ///
    /// # Errors
    /// As the builder's, or the bytes have another length or hold a code that is no weight.
    pub fn from_stored(rows: usize, cols: usize, factor: f32, bytes: &[u8]) -> Result<TernaryMatrix, TernaryError> {
        let mut matrix = TernaryMatrix::builder(rows, cols, factor)?.matrix;
        let (lines, rest) = bytes.as_chunks::<LINE_LEN>();
        if TernaryMatrix::stored_len(rows, cols) != Some(bytes.len()) || !rest.is_empty() {
            return Err(TernaryError::Stored {
                rows,
                cols,
                len: bytes.len(),
            });
        }
        // A code of 3 sets both of its bits; sums are bounded for codes up to 2 only.
        let is_weights = |line: &[u8; LINE_LEN]| line.iter().fold(0, |seen, byte| seen | byte & byte >> 1 & 0x55) == 0;
        if let Some(line) = lines.iter().position(|line| !is_weights(line)) {
            return Err(TernaryError::Code { line });
        }
        matrix.lines = lines.iter().map(|line| Line(*line)).collect();
        Ok(matrix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_comes_back_from_its_bytes() {
        for (rows, cols) in [(1, 1), (65, 7), (130, 33)] {
            let weights: Vec<i8> = (0..rows * cols).map(|i| (i * 7 % 3) as i8 - 1).collect();
            let matrix = TernaryMatrix::from_weights(rows, cols, 0.5, &weights).unwrap();
            let bytes: Vec<u8> = matrix.stored().flatten().copied().collect();
            assert_eq!(TernaryMatrix::stored_len(rows, cols), Some(bytes.len()));
            let again = TernaryMatrix::from_stored(rows, cols, 0.5, &bytes).unwrap();
            assert!((0..rows * cols).all(|i| again.weight(i / cols, i % cols) == weights[i]));
        }
    }

    #[test]
    fn bytes_that_are_no_matrix_are_refused() {
        let short = TernaryMatrix::from_stored(1, 1, 1.0, &[0; 63]).unwrap_err();
        assert_eq!(
            short,
            TernaryError::Stored {
                rows: 1,
                cols: 1,
                len: 63
            }
        );
        let mut bytes = [0; 128];
        bytes[100] = 0x30;
        let code = TernaryMatrix::from_stored(1, 5, 1.0, &bytes).unwrap_err();
        assert_eq!(code, TernaryError::Code { line: 1 });
        assert!(TernaryMatrix::from_stored(usize::MAX, 5, 1.0, &bytes).is_err());
    }
}
