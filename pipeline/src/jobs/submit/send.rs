//! The second reading: batches to the broker, their rows to the store before them if they are Parquet.

use std::ops::ControlFlow;

use schemas::request::{Request, RequestBatch};
use tokio::sync::mpsc;

use super::input::{BatchLimits, Batcher, Item, each};
use super::parts::Parts;
use super::{Input, JobSpec, Plan, Sent, SubmitError};
use crate::jobs::columns::Row;
use crate::jobs::lines::Entry;
use crate::jobs::publish::Publisher;
use crate::settings::Settings;

/// Batches read ahead of the one that is sent.
const READ_AHEAD: usize = 2;

/// Sends every batch of the plan.
pub(super) async fn batches(
    settings: &Settings,
    spec: &JobSpec,
    input: &Input,
    plan: &Plan,
    parts: Option<&Parts>,
    publisher: &mut Publisher,
    mut progress: impl FnMut(Sent),
) -> Result<(), SubmitError> {
    let envelope = plan.envelope(settings, spec);
    let topic = settings.request_topic(spec.service_tier);
    let limits = BatchLimits::of(settings, spec, input)?;
    let line_bytes_max = settings.limits.message_bytes_max.get();
    let (outbox, mut inbox) = mpsc::channel(READ_AHEAD);
    let files = input.clone();
    let reading = tokio::task::spawn_blocking(move || read(&files, line_bytes_max, limits, &outbox));
    let (mut batch_seq, mut requests) = (0, 0);
    while let Some(batch) = inbox.recv().await {
        requests += batch.len() as u64;
        if batch_seq == plan.batch_count {
            return Err(changed(input));
        }
        let (lines, rows) = split(batch);
        let message = match parts {
            None => RequestBatch {
                batch_seq,
                requests: Some(lines),
                ..envelope.clone()
            },
            Some(parts) => RequestBatch {
                batch_seq,
                input: Some(parts.store(batch_seq, &rows).await?),
                ..envelope.clone()
            },
        };
        let payload = serde_json::to_vec(&message).expect("a batch is plain data");
        publisher.send(&topic, &message.dedup_key().to_hex(), &payload).await?;
        batch_seq += 1;
        progress(Sent {
            requests,
            requests_total: plan.requests_total,
        });
    }
    reading.await.expect("reading the input does not panic")?;
    if (batch_seq, requests) != (plan.batch_count, plan.requests_total) {
        return Err(changed(input));
    }
    Ok(())
}

/// Cuts the requests into batches as the first reading counted them.
fn read(
    input: &Input,
    line_bytes_max: usize,
    limits: BatchLimits,
    outbox: &mpsc::Sender<Vec<Item>>,
) -> Result<(), SubmitError> {
    let mut batcher = Batcher::new(limits);
    let mut batch = Vec::new();
    each(input, line_bytes_max, |_, item| {
        if batcher.begins(item.size()) && !batch.is_empty() && outbox.blocking_send(std::mem::take(&mut batch)).is_err()
        {
            return Ok(ControlFlow::Break(()));
        }
        batch.push(item);
        Ok(ControlFlow::Continue(()))
    })?;
    if !batch.is_empty() {
        // A receiver that is gone has failed already and says why.
        let _ = outbox.blocking_send(batch);
    }
    Ok(())
}

/// All of a batch are lines, or all are rows.
fn split(batch: Vec<Item>) -> (Vec<Request>, Vec<Row>) {
    let (mut requests, mut rows) = (Vec::new(), Vec::new());
    for item in batch {
        match item {
            Item::Entry(Entry { custom_id, body, .. }) => requests.push(Request { custom_id, body }),
            Item::Row(row) => rows.push(row),
        }
    }
    (requests, rows)
}

fn changed(input: &Input) -> SubmitError {
    let names: Vec<_> = input.files().iter().map(|file| file.display().to_string()).collect();
    SubmitError::Changed {
        files: names.join(", "),
    }
}
