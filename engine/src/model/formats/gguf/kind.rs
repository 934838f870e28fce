//! The tensor types of GGUF that hold ternary weights and what surrounds them.
//!
//! Blocks as `ggml-common.h` of llama.cpp declares them; I2_S as `quantize_i2_s` in `ggml-bitnet-mad.cpp` of bitnet.cpp
//! writes it on x86, 128 weights a block. On ARM it writes blocks of 64, and nothing in a file tells the two apart.

use std::fmt;

use half::f16;

use crate::model::formats::tensor::Float;

/// Weights in a block of the types whose name ends in K, and of TQ1_0 and TQ2_0.
const SUPER_BLOCK: usize = 256;
/// Weights in a block of I2_S, four a byte.
const I2_S_BLOCK: usize = 128;
/// Bytes behind the weights of an I2_S tensor: its scale, and padding.
const I2_S_TAIL: usize = 32;

/// The type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float(Float),
    Q8_0,
    Q6K,
    Ternary(Ternary),
    /// One that is not implemented, by its number.
    Other(u32),
}

/// The types of ternary weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ternary {
    /// One scale for the tensor, behind its weights.
    I2S,
    /// A scale for every block; five weights a byte.
    Tq1,
    /// A scale for every block; four weights a byte.
    Tq2,
}

impl Kind {
    /// The type with a number in `enum ggml_type`.
    pub(super) fn from_code(code: u32) -> Kind {
        match code {
            0 => Kind::Float(Float::F32),
            1 => Kind::Float(Float::F16),
            8 => Kind::Q8_0,
            14 => Kind::Q6K,
            30 => Kind::Float(Float::Bf16),
            34 => Kind::Ternary(Ternary::Tq1),
            35 => Kind::Ternary(Ternary::Tq2),
            36 => Kind::Ternary(Ternary::I2S),
            other => Kind::Other(other),
        }
    }

    /// Weights and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Kind::Float(Float::F32) => (1, 4),
            Kind::Float(Float::F16 | Float::Bf16) => (1, 2),
            Kind::Q8_0 => (32, 34),
            Kind::Q6K => (SUPER_BLOCK, 210),
            Kind::Ternary(Ternary::I2S) => (I2_S_BLOCK, I2_S_BLOCK / 4),
            Kind::Ternary(Ternary::Tq1) => (SUPER_BLOCK, 54),
            Kind::Ternary(Ternary::Tq2) => (SUPER_BLOCK, 66),
            Kind::Other(_) => (1, 0),
        }
    }

    /// Bytes of a tensor in rows of `cols`; none if rows are not whole blocks, or beyond the address space. Nothing for
    /// types that are not implemented.
    pub(super) fn bytes_len(self, elements: usize, cols: usize) -> Option<usize> {
        let (weights, bytes) = self.block();
        if !cols.is_multiple_of(weights) {
            return None;
        }
        let tail = if self == Kind::Ternary(Ternary::I2S) {
            I2_S_TAIL
        } else {
            0
        };
        (elements / weights).checked_mul(bytes)?.checked_add(tail)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Float(Float::F32) => "F32",
            Kind::Float(Float::F16) => "F16",
            Kind::Float(Float::Bf16) => "BF16",
            Kind::Q8_0 => "Q8_0",
            Kind::Q6K => "Q6_K",
            Kind::Ternary(Ternary::I2S) => "I2_S",
            Kind::Ternary(Ternary::Tq1) => "TQ1_0",
            Kind::Ternary(Ternary::Tq2) => "TQ2_0",
            Kind::Other(code) => return write!(f, "type {code}"),
        })
    }
}

impl Ternary {
    /// The scale of a block, where each has its own.
    pub(super) fn block_scale(self, block: &[u8]) -> Option<f32> {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        match self {
            Ternary::I2S => None,
            Ternary::Tq1 => Some(half(52)),
            Ternary::Tq2 => Some(half(64)),
        }
    }

    /// Appends the weights of a block; a code that is no weight becomes 2.
    pub(super) fn unpack(self, block: &[u8], weights: &mut Vec<i8>) {
        match self {
            Ternary::I2S => {
                for shift in [6, 4, 2, 0] {
                    weights.extend(block.iter().map(|byte| (byte >> shift & 3) as i8 - 1));
                }
            }
            Ternary::Tq2 => {
                for half in block[..64].chunks_exact(32) {
                    for shift in [0, 2, 4, 6] {
                        weights.extend(half.iter().map(|byte| (byte >> shift & 3) as i8 - 1));
                    }
                }
            }
            Ternary::Tq1 => {
                // A byte is ⌈256/243 · digits⌉ in base 3; times 3ⁿ its upper part is the digit.
                for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
                    for power in [1u8, 3, 9, 27, 81].iter().take(digits) {
                        let digit = |byte: &u8| ((u16::from(byte.wrapping_mul(*power)) * 3) >> 8) as i8 - 1;
                        weights.extend(bytes.iter().map(digit));
                    }
                }
            }
        }
    }
}

/// Appends the values of a block of Q8_0: a scale, then 32 integers.
pub(super) fn q8_0(block: &[u8], values: &mut Vec<f32>) {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
    values.extend(block[2..].iter().map(|byte| scale * f32::from(*byte as i8)));
}

/// Appends the values of a block of Q6_K: 128 bytes of low nibbles, 64 of high pairs of bits, 16 scales, and their scale.
pub(super) fn q6_k(block: &[u8], values: &mut Vec<f32>) {
    let scale = f16::from_le_bytes([block[208], block[209]]).to_f32();
    values.extend((0..SUPER_BLOCK).map(|i| {
        let (half, quarter, lane) = (i / 128, i / 32 % 4, i % 32);
        let low = block[half * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4) & 15;
        let high = block[128 + half * 32 + lane] >> (quarter * 2) & 3;
        let value = (low | high << 4) as i8 - 32;
        scale * f32::from(block[192 + i / 16] as i8) * f32::from(value)
    }));
}
