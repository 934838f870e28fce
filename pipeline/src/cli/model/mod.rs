//! `bitnet model`: what can be done with a model outside any worker.

pub mod bench;

use clap::Subcommand;

use super::Failure;

/// Models: how fast they are here
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  bitnet model bench --shape 2b4t")]
pub enum Model {
    /// Time prompts and decoding, beside what this machine allows
    Bench(bench::Bench),
}

impl Model {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let command = tokio::task::spawn_blocking(move || match self {
            Model::Bench(command) => command.run(),
        });
        command
            .await
            .map_err(|error| Failure::new(super::Exit::Internal, error))?
    }
}
