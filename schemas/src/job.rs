//! What `bitnet.jobs` holds per key (job_id): the state a job should have.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decode::{self, DecodeError};
use crate::ids::{JobId, ProjectId, TenantId};
use crate::request::{Endpoint, ServiceTier};

/// The `schema` field of every job record.
pub const JOB_SCHEMA: &str = "bitnet.job.v1";

/// What the submitter wants of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Run to its end.
    Run,
    /// Stop; requests not finished end as `cancelled`.
    Cancel,
}

/// One record of `bitnet.jobs`. Progress is never here: it is counted from the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// [`JOB_SCHEMA`].
    pub schema: String,
    /// The submission; also the Kafka key.
    pub job_id: JobId,
    /// Who is billed.
    pub tenant_id: TenantId,
    /// A subdivision of the tenant.
    pub project_id: ProjectId,
    /// Where the data may be processed and stored.
    pub residency_zone: String,
    /// A folder under `models.dir`.
    pub model: String,
    /// What is asked of the model.
    pub endpoint: Endpoint,
    /// Speed and price.
    pub service_tier: ServiceTier,
    /// What the submitter wants.
    pub desired: Desired,
    /// How many requests.
    pub requests_total: u64,
    /// How many batches.
    pub batch_count: u32,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// Requests not finished by then end as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// Longest job record, in bytes; all of its texts are short.
const JOB_BYTES_MAX: usize = 64 * 1024;

/// Reads one record of `bitnet.jobs`.
pub fn decode(bytes: &[u8]) -> Result<Job, DecodeError> {
    let job: Job = decode::json(bytes, JOB_BYTES_MAX)?;
    decode::schema(&job.schema, JOB_SCHEMA)?;
    decode::name("model", &job.model, decode::NAME_CHARS_MAX)?;
    decode::name("residency_zone", &job.residency_zone, decode::NAME_CHARS_MAX)?;
    Ok(job)
}
