//! From the ledger's chunks to the tables: sealed side by side, applied in groups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::patience::patiently;
use super::{ApplyDone, InCommit, Loop, RunError, SealDone};
use crate::chunk::PartitionId;
use crate::committer::CommitError;
use crate::ledger::{Flush, When};

impl Loop {
    /// Sends due chunks on their way, and whatever is sealed into one commit of each table.
    pub(super) fn start_commits(&mut self) {
        let now = Instant::now();
        let give_up = now + self.limits.outage_max;
        let (complete, full) = (self.complete(), self.full_topics());
        let flush = |partition: &PartitionId| Flush {
            limits: self.limits.flush,
            when: if self.careful.contains_key(partition) || full.contains(&partition.topic) {
                When::Finished
            } else if complete.contains(partition) {
                When::Complete
            } else {
                When::Limits
            },
        };
        for (chunk, permits) in self.ledger.due(now, flush) {
            let partition = chunk.partition.clone();
            self.in_commit.insert(partition.clone(), permits.len());
            let in_commit = InCommit {
                partition,
                rows: chunk.outcomes.len() as u64,
                _permits: permits,
            };
            let committer = self.committer.clone();
            self.seals.spawn(async move {
                let sealed = patiently(give_up, CommitError::is_transient, || committer.seal(&chunk)).await;
                (in_commit, sealed)
            });
        }
        if !self.sealed.is_empty() && self.applies.is_empty() {
            let group = std::mem::take(&mut self.sealed);
            let committer = self.committer.clone();
            self.applies.spawn(async move {
                let sealed: Vec<_> = group.iter().map(|(_, sealed)| sealed.clone()).collect();
                let applied = patiently(give_up, CommitError::is_transient, || committer.apply(&sealed)).await;
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
        let mut complete: BTreeSet<_> = going.chain(read.map(|(partition, _)| partition)).cloned().collect();
        if self.stop_by.is_some() {
            complete.extend(self.ledger.partitions().cloned());
        }
        complete
    }

    /// Topics that hold all of their permits: nothing more is read of them until rows leave.
    fn full_topics(&self) -> BTreeSet<String> {
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for partition in self.ledger.partitions() {
            *held.entry(&partition.topic).or_default() += self.ledger.in_flight(partition);
        }
        for (partition, messages) in &self.in_commit {
            *held.entry(&partition.topic).or_default() += messages;
        }
        // The reader keeps one permit at hand.
        let full = held
            .into_iter()
            .filter(|&(_, held)| held + 1 >= self.limits.in_flight_per_topic);
        full.map(|(topic, _)| topic.to_owned()).collect()
    }

    pub(super) fn on_sealed(&mut self, (in_commit, sealed): SealDone) -> Result<(), RunError> {
        match sealed {
            Ok(sealed) => self.sealed.push((in_commit, sealed)),
            Err(error) if self.ledger.has(&in_commit.partition) => return Err(RunError::Commit(error)),
            Err(error) => {
                tracing::warn!(partition = %in_commit.partition, %error, "not sealed; the next owner scores it again");
                self.in_commit.remove(&in_commit.partition);
            }
        }
        Ok(())
    }

    pub(super) fn on_applied(&mut self, (group, applied): ApplyDone) -> Result<(), RunError> {
        applied.map_err(RunError::Commit)?;
        for (InCommit { partition, rows, .. }, sealed) in group {
            self.in_commit.remove(&partition);
            if !self.ledger.has(&partition) {
                continue;
            }
            if sealed.is_adopted() {
                // Their rows stand. What we have of this partition is of another past: read it again from their end.
                self.forget(&partition);
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
