//! What the machine itself can do, on all threads of the current pool at once.

use std::arch::x86_64::*;
use std::hint::black_box;

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

/// The two limits that a case may run into.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Multiply-adds a second.
    pub(crate) macs: f64,
    /// Bytes read a second.
    pub(crate) bytes: f64,
}

impl Unit {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Int8 => "int8 peak",
            Unit::F32 => "f32 peak",
        }
    }

    /// Measures both limits, memory on the `round`th quarter.
    pub(crate) fn limits(self, clock: Clock, memory: &[u64], round: usize) -> Limits {
        let quarter = memory.len() / 4;
        let work = if self == Unit::Int8 { int8_loop() } else { f32_loop() };
        let macs = peak(clock, work);
        Limits {
            macs,
            bytes: read(clock, &memory[round % 4 * quarter..][..quarter]),
        }
    }
}

/// Memory to read, each page touched.
pub(crate) fn memory() -> Vec<u64> {
    (0..MEMORY_LEN as u64 / 8).collect()
}

/// A loop of multiply-adds in registers: takes turns, returns the multiply-adds it did.
type Loop = fn(u64) -> u64;

fn peak(clock: Clock, work: Loop) -> f64 {
    const TURNS: u64 = 1_000_000;
    let start = clock.now();
    let done: u64 = rayon::broadcast(|_| work(black_box(TURNS))).into_iter().sum();
    done as f64 / (clock.now() - start)
}

fn read(clock: Clock, memory: &[u64]) -> f64 {
    let start = clock.now();
    let sums = memory.par_chunks(1 << 15).map(sum);
    black_box(sums.reduce(|| 0, u64::wrapping_add));
    size_of_val(memory) as f64 / (clock.now() - start)
}

/// Adds everything up, in four streams and fetching a page ahead: with less, memory reads slower than it can.
fn sum(values: &[u64]) -> u64 {
    const STREAMS: usize = 4;
    let lines = values.as_chunks::<8>().0;
    let streams: [&[[u64; 8]]; STREAMS] = std::array::from_fn(|i| &lines[i * lines.len() / STREAMS..]);
    let mut sums = [0u64; 8];
    for k in 0..lines.len() / STREAMS {
        for stream in streams {
            // SAFETY: every x86-64 has SSE, and a prefetch of any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(stream[k].as_ptr().wrapping_add(512).cast()) };
            for i in 0..8 {
                sums[i] = sums[i].wrapping_add(stream[k][i]);
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn int8_loop() -> Loop {
    if is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the feature is there.
        |turns| unsafe { vnni(turns) }
    } else {
        // SAFETY: every machine this bench is for has AVX2.
        |turns| unsafe { maddubs(turns) }
    }
}

fn f32_loop() -> Loop {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature is there.
        |turns| unsafe { fma512(turns) }
    } else {
        // SAFETY: every machine this bench is for has AVX2 and FMA.
        |turns| unsafe { fma256(turns) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni(turns: u64) -> u64 {
    let mut acc = [_mm512_setzero_si512(); 24];
    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    for _ in 0..turns {
        for acc in &mut acc {
            *acc = _mm512_dpbusd_epi32(*acc, a, b);
        }
    }
    black_box(acc);
    turns * 24 * 64
}

#[target_feature(enable = "avx2")]
fn maddubs(turns: u64) -> u64 {
    let mut acc = [_mm256_setzero_si256(); 8];
    let (a, mut b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(5)));
    for _ in 0..turns {
        for acc in &mut acc {
            b = black_box(b); // each product is one of its own
            *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(a, b));
        }
    }
    black_box(acc);
    turns * 8 * 32
}

#[target_feature(enable = "avx512f")]
fn fma512(turns: u64) -> u64 {
    let mut acc = [_mm512_setzero_ps(); 24];
    let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.5)));
    for _ in 0..turns {
        for acc in &mut acc {
            *acc = _mm512_fmadd_ps(a, b, *acc);
        }
    }
    black_box(acc);
    turns * 24 * 16
}

#[target_feature(enable = "avx2,fma")]
fn fma256(turns: u64) -> u64 {
    let mut acc = [_mm256_setzero_ps(); 12];
    let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.5)));
    for _ in 0..turns {
        for acc in &mut acc {
            *acc = _mm256_fmadd_ps(a, b, *acc);
        }
    }
    black_box(acc);
    turns * 12 * 8
}
