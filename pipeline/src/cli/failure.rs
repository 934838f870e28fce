//! How a command ends when it does not end well: an exit code, a chain of causes and a remedy.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

/// The documented exit codes other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A check found a break, such as a reconciliation.
    CheckFailed = 1,
    /// The command line or the settings cannot be used.
    Usage = 2,
    /// A file or its content cannot be used (`EX_DATAERR`).
    BadInput = 65,
    /// The broker or the store did not answer at the start (`EX_UNAVAILABLE`).
    Unreachable = 69,
    /// Something here is broken (`EX_SOFTWARE`).
    Internal = 70,
    /// An outage stopped the work; run again (`EX_TEMPFAIL`).
    Outage = 75,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
    /// Stopped by SIGTERM.
    Terminated = 143,
}

/// Why a command failed, for people and for scripts.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    remedy: Option<String>,
}

impl Failure {
    /// A failure without a remedy yet; `error` may be a text.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure {
            exit,
            error: error.into(),
            remedy: None,
        }
    }

    /// The same failure with what to do about it.
    #[must_use]
    pub fn help(mut self, remedy: impl Into<String>) -> Failure {
        self.remedy = Some(remedy.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// True if the reader of our output went away, as `head` does; nobody is left to tell.
    pub fn is_broken_pipe(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.error.as_ref());
        while let Some(error) = cause {
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// `error:` with the chain of causes, then `help:`.
    pub fn report(&self) -> String {
        let mut text = format!("error: {}", self.error);
        let mut said = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let message = error.to_string();
            if !said.contains(&message) {
                let _ = write!(text, ": {message}"); // writing to a String cannot fail
            }
            said = message;
            cause = error.source();
        }
        if let Some(remedy) = &self.remedy {
            let _ = write!(text, "\nhelp: {remedy}");
        }
        text
    }
}

/// Writing to standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Exit::Internal, error)
    }
}
