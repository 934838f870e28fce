//! Runs `bitnet` on a year, and watches how long it takes and how much memory it holds.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::bitnet::binary;
use serde::{Deserialize, Serialize};

use super::requests::ZONE;
use super::year::Year;

/// How a command ran.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) command: String,
    pub(crate) seconds: f64,
    /// Most memory it held.
    pub(crate) peak_mib: u64,
    #[serde(skip)]
    pub(crate) output: String,
}

/// Runs a command that must succeed.
pub(crate) fn done(year: &Year, arguments: &[&str]) -> Result<Ran> {
    // Compiles it, the first time.
    let binary = binary()?;
    let started = Instant::now();
    let mut child = Command::new(binary)
        .args(arguments)
        .env("BITNET__STORE__URI", year.store())
        .env("BITNET__WORKER__RESIDENCY_ZONE", ZONE)
        .env("BITNET__BILLING__PRICES", year.prices())
        .env("BITNET__BILLING__CONTRACTS", year.contracts())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let watched = thread::spawn(move || {
        let mut peak = 0;
        while let Some(kib) = fs::read_to_string(&status).ok().as_deref().and_then(high_water) {
            peak = kib.max(peak);
            thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let mut output = String::new();
    child.stdout.take().context("piped")?.read_to_string(&mut output)?;
    let code = child.wait()?.code();
    let ran = Ran {
        command: arguments.join(" "),
        seconds: started.elapsed().as_secs_f64(),
        peak_mib: watched.join().unwrap_or_default() / 1024,
        output,
    };
    eprintln!(
        "bitnet {}: {:.1} s, {} MiB at most",
        ran.command, ran.seconds, ran.peak_mib
    );
    ensure!(code == Some(0), "{arguments:?} ended with {code:?}: {}", ran.output);
    Ok(ran)
}

/// `VmHWM` in KiB; none when the process is gone.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
