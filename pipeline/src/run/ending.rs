//! How partitions are let go, and how a run ends: drained, asked to stop, or both.

use std::time::{Duration, Instant};

use super::patience::patiently;
use super::{Loop, RunError};
use crate::chunk::PartitionId;
use crate::committer::CommitError;

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
    pub(super) fn has_ended(&mut self) -> bool {
        let now = Instant::now();
        self.let_go(now);
        if let Some(stop_by) = self.stop_by {
            return self.has_stopped(now, stop_by);
        }
        if !self.limits.drain {
            return false;
        }
        self.look_at_targets(now);
        self.targets.is_empty() && self.ledger.is_all_settled()
    }

    /// Answers revocations: when all is committed, or when the time is up.
    ///
    /// At the deadline unfinished work is dropped, and what is finished gets as long again to be committed.
    fn let_go(&mut self, now: Instant) {
        let mut waiting = Vec::new();
        for mut revocation in std::mem::take(&mut self.revocations) {
            let settled = revocation
                .partitions
                .iter()
                .all(|partition| self.ledger.is_settled(partition));
            let late = now >= revocation.deadline;
            if settled || (late && revocation.cut) {
                for partition in &revocation.partitions {
                    self.release(partition);
                }
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

    /// Forgets what is in flight of a partition.
    pub(super) fn forget(&mut self, partition: &PartitionId) {
        self.ledger.release(partition);
        self.careful.remove(partition);
        self.untried.remove(partition);
        self.noting.remove(partition);
        self.forget_dropped();
    }

    /// Lets a partition go in good order: the next owner need not suspect it.
    fn release(&mut self, partition: &PartitionId) {
        self.forget(partition);
        if self.in_commit.contains_key(partition) {
            return;
        }
        let (committer, partition) = (self.committer.clone(), partition.clone());
        self.releases.spawn(async move {
            if let Err(error) = committer.release(&partition).await {
                tracing::warn!(%partition, %error, "let go, but the next owner may be careful without need");
            }
        });
    }

    /// Lets everything go: whatever ended the run, no message killed it.
    pub(super) async fn release_all(&mut self) {
        let partitions: Vec<_> = self.ledger.partitions().cloned().collect();
        for partition in partitions {
            self.release(&partition);
        }
        let releases = std::mem::take(&mut self.releases);
        if tokio::time::timeout(RELEASE_PATIENCE, releases.join_all())
            .await
            .is_err()
        {
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
    fn look_at_targets(&mut self, now: Instant) {
        let ledger = &self.ledger;
        self.targets
            .retain(|partition, &mut end| ledger.watermark(partition).is_none_or(|watermark| watermark < end));
        if now < self.others_checked + OTHERS_PERIOD || !self.others.is_empty() {
            return;
        }
        let others: Vec<_> = self
            .targets
            .keys()
            .filter(|partition| !ledger.has(partition))
            .cloned()
            .collect();
        if !others.is_empty() {
            let committer = self.committer.clone();
            let give_up = now + self.limits.outage_max;
            self.others.spawn(async move {
                let ask = || committer.watermarks(&others);
                let watermarks = patiently(give_up, CommitError::is_transient, ask).await?;
                Ok(others.into_iter().zip(watermarks).collect())
            });
        }
    }

    pub(super) fn on_others(
        &mut self,
        watermarks: Result<Vec<(PartitionId, i64)>, CommitError>,
    ) -> Result<(), RunError> {
        self.others_checked = Instant::now();
        for (partition, watermark) in watermarks.map_err(RunError::Commit)? {
            if self.targets.get(&partition).is_some_and(|&end| watermark >= end) {
                self.targets.remove(&partition);
            }
        }
        Ok(())
    }
}
