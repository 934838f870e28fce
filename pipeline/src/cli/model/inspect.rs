//! `bitnet model inspect`: what a model is, and what memory it takes.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use comfy_table::{Table as Grid, presets};
use engine::{ModelInfo, inspect};
use serde_json::json;

use crate::cli::Failure;

const EXAMPLES: &str = "Examples:
  bitnet model inspect /srv/models/bitnet-2b
  bitnet model inspect ggml-model-i2_s.gguf --json | jq .digest";

/// `bitnet model inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// A model's folder, or a GGUF file
    path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let info = inspect(&self.path)?;
        let mut out = io::stdout().lock();
        if self.json {
            let memory: Vec<_> = contexts(&info)
                .map(|tokens| json!({ "context": tokens, "bytes": memory(&info, tokens) }))
                .collect();
            let mut told = json!(info);
            told["memory"] = json!(memory);
            writeln!(out, "{told:#}")?;
        } else {
            writeln!(out, "{}", table(&info))?;
        }
        Ok(())
    }
}

/// Contexts to tell the memory of: from 1,024 on four times as many each, and the longest.
fn contexts(info: &ModelInfo) -> impl Iterator<Item = usize> {
    let longest = info.context_length;
    let shorter = std::iter::successors(Some(1024usize), |tokens| tokens.checked_mul(4));
    shorter.take_while(move |tokens| *tokens < longest).chain([longest])
}

/// Bytes of the weights, the head's copy, and one sequence's keys and values.
fn memory(info: &ModelInfo, tokens: usize) -> u64 {
    (info.weights_bytes + info.head_copy_bytes).saturating_add(info.kv_bytes_per_token.saturating_mul(tokens as u64))
}

fn table(info: &ModelInfo) -> Grid {
    let files: Vec<String> = info.files.iter().map(|path| path.display().to_string()).collect();
    let norms = if info.architecture == "BitNet" {
        "with"
    } else {
        "without"
    };
    let heads = format!(
        "{} heads of {} over {} of keys and values",
        info.heads, info.head_dim, info.kv_heads
    );
    let mut grid = Grid::new();
    grid.load_style(presets::UTF8_FULL_CONDENSED);
    grid.add_row(["format", &info.format]);
    if let Some(caution) = info.caution {
        grid.add_row(["mind", &wrapped(caution)]);
    }
    grid.add_row(["files", &files.join("\n")]);
    grid.add_row(["size", &size(info.files_bytes)]);
    grid.add_row(["digest", &info.digest]);
    grid.add_row(["tokenizer's digest", &info.tokenizer_digest]);
    grid.add_row([
        "architecture",
        &format!("{}, {norms} sub-norms, {}", info.architecture, info.activation),
    ]);
    grid.add_row([
        "layers",
        &format!(
            "{}, hidden {}, feed-forward {}",
            info.layers, info.hidden, info.feed_forward
        ),
    ]);
    grid.add_row(["attention", &heads]);
    let head = if info.tied {
        "head is the embedding"
    } else {
        "head of its own"
    };
    grid.add_row([
        "vocabulary",
        &format!("{} tokens, {head}", count(info.vocabulary as u64)),
    ]);
    grid.add_row([
        "parameters",
        &format!(
            "{} ternary, {} others",
            count(info.ternary_parameters),
            count(info.other_parameters)
        ),
    ]);
    grid.add_row(["context", &format!("{} tokens", count(info.context_length as u64))]);
    grid.add_row(["a text ends with", &format!("{:?}", info.eos)]);
    grid.add_row(["chat template", if info.chat_template { "yes" } else { "no" }]);
    grid.add_row(["memory of weights", &size(info.weights_bytes)]);
    grid.add_row(["of the head's int8 copy", &size(info.head_copy_bytes)]);
    grid.add_row(["of a token's KV", &size(info.kv_bytes_per_token)]);
    for tokens in contexts(info) {
        let label = format!("with {} tokens", count(tokens as u64));
        grid.add_row([label, size(memory(info, tokens))]);
    }
    grid
}

/// The same words in lines as long as a digest, which sets the width of the table.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 64 => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// Bytes as people read them, e.g. `1.18 GB`.
fn size(bytes: u64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let value = bytes as f64;
    match UNITS.iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", value / unit),
        None => format!("{bytes} B"),
    }
}

/// A number with commas.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (count(999), count(1000), count(2_084_044_800)),
            ("999".into(), "1,000".into(), "2,084,044,800".into())
        );
        assert_eq!(
            (size(999), size(1_180_000_000)),
            ("999 B".to_owned(), "1.18 GB".to_owned())
        );
    }
}
