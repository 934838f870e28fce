//! JSONL in OpenAI's Batch form, one bounded line at a time.
//!
//! A bad line is returned as such and reading goes on behind it, because `run-batch` answers it with an
//! error object while `submit` stops there. No line is held in memory beyond the limit.

use std::io::{self, BufRead, Read};

use schemas::ids::CustomId;
use schemas::request::Endpoint;
use serde::Deserialize;
use serde_json::Value;

/// One request of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The submitter's name of it.
    pub custom_id: CustomId,
    /// From the line's `url`.
    pub endpoint: Endpoint,
    /// The OpenAI request body, an object.
    pub body: Value,
}

/// What is wrong with a line, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct LineError {
    /// OpenAI's code, e.g. `invalid_json_line`.
    pub code: &'static str,
    /// Value and remedy.
    pub problem: String,
    /// The line's `custom_id`, if that much could be read.
    pub custom_id: Option<String>,
}

impl LineError {
    fn new(code: &'static str, problem: impl Into<String>) -> LineError {
        LineError {
            code,
            problem: problem.into(),
            custom_id: None,
        }
    }
}

/// A line of the file, from 1, and the request in it.
pub type Line = (u64, Result<Entry, LineError>);

/// Reads a file line by line; blank lines are skipped.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    line: u64,
    buffer: Vec<u8>,
    bytes_max: usize,
    bytes_read: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `bytes_max` bytes each.
    pub fn new(source: R, bytes_max: usize) -> Lines<R> {
        Lines {
            source,
            line: 0,
            buffer: Vec::new(),
            bytes_max,
            bytes_read: 0,
        }
    }

    /// Bytes of the file read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line that is not blank; none at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            self.buffer.clear();
            let limit = self.bytes_max as u64 + 2; // a line end may stand behind the last byte allowed
            let read = self.source.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.bytes_read += read as u64;
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            let mut found = trimmed(&self.buffer).len() as u64;
            if !self.buffer.ends_with(b"\n") {
                let skipped = skip_line(&mut self.source)?;
                self.bytes_read += skipped;
                found += skipped;
            }
            if found > self.bytes_max as u64 {
                return Ok(Some((self.line, Err(too_long(found, self.bytes_max)))));
            }
            if !trimmed(&self.buffer).is_empty() {
                return Ok(Some((self.line, parse(trimmed(&self.buffer)))));
            }
        }
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.trim_ascii_end()
}

/// Reads up to the end of the line without keeping it; gives its length.
fn skip_line(source: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let available = match source.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = available.iter().position(|&byte| byte == b'\n');
        let used = end.unwrap_or(available.len());
        let finished = end.is_some() || available.is_empty();
        skipped += used as u64;
        source.consume(used + usize::from(end.is_some()));
        if finished {
            return Ok(skipped);
        }
    }
}

fn too_long(found: u64, max: usize) -> LineError {
    let problem = format!(
        "the line has {found} bytes, at most {max} fit into a message; shorten it, or raise limits.message_bytes_max \
         together with the broker's message.max.bytes"
    );
    LineError::new("line_too_long", problem)
}

/// A line as OpenAI documents it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    custom_id: CustomId,
    method: String,
    url: String,
    body: Value,
}

fn parse(line: &[u8]) -> Result<Entry, LineError> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let column = error.valid_up_to() + 1;
        LineError::new(
            "invalid_encoding",
            format!("byte {column} is not UTF-8; write the file in UTF-8"),
        )
    })?;
    read(text).map_err(|error| LineError {
        custom_id: custom_id_in(text),
        ..error
    })
}

fn read(text: &str) -> Result<Entry, LineError> {
    let form = r#"write {"custom_id": …, "method": "POST", "url": …, "body": {…}}"#;
    let written: Written = serde_json::from_str(text).map_err(|error| {
        let place = format!(" at line {} column {}", error.line(), error.column());
        let said = error.to_string();
        let said = said.strip_suffix(&place).unwrap_or(&said);
        LineError::new(
            "invalid_json_line",
            format!("column {}: {said}; {form}", error.column()),
        )
    })?;
    if written.method != "POST" {
        let problem = format!("method is {:?}; write \"POST\"", written.method);
        return Err(LineError::new("invalid_method", problem));
    }
    let endpoint = Endpoint::ALL
        .into_iter()
        .find(|endpoint| endpoint.path() == written.url);
    let endpoint = endpoint.ok_or_else(|| {
        let known = Endpoint::ALL.map(Endpoint::path).join(", ");
        LineError::new("invalid_url", format!("url is {:?}; write one of {known}", written.url))
    })?;
    if !written.body.is_object() {
        return Err(LineError::new(
            "invalid_body",
            "body is not an object; write the request's JSON object",
        ));
    }
    Ok(Entry {
        custom_id: written.custom_id,
        endpoint,
        body: written.body,
    })
}

/// So that an answer can name the request even if the rest of the line is wrong.
fn custom_id_in(text: &str) -> Option<String> {
    let line: Value = serde_json::from_str(text).ok()?;
    line.get("custom_id")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}"#;

    fn read_all(file: &[u8], bytes_max: usize) -> Vec<Line> {
        let mut lines = Lines::new(file, bytes_max);
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    /// The second of three lines is bad: it is refused with all of `expected`, the others are read.
    fn refused(line: &[u8], code: &str, expected: &[&str]) {
        let file = [GOOD.as_bytes(), b"\n", line, b"\n", GOOD.as_bytes()].concat();
        let lines = read_all(&file, 200);
        assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(lines[0].1.is_ok() && lines[2].1.is_ok());
        let error = lines[1].1.as_ref().unwrap_err();
        assert_eq!(error.code, code, "{error}");
        for part in expected {
            assert!(error.problem.contains(part), "{error} does not mention {part:?}");
        }
    }

    #[test]
    fn lines_of_every_ending_are_read() {
        let file = format!("\u{feff}{GOOD}\r\n\n   \n{GOOD}");
        let lines = read_all(file.as_bytes(), 200);
        assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 4]);
        for (_, line) in lines {
            let entry = line.unwrap();
            assert_eq!((entry.custom_id.as_str(), entry.endpoint), ("a", Endpoint::Completions));
        }
    }

    #[test]
    fn bad_lines_say_what_is_wrong_and_leave_the_others() {
        refused(b"{\"custom_id\": ", "invalid_json_line", &["column", "custom_id"]);
        refused(b"[]", "invalid_json_line", &["column"]);
        refused(b"\xff\xfe", "invalid_encoding", &["byte 1", "UTF-8"]);
        refused(
            &[b'x'; 5000],
            "line_too_long",
            &["5000 bytes", "at most 200", "limits.message_bytes_max"],
        );
        refused(
            &GOOD.replace("POST", "GET").into_bytes(),
            "invalid_method",
            &["GET", "POST"],
        );
        refused(
            &GOOD.replace("/v1/completions", "/v2").into_bytes(),
            "invalid_url",
            &["/v2", "/v1/embeddings"],
        );
        refused(
            &GOOD.replace("{\"prompt\": \"x\"}", "3").into_bytes(),
            "invalid_body",
            &["not an object"],
        );
        refused(
            &GOOD.replace("\"method\"", "\"verb\"").into_bytes(),
            "invalid_json_line",
            &["unknown field `verb`"],
        );
        refused(
            &GOOD.replace("\"a\"", "\"\"").into_bytes(),
            "invalid_json_line",
            &["custom_id", "1 to 64"],
        );
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_more_does_not() {
        let with_end = format!("{GOOD}\r\n{GOOD}\n");
        assert!(
            read_all(with_end.as_bytes(), GOOD.len())
                .iter()
                .all(|(_, line)| line.is_ok())
        );
        let lines = read_all(with_end.as_bytes(), GOOD.len() - 1);
        assert_eq!(lines.len(), 2);
        assert!(
            lines
                .iter()
                .all(|(_, line)| line.as_ref().unwrap_err().code == "line_too_long")
        );
    }

    #[test]
    fn custom_id_of_a_bad_line_is_kept() {
        let line = GOOD.replace("POST", "GET");
        let lines = read_all(line.as_bytes(), 200);
        assert_eq!(lines[0].1.as_ref().unwrap_err().custom_id.as_deref(), Some("a"));
    }
}
