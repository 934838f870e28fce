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
pub mod source;
pub mod claim_check;
pub mod admit;
pub mod worker;
pub mod prices;
pub mod settle;
pub mod ledger;
pub mod dead_letter;
pub mod progress;
pub mod run;
pub mod jobs;
pub mod corrections;
pub mod close;
pub mod upkeep;
pub mod telemetry;
pub mod cli;
