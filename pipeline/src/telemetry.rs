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
/// worker running.
pub fn stop_on_panic(exit_code: i32) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!("error: this is a bug in bitnet; please report it with the lines above");
        std::process::exit(exit_code);
    }));
}
