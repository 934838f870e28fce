//! The command line: one file a command, one type for how they fail.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::settings::Settings;
use crate::telemetry::{self, Audience};

pub mod failure;
mod causes;
mod partial;
pub mod demo;
pub mod worker;
pub mod submit;
pub mod jobs;
pub mod run_batch;
pub mod report;
pub mod price;
pub mod billing;
pub mod table;
pub mod config;
pub mod model;

pub use failure::{Exit, Failure};

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    a check failed (reconciliation, files of tables, golden logits)
  2    command line or settings cannot be used
  65   bad input
  69   broker or store unreachable at the start
  70   internal error
  75   an outage stopped it; run again
  130  stopped by Ctrl-C
  143  stopped by SIGTERM (0 for `worker`)

Every setting is a key of a TOML file and a variable BITNET__SECTION__KEY; see `bitnet config show`.";

/// Runs ternary language models over many requests: from Kafka, to tables in object storage.
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Settings file (TOML), read after the defaults and before the environment
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "BITNET_CONFIG",
        help_heading = "Every command"
    )]
    config: Option<PathBuf>,
    /// What to log, as in RUST_LOG, e.g. `debug` or `warn,pipeline=debug`
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Every command")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Worker(worker::WorkerArgs),
    Submit(submit::Submit),
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    RunBatch(run_batch::RunBatch),
    #[command(subcommand)]
    Report(report::Report),
    #[command(subcommand)]
    Price(price::Price),
    #[command(subcommand)]
    Billing(billing::Billing),
    #[command(subcommand)]
    Table(table::Table),
    #[command(subcommand)]
    Model(model::Model),
    #[command(subcommand)]
    Config(config::Config),
}

impl Command {
    fn audience(&self) -> Audience {
        match self {
            Command::Worker(_) => Audience::Operator,
            _ => Audience::Person,
        }
    }
}

impl Cli {
    /// Loads the settings and runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::start(self.log.as_deref(), self.command.audience()).map_err(|problem| {
            Failure::new(Exit::Usage, problem).help("write level or target=level, comma-separated")
        })?;
        let settings = Settings::load(self.config.as_deref())?;
        // A worker stops by itself, cleanly.
        let interruptible = !matches!(self.command, Command::Worker(_));
        let command = async {
            match self.command {
                Command::Demo(command) => command.run(settings.clone()).await,
                Command::Worker(command) => command.run(&settings).await,
                Command::Submit(command) => command.run(&settings).await,
                Command::Jobs(command) => command.run(&settings).await,
                Command::RunBatch(command) => command.run(&settings).await,
                Command::Report(command) => command.run(&settings).await,
                Command::Price(command) => command.run(&settings),
                Command::Billing(command) => command.run(&settings).await,
                Command::Table(command) => command.run(&settings).await,
                Command::Model(command) => command.run().await,
                Command::Config(command) => command.run(&settings),
            }
        };
        tokio::select! {
            result = command => result,
            stopped = stop_signal(), if interruptible => Err(stopped),
        }
    }
}

/// Ends with the first Ctrl-C or SIGTERM.
async fn stop_signal() -> Failure {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (mut interrupt, mut terminate) = match (interrupt, terminate) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return Failure::new(Exit::Internal, error),
    };
    tokio::select! {
        _ = interrupt.recv() => Failure::new(Exit::Interrupted, "stopped by Ctrl-C"),
        _ = terminate.recv() => Failure::new(Exit::Terminated, "stopped by SIGTERM"),
    }
}
