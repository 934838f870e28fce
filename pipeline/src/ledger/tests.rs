use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use schemas::billing::{BillingRow, EventKind, event_id};
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};
use tokio::sync::Semaphore;

use super::*;

const LIMITS: FlushLimits = FlushLimits {
    rows_max: 4,
    age_max: Duration::from_secs(5),
};

fn partition(number: i32) -> PartitionId {
    PartitionId {
        topic: "t".to_owned(),
        epoch: 1,
        partition: number,
    }
}

fn outcome(offset: i64, row: u32) -> Outcome {
    let position = Position {
        topic: "t".to_owned(),
        epoch: 1,
        partition: 0,
        offset,
    };
    let billing = billing_row(position, row);
    let result = result_row(&billing);
    Outcome { result, billing }
}

fn billing_row(position: Position, row: u32) -> BillingRow {
    let (tenant_id, job_id) = ("a".parse().unwrap(), "j".parse().unwrap());
    let custom_id = format!("{}-{row}", position.offset).parse().unwrap();
    BillingRow {
        event_id: event_id(&tenant_id, &job_id, &custom_id, EventKind::Usage, 0),
        payload_hash: String::new(),
        schema_version: 1,
        event_kind: EventKind::Usage,
        tenant_id,
        project_id: "p".parse().unwrap(),
        api_key_ref: None,
        job_id,
        custom_id,
        result_id: result_id(&position, row),
        event_time: Timestamp::UNIX_EPOCH,
        ingested_at: Timestamp::UNIX_EPOCH,
        usage_period: "1970-01".to_owned(),
        region: "r".to_owned(),
        residency_zone: "z".to_owned(),
        model_id: "m".to_owned(),
        model_digest: None,
        service_tier: ServiceTier::Batch,
        input_uncached_tokens: 1,
        input_cached_tokens: 0,
        output_tokens: 1,
        requests: 1,
        outcome: Status::Ok,
        billable: true,
        nonbillable_reason: None,
        price_book_id: "b".to_owned(),
        price_version: "1".to_owned(),
        contract_version: None,
        pricing_currency: "EUR".to_owned(),
        billing_currency: "EUR".to_owned(),
        corrects_event_id: None,
        correction_seq: 0,
        correction_reason: None,
        position,
        batch_index: row,
    }
}

fn result_row(billing: &BillingRow) -> ResultRow {
    ResultRow {
        job_id: billing.job_id.clone(),
        batch_seq: 0,
        custom_id: billing.custom_id.clone(),
        result_id: billing.result_id,
        tenant_id: billing.tenant_id.clone(),
        project_id: billing.project_id.clone(),
        residency_zone: "z".to_owned(),
        region: "r".to_owned(),
        model_id: "m".to_owned(),
        model_digest: None,
        tokenizer_digest: None,
        endpoint: Endpoint::Completions,
        service_tier: ServiceTier::Batch,
        status: Status::Ok,
        error_code: None,
        error_message: None,
        finish_reason: None,
        output_text: None,
        response: None,
        embedding: None,
        scores: None,
        input_tokens: 1,
        cached_tokens: 0,
        output_tokens: 1,
        submitted_at: Timestamp::UNIX_EPOCH,
        admitted_at: None,
        first_token_at: None,
        finished_at: Timestamp::UNIX_EPOCH,
        worker_id: "w".to_owned(),
        position: billing.position.clone(),
        batch_index: billing.batch_index,
    }
}

struct Bench {
    ledger: Ledger,
    permits: Arc<Semaphore>,
    start: Instant,
}

impl Bench {
    fn new() -> Bench {
        let mut ledger = Ledger::default();
        ledger.assign(partition(0), 0, HashMap::new());
        Bench {
            ledger,
            permits: Arc::new(Semaphore::new(1000)),
            start: Instant::now(),
        }
    }

    fn reserve(&mut self, offset: i64) -> SlotId {
        let permit = self.permits.clone().try_acquire_owned().unwrap();
        self.ledger.reserve(&partition(0), offset, permit).unwrap()
    }

    /// Reserves the message at `offset` with one row, unfilled.
    fn message(&mut self, offset: i64) -> SlotId {
        let slot = self.reserve(offset);
        self.ledger.expect_rows(slot, 1, self.start);
        slot
    }

    fn fill(&mut self, slot: SlotId, offset: i64) -> bool {
        self.ledger.fill(slot, 0, outcome(offset, 0), self.start)
    }

    fn due(&mut self, urgent: bool) -> Vec<Chunk> {
        let when = if urgent { When::Complete } else { When::Limits };
        self.ledger
            .due(self.start, |_| Flush { limits: LIMITS, when })
            .into_iter()
            .map(|(chunk, _)| chunk)
            .collect()
    }
}

#[test]
fn late_answer_holds_back_later_offsets() {
    let mut bench = Bench::new();
    let (first, second) = (bench.message(0), bench.message(1));
    bench.fill(second, 1);
    assert!(bench.due(true).is_empty());
    bench.fill(first, 0);
    let chunks = bench.due(true);
    assert_eq!((chunks[0].from, chunks[0].to), (0, 2));
    let rows: Vec<_> = chunks[0]
        .outcomes
        .iter()
        .map(|outcome| outcome.result.position.offset)
        .collect();
    assert_eq!(rows, [0, 1]);
}

#[test]
fn chunk_leaves_at_rows_max_or_at_age_max_and_not_before() {
    let mut bench = Bench::new();
    let slots: Vec<_> = (0..4).map(|offset| bench.message(offset)).collect();
    bench.fill(slots[0], 0);
    assert!(bench.due(false).is_empty());
    let aged = bench.ledger.due(bench.start + LIMITS.age_max, |_| Flush {
        limits: LIMITS,
        when: When::Limits,
    });
    assert_eq!(aged[0].0.to, 1);
    bench.ledger.committed(&partition(0));
    for offset in 1..4 {
        bench.fill(slots[offset as usize], offset);
    }
    assert!(bench.due(false).is_empty(), "three rows are below rows_max");
    let slot = bench.message(4);
    bench.fill(slot, 4);
    assert_eq!(bench.due(false)[0].to, 5);
}

#[test]
fn next_chunk_waits_for_the_one_on_its_way() {
    let mut bench = Bench::new();
    let (first, second) = (bench.message(0), bench.message(1));
    bench.fill(first, 0);
    assert_eq!(
        bench
            .ledger
            .due(bench.start + LIMITS.age_max, |_| Flush {
                limits: LIMITS,
                when: When::Limits
            })
            .len(),
        1
    );
    bench.fill(second, 1);
    assert!(bench.due(true).is_empty());
    assert_eq!(bench.ledger.watermark(&partition(0)), None);
    bench.ledger.committed(&partition(0));
    assert_eq!(bench.ledger.watermark(&partition(0)), Some(1));
    assert_eq!(bench.due(true)[0].from, 1);
}

#[test]
fn gap_in_offsets_belongs_to_the_chunk_behind_it() {
    let mut bench = Bench::new();
    let slot = bench.message(7);
    bench.fill(slot, 7);
    let chunks = bench.due(true);
    assert_eq!((chunks[0].from, chunks[0].to), (0, 8));
}

#[test]
fn offsets_without_messages_are_skipped_once_and_leave_in_their_turn() {
    let mut bench = Bench::new();
    let slot = bench.message(2);
    bench.ledger.skip_to(&partition(0), 2, bench.start);
    bench.ledger.skip_to(&partition(0), 6, bench.start);
    bench.ledger.skip_to(&partition(0), 6, bench.start);
    assert!(bench.due(true).is_empty(), "the message before them is not finished");
    bench.fill(slot, 2);
    let chunks = bench.due(true);
    assert_eq!((chunks[0].from, chunks[0].to, chunks[0].outcomes.len()), (0, 6, 1));
    bench.ledger.committed(&partition(0));
    assert!(bench.due(true).is_empty());
}

#[test]
fn batch_of_a_dead_letter_may_come_again() {
    let mut bench = Bench::new();
    let key = DedupKey([7; 16]);
    let (dead, again) = (bench.reserve(0), bench.reserve(1));
    assert_eq!(bench.ledger.first_delivery(dead, key), None);
    bench.ledger.fill_dead_letter(dead, bench.start);
    assert_eq!(bench.ledger.first_delivery(again, key), None);
}

#[test]
fn permit_returns_only_when_the_chunk_is_dropped() {
    let mut bench = Bench::new();
    let slot = bench.message(0);
    bench.fill(slot, 0);
    let due = bench.ledger.due(bench.start, |_| Flush {
        limits: LIMITS,
        when: When::Complete,
    });
    assert_eq!(bench.permits.available_permits(), 999);
    drop(due);
    assert_eq!(bench.permits.available_permits(), 1000);
}

#[test]
fn answer_for_a_released_partition_is_dropped() {
    let mut bench = Bench::new();
    let slot = bench.message(0);
    bench.ledger.release(&partition(0));
    assert!(!bench.fill(slot, 0));
    assert!(!bench.ledger.holds(slot));
    assert_eq!(bench.permits.available_permits(), 1000);
}

#[test]
fn dropping_the_unfinished_keeps_the_finished_prefix() {
    let mut bench = Bench::new();
    let slots: Vec<_> = (0..3).map(|offset| bench.message(offset)).collect();
    bench.fill(slots[0], 0);
    bench.fill(slots[2], 2);
    bench.ledger.drop_unfinished(&partition(0));
    assert_eq!(bench.due(true)[0].to, 1);
    assert!(!bench.ledger.holds(slots[1]) && !bench.ledger.holds(slots[2]));
}

#[test]
fn second_delivery_of_a_batch_points_at_the_first() {
    let mut bench = Bench::new();
    let key = DedupKey([7; 16]);
    let (first, second) = (bench.message(3), bench.message(5));
    assert_eq!(bench.ledger.first_delivery(first, key), None);
    assert_eq!(bench.ledger.first_delivery(second, key), Some(3));
    bench.fill(first, 3);
    bench.fill(second, 5);
    assert_eq!(bench.due(true)[0].dedup_keys, [(key, 3)]);
}

#[test]
fn message_without_rows_and_dead_letter_finish_their_slots() {
    let mut bench = Bench::new();
    let (empty, dead) = (bench.reserve(0), bench.reserve(1));
    bench.ledger.expect_rows(empty, 0, bench.start);
    bench.ledger.fill_dead_letter(dead, bench.start);
    let chunks = bench.due(true);
    assert_eq!((chunks[0].to, chunks[0].outcomes.len()), (2, 0));
    assert_eq!(chunks[0].dead_letters, [1]);
}

proptest! {
    /// Whatever order answers come in, the chunks cover every offset once, in order, with all their rows.
    #[test]
    fn chunks_cover_every_offset_once(order in Just((0..40_i64).collect::<Vec<_>>()).prop_shuffle(), every in 1..10_usize) {
        let mut bench = Bench::new();
        let slots: Vec<_> = (0..40).map(|offset| bench.message(offset)).collect();
        let (mut next, mut rows) = (0, Vec::new());
        let mut take = |bench: &mut Bench, urgent| {
            let chunks = bench.due(urgent);
            for chunk in &chunks {
                assert_eq!(chunk.from, next);
                next = chunk.to;
                rows.extend(chunk.outcomes.iter().map(|outcome| outcome.result.position.offset));
            }
            bench.ledger.committed(&partition(0));
            !chunks.is_empty()
        };
        for (turn, &offset) in order.iter().enumerate() {
            bench.fill(slots[offset as usize], offset);
            if turn % every == 0 {
                take(&mut bench, false);
            }
        }
        while take(&mut bench, true) {}
        prop_assert_eq!(rows, (0..40).collect::<Vec<_>>());
    }
}
