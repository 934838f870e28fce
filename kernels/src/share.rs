//! Tasks that threads share: each begins in a part of its own and then helps with the others'.
//!
//! Nobody waits to begin, and who is kept from running by another process leaves all but one task to the rest. A part is taken
//! from front to back, so a thread can fetch the memory of its next task while it works on one.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The tasks of one thread, taken in order. Two cache lines, which CPUs fetch as a pair, keep it from its neighbours.
#[repr(align(128))]
struct Part {
    next: AtomicUsize,
    end: usize,
}

/// Runs `task(state, index, next)` once for each index below `len`, on up to `threads_max` threads of the current rayon pool,
/// at least one. Each has a `state` of its own; `next` is what it most likely works on after `index`.
pub(crate) fn share<S>(
    len: usize,
    threads_max: usize,
    state: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize, Option<usize>) + Sync,
) {
    let threads = rayon::current_num_threads().min(threads_max).min(len).max(1);
    let parts: Vec<Part> = (0..threads)
        .map(|i| Part {
            next: AtomicUsize::new(i * len / threads),
            end: (i + 1) * len / threads,
        })
        .collect();
    fork(0..threads, &|first| {
        let (before, own) = parts.split_at(first);
        let mut state = state();
        for part in own.iter().chain(before) {
            part.work(|index, next| task(&mut state, index, next));
        }
    });
}

impl Part {
    fn work(&self, mut task: impl FnMut(usize, Option<usize>)) {
        // A look before the claim keeps `next` from running away.
        while self.next.load(Ordering::Relaxed) < self.end {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index < self.end {
                task(index, Some(index + 1).filter(|next| *next < self.end));
            }
        }
    }
}

/// Calls `work` with each of `parts`, on a thread of its own where one is free.
fn fork(parts: Range<usize>, work: &(impl Fn(usize) + Sync)) {
    match parts.len() {
        ..2 => work(parts.start),
        len => {
            let middle = parts.start + len / 2;
            rayon::join(|| fork(parts.start..middle, work), || fork(middle..parts.end, work));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (len, threads_max) in [(0, 8), (1, 8), (2, 8), (7, 0), (7, 2), (7, 8), (1000, 8)] {
                let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                pool.install(|| {
                    let state = || ();
                    share(len, threads_max, state, |(), index, next| {
                        runs[index].fetch_add(1, Ordering::Relaxed);
                        assert!(next.is_none_or(|next| next == index + 1 && next < len));
                    });
                });
                let right = runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1);
                assert!(right, "{len} tasks on {threads} threads, {threads_max} at most");
            }
        }
    }
}
