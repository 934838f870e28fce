//! Builds a ternary matrix from a tensor, row by row.

use kernels::ternary::{TernaryBuilder, TernaryMatrix};

use super::tensor::Tensor;
use crate::model::error::LoadError;

/// Fills a matrix row by row and tells errors with the tensor's name.
pub(super) struct Filler<'a, Kind> {
    tensor: &'a Tensor<Kind>,
    builder: TernaryBuilder,
    row: Vec<i8>,
}

impl<'a, Kind> Filler<'a, Kind> {
    pub(super) fn new(
        tensor: &'a Tensor<Kind>,
        rows: usize,
        cols: usize,
        factor: f32,
    ) -> Result<Filler<'a, Kind>, LoadError> {
        let builder = TernaryMatrix::builder(rows, cols, factor).map_err(|error| tensor.error(error))?;
        Ok(Filler {
            tensor,
            builder,
            row: Vec::with_capacity(cols),
        })
    }

    pub(super) fn push(&mut self, weights: impl Iterator<Item = i8>) -> Result<(), LoadError> {
        self.row.clear();
        self.row.extend(weights);
        self.builder
            .push_rows(&self.row)
            .map_err(|error| self.tensor.error(error))
    }

    pub(super) fn finish(self) -> Result<TernaryMatrix, LoadError> {
        self.builder.finish().map_err(|error| self.tensor.error(error))
    }
}
