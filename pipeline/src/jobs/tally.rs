//! How far a job is: counted from the tables, never from a counter that a crash can lose.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use futures::TryStreamExt;
use schemas::job::{Desired, Job};
use schemas::result::Status;

use crate::sink::Table;
use crate::tables::{Equals, TableError, Tables};

/// Rows of one job by how they ended. Repeated deliveries are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered.
    pub completed: u64,
    /// At fault.
    pub failed: u64,
    /// Too late.
    pub expired: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Rows of `billing_events`, repeated deliveries left out; none where they were not counted.
    pub billed: Option<u64>,
}

/// A job's state, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests wait or run.
    InProgress,
    /// Every request has a result; their billing rows follow.
    Finalizing,
    /// Every request has a result.
    Completed,
    /// The deadline passed before some of them.
    Expired,
    /// A stop was asked for.
    Cancelling,
    /// Stopped.
    Cancelled,
}

impl State {
    /// As OpenAI writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::InProgress => "in_progress",
            State::Finalizing => "finalizing",
            State::Completed => "completed",
            State::Expired => "expired",
            State::Cancelling => "cancelling",
            State::Cancelled => "cancelled",
        }
    }

    /// Nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, State::Completed | State::Expired | State::Cancelled)
    }
}

impl Tally {
    /// Requests that ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.expired + self.cancelled
    }

    /// The job's state by these counts.
    pub fn state(&self, job: &Job) -> State {
        let cancelling = job.desired == Desired::Cancel;
        if self.ended() < job.requests_total {
            return if cancelling {
                State::Cancelling
            } else {
                State::InProgress
            };
        }
        match self.billed {
            Some(billed) if billed < self.ended() => State::Finalizing,
            _ if self.cancelled > 0 => State::Cancelled,
            _ if self.expired > 0 => State::Expired,
            _ => State::Completed,
        }
    }

    fn add(&mut self, status: &str) {
        let count = match status.parse() {
            Ok(Status::Ok) => &mut self.completed,
            Ok(Status::Error) => &mut self.failed,
            Ok(Status::Expired) => &mut self.expired,
            Ok(Status::Cancelled) => &mut self.cancelled,
            Ok(Status::Duplicate) | Err(_) => return,
        };
        *count += 1;
    }
}

/// Counts of every job that has results.
///
/// # Errors
/// When the tables cannot be read.
pub async fn of_all(tables: &Tables) -> Result<HashMap<String, Tally>, TableError> {
    let mut tallies: HashMap<String, Tally> = HashMap::new();
    let mut batches = tables.scan(Table::Results, &["job_id", "status"], None).await?;
    while let Some(batch) = batches.try_next().await? {
        for_each(&batch, |job, status| match tallies.get_mut(job) {
            Some(tally) => tally.add(status),
            None => tallies.entry(job.to_owned()).or_default().add(status),
        });
    }
    Ok(tallies)
}

/// Counts of one job, billing rows included.
///
/// # Errors
/// When the tables cannot be read.
pub async fn of_job(tables: &Tables, job_id: &str) -> Result<Tally, TableError> {
    let filter = Equals {
        column: "job_id".to_owned(),
        value: job_id.to_owned(),
    };
    // Billing follows results, so it is read first: then it is never ahead.
    let mut billed = 0;
    let mut batches = tables
        .scan(Table::BillingEvents, &["event_kind", "outcome"], Some(&filter))
        .await?;
    while let Some(batch) = batches.try_next().await? {
        for_each(&batch, |kind, outcome| {
            billed += u64::from(kind == "usage" && outcome != "duplicate")
        });
    }
    let mut tally = Tally {
        billed: Some(billed),
        ..Tally::default()
    };
    let mut batches = tables
        .scan(Table::Results, &["job_id", "status"], Some(&filter))
        .await?;
    while let Some(batch) = batches.try_next().await? {
        for_each(&batch, |_, status| tally.add(status));
    }
    Ok(tally)
}

/// Both columns of the batch are text by the tables' schemas; a null counts as nothing.
fn for_each(batch: &RecordBatch, mut visit: impl FnMut(&str, &str)) {
    let text = |column: usize| -> Result<_, ArrowError> { cast(batch.column(column), &DataType::Utf8) };
    let (Ok(first), Ok(second)) = (text(0), text(1)) else {
        return;
    };
    let (first, second) = (first.as_string::<i32>(), second.as_string::<i32>());
    for row in 0..batch.num_rows() {
        if first.is_valid(row) && second.is_valid(row) {
            visit(first.value(row), second.value(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use schemas::job::JOB_SCHEMA;
    use schemas::request::{Endpoint, ServiceTier};

    use super::*;

    fn job(requests_total: u64, desired: Desired) -> Job {
        Job {
            schema: JOB_SCHEMA.to_owned(),
            job_id: "j".parse().unwrap(),
            tenant_id: "t".parse().unwrap(),
            project_id: "p".parse().unwrap(),
            residency_zone: "eu".into(),
            model: "m".into(),
            endpoint: Endpoint::Score,
            service_tier: ServiceTier::Batch,
            desired,
            requests_total,
            batch_count: 1,
            submitted_at: Timestamp::UNIX_EPOCH,
            deadline: None,
        }
    }

    #[test]
    fn states_follow_from_counts() {
        let check = |statuses: &[&str], billed, desired, expected| {
            let mut tally = Tally {
                billed,
                ..Tally::default()
            };
            statuses.iter().for_each(|status| tally.add(status));
            assert_eq!(tally.state(&job(3, desired)), expected, "{statuses:?}");
        };
        check(&[], Some(0), Desired::Run, State::InProgress);
        check(
            &["ok", "error", "duplicate", "duplicate"],
            Some(2),
            Desired::Run,
            State::InProgress,
        );
        check(&["ok", "error"], Some(2), Desired::Cancel, State::Cancelling);
        check(&["ok", "error", "ok"], Some(2), Desired::Run, State::Finalizing);
        check(&["ok", "error", "ok"], Some(3), Desired::Run, State::Completed);
        check(&["ok", "error", "ok"], None, Desired::Run, State::Completed);
        check(&["ok", "expired", "ok"], Some(3), Desired::Run, State::Expired);
        check(
            &["ok", "expired", "cancelled"],
            Some(3),
            Desired::Cancel,
            State::Cancelled,
        );
        check(&["ok", "ok", "ok"], Some(3), Desired::Cancel, State::Completed);
    }
}
