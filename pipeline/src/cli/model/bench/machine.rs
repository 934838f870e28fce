//! What the machine can do on so many threads, measured beside each round.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use engine::limits;

/// Turns of the loops of multiply-adds, some milliseconds.
const TURNS: u64 = 1_000_000;
/// Words read to time memory: 512 MB, a quarter of it a round.
const WORDS: usize = 1 << 26;

/// Rates of all threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// int8 multiply-adds a second.
    pub(super) int8: f64,
    /// f32 multiply-adds a second.
    pub(super) f32: f64,
    /// Bytes read a second.
    pub(super) bytes: f64,
}

pub(super) struct Machine {
    threads: usize,
    memory: Vec<u64>,
}

impl Machine {
    pub(super) fn new(threads: usize) -> Machine {
        let memory = (0..WORDS as u64).collect();
        Machine { threads, memory }
    }

    pub(super) fn measure(&self, round: usize) -> Limits {
        let part = &self.memory[round % 4 * (WORDS / 4)..][..WORDS / 4];
        let share = part.len() / self.threads;
        let read = |thread: usize| {
            black_box(limits::read(&part[thread * share..][..share]));
            (share * size_of::<u64>()) as u64
        };
        Limits {
            int8: self.rate(|_| limits::multiply_int8(black_box(TURNS))),
            f32: self.rate(|_| limits::multiply_f32(black_box(TURNS))),
            bytes: self.rate(read),
        }
    }

    /// What all threads together do in a second. They begin when each has worked a while: new ones may share a core at first.
    fn rate(&self, work: impl Fn(usize) -> u64 + Sync) -> f64 {
        let ready = Barrier::new(self.threads);
        let timed = |thread: usize| {
            black_box(limits::multiply_int8(black_box(TURNS)));
            ready.wait();
            let start = Instant::now();
            let done = work(thread);
            done as f64 / start.elapsed().as_secs_f64()
        };
        let timed = &timed;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|i| scope.spawn(move || timed(i))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
        })
    }
}
