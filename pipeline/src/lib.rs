//! Kafka in, ternary inference, committed and billed rows out.

#![forbid(unsafe_code)]

pub mod settings;
pub mod models;
pub mod chunk;
pub mod store;
pub mod sink;
pub mod intent;
pub mod tables;
pub mod committer;
pub mod kafka;
pub mod jobs;
pub mod telemetry;
pub mod cli;
