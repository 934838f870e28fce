//! What the machine can do on so many threads, measured beside each round.

use std::hint::black_box;
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
        let rate = |work: fn(u64) -> u64| {
            let start = Instant::now();
            let done: u64 = self.on_threads(|_| work(black_box(TURNS))).into_iter().sum();
            done as f64 / start.elapsed().as_secs_f64()
        };
        let part = &self.memory[round % 4 * (WORDS / 4)..][..WORDS / 4];
        let share = part.len() / self.threads;
        let start = Instant::now();
        black_box(self.on_threads(|thread| limits::read(&part[thread * share..][..share])));
        let bytes = (share * self.threads * size_of::<u64>()) as f64 / start.elapsed().as_secs_f64();
        Limits {
            int8: rate(limits::multiply_int8),
            f32: rate(limits::multiply_f32),
            bytes,
        }
    }

    fn on_threads(&self, work: impl Fn(usize) -> u64 + Sync) -> Vec<u64> {
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|i| scope.spawn(move || work(i))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        })
    }
}
