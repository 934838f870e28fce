//! Kafka in, ternary inference, committed and billed rows out.

#![forbid(unsafe_code)]

pub mod settings;
pub mod models;
pub mod chunk;
pub mod kafka;
pub mod telemetry;
pub mod cli;
