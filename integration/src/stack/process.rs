//! One process under `integration/stack/supervise.sh`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// Longest time from the end of standard input to the end of the process; the supervisor kills after 10 s.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How much of a log an error shows.
const LOG_LINES_SHOWN: usize = 30;

/// What a process can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks it to finish.
    Term,
    /// What Ctrl-C sends.
    Int,
    /// Ends it at once.
    Kill,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        }
    }
}

/// A running process, stopped when this value is dropped or this test process ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    supervisor: Child,
    signals: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its standard output and error in `<folder>/<name>.log`.
    pub fn start(name: &str, command: &Command, folder: &Path) -> Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut supervised = Command::new("sh");
        supervised
            .arg(super::repository().join("integration/stack/supervise.sh"))
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(folder) = command.get_current_dir() {
            supervised.current_dir(folder);
        }
        let mut supervisor = supervised.spawn().with_context(|| format!("cannot start {name}"))?;
        let signals = supervisor.stdin.take();
        Ok(Process {
            name: name.to_owned(),
            supervisor,
            signals,
            log,
        })
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let signals = self.signals.as_mut().context("already stopping")?;
        writeln!(signals, "{}", signal.name()).with_context(|| format!("{} has ended", self.name))
    }

    /// The exit status, 128 + N after signal N; none while it runs.
    pub fn exit_status(&mut self) -> Result<Option<i32>> {
        Ok(self.supervisor.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits for the exit status.
    ///
    /// # Errors
    /// If it still runs after `limit`; with the end of its log.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, limit, || self.exit_status()).with_context(|| self.log_end())
    }

    /// Waits until something listens on `port`.
    ///
    /// # Errors
    /// If the process ends first or `limit` passes; with the end of its log.
    pub(super) fn wait_for_port(&mut self, port: u16, limit: Duration) -> Result<()> {
        let what = format!("{} on port {port}", self.name);
        wait::until(&what, limit, || {
            if let Some(status) = self.exit_status()? {
                bail!("{} ended at once with status {status}", self.name);
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })
        .with_context(|| self.log_end())?;
        Ok(())
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, for error messages.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("{} ended with:\n{}", self.log.display(), shown.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signals = None;
        if let Err(error) = self.wait(STOP_MAX) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs `command` to its end and gives its standard output.
///
/// # Errors
/// If it fails; with what it wrote to standard error.
pub(super) fn output_of(command: &mut Command) -> Result<String> {
    let program = OsStr::to_string_lossy(command.get_program()).into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}; is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{program}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
