//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's half-rotated layout.
//!
//! Value `i` of a head turns with value `i + head_dim / 2` by the angle `position * frequencies[i]`. As in
//! transformers the angle is an f32 product; its sine and cosine are taken in f64 and rounded once.

use rayon::prelude::*;

use crate::Kernel;
use crate::cpu::Pass;
use crate::float::simd::Simd;

/// Values below which a second thread costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// Sines and cosines for every position up to a bound.
#[derive(Debug)]
pub struct Rope {
    half: usize,
    table: Vec<f32>, // [positions, 2, half]: cosines, then sines
}

impl Rope {
    /// The frequencies `theta^(−2i / head_dim)`, `[head_dim / 2]`.
    pub fn frequencies(theta: f32, head_dim: usize) -> Vec<f32> {
        let exponent = |i: usize| 2.0 * i as f64 / head_dim as f64;
        (0..head_dim / 2)
            .map(|i| f64::from(theta).powf(-exponent(i)) as f32)
            .collect()
    }

    /// A table for `positions` positions, of heads with twice as many values as there are frequencies.
    /// Takes `8 * positions * frequencies.len()` bytes.
    pub fn new(frequencies: &[f32], positions: usize) -> Rope {
        let mut table = Vec::with_capacity(positions * frequencies.len() * 2);
        for position in 0..positions {
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            table.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
            table.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
        }
        Rope {
            half: frequencies.len(),
            table,
        }
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.table.len().checked_div(self.half * 2).unwrap_or(0)
    }

    /// Turns every head of `x [tokens, heads * head_dim]` by its token's position, `positions [tokens]`.
    ///
    /// # Panics
    /// `x` is not whole tokens of whole heads, or a position is outside the table.
    pub fn rotate(&self, kernel: Kernel, positions: &[u32], x: &mut [f32]) {
        let cols = x.len().checked_div(positions.len()).unwrap_or(0);
        assert_eq!(cols * positions.len(), x.len(), "x is not [tokens, heads * head_dim]");
        if x.is_empty() {
            return;
        }
        assert!(
            cols.is_multiple_of(self.half * 2),
            "{cols} values are not whole heads of {}",
            self.half * 2
        );
        let tokens_min = PARALLEL_MIN.div_ceil(cols);
        x.par_chunks_mut(cols)
            .zip(positions)
            .with_min_len(tokens_min)
            .for_each(|(x, &position)| {
                let from = position as usize * self.half * 2;
                let (cos, sin) = self.table[from..from + self.half * 2].split_at(self.half);
                kernel.run(Rotate { x, cos, sin });
            });
    }
}

/// Turns the heads of one token.
struct Rotate<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Pass for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(half * 2) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_turns_by_position_times_frequency() {
        let rope = Rope::new(&Rope::frequencies(10_000.0, 4), 4);
        assert_eq!(rope.positions(), 4);
        let mut x = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
        rope.rotate(Kernel::Scalar, &[0, 3], &mut x);
        let expected = [1.0, 1.0, 0.0, 0.0, 3f32.cos(), 0.03f32.cos(), 3f32.sin(), 0.03f32.sin()];
        assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{x:?}");
    }
}
