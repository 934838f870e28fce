//! The cases: the shapes of microsoft/bitnet-b1.58-2B-4T.

use kernels::activations::Activations;
use kernels::float::{
    KvCache, KvShape, QuerySpan, Rope, add, argmax, attention, log_softmax, relu_squared, rms_norm, silu,
};
use kernels::matmul::{Projection, matmul};
use kernels::ternary::TernaryMatrix;
use rayon::prelude::*;

use crate::cached::Cached;
use crate::clock::Clock;
use crate::contention::Contended;
use crate::limits::{self, Limits, MEMORY_LEN, Unit};
use crate::report::{self, Measured, OfOne, Round};
use crate::{Options, Results};

/// Rows and columns of the ternary matrices.
const TERNARY: [(usize, usize); 4] = [(2560, 2560), (640, 2560), (6912, 2560), (2560, 6912)];
/// Tokens in a batch.
const TOKENS: [usize; 4] = [1, 8, 64, 512];
/// What is timed beside another process, too: rows, columns and tokens.
const CONTENDED: [(usize, usize, usize); 2] = [(2560, 2560, 1), (2560, 2560, 64)];
/// The least time that one round of a case takes.
const ROUND_MIN_SECONDS: f64 = 0.03;

/// Runs the cases whose name contains what the options ask for, printing each as it is done.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    memory: Vec<u64>,
    /// A single thread, to compare with more.
    one: Option<rayon::ThreadPool>,
}

impl Bench<'_> {
    pub(crate) fn new(options: &Options) -> Bench<'_> {
        Bench {
            options,
            memory: limits::memory(),
            one: (options.threads > 1).then(|| crate::pool(1)),
        }
    }

    pub(crate) fn run(&self) -> Results {
        report::head(self.options);
        let mut results = Results::default();
        for shape in TERNARY {
            self.ternary(shape, &mut results);
        }
        self.head(&mut results);
        self.attention(&mut results);
        self.rows(&mut results);
        results
    }

    pub(crate) fn asked(&self, name: &str) -> bool {
        name.contains(&self.options.only)
    }

    fn ternary(&self, (rows, cols): (usize, usize), results: &mut Results) {
        let name = |tokens| format!("ternary {rows} x {cols}, {tokens} tokens");
        if !TOKENS.iter().any(|&tokens| self.asked(&name(tokens))) {
            return;
        }
        let weights: Vec<i8> = noise(1, rows * cols).map(|x| (x * 1.5).round() as i8).collect();
        let matrix = TernaryMatrix::from_weights(rows, cols, 0.01, &weights).expect("weights are ternary");
        // As many copies as a model holds, so that no cache serves what a model would read from memory.
        let copies = vec![matrix; MEMORY_LEN * 4 / (rows * cols)];
        for tokens in TOKENS.into_iter().filter(|&tokens| self.asked(&name(tokens))) {
            let x: Vec<f32> = noise(2, tokens * cols).collect();
            let mut activations = Activations::new();
            activations.quantize(self.options.kernel, &x, cols);
            let mut out = vec![f32::NAN; tokens * rows];
            let mut next = copies.iter().cycle();
            let mut multiply = |out: &mut [f32]| {
                let weights = next.next().expect("there is a copy");
                matmul(self.options.kernel, &activations, &mut [Projection { weights, out }]);
            };
            multiply(&mut out);
            check_ternary(&weights, cols, &activations, &out);
            let work = Work {
                macs: rows * cols * tokens,
                bytes: rows * cols / 4 + tokens * (cols + 4 * rows),
            };
            let cached = (tokens == 1).then(|| Cached::new(self.options.kernel));
            let measured = self.measure_beside(cached, name(tokens), Unit::Int8, work, || multiply(&mut out));
            results.cases.push(measured);
            if self.has_all_cores() && CONTENDED.contains(&(rows, cols, tokens)) {
                let contended = Contended::measure(name(tokens), self.options.rounds, || multiply(&mut out));
                results.contention.push(contended);
            }
        }
    }

    /// Whether another process leaves fewer cores than there are threads.
    fn has_all_cores(&self) -> bool {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.options.threads == cores && self.options.clock == Clock::Wall
    }

    /// A prompt chunk and a decode batch at a context of 2,048: 20 heads over 5, of 128.
    fn attention(&self, results: &mut Results) {
        const CONTEXT: usize = 2048;
        let (heads, shape) = (
            20,
            KvShape {
                layers: 1,
                blocks: 512,
                block_len: 64,
                kv_heads: 5,
                head_dim: 128,
            },
        );
        let mut cache = KvCache::new(shape).expect("the shape is right");
        let rows: Vec<f32> = noise(5, shape.kv_heads * shape.head_dim).collect();
        for block in 0..shape.blocks as u32 {
            let blocks = &[block];
            for slot in 0..shape.block_len {
                let (tokens, position) = (0..1, slot);
                cache.write(
                    0,
                    &[QuerySpan {
                        tokens,
                        position,
                        blocks,
                    }],
                    &rows,
                    &rows,
                );
            }
        }
        let sequences: Vec<Vec<u32>> = (0..16).map(|s| (s * 32..(s + 1) * 32).collect()).collect();
        for (name, sequences, tokens) in [("prompt", &sequences[..1], 512), ("decode", &sequences[..], 1)] {
            let name = format!("attention {name}, {} x {tokens} tokens at {CONTEXT}", sequences.len());
            if !self.asked(&name) {
                continue;
            }
            let cols = heads * shape.head_dim;
            let q: Vec<f32> = noise(6, sequences.len() * tokens * cols).collect();
            let mut out = vec![f32::NAN; q.len()];
            let span = |(i, blocks): (usize, &'_ Vec<u32>)| (i * tokens..(i + 1) * tokens, blocks.clone());
            let spans: Vec<_> = sequences.iter().enumerate().map(span).collect();
            let position = CONTEXT - tokens;
            let spans: Vec<_> = spans
                .iter()
                .map(|(tokens, blocks)| QuerySpan {
                    tokens: tokens.clone(),
                    position,
                    blocks,
                })
                .collect();
            let mut attend = || attention(self.options.kernel, &cache, 0, heads, &spans, &q, &mut out);
            let seen = sequences.len() * tokens * (CONTEXT - tokens / 2);
            let bytes = sequences.len() * CONTEXT * shape.kv_heads * shape.head_dim * 8;
            let work = Work {
                macs: seen * cols * 2,
                bytes,
            };
            results.cases.push(self.measure(name, Unit::F32, work, &mut attend));
            // All values are equal, so attention returns them whatever the weights.
            let right = out.chunks(shape.head_dim).enumerate().all(|(head, out)| {
                let kv_head = head % heads / (heads / shape.kv_heads);
                let expected = &rows[kv_head * shape.head_dim..][..shape.head_dim];
                out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4)
            });
            assert!(right, "attention is wrong");
        }
    }

    /// What is done to every row between the products, over 64 tokens of the feed-forward's width.
    fn rows(&self, results: &mut Results) {
        let (kernel, tokens, cols) = (self.options.kernel, 64, 6912);
        let (x, weight): (Vec<f32>, Vec<f32>) = (noise(7, tokens * cols).collect(), noise(8, cols).collect());
        let (mut out, mut activations) = (x.clone(), Activations::new());
        let rope = Rope::new(&Rope::frequencies(5e5, 128), tokens);
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let mut time = |name: &str, bytes_per_value: usize, run: &mut (dyn FnMut() + Send)| {
            let name = format!("{name}, {tokens} x {cols}");
            if self.asked(&name) {
                let work = Work {
                    macs: tokens * cols,
                    bytes: tokens * cols * bytes_per_value,
                };
                results.cases.push(self.measure(name, Unit::F32, work, run));
            }
        };
        time("quantize", 5, &mut || activations.quantize(kernel, &x, cols));
        time("rms_norm", 8, &mut || rms_norm(kernel, &mut out, &weight, 1e-5));
        time("relu_squared", 12, &mut || relu_squared(kernel, &mut out, &x));
        time("silu", 12, &mut || silu(kernel, &mut out, &x));
        time("add", 12, &mut || add(kernel, &mut out, &x));
        time("rotate", 8, &mut || rope.rotate(kernel, &positions, &mut out));
        // One row is one thread's work; a sampler has many.
        time("log_softmax", 8, &mut || {
            out.par_chunks_mut(cols).for_each(|row| log_softmax(kernel, row));
        });
        time("argmax", 4, &mut || {
            x.par_chunks(cols)
                .for_each(|row| assert!(argmax(kernel, row).is_some()));
        });
    }

    pub(crate) fn measure(&self, name: String, unit: Unit, work: Work, run: impl FnMut() + Send) -> Measured {
        self.measure_beside(None, name, unit, work, run)
    }

    /// Rounds of a case, with the machine's limits and those of `cached`.
    fn measure_beside(
        &self,
        mut cached: Option<Cached>,
        name: String,
        unit: Unit,
        work: Work,
        mut run: impl FnMut() + Send,
    ) -> Measured {
        let Options {
            kernel,
            clock,
            rounds,
            threads,
            ..
        } = *self.options;
        let mut round = |round| {
            let cached_macs = cached.as_mut().map(|cached| match &self.one {
                Some(one) => one.install(|| cached.macs(kernel, clock)),
                None => cached.macs(kernel, clock),
            });
            let limits = |threads: usize| Limits {
                cached_macs: cached_macs.map(|macs| macs * threads as f64),
                ..unit.limits(kernel, clock, &self.memory, round)
            };
            Round {
                limits: limits(threads),
                seconds: time(clock, ROUND_MIN_SECONDS, &mut run),
                of_one: self.one.as_ref().map(|one| {
                    one.install(|| OfOne {
                        limits: limits(1),
                        seconds: time(clock, ROUND_MIN_SECONDS, &mut run),
                    })
                }),
            }
        };
        let rounds: Vec<Round> = (0..rounds).map(&mut round).collect();
        let measured = Measured::new(name, unit, work, &rounds);
        report::line(&measured);
        measured
    }
}

/// Seconds of a run, as many being timed as take `min` seconds.
pub(crate) fn time(clock: Clock, min: f64, run: &mut impl FnMut()) -> f64 {
    let (start, mut runs) = (clock.now(), 0);
    while runs == 0 || clock.now() - start < min {
        run();
        runs += 1;
    }
    (clock.now() - start) / f64::from(runs)
}

/// What one run does.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Multiply-adds.
    pub(crate) macs: usize,
    /// Bytes that come from memory or go there.
    pub(crate) bytes: usize,
}

/// Values in −1 to 1 that look random and are the same everywhere.
pub(crate) fn noise(seed: u64, len: usize) -> impl Iterator<Item = f32> {
    let mut state = seed;
    (0..len).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Panics unless a sample of the outputs is right, NaN being what was there before.
fn check_ternary(weights: &[i8], cols: usize, activations: &Activations, out: &[f32]) {
    let rows = weights.len() / cols;
    for i in (0..out.len()).step_by(out.len() / 500 + 1) {
        let (token, row) = (i / rows, i % rows);
        let products = weights[row * cols..][..cols].iter().zip(activations.values(token));
        let sum: i32 = products.map(|(w, a)| i32::from(*w) * i32::from(a)).sum();
        assert_eq!(
            out[i],
            sum as f32 * (activations.step(token) * 0.01),
            "token {token}, row {row}"
        );
    }
    assert!(out.iter().all(|x| x.is_finite()), "some outputs were not written");
}
