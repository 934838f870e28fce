//! How partitions are let go, and how a run ends: drained, asked to stop, or both.

use std::time::{Duration, Instant};

use super::{Loop, RunError};
use crate::chunk::PartitionId;

/// How often the tables are asked about partitions that other workers drain.
const OTHERS_PERIOD: Duration = Duration::from_secs(2);
/// How long a run that ends waits for the store to take note of it.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

impl Loop {
    pub(super) fn on_stop(&mut self) {
        if self.stop_by.is_none() {
            tracing::info!(budget = ?self.limits.drain_budget, "stopping: finishing what is in flight");
            self.stop_by = Some(Instant::now() + self.limits.drain_budget);
        }
    }

    /// Lets go of revoked partitions whose time has come, then says whether the run is over.
    pub(super) async fn has_ended(&mut self) -> Result<bool, RunError> {
        let now = Instant::now();
        self.let_go(now).await;
        if let Some(stop_by) = self.stop_by {
            return Ok(self.has_stopped(now, stop_by));
        }
        if !self.limits.drain {
            return Ok(false);
        }
        self.look_at_targets(now).await?;
        Ok(self.targets.is_empty() && self.ledger.is_all_settled())
    }

    /// Answers revocations: when all is committed, or when the time is up.
    ///
    /// At the deadline unfinished work is dropped, and what is finished gets as long again to be committed.
    async fn let_go(&mut self, now: Instant) {
        let mut waiting = Vec::new();
        for mut revocation in std::mem::take(&mut self.revocations) {
            let settled = revocation
                .partitions
                .iter()
                .all(|partition| self.ledger.is_settled(partition));
            let late = now >= revocation.deadline;
            if settled || (late && revocation.cut) {
                for partition in &revocation.partitions {
                    self.release(partition).await;
                }
                self.forget_dropped();
                // A source that no longer waits is stopping.
                let _ = revocation.reply.send(());
                continue;
            }
            if late {
                for partition in &revocation.partitions {
                    self.ledger.drop_unfinished(partition);
                }
                self.forget_dropped();
                revocation.cut = true;
                revocation.deadline = now + self.limits.drain_budget;
            }
            waiting.push(revocation);
        }
        self.revocations = waiting;
    }

    /// Forgets a partition, in good order: the next owner need not suspect it.
    async fn release(&mut self, partition: &PartitionId) {
        self.ledger.release(partition);
        self.silent.remove(partition);
        self.careful.remove(partition);
        if let Err(error) = self.committer.release(partition).await {
            tracing::warn!(%partition, %error, "let go, but the next owner may be careful without need");
        }
    }

    /// Lets everything go: whatever ended the run, no message killed it.
    pub(super) async fn release_all(&mut self) {
        let partitions: Vec<_> = self.ledger.partitions().cloned().collect();
        let releases = async {
            for partition in partitions {
                self.release(&partition).await;
            }
        };
        if tokio::time::timeout(RELEASE_PATIENCE, releases).await.is_err() {
            tracing::warn!("the store does not answer; the next owners may be careful without need");
        }
    }

    fn has_stopped(&mut self, now: Instant, stop_by: Instant) -> bool {
        if self.ledger.is_all_settled() {
            return true;
        }
        if now >= stop_by && !self.stop_cut {
            tracing::warn!("the budget is spent: dropping unfinished work, to be done again by the next owner");
            let partitions: Vec<_> = self.ledger.partitions().cloned().collect();
            for partition in partitions {
                self.ledger.drop_unfinished(&partition);
            }
            self.forget_dropped();
            self.stop_cut = true;
        }
        now >= stop_by + self.limits.drain_budget
    }

    /// Drain mode: strikes out the partitions that are committed to their ends, by us or by others.
    async fn look_at_targets(&mut self, now: Instant) -> Result<(), RunError> {
        let (ledger, silent) = (&self.ledger, &self.silent);
        self.targets.retain(|partition, &mut end| {
            let committed = ledger.watermark(partition).is_some_and(|watermark| watermark >= end);
            // Control records before the end are no messages: a silent partition has been read all the same.
            let read = silent.contains(partition) && ledger.is_settled(partition);
            !(committed || read)
        });
        if now < self.others_checked + OTHERS_PERIOD {
            return Ok(());
        }
        self.others_checked = now;
        let others: Vec<_> = self
            .targets
            .keys()
            .filter(|partition| self.ledger.watermark(partition).is_none())
            .cloned()
            .collect();
        let watermarks = self.committer.watermarks(&others).await.map_err(RunError::Commit)?;
        for (partition, watermark) in others.iter().zip(watermarks) {
            if watermark >= self.targets[partition] {
                self.targets.remove(partition);
            }
        }
        Ok(())
    }
}
