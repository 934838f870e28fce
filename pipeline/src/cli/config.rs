//! `bitnet config`: are the settings usable, and what are they.

use std::io::{self, Write};

use clap::Subcommand;

use super::failure::{Exit, Failure};
use crate::models::Models;
use crate::settings::Settings;

/// Check or print the settings in force
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  bitnet config show\n  bitnet --config /etc/bitnet.toml config check")]
pub enum Config {
    /// Exit 0 if the settings can be used, 2 with a reason if not
    #[command(after_help = "Example:\n  bitnet --config /etc/bitnet.toml config check")]
    Check,
    /// Print the settings in force as TOML, secrets hidden
    #[command(after_help = "Example:\n  BITNET__WORKER__REGION=eu-west bitnet config show")]
    Show,
}

impl Config {
    /// Settings were checked when they were loaded; what remains is what they point at.
    pub(super) fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match self {
            Config::Check => {
                let models = Models::open(&settings.models)?;
                writeln!(
                    out,
                    "settings can be used; models: {}",
                    models.names().collect::<Vec<_>>().join(", ")
                )?;
            }
            Config::Show => {
                let shown = toml::to_string(settings).map_err(|error| Failure::new(Exit::Internal, error))?;
                write!(out, "{shown}")?;
            }
        }
        Ok(())
    }
}
