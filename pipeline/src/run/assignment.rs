//! How partitions come: once nothing of an earlier stay is on its way, they are recovered beside the loop.

use std::time::Instant;

use super::patience::patiently;
use super::{Assignment, Loop, RunError};
use crate::committer::{CommitError, Recovered};
use crate::source::PartitionEnds;

/// An assignment with what the tables know of each of its partitions.
pub(super) type RecoveryDone = (Assignment, Result<Vec<Recovered>, CommitError>);

impl Loop {
    /// Starts the recoveries that nothing stands in the way of.
    pub(super) fn start_recoveries(&mut self) {
        for assignment in std::mem::take(&mut self.assignments) {
            let mut partitions = assignment.partitions.iter().map(|ends| &ends.partition);
            if !self.releases.is_empty() || partitions.any(|partition| self.in_commit.contains_key(partition)) {
                self.assignments.push(assignment);
                continue;
            }
            let committer = self.committer.clone();
            let give_up = Instant::now() + self.limits.outage_max;
            self.recoveries.spawn(async move {
                let mut recovered = Vec::with_capacity(assignment.partitions.len());
                for ends in &assignment.partitions {
                    let recover = || committer.recover(&ends.partition);
                    match patiently(give_up, CommitError::is_transient, recover).await {
                        Ok(partition) => recovered.push(partition),
                        Err(error) => return (assignment, Err(error)),
                    }
                }
                (assignment, Ok(recovered))
            });
        }
    }

    pub(super) fn on_recovered(&mut self, (assignment, recovered): RecoveryDone) -> Result<(), RunError> {
        let recovered = recovered.map_err(RunError::Commit)?;
        let mut starts = Vec::with_capacity(recovered.len());
        for (ends, recovered) in assignment.partitions.iter().zip(recovered) {
            starts.push(self.assign(ends, recovered)?);
        }
        // A source that no longer waits is stopping.
        let _ = assignment.reply.send(starts);
        Ok(())
    }

    /// Takes a partition over and says where to read on: where the tables end.
    fn assign(&mut self, ends: &PartitionEnds, recovered: Recovered) -> Result<i64, RunError> {
        let PartitionEnds { partition, low, high } = ends.clone();
        match recovered.watermark {
            Some(watermark) if watermark < low => {
                return Err(RunError::Lost {
                    partition,
                    watermark,
                    low,
                });
            }
            Some(watermark) if watermark > high => {
                return Err(RunError::Recreated {
                    partition,
                    watermark,
                    high,
                });
            }
            _ => {}
        }
        let start = recovered.watermark.unwrap_or(low);
        tracing::info!(%partition, start, end = high, "partition assigned");
        // Of a partition never read, the first chunk covers from 0 whatever retention has left of it.
        self.ledger
            .assign(partition.clone(), recovered.watermark.unwrap_or(0), recovered.seen);
        self.take_carefully(&partition, start, recovered.deaths);
        self.untried.insert(partition);
        Ok(start)
    }
}
