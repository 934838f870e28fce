//! Apache Kafka, an S3 server and a slow network, as processes of this machine.
//!
//! `integration/stack/install.sh` puts the programs into `target/stack`; each test process starts its own
//! servers on free ports of 127.0.0.1, with data and logs in a folder of `target/stack/runs`. They end with
//! the test process, however it ends.

mod process;
mod kafka;
mod s3;
mod slow_link;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use anyhow::{Context, Result, bail};

pub use kafka::{Kafka, Message};
pub use process::{Process, Signal};
pub use s3::{Bucket, S3};
pub use slow_link::SlowLink;

/// Run folders that are kept for reading logs after their test process has ended.
const RUNS_KEPT: usize = 8;

/// The value that all tests of one process share, made by the first caller.
///
/// # Panics
/// If it cannot be made: a test that needs a server must fail without it.
fn shared<T>(cell: &'static OnceLock<T>, start: fn() -> Result<T>) -> &'static T {
    cell.get_or_init(|| start().unwrap_or_else(|error| panic!("{error:#}")))
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("integration/ lies in the repository")
}

/// Cargo's target folder, which this test program runs from.
pub fn target() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().nth(3); // target/release/deps/program
    Ok(target
        .with_context(|| format!("{} does not lie in a target folder", program.display()))?
        .to_owned())
}

/// `target/stack` with every program in it.
///
/// # Errors
/// If something cannot be installed; what and why is on standard error.
pub fn installed() -> Result<&'static Path> {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = INSTALLED.get() {
        return Ok(folder);
    }
    let folder = target()?.join("stack");
    let script = repository().join("integration/stack/install.sh");
    let status = Command::new("sh").arg(&script).arg(&folder).status()?;
    if !status.success() {
        bail!("{} {} failed: {status}", script.display(), folder.display());
    }
    forget_old_runs(&folder.join("runs"))?;
    Ok(INSTALLED.get_or_init(|| folder))
}

/// A new folder for data and logs, `target/stack/runs/<process id>-<number>-<name>`.
pub fn run_folder(name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = installed()?
        .join("runs")
        .join(format!("{}-{number}-{name}", std::process::id()));
    fs::create_dir_all(&folder)?;
    eprintln!("{name}: data and logs in {}", folder.display());
    Ok(folder)
}

/// Deletes all but the newest folders of test processes that have ended.
fn forget_old_runs(runs: &Path) -> Result<()> {
    fs::create_dir_all(runs)?;
    let mut ended = Vec::new();
    for entry in fs::read_dir(runs)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        let Ok(metadata) = entry.metadata() else { continue };
        if !Path::new("/proc").join(owner).exists() {
            ended.push((metadata.modified()?, entry.path()));
        }
    }
    ended.sort();
    for (_, folder) in ended.iter().rev().skip(RUNS_KEPT) {
        // Another test process may be deleting the same folder.
        let _ = fs::remove_dir_all(folder);
    }
    Ok(())
}

/// A port of 127.0.0.1 that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
