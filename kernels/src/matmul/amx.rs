//! AMX: `tdpbsud` multiplies 16 tokens by 16 rows over 64 columns in one instruction.
//!
//! A tile register holds 16 rows of 64 bytes: 16 tokens as they lie, or 16 lines of one group of weight rows, masked
//! as for VNNI and finished in the same way. The tile is masked once for all tokens. The compiler knows tile registers
//! only as clobbers, so each loop over the columns is one block of assembly.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::avx512vnni::{GROUPS, finish, load_line, masked as operand};
use super::{ROWS_STEP, Sums, Tile};
use crate::activations::Activations;
use crate::cpu::Amx;
use crate::memory::{LINE_LEN, Line, WORDS, WordLine};
use crate::ternary::{TILE_LANES, TILE_ROWS};

/// Rows of a tile register.
const ROWS: usize = 16;

/// What `ldtilecfg` loads: eight registers of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

const _: () = assert!(size_of::<Config>() == LINE_LEN && size_of::<Sums>() == GROUPS * LINE_LEN);

/// What a tile register loads of the weights: 16 lines of one group.
type Block = [Line; ROWS];

thread_local! {
    /// The groups of a tile, `[groups, blocks]`: as much as 64 bytes for each column, kept from tile to tile.
    static MASKED: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Multiplies a tile with tokens that lie in rows, and calls `write(tokens, sums)` for every 32 of them.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn products(
    tile: Tile<'_>,
    activations: &Activations,
    tokens: Range<usize>,
    write: impl Fn(Range<usize>, &[Sums]),
) {
    let mut sums = [Sums([0; TILE_ROWS]); ROWS_STEP];
    let steps = tokens.len().div_ceil(ROWS_STEP);
    MASKED.with_borrow_mut(|masked| {
        let masked = mask(tile.lines, masked);
        configure();
        for (i, first) in tokens.clone().step_by(ROWS_STEP).enumerate() {
            fetch(tile.with_share_of_ahead(i, i + 1, steps).ahead);
            let tokens = first..tokens.end.min(first + ROWS_STEP);
            multiply(masked, activations, tokens.clone(), &mut sums);
            for (sums, token) in sums.iter_mut().zip(tokens.clone()) {
                finish(sums, activations.sum(token));
            }
            write(tokens.clone(), &sums[..tokens.len()]);
        }
        release();
    });
}

/// The sums of a tile of unsigned bytes, `[groups, blocks]`, with all tokens, which lie in rows: `write(first token, sums)`
/// for every 32 of them.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn products_of_bytes(tile: Tile<'_>, activations: &Activations, mut write: impl FnMut(usize, &[Sums])) {
    let mut sums = [Sums([0; TILE_ROWS]); ROWS_STEP];
    let steps = activations.tokens().div_ceil(ROWS_STEP);
    let blocks = tile.lines.as_chunks().0;
    configure();
    for (i, first) in (0..activations.tokens()).step_by(ROWS_STEP).enumerate() {
        fetch(tile.with_share_of_ahead(i, i + 1, steps).ahead);
        let tokens = first..activations.tokens().min(first + ROWS_STEP);
        multiply(blocks, activations, tokens.clone(), &mut sums);
        write(first, &sums[..tokens.len()]);
    }
    release();
}

/// Multiplies what is in tile registers, `turns` times four of them; returns the multiply-adds done.
pub(crate) fn multiply_registers(_: Amx, turns: u64) -> u64 {
    let block: Block = [Line([3; LINE_LEN]); ROWS];
    configure();
    // SAFETY: the proof says that AMX is there, it is configured, and only a block of 16 lines is read.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{block} + {line}]",
            "tileloadd tmm5, [{block} + {line}]",
            "2:",
            "tdpbsud tmm0, tmm4, tmm5",
            "tdpbsud tmm1, tmm4, tmm5",
            "tdpbsud tmm2, tmm4, tmm5",
            "tdpbsud tmm3, tmm4, tmm5",
            "dec {turns}",
            "jnz 2b",
            block = in(reg) block.as_ptr(), line = in(reg) LINE_LEN, turns = inout(reg) turns.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(nostack, readonly),
        );
    }
    release();
    turns.max(1) * 4 * (ROWS * ROWS * LINE_LEN) as u64
}

/// Makes the tile registers of this thread ready.
fn configure() {
    // SAFETY: the configuration is 64 valid bytes; tile registers are this thread's, and nobody else uses them.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
}

/// Gives the tile registers back, once every sum has left them.
fn release() {
    // SAFETY: no sum is in a register from one call of `multiply` to the next.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

fn fetch(lines: &[Line]) {
    for line in lines {
        // SAFETY: every x86-64 has SSE, and a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mask<'m>(lines: &[Line], masked: &'m mut Vec<Block>) -> &'m [Block] {
    let blocks = lines.len().div_ceil(ROWS);
    if masked.len() < GROUPS * blocks {
        masked.resize(GROUPS * blocks, [Line([0; LINE_LEN]); ROWS]);
    }
    let masked = &mut masked[..GROUPS * blocks];
    for (group, masked) in masked.chunks_exact_mut(blocks).enumerate() {
        let masked = masked.as_flattened_mut();
        for (masked, line) in masked.iter_mut().zip(lines) {
            // SAFETY: a line is 64 bytes, aligned to 64.
            unsafe { _mm512_store_si512(std::ptr::from_mut(masked).cast(), operand(load_line(line), group)) };
        }
        masked[lines.len()..].fill(Line([0; LINE_LEN]));
    }
    masked
}

/// The sums of up to 32 tokens with all groups.
fn multiply(masked: &[Block], activations: &Activations, tokens: Range<usize>, sums: &mut [Sums]) {
    let (blocks, rows) = (masked.len() / GROUPS, activations.rows(tokens.start));
    let registers = tokens.len().div_ceil(ROWS);
    assert!(
        rows.len() >= registers * ROWS * blocks && activations.stride() == blocks * WORDS && sums.len() == ROWS_STEP
    );
    let groups: [*const Block; GROUPS] = std::array::from_fn(|group| masked[group * blocks..].as_ptr());
    let (a, c) = (rows.as_ptr(), sums.as_mut_ptr().cast::<[i32; TILE_LANES]>());
    if registers == 1 {
        // SAFETY: there are 16 rows of activations and four groups, all of `blocks` lines or blocks, and 16 sums.
        return unsafe { one_by_four(a, groups, blocks, c) };
    }
    for first in (0..GROUPS).step_by(2) {
        // SAFETY: there are 32 rows of activations and two groups, all of `blocks` lines or blocks, and 32 sums, of
        // which each row has its groups one after another.
        unsafe { two_by_two(a, [groups[first], groups[first + 1]], blocks, c.add(first)) };
    }
}

/// 16 tokens with four groups.
///
/// # Safety
/// AMX is there and configured. `a` is 16 rows of `blocks` lines, each of `b` is `blocks` blocks, and `c` is 16 rows of
/// the sums of four groups.
unsafe fn one_by_four(a: *const WordLine, b: [*const Block; GROUPS], blocks: usize, c: *mut [i32; TILE_LANES]) {
    // SAFETY: the caller's promise; no other memory is touched.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm5, [{b0} + {line}]",
            "tdpbsud tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{b1} + {line}]",
            "tdpbsud tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{b2} + {line}]",
            "tdpbsud tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{b3} + {line}]",
            "tdpbsud tmm3, tmm4, tmm5",
            "add {a}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "add {b2}, 1024",
            "add {b3}, 1024",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{c} + {c_stride}], tmm0",
            "tilestored [{c} + {c_stride} + 64], tmm1",
            "tilestored [{c} + {c_stride} + 128], tmm2",
            "tilestored [{c} + {c_stride} + 192], tmm3",
            a = inout(reg) a => _, a_stride = in(reg) blocks * LINE_LEN,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _, b2 = inout(reg) b[2] => _, b3 = inout(reg) b[3] => _,
            line = in(reg) LINE_LEN, blocks = inout(reg) blocks => _,
            c = in(reg) c, c_stride = in(reg) size_of::<Sums>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 32 tokens with two groups: four multiplications for four loads.
///
/// # Safety
/// AMX is there and configured. `a` is 32 rows of `blocks` lines, each of `b` is `blocks` blocks, and `c` is 32 rows of
/// the sums of four groups, from the first of the two on.
unsafe fn two_by_two(a: *const WordLine, b: [*const Block; 2], blocks: usize, c: *mut [i32; TILE_LANES]) {
    // SAFETY: the caller's promise; no other memory is touched.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {a_stride}]",
            "tileloadd tmm6, [{b0} + {line}]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {line}]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {a_stride}]",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{c0} + {c_stride}], tmm0",
            "tilestored [{c0} + {c_stride} + 64], tmm1",
            "tilestored [{c1} + {c_stride}], tmm2",
            "tilestored [{c1} + {c_stride} + 64], tmm3",
            a0 = inout(reg) a => _, a1 = inout(reg) a.add(ROWS * blocks) => _, a_stride = in(reg) blocks * LINE_LEN,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
            line = in(reg) LINE_LEN, blocks = inout(reg) blocks => _,
            c0 = in(reg) c, c1 = in(reg) c.add(ROWS * GROUPS), c_stride = in(reg) size_of::<Sums>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
