//! The product of int8 activations with ternary matrices: exact sums, then one rounding.
//!
//! `sum = Σ w·a` is an exact i32, computed as `Σ (w + 1)·a − Σ a` with the unsigned codes of the packed form.
//! The output is `sum as f32 * (step * factor)`, in f32 and in this order: `step` is the token's
//! (`1 / activation scale`), `factor` the matrix's. Threads share the tiles of rows; since the sums are exact,
//! how they share them cannot be seen in the result.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512bw;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;

use std::ops::Range;

use crate::Kernel;
use crate::activations::{Activations, PANEL_TOKENS_MAX, Panel};
use crate::cpu::Pass;
use crate::float::simd::Simd;
use crate::memory::{Line, SharedRows};
use crate::share::share;
use crate::ternary::{TILE_LANES, TILE_ROWS, TernaryMatrix};

/// Activations that a task may have: they stay in the L2 cache for every tile.
const TASK_BYTES_MAX: usize = 1 << 18;
/// The same for rows that tile registers load. They are multiplied so fast that the weights would not follow.
const TASK_ROWS_BYTES_MAX: usize = 1 << 20;

/// Tasks that there are at least for each thread, tokens permitting, so that they finish together.
const TASKS_PER_THREAD: usize = 4;
/// Multiply-adds below which a second thread costs more than it saves: one to three microseconds of one.
const PARALLEL_MIN: usize = 1 << 18;

/// Tokens that tile registers take at a time, a multiple of what a row layout is padded to.
const ROWS_STEP: usize = 32;

/// Lines between the one that is read and the one to fetch: 4 KB, the page at whose end the CPU's own fetching stops.
#[cfg(target_arch = "x86_64")]
const FETCH_LINES: usize = 64;

/// One of the matrices that the same activations are multiplied with.
#[derive(Debug)]
pub struct Projection<'a> {
    /// `[rows, cols]`.
    pub weights: &'a TernaryMatrix,
    /// `[tokens, rows]`, overwritten.
    pub out: &'a mut [f32],
}

/// Multiplies activations `[tokens, cols]` with every matrix, all in one parallel sweep over the current rayon
/// pool: give q, k and v, or gate and up, together.
///
/// # Panics
/// A matrix has other columns than the activations, or an output another length than `tokens * rows`.
pub fn matmul(kernel: Kernel, activations: &Activations, projections: &mut [Projection<'_>]) {
    let outputs = projections
        .iter_mut()
        .map(|projection| (projection.weights, &mut *projection.out));
    sweep(kernel, activations, outputs.collect(), |weights, sums, part| {
        kernel.run(Scale {
            activations,
            factor: weights.factor(),
            sums,
            part,
        });
    });
}

/// The exact sums `[tokens, rows]` that [`matmul`] scales. For tests.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_i32(kernel: Kernel, activations: &Activations, weights: &TernaryMatrix, out: &mut [i32]) {
    sweep(kernel, activations, vec![(weights, out)], |_, sums, part| {
        part.tokens(sums).for_each(|(_, sums, out)| out.copy_from_slice(sums));
    });
}

/// A tile of rows, and what to fetch while it is multiplied: a part of the tile that comes after it.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) lines: &'a [Line],
    pub(crate) ahead: &'a [Line],
}

/// An address to prefetch while a line is read; not one to read from.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn after(line: &Line) -> *const i8 {
    std::ptr::from_ref(line).wrapping_add(FETCH_LINES).cast()
}

/// The sums of a tile's rows with one token.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [i32; TILE_ROWS]);

impl Tile<'_> {
    /// The same tile with the part `from / of..to / of` of what is ahead.
    fn with_share_of_ahead(self, from: usize, to: usize, of: usize) -> Self {
        let len = self.ahead.len();
        Tile {
            ahead: &self.ahead[len * from / of..len * to / of],
            ..self
        }
    }
}

impl Sums {
    /// The sums of each group of 16 rows.
    pub(crate) fn groups(&mut self) -> &mut [[i32; TILE_LANES]] {
        self.0.as_chunks_mut().0
    }
}

/// Part of a product: one tile of one matrix with a range of panels.
struct Task {
    matrix: usize,
    tile: usize,
    panels: Range<usize>,
}

/// Computes the sums of every tile of every matrix and lets `finish(weights, sums, part)` write them.
fn sweep<T: Send>(
    kernel: Kernel,
    activations: &Activations,
    outputs: Vec<(&TernaryMatrix, &mut [T])>,
    finish: impl Fn(&TernaryMatrix, &[Sums], Part<'_, T>) + Sync,
) {
    let tokens = activations.tokens();
    let mut targets = Vec::with_capacity(outputs.len());
    for (index, (weights, out)) in outputs.into_iter().enumerate() {
        assert_eq!(
            weights.cols(),
            activations.cols(),
            "matrix {index} has other columns than the activations"
        );
        assert_eq!(
            out.len(),
            tokens * weights.rows(),
            "output {index} is not [tokens, rows]"
        );
        targets.push((weights, SharedRows::new(out, weights.rows())));
    }
    let tiles: usize = targets.iter().map(|(weights, _)| weights.tiles()).sum();
    let mut tasks = Vec::new();
    for panels in panel_ranges(activations, tiles) {
        for (matrix, (weights, _)) in targets.iter().enumerate() {
            tasks.extend((0..weights.tiles()).map(|tile| Task {
                matrix,
                tile,
                panels: panels.clone(),
            }));
        }
    }
    let lines = |task: &Task| targets[task.matrix].0.tile(task.tile);
    let macs: usize = targets
        .iter()
        .map(|(weights, _)| weights.rows() * weights.cols() * tokens)
        .sum();
    let sums = || [Sums([0; TILE_ROWS]); PANEL_TOKENS_MAX];
    share(tasks.len(), macs / PARALLEL_MIN, sums, |sums, index, next| {
        let task = &tasks[index];
        let (weights, out) = &targets[task.matrix];
        let ahead = next.map_or(&[][..], |next| lines(&tasks[next]));
        let first = task.tile * TILE_ROWS;
        let rows = first..weights.rows().min(first + TILE_ROWS);
        let tile = Tile {
            lines: lines(task),
            ahead,
        };
        products(kernel, tile, activations, task.panels.clone(), sums, |tokens, sums| {
            let rows = rows.clone();
            finish(weights, sums, Part { out, tokens, rows });
        });
    });
}

/// The part of an output that a task writes.
struct Part<'a, T> {
    out: &'a SharedRows<'a, T>,
    tokens: Range<usize>,
    rows: Range<usize>,
}

impl<'a, T> Part<'a, T> {
    /// Each token with the part's rows of its sums and of its output.
    #[inline(always)]
    fn tokens(self, sums: &'a [Sums]) -> impl Iterator<Item = (usize, &'a [i32], &'a mut [T])> {
        let Part { out, tokens, rows } = self;
        tokens.zip(sums).map(move |(token, sums)| {
            // SAFETY: a tile and a token meet in one task, and it alone touches the tile's columns of the token's row.
            (token, &sums.0[..rows.len()], unsafe {
                out.piece(token, rows.start, rows.len())
            })
        })
    }
}

/// The panels of each task: few enough for the cache, and for every thread to have some of the tasks.
fn panel_ranges(activations: &Activations, tiles: usize) -> Vec<Range<usize>> {
    let panels = activations.panels();
    let panel_bytes = (activations.stride() * activations.panel_width() * size_of::<i32>()).max(1);
    let parts = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(tiles.max(1));
    if !activations.in_rows() {
        let len_max = (TASK_BYTES_MAX / panel_bytes).min(panels.div_ceil(parts)).max(1);
        return even_ranges(panels, len_max).collect();
    }
    let len_max = (TASK_ROWS_BYTES_MAX / panel_bytes).min(panels.div_ceil(parts));
    let step = (len_max / ROWS_STEP).max(1) * ROWS_STEP;
    (0..panels)
        .step_by(step)
        .map(|from| from..panels.min(from + step))
        .collect()
}

/// Multiplies one tile with the tokens of some panels, and hands on a few tokens at a time: what is written then goes to
/// memory while the next ones are multiplied. `sums` is working memory.
fn products(
    kernel: Kernel,
    tile: Tile<'_>,
    activations: &Activations,
    panels: Range<usize>,
    sums: &mut [Sums; PANEL_TOKENS_MAX],
    write: impl Fn(Range<usize>, &[Sums]),
) {
    match kernel {
        // SAFETY: an `Amx` exists only if `detect` saw the features and got the permission.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(_) if activations.in_rows() => unsafe { amx::products(tile, activations, panels, write) },
        _ => {
            for (i, index) in panels.clone().enumerate() {
                let (panel, first) = (activations.panel(index), index * activations.panel_width());
                let sums = &mut sums[..panel.width()];
                tile_sums(kernel, tile.with_share_of_ahead(i, i + 1, panels.len()), panel, sums);
                write(first..first + panel.width(), sums);
            }
        }
    }
}

/// The sums of one tile of rows with one panel of tokens, overwriting `sums [width]`.
fn tile_sums(kernel: Kernel, tile: Tile<'_>, panel: Panel<'_>, sums: &mut [Sums]) {
    match kernel {
        Kernel::Scalar => scalar::tile_sums(tile, panel, sums),
        // SAFETY: an `Avx2` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(_) => unsafe { avx2::tile_sums(tile, panel, sums) },
        // SAFETY: an `Avx512Bw` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Bw(_) => unsafe { avx512bw::tile_sums(tile, panel, sums) },
        // SAFETY: an `Avx512Vnni` exists only if `detect` saw the features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni(_) => unsafe { avx512vnni::tile_sums(tile, panel, sums) },
        // SAFETY: an `Amx` exists only if `detect` saw the features on this CPU.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kernel::Amx(_) => unsafe { avx512vnni::tile_sums(tile, panel, sums) },
    }
}

/// `out = sums as f32 * (step * factor)`.
struct Scale<'a> {
    activations: &'a Activations,
    factor: f32,
    sums: &'a [Sums],
    part: Part<'a, f32>,
}

impl Pass for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (token, sums, out) in self.part.tokens(self.sums) {
            let by = self.activations.step(token) * self.factor;
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out = sum as f32 * by;
            }
        }
    }
}

/// Splits `0..len` into the fewest ranges of at most `len_max`, as even as can be: a register tile that is nearly
/// empty would waste the loads it makes.
fn even_ranges(len: usize, len_max: usize) -> impl Iterator<Item = Range<usize>> {
    let ranges = len.div_ceil(len_max);
    (0..ranges).map(move |i| i * len / ranges..(i + 1) * len / ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::COLS_MAX;

    #[test]
    fn ranges_are_even_and_cover_everything() {
        let ranges = |len| even_ranges(len, 6).map(|range| range.len()).collect::<Vec<_>>();
        assert_eq!(
            (ranges(0), ranges(6), ranges(7), ranges(20)),
            (vec![], vec![6], vec![3, 4], vec![5, 5, 5, 5])
        );
    }

    /// −128 is allowed by the quantizer's clamp, though its scale never makes it.
    #[test]
    fn the_largest_magnitudes_neither_wrap_nor_saturate() {
        for cols in [1, 63 * 4, 64 * 4 + 1, 2560, COLS_MAX] {
            for (weight, value) in [(-1, -128i8), (1, -128), (1, 127), (0, -128)] {
                let matrix = TernaryMatrix::from_weights(65, cols, 1.0, &vec![weight; 65 * cols]).unwrap();
                for tokens in if cols == COLS_MAX {
                    [1, 2, 9, 40]
                } else {
                    [1, 8, 25, 70]
                } {
                    let activations = Activations::uniform(value, tokens, cols);
                    let expected = i32::from(weight) * i32::from(value) * cols as i32;
                    for kernel in Kernel::available() {
                        let mut sums = vec![0; tokens * 65];
                        matmul_i32(kernel, &activations, &matrix, &mut sums);
                        let right = sums.iter().all(|&sum| sum == expected);
                        assert!(
                            right,
                            "{kernel}: {weight} times {value} over {cols} columns, {tokens} tokens"
                        );
                    }
                }
            }
        }
    }
}
