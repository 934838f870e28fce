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

/// Runs `task(state, index, next)` once for each index below `len`, on threads of the current rayon pool that get `len_min`
/// tasks or more. Each has a `state` of its own; `next` is what the thread most likely works on after `index`.
pub(crate) fn share<S>(
    len: usize,
    len_min: usize,
    state: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize, Option<usize>) + Sync,
) {
    let threads = rayon::current_num_threads().min(len / len_min.max(1)).max(1);
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
            for (len, len_min) in [(0, 1), (1, 1), (2, 1), (7, 0), (7, 3), (7, 8), (1000, 5)] {
                let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                pool.install(|| {
                    let state = || ();
                    share(len, len_min, state, |(), index, next| {
                        runs[index].fetch_add(1, Ordering::Relaxed);
                        assert!(next.is_none_or(|next| next == index + 1 && next < len));
                    });
                });
                let right = runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1);
                assert!(right, "{len} tasks of {len_min} or more on {threads} threads");
            }
        }
    }
}
