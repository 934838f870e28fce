//! What arrives on our topics may be anything; decoding answers with a message or with what is wrong, and
//! where.

use schemas::decode::DecodeError;
use schemas::request::{ClaimCheck, Limits, RequestBatch};
use schemas::{job, request};
use serde_json::{Value, json};

const LIMITS: Limits = Limits {
    message_bytes_max: 1_048_588,
    requests_max: 3,
};

fn batch() -> Value {
    json!({
        "schema": "bitnet.request_batch.v1", "job_id": "job_1", "batch_seq": 0, "batch_count": 1,
        "tenant_id": "acme", "project_id": "search", "residency_zone": "eu", "model": "debian-sections",
        "endpoint": "/v1/completions", "service_tier": "batch", "submitted_at": "2026-11-24T01:00:00Z",
        "requests": [{ "custom_id": "row-1", "body": { "prompt": "a" } }],
    })
}

fn claim_check() -> Value {
    json!({
        "uri": "s3://bucket/in.parquet", "sha256": "0f".repeat(32), "row_groups": [0, 2],
        "columns": { "custom_id": "id", "text": "prompt" },
        "template": { "prompt": "{{text}}", "max_tokens": 6 },
    })
}

/// The good batch with one field changed; null takes the field away.
fn with(field: &str, value: Value) -> Vec<u8> {
    let mut batch = batch();
    batch[field] = value;
    batch.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    batch.to_string().into_bytes()
}

/// The good batch with a claim check instead of its requests, one field of it changed.
fn with_input(field: &str, value: Value) -> Vec<u8> {
    let mut batch = batch();
    batch.as_object_mut().unwrap().remove("requests");
    batch["input"] = claim_check();
    batch["input"][field] = value;
    batch.to_string().into_bytes()
}

fn decode(bytes: &[u8]) -> Result<RequestBatch, DecodeError> {
    request::decode(bytes, &LIMITS)
}

fn check(bytes: &[u8], expected: &str) {
    assert_eq!(decode(bytes).unwrap_err().to_string(), expected);
}

#[test]
fn a_good_batch_survives_the_way_out_and_back() {
    for bytes in [
        with("metadata", json!({ "cost_center": "42" })),
        with_input("row_groups", json!([7])),
    ] {
        let batch = decode(&bytes).unwrap();
        assert_eq!(decode(&serde_json::to_vec(&batch).unwrap()).unwrap(), batch);
    }
}

#[test]
fn what_is_no_json_text_is_refused_with_its_place() {
    check(
        b"",
        "line 1, column 0: not JSON: EOF while parsing a value; send one JSON object",
    );
    check(b"{\"schema\": \xff}", "byte 11: not UTF-8; send JSON in UTF-8");
    check(
        b"{\n  \"schema\" 1}",
        "line 2, column 12: not JSON: expected `:`; send one JSON object",
    );
    let twice = [batch().to_string(), batch().to_string()].concat();
    let error = decode(twice.as_bytes()).unwrap_err();
    assert!(
        matches!(&error, DecodeError::Json { problem, .. } if problem == "trailing characters"),
        "{error}"
    );
}

#[test]
fn ten_megabytes_are_refused_before_they_are_read() {
    let bytes = vec![0xff; 10_000_000];
    check(
        &bytes,
        "message has 10000000 bytes, at most 1048588; split it, or raise the limit",
    );
    // The same length, allowed and well formed, is read.
    let long = with(
        "requests",
        json!([{ "custom_id": "row-1", "body": { "prompt": "a".repeat(10_000_000) } }]),
    );
    let limits = Limits {
        message_bytes_max: 11_000_000,
        ..LIMITS
    };
    assert!(request::decode(&long, &limits).is_ok());
}

#[test]
fn deep_nesting_is_refused_and_no_stack_overflows() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(100_000);
        let text = batch().to_string().replace(r#"{"prompt":"a"}"#, &deep);
        let error = decode(text.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, DecodeError::Json { problem, .. } if problem.contains("recursion")),
            "{error}"
        );
    }
}

#[test]
fn a_key_given_twice_is_refused_in_the_message_and_the_last_counts_in_a_body() {
    let twice = batch()
        .to_string()
        .replace(r#""batch_seq":0"#, r#""batch_seq":0,"batch_seq":0"#);
    let error = decode(twice.as_bytes()).unwrap_err();
    assert!(
        matches!(&error, DecodeError::Field { problem, .. } if problem == "duplicate field `batch_seq`"),
        "{error}"
    );
    let twice = batch()
        .to_string()
        .replace(r#"{"prompt":"a"}"#, r#"{"prompt":"a","prompt":"b"}"#);
    assert_eq!(
        decode(twice.as_bytes()).unwrap().requests.unwrap()[0].body,
        json!({ "prompt": "b" })
    );
}

#[test]
fn a_field_at_fault_is_named() {
    let starts = |bytes: &[u8], expected: &str| {
        let error = decode(bytes).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.ends_with("; see schemas/contracts"),
            "{error}"
        );
    };
    starts(
        &with("max_tokens", json!(1)),
        "unknown field `max_tokens`, expected one of `schema`",
    );
    starts(&with("tenant_id", Value::Null), "missing field `tenant_id`");
    starts(
        &with("tenant_id", json!("")),
        "tenant_id must have 1 to 64 characters and no control characters",
    );
    starts(
        &with("batch_seq", json!("0")),
        "invalid type: string \"0\", expected u32",
    );
    starts(
        &with("batch_seq", json!(-1)),
        "invalid value: integer `-1`, expected u32",
    );
    starts(
        &with("service_tier", json!("bulk")),
        "unknown variant `bulk`, expected one of `interactive`",
    );
    starts(&with("submitted_at", json!("yesterday")), "expected 0-9 but got y");
    starts(&with("requests", json!([{ "custom_id": "a" }])), "missing field `body`");
    starts(
        &with("requests", json!([{ "custom_id": "a\n", "body": {} }])),
        "custom_id must have",
    );
    starts(b"[]", "invalid length 0, expected struct RequestBatch");
}

#[test]
fn a_value_at_fault_is_named() {
    check(
        &with("schema", json!("bitnet.request_batch.v2")),
        r#"schema must be "bitnet.request_batch.v1", but is "bitnet.request_batch.v2"; send that version"#,
    );
    check(
        &with("batch_seq", json!(1)),
        "batch_seq is 1 and batch_count is 1; number the batches from 0 to batch_count - 1",
    );
    check(
        &with("model", json!("a\u{1f}b")),
        r#"model must have 1 to 255 characters and no control characters, but is "a\u{1f}b""#,
    );
    assert!(matches!(
        decode(&with("model", json!("é".repeat(256)))),
        Err(DecodeError::Name { .. })
    ));
    assert!(decode(&with("model", json!("é".repeat(255)))).is_ok());
    check(
        &with("residency_zone", json!("")),
        r#"residency_zone must have 1 to 255 characters and no control characters, but is """#,
    );
}

#[test]
fn requests_come_in_the_message_or_in_a_file() {
    check(
        &with("requests", Value::Null),
        "the message has neither of requests and input; send exactly one of them",
    );
    check(
        &with("input", claim_check()),
        "the message has both of requests and input; send exactly one of them",
    );
    check(
        &with("requests", json!([])),
        "requests is empty; send at least one request",
    );
    let many = |count: usize| {
        with(
            "requests",
            json!(vec![json!({ "custom_id": "a", "body": null }); count]),
        )
    };
    assert!(decode(&many(3)).is_ok());
    check(&many(4), "requests has 4 entries, at most 3; split the batch");
}

#[test]
fn a_body_of_any_kind_is_left_to_admission() {
    for body in [
        json!(null),
        json!(1),
        json!("text"),
        json!([]),
        json!({ "nonsense": true }),
    ] {
        let batch = decode(&with("requests", json!([{ "custom_id": "a", "body": body }]))).unwrap();
        assert_eq!(batch.requests.unwrap()[0].body, body);
    }
}

#[test]
fn a_claim_check_at_fault_is_named() {
    check(
        &with_input("uri", json!("http://a/b")),
        r#"input.uri must begin with s3:// or file:///, but is "http://a/b""#,
    );
    check(
        &with_input("sha256", json!("0F")),
        r#"input.sha256 must be 64 digits of 0-9 and a-f, but is "0F""#,
    );
    for row_groups in [json!([]), json!([1, 1])] {
        check(
            &with_input("row_groups", row_groups),
            "input.row_groups must name at least one row group, and none twice",
        );
    }
    check(
        &with_input("template", json!("{{text}}")),
        "input.template must be an object, the request body of the endpoint",
    );
    for (template, found) in [
        (json!({ "prompt": "{text}" }), 0),
        (json!({ "prompt": "{{text}}".repeat(17) }), 17),
    ] {
        check(
            &with_input("template", template),
            &format!("input.template must name {{{{text}}}} in its strings 1 to 16 times, but does {found} times"),
        );
    }
}

#[test]
fn a_template_takes_the_text_in_every_string_and_only_there() {
    let mut input: ClaimCheck = serde_json::from_value(claim_check()).unwrap();
    input.template = json!({
        "messages": [{ "role": "user", "content": "<{{text}}|{{text}}>" }],
        "{{text}}": ["{{text}}", 1, null, true, "{{ text }}"],
    });
    assert_eq!(
        input.body("a\"{{text}}"),
        json!({
            "messages": [{ "role": "user", "content": "<a\"{{text}}|a\"{{text}}>" }],
            "{{text}}": ["a\"{{text}}", 1, null, true, "{{ text }}"],
        })
    );
}

#[test]
fn job_records_are_checked_alike() {
    let job = json!({
        "schema": "bitnet.job.v1", "job_id": "job_1", "tenant_id": "acme", "project_id": "search",
        "residency_zone": "eu", "model": "m", "endpoint": "/v1/score", "service_tier": "standard",
        "desired": "cancel", "requests_total": 3, "batch_count": 1, "submitted_at": "2026-11-24T01:00:00Z",
    });
    let decoded = job::decode(job.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&decoded).unwrap(), job);
    let error = job::decode(b"").unwrap_err();
    assert!(matches!(error, DecodeError::Json { line: 1, .. }), "{error}");
    assert!(matches!(
        job::decode(&[b' '; 70_000]),
        Err(DecodeError::TooLarge {
            found: 70_000,
            max: 65_536
        })
    ));
    let other = job.to_string().replace("bitnet.job.v1", "bitnet.job.v0");
    assert!(matches!(job::decode(other.as_bytes()), Err(DecodeError::Schema { .. })));
    let unknown = job.to_string().replace("\"desired\"", "\"wanted\"");
    assert!(matches!(
        job::decode(unknown.as_bytes()),
        Err(DecodeError::Field { .. })
    ));
}
