//! The engine: jobs in, events out, one step at a time.

use std::collections::HashMap;
use std::sync::Arc;

use kernels::float::{KvCache, KvShapeError};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::completion::Completion;
use crate::job::{Job, JobId, Priority, RequestError};
use crate::kv_cache::BlockPool;
use crate::model::Model;
use crate::prefix::prefix_hashes;
use crate::scheduler::{Limits, Prefix, Scheduler};
use crate::sequence::Sequence;
use crate::step::{Member, Phase, Work};

const SEQUENCES_MAX: usize = 1 << 14;
const TOKENS_PER_STEP_MAX: usize = 1 << 16;
const BLOCK_LEN_MAX: usize = 1 << 12;
const THREADS_MAX: usize = 1024;
/// Tokens of work that arrive later and still go first, for each step in priority.
const AGEING_TOKENS: u64 = 1 << 20;

/// Bounds of an engine; everything they name is allocated once, by [`Engine::new`].
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Tokens computed by one step, prompts and answers together. At least `sequences_max`.
    pub tokens_per_step_max: usize,
    /// Jobs that run at once.
    pub sequences_max: usize,
    /// Bytes for keys and values, which are kept in f32 as the float32 reference keeps them, so that logits can be held
    /// against it. Less is taken when `sequences_max` full contexts do not fill it.
    pub kv_bytes_max: usize,
    /// Positions in one block of the KV cache, a multiple of 16.
    pub block_len: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Jobs held at once, waiting and running.
    pub jobs_max: usize,
}

impl Default for EngineSettings {
    fn default() -> EngineSettings {
        EngineSettings {
            tokens_per_step_max: 512,
            sequences_max: 64,
            kv_bytes_max: 1 << 30,
            block_len: 16,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            jobs_max: 65_536,
        }
    }
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting is out of range.
    #[error("{setting} is {value}, but must be {expected}")]
    Setting {
        /// The field of [`EngineSettings`].
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The values that work.
        expected: String,
    },
    /// The operating system gave no threads.
    #[error("cannot start {threads} compute threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        source: rayon::ThreadPoolBuildError,
    },
    /// The KV cache does not fit the memory.
    #[error("cannot allocate the KV cache; lower kv_bytes_max")]
    Cache(#[source] KvShapeError),
}

/// What happened to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first token of the answer is written. Embeddings and scores write none.
    FirstToken(JobId),
    /// The job is done and forgotten.
    Finished(JobId, Completion),
    /// The answer cannot be finished: its constraint became too complex on the way, or the tokenizer cannot write its
    /// text. The job is forgotten.
    Failed(JobId, RequestError),
}

/// What one step did.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// Tokens computed.
    pub tokens: usize,
    /// Jobs that had tokens in this step: the batch size.
    pub sequences: usize,
    /// Jobs pushed back into the queue because others needed their blocks.
    pub preempted: usize,
    /// Tokens of prompts that were found in the KV cache instead of computed.
    pub cached: usize,
}

/// One model, its KV cache and the jobs in flight. `step` does no IO and never blocks on anything but arithmetic.
pub struct Engine {
    model: Arc<Model>,
    threads: ThreadPool,
    jobs_max: usize,
    scheduler: Scheduler,
    sequences: HashMap<JobId, Sequence>,
    cache: KvCache,
    work: Work,
}

impl Engine {
    /// Allocates the KV cache and starts the compute threads.
    ///
    /// # Errors
    /// A setting is out of range, or memory or threads are not to be had.
    pub fn new(model: Arc<Model>, settings: &EngineSettings) -> Result<Engine, EngineError> {
        let EngineSettings {
            tokens_per_step_max,
            sequences_max,
            threads,
            jobs_max,
            ..
        } = *settings;
        check_settings(settings)?;
        let shape = model.kv_shape(blocks(&model, settings)?, settings.block_len);
        let cache = KvCache::new(shape).map_err(EngineError::Cache)?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("engine-{index}"));
        let threads = pool
            .build()
            .map_err(|source| EngineError::Threads { threads, source })?;
        let limits = Limits {
            tokens_per_step_max,
            sequences_max,
            ageing_tokens: AGEING_TOKENS,
        };
        let scheduler = Scheduler::new(limits, BlockPool::new(shape.blocks, shape.block_len));
        let work = Work::new(&model, sequences_max);
        Ok(Engine {
            model,
            threads,
            jobs_max,
            scheduler,
            sequences: HashMap::new(),
            cache,
            work,
        })
    }

    /// Puts a job in the queue.
    ///
    /// # Errors
    /// It can never fit the KV cache, `id` is in use, or `jobs_max` jobs are held.
    pub fn submit(&mut self, id: JobId, job: Job, priority: Priority) -> Result<(), RequestError> {
        let refuse = |code, message| {
            Err(RequestError {
                code,
                message,
                param: None,
            })
        };
        let (needed, room) = (job.cache_tokens_max(), self.scheduler.positions_max());
        if needed > room {
            let message = format!(
                "the request needs {needed} tokens of KV cache, which holds {room}; shorten it, or raise engine.kv_bytes_max"
            );
            return refuse("context_length_exceeded", message);
        }
        if self.sequences.len() >= self.jobs_max {
            return refuse(
                "engine_full",
                format!("{} jobs are held, the most allowed; submit it later", self.jobs_max),
            );
        }
        if self.sequences.contains_key(&id) {
            return refuse(
                "duplicate_job",
                format!("job {} is already in the engine; choose another id", id.0),
            );
        }
        let (block_len, last) = (self.cache.shape().block_len, job.prompt.len() - 1);
        let prefix = Prefix {
            names: prefix_hashes(&job.prompt[..last], block_len).collect(), // the last one is computed in any case
            reusable: job.wanted_from() / block_len,
        };
        let sequence = Sequence::new(job);
        self.scheduler.submit(id, priority, sequence.tokens().len(), prefix);
        self.sequences.insert(id, sequence);
        Ok(())
    }

    /// Forgets a job; no event follows. False if there is none of that name.
    pub fn cancel(&mut self, id: JobId) -> bool {
        self.scheduler.remove(id);
        self.sequences.remove(&id).is_some()
    }

    /// Computes one batch: the next token of everything that runs, and parts of prompts as far as the bounds allow.
    pub fn step(&mut self) -> StepReport {
        self.step_in_phases(&mut |_| {})
    }

    /// The same, calling `ended` whenever a phase of the step has ended, so that they can be timed.
    pub fn step_in_phases(&mut self, ended: &mut (dyn FnMut(Phase) + Send)) -> StepReport {
        let mut plan = self.scheduler.plan();
        let mut report = StepReport {
            events: Vec::new(),
            tokens: plan.tokens(),
            sequences: plan.grants.len(),
            preempted: plan.preempted,
            cached: plan.cached,
        };
        if plan.grants.is_empty() {
            return report;
        }
        let Engine {
            model,
            threads,
            scheduler,
            sequences,
            cache,
            work,
            ..
        } = self;
        let taken = plan.grants.drain(..);
        let mut members: Vec<Member> = taken
            .filter_map(|grant| Some(Member::new(grant, sequences.remove(&grant.id)?)))
            .collect();
        work.fill_batch(&mut members, scheduler);
        ended(Phase::Scheduling);
        threads.install(|| work.compute(model, &mut members, cache, ended));
        for member in members {
            let Member {
                grant, mut sequence, ..
            } = member;
            report
                .events
                .extend(member.wrote_first.then_some(Event::FirstToken(grant.id)));
            match sequence.settle(model, grant.start + grant.len) {
                Some(computed) => {
                    scheduler.advance(grant.id, computed, sequence.tokens().len());
                    sequences.insert(grant.id, sequence);
                }
                None => {
                    scheduler.remove(grant.id);
                    report.events.push(match sequence.complete(model) {
                        Ok(completion) => Event::Finished(grant.id, completion),
                        Err(error) => Event::Failed(grant.id, error),
                    });
                }
            }
        }
        ended(Phase::Scheduling);
        report
    }

    /// True when there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Jobs in the queue.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Jobs that hold part of the KV cache.
    pub fn running(&self) -> usize {
        self.scheduler.running()
    }
}

fn check_settings(settings: &EngineSettings) -> Result<(), EngineError> {
    let EngineSettings {
        tokens_per_step_max,
        sequences_max,
        block_len,
        threads,
        jobs_max,
        ..
    } = *settings;
    let refuse = |setting, value, expected: &str| {
        Err(EngineError::Setting {
            setting,
            value,
            expected: expected.to_owned(),
        })
    };
    if !(1..=SEQUENCES_MAX).contains(&sequences_max) {
        return refuse("sequences_max", sequences_max, &format!("from 1 to {SEQUENCES_MAX}"));
    }
    if !(sequences_max..=TOKENS_PER_STEP_MAX).contains(&tokens_per_step_max) {
        let expected = format!("from sequences_max, {sequences_max}, to {TOKENS_PER_STEP_MAX}");
        return refuse("tokens_per_step_max", tokens_per_step_max, &expected);
    }
    if !(16..=BLOCK_LEN_MAX).contains(&block_len) || block_len % 16 != 0 {
        return refuse(
            "block_len",
            block_len,
            &format!("a multiple of 16 up to {BLOCK_LEN_MAX}"),
        );
    }
    if !(1..=THREADS_MAX).contains(&threads) {
        return refuse("threads", threads, &format!("from 1 to {THREADS_MAX}"));
    }
    if jobs_max == 0 {
        return refuse("jobs_max", jobs_max, "at least 1");
    }
    Ok(())
}

/// Blocks that `kv_bytes_max` pays for, but no more than `sequences_max` full contexts fill.
fn blocks(model: &Model, settings: &EngineSettings) -> Result<usize, EngineError> {
    let EngineSettings {
        sequences_max,
        kv_bytes_max,
        block_len,
        ..
    } = *settings;
    let block_bytes = model.kv_shape(1, block_len).block_bytes_len().unwrap_or(usize::MAX);
    let useful = sequences_max * (model.context_length().div_ceil(block_len) + 1); // one each to grow into
    match (kv_bytes_max / block_bytes).min(useful).min(u32::MAX as usize) {
        0 => {
            let expected = format!("at least {block_bytes}, one block");
            Err(EngineError::Setting {
                setting: "kv_bytes_max",
                value: kv_bytes_max,
                expected,
            })
        }
        blocks => Ok(blocks),
    }
}
