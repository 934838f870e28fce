//! What this machine can do: loops that only multiply, and memory to read.
//!
//! They keep no time. Whoever measures runs one on every thread and divides what was done by the time it took.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;

use crate::Kernel;

/// Multiplies int8 and adds in i32, in registers, `turns` times; returns the multiply-adds done.
pub fn multiply_int8(turns: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the features are there.
        return unsafe { vnni(turns) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature is there.
        return unsafe { maddubs(turns) };
    }
    let (mut acc, a, b) = ([0i32; 64], black_box([3i8; 64]), black_box([5i8; 64]));
    for _ in 0..turns {
        for i in 0..64 {
            acc[i] += i32::from(a[i]) * i32::from(b[i]);
        }
        acc = black_box(acc);
    }
    turns * 64
}

/// The same with tile registers, if the kernel has them: what AMX can do at most.
pub fn multiply_int8_tiles(kernel: Kernel, turns: u64) -> Option<u64> {
    match kernel {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(proof) => Some(crate::matmul::amx::multiply_registers(proof, turns)),
        _ => None,
    }
}

/// Multiplies and adds f32, rounded once, in registers, `turns` times; returns the multiply-adds done.
pub fn multiply_f32(turns: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature is there.
        return unsafe { fma512(turns) };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features are there.
        return unsafe { fma256(turns) };
    }
    let (mut acc, a, b) = ([0f32; 64], black_box([0.5f32; 64]), black_box([1.5f32; 64]));
    for _ in 0..turns {
        for i in 0..64 {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
        acc = black_box(acc);
    }
    turns * 64
}

/// Reads memory on this thread and returns the sum: in four streams and fetching a page ahead, for with less it reads
/// slower than it can.
pub fn read(values: &[u64]) -> u64 {
    const STREAMS: usize = 4;
    let lines = values.as_chunks::<8>().0;
    let streams: [&[[u64; 8]]; STREAMS] = std::array::from_fn(|i| &lines[i * lines.len() / STREAMS..]);
    let mut sums = [0u64; 8];
    for k in 0..lines.len() / STREAMS {
        for stream in streams {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 has SSE, and a prefetch of any address is allowed.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(stream[k].as_ptr().wrapping_add(512).cast())
            };
            for i in 0..8 {
                sums[i] = sums[i].wrapping_add(stream[k][i]);
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
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
