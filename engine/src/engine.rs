//! The engine: jobs in, events out, one step at a time.

use std::sync::Arc;

use crate::completion::Completion;
use crate::job::{Job, JobId, Priority, RequestError};
use crate::model::Model;

/// Bounds of an engine; everything they name is allocated once, by [`Engine::new`].
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Tokens computed by one step, prompts and answers together. At least `sequences_max`.
    pub tokens_per_step_max: usize,
    /// Jobs that run at once.
    pub sequences_max: usize,
    /// Bytes for keys and values. Less is taken when the model cannot fill it.
    pub kv_bytes_max: usize,
    /// Positions in one block of the KV cache.
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
}

/// What happened to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first token of the answer is written. Embeddings and scores write none.
    FirstToken(JobId),
    /// The job is done and forgotten.
    Finished(JobId, Completion),
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
}

/// One model, its KV cache and the jobs in flight. `step` does no IO and never blocks on anything but arithmetic.
pub struct Engine {}

impl Engine {
    /// Allocates the KV cache and starts the compute threads.
    pub fn new(model: Arc<Model>, settings: &EngineSettings) -> Result<Engine, EngineError> {
        let _ = (model, settings);
        unimplemented!()
    }

    /// Puts a job in the queue. Refused if it can never fit, if `id` is in use, or if `jobs_max` are held.
    pub fn submit(&mut self, id: JobId, job: Job, priority: Priority) -> Result<(), RequestError> {
        let _ = (id, job, priority);
        unimplemented!()
    }

    /// Forgets a job; no event follows. False if there is none of that name.
    pub fn cancel(&mut self, id: JobId) -> bool {
        let _ = id;
        unimplemented!()
    }

    /// Computes one batch: the next token of everything that runs, and parts of prompts as far as the bounds allow.
    pub fn step(&mut self) -> StepReport {
        unimplemented!()
    }

    /// True when there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        unimplemented!()
    }

    /// Jobs in the queue.
    pub fn waiting(&self) -> usize {
        unimplemented!()
    }

    /// Jobs that hold part of the KV cache.
    pub fn running(&self) -> usize {
        unimplemented!()
    }
}
