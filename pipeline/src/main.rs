//! `bitnet`: parses, runs, and maps how it went to an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use pipeline::cli::{Cli, Exit};
use pipeline::telemetry;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::stop_on_panic(Exit::Internal as i32);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime's threads: {error}");
            return ExitCode::from(Exit::Internal as u8);
        }
    };
    let result = runtime.block_on(cli.run());
    // Calls into librdkafka may still sit on their timeouts; nobody waits for their answers.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.report());
            ExitCode::from(failure.exit() as u8)
        }
    }
}
