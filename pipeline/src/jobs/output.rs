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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use schemas::ids::Position;
    use schemas::request::{Endpoint, ServiceTier};
    use uuid::Uuid;

    use super::*;

    fn row(status: Status) -> ResultRow {
        ResultRow {
            job_id: "j".parse().unwrap(),
            batch_seq: 0,
            custom_id: "row-1".parse().unwrap(),
            result_id: Uuid::from_u128(7),
            tenant_id: "t".parse().unwrap(),
            project_id: "p".parse().unwrap(),
            residency_zone: "eu".into(),
            region: "eu".into(),
            model_id: "m".into(),
            model_digest: None,
            tokenizer_digest: None,
            endpoint: Endpoint::Completions,
            service_tier: ServiceTier::Batch,
            status,
            error_code: Some("model_not_found".into()),
            error_message: Some("there is no model".into()),
            finish_reason: None,
            output_text: None,
            response: Some(r#"{"object":"text_completion"}"#.into()),
            embedding: None,
            scores: None,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            submitted_at: Timestamp::UNIX_EPOCH,
            admitted_at: None,
            first_token_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            worker_id: "w".into(),
            position: Position {
                topic: "t".into(),
                epoch: 1,
                partition: 0,
                offset: 0,
            },
            batch_index: 0,
        }
    }

    #[test]
    fn an_answer_is_a_response_and_no_error() {
        let OutputLine { is_answer, line } = of_row(&row(Status::Ok)).unwrap();
        assert!(is_answer);
        assert_eq!(
            (&line["custom_id"], &line["response"]["status_code"]),
            (&json!("row-1"), &json!(200))
        );
        assert_eq!(line["response"]["body"], json!({ "object": "text_completion" }));
        assert_eq!(
            (&line["error"], &line["id"]),
            (&Value::Null, &line["response"]["request_id"])
        );
    }

    #[test]
    fn a_request_at_fault_keeps_its_error_body() {
        let OutputLine { is_answer, line } = of_row(&row(Status::Error)).unwrap();
        assert!(!is_answer);
        assert_eq!(line["response"]["status_code"], 404);
        assert_eq!(line["response"]["body"]["error"]["message"], "there is no model");
    }

    #[test]
    fn what_never_ran_has_no_response() {
        for (status, code) in [
            (Status::Expired, "batch_expired"),
            (Status::Cancelled, "batch_cancelled"),
        ] {
            let OutputLine { is_answer, line } = of_row(&row(status)).unwrap();
            assert!(!is_answer);
            assert_eq!(
                (&line["response"], &line["error"]["code"]),
                (&Value::Null, &json!(code))
            );
        }
    }

    #[test]
    fn a_repeated_delivery_has_no_line() {
        assert_eq!(of_row(&row(Status::Duplicate)), None);
    }
}
