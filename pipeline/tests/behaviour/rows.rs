//! Rows whose content follows from where their message stood.

use jiff::Timestamp;
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use schemas::billing::{BillingRow, EventKind, event_id};
use schemas::ids::{CustomId, DedupKey, JobId, Position, TenantId, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

/// The zone of every test.
pub const ZONE: &str = "eu";
/// Rows that each message of a test has.
pub const ROWS_PER_OFFSET: u32 = 2;

/// Partition `number` of the tests' topic.
pub fn partition(number: i32) -> PartitionId {
    PartitionId {
        topic: "bitnet.requests.eu-1.bulk".to_owned(),
        epoch: 1,
        partition: number,
    }
}

/// The chunk `[from, to)`: two rows per offset, spread over two days and two months.
pub fn chunk(partition: &PartitionId, from: i64, to: i64) -> Chunk {
    let rows = (from..to).flat_map(|offset| (0..ROWS_PER_OFFSET).map(move |index| (offset, index)));
    Chunk {
        partition: partition.clone(),
        from,
        to,
        outcomes: rows.map(|(offset, index)| outcome(partition, offset, index)).collect(),
        dedup_keys: (from..to)
            .map(|offset| (dedup_key(partition, offset), offset))
            .collect(),
        dead_letters: Vec::new(),
    }
}

/// A chunk in which every message was a dead letter.
pub fn chunk_of_dead_letters(partition: &PartitionId, from: i64, to: i64) -> Chunk {
    Chunk {
        partition: partition.clone(),
        from,
        to,
        outcomes: vec![],
        dedup_keys: vec![],
        dead_letters: (from..to).collect(),
    }
}

/// The key of the request batch at `offset`.
pub fn dedup_key(partition: &PartitionId, offset: i64) -> DedupKey {
    DedupKey::of(&tenant(), &job(partition), u32::try_from(offset).unwrap())
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

/// The job of all rows of a partition.
pub fn job(partition: &PartitionId) -> JobId {
    format!("job-{}-{}", partition.epoch, partition.partition)
        .parse()
        .unwrap()
}

fn outcome(partition: &PartitionId, offset: i64, index: u32) -> Outcome {
    let result = result_row(partition, offset, index);
    Outcome {
        billing: billing_row(&result),
        result,
    }
}

fn result_row(partition: &PartitionId, offset: i64, index: u32) -> ResultRow {
    let PartitionId {
        topic,
        epoch,
        partition: number,
    } = partition.clone();
    let position = Position {
        topic,
        epoch,
        partition: number,
        offset,
    };
    let custom_id: CustomId = format!("row-{offset}-{index}").parse().unwrap();
    // Offsets alternate between the last hour of a month and the first of the next.
    let finished_at: Timestamp = if offset % 2 == 0 {
        "2026-11-30T23:59:59.999999Z"
    } else {
        "2026-12-01T00:00:00Z"
    }
    .parse()
    .unwrap();
    ResultRow {
        job_id: job(partition),
        batch_seq: u32::try_from(offset).unwrap(),
        custom_id,
        result_id: result_id(&position, index),
        tenant_id: tenant(),
        project_id: "search".parse().unwrap(),
        residency_zone: ZONE.to_owned(),
        region: "eu-1".to_owned(),
        model_id: "debian-sections".to_owned(),
        model_digest: Some("ab".repeat(32)),
        tokenizer_digest: None,
        endpoint: Endpoint::ChatCompletions,
        service_tier: ServiceTier::Batch,
        status: Status::Ok,
        error_code: None,
        error_message: None,
        finish_reason: Some("stop".to_owned()),
        output_text: Some(format!("answer to {offset}/{index}: žluťoučký")),
        response: None,
        embedding: (index == 1).then(|| vec![0.5, -0.25]),
        scores: None,
        input_tokens: 10 + offset,
        cached_tokens: 4,
        output_tokens: 3,
        submitted_at: "2026-11-24T01:00:00Z".parse().unwrap(),
        admitted_at: None,
        first_token_at: None,
        finished_at,
        worker_id: "any".to_owned(),
        position,
        batch_index: index,
    }
}

fn billing_row(result: &ResultRow) -> BillingRow {
    BillingRow {
        event_id: event_id(&tenant(), &result.job_id, &result.custom_id, EventKind::Usage, 0),
        payload_hash: "00".repeat(32),
        schema_version: 1,
        event_kind: EventKind::Usage,
        tenant_id: tenant(),
        project_id: result.project_id.clone(),
        api_key_ref: None,
        job_id: result.job_id.clone(),
        custom_id: result.custom_id.clone(),
        result_id: result.result_id,
        event_time: result.finished_at,
        ingested_at: result.finished_at,
        usage_period: result.finished_at.to_string()[..7].to_owned(),
        region: result.region.clone(),
        residency_zone: ZONE.to_owned(),
        model_id: result.model_id.clone(),
        model_digest: result.model_digest.clone(),
        service_tier: ServiceTier::Batch,
        input_uncached_tokens: result.input_tokens - 4,
        input_cached_tokens: 4,
        output_tokens: 3,
        requests: 1,
        outcome: Status::Ok,
        billable: true,
        nonbillable_reason: None,
        price_book_id: "public".to_owned(),
        price_version: "2026-10-01.1".to_owned(),
        contract_version: None,
        pricing_currency: "EUR".to_owned(),
        billing_currency: "EUR".to_owned(),
        corrects_event_id: None,
        correction_seq: 0,
        correction_reason: None,
        position: result.position.clone(),
        batch_index: result.batch_index,
    }
}
