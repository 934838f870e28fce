//! Loads a BitNet b1.58 model and runs many requests through it, batched anew at each step.
//!
//! ```text
//! Model::load ─► Model::prepare ─► Engine::submit ─► Engine::step ─► Completion
//!  (files)        (body → Job)      (queue)           (batch, forward, sample)
//! ```
//!
//! The engine is synchronous: it does no IO after loading, reads no clock and starts no work of its own. An answer
//! depends on the request and the model alone, to the bit, whatever else is in the batch and however many threads run.

#![forbid(unsafe_code)]

mod guard;
mod model;
mod tokenizer;
mod template;
mod grammar;
mod request;
mod job;
mod engine;
mod step;
mod scheduler;
mod prefix;
mod kv_cache;
mod sequence;
mod batch;
mod sampler;
mod completion;

pub use crate::completion::{Completion, FinishReason, Usage};
pub use crate::engine::{Engine, EngineError, EngineSettings, Event, StepReport};
pub use crate::guard::is_guarded;
pub use crate::job::{Endpoint, Job, JobId, Priority, RequestError};
pub use crate::model::{
    ConvertError, Footprint, LoadError, LoadOptions, Model, ModelInfo, Products, Shape, convert, inspect,
};
pub use crate::prefix::count_cached;
pub use crate::step::Phase;
pub use kernels::limits;

/// The names of the instruction sets that this CPU can compute with, slowest first.
pub fn kernel_names() -> Vec<&'static str> {
    kernels::Kernel::available().map(kernels::Kernel::name).collect()
}
