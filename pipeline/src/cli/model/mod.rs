//! `bitnet model`: what can be done with a model outside any worker.

pub mod inspect;
pub mod convert;
pub mod verify;
pub mod bench;

use clap::Subcommand;

use super::{Exit, Failure};

/// Models: what they are and take, made to load at once, held against a reference, and how fast they are here
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  bitnet model inspect /srv/models/bitnet-2b\n  bitnet model bench --shape 2b4t")]
pub enum Model {
    /// Tell what a model is, and what memory it takes
    Inspect(inspect::Inspect),
    /// Write a model as a folder that loads at once
    Convert(convert::Convert),
    /// Compare a model's logits with those of a reference; exit 1 if they differ
    Verify(verify::Verify),
    /// Time prompts and decoding, beside what this machine allows
    Bench(bench::Bench),
}

impl Model {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let command = tokio::task::spawn_blocking(move || match self {
            Model::Inspect(command) => command.run(),
            Model::Convert(command) => command.run(),
            Model::Verify(command) => command.run(),
            Model::Bench(command) => command.run(),
        });
        command.await.map_err(|error| Failure::new(Exit::Internal, error))?
    }
}
