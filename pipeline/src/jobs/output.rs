//! Answers as lines of OpenAI's batch output and error files.
//!
//! Format: <https://platform.openai.com/docs/api-reference/batch/request-output>. A request that got an
//! HTTP-like answer, good or bad, has `response`; one that never ran has `error`.

use schemas::result::{ResultRow, Status};
use serde_json::{Value, json};

/// A line, and which of the two files it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputLine {
    /// False: the error file.
    pub is_answer: bool,
    /// The JSON object.
    pub line: Value,
}

/// The line of one row of `results`; none for a repeated delivery, whose original has one.
pub fn of_row(row: &ResultRow) -> Option<OutputLine> {
    let id = row.result_id.to_string();
    let custom_id = Some(row.custom_id.as_str());
    let message = row.error_message.as_deref().unwrap_or_default();
    let code = row.error_code.as_deref().unwrap_or_default();
    match row.status {
        Status::Duplicate => None,
        Status::Ok => {
            let body = row.response.as_deref().map(serde_json::from_str).and_then(Result::ok);
            Some(OutputLine {
                is_answer: true,
                line: answered(&id, custom_id, 200, body.unwrap_or(Value::Null)),
            })
        }
        Status::Error => Some(OutputLine {
            is_answer: false,
            line: refused(&id, custom_id, error_body(code, message, None)),
        }),
        Status::Expired => Some(OutputLine {
            is_answer: false,
            line: never_ran(&id, custom_id, "batch_expired", message),
        }),
        Status::Cancelled => Some(OutputLine {
            is_answer: false,
            line: never_ran(&id, custom_id, "batch_cancelled", message),
        }),
    }
}

/// A request with an answer of its own.
pub fn answered(id: &str, custom_id: Option<&str>, status_code: u16, body: Value) -> Value {
    json!({
        "id": id,
        "custom_id": custom_id,
        "response": { "status_code": status_code, "request_id": id, "body": body },
        "error": null,
    })
}

/// A request that was at fault; `body` is OpenAI's error body.
pub fn refused(id: &str, custom_id: Option<&str>, body: Value) -> Value {
    let status_code = match body["error"]["code"].as_str() {
        Some("model_not_found") => 404,
        _ => 400,
    };
    answered(id, custom_id, status_code, body)
}

/// OpenAI's error body.
pub fn error_body(code: &str, message: &str, param: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": param, "code": code } })
}

fn never_ran(id: &str, custom_id: Option<&str>, code: &str, message: &str) -> Value {
    json!({
        "id": id,
        "custom_id": custom_id,
        "response": null,
        "error": { "code": code, "message": message },
    })
}
