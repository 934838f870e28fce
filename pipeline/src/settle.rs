//! Turns the end of a request into its two rows: what it gave, and what it costs.

use billing::event::{self, RateError};
use engine::{Completion, RequestError};
use jiff::Timestamp;
use schemas::ids::{CustomId, result_id};
use schemas::result::{ResultRow, Status};

use crate::admit::Context;
use crate::chunk::Outcome;
use crate::prices::Prices;

/// Who computed and at what prices.
pub struct Settler {
    /// Where this worker runs.
    pub region: String,
    /// Which worker it is.
    pub worker_id: String,
    /// Prices and contracts in force.
    pub prices: Prices,
}

/// How one request ended.
pub enum End {
    /// The engine answered.
    Answered {
        /// What it said.
        completion: Box<Completion>,
        /// When its first token was written.
        first_token_at: Option<Timestamp>,
    },
    /// The request was at fault.
    Refused(RequestError),
    /// Its deadline passed.
    Expired,
    /// Its batch came before, at this offset.
    Repeated(i64),
    /// Its `custom_id` came before in the same batch.
    RepeatedInBatch(RequestError),
}

impl Settler {
    /// The two rows of request number `batch_index` of its message.
    ///
    /// # Errors
    /// When the price book has no price for this moment: nothing may be booked then.
    pub fn settle(
        &self,
        context: &Context,
        batch_index: u32,
        custom_id: CustomId,
        end: End,
        now: Timestamp,
    ) -> Result<Outcome, RateError> {
        let repeats = matches!(end, End::Repeated(_) | End::RepeatedInBatch(_));
        let result = self.result(context, batch_index, custom_id, end, now);
        let billing = event::usage_row(&result, repeats, &self.prices.book, &self.prices.contracts, now)?;
        Ok(Outcome { result, billing })
    }

    fn result(&self, context: &Context, batch_index: u32, custom_id: CustomId, end: End, now: Timestamp) -> ResultRow {
        let batch = &context.batch;
        let mut row = ResultRow {
            job_id: batch.job_id.clone(),
            batch_seq: batch.batch_seq,
            custom_id,
            result_id: result_id(&context.position, batch_index),
            tenant_id: batch.tenant_id.clone(),
            project_id: batch.project_id.clone(),
            residency_zone: batch.residency_zone.clone(),
            region: self.region.clone(),
            model_id: batch.model.clone(),
            model_digest: context.model.as_ref().map(|model| model.digest().to_owned()),
            tokenizer_digest: context.model.as_ref().map(|model| model.tokenizer_digest().to_owned()),
            endpoint: batch.endpoint,
            service_tier: batch.service_tier,
            status: Status::Ok,
            error_code: None,
            error_message: None,
            finish_reason: None,
            output_text: None,
            response: None,
            embedding: None,
            scores: None,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            submitted_at: batch.submitted_at,
            admitted_at: Some(context.admitted_at),
            first_token_at: None,
            finished_at: now,
            worker_id: self.worker_id.clone(),
            position: context.position.clone(),
            batch_index,
        };
        match end {
            End::Answered {
                completion,
                first_token_at,
            } => {
                row.first_token_at = first_token_at;
                answer(&mut row, *completion);
            }
            End::Refused(error) | End::RepeatedInBatch(error) => {
                fail(&mut row, Status::Error, error.code, error.message);
            }
            End::Expired => {
                let deadline = batch
                    .deadline
                    .map(|deadline| format!(" {deadline}"))
                    .unwrap_or_default();
                fail(
                    &mut row,
                    Status::Expired,
                    "deadline_exceeded",
                    format!("the deadline{deadline} passed first"),
                );
            }
            End::Repeated(offset) => {
                let message = format!("batch {} of this job is at offset {offset} already", batch.batch_seq);
                fail(&mut row, Status::Duplicate, "duplicate_batch", message);
            }
        }
        row
    }
}

fn answer(row: &mut ResultRow, completion: Completion) {
    let id = format!("{}-{}", id_prefix(row.endpoint), row.result_id.simple());
    let response = completion.response(&id, row.finished_at.as_second(), &row.model_id);
    row.response = Some(response.to_string());
    row.finish_reason = Some(completion.finish_reason.as_str().to_owned());
    row.input_tokens = tokens(completion.usage.input_tokens);
    row.cached_tokens = tokens(completion.usage.cached_tokens);
    row.output_tokens = tokens(completion.usage.output_tokens);
    row.output_text = completion.output_text;
    row.embedding = completion.embedding;
    row.scores = completion.scores;
}

fn fail(row: &mut ResultRow, status: Status, code: &str, message: String) {
    row.status = status;
    row.error_code = Some(code.to_owned());
    row.error_message = Some(message);
}

fn id_prefix(endpoint: schemas::request::Endpoint) -> &'static str {
    use schemas::request::Endpoint;
    match endpoint {
        Endpoint::ChatCompletions => "chatcmpl",
        Endpoint::Completions => "cmpl",
        Endpoint::Embeddings => "embd",
        Endpoint::Score => "score",
    }
}

fn tokens(count: usize) -> i64 {
    i64::try_from(count).expect("a request's tokens fit its context")
}
