//! Jobs as the submitter sees them: files in, progress, results out.
//!
//! In the order of a job's life: [`lines`] and [`columns`] read what is submitted, [`submit`] sends it
//! through [`publish`], [`records`] finds it again, [`tally`] says how far it is, [`output`] writes its
//! answers the way OpenAI's Batch API does.

pub mod lines;
pub mod columns;
pub mod unique;
pub mod publish;
pub mod submit;
pub mod records;
pub mod tally;
pub mod output;
