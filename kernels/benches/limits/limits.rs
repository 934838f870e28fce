//! What the machine itself can do, on all threads of the current pool at once.

use std::hint::black_box;

use kernels::{Kernel, limits};
use rayon::prelude::*;

use crate::clock::Clock;

/// Bytes that are read to time memory; about what the weights of a 2B model take.
pub(crate) const MEMORY_LEN: usize = 1 << 29;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// int8 products added in i32.
    Int8,
    /// f32 fused multiply-adds.
    F32,
}

/// The limits that a case may run into.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Multiply-adds a second.
    pub(crate) macs: f64,
    /// The same of tile registers, for int8 with a kernel that has them.
    pub(crate) tile_macs: Option<f64>,
    /// Bytes read a second.
    pub(crate) bytes: f64,
    /// Multiply-adds a second of the case's own kernel where no memory is waited for, for a single token.
    pub(crate) cached_macs: Option<f64>,
}

impl Unit {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Int8 => "int8 peak",
            Unit::F32 => "f32 peak",
        }
    }

    /// Measures the limits, memory on the `round`th quarter.
    pub(crate) fn limits(self, kernel: Kernel, clock: Clock, memory: &[u64], round: usize) -> Limits {
        let quarter = memory.len() / 4;
        let (macs, tile_macs) = match self {
            Unit::F32 => (peak(clock, 1_000_000, limits::multiply_f32), None),
            Unit::Int8 => {
                let tiles = |turns| limits::multiply_int8_tiles(kernel, turns).unwrap_or(0);
                let peaks = (
                    peak(clock, 1_000_000, limits::multiply_int8),
                    peak(clock, 100_000, tiles),
                );
                (peaks.0, Some(peaks.1).filter(|peak| *peak > 0.0))
            }
        };
        Limits {
            macs,
            tile_macs,
            bytes: read(clock, &memory[round % 4 * quarter..][..quarter]),
            cached_macs: None,
        }
    }
}

/// Memory to read, each page touched.
pub(crate) fn memory() -> Vec<u64> {
    (0..MEMORY_LEN as u64 / 8).collect()
}

fn peak(clock: Clock, turns: u64, work: impl Fn(u64) -> u64 + Sync) -> f64 {
    // Threads that have slept may wake on one core; by the second time they have one each.
    rayon::broadcast(|_| work(black_box(turns)));
    let start = clock.now();
    let done: u64 = rayon::broadcast(|_| work(black_box(turns))).into_iter().sum();
    done as f64 / (clock.now() - start)
}

fn read(clock: Clock, memory: &[u64]) -> f64 {
    let start = clock.now();
    let sums = memory.par_chunks(1 << 15).map(limits::read);
    black_box(sums.reduce(|| 0, u64::wrapping_add));
    size_of_val(memory) as f64 / (clock.now() - start)
}
