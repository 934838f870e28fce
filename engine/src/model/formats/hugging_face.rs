//! The weights of a Hugging Face checkpoint, in each form that they may lie in.

use kernels::float::DenseMatrix;
use kernels::ternary::TernaryMatrix;
use safetensors::Dtype;

use super::filler::Filler;
use super::safetensors::Checkpoint;
use super::tensor::{Float, Tensor};
use crate::model::config::hugging_face::WeightForm;
use crate::model::error::LoadError;
use crate::model::weights::Source;

/// The smallest mean of |w| that scales master weights, as `WeightQuant` in transformers has it.
const MEAN_MIN: f64 = 1e-5;
/// Packed rows in one byte.
const PACKED_ROWS: usize = 4;

const TABLES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

/// The tensors of a checkpoint, and how its projections are stored.
pub(crate) struct HuggingFace {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) form: WeightForm,
    /// Holds the bytes of one projection after the other: buffers of their own would leave holes between the matrices.
    pub(crate) buffer: Vec<u8>,
}

impl Source for HuggingFace {
    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        tensor.expect_shape(&[len])?;
        tensor.floats(float(&tensor)?)
    }

    fn dense(&mut self, name: &str, shape: [usize; 2]) -> Result<DenseMatrix, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        tensor.expect_shape(&shape)?;
        tensor.dense(float(&tensor)?, shape)
    }

    fn ternary(&mut self, name: &str, [rows, cols]: [usize; 2]) -> Result<TernaryMatrix, LoadError> {
        let (weight_name, scale_name) = (format!("{name}.weight"), format!("{name}.weight_scale"));
        let weight = self.checkpoint.take(&weight_name)?;
        match self.form {
            WeightForm::Master => {
                if self.checkpoint.contains(&scale_name) {
                    return Err(weight.error("has a weight_scale, but quantization_mode is \"online\""));
                }
                quantize(&weight, rows, cols)
            }
            WeightForm::Multiply => {
                let factor = self.scale(&scale_name)?;
                unpack(&weight, [rows, cols], factor, &mut self.buffer)
            }
            WeightForm::Divide => {
                let factor = 1.0 / self.scale(&scale_name)?;
                unpack(&weight, [rows, cols], factor, &mut self.buffer)
            }
            WeightForm::Tiles => {
                let factor = self.scale(&scale_name)?;
                read_tiles(&weight, [rows, cols], factor, &mut self.buffer)
            }
        }
    }

    fn tables_are_bf16(&self) -> bool {
        let mut tables = self
            .checkpoint
            .remaining()
            .filter(|tensor| TABLES.contains(&tensor.name.as_str()));
        tables.all(|tensor| tensor.kind == Dtype::BF16)
    }

    fn expect_empty(&self, tied: bool) -> Result<(), LoadError> {
        let harmless = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
        match self.checkpoint.remaining().find(|tensor| !harmless(&tensor.name)) {
            Some(tensor) => Err(tensor.error("has no place in such a model")),
            None => Ok(()),
        }
    }
}

impl HuggingFace {
    fn scale(&mut self, name: &str) -> Result<f32, LoadError> {
        let tensor = self.checkpoint.take(name)?;
        if !tensor.shape.is_empty() {
            tensor.expect_shape(&[1])?;
        }
        match tensor.floats(float(&tensor)?)?[..] {
            [scale] if scale > 0.0 && (1.0 / scale).is_finite() => Ok(scale),
            ref other => Err(tensor.error(format!("is {other:?}, but a scale must be positive"))),
        }
    }
}

fn float(tensor: &Tensor<Dtype>) -> Result<Float, LoadError> {
    match tensor.kind {
        Dtype::F32 => Ok(Float::F32),
        Dtype::F16 => Ok(Float::F16),
        Dtype::BF16 => Ok(Float::Bf16),
        other => Err(tensor.error(format!("has type {other:?}, but F32, F16 or BF16 is expected"))),
    }
}

/// Weights that the kernels read as they lie.
fn read_tiles(
    tensor: &Tensor<Dtype>,
    shape: [usize; 2],
    factor: f32,
    buffer: &mut Vec<u8>,
) -> Result<TernaryMatrix, LoadError> {
    let [rows, cols] = shape;
    if tensor.kind != Dtype::U8 {
        return Err(tensor.error(format!("has type {:?}, but U8 is expected", tensor.kind)));
    }
    tensor.expect_shape(&[TernaryMatrix::stored_len(rows, cols).unwrap_or(usize::MAX)])?;
    TernaryMatrix::from_stored(rows, cols, factor, tensor.bytes(buffer)?).map_err(|error| tensor.error(error))
}

/// Offline weights: four rows a byte as `pack_weights` in transformers has them, or {−1, 0, 1} as floats.
///
/// Row `r` of block `b` lies in bits `2b` and `2b + 1` of packed row `r`, as the weight plus one.
fn unpack(
    tensor: &Tensor<Dtype>,
    shape: [usize; 2],
    factor: f32,
    buffer: &mut Vec<u8>,
) -> Result<TernaryMatrix, LoadError> {
    let [rows, cols] = shape;
    let mut filler = Filler::new(tensor, rows, cols, factor)?;
    if tensor.kind != Dtype::U8 {
        let float = float(tensor)?;
        tensor.expect_shape(&[rows, cols])?;
        let values = tensor.floats(float)?;
        for row in values.chunks_exact(cols) {
            filler.push(row.iter().map(|value| {
                if [-1.0, 0.0, 1.0].contains(value) {
                    *value as i8
                } else {
                    i8::MAX
                }
            }))?;
        }
        return filler.finish();
    }
    let packed_rows = rows.div_ceil(PACKED_ROWS);
    tensor.expect_shape(&[packed_rows, cols])?;
    let bytes = tensor.bytes(buffer)?;
    for row in 0..rows {
        let (block, packed_row) = (row / packed_rows, row % packed_rows);
        let packed = &bytes[packed_row * cols..(packed_row + 1) * cols];
        filler.push(packed.iter().map(|byte| (byte >> (2 * block) & 3) as i8 - 1))?;
    }
    filler.finish()
}

/// Master weights: `s = 1 / mean|w|`, `round(w · s)` with halves to even, clamped to ±1; the product is divided by `s`.
fn quantize(tensor: &Tensor<Dtype>, rows: usize, cols: usize) -> Result<TernaryMatrix, LoadError> {
    tensor.expect_shape(&[rows, cols])?;
    let values = tensor.floats(float(tensor)?)?;
    let sum: f64 = values.iter().map(|value| f64::from(value.abs())).sum();
    let scale = 1.0 / (sum / values.len() as f64).max(MEAN_MIN) as f32;
    let mut filler = Filler::new(tensor, rows, cols, 1.0 / scale)?;
    for row in values.chunks_exact(cols) {
        filler.push(
            row.iter()
                .map(|value| (value * scale).round_ties_even().clamp(-1.0, 1.0) as i8),
        )?;
    }
    filler.finish()
}
