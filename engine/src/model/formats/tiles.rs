//! Writes weights as they lie in memory, into a safetensors file that is read back without unpacking.

use std::io::{self, Write};

use kernels::float::DenseMatrix;
use kernels::ternary::TernaryMatrix;
use serde_json::{Map, Value, json};

use crate::model::weights::{LayerWeights, Weights};

/// Where the tensors begin: the header is padded to a whole number of these.
const PAGE_LEN: usize = 4096;

/// A tensor to be written.
enum Entry<'a> {
    Ternary(&'a TernaryMatrix),
    /// A table, and whether bf16 holds every value of it.
    Dense(&'a DenseMatrix, bool),
    Floats(&'a [f32]),
    Scale(f32),
}

/// Writes all tensors in the order in which they are read.
pub(crate) fn write(weights: &Weights, mut out: impl Write) -> io::Result<()> {
    let entries = entries(weights);
    let mut header = Map::new();
    let mut end = 0;
    for (name, entry) in &entries {
        let (dtype, shape, len) = entry.describe();
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + len] }),
        );
        end += len;
    }
    let mut header = Value::Object(header).to_string();
    let padded_len = (8 + header.len()).next_multiple_of(PAGE_LEN) - 8;
    header.extend(std::iter::repeat_n(' ', padded_len - header.len()));
    out.write_all(&(padded_len as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (_, entry) in &entries {
        entry.write(&mut out)?;
    }
    out.flush()
}

impl Entry<'_> {
    /// Type, shape, and length in bytes.
    fn describe(&self) -> (&'static str, Vec<usize>, usize) {
        match self {
            Entry::Ternary(matrix) => ("U8", vec![matrix.bytes_len()], matrix.bytes_len()),
            Entry::Dense(matrix, is_bf16) => {
                let (dtype, value_len) = if *is_bf16 { ("BF16", 2) } else { ("F32", 4) };
                let (rows, cols) = (matrix.rows(), matrix.cols());
                (dtype, vec![rows, cols], rows * cols * value_len)
            }
            Entry::Floats(values) => ("F32", vec![values.len()], size_of_val(*values)),
            Entry::Scale(_) => ("F32", vec![1], size_of::<f32>()),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Entry::Ternary(matrix) => matrix.stored().try_for_each(|line| out.write_all(line)),
            Entry::Dense(matrix, is_bf16) => {
                let mut row = vec![0.0; matrix.cols()];
                let mut bytes = Vec::new();
                for index in 0..matrix.rows() {
                    matrix.row(index, &mut row);
                    bytes.clear();
                    for value in &row {
                        let stored = value.to_le_bytes(); // the upper half of an f32 is its bf16
                        bytes.extend(if *is_bf16 { &stored[2..] } else { &stored[..] });
                    }
                    out.write_all(&bytes)?;
                }
                Ok(())
            }
            Entry::Floats(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
            Entry::Scale(scale) => out.write_all(&scale.to_le_bytes()),
        }
    }
}

fn entries(weights: &Weights) -> Vec<(String, Entry<'_>)> {
    let mut entries = vec![("model.embed_tokens.weight".to_owned(), dense(&weights.embedding))];
    entries.extend(
        weights
            .head
            .as_ref()
            .map(|head| ("lm_head.weight".to_owned(), dense(head))),
    );
    for (index, layer) in weights.layers.iter().enumerate() {
        layer_entries(index, layer, &mut entries);
    }
    entries.push(("model.norm.weight".to_owned(), Entry::Floats(&weights.norm)));
    entries
}

fn layer_entries<'a>(index: usize, layer: &'a LayerWeights, entries: &mut Vec<(String, Entry<'a>)>) {
    let name = |part: &str| format!("model.layers.{index}.{part}");
    let norms = [
        ("input_layernorm", Some(&layer.input_norm)),
        ("post_attention_layernorm", Some(&layer.post_attention_norm)),
        ("self_attn.attn_sub_norm", layer.attention_sub_norm.as_ref()),
        ("mlp.ffn_sub_norm", layer.feed_forward_sub_norm.as_ref()),
    ];
    for (part, values) in norms {
        entries.extend(values.map(|values| (name(&format!("{part}.weight")), Entry::Floats(values))));
    }
    let projections = [
        ("self_attn.q_proj", &layer.q),
        ("self_attn.k_proj", &layer.k),
        ("self_attn.v_proj", &layer.v),
        ("self_attn.o_proj", &layer.o),
        ("mlp.gate_proj", &layer.gate),
        ("mlp.up_proj", &layer.up),
        ("mlp.down_proj", &layer.down),
    ];
    for (part, matrix) in projections {
        entries.push((name(&format!("{part}.weight")), Entry::Ternary(matrix)));
        entries.push((name(&format!("{part}.weight_scale")), Entry::Scale(matrix.factor())));
    }
}

fn dense(matrix: &DenseMatrix) -> Entry<'_> {
    let mut row = vec![0.0; matrix.cols()];
    let is_bf16 = (0..matrix.rows()).all(|index| {
        matrix.row(index, &mut row);
        row.iter().all(|value| value.to_bits() & 0xffff == 0)
    });
    Entry::Dense(matrix, is_bf16)
}
