//! `bitnet model verify`: does a model compute the logits that a reference computed?

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use engine::{LoadOptions, Model};
use serde::Deserialize;

use crate::cli::{Exit, Failure};

/// Largest difference by default, relative to the largest logit of a row.
const TOLERANCE: f32 = 1e-3;

const EXAMPLES: &str = "Example:
  bitnet model verify /srv/models/bitnet-2b --golden golden.json
The file holds rows of tokens with the logits behind the last of them, as integration/reference/golden.py writes it.";

/// `bitnet model verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// A model's folder, or a GGUF file
    path: PathBuf,
    /// The logits of a reference
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// Largest difference allowed, relative to the largest logit of a row
    #[arg(long, value_name = "X", default_value_t = TOLERANCE)]
    tolerance: f32,
}

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Row>,
}

/// The logits behind the last of `tokens`.
#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    argmax: usize,
    /// Magnitude of the largest logit.
    largest: f32,
    /// Which logits are given; all of them if none are named.
    ids: Option<Vec<usize>>,
    logits: Vec<f32>,
}

impl Verify {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let golden = read(&self.golden)?;
        let model = Model::load(&self.path, &LoadOptions::default())?;
        let mut out = io::stdout().lock();
        let mut wrong = 0;
        for (number, row) in golden.rows.iter().enumerate() {
            let place = format!("row {number} of {}", self.golden.display());
            let (off, argmax) = compare(&model, row).map_err(|message| bad_input(format!("{place}: {message}")))?;
            let agrees = off <= self.tolerance && argmax == row.argmax;
            wrong += usize::from(!agrees);
            writeln!(
                out,
                "{} {:4} tokens: off by {off:.1e} of the largest logit, token {argmax} where {} is expected",
                if agrees { "ok   " } else { "WRONG" },
                row.tokens.len(),
                row.argmax
            )?;
        }
        if wrong > 0 {
            let message = format!(
                "{wrong} of {} rows differ from {}",
                golden.rows.len(),
                self.golden.display()
            );
            return Err(Failure::new(Exit::CheckFailed, message).help("was the golden file made from this model?"));
        }
        writeln!(
            out,
            "all {} rows agree within {:.0e}",
            golden.rows.len(),
            self.tolerance
        )?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Golden, Failure> {
    let failed = |error: &dyn std::fmt::Display| bad_input(format!("cannot read {}: {error}", path.display()));
    let text = std::fs::read(path).map_err(|error| failed(&error))?;
    let golden: Golden = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    if golden.rows.is_empty() {
        return Err(bad_input(format!("{} has no rows", path.display())));
    }
    Ok(golden)
}

/// The largest difference, relative to the largest logit, and the token with the largest logit.
fn compare(model: &Model, row: &Row) -> Result<(f32, usize), String> {
    let vocabulary = model.vocabulary();
    let logits = model.logits(&row.tokens).map_err(|error| error.to_string())?;
    let found = &logits[logits.len() - vocabulary..];
    let ids = row.ids.clone().unwrap_or_else(|| (0..vocabulary).collect());
    if ids.len() != row.logits.len() || ids.iter().any(|id| *id >= vocabulary) {
        return Err(format!("{} logits for a vocabulary of {vocabulary}", row.logits.len()));
    }
    let off = ids
        .iter()
        .zip(&row.logits)
        .map(|(id, expected)| (found[*id] - expected).abs());
    // A NaN is further off than anything.
    let worst = off.fold(
        0.0,
        |worst: f32, off| if off.is_nan() { f32::INFINITY } else { worst.max(off) },
    );
    let argmax = (0..vocabulary)
        .max_by(|&a, &b| found[a].total_cmp(&found[b]))
        .unwrap_or(0);
    Ok((worst / row.largest, argmax))
}

fn bad_input(message: String) -> Failure {
    Failure::new(Exit::BadInput, message).help("the file must be what integration/reference/golden.py writes")
}
