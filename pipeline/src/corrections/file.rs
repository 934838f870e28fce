//! Reads a file of corrections; everything that is wrong with it is said at once.

use std::path::Path;

use billing::correct::{Change, Correction};
use serde::Deserialize;
use uuid::Uuid;

use super::CorrectionsError;

const REASON_CHARS_MAX: usize = 200;

/// A line, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    event_id: String,
    action: String,
    input_uncached_tokens: Option<i64>,
    input_cached_tokens: Option<i64>,
    output_tokens: Option<i64>,
    number: Option<u32>,
    reason: String,
}

/// The corrections that the file asks for, in its order.
///
/// # Errors
/// When the file cannot be read, or with every line that cannot be used.
pub fn read(path: &Path) -> Result<Vec<Correction>, CorrectionsError> {
    let text = std::fs::read_to_string(path).map_err(|source| CorrectionsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut lines = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let (mut corrections, mut problems) = (Vec::new(), Vec::new());
    for (place, line) in (2..).zip(lines.deserialize::<Line>()) {
        match line.map_err(|error| error.to_string()).and_then(|line| line.checked()) {
            Ok(correction) => corrections.push(correction),
            Err(problem) => problems.push(format!("{}:{place}: {problem}", path.display())),
        }
    }
    if corrections.is_empty() && problems.is_empty() {
        problems.push(format!(
            "{}: no correction is in it; give one line for each",
            path.display()
        ));
    }
    if problems.is_empty() {
        Ok(corrections)
    } else {
        Err(CorrectionsError::File(problems))
    }
}

impl Line {
    fn checked(self) -> Result<Correction, String> {
        let event_id = self.event_id.parse::<Uuid>();
        let event_id = event_id.map_err(|_| format!("event_id {:?} is not the id of an event", self.event_id))?;
        let tokens = [self.input_uncached_tokens, self.input_cached_tokens, self.output_tokens];
        let given = tokens.iter().any(Option::is_some);
        let all = tokens.map(Option::unwrap_or_default);
        let change = match (self.action.as_str(), self.number) {
            ("reverse", None) if !given => Change::Reverse,
            ("reverse", _) => return Err("reverse takes the whole row back; leave tokens and number empty".to_owned()),
            ("replace", None) if tokens.iter().all(Option::is_some) => Change::Replace(all),
            ("replace", _) => return Err("replace needs all three token counts, and no number".to_owned()),
            ("adjust", number) if given && number != Some(0) => Change::Adjust {
                tokens: all,
                number: number.unwrap_or(1),
            },
            ("adjust", _) => return Err("adjust needs at least one token count, and a number from 1".to_owned()),
            (other, _) => return Err(format!("action must be reverse, replace or adjust, but is {other:?}")),
        };
        let chars = self.reason.chars().count();
        if !(1..=REASON_CHARS_MAX).contains(&chars) || self.reason.chars().any(char::is_control) {
            return Err(format!(
                "reason must have 1 to {REASON_CHARS_MAX} characters and no control characters"
            ));
        }
        Ok(Correction {
            event_id,
            change,
            reason: self.reason,
        })
    }
}
