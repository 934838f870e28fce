//! From the ledger's chunks to the tables: sealed side by side, applied in groups.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{ApplyDone, InCommit, Loop, RunError, SealDone};
use crate::chunk::PartitionId;
use crate::committer::CommitError;
use crate::ledger::{Flush, When};

/// How long to wait before trying something again that an outage stopped.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Loop {
    /// Sends due chunks on their way, and whatever is sealed into one commit of each table.
    pub(super) fn start_commits(&mut self) {
        let now = Instant::now();
        let give_up = now + self.limits.outage_max;
        let complete = self.complete();
        let flush = |partition: &PartitionId| Flush {
            limits: self.limits.flush,
            when: match partition {
                _ if self.careful.contains_key(partition) => When::Finished,
                _ if complete.contains(partition) => When::Complete,
                _ => When::Limits,
            },
        };
        for (chunk, permits) in self.ledger.due(now, flush) {
            let partition = chunk.partition.clone();
            let in_commit = InCommit {
                partition,
                rows: chunk.outcomes.len() as u64,
                _permits: permits,
            };
            let committer = self.committer.clone();
            self.seals.spawn(async move {
                let sealed = patiently(give_up, || committer.seal(&chunk)).await;
                (in_commit, sealed)
            });
        }
        if !self.sealed.is_empty() && self.applies.is_empty() {
            let group = std::mem::take(&mut self.sealed);
            let committer = self.committer.clone();
            self.applies.spawn(async move {
                let sealed: Vec<_> = group.iter().map(|(_, sealed)| sealed.clone()).collect();
                let applied = patiently(give_up, || committer.apply(&sealed)).await;
                (group, applied)
            });
        }
    }

    /// Partitions whose rows leave as soon as all of them are there: nothing more will come.
    fn complete(&self) -> BTreeSet<PartitionId> {
        let going = self.revocations.iter().flat_map(|revocation| &revocation.partitions);
        let read = self
            .ends
            .iter()
            .filter(|&(partition, &end)| self.ledger.reaches(partition, end));
        let mut complete: BTreeSet<_> = going
            .chain(&self.silent)
            .chain(read.map(|(partition, _)| partition))
            .cloned()
            .collect();
        if self.stop_by.is_some() {
            complete.extend(self.ledger.partitions().cloned());
        }
        complete
    }

    pub(super) fn on_sealed(&mut self, (in_commit, sealed): SealDone) -> Result<(), RunError> {
        self.sealed.push((in_commit, sealed.map_err(RunError::Commit)?));
        Ok(())
    }

    pub(super) fn on_applied(&mut self, (group, applied): ApplyDone) -> Result<(), RunError> {
        applied.map_err(RunError::Commit)?;
        for (InCommit { partition, rows, .. }, sealed) in group {
            if sealed.is_adopted() {
                // Their rows stand. What we have of this partition is of another past: read it again from their end.
                self.ledger.release(&partition);
                self.forget_dropped();
                self.source.reassign(&partition);
                continue;
            }
            self.ledger.committed(&partition);
            self.trust(&partition, sealed.to());
            self.source.committed(&partition, sealed.to());
            self.progress.send_modify(|progress| progress.rows_committed += rows);
        }
        Ok(())
    }
}

/// Tries until it works, fails for good, or `give_up` is past.
async fn patiently<T, F>(give_up: Instant, mut attempt: impl FnMut() -> F) -> Result<T, CommitError>
where
    F: Future<Output = Result<T, CommitError>>,
{
    loop {
        match attempt().await {
            Err(error) if error.is_transient() && Instant::now() < give_up => {
                tracing::warn!(%error, "the store is away; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            done => return done,
        }
    }
}
