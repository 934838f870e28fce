//! Memory as the vector kernels want it: cache lines, and outputs that threads fill side by side.

use std::marker::PhantomData;

/// Bytes in a cache line, and in the widest vector.
pub(crate) const LINE_LEN: usize = 64;

/// One aligned cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LINE_LEN]);

/// One aligned cache line of words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct WordLine(pub(crate) [i32; WORDS]);

/// Words in a cache line.
pub(crate) const WORDS: usize = LINE_LEN / size_of::<i32>();

impl WordLine {
    /// The words of all lines.
    pub(crate) fn flat(lines: &[WordLine]) -> &[i32] {
        // SAFETY: a `WordLine` is `repr(C)` over 64 bytes of words, and alignment 64 adds no padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * WORDS) }
    }

    /// The words of all lines.
    pub(crate) fn flat_mut(lines: &mut [WordLine]) -> &mut [i32] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * WORDS) }
    }
}

/// A matrix `[rows, cols]` of which each thread fills its own columns.
///
/// Threads share the rows, so no split of the slice can give them out. Whoever takes a piece promises
/// that nobody else takes an overlapping one.
pub(crate) struct SharedRows<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, of which the caller of `piece` keeps the parts disjoint.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

// SAFETY: as for `Sync`.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    /// Views `data` as rows of `cols` elements. Panics unless the length is a multiple of it.
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        assert_eq!(rows * cols, data.len(), "not a whole number of rows of {cols}");
        SharedRows {
            start: data.as_mut_ptr(),
            rows,
            cols,
            borrow: PhantomData,
        }
    }

    /// Columns `from..from + len` of one row.
    ///
    /// # Safety
    /// While the result lives, no other piece that overlaps it may exist.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(crate) unsafe fn piece(&self, row: usize, from: usize, len: usize) -> &mut [T] {
        assert!(
            row < self.rows && from <= self.cols && len <= self.cols - from,
            "piece outside the matrix"
        );
        // SAFETY: inside the borrowed slice by the assertion, and aliased by nobody by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.cols + from), len) }
    }
}
