//! From the bytes of a message to a typed message, or to what is wrong with it.

use serde::de::DeserializeOwned;

/// Longest `model` or `residency_zone`, in characters.
pub const NAME_CHARS_MAX: usize = 255;

/// Why a message cannot be used. Each is final: the same bytes fail the same way for ever, so they belong
/// on the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the limit; nothing of it was read.
    #[error("message has {found} bytes, at most {max}; split it, or raise the limit")]
    TooLarge {
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Not UTF-8.
    #[error("byte {offset}: not UTF-8; send JSON in UTF-8")]
    Utf8 {
        /// Offset of the first byte that is not.
        offset: usize,
    },
    /// Not JSON at all.
    #[error("line {line}, column {column}: not JSON: {problem}; send one JSON object")]
    Json {
        /// From 1.
        line: usize,
        /// From 1; 0 is before the first character.
        column: usize,
        /// What the reader met.
        problem: String,
    },
    /// JSON, but not a message of ours: an unknown, missing or repeated field, or a value of a wrong kind.
    #[error("line {line}, column {column}: {problem}; see schemas/contracts")]
    Field {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Which field, and what is wrong.
        problem: String,
    },
    /// Another kind or version of message.
    #[error("schema must be {expected:?}, but is {found:?}; send that version")]
    Schema {
        /// The field's value, cut to 64 characters.
        found: String,
        /// What this reader takes.
        expected: &'static str,
    },
    /// A name is empty, too long or has control characters.
    #[error("{field} must have 1 to {max} characters and no control characters, but is {found:?}")]
    Name {
        /// Which field.
        field: &'static str,
        /// Its value, cut to the limit.
        found: String,
        /// Most characters.
        max: usize,
    },
    /// The batch's number is not below the number of batches.
    #[error("batch_seq is {seq} and batch_count is {count}; number the batches from 0 to batch_count - 1")]
    BatchSeq {
        /// `batch_seq`.
        seq: u32,
        /// `batch_count`.
        count: u32,
    },
    /// Requests in the message and in a file, or in none of them.
    #[error("the message has {found} of requests and input; send exactly one of them")]
    OneOf {
        /// `both` or `neither`.
        found: &'static str,
    },
    /// An empty list of requests.
    #[error("requests is empty; send at least one request")]
    NoRequests,
    /// More requests than the limit.
    #[error("requests has {found} entries, at most {max}; split the batch")]
    TooMany {
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// The claim check itself is wrong.
    #[error("input.{field} {problem}")]
    Input {
        /// Which field of `input`.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// Reads one JSON value of at most `bytes_max` bytes, nested at most 128 deep.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge {
            found: bytes.len(),
            max: bytes_max,
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::Utf8 {
        offset: error.valid_up_to(),
    })?;
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let problem = without_place(&error);
        if error.is_data() {
            DecodeError::Field { line, column, problem }
        } else {
            DecodeError::Json { line, column, problem }
        }
    })
}

/// The error's text without the line and column that serde_json puts behind it, cut to 512 characters
/// because it may quote the message.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).chars().take(512).collect()
}

pub(crate) fn schema(found: &str, expected: &'static str) -> Result<(), DecodeError> {
    if found == expected {
        return Ok(());
    }
    Err(DecodeError::Schema {
        found: found.chars().take(64).collect(),
        expected,
    })
}

pub(crate) fn name(field: &'static str, value: &str, max: usize) -> Result<(), DecodeError> {
    if (1..=max).contains(&value.chars().count()) && !value.chars().any(char::is_control) {
        return Ok(());
    }
    Err(DecodeError::Name {
        field,
        found: value.chars().take(max).collect(),
        max,
    })
}
