//! Rows that fill every column, with and without each optional value.
//!
//! The checked-in files of version 1 hold exactly these rows, so they are never changed; a new column of a
//! table gets rows of its own.

use schemas::billing::{BillingRow, EventKind, SCHEMA_VERSION, event_id};
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

fn position() -> Position {
    Position {
        topic: "bitnet.requests.eu-1.bulk".into(),
        epoch: 2,
        partition: 3,
        offset: 4_000_000_000,
    }
}

/// One row with every optional value, one with none.
pub(crate) fn result_rows() -> Vec<ResultRow> {
    let full = ResultRow {
        job_id: "job_01JDABCDEF".parse().unwrap(),
        batch_seq: 17,
        custom_id: "zeile-1 äöü 漢字".parse().unwrap(),
        result_id: result_id(&position(), 0),
        tenant_id: "acme".parse().unwrap(),
        project_id: "search".parse().unwrap(),
        residency_zone: "eu".into(),
        region: "eu-1".into(),
        model_id: "debian-sections".into(),
        model_digest: Some("ab".repeat(32)),
        tokenizer_digest: Some("cd".repeat(32)),
        endpoint: Endpoint::Score,
        service_tier: ServiceTier::Batch,
        status: Status::Ok,
        error_code: Some("none".into()),
        error_message: Some("none".into()),
        finish_reason: Some("stop".into()),
        output_text: Some("libs\n\0\"".into()),
        response: Some("{\"id\":1}".into()),
        embedding: Some(vec![0.25, -1.5, f32::MIN_POSITIVE]),
        scores: Some(vec![-0.125, f64::MIN]),
        input_tokens: 61,
        cached_tokens: 16,
        output_tokens: 3,
        submitted_at: "2026-11-24T01:00:00Z".parse().unwrap(),
        admitted_at: Some("2026-11-24T01:00:01.000001Z".parse().unwrap()),
        first_token_at: Some("2026-11-24T01:00:02.5Z".parse().unwrap()),
        finished_at: "2026-11-24T01:00:03.123456Z".parse().unwrap(),
        worker_id: "worker-0".into(),
        position: position(),
        batch_index: 0,
    };
    let bare = ResultRow {
        custom_id: "row-2".parse().unwrap(),
        result_id: result_id(&position(), 1),
        endpoint: Endpoint::ChatCompletions,
        service_tier: ServiceTier::Interactive,
        status: Status::Expired,
        model_digest: None,
        tokenizer_digest: None,
        error_code: None,
        error_message: None,
        finish_reason: None,
        output_text: None,
        response: None,
        embedding: None,
        scores: Some(Vec::new()),
        input_tokens: i64::MAX,
        cached_tokens: 0,
        output_tokens: 0,
        admitted_at: None,
        first_token_at: None,
        batch_index: 1,
        ..full.clone()
    };
    vec![full, bare]
}

/// One row with every optional value, one with none.
pub(crate) fn billing_rows() -> Vec<BillingRow> {
    let result = result_rows().remove(0);
    let kind = EventKind::Reversal;
    let full = BillingRow {
        event_id: event_id(&result.tenant_id, &result.job_id, &result.custom_id, kind, 1),
        payload_hash: "ef".repeat(32),
        schema_version: SCHEMA_VERSION,
        event_kind: kind,
        tenant_id: result.tenant_id,
        project_id: result.project_id,
        api_key_ref: Some("key-7".into()),
        job_id: result.job_id,
        custom_id: result.custom_id,
        result_id: result.result_id,
        event_time: result.finished_at,
        ingested_at: "2026-11-24T01:00:04.000004Z".parse().unwrap(),
        usage_period: "2026-11".into(),
        region: result.region,
        residency_zone: result.residency_zone,
        model_id: result.model_id,
        model_digest: result.model_digest,
        service_tier: result.service_tier,
        input_uncached_tokens: -45,
        input_cached_tokens: -16,
        output_tokens: -3,
        requests: -1,
        outcome: Status::Ok,
        billable: true,
        nonbillable_reason: Some("none".into()),
        price_book_id: "public".into(),
        price_version: "2026-10-01.1".into(),
        contract_version: Some("2026-10-01.1".into()),
        pricing_currency: "EUR".into(),
        billing_currency: "EUR".into(),
        corrects_event_id: Some(event_id(
            &"a".parse().unwrap(),
            &"b".parse().unwrap(),
            &"c".parse().unwrap(),
            kind,
            0,
        )),
        correction_seq: 1,
        correction_reason: Some("double submission".into()),
        position: result.position,
        batch_index: 0,
    };
    let bare = BillingRow {
        event_kind: EventKind::Usage,
        api_key_ref: None,
        model_digest: None,
        billable: false,
        nonbillable_reason: None,
        contract_version: None,
        corrects_event_id: None,
        correction_seq: 0,
        correction_reason: None,
        batch_index: 1,
        ..full.clone()
    };
    vec![full, bare]
}
