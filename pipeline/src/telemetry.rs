//! Logs to standard error, and what a panic does.

use tracing_subscriber::EnvFilter;

/// What a command logs unless `--log` or `RUST_LOG` says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Someone at a terminal: what is wrong, and nothing that the command reports itself.
    Person,
    /// Whoever reads a service's log.
    Operator,
}

impl Audience {
    fn filter(self) -> &'static str {
        match self {
            // librdkafka repeats every refused connection, the kernel every table that is not there yet;
            // the command says it once.
            Audience::Person => "warn,librdkafka=off,rdkafka=off,delta_kernel=off",
            Audience::Operator => "info,librdkafka=warn,delta_kernel=off,object_store=warn",
        }
    }
}

/// Starts logging. `filter` is in `RUST_LOG`'s syntax.
///
/// # Errors
/// When the filter cannot be read; the text says which part.
pub fn start(filter: Option<&str>, audience: Audience) -> Result<(), String> {
    let from_environment = std::env::var("RUST_LOG").ok();
    let text = filter.or(from_environment.as_deref()).unwrap_or(audience.filter());
    let filter = EnvFilter::try_new(text).map_err(|error| format!("log filter {text:?}: {error}"))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    Ok(())
}

/// Makes a panic on any thread end the process with `exit_code`: a broken invariant must not leave half a
/// worker running. Where the engine catches the panic of a library, only the request is lost that caused it.
pub fn stop_on_panic(exit_code: i32) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if engine::is_guarded() {
            // The place alone: what the library says may quote a customer's text.
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(place, "a library panicked; what made it do so is refused");
            return;
        }
        report(panic);
        eprintln!("error: this is a bug in bitnet; please report it with the lines above");
        std::process::exit(exit_code);
    }));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the process that is to panic.
    const CHILD: &str = "BITNET_TEST_PANICS";

    #[test]
    fn a_panic_on_any_thread_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            stop_on_panic(70);
            let _ = std::thread::spawn(|| panic!("on purpose")).join();
            return; // with exit code 0
        }
        let test = "telemetry::tests::a_panic_on_any_thread_ends_the_process";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.code(), Some(70), "{stderr}");
        assert!(
            stderr.contains("on purpose") && stderr.contains("bug in bitnet"),
            "{stderr}"
        );
    }
}
