//! The year's requests: each the same whoever makes it, seeded by its number.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

use super::terms::{TENANTS, tenant_id};

pub(crate) const TOPIC: &str = "bitnet.requests.world.bulk";
pub(crate) const ZONE: &str = "world";
pub(crate) const DAYS: u64 = 365;

const START: &str = "2025-11-01T00:00:00Z";
const REGIONS: [&str; 5] = ["eu-central", "eu-north", "us-east", "ap-south", "me-central"];
const MODELS: [&str; 3] = ["debian-sections", "bitnet-b1.58-2B-4T", "falcon3-7b-1.58"];
const TIERS: [ServiceTier; 4] = [
    ServiceTier::Batch,
    ServiceTier::Batch,
    ServiceTier::Standard,
    ServiceTier::Interactive,
];
/// Requests in one message.
const PER_MESSAGE: u64 = 100;
/// So long a late request's row is under way, over the end of the month in any case.
const LATE: SignedDuration = SignedDuration::from_hours(24 * 35);

/// One day of the year.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Day {
    index: u64,
    /// Requests of the whole year.
    events: u64,
}

/// A request that was done, and when its row was written.
pub(crate) struct Done {
    pub(crate) result: ResultRow,
    pub(crate) ingested_at: Timestamp,
}

impl Day {
    pub(crate) fn all(events: u64) -> impl Iterator<Item = Day> {
        (0..DAYS).map(move |index| Day { index, events })
    }

    pub(crate) fn start(self) -> Result<Timestamp> {
        Ok(START.parse::<Timestamp>()? + SignedDuration::from_hours(24 * self.index as i64))
    }

    /// The offsets of its messages, the end exclusive.
    pub(crate) fn offsets(self) -> (u64, u64) {
        let offset_at = |index: u64| (self.events / PER_MESSAGE) * index / DAYS;
        (offset_at(self.index), offset_at(self.index + 1))
    }

    /// Numbers of its requests.
    pub(crate) fn requests(self) -> std::ops::Range<u64> {
        let (from, to) = self.offsets();
        from * PER_MESSAGE..to * PER_MESSAGE
    }

    /// Request number `request`, which is one of the day's.
    pub(crate) fn request(self, request: u64) -> Result<Done> {
        let requests = self.requests();
        let (nth, of) = (request - requests.start, requests.end - requests.start);
        let mut random = Random(request);
        // A few tenants make most of the requests.
        let tenant = TENANTS * random.below(1_000) * random.below(1_000) * random.below(1_000) / 1_000_000_000;
        let micros = 86_400_000_000 * nth / of + random.below(1_000);
        let written_at = self.start()? + SignedDuration::from_micros(micros as i64);
        let is_late = random.below(500) == 0 && self.index >= 60;
        let finished_at = if is_late { written_at - LATE } else { written_at };
        let status = match random.below(400) {
            0..8 => Status::Error,
            8 | 9 => Status::Duplicate,
            10 => Status::Expired,
            _ => Status::Ok,
        };
        let answered = status == Status::Ok;
        let input_tokens = (40 + random.below(40) * random.below(100)) as i64;
        let position = Position {
            topic: TOPIC.to_owned(),
            epoch: 1,
            partition: 0,
            offset: (request / PER_MESSAGE) as i64,
        };
        let batch_index = (request % PER_MESSAGE) as u32;
        let region = match random.below(10) {
            0 => random.below(5),
            _ => tenant % 5,
        };
        let result = ResultRow {
            job_id: format!("job-{tenant:04}-{:03}", self.index).parse()?,
            batch_seq: 0,
            custom_id: format!("r-{request}").parse()?,
            result_id: result_id(&position, batch_index),
            tenant_id: tenant_id(tenant).parse()?,
            project_id: format!("project-{}", random.below(3)).parse()?,
            residency_zone: ZONE.to_owned(),
            region: REGIONS[region as usize].to_owned(),
            model_id: MODELS[random.below(3) as usize].to_owned(),
            model_digest: Some("5f".repeat(32)),
            tokenizer_digest: None,
            endpoint: Endpoint::ChatCompletions,
            service_tier: TIERS[random.below(4) as usize],
            status,
            error_code: None,
            error_message: None,
            finish_reason: answered.then(|| "stop".to_owned()),
            output_text: answered.then(|| "libs".to_owned()),
            response: None,
            embedding: None,
            scores: None,
            input_tokens,
            cached_tokens: if random.below(3) == 0 { input_tokens / 2 } else { 0 },
            output_tokens: if answered { 1 + random.below(300) as i64 } else { 0 },
            submitted_at: finished_at - SignedDuration::from_secs(60),
            admitted_at: None,
            first_token_at: None,
            finished_at,
            worker_id: "generator".to_owned(),
            position,
            batch_index,
        };
        // What ended late in a month is ingested in the next one.
        let ingested_at = written_at + SignedDuration::from_secs(2);
        Ok(Done { result, ingested_at })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by the request.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * u128::from(bound)) >> 64) as u64
    }
}
