//! Kafka in, ternary inference, committed and billed rows out.

#![forbid(unsafe_code)]

pub mod chunk;
