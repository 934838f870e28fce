//! From a delivery to filled ledger slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::JobId;
use jiff::Timestamp;
use rdkafka::error::KafkaError;
use schemas::ids::{CustomId, Position};
use schemas::result::Status;

use super::patience::patiently;
use super::{Assignment, Loop, Origin, Revocation, RunError, Running, Unread};
use crate::admit::{Admission, AdmitError, Admitted, Context, Verdict, priority_of};
use crate::chunk::PartitionId;
use crate::dead_letter::DeadLetter;
use crate::ledger::SlotId;
use crate::settle::End;
use crate::source::{Delivery, SourceEvent};
use crate::worker::{News, Order};

impl Loop {
    pub(super) fn on_source(&mut self, event: SourceEvent) -> Result<(), RunError> {
        match event {
            SourceEvent::Assigned { partitions, reply } => {
                for ends in &partitions {
                    self.forget(&ends.partition);
                }
                self.assignments.push(Assignment { partitions, reply });
            }
            SourceEvent::Revoked {
                partitions,
                lost,
                reply,
            } => {
                tracing::info!(partitions = partitions.len(), lost, "partitions revoked");
                let budget = if lost { Duration::ZERO } else { self.limits.drain_budget };
                let deadline = Instant::now() + budget;
                self.revocations.push(Revocation {
                    partitions,
                    reply,
                    deadline,
                    cut: lost,
                });
            }
            SourceEvent::Delivery(delivery) => self.on_delivery(*delivery),
            SourceEvent::AtEnd(partition, end) => self.on_end(&partition, end),
            SourceEvent::Failed(error) => return Err(RunError::Source(error)),
        }
        Ok(())
    }

    /// What was read to its end has no messages before it that did not come.
    fn on_end(&mut self, partition: &PartitionId, end: i64) {
        // What lies behind a draining worker's targets was not taken, and is left to the next run.
        let end = if self.limits.drain {
            end.min(self.ends.get(partition).copied().unwrap_or(0))
        } else {
            end
        };
        if self.stop_by.is_none() {
            self.ledger.skip_to(partition, end, Instant::now());
        }
    }

    fn on_delivery(&mut self, delivery: Delivery) {
        let Delivery {
            partition,
            offset,
            content,
            raw,
            permit,
        } = delivery;
        if self.stop_by.is_some() {
            return;
        }
        let end = self.ends.get(&partition).copied().unwrap_or(0);
        if self.limits.drain && offset >= end {
            // Messages come in order: before this one there is none left that we want.
            return self.ledger.skip_to(&partition, end, Instant::now());
        }
        let Some(slot) = self.ledger.reserve(&partition, offset, permit) else {
            return;
        };
        let position = Position {
            topic: partition.topic.clone(),
            epoch: partition.epoch,
            partition: partition.partition,
            offset,
        };
        match content {
            Ok(batch) => {
                let repeats = self.ledger.first_delivery(slot, batch.dedup_key());
                let origin = Origin { slot, position, raw };
                self.take(&partition, Unread { origin, batch, repeats });
            }
            Err(error) => self.send_dead_letter(Origin { slot, position, raw }, error, 1),
        }
    }

    pub(super) fn send_dead_letter(&mut self, origin: Origin, error: String, attempts: u32) {
        let Origin { slot, position, raw } = origin;
        tracing::warn!(
            topic = position.topic,
            partition = position.partition,
            offset = position.offset,
            error,
            "dead letter"
        );
        let dead_letters = self.dead_letters.clone();
        let give_up = Instant::now() + self.limits.outage_max;
        self.dead.spawn(async move {
            let send = || async {
                let letter = DeadLetter {
                    position: &position,
                    message: &raw,
                    error: &error,
                    attempts,
                    failed_at: Timestamp::now(),
                };
                dead_letters.send(&letter).await
            };
            let sent = patiently(give_up, |_| true, send).await;
            (slot, sent)
        });
    }

    pub(super) fn on_dead_letter(&mut self, slot: SlotId, sent: Result<(), KafkaError>) -> Result<(), RunError> {
        if !self.ledger.holds(slot) {
            return Ok(());
        }
        let outage_max = self.limits.outage_max;
        sent.map_err(|source| RunError::DeadLetter { outage_max, source })?;
        self.ledger.fill_dead_letter(slot, Instant::now());
        self.progress.send_modify(|progress| progress.dead_letters += 1);
        Ok(())
    }

    /// Takes further messages apart, interactive ones first, within the bounds.
    pub(super) fn start_admissions(&mut self) {
        self.release_held();
        while self.admissions.len() < self.limits.admissions_max
            && self.running.len() < self.limits.requests_in_flight_max
        {
            let Some(next) = self.unread.values_mut().find_map(|lane| lane.pop_front()) else {
                return;
            };
            if self.ledger.holds(next.origin.slot) {
                let admission = self.admission.clone();
                let give_up = Instant::now() + self.limits.outage_max;
                self.admissions.spawn(admit(admission, next, give_up));
            }
        }
    }

    pub(super) fn on_admitted(
        &mut self,
        origin: Origin,
        admitted: Result<Admitted, AdmitError>,
    ) -> Result<(), RunError> {
        if !self.ledger.holds(origin.slot) {
            return Ok(());
        }
        let Admitted { context, rows } = match admitted {
            Ok(admitted) => admitted,
            Err(AdmitError::Outage(source)) => {
                return Err(RunError::Input {
                    outage_max: self.limits.outage_max,
                    source,
                });
            }
            Err(AdmitError::DeadLetter(error)) => {
                self.send_dead_letter(origin, error.to_string(), 1);
                return Ok(());
            }
        };
        let slot = origin.slot;
        self.ledger.expect_rows(slot, rows.len(), Instant::now());
        for (row, (custom_id, verdict)) in (0..).zip(rows) {
            let end = match verdict {
                Verdict::Run(job) => {
                    self.submit(
                        Running {
                            slot,
                            row,
                            custom_id,
                            context: context.clone(),
                            first_token_at: None,
                        },
                        job,
                    );
                    continue;
                }
                Verdict::Refuse(error) => End::Refused(error),
                Verdict::Expire => End::Expired,
                Verdict::Repeat(offset) => End::Repeated(offset),
                Verdict::RepeatInBatch(error) => End::RepeatedInBatch(error),
            };
            self.settle(slot, row, custom_id, &context, end)?;
        }
        Ok(())
    }

    fn submit(&mut self, running: Running, job: Box<engine::Job>) {
        let id = JobId(self.next_job);
        self.next_job += 1;
        let context = &running.context;
        let model = context.model.clone().expect("only a batch with a model has jobs");
        let priority = priority_of(context.batch.service_tier);
        if let Some(deadline) = context.batch.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.running.insert(id, running);
        self.outbox.push_back(Order::Submit {
            id,
            model,
            job,
            priority,
        });
    }

    pub(super) fn on_news(&mut self, news: News) -> Result<(), RunError> {
        match news {
            News::FirstToken(id) => {
                if let Some(running) = self.running.get_mut(&id) {
                    running.first_token_at = Some(Timestamp::now());
                }
                Ok(())
            }
            News::Finished(id, completion) => self.end(id, |running| End::Answered {
                completion,
                first_token_at: running.first_token_at,
            }),
            News::Refused(id, error) => self.end(id, |_| End::Refused(error)),
            News::Step { tokens, sequences } => {
                let requests_in_flight = self.running.len();
                self.progress.send_modify(|progress| {
                    progress.tokens += tokens as u64;
                    progress.steps += 1;
                    progress.sequences += sequences as u64;
                    progress.batch_sequences = sequences;
                    progress.requests_in_flight = requests_in_flight;
                });
                Ok(())
            }
            News::Broken(error) => Err(RunError::Engine(error)),
        }
    }

    /// Ends what the engine had, unless it was dropped meanwhile.
    fn end(&mut self, id: JobId, end: impl FnOnce(&Running) -> End) -> Result<(), RunError> {
        let Some(running) = self.running.remove(&id) else {
            return Ok(());
        };
        if let Some(deadline) = running.context.batch.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        let end = end(&running);
        let Running {
            slot,
            row,
            custom_id,
            context,
            ..
        } = running;
        self.settle(slot, row, custom_id, &context, end)
    }

    fn settle(
        &mut self,
        slot: SlotId,
        row: u32,
        custom_id: CustomId,
        context: &Arc<Context>,
        end: End,
    ) -> Result<(), RunError> {
        let outcome = self
            .settler
            .settle(context, row, custom_id, end, Timestamp::now())
            .map_err(RunError::Rate)?;
        let failed = outcome.result.status != Status::Ok;
        if self.ledger.fill(slot, row as usize, outcome, Instant::now()) {
            self.progress.send_modify(|progress| {
                progress.rows_ended += 1;
                progress.rows_failed += u64::from(failed);
            });
        }
        Ok(())
    }

    /// Ends what is past its deadline.
    pub(super) fn expire(&mut self, now: Timestamp) -> Result<(), RunError> {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.outbox.push_back(Order::Cancel(id));
            self.end(id, |_| End::Expired)?;
        }
        Ok(())
    }

    /// Takes from the engine what nobody waits for any more.
    pub(super) fn forget_dropped(&mut self) {
        let ledger = &self.ledger;
        let gone = self.running.extract_if(|_, running| !ledger.holds(running.slot));
        for (id, running) in gone {
            if let Some(deadline) = running.context.batch.deadline {
                self.deadlines.remove(&(deadline, id));
            }
            self.outbox.push_back(Order::Cancel(id));
        }
    }
}

/// Admits one message, trying again while the store is away.
async fn admit(admission: Admission, read: Unread, give_up: Instant) -> (Origin, Result<Admitted, AdmitError>) {
    let Unread { origin, batch, repeats } = read;
    // Only a claim check can meet an outage, and it is small to keep.
    let again = batch.input.is_some().then(|| batch.clone());
    let mut first = Some(batch);
    let attempt = || {
        let batch = first
            .take()
            .or_else(|| again.clone())
            .expect("an inline batch is admitted at once");
        admission.admit(batch, origin.position.clone(), repeats, Timestamp::now())
    };
    let admitted = patiently(give_up, |error| matches!(error, AdmitError::Outage(_)), attempt).await;
    (origin, admitted)
}
