//! Submits a job: everything is checked before anything is sent.
//!
//! The files are read twice. The first time checks every request and counts the batches, for each
//! message says how many there are; the second time sends them. So a file may be larger than memory, and
//! a mistake in its last line costs nothing.

mod input;
mod check;
mod parts;
mod send;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemas::ids::{JobId, ProjectId, TenantId};
use schemas::job::{Desired, JOB_SCHEMA, Job};
use schemas::request::{ClaimCheckColumns, Endpoint, REQUEST_BATCH_SCHEMA, RequestBatch, ServiceTier};
use serde_json::{Value, json};

use super::publish::{PublishError, Publisher};
use crate::settings::Settings;
use crate::store::StoreError;
use parts::Parts;

/// Topic of job records, compacted, key `job_id`.
pub const JOBS_TOPIC: &str = "bitnet.jobs";

/// What all requests of a job share.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    /// The submission. Submitting the same files under the same id again runs and bills nothing twice.
    pub job_id: JobId,
    /// Who is billed.
    pub tenant_id: TenantId,
    /// A subdivision of the tenant.
    pub project_id: ProjectId,
    /// A folder under the workers' `models.dir`; unset: the `model` of the first line's body.
    pub model: Option<String>,
    /// What is asked of the model; unset: the `url` of the first line.
    pub endpoint: Option<Endpoint>,
    /// Speed and price.
    pub service_tier: ServiceTier,
    /// Now.
    pub submitted_at: Timestamp,
    /// Requests not finished by then end as `expired`.
    pub deadline: Option<Timestamp>,
    /// The submitter's own labels.
    pub metadata: BTreeMap<String, String>,
    /// Requests in one message, at most.
    pub batch_size: usize,
}

/// Where the requests are.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Files of OpenAI Batch lines; the requests travel in the messages.
    Jsonl(Vec<PathBuf>),
    /// Parquet files; the rows travel through the object store.
    Parquet {
        /// The files.
        files: Vec<PathBuf>,
        /// Which columns hold what.
        columns: ClaimCheckColumns,
        /// The request body; `{{text}}` in its strings becomes the row's text.
        template: Value,
    },
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The job.
    pub job_id: JobId,
    /// Its requests.
    pub requests_total: u64,
    /// Its messages.
    pub batch_count: u32,
    /// Where they were sent.
    pub topic: String,
}

/// How far a submission is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Requests handed to the broker.
    pub requests: u64,
    /// Requests there are.
    pub requests_total: u64,
}

/// Why a job was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// A file or a request in it cannot be used. Nothing was sent.
    #[error("{place}: {problem}")]
    Input {
        /// File, and line or row.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// What all requests share cannot be used. Nothing was sent.
    #[error("{problem}")]
    Spec {
        /// Which part, what is wrong, and what to do.
        problem: String,
    },
    /// A file changed between the check and the sending.
    #[error("{files}: changed while being submitted")]
    Changed {
        /// The files.
        files: String,
    },
    /// The store cannot be used. Nothing was sent.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not answer in time. Nothing was sent.
    #[error("store {uri} did not answer within {patience:?}")]
    StoreSilent {
        /// `store.uri`.
        uri: String,
        /// `store.start_timeout`.
        patience: Duration,
    },
    /// A part was not stored.
    #[error("cannot store {uri}")]
    Upload {
        /// The part.
        uri: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The broker cannot be used, or a message was not confirmed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Checks, sends the batches and then the job record; `progress` hears of the start and of every batch.
///
/// # Errors
/// See [`SubmitError`]. What was sent before an outage is not taken back: submit again under the same job id.
pub async fn submit(
    settings: &Settings,
    spec: &JobSpec,
    input: &Input,
    mut progress: impl FnMut(Sent),
) -> Result<Receipt, SubmitError> {
    let plan = check::check(settings, spec, input).await?;
    let parts = Parts::open(settings, spec, input).await?;
    let topic = settings.request_topic(spec.service_tier);
    let mut publisher = Publisher::connect(settings, &[&topic, JOBS_TOPIC]).await?;
    progress(Sent {
        requests: 0,
        requests_total: plan.requests_total,
    });
    send::batches(settings, spec, input, &plan, parts.as_ref(), &mut publisher, progress).await?;
    publisher.flush().await?;
    let record = serde_json::to_vec(&plan.record(settings, spec)).expect("a job record is plain data");
    publisher.send(JOBS_TOPIC, spec.job_id.as_str(), &record).await?;
    publisher.flush().await?;
    Ok(Receipt {
        job_id: spec.job_id.clone(),
        requests_total: plan.requests_total,
        batch_count: plan.batch_count,
        topic,
    })
}

/// The request body of a Parquet row when none is given; a score needs choices, so it has no default.
pub fn default_template(endpoint: Endpoint) -> Option<Value> {
    match endpoint {
        Endpoint::ChatCompletions => Some(json!({ "messages": [{ "role": "user", "content": "{{text}}" }] })),
        Endpoint::Completions => Some(json!({ "prompt": "{{text}}" })),
        Endpoint::Embeddings => Some(json!({ "input": "{{text}}" })),
        Endpoint::Score => None,
    }
}

impl Input {
    fn files(&self) -> &[PathBuf] {
        match self {
            Input::Jsonl(files) | Input::Parquet { files, .. } => files,
        }
    }
}

/// What the first reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    model: String,
    endpoint: Endpoint,
    requests_total: u64,
    batch_count: u32,
}

impl Plan {
    fn envelope(&self, settings: &Settings, spec: &JobSpec) -> RequestBatch {
        RequestBatch {
            schema: REQUEST_BATCH_SCHEMA.to_owned(),
            job_id: spec.job_id.clone(),
            batch_seq: 0,
            batch_count: self.batch_count,
            tenant_id: spec.tenant_id.clone(),
            project_id: spec.project_id.clone(),
            residency_zone: settings.worker.residency_zone.clone(),
            model: self.model.clone(),
            endpoint: self.endpoint,
            service_tier: spec.service_tier,
            submitted_at: spec.submitted_at,
            deadline: spec.deadline,
            metadata: spec.metadata.clone(),
            requests: None,
            input: None,
        }
    }

    fn record(&self, settings: &Settings, spec: &JobSpec) -> Job {
        Job {
            schema: JOB_SCHEMA.to_owned(),
            job_id: spec.job_id.clone(),
            tenant_id: spec.tenant_id.clone(),
            project_id: spec.project_id.clone(),
            residency_zone: settings.worker.residency_zone.clone(),
            model: self.model.clone(),
            endpoint: self.endpoint,
            service_tier: spec.service_tier,
            desired: Desired::Run,
            requests_total: self.requests_total,
            batch_count: self.batch_count,
            submitted_at: spec.submitted_at,
            deadline: spec.deadline,
        }
    }
}
