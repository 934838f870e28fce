//! Runs the built binary with nothing of this process's environment that could change its settings.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run said.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Run {
        let Output { status, stdout, stderr } = command.output().expect("the binary runs");
        Run {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// The exit code is `code`, and standard error says all of `parts`.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{:?} does not mention {part:?}",
                self.stderr
            );
        }
        assert!(self.stderr.contains("help: "), "{:?} offers no remedy", self.stderr);
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) -> &str {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        &self.stdout
    }
}

pub(crate) fn bitnet(args: &[&str], environment: &[(&str, &str)]) -> Run {
    Run::of(&mut command(args, environment))
}

pub(crate) fn command(args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    for (name, _) in std::env::vars_os() {
        let ours = ["BITNET", "AWS_", "RUST_LOG"];
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.args(args).envs(environment.iter().copied());
    command
}

pub(crate) fn demo(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(relative)
}

/// The held-out records of the demo: prompt and what the model must answer.
pub(crate) fn documents(count: usize) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(demo("documents/documents.jsonl")).unwrap();
    let field = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
    text.lines()
        .take(count)
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (field(&line, "id"), field(&line, "prompt"), field(&line, "expected")))
        .collect()
}

/// A line of OpenAI's Batch API.
pub(crate) fn line(custom_id: &str, url: &str, body: serde_json::Value) -> String {
    serde_json::json!({ "custom_id": custom_id, "method": "POST", "url": url, "body": body }).to_string()
}
