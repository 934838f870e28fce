//! Turns a request batch into engine jobs, and refuses what cannot be one.
//!
//! Whatever concerns one request becomes that row's error; whatever leaves the rows without names
//! makes the whole message a dead letter. Runs off the loop, since tokenizing a batch takes a while.

use std::collections::HashSet;
use std::sync::Arc;

use engine::{Endpoint, Job, Model, Priority, RequestError};
use jiff::Timestamp;
use schemas::ids::{CustomId, Position};
use schemas::request::{self, Request, RequestBatch, ServiceTier};

use crate::claim_check::{self, ClaimCheckError, ClaimCheckLimits, error_chain};
use crate::models::{Models, ModelsError};
use crate::store::Store;

/// What admission needs of the worker.
#[derive(Clone)]
pub struct Admission {
    /// Where claim checks point.
    pub store: Store,
    /// What `model` may name.
    pub models: Arc<Models>,
    /// Whose data this worker may hold.
    pub residency_zone: String,
    /// Bounds of a claim check.
    pub limits: ClaimCheckLimits,
}

/// What all rows of a message share.
pub struct Context {
    /// The message without its requests.
    pub batch: RequestBatch,
    /// Where it stood.
    pub position: Position,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// The model it names, if there is one here.
    pub model: Option<Arc<Model>>,
}

/// A message, taken apart.
pub struct Admitted {
    /// What its rows share.
    pub context: Arc<Context>,
    /// One entry per request, in order.
    pub rows: Vec<(CustomId, Verdict)>,
}

/// What becomes of one request.
pub enum Verdict {
    /// Run it.
    Run(Box<Job>),
    /// The request is at fault.
    Refuse(RequestError),
    /// Its deadline has passed.
    Expire,
    /// Its batch came before, at this offset.
    Repeat(i64),
    /// Its `custom_id` came before in the same batch.
    RepeatInBatch(RequestError),
}

/// Why a message was not taken apart.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// It must end as a dead letter.
    #[error(transparent)]
    DeadLetter(ClaimCheckError),
    /// The store is away; the same message may succeed later.
    #[error(transparent)]
    Outage(ClaimCheckError),
}

impl Admission {
    /// Takes a message apart. `repeats` is the offset of an earlier delivery of the same batch.
    ///
    /// # Errors
    /// See [`AdmitError`].
    pub async fn admit(
        &self,
        mut batch: RequestBatch,
        position: Position,
        repeats: Option<i64>,
        now: Timestamp,
    ) -> Result<Admitted, AdmitError> {
        let inline = batch.requests.take();
        let requests =
            match (inline, &batch.input) {
                (None, Some(check)) => claim_check::read(&self.store, check, self.limits)
                    .await
                    .map_err(|error| match error {
                        ClaimCheckError::Invalid { .. } => AdmitError::DeadLetter(error),
                        ClaimCheckError::Store { .. } => AdmitError::Outage(error),
                    })?,
                (inline, _) => inline.unwrap_or_default(),
            };
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.judge(batch, requests, position, repeats, now))
            .await
            .expect("admission does not panic")
    }

    fn judge(
        &self,
        batch: RequestBatch,
        requests: Vec<Request>,
        position: Position,
        repeats: Option<i64>,
        now: Timestamp,
    ) -> Result<Admitted, AdmitError> {
        let model = match self.models.get(&batch.model) {
            Ok(model) => Ok(model),
            Err(ModelsError::Unknown { name, known }) => Err(unknown_model(&name, &known)),
            Err(error) => Err(unusable_model(&batch.model, &error)),
        };
        let refused = self.refusal_of_all(&batch);
        let expired = batch.deadline.is_some_and(|deadline| deadline <= now);
        let mut names = HashSet::new();
        let mut rows: Vec<(CustomId, Verdict)> = requests
            .into_iter()
            .map(|Request { custom_id, body }| {
                let verdict = if let Some(offset) = repeats {
                    Verdict::Repeat(offset)
                } else if !names.insert(custom_id.clone()) {
                    Verdict::RepeatInBatch(repeated(&custom_id))
                } else if expired {
                    Verdict::Expire
                } else {
                    let refusal = refused.as_ref().or(model.as_ref().err());
                    match (refusal, &model) {
                        (None, Ok(model)) => prepare(model, &batch, &custom_id, &body),
                        (refusal, _) => Verdict::Refuse(refusal.cloned().expect("a batch without model is refused")),
                    }
                };
                (custom_id, verdict)
            })
            .collect();
        engine::count_cached(rows.iter_mut().filter_map(|(_, verdict)| match verdict {
            Verdict::Run(job) => Some(&mut **job),
            _ => None,
        }));
        let context = Context {
            batch,
            position,
            admitted_at: now,
            model: model.ok(),
        };
        Ok(Admitted {
            context: Arc::new(context),
            rows,
        })
    }

    fn refusal_of_all(&self, batch: &RequestBatch) -> Option<RequestError> {
        (batch.residency_zone != self.residency_zone).then(|| RequestError {
            code: "residency_zone_mismatch",
            message: format!(
                "the batch must stay in residency zone {:?}, but its topic is read by workers of zone {:?}; \
                 publish it to a topic of its own zone",
                batch.residency_zone, self.residency_zone
            ),
            param: Some("residency_zone".to_owned()),
        })
    }
}

fn prepare(model: &Model, batch: &RequestBatch, custom_id: &CustomId, body: &serde_json::Value) -> Verdict {
    let key = format!("{}/{}/{custom_id}", batch.tenant_id, batch.job_id);
    match model.prepare(endpoint_of(batch.endpoint), body, &key) {
        Ok(job) => Verdict::Run(Box::new(job)),
        Err(error) => Verdict::Refuse(error),
    }
}

fn unknown_model(name: &str, known: &[String]) -> RequestError {
    RequestError {
        code: "model_not_found",
        message: format!("there is no model {name:?} here; this worker has {}", known.join(", ")),
        param: Some("model".to_owned()),
    }
}

/// The operator's fault, but only these requests'; those of other models go on.
fn unusable_model(name: &str, error: &ModelsError) -> RequestError {
    let causes = error_chain(error);
    tracing::error!(model = name, causes, "model cannot be used; its requests end as errors");
    RequestError {
        code: "model_unusable",
        message: format!("{causes}; nothing was charged, submit again once its files are mended"),
        param: Some("model".to_owned()),
    }
}

fn repeated(custom_id: &CustomId) -> RequestError {
    RequestError {
        code: "duplicate_custom_id",
        message: format!(
            "custom_id {custom_id:?} stands more than once in this batch; only its first request is answered"
        ),
        param: Some("custom_id".to_owned()),
    }
}

/// Our message's word for the engine's.
pub fn endpoint_of(endpoint: request::Endpoint) -> Endpoint {
    match endpoint {
        request::Endpoint::ChatCompletions => Endpoint::ChatCompletions,
        request::Endpoint::Completions => Endpoint::Completions,
        request::Endpoint::Embeddings => Endpoint::Embeddings,
        request::Endpoint::Score => Endpoint::Score,
    }
}

/// Interactive ahead of bulk.
pub fn priority_of(tier: ServiceTier) -> Priority {
    match tier {
        ServiceTier::Interactive => Priority::Interactive,
        ServiceTier::Standard => Priority::Standard,
        ServiceTier::Batch => Priority::Bulk,
    }
}
